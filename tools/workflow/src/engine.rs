//! What the tools and the handlers do, in one transaction each, on the rules of [`scheduler`](crate::scheduler) and the tables of [`store`](crate::store).

mod arguments;
mod builds;
mod control;
mod job;
mod outlook;
pub(crate) mod place;
pub mod rehearsal;
mod retention;
mod submission;
mod upkeep;
mod wait;
mod work;

use mcpp_tool::{
    changed,
    environment::id,
    store::{StoreError, Transaction, View},
};
use serde_json::json;

pub use self::{
    control::{ForkRequest, cancel, fork, give, give_token, pause, resume, retry},
    job::Job,
    outlook::{GRACE_MS, Next, next_event, next_of},
    retention::KEEP_MS,
    submission::{Copied, Draft, MAX_INPUT_BYTES, VisibleTools, submit},
    upkeep::wake,
    wait::{answer, forms},
    work::work,
};
use crate::{
    run::{Phase, Run},
    scheduler,
    store::{BLOCKED, RUNS, StoredNodes},
    validate::Problem,
};

pub use crate::store::MAX_RESULT_BYTES;

/// Nodes that one transaction goes on with.
const FOLLOWED: u32 = 50;
/// Runs that one transaction tells of the end of another.
const TOLD: usize = 16;
/// Handlers that one transaction calls for: as many as the host runs for a component at once.
const MAX_CALLED: u32 = 16;
/// How many events may follow each other before a timer begins another chain. The host stops a chain at 17.
const MAX_HOPS: u32 = 10;

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WorkflowError {
    /// There is no such run.
    #[error("Workflow {0} not found")]
    NoRun(String),
    /// The run is not where that can be done.
    #[error("{0}")]
    Refused(String),
    /// Something given is not legal.
    #[error("{0}")]
    Invalid(String),
    /// The definition is wrong.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The store refuses it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// By whom a transaction is made, which decides how handlers are called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client: an event begins a chain.
    Client,
    /// A handler that stands so far in a chain of events.
    Handler(u32),
    /// A handler that may stand anywhere in a chain that others began: a timer begins another.
    Unknown,
}

/// The run of this id.
pub fn find(t: &View<'_>, id: &str) -> Result<Run, WorkflowError> {
    let found = if submission::is_id(id) { RUNS.get(t, id)? } else { None };
    found.ok_or_else(|| WorkflowError::NoRun(id.chars().take(submission::MAX_ID_BYTES).collect()))
}

/// Goes on with a run that has changed, stores it, and calls for handlers for `woken` nodes and those that are ready now.
fn go_on(t: &Transaction<'_>, mut run: Run, mut nodes: StoredNodes<'_, '_>, now_ms: u64) -> Result<u32, WorkflowError> {
    let was_final = run.phase.is_final();
    let mut is_done = scheduler::follow(&mut run, &mut nodes, FOLLOWED, now_ms)?;
    if run.paused_ms.is_none() && run.phase != Phase::Blocked {
        is_done &= scheduler::resume(&mut run, &mut nodes, FOLLOWED, now_ms)?;
    }
    if !is_done {
        t.wake_at(&format!("r:{}", run.id), now_ms, b"")?;
    }
    RUNS.put(t, &run.id.clone(), &run)?;
    if run.phase.is_final() && !was_final {
        builds::ended(t, &run, now_ms)?;
        let ended = json!({ "workflow_id": run.id, "status": run.status(), "name": run.name });
        t.emit("run", &run.id, ended.to_string().as_bytes())?;
        changed::updated(&run.uri("status"));
        // In a transaction of their own: a long chain of runs would be too much for this one.
        if !BLOCKED.of(&run.id).is_empty(t)? {
            t.wake_at(&format!("d:{}", run.id), now_ms, b"")?;
        }
    }
    Ok(nodes.woken)
}

/// Tells runs that wait for this one that it has ended; the timer tells those that are left, and those that wait for them.
fn tell_blocked(t: &Transaction<'_>, ended: &Run, origin: Origin, now_ms: u64) -> Result<(), WorkflowError> {
    let blocked: Vec<String> = BLOCKED.of(&ended.id).most(TOLD).collect(t)?;
    if blocked.len() == TOLD {
        t.wake_at(&format!("d:{}", ended.id), now_ms, b"")?;
    }
    for id in blocked {
        let mut run = find(t, &id)?;
        run.waits_for.retain(|other| *other != ended.id);
        if run.phase == Phase::Blocked && ended.phase != Phase::Completed {
            run.waits_for.clear();
            run.phase = Phase::Running;
            scheduler::cancel(&mut run, &format!("workflow {} {}", ended.id, ended.status()), false);
        } else if run.waits_for.is_empty() && run.phase == Phase::Blocked {
            run.phase = Phase::Running;
        }
        let nodes = StoredNodes::new(t, &id);
        let woken = go_on(t, run, nodes, now_ms)?;
        call_for(t, woken, origin, now_ms)?;
    }
    Ok(())
}

/// Calls for handlers, one for each of `count` nodes that are ready now, up to as many as run at once.
fn call_for(t: &Transaction<'_>, count: u32, origin: Origin, now_ms: u64) -> Result<(), StoreError> {
    for _ in 0..count.min(MAX_CALLED) {
        // Events of one key wait for each other, and a timer takes the place of one with its key.
        let key = format!("w:{}", id());
        match origin {
            Origin::Client => t.emit("ready", &key, b"1")?,
            Origin::Handler(hops) if hops < MAX_HOPS => {
                t.emit("ready", &key, hops.saturating_add(1).to_string().as_bytes())?
            }
            Origin::Handler(_) | Origin::Unknown => {
                t.wake_at(&key, now_ms, b"")?;
                String::new()
            }
        };
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
