//! The rules for changes of a task: pure rules over one record. Time and chance come from outside; storing and indexing is the engine's matter.

use scheduling::backoff::Backoff;
use serde_json::{Map, Value, json};

use crate::record::{Lease, LogLine, MAX_LOG_LINES, PartingWord, State, Task, seconds};

mod parting;

/// How long a lease lasts, in milliseconds.
pub const LEASE_MS: u64 = 300_000;
/// The longest wait between two attempts, in milliseconds.
pub const MAX_BACKOFF_MS: u64 = 3_600_000;
/// The error of a task whose last lease ended without a word.
pub const EXPIRED: &str = "claim lease expired after maximum attempts";
/// The error of a task whose attempts all took too long.
pub const TIMED_OUT: &str = "timed out after maximum attempts";

/// Why something may not happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not waiting to be claimed.
    #[error("the task is not ready")]
    NotReady,
    /// No worker has it.
    #[error("the task is not running")]
    NotRunning,
    /// Somebody else has it.
    #[error("the task is not this worker's")]
    NotOwner,
    /// It was claimed again since this fencing token was given.
    #[error("the fencing token is stale")]
    StaleToken,
    /// It has ended.
    #[error("the task has ended")]
    Ended,
    /// Its key has as many waiting tasks as it may.
    #[error("the key has as many waiting tasks as it may")]
    Full,
    /// It runs, and may only be cancelled by force.
    #[error("the task is running; cancel it with force")]
    Running,
}

/// The right by which a caller changes a running task. The queue trusts a caller that names neither, as the protocol has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Claim<'a> {
    /// The worker that says it has the task.
    pub worker: Option<&'a str>,
    /// The fencing token that it was given.
    pub token: Option<u64>,
}

impl Claim<'_> {
    fn check(self, task: &Task, lease: &Lease) -> Result<(), Refused> {
        if self.worker.is_some_and(|worker| worker != lease.worker) {
            return Err(Refused::NotOwner);
        }
        if self.token.is_some_and(|token| token != task.fencing_token) {
            return Err(Refused::StaleToken);
        }
        Ok(())
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is done; its result.
    Completed(Option<Value>),
    /// It failed; its result, if there is one, and why. It may be tried again.
    Failed(Option<Value>, String),
    /// It failed, and trying again is of no use.
    FailedForGood(Option<Value>, String),
    /// It was cancelled by its worker.
    Cancelled(String),
}

impl Outcome {
    /// The result that it brings.
    pub fn result(&self) -> Option<&Value> {
        match self {
            Self::Completed(result) | Self::Failed(result, _) | Self::FailedForGood(result, _) => result.as_ref(),
            Self::Cancelled(_) => None,
        }
    }

    /// Why it is no success.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Completed(_) => None,
            Self::Failed(_, error) | Self::FailedForGood(_, error) | Self::Cancelled(error) => Some(error),
        }
    }
}

/// Whether it can be claimed, and if not, what it waits for.
pub fn settle(task: &mut Task, not_before_ms: u64, now_ms: u64) {
    task.turn_us = None;
    task.state = if !task.waiting_for.is_empty() {
        State::Blocked
    } else if not_before_ms > now_ms {
        State::Delayed { until_ms: not_before_ms }
    } else if task.spec.line().is_some() {
        State::Held
    } else {
        task.ready_ms = now_ms;
        State::Ready
    };
    task.updated_ms = now_ms;
}

/// It is the turn of a task that waits for its key, unless it had it before: it takes its place behind those that are ready, so that keys take turns.
pub fn admit(task: &mut Task, turn_us: u64, now_ms: u64) {
    if task.state == State::Held {
        task.state = State::Ready;
        task.turn_us = task.turn_us.or(Some(turn_us));
        task.ready_ms = now_ms;
        task.updated_ms = now_ms;
    }
}

/// A ready task's key has more than it may: the task waits again, and keeps its turn.
pub fn hold(task: &mut Task, now_ms: u64) {
    if task.state == State::Ready {
        task.state = State::Held;
        task.updated_ms = now_ms;
    }
}

/// Gives a ready task to a worker.
pub fn claim(task: &mut Task, worker: &str, now_ms: u64) -> Result<(), Refused> {
    if task.state != State::Ready {
        return Err(Refused::NotReady);
    }
    task.attempt = task.attempt.saturating_add(1);
    task.fencing_token = task.fencing_token.saturating_add(1);
    task.started_ms = Some(now_ms);
    task.updated_ms = now_ms;
    task.turn_us = None;
    task.error = None;
    task.parting = None;
    let deadline_ms = task.spec.timeout_ms.map(|timeout| now_ms.saturating_add(timeout));
    task.state = State::Running(Lease {
        worker: worker.to_owned(),
        until_ms: until(now_ms, LEASE_MS, deadline_ms),
        deadline_ms,
        heartbeat_ms: now_ms,
        lasts_ms: None,
    });
    Ok(())
}

/// Makes the lease of a task that was just claimed last so long from each sign of life, and no longer than usual: its worker is missed sooner.
pub fn shorten(task: &mut Task, lasts_ms: u64, now_ms: u64) {
    if let State::Running(lease) = &mut task.state {
        lease.lasts_ms = Some(lasts_ms.min(LEASE_MS));
        lease.until_ms = lease_end(now_ms, lease);
    }
}

fn lease_end(now_ms: u64, lease: &Lease) -> u64 {
    until(now_ms, lease.lasts_ms.unwrap_or(LEASE_MS), lease.deadline_ms)
}

fn until(now_ms: u64, lasts_ms: u64, deadline_ms: Option<u64>) -> u64 {
    let until = now_ms.saturating_add(lasts_ms);
    deadline_ms.map_or(until, |deadline| until.min(deadline))
}

fn lease<'a>(task: &'a Task, claim: Claim<'_>) -> Result<&'a Lease, Refused> {
    let State::Running(lease) = &task.state else { return Err(Refused::NotRunning) };
    claim.check(task, lease)?;
    Ok(lease)
}

/// A sign of life: the lease begins anew.
pub fn renew(task: &mut Task, by: Claim<'_>, now_ms: u64) -> Result<u64, Refused> {
    let lease = lease(task, by)?;
    let until_ms = lease_end(now_ms, lease);
    let renewed = Lease { until_ms, heartbeat_ms: now_ms, ..lease.clone() };
    task.state = State::Running(renewed);
    task.updated_ms = now_ms;
    Ok(until_ms)
}

/// Ends an attempt. `chance` (0 to 1) spreads the waits before the next one. The same end by the same holder once more changes nothing, and is none the less right.
pub fn finish(task: &mut Task, by: Claim<'_>, outcome: Outcome, now_ms: u64, chance: f64) -> Result<(), Refused> {
    if parting::is_said_again(task, by, &outcome) {
        return Ok(());
    }
    if task.status().is_final() {
        return Err(Refused::Ended);
    }
    // A task that nobody has may be completed by whoever names no worker: the protocol does not check.
    if matches!(task.state, State::Running(_)) || by.worker.is_some() || by.token.is_some() {
        lease(task, by)?;
    }
    parting::note(task, parting::word_of(&outcome));
    match outcome {
        Outcome::Completed(result) => {
            merge_result(task, result);
            end(task, State::Completed, now_ms);
        }
        Outcome::Failed(result, error) => {
            merge_result(task, result);
            retry_or_fail(task, error, now_ms, chance);
        }
        Outcome::FailedForGood(result, error) => {
            merge_result(task, result);
            task.error = Some(error);
            end(task, State::Failed, now_ms);
        }
        Outcome::Cancelled(reason) => cancelled(task, &reason, now_ms),
    }
    Ok(())
}

/// Results of several reports are one object; what is not an object stands for itself.
fn merge_result(task: &mut Task, result: Option<Value>) {
    match (task.result.as_mut(), result) {
        (Some(Value::Object(before)), Some(Value::Object(more))) => before.extend(more),
        (_, Some(result)) => task.result = Some(result),
        (_, None) => {}
    }
}

fn end(task: &mut Task, state: State, now_ms: u64) {
    task.state = state;
    task.finished_ms = Some(now_ms);
    task.updated_ms = now_ms;
}

fn attempts_left(task: &Task) -> bool {
    task.spec.max_attempts == 0 || task.attempt < task.spec.max_attempts
}

fn retry_or_fail(task: &mut Task, error: String, now_ms: u64, chance: f64) {
    task.error = Some(error);
    if !attempts_left(task) {
        task.dead_letter = true;
        return end(task, State::Failed, now_ms);
    }
    let backoff = Backoff { base_ms: task.spec.backoff_ms, factor: task.spec.backoff_factor, max_ms: MAX_BACKOFF_MS };
    let wait = backoff.wait_ms(task.attempt, chance);
    settle(task, now_ms.saturating_add(wait), now_ms);
}

/// Gives a running task back; the attempt does not count as failed. Once more by the same holder changes nothing.
pub fn release(task: &mut Task, by: Claim<'_>, reason: &str, now_ms: u64) -> Result<(), Refused> {
    if parting::is_parting(task, by, PartingWord::Released) {
        return Ok(());
    }
    lease(task, by)?;
    parting::note(task, PartingWord::Released);
    let progress = progress_object(task);
    let count = progress.get("release_count").and_then(Value::as_u64).unwrap_or_default();
    progress.insert("release_count".into(), json!(count.saturating_add(1)));
    progress.insert("last_release_reason".into(), json!(reason));
    progress.insert("last_release_ts".into(), json!(seconds(now_ms)));
    task.attempt = task.attempt.saturating_sub(1);
    settle(task, now_ms, now_ms);
    Ok(())
}

/// Takes a task back whose lease or attempt is over. Nothing if it is not.
pub fn expire(task: &mut Task, now_ms: u64, chance: f64) -> bool {
    let State::Running(lease) = &task.state else { return false };
    if lease.until_ms > now_ms {
        return false;
    }
    let timed_out = lease.deadline_ms.is_some_and(|deadline| deadline <= now_ms);
    if timed_out {
        retry_or_fail(task, TIMED_OUT.to_owned(), now_ms, chance);
    } else if attempts_left(task) {
        // The worker is gone, and the task is not to blame: no back-off.
        settle(task, now_ms, now_ms);
    } else {
        retry_or_fail(task, EXPIRED.to_owned(), now_ms, chance);
    }
    true
}

/// Makes a delayed task ready whose time has come. Nothing if it has not.
pub fn delay_ended(task: &mut Task, now_ms: u64) -> bool {
    let is_over = matches!(task.state, State::Delayed { until_ms } if until_ms <= now_ms);
    if is_over {
        settle(task, 0, now_ms);
    }
    is_over
}

/// Gives a task that has not ended another priority; with `requeue` it goes behind those that have it already.
pub fn set_priority(task: &mut Task, priority: f64, requeue: bool, now_ms: u64) -> Result<(), Refused> {
    if task.status().is_final() {
        return Err(Refused::Ended);
    }
    task.spec.priority = priority;
    task.updated_ms = now_ms;
    if requeue {
        task.turn_us = None;
        task.line_ms = Some(now_ms);
    }
    Ok(())
}

/// Cancels a task; a running one only by force.
pub fn cancel(task: &mut Task, reason: &str, force: bool, now_ms: u64) -> Result<(), Refused> {
    match task.state {
        State::Completed | State::Failed | State::Cancelled => Err(Refused::Ended),
        State::Running(_) if !force => Err(Refused::Running),
        _ => {
            cancelled(task, reason, now_ms);
            Ok(())
        }
    }
}

fn cancelled(task: &mut Task, reason: &str, now_ms: u64) {
    let progress = progress_object(task);
    progress.insert("cancelled_at".into(), json!(seconds(now_ms)));
    progress.insert("cancel_reason".into(), json!(reason));
    end(task, State::Cancelled, now_ms);
}

/// A dependency has ended: with success it is one less to wait for, otherwise the task cannot run any more.
pub fn dependency_ended(task: &mut Task, dependency: &str, succeeded: bool, now_ms: u64) {
    if task.state != State::Blocked {
        return;
    }
    if succeeded {
        task.waiting_for.retain(|waiting| waiting != dependency);
        settle(task, now_ms, now_ms);
    } else {
        task.error = Some(format!("dependency {dependency} did not complete"));
        end(task, State::Failed, now_ms);
    }
}

/// Notes progress and lines of log of a running task.
pub fn report(
    task: &mut Task,
    by: Claim<'_>,
    progress: Option<Value>,
    lines: Vec<LogLine>,
    now_ms: u64,
) -> Result<(), Refused> {
    lease(task, by)?;
    if progress.is_some() {
        task.progress = progress;
    }
    task.logs.extend(lines);
    let surplus = task.logs.len().saturating_sub(MAX_LOG_LINES);
    task.logs.drain(..surplus);
    task.updated_ms = now_ms;
    Ok(())
}

fn progress_object(task: &mut Task) -> &mut Map<String, Value> {
    let progress = task.progress.get_or_insert_with(|| json!({}));
    if !progress.is_object() {
        *progress = json!({ "value": progress.take() });
    }
    match progress {
        Value::Object(object) => object,
        // It was made an object above.
        _ => unreachable!("progress is an object"),
    }
}
