//! The engine of the tools, on the rules of [`rules`](crate::rules) and the records and indexes of [`queue`](crate::queue).

mod alarm;
mod bites;
mod claims;
mod clearing;
mod ids;
mod submission;
mod upkeep;

use mcpp_tool::store::{Order, Read, StoreError, Write};
use serde_json::Value;

pub use self::{
    claims::{ClaimRequest, PEER_TIMEOUT_MS, claim, clock, heartbeat, peers},
    clearing::{Cleared, Clearing, clear, clearing},
    ids::{MAX_ID_BYTES, MAX_SUBMITTED_ID_BYTES, check_name, is_id},
    submission::{MAX_DEPENDENCIES, MAX_NOTES_BYTES, MAX_PAYLOAD_BYTES, Submission, retry, submit},
    upkeep::{look_after, wake},
};
use crate::{
    queue::{DEPENDENTS, HELD, TASKS, WORKERS, rank, ready_up_to, save, settings},
    record::{LogLine, MAX_RECORD_BYTES, State, Status, Task, Worker},
    rules::{self, Claim, Outcome, Refused},
};

/// Largest entry of a worker, in bytes of JSON.
pub const MAX_WORKER_BYTES: usize = 64 << 10;

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
pub fn find(t: &mut (impl Read + ?Sized), id: &str) -> Result<Task, QueueError> {
    if !is_id(id) {
        return Err(QueueError::NoTask(id.chars().take(MAX_ID_BYTES).collect()));
    }
    TASKS.get(t, &id.to_owned())?.ok_or_else(|| QueueError::NoTask(id.to_owned()))
}

/// Changes a task by a rule and stores it, with the changes that follow for tasks that depend on it. Gives the task before, the task after, and the rule's answer.
fn change<T>(
    t: &mut (impl Write + ?Sized),
    id: &str,
    now_ms: u64,
    rule: impl FnOnce(&mut Task) -> Result<T, Refused>,
) -> Result<(Task, Task, T), QueueError> {
    let before = find(t, id)?;
    let mut after = before.clone();
    let answer = rule(&mut after)?;
    after.fit();
    store(t, &before, &after, now_ms)?;
    Ok((before, after, answer))
}

/// The same, by a rule that adds what a client gives: as much as leaves room for what the queue itself adds.
fn add(
    t: &mut (impl Write + ?Sized),
    id: &str,
    now_ms: u64,
    rule: impl FnOnce(&mut Task) -> Result<(), Refused>,
) -> Result<Task, QueueError> {
    let before = find(t, id)?;
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

fn store(t: &mut (impl Write + ?Sized), before: &Task, after: &Task, now_ms: u64) -> Result<(), QueueError> {
    save(t, Some(before), Some(after), now_ms)?;
    upkeep::plan(t, after, now_ms)?;
    if after.status().is_final() && !before.status().is_final() {
        upkeep::tell_dependents(t, &after.id, after.status() == Status::Completed, now_ms)?;
    }
    Ok(())
}

/// Ends an attempt.
pub fn finish(
    t: &mut (impl Write + ?Sized),
    id: &str,
    by: Claim<'_>,
    outcome: Outcome,
    now_ms: u64,
    chance: f64,
) -> Result<Task, QueueError> {
    add(t, id, now_ms, |task| rules::finish(task, by, outcome, now_ms, chance))
}

/// A sign of life of a worker that has a task; when its lease ends now.
pub fn renew(t: &mut (impl Write + ?Sized), id: &str, by: Claim<'_>, now_ms: u64) -> Result<u64, QueueError> {
    change(t, id, now_ms, |task| rules::renew(task, by, now_ms)).map(|(_, _, until)| until)
}

/// Gives a task back.
pub fn release(
    t: &mut (impl Write + ?Sized),
    id: &str,
    by: Claim<'_>,
    reason: &str,
    now_ms: u64,
) -> Result<Task, QueueError> {
    change(t, id, now_ms, |task| rules::release(task, by, &kept(reason), now_ms)).map(|(_, task, ())| task)
}

/// Cancels a task. Gives the task before, and the task after.
pub fn cancel(
    t: &mut (impl Write + ?Sized),
    id: &str,
    reason: &str,
    force: bool,
    now_ms: u64,
) -> Result<(Task, Task), QueueError> {
    change(t, id, now_ms, |task| rules::cancel(task, &kept(reason), force, now_ms))
        .map(|(before, after, ())| (before, after))
}

/// Notes progress and log of a running task.
pub fn report(
    t: &mut (impl Write + ?Sized),
    id: &str,
    by: Claim<'_>,
    progress: Option<Value>,
    lines: Vec<LogLine>,
    now_ms: u64,
) -> Result<Task, QueueError> {
    add(t, id, now_ms, |task| rules::report(task, by, progress, lines, now_ms))
}

/// Gives a task another priority; the one it had. With `requeue` it goes behind those that have this priority already.
pub fn set_priority(
    t: &mut (impl Write + ?Sized),
    id: &str,
    priority: f64,
    requeue: bool,
    now_ms: u64,
) -> Result<(f64, Task), QueueError> {
    if !priority.is_finite() {
        return Err(QueueError::Invalid("new_priority must be a finite number".into()));
    }
    let before = find(t, id)?;
    if before.status().is_final() {
        return Err(Refused::Ended.into());
    }
    let mut after = Task { updated_ms: now_ms, ..before.clone() };
    after.spec.priority = priority;
    if requeue {
        after.created_ms = now_ms;
    }
    store(t, &before, &after, now_ms)?;
    Ok((before.spec.priority, after))
}

/// Where a queued task stands among those that can be claimed, 1 for the next one. None if it does not wait for a worker, or stands too far behind to be counted.
pub fn position(t: &mut (impl Read + ?Sized), task: &Task) -> Result<Option<u64>, StoreError> {
    /// Tasks of the same priority that are counted one by one.
    const COUNTED: u64 = 10_000;
    if task.state != State::Ready {
        return Ok(None);
    }
    let rank = rank(task.spec.priority);
    let Some(up_to) = ready_up_to(t, rank)? else { return Ok(None) };
    let sooner = match rank.checked_sub(1) {
        Some(above) => ready_up_to(t, above)?.unwrap_or_default(),
        None => 0,
    };
    let same = up_to.saturating_sub(sooner);
    if same > COUNTED {
        // It is the last of them, or nobody knows.
        return Ok((is_last(t, task)?).then_some(up_to));
    }
    let lane = crate::queue::lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref());
    let all = (lane, crate::queue::ANY_TYPE.to_owned());
    let mut after = (rank, 0, String::new());
    let mut position = sooner;
    loop {
        let page = crate::queue::READY.of(t, &all, Some(&after), 1_000)?;
        let Some(last) = page.last().cloned() else { return Ok(Some(position.saturating_add(1))) };
        for place in page {
            if place.0 != rank || place.2 == task.id {
                return Ok(Some(position.saturating_add(1)));
            }
            position = position.saturating_add(1);
        }
        after = last;
    }
}

fn is_last(t: &mut (impl Read + ?Sized), task: &Task) -> Result<bool, StoreError> {
    let lane = crate::queue::lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref());
    let all = (lane, crate::queue::ANY_TYPE.to_owned());
    let own = (rank(task.spec.priority), task.created_ms, task.id.clone());
    let next = crate::queue::READY.of(t, &all, Some(&own), 1)?;
    Ok(next.first().is_none_or(|place| place.0 != own.0))
}

/// Registers a worker, or renews what is known of one.
pub fn register(t: &mut (impl Write + ?Sized), worker: Worker) -> Result<Worker, QueueError> {
    let bytes = serde_json::to_string(&worker).map_or(0, |json| json.len());
    if bytes > MAX_WORKER_BYTES {
        return Err(QueueError::Invalid(format!(
            "capabilities, resource_limits and metadata have {bytes} bytes together; {MAX_WORKER_BYTES} are allowed"
        )));
    }
    let known = if is_id(&worker.id) { WORKERS.get(t, &worker.id)? } else { None };
    if known.is_none() {
        check_name("worker_id", &worker.id)?;
    }
    for (number, name) in worker.capabilities.iter().enumerate() {
        check_name(&format!("capabilities/{number}"), name)?;
    }
    let worker = match known {
        Some(known) => Worker {
            running: known.running,
            completed: known.completed,
            failed: known.failed,
            registered_ms: known.registered_ms,
            ..worker
        },
        None => Worker { running: count_held(t, &worker.id)?, ..worker },
    };
    WORKERS.set(t, &worker.id.clone(), &worker)?;
    Ok(worker)
}

fn count_held(t: &mut (impl Read + ?Sized), worker: &str) -> Result<u32, StoreError> {
    Ok(u32::try_from(HELD.of(t, &worker.to_owned(), None, 1_000)?.len()).unwrap_or(u32::MAX))
}

/// The outcome for a worker that leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// The worker as it was.
    pub worker: Worker,
    /// Tasks that are taken back from it.
    pub abandoned: u32,
}

/// Lets a worker go: at once, its tasks taken back; or gracefully, when it has finished them or after `patience_ms`.
pub fn unregister(
    t: &mut (impl Write + ?Sized),
    id: &str,
    patience_ms: Option<u64>,
    now_ms: u64,
) -> Result<Left, QueueError> {
    let id = &id.to_owned();
    let worker = find_worker(t, id)?;
    let abandoned = if patience_ms.is_some() { 0 } else { worker.running };
    let leaves_ms = now_ms.saturating_add(patience_ms.unwrap_or_default());
    let leaving = Worker { leaves_ms: Some(leaves_ms), ..worker.clone() };
    WORKERS.set(t, id, &leaving)?;
    // The timer does everything beyond one bite.
    if !upkeep::let_go_of(t, &leaving, now_ms)? {
        alarm::plan_at(t, leaves_ms, now_ms)?;
    }
    Ok(Left { worker, abandoned })
}

/// The worker of this id.
pub fn find_worker(t: &mut (impl Read + ?Sized), id: &str) -> Result<Worker, QueueError> {
    let known = if is_id(id) { WORKERS.get(t, &id.to_owned())? } else { None };
    known.ok_or_else(|| QueueError::NoWorker(id.chars().take(MAX_ID_BYTES).collect()))
}

/// All workers, by id.
pub fn all_workers(t: &mut (impl Read + ?Sized)) -> Result<Vec<Worker>, StoreError> {
    let mut workers: Vec<Worker> = Vec::new();
    loop {
        let last = workers.last().map(|worker| worker.id.clone());
        let page = WORKERS.page(t, last.as_ref(), 1_000, Order::Ascending)?;
        if page.is_empty() {
            return Ok(workers);
        }
        workers.extend(page.into_iter().map(|(_, worker)| worker));
    }
}

/// Whether anything waits for a task that is to be forgotten.
pub(crate) fn is_waited_for(t: &mut (impl Read + ?Sized), id: &str) -> Result<bool, StoreError> {
    Ok(!DEPENDENTS.of(t, &id.to_owned(), None, 1)?.is_empty())
}

/// Whether the queue hands out nothing.
pub fn is_paused(t: &mut (impl Read + ?Sized)) -> Result<bool, StoreError> {
    Ok(settings(t)?.paused.is_some())
}

#[cfg(test)]
mod tests;
