//! What the timers do: a node's time, the rest of what was too much for a transaction, leases of handlers that are gone, and runs that ended long ago.

use mcpp_tool::{
    environment::now_ms as clock_ms,
    store::{Alarm, Budget, Key, Map, Prefix, StoreError, Transaction, View, bites, transact},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Origin, WorkflowError, call_for, go_on,
    rehearsal::{self, CALLED},
    tell_blocked,
    work::work,
};
use crate::{
    blob,
    run::{Node, Number, Phase, Run, State},
    scheduler,
    store::{DEFINITIONS, ENDED, GIVEN, INPUTS, ITEM, ITEMS, LEASES, NODES, READY, RESULTS, RUNS, StoredNodes},
};

/// How long an ended run is kept, in milliseconds: seven days.
pub const KEEP_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// How many ended runs are kept.
const KEEP_RUNS: i64 = 100_000;
/// How often leases, and nodes that no handler takes, are looked at while there are any, in milliseconds.
const WATCH_MS: u64 = 30_000;
/// How often ended runs are looked at, in milliseconds.
const TIDY_MS: u64 = 3_600_000;
/// What one ring of the watch changes.
const STEP: Budget = Budget { entries: 200, bytes: 8 << 20, ..Budget::UNBOUNDED };
/// Rows of a run that one transaction removes.
const REMOVED: usize = 300;

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
        return WATCH.ring(now, || look_after(now), |t| next_watch(t, now));
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
            transact(|t| {
                change(t, id, origin, now, |run, nodes| Ok(scheduler::ring(run, nodes, number, now)?)).map(drop)
            })?;
        }
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

/// Gives back nodes of handlers that are gone, calls for handlers where none came, and removes what is old.
fn look_after(now_ms: u64) -> Result<(), WorkflowError> {
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
    forget(now_ms, KEEP_RUNS)?;
    Ok(blob::tidy(now_ms)?)
}

/// Removes runs that ended long ago, or are more than `most`.
pub(super) fn forget(now_ms: u64, most: i64) -> Result<(), WorkflowError> {
    for _ in 0..20 {
        let is_more = transact(|t| {
            let Some((ended_ms, id)) = ENDED.of(&()).first(t)? else { return Ok(false) };
            let is_old = ended_ms.saturating_add(KEEP_MS) < now_ms;
            let ended = ["completed", "failed", "cancelled"];
            let count = |sum: i64, status: &&str| {
                Ok::<_, StoreError>(sum.saturating_add(crate::store::LISTED_COUNTS.get(t, &(*status, ""))?))
            };
            if !is_old && ended.iter().try_fold(0, count)? <= most {
                return Ok(false);
            }
            remove(t, &id, now_ms)?;
            Ok::<_, WorkflowError>(true)
        })?;
        if !is_more {
            break;
        }
    }
    Ok(())
}

/// Removes rows of a run, and the run itself with the last of them.
fn remove(t: &Transaction<'_>, id: &String, now_ms: u64) -> Result<(), StoreError> {
    let numbers: Vec<Number> = NODES
        .under(&(id,))
        .most(REMOVED / 3)
        .walk(t)
        .map(|row| row.map(|((_, number), _)| number))
        .collect::<Result<_, _>>()?;
    for number in &numbers {
        NODES.remove(t, &(id.clone(), *number))?;
        RESULTS.remove(t, &(id, *number))?;
        blob::forget(t, (id, *number), now_ms)?;
        INPUTS.remove(t, &(id, *number))?;
        ITEMS.remove(t, &(id, *number))?;
    }
    let given = remove_under(t, &GIVEN, id, REMOVED)?;
    let items = remove_under(t, &ITEM, id, REMOVED / 3)?;
    let called = remove_under(t, &CALLED, id, REMOVED)?;
    if numbers.is_empty() && [given, items, called] == [0; 3] {
        rehearsal::forget(t, id)?;
        INPUTS.remove(t, &(id, crate::store::ROOT))?;
        DEFINITIONS.remove(t, id)?;
        RUNS.remove(t, id)?;
    }
    Ok(())
}

/// Removes what a map has of a run, at most so many entries; how many it were.
fn remove_under<K: Key, V: Serialize + DeserializeOwned>(
    t: &Transaction<'_>,
    map: &Map<K, V>,
    id: &String,
    most: usize,
) -> Result<usize, StoreError>
where
    for<'a> (&'a String,): Prefix<K>,
{
    let keys: Vec<K> =
        map.under(&(id,)).most(most).walk(t).map(|row| row.map(|(key, _)| key)).collect::<Result<_, _>>()?;
    for key in &keys {
        t.discard(&map.key(key))?;
    }
    Ok(keys.len())
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

/// What an unfinished run waits for next, in words; none if nothing will happen to it any more.
///
/// # Errors
/// See [`StoreError`].
pub fn next_event(t: &View<'_>, run: &Run) -> Result<Option<String>, StoreError> {
    let said = |text: &str| Ok(Some(text.to_owned()));
    match run.phase {
        Phase::Completed | Phase::Failed | Phase::Cancelled => return said("it has ended"),
        Phase::UndoFailed => return said("an operator: `workflow_retry`, or `workflow_cancel` with `force`"),
        Phase::Blocked if !run.waits_for.is_empty() => {
            return Ok(Some(format!("the end of {}", run.waits_for.join(", "))));
        }
        _ => {}
    }
    if run.paused_ms.is_some() && !run.held.is_empty() {
        return said("`workflow_resume`");
    }
    if !run.untold.is_empty() || !run.to_cancel.is_empty() || run.cancelling.is_some() {
        return said("its timer, for what follows from steps that ended");
    }
    // Mostly the node that was taken last has not ended: then no other need be looked at.
    let taken = run.taken.map(|number| NODES.get(t, &(&run.id, number))).transpose()?.flatten();
    if let Some(said) = taken.as_ref().and_then(next_of) {
        return Ok(Some(said));
    }
    for row in NODES.under(&(&run.id,)).walk(t) {
        if let Some(said) = next_of(&row?.1) {
            return Ok(Some(said));
        }
    }
    Ok(None)
}

/// What a node waits for, in words; none if it waits for other nodes, or has ended.
fn next_of(node: &Node) -> Option<String> {
    let next = match &node.state {
        State::Ready | State::Undoing { claim: None } => "a handler that takes it",
        State::Running { .. } | State::Undoing { claim: Some(_) } => "the end of its call",
        State::Delayed { .. } | State::UndoDelayed { .. } => "its next attempt",
        State::Waiting { signal: None, token: None, .. } => "its time",
        State::Waiting { .. } => "a signal",
        State::Held => "`workflow_resume`",
        _ => return None,
    };
    Some(format!("{}: {next}", node.path))
}
