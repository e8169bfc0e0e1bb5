//! Measurements of the queue: sums of waiting and running times, and counts of the tasks that ended in each of the last minutes. A value that was never measured is none.

use mcpp_tool::store::{Counts, StoreError, Transaction, View};
use scheduling::reserve::reserve_bytes;
use serde_json::{Value, json};

use crate::record::{State, Status, Task};

/// Minutes of which numbers are kept.
const MINUTES: u64 = 60;
/// Minutes over which the throughput is measured.
const THROUGHPUT_MINUTES: u64 = 5;
const MINUTE_MS: u64 = 60_000;
/// The kinds of numbers of a minute.
pub(crate) const SUBMITTED: u8 = 0;
pub(crate) const COMPLETED: u8 = 1;
pub(crate) const FAILED: u8 = 2;

/// Sums since the queue began.
pub(crate) const SUMS: Counts<u8> = Counts::new("sums");
/// Attempts that began.
pub(crate) const BEGUN: u8 = 0;
/// How long the tasks of those had been ready, in milliseconds.
pub(crate) const WAITED: u8 = 1;
/// Attempts that ended.
pub(crate) const ENDED: u8 = 2;
/// How long those took, in milliseconds.
pub(crate) const RAN: u8 = 3;
/// The numbers of each minute, by kind.
pub(crate) const BY_MINUTE: Counts<(u64, u8)> = Counts::new("minutes");

/// The counts of one minute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Minute {
    /// Which one, since 1970-01-01 UTC.
    pub minute: u64,
    /// Tasks submitted.
    pub submitted: i64,
    /// Tasks completed.
    pub completed: i64,
    /// Tasks failed.
    pub failed: i64,
}

/// A duration as a number to add.
fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Notes a change of state.
pub fn note(t: &Transaction<'_>, before: Option<&Task>, after: &Task, now_ms: u64) {
    let was_running = before.is_some_and(|task| matches!(task.state, State::Running(_)));
    let is_running = matches!(after.state, State::Running(_));
    if is_running && !was_running {
        SUMS.add(t, &BEGUN, 1);
        SUMS.add(t, &WAITED, signed(now_ms.saturating_sub(after.ready_ms)));
    } else if let (true, false, Some(started)) = (was_running, is_running, after.started_ms) {
        SUMS.add(t, &ENDED, 1);
        SUMS.add(t, &RAN, signed(now_ms.saturating_sub(started)));
    }
    let kind = match after.status() {
        _ if before.is_none() => SUBMITTED,
        Status::Completed => COMPLETED,
        Status::Failed => FAILED,
        _ => return,
    };
    BY_MINUTE.add(t, &(now_ms / MINUTE_MS, kind), 1);
}

/// Forgets minutes that are too old, a few at a time.
pub fn forget(t: &Transaction<'_>, now_ms: u64) -> Result<(), StoreError> {
    let first = (now_ms / MINUTE_MS).saturating_sub(MINUTES);
    for (old, number) in BY_MINUTE.under(t, &(), 12)?.into_iter().filter(|((minute, _), _)| *minute < first) {
        BY_MINUTE.add(t, &old, number.saturating_neg());
    }
    Ok(())
}

fn mean_s(t: &View<'_>, sum_ms: u8, count: u8) -> Result<Option<f64>, StoreError> {
    let (sum_ms, count) = (SUMS.get(t, &sum_ms)?, SUMS.get(t, &count)?);
    Ok((count > 0).then(|| sum_ms as f64 / count as f64 / 1_000.0))
}

/// The mean time from ready to begun, in seconds.
pub fn average_wait_s(t: &View<'_>) -> Result<Option<f64>, StoreError> {
    mean_s(t, WAITED, BEGUN)
}

/// The mean time of an attempt, in seconds.
pub fn average_execution_s(t: &View<'_>) -> Result<Option<f64>, StoreError> {
    mean_s(t, RAN, ENDED)
}

/// The size of the queue's store, its quota and its reserve, in bytes; null where the host does not tell them.
pub fn store(t: &View<'_>) -> Value {
    let usage = t.usage().ok();
    json!({
        "used_bytes": usage.map(|usage| usage.used_bytes),
        "quota_bytes": usage.map(|usage| usage.quota_bytes),
        "reserve_bytes": usage.map(|usage| reserve_bytes(usage.quota_bytes)),
    })
}

/// The last minutes in which something happened, oldest first.
pub fn minutes(t: &View<'_>, now_ms: u64) -> Result<Vec<Minute>, StoreError> {
    minutes_from(t, (now_ms / MINUTE_MS).saturating_sub(MINUTES))
}

fn minutes_from(t: &View<'_>, first: u64) -> Result<Vec<Minute>, StoreError> {
    let mut found: Vec<Minute> = Vec::new();
    for ((minute, kind), number) in BY_MINUTE.from(t, &(first,), 1_000)? {
        if found.last().is_none_or(|last| last.minute != minute) {
            found.push(Minute { minute, ..Minute::default() });
        }
        match (found.last_mut(), kind) {
            (Some(last), SUBMITTED) => last.submitted = number,
            (Some(last), COMPLETED) => last.completed = number,
            (Some(last), FAILED) => last.failed = number,
            _ => {}
        }
    }
    Ok(found)
}

/// Tasks completed in a minute, over the last five whole ones; none if nothing was submitted or ended in them.
pub fn throughput(t: &View<'_>, now_ms: u64) -> Result<Option<f64>, StoreError> {
    let now = now_ms / MINUTE_MS;
    let recent = minutes_from(t, now.saturating_sub(THROUGHPUT_MINUTES))?;
    let completed: i64 = recent.iter().map(|numbers| numbers.completed).sum();
    let first = recent.first().map(|numbers| numbers.minute);
    Ok(first.map(|first| completed as f64 / (now.saturating_sub(first).saturating_add(1)) as f64))
}
