//! What the tools and the handlers do, in one transaction each, on the rules of [`scheduler`](crate::scheduler) and the tables of [`store`](crate::store).

mod arguments;
mod at_once;
mod builds;
pub mod cache;
mod control;
mod event;
mod job;
mod keys;
mod outlook;
pub(crate) mod place;
pub mod rehearsal;
mod retention;
mod room;
mod submission;
mod task;
mod upkeep;
mod wait;
mod work;

use std::collections::VecDeque;

use mcpp_tool::{
    changed,
    environment::id,
    store::{StoreError, Transaction, View},
};

pub(crate) use self::builds::named_builds;
pub use self::{
    control::{ForkRequest, cancel, fork, give, give_token, pause, resume, retry},
    event::{Heard, hear, is_told, refusal as event_refusal},
    job::Job,
    outlook::{GRACE_MS, Next, next_event, next_of},
    retention::{KEEP_MS, delete},
    room::leave_reserve,
    submission::{Copied, Draft, MAX_INPUT_BYTES, VisibleTools, submit},
    upkeep::wake,
    wait::{answer, forms},
    work::work,
};
use crate::{
    run::{Phase, Run},
    scheduler,
    store::{BLOCKED, RUNS, StoredNodes, stored_run},
    validate::Problem,
};

pub use crate::store::MAX_RESULT_BYTES;

/// Nodes that one transaction goes on with.
const FOLLOWED: u32 = 50;
/// Runs that one transaction tells of the ends of others.
const TOLD: usize = 16;
/// Bytes that a transaction has read and written when it tells no more runs: a sixteenth of what a call may.
const TOLD_BYTES: u64 = 4 << 20;
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
    /// The store has no room for a new run but the reserve.
    #[error(
        "the store of workflows is full: this must leave the last {kept_bytes} of its {quota_bytes} bytes to the ends of the runs that there are. \
         Remove runs that have ended with `workflow_delete` or `workflow_bulk`, or have the operator raise `quota_bytes` of the grant"
    )]
    Full {
        /// The quota.
        quota_bytes: u64,
        /// The reserve.
        kept_bytes: u64,
    },
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
    let found = if submission::is_id(id) { stored_run(t, id)? } else { None };
    found.ok_or_else(|| WorkflowError::NoRun(id.chars().take(submission::MAX_ID_BYTES).collect()))
}

/// What going on with a run came to.
struct Followed {
    /// How many of its nodes became ready.
    woken: u32,
    /// Keys of timers that see to what is left for other transactions.
    left: Vec<String>,
    /// The run, if it has ended by that.
    ended: Option<Run>,
}

/// Goes on with a run that has changed, stores it, and tells the runs that wait for its end.
fn go_on(
    t: &Transaction<'_>,
    run: Run,
    nodes: StoredNodes<'_, '_>,
    origin: Origin,
    now_ms: u64,
) -> Result<Followed, WorkflowError> {
    let mut followed = go_on_alone(t, run, nodes, now_ms)?;
    if let Some(ended) = followed.ended.take() {
        followed.left.extend(tell_blocked(t, ended, origin, now_ms)?);
    }
    Ok(followed)
}

/// Goes on with what follows from nodes that have ended, and with those that a pause held back; whether all is done.
fn follow(run: &mut Run, nodes: &mut StoredNodes<'_, '_>, now_ms: u64) -> Result<bool, WorkflowError> {
    let mut is_done = scheduler::follow(run, nodes, FOLLOWED, now_ms)?;
    if run.paused_ms.is_none() && run.phase != Phase::Blocked {
        is_done &= scheduler::resume(run, nodes, FOLLOWED, now_ms)?;
    }
    Ok(is_done)
}

/// Goes on with a run that has changed, and stores it.
fn go_on_alone(
    t: &Transaction<'_>,
    mut run: Run,
    mut nodes: StoredNodes<'_, '_>,
    now_ms: u64,
) -> Result<Followed, WorkflowError> {
    let was_final = run.phase.is_final();
    let mut is_done = follow(&mut run, &mut nodes, now_ms)?;
    if at_once::begin(t, &mut run, &mut nodes, now_ms)? {
        // Some may have had what they wait for.
        is_done = follow(&mut run, &mut nodes, now_ms)?;
    }
    let mut left = Vec::new();
    if !is_done {
        left.push(format!("r:{}", run.id));
        t.wake_at(&format!("r:{}", run.id), now_ms, b"")?;
    }
    RUNS.put(t, &run.id.clone(), &run)?;
    let woken = nodes.woken.saturating_add(keys::let_on_all(t, &nodes.touched, now_ms)?);
    if !run.phase.is_final() || was_final {
        return Ok(Followed { woken, left, ended: None });
    }
    builds::ended(t, &run, now_ms)?;
    event::emit_end(t, &run, now_ms)?;
    changed::updated(&run.uri("status"));
    Ok(Followed { woken, left, ended: Some(run) })
}

/// Tells runs that wait for this one that it has ended, and those that wait for one which ends by that. Timers tell those for whom the transaction has no room; their
/// keys.
fn tell_blocked(t: &Transaction<'_>, ended: Run, origin: Origin, now_ms: u64) -> Result<Vec<String>, WorkflowError> {
    let (mut all, mut told, mut left) = (VecDeque::from([ended]), 0_usize, Vec::new());
    while let Some(ended) = all.pop_front() {
        let room = if t.spent().bytes < TOLD_BYTES { TOLD.saturating_sub(told) } else { 0 };
        // One more than there is room for, so that it is known whether there is one.
        let mut blocked: Vec<String> = BLOCKED.of(&ended.id).most(room.saturating_add(1)).collect(t)?;
        if blocked.len() > room {
            blocked.truncate(room);
            left.push(format!("d:{}", ended.id));
            t.wake_at(&format!("d:{}", ended.id), now_ms, b"")?;
        }
        told = told.saturating_add(blocked.len());
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
            let followed = go_on_alone(t, run, nodes, now_ms)?;
            call_for(t, followed.woken, origin, now_ms)?;
            left.extend(followed.left);
            all.extend(followed.ended);
        }
    }
    Ok(left)
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
