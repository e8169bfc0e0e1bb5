//! The engine of the tools, on the rules of [`rules`](crate::rules) and the tables of [`queue`](crate::queue): what happens in one transaction each.

mod batch;
mod bulk;
mod claims;
mod ends;
mod ids;
mod interchange;
mod peers;
mod position;
mod reserve;
mod shares;
mod submission;
mod turns;
mod unique;
mod upkeep;
mod waiting;
mod workers;

use std::slice;

use mcpp_tool::store::{StoreError, Transaction, View};
use serde_json::Value;

pub use self::{
    batch::each,
    bulk::{Action, Bulk, Filter, bulk, bulk_of, bulks, clear, stop as stop_bulk},
    claims::{ClaimRequest, MAX_CLAIMED, claim, claim_many},
    ends::{Completion, end_all},
    ids::{MAX_ID_BYTES, MAX_SUBMITTED_ID_BYTES, check_name, is_id},
    interchange::{Traveller, export, take_in_each},
    peers::{PEER_TIMEOUT_MS, clock, heartbeat, peers},
    position::{position, positions},
    reserve::{Part, Shortage},
    submission::{
        Draft, MAX_DEPENDENCIES, MAX_NOTES_BYTES, MAX_PAYLOAD_BYTES, Submission, Submitter, retry, submit, submit_all,
        submit_each,
    },
    turns::{Limit, Overflow, in_line, limit, set_limit},
    upkeep::{look_after, wake},
    waiting::claim_or_wait,
    workers::{Left, MAX_WORKER_BYTES, all_workers, find_worker, register, unregister},
};
pub(crate) use self::{bulk::adopt, reserve::within, upkeep::UPKEEP, waiting::ring_all, workers::has};
use crate::{
    queue::{self, DEPENDENTS},
    record::{LogLine, MAX_RECORD_BYTES, State, Status, Task},
    rules::{self, Claim, Outcome, Refused},
};

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QueueError {
    /// There is no such task.
    #[error("task {0:?} not found")]
    NoTask(String),
    /// There is no such worker.
    #[error("worker {0:?} not found")]
    NoWorker(String),
    /// The id or idempotency key belongs to other work.
    #[error("{0:?} was submitted before with other work")]
    OtherWork(String),
    /// Its unique key has another task now.
    #[error("the unique key has the task {0:?} now")]
    NotUnique(String),
    /// The caller, or all callers together, have as much as they may.
    #[error("{0}")]
    Share(String),
    /// The store has no room for it but the reserve.
    #[error("{0}")]
    Full(Shortage),
    /// Something given is not legal.
    #[error("{0}")]
    Invalid(String),
    /// The rules refuse it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store refuses it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The task of this id.
pub fn find(t: &View<'_>, id: &str) -> Result<Task, QueueError> {
    let found = if is_id(id) { queue::find(t, id)? } else { None };
    found.ok_or_else(|| no_task(id))
}

/// The same, for a task that the caller changes.
fn find_to_change(t: &Transaction<'_>, id: &str) -> Result<Task, QueueError> {
    let found = if is_id(id) { queue::find_to_change(t, id)? } else { None };
    found.ok_or_else(|| no_task(id))
}

fn no_task(id: &str) -> QueueError {
    QueueError::NoTask(id.chars().take(MAX_ID_BYTES).collect())
}

/// Changes a task by a rule and stores it, with the changes that follow for tasks that depend on it. Gives the task before, the task after, and the rule's answer.
fn change<T>(
    t: &Transaction<'_>,
    id: &str,
    now_ms: u64,
    rule: impl FnOnce(&mut Task) -> Result<T, Refused>,
) -> Result<(Task, Task, T), QueueError> {
    let before = find_to_change(t, id)?;
    let mut after = before.clone();
    let answer = rule(&mut after)?;
    store(t, &before, &after, now_ms)?;
    Ok((before, after, answer))
}

/// The same, by a rule that adds what a client gives: as much as leaves room for what the queue itself adds.
fn add(
    t: &Transaction<'_>,
    id: &str,
    now_ms: u64,
    rule: impl FnOnce(&mut Task) -> Result<(), Refused>,
) -> Result<Task, QueueError> {
    let before = find_to_change(t, id)?;
    let mut after = before.clone();
    rule(&mut after)?;
    let bytes = after.bytes();
    if bytes > MAX_RECORD_BYTES && bytes > before.bytes() {
        return Err(QueueError::Invalid(format!(
            "payload, result, progress, error and log of the task would have {bytes} bytes together; {MAX_RECORD_BYTES} are allowed"
        )));
    }
    store(t, &before, &after, now_ms)?;
    Ok(after)
}

/// A reason as far as it is kept.
fn kept(reason: &str) -> String {
    const MAX_REASON_CHARS: usize = 1_000;
    reason.chars().take(MAX_REASON_CHARS).collect()
}

/// Stores what has become of a task (none for one that is forgotten), and lets the next one of its key have its turn.
fn save(t: &Transaction<'_>, before: Option<&Task>, after: Option<&Task>, now_ms: u64) -> Result<(), QueueError> {
    queue::save(t, before, after, now_ms)?;
    if let (Some(forgotten), None) = (before, after) {
        unique::forget(t, forgotten)?;
    }
    match after.or(before).and_then(|task| task.spec.line()) {
        Some(line) => turns::admit(t, line, now_ms),
        None => Ok(()),
    }
}

/// Stores a task that has changed, sees to it that the timer wakes when something is due with it, and tells those that wait for it or for work.
fn store(t: &Transaction<'_>, before: &Task, after: &Task, now_ms: u64) -> Result<(), QueueError> {
    keep(t, before, after, now_ms)?;
    if after.status().is_final() && !before.status().is_final() {
        upkeep::tell_dependents(t, &after.id, after.status() == Status::Completed, now_ms)?;
    }
    Ok(())
}

/// The same without telling those that wait for the task.
fn keep(t: &Transaction<'_>, before: &Task, after: &Task, now_ms: u64) -> Result<(), QueueError> {
    save(t, Some(before), Some(after), now_ms)?;
    if before.state != State::Ready {
        waiting::ring(t, slice::from_ref(after), now_ms)?;
    }
    Ok(upkeep::plan(t, slice::from_ref(after), now_ms)?)
}

/// Ends an attempt.
pub fn finish(
    t: &Transaction<'_>,
    id: &str,
    by: Claim<'_>,
    outcome: Outcome,
    now_ms: u64,
    chance: f64,
) -> Result<Task, QueueError> {
    add(t, id, now_ms, |task| rules::finish(task, by, outcome, now_ms, chance))
}

/// A sign of life of a worker that has a task; when its lease ends now.
pub fn renew(t: &Transaction<'_>, id: &str, by: Claim<'_>, now_ms: u64) -> Result<u64, QueueError> {
    change(t, id, now_ms, |task| rules::renew(task, by, now_ms)).map(|(_, _, until)| until)
}

/// Gives a task back.
pub fn release(t: &Transaction<'_>, id: &str, by: Claim<'_>, reason: &str, now_ms: u64) -> Result<Task, QueueError> {
    change(t, id, now_ms, |task| rules::release(task, by, &kept(reason), now_ms)).map(|(_, task, ())| task)
}

/// Cancels a task. Gives the task before, and the task after.
pub fn cancel(
    t: &Transaction<'_>,
    id: &str,
    reason: &str,
    force: bool,
    now_ms: u64,
) -> Result<(Task, Task), QueueError> {
    change(t, id, now_ms, |task| rules::cancel(task, &kept(reason), force, now_ms))
        .map(|(before, after, ())| (before, after))
}

/// Notes progress and log of a running task, where the store has room beside what the ends of tasks need.
pub fn report(
    t: &Transaction<'_>,
    id: &str,
    by: Claim<'_>,
    progress: Option<Value>,
    lines: Vec<LogLine>,
    now_ms: u64,
) -> Result<Task, QueueError> {
    within(t, Part::Results, || add(t, id, now_ms, |task| rules::report(task, by, progress, lines, now_ms)))
}

/// Gives a task that has not ended another priority; with `requeue` it goes behind those that have it already. The priority before, and the task after.
pub fn set_priority(
    t: &Transaction<'_>,
    id: &str,
    priority: f64,
    requeue: bool,
    now_ms: u64,
) -> Result<(f64, Task), QueueError> {
    if !priority.is_finite() {
        return Err(QueueError::Invalid("new_priority must be a finite number".into()));
    }
    let (before, after, ()) = change(t, id, now_ms, |task| rules::set_priority(task, priority, requeue, now_ms))?;
    Ok((before.spec.priority, after))
}

/// Whether anything waits for a task that is to be forgotten.
pub(crate) fn is_waited_for(t: &View<'_>, id: &str) -> Result<bool, StoreError> {
    Ok(!DEPENDENTS.of(id).is_empty(t)?)
}

#[cfg(test)]
pub(crate) use self::waiting::{arm as note_waiting, count as waiting_count};
#[cfg(test)]
mod tests;
