//! What the timers do: a node's time, the rest of what was too much for a transaction, leases of handlers that are gone, and runs that ended long ago.

use std::cell::Cell;

use mcpp_tool::{
    environment::now_ms as clock_ms,
    store::{Alarm, Budget, StoreError, Transaction, View, bites, transact},
};

use super::{
    Origin, WorkflowError, call_for, event, go_on,
    retention::{KEEP_MS, KEEP_RUNS, forget},
    task, tell_blocked,
    work::work,
};
use crate::{
    blob,
    run::{Number, Run},
    scheduler,
    store::{ENDED, LEASES, READY, RUNS, StoredNodes},
};

/// How often leases, and nodes that no handler takes, are looked at while there are any, in milliseconds.
pub(super) const WATCH_MS: u64 = 30_000;
/// How often ended runs are looked at, in milliseconds.
const TIDY_MS: u64 = 3_600_000;
/// What one ring of the watch changes.
const STEP: Budget = Budget { entries: 200, bytes: 8 << 20, ..Budget::UNBOUNDED };

/// The watch: it rings while anything is ready or runs, and for what is old.
const WATCH: Alarm = Alarm::new("watch");

/// Sees to it that the watch rings.
pub(super) fn watch(t: &Transaction<'_>, now_ms: u64) -> Result<(), StoreError> {
    WATCH.by(t, now_ms.saturating_add(WATCH_MS), now_ms)
}

/// A timer is due. `delivery` is its id.
///
/// # Errors
/// Those of the store: the host calls again then.
pub fn wake(key: &str, delivery: &str) -> Result<(), WorkflowError> {
    let now = clock_ms();
    if key == WATCH.name() {
        return ring_watch(now, KEEP_RUNS);
    }
    if let Some(schedule) = key.strip_prefix("s:") {
        crate::schedule::due(schedule, now)?;
        return work(delivery, 0);
    }
    // Timers begin a new chain of events.
    let origin = Origin::Handler(0);
    match key.split_once(':') {
        Some(("n", place)) => {
            let place = place.rsplit_once(':').and_then(|(run, number)| Some((run, number.parse::<Number>().ok()?)));
            let Some((id, number)) = place else { return Ok(()) };
            if task::look(id, number)? {
                return work(delivery, 0);
            }
            transact(|t| {
                change(t, id, origin, now, |run, nodes| Ok(scheduler::ring(run, nodes, number, now)?)).map(drop)
            })?;
        }
        Some(("e", id)) => transact(|t| event::tell(t, id, now))?,
        Some(("x", id)) => return task::cancel(id),
        Some(("r", id)) => transact(|t| change(t, id, origin, now, |_, _| Ok(())).map(drop))?,
        None if key == super::builds::RELEASE => transact(super::builds::release)?,
        Some(("d", id)) => transact(|t| match RUNS.get(t, id)? {
            Some(run) => tell_blocked(t, &run, origin, now),
            None => Ok(()),
        })?,
        _ => {}
    }
    work(delivery, 0)
}

/// The watch rings: it looks after what there is, and rings again at once while runs that are over are left.
pub(super) fn ring_watch(now_ms: u64, keep_runs: i64) -> Result<(), WorkflowError> {
    let is_more = Cell::new(None);
    let work = || {
        is_more.set(Some(look_after(now_ms, keep_runs)?));
        Ok(())
    };
    WATCH.ring(now_ms, work, |t| match is_more.get() {
        Some(true) => Ok(Some(now_ms)),
        Some(false) => next_watch(t, now_ms),
        // It failed before it knew.
        None => Ok(Some(now_ms.saturating_add(WATCH_MS))),
    })
}

/// Changes a run, and goes on with what follows; none if it is gone.
pub(super) fn change<T>(
    t: &Transaction<'_>,
    id: &str,
    origin: Origin,
    now_ms: u64,
    rule: impl FnOnce(&mut Run, &mut StoredNodes<'_, '_>) -> Result<T, WorkflowError>,
) -> Result<Option<T>, WorkflowError> {
    let Some(mut run) = RUNS.get(t, id)? else { return Ok(None) };
    let mut nodes = StoredNodes::new(t, id);
    let answer = rule(&mut run, &mut nodes)?;
    let woken = go_on(t, run, nodes, now_ms)?;
    call_for(t, woken, origin, now_ms)?;
    Ok(Some(answer))
}

/// Gives back nodes of handlers that are gone, calls for handlers where none came, and removes what is over; whether more of that is left.
fn look_after(now_ms: u64, keep_runs: i64) -> Result<bool, WorkflowError> {
    let gone = LEASES.of(&()).below(&(now_ms.saturating_add(1),));
    bites(&mut { STEP }, &gone, |t, (_, id, number)| {
        let mut nodes = StoredNodes::new(t, &id);
        scheduler::give_back(&mut nodes, number, now_ms)?;
        Ok::<_, WorkflowError>(true)
    })?;
    transact(|t| {
        let ready: Vec<_> = READY.of(&()).most(16).collect::<Vec<_>>(t)?;
        let late = ready.iter().filter(|(_, since_ms, ..)| since_ms.saturating_add(WATCH_MS / 3) < now_ms).count();
        call_for(t, u32::try_from(late).unwrap_or(u32::MAX), Origin::Unknown, now_ms)?;
        Ok::<_, WorkflowError>(())
    })?;
    transact(super::builds::release)?;
    let is_more = forget(now_ms, keep_runs)?;
    blob::tidy(now_ms)?;
    Ok(is_more)
}

/// When the watch rings next.
fn next_watch(t: &View<'_>, now_ms: u64) -> Result<Option<u64>, WorkflowError> {
    if !READY.of(&()).is_empty(t)? || !LEASES.of(&()).is_empty(t)? {
        return Ok(Some(now_ms.saturating_add(WATCH_MS)));
    }
    Ok(ENDED.of(&()).first(t)?.map(|(ended_ms, _)| {
        ended_ms.saturating_add(KEEP_MS).clamp(now_ms.saturating_add(WATCH_MS), now_ms.saturating_add(TIDY_MS))
    }))
}
