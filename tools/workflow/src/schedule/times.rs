//! The times of cron expressions, and how many of them a schedule passes over.

use std::str::FromStr as _;

use chrono::DateTime;
use chrono_tz::Tz;
use croner::Cron;

use super::Schedule;
use crate::engine::WorkflowError;

/// Longest cron expression, in bytes.
const MAX_CRON_BYTES: usize = 100;
/// Most times of one gap that are counted: an expression may have one a second, and a host may be down for a year.
pub(super) const MAX_COUNTED: u64 = 10_000;

/// The zone of this name.
///
/// # Errors
/// There is none.
pub fn check_zone(time_zone: &str) -> Result<Tz, WorkflowError> {
    Tz::from_str(time_zone).map_err(|_| {
        let shown: String = time_zone.chars().take(100).collect();
        WorkflowError::Invalid(format!("{shown:?} is no time zone, such as Europe/Berlin or UTC"))
    })
}

/// A legal expression in its zone.
struct Clock {
    cron: Cron,
    zone: Tz,
}

impl Clock {
    fn parse(cron: &str, time_zone: &str) -> Result<Self, WorkflowError> {
        if cron.len() > MAX_CRON_BYTES {
            return Err(WorkflowError::Invalid(format!("cron has at most {MAX_CRON_BYTES} bytes")));
        }
        let zone = check_zone(time_zone)?;
        let cron = Cron::from_str(cron)
            .map_err(|error| WorkflowError::Invalid(format!("{cron:?} is no cron expression: {error}")))?;
        Ok(Self { cron, zone })
    }

    fn after(&self, after_ms: u64) -> Option<u64> {
        let after = i64::try_from(after_ms).ok().and_then(DateTime::from_timestamp_millis)?;
        let next = self.cron.find_next_occurrence(&after.with_timezone(&self.zone), false).ok()?;
        u64::try_from(next.timestamp_millis()).ok()
    }
}

/// The first time of a cron expression after another one, in milliseconds since 1970-01-01 UTC; none if there is none.
///
/// # Errors
/// The expression or the zone is not legal.
pub fn next_time(cron: &str, time_zone: &str, after_ms: u64) -> Result<Option<u64>, WorkflowError> {
    Ok(Clock::parse(cron, time_zone)?.after(after_ms))
}

/// Times of a schedule that are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed {
    /// How many they are, [`MAX_COUNTED`] at most.
    pub(super) count: u64,
    /// The last of them; none if they are too many to be counted.
    pub(super) last_ms: Option<u64>,
    /// The first time behind them.
    pub(super) next_ms: Option<u64>,
}

impl Schedule {
    /// The time behind one of its times; none if that was the last.
    pub(super) fn next_after(&self, time_ms: u64) -> Result<Option<u64>, WorkflowError> {
        match &self.cron {
            Some(cron) => next_time(cron, &self.time_zone, time_ms),
            None => Ok(None),
        }
    }

    /// Passes over its times from its next one, which is `first_ms`, to below `until_ms`.
    pub(super) fn pass(&self, first_ms: u64, until_ms: u64) -> Result<Passed, WorkflowError> {
        let Some(cron) = &self.cron else { return Ok(Passed { count: 1, last_ms: Some(first_ms), next_ms: None }) };
        let clock = Clock::parse(cron, &self.time_zone)?;
        let mut last_ms = first_ms;
        for count in 1..=MAX_COUNTED {
            match clock.after(last_ms) {
                Some(next_ms) if next_ms < until_ms => last_ms = next_ms,
                next_ms => return Ok(Passed { count, last_ms: Some(last_ms), next_ms }),
            }
        }
        Ok(Passed { count: MAX_COUNTED, last_ms: None, next_ms: clock.after(until_ms.saturating_sub(1)) })
    }

    /// The schedule when its pause ends: times that came within it are left out.
    ///
    /// # Errors
    /// Its expression or zone is not legal any more.
    pub fn resumed(self, now_ms: u64) -> Result<Self, WorkflowError> {
        let Some(first_ms) = self.next_ms.filter(|next_ms| self.is_paused && *next_ms <= now_ms) else {
            return Ok(Self { is_paused: false, ..self });
        };
        let passed = self.pass(first_ms, now_ms.saturating_add(1))?;
        let left_out = self.left_out.saturating_add(passed.count);
        Ok(Self { is_paused: false, next_ms: passed.next_ms, left_out, ..self })
    }
}
