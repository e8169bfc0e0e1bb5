//! The timer of a schedule. No error ends a schedule: it is noted in the schedule, which goes on to its next time, or tries the same one again where the store was the reason.

use mcpp_tool::store::{StoreError, Transaction, transact};

use super::{Overlap, SCHEDULES, Schedule, put, timer};
use crate::{
    engine::{self, Draft, Origin, VisibleTools, WorkflowError},
    store::stored_run,
    validate::Graph,
};

/// A time that rings so late is in time all the same, if no later one has come: a busy host may ring late, in milliseconds.
const ON_TIME_MS: u64 = 5_000;
/// When the timer rings again whose handler did not come to its end, or whose time the store had no room for, in milliseconds.
const AGAIN_MS: u64 = 30_000;
/// Longest error that a schedule keeps, in characters.
const MAX_ERROR_CHARS: usize = 1_000;

/// What becomes of the times that have come.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// The one that begins its run.
    begins_ms: Option<u64>,
    /// How many are left out.
    left_out: u64,
    /// The one that rings next.
    next_ms: Option<u64>,
}

impl Turn {
    /// No time is in it any more.
    const LAST: Self = Self { begins_ms: None, left_out: 0, next_ms: None };

    fn of(schedule: &Schedule, time_ms: u64, now_ms: u64) -> Result<Self, WorkflowError> {
        let earliest_ms = now_ms.saturating_sub(schedule.catch_up_ms);
        if time_ms >= earliest_ms {
            let next_ms = schedule.next_after(time_ms)?;
            return Ok(Self { begins_ms: Some(time_ms), left_out: 0, next_ms });
        }
        let passed = schedule.pass(time_ms, earliest_ms)?;
        let is_latest = passed.next_ms.is_none_or(|next_ms| next_ms > now_ms);
        let begins_ms = passed.last_ms.filter(|last_ms| is_latest && last_ms.saturating_add(ON_TIME_MS) >= now_ms);
        let left_out = passed.count.saturating_sub(u64::from(begins_ms.is_some()));
        Ok(Self { begins_ms, left_out, next_ms: passed.next_ms })
    }
}

/// The timer of a schedule is due: begins the run of its time, and sets the timer for the next.
pub(crate) fn due(name: &str, now_ms: u64) -> Result<(), WorkflowError> {
    // It rings again, whatever becomes of this handler: the host gives a timer up whose handler fails again and again.
    let seen = transact(|t| {
        let seen = SCHEDULES.get(t, name)?.filter(|seen| !seen.is_paused && seen.next_ms.is_some());
        if seen.is_some() {
            t.wake_at(&timer(name), now_ms.saturating_add(AGAIN_MS), b"")?;
        }
        Ok::<_, WorkflowError>(seen)
    })?;
    let Some((seen, time_ms)) = seen.and_then(|seen| seen.next_ms.map(|time_ms| (seen, time_ms))) else {
        return Ok(());
    };
    if time_ms > now_ms {
        return change(&seen, |t| Ok(put(t, &seen)?));
    }
    // Outside of the transaction: it may take long to find that an expression has no further time.
    let turn = match Turn::of(&seen, time_ms, now_ms) {
        Ok(turn) => turn,
        Err(error) => return note(&seen, Turn::LAST, &error, now_ms),
    };
    take(&seen, turn, now_ms).or_else(|error| note(&seen, turn, &error, now_ms))
}

/// Changes a schedule, unless somebody has changed it meanwhile: its timer is another one then.
fn change(
    seen: &Schedule,
    mut work: impl FnMut(&Transaction<'static>) -> Result<(), WorkflowError>,
) -> Result<(), WorkflowError> {
    transact(|t| match SCHEDULES.get(t, &seen.name)?.as_ref() == Some(seen) {
        true => work(t),
        false => Ok(()),
    })
}

/// Does what a turn says.
fn take(seen: &Schedule, turn: Turn, now_ms: u64) -> Result<(), WorkflowError> {
    let left_out = seen.left_out.saturating_add(turn.left_out);
    let after = Schedule { next_ms: turn.next_ms, left_out, ..seen.clone() };
    let Some(time_ms) = turn.begins_ms else {
        return change(seen, |t| Ok(put(t, &after)?));
    };
    let draft = seen.draft(time_ms);
    let graph = draft.check(&VisibleTools(&draft.rights, &[]))?;
    change(seen, |t| {
        let mut next = Schedule { last_error: None, ..after.clone() };
        if begin(t, seen, (&draft, &graph), now_ms)? {
            next.last_run = Some(draft.id.clone());
            next.runs = next.runs.saturating_add(1);
        } else {
            next.left_out = next.left_out.saturating_add(1);
        }
        Ok(put(t, &next)?)
    })
}

/// Begins a run, unless the last one has not ended and is not to be overlapped; whether it did.
fn begin(
    t: &Transaction<'_>,
    seen: &Schedule,
    (draft, graph): (&Draft, &Graph),
    now_ms: u64,
) -> Result<bool, WorkflowError> {
    let last = match &seen.last_run {
        Some(last) => stored_run(t, last)?.filter(|run| !run.phase.is_final()),
        None => None,
    };
    match (seen.overlap, last) {
        (Overlap::Skip, Some(_)) => return Ok(false),
        (Overlap::Cancel, Some(last)) => {
            let why = ("the next run of its schedule begins", false);
            engine::cancel(t, &last.id, why, Origin::Handler(0), now_ms)?;
        }
        _ => {}
    }
    engine::submit(t, draft, graph, Origin::Handler(0), now_ms)?;
    Ok(true)
}

/// Whether the same may succeed later.
fn may_pass(error: &WorkflowError) -> bool {
    let error = match error {
        WorkflowError::Full { .. } => return true,
        WorkflowError::Store(error) => error,
        _ => return false,
    };
    !matches!(
        error,
        StoreError::InvalidKey
            | StoreError::ValueTooLarge
            | StoreError::TransactionTooLarge
            | StoreError::InvalidTopic
            | StoreError::PayloadTooLarge
            | StoreError::Unreadable
    )
}

/// Keeps why a turn was not taken. Its time is tried again, until it is too late, if the store was the reason; else the schedule goes on to the next.
fn note(seen: &Schedule, turn: Turn, error: &WorkflowError, now_ms: u64) -> Result<(), WorkflowError> {
    let last_error = Some(error.to_string().chars().take(MAX_ERROR_CHARS).collect());
    let is_again = may_pass(error);
    let noted = match is_again {
        true => Schedule { last_error, ..seen.clone() },
        false => {
            let left_out = seen.left_out.saturating_add(turn.left_out);
            Schedule { last_error, next_ms: turn.next_ms, left_out, ..seen.clone() }
        }
    };
    change(seen, |t| {
        put(t, &noted)?;
        if is_again {
            t.wake_at(&timer(&seen.name), now_ms.saturating_add(AGAIN_MS), b"")?;
        }
        Ok(())
    })
}
