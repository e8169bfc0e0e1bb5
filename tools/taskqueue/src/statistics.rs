//! Measurements of the queue: sums of waiting and running times, and counts of the tasks that ended in each of the last minutes. A value that was never measured is none.

use mcpp_tool::store::{Map, Order, Read, StoreError, Write};
use serde::{Deserialize, Serialize};

use crate::record::{State, Status, Task};

/// Minutes of which numbers are kept.
const MINUTES: u64 = 60;
/// Minutes over which the throughput is measured.
const THROUGHPUT_MINUTES: u64 = 5;
const MINUTE_MS: u64 = 60_000;

const TOTALS: Map<(), Totals> = Map::new("totals");
const BY_MINUTE: Map<u64, Minute> = Map::new("minute");

/// Sums since the queue began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Attempts that began.
    pub begun: u64,
    /// How long their tasks had been ready, in milliseconds.
    pub waited_ms: u64,
    /// Attempts that ended.
    pub ended: u64,
    /// How long they took, in milliseconds.
    pub ran_ms: u64,
}

/// The counts of one minute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// Tasks submitted.
    pub submitted: u64,
    /// Tasks completed.
    pub completed: u64,
    /// Tasks failed.
    pub failed: u64,
}

impl Totals {
    /// The mean time from ready to begun, in seconds.
    pub fn average_wait_s(&self) -> Option<f64> {
        mean(self.waited_ms, self.begun)
    }

    /// The mean time of an attempt, in seconds.
    pub fn average_execution_s(&self) -> Option<f64> {
        mean(self.ran_ms, self.ended)
    }
}

fn mean(sum_ms: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum_ms as f64 / count as f64 / 1_000.0)
}

/// Notes a change of state.
pub fn note(t: &mut (impl Write + ?Sized), before: Option<&Task>, after: &Task, now_ms: u64) -> Result<(), StoreError> {
    let was_running = before.is_some_and(|task| matches!(task.state, State::Running(_)));
    let is_running = matches!(after.state, State::Running(_));
    if was_running != is_running {
        let mut totals = totals(t)?;
        if is_running {
            totals.begun = totals.begun.saturating_add(1);
            totals.waited_ms = totals.waited_ms.saturating_add(now_ms.saturating_sub(after.ready_ms));
        } else if let Some(started) = after.started_ms {
            totals.ended = totals.ended.saturating_add(1);
            totals.ran_ms = totals.ran_ms.saturating_add(now_ms.saturating_sub(started));
        }
        TOTALS.set(t, &(), &totals)?;
    }
    let ended = |status| before.map(Task::status) != Some(status) && after.status() == status;
    if before.is_none() || ended(Status::Completed) || ended(Status::Failed) {
        let minute = now_ms / MINUTE_MS;
        let known = BY_MINUTE.get(t, &minute)?;
        if known.is_none() {
            forget(t, minute)?;
        }
        let mut numbers = known.unwrap_or_default();
        numbers.submitted = numbers.submitted.saturating_add(u64::from(before.is_none()));
        numbers.completed = numbers.completed.saturating_add(u64::from(ended(Status::Completed)));
        numbers.failed = numbers.failed.saturating_add(u64::from(ended(Status::Failed)));
        BY_MINUTE.set(t, &minute, &numbers)?;
    }
    Ok(())
}

/// Forgets minutes that are too old, a few at a time.
fn forget(t: &mut (impl Write + ?Sized), minute: u64) -> Result<(), StoreError> {
    for (old, _) in BY_MINUTE.page(t, None, 4, Order::Ascending)? {
        if old.saturating_add(MINUTES) < minute {
            BY_MINUTE.remove(t, &old)?;
        }
    }
    Ok(())
}

/// The sums.
pub fn totals(t: &mut (impl Read + ?Sized)) -> Result<Totals, StoreError> {
    Ok(TOTALS.get(t, &())?.unwrap_or_default())
}

/// The last minutes in which something happened, by the minute since 1970-01-01 UTC, oldest first.
pub fn minutes(t: &mut (impl Read + ?Sized), now_ms: u64) -> Result<Vec<(u64, Minute)>, StoreError> {
    let first = (now_ms / MINUTE_MS).saturating_sub(MINUTES);
    BY_MINUTE.page(t, Some(&first), 1_000, Order::Ascending)
}

/// Tasks completed in a minute, over the last five whole ones; none if nothing was submitted or ended in them.
pub fn throughput(t: &mut (impl Read + ?Sized), now_ms: u64) -> Result<Option<f64>, StoreError> {
    let now = now_ms / MINUTE_MS;
    let recent: Vec<_> = minutes(t, now_ms)?
        .into_iter()
        .filter(|(minute, _)| minute.saturating_add(THROUGHPUT_MINUTES) >= now)
        .collect();
    let completed: u64 = recent.iter().map(|(_, numbers)| numbers.completed).sum();
    let first = recent.first().map(|(minute, _)| *minute);
    Ok(first.map(|first| completed as f64 / (now.saturating_sub(first).saturating_add(1)) as f64))
}
