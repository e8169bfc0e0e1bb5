//! What the timers do: a node's time, the rest of what was too much for a transaction, leases of handlers that are gone, and runs that ended long ago.

use std::{cell::Cell, collections::VecDeque, time::Instant};

use mcpp_tool::{
    environment::now_ms as clock_ms,
    store::{Alarm, Budget, StoreError, Transaction, View, bites, transact},
};

use super::{
    Origin, WorkflowError, cache, call_for, event, go_on, keys,
    retention::{KEEP_MS, KEEP_RUNS, forget},
    task, tell_blocked,
    work::{AT_WORK, AT_WORK_BYTES, work},
};
use crate::{
    blob,
    run::{Number, Run},
    scheduler,
    store::{ENDED, LEASES, NODES, READY, StoredNodes, stored_run},
};

/// How often leases, and nodes that no handler takes, are looked at while there are any, in milliseconds.
pub(super) const WATCH_MS: u64 = 30_000;
/// How often ended runs are looked at, in milliseconds.
const TIDY_MS: u64 = 3_600_000;
/// What one ring of the watch changes.
const STEP: Budget = Budget { entries: 200, bytes: 8 << 20, ..Budget::UNBOUNDED };

/// The watch: it rings while anything is ready or runs, and for what is old.
pub(super) const WATCH: Alarm = Alarm::new("watch");

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
    if key == keys::KEYS.name() {
        return keys::ring(now);
    }
    if key == cache::CACHE.name() {
        return cache::ring(now);
    }
    // Only such a timer takes nodes: its key is its own. Another one may be set anew or cancelled while its handler runs, and would not come again for the node that it had.
    if key.starts_with("w:") {
        return work(delivery, 0);
    }
    if let Some(schedule) = key.strip_prefix("s:") {
        return crate::schedule::due(schedule, now);
    }
    // Timers begin a new chain of events.
    let origin = Origin::Handler(0);
    match key.split_once(':') {
        Some(("n", place)) => {
            let place = place.rsplit_once(':').and_then(|(run, number)| Some((run, number.parse::<Number>().ok()?)));
            let Some((id, number)) = place else { return Ok(()) };
            if task::look(id, number)? {
                return Ok(());
            }
            transact(|t| {
                // Another run may have the id by now, with fewer nodes.
                if NODES.get(t, &(id, number))?.is_none() {
                    return Ok::<_, WorkflowError>(());
                }
                change(t, id, origin, now, |run, nodes| Ok(scheduler::ring(run, nodes, number, now)?)).map(drop)
            })?;
        }
        Some(("x", id)) => return task::cancel(id),
        Some(("r" | "d" | "e", _)) => go_on_with(key, origin, now)?,
        None if key == super::builds::RELEASE => transact(super::builds::release)?,
        _ => {}
    }
    Ok(())
}

/// Goes on with what was too much for a transaction, and with what that leaves, for as long as a handler works. The timers of what is left are there in case that it stops: the host
/// delivers a handler's timers 0.1 s later at the soonest.
fn go_on_with(key: &str, origin: Origin, now_ms: u64) -> Result<(), WorkflowError> {
    let (begun, mut bytes) = (Instant::now(), 0_u64);
    let mut keys = VecDeque::from([key.to_owned()]);
    while let Some(key) = keys.pop_front() {
        let (left, spent) = transact(|t| {
            // What went before took its time.
            let left = step(t, &key, origin, now_ms.max(clock_ms()))?;
            if !left.contains(&key) {
                t.cancel_wake(&key)?;
            }
            Ok::<_, WorkflowError>((left, t.spent().bytes))
        })?;
        keys.extend(left);
        bytes = bytes.saturating_add(spent);
        if begun.elapsed() >= AT_WORK || bytes >= AT_WORK_BYTES {
            break;
        }
    }
    Ok(())
}

/// What one transaction does for a timer of this key; the keys of what it leaves.
fn step(t: &Transaction<'_>, key: &str, origin: Origin, now_ms: u64) -> Result<Vec<String>, WorkflowError> {
    let Some((kind, id)) = key.split_once(':') else { return Ok(Vec::new()) };
    if kind == "e" {
        return Ok(if event::tell(t, id, now_ms)? { vec![key.to_owned()] } else { Vec::new() });
    }
    let Some(run) = stored_run(t, id)? else { return Ok(Vec::new()) };
    if kind == "d" {
        return tell_blocked(t, run, origin, now_ms);
    }
    let followed = go_on(t, run, StoredNodes::new(t, id), origin, now_ms)?;
    call_for(t, followed.woken, origin, now_ms)?;
    Ok(followed.left)
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
    let Some(mut run) = stored_run(t, id)? else { return Ok(None) };
    let mut nodes = StoredNodes::new(t, id);
    let answer = rule(&mut run, &mut nodes)?;
    let woken = go_on(t, run, nodes, origin, now_ms)?.woken;
    call_for(t, woken, origin, now_ms)?;
    Ok(Some(answer))
}

/// Gives back nodes of handlers that are gone, calls for handlers where none came, and removes what is over; whether more of that is left.
fn look_after(now_ms: u64, keep_runs: i64) -> Result<bool, WorkflowError> {
    let gone = LEASES.of(&()).below(&(now_ms.saturating_add(1),));
    bites(&mut { STEP }, &gone, |t, (_, id, number)| {
        let mut nodes = StoredNodes::new(t, &id);
        scheduler::give_back(&mut nodes, number, now_ms)?;
        let count = keys::let_on_all(t, &nodes.touched, now_ms)?;
        call_for(t, count, Origin::Unknown, now_ms)?;
        Ok::<_, WorkflowError>(true)
    })?;
    transact(|t| {
        let ready: Vec<_> = READY.of(&()).most(16).collect::<Vec<_>>(t)?;
        let late = ready.iter().filter(|(_, since_ms, ..)| since_ms.saturating_add(WATCH_MS / 3) < now_ms).count();
        call_for(t, u32::try_from(late).unwrap_or(u32::MAX), Origin::Unknown, now_ms)?;
        keys::look_after(t, now_ms)?;
        Ok::<_, WorkflowError>(())
    })?;
    keys::forget(now_ms)?;
    transact(super::builds::release)?;
    let is_more = forget(now_ms, keep_runs)?;
    blob::tidy(now_ms)?;
    Ok(is_more)
}

/// When the watch rings next.
fn next_watch(t: &View<'_>, now_ms: u64) -> Result<Option<u64>, WorkflowError> {
    if !READY.of(&()).is_empty(t)? || !LEASES.of(&()).is_empty(t)? || keys::is_any_due(t)? {
        return Ok(Some(now_ms.saturating_add(WATCH_MS)));
    }
    let next_run = ENDED.of(&()).first(t)?.map(|(ended_ms, _)| ended_ms.saturating_add(KEEP_MS));
    let next = [next_run, blob::next_removal(t)?].into_iter().flatten().min();
    Ok(next.map(|at_ms| at_ms.clamp(now_ms.saturating_add(WATCH_MS), now_ms.saturating_add(TIDY_MS))))
}
