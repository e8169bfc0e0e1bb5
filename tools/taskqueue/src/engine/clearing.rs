//! Clearing the queue: as much as fits into the call that asks for it, and the rest by the timer. A task that comes into the queue after the call stays.

use mcpp_tool::store::{Map, Read, StoreError, snapshot, transact};
use serde::{Deserialize, Serialize};

use super::{
    QueueError, alarm,
    bites::{Room, in_bites},
    is_waited_for, upkeep,
    upkeep::Step,
};
use crate::{
    queue::{LISTED, announce},
    record::Status,
    rules,
};

/// The clearing that is under way; none if there is none.
const CLEARING: Map<(), Clearing> = Map::new("clearing");

/// Tasks that are to be cleared, and how far that has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clearing {
    /// Those with one of these statuses.
    pub statuses: Vec<Status>,
    /// When it was asked for, in milliseconds since 1970-01-01 UTC: later tasks stay.
    pub asked_ms: u64,
    /// Tasks that are cleared.
    pub cleared: u64,
    /// Which of the statuses is being gone through.
    at: usize,
    /// The last place in it that was gone through.
    after: Option<(u64, String)>,
}

/// The outcome of a call that clears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleared {
    /// Tasks that it cleared.
    pub cleared: u64,
    /// Whether the timer goes on with more.
    pub goes_on: bool,
}

/// Clears tasks with these statuses; never those that run.
pub fn clear(statuses: &[Status], now_ms: u64) -> Result<Cleared, QueueError> {
    transact(|t| {
        // Another one that is under way is part of this one.
        let mut all = CLEARING.get(t, &())?.map(|known| known.statuses).unwrap_or_default();
        all.extend(statuses);
        all.sort();
        all.dedup();
        let clearing = Clearing { statuses: all, asked_ms: now_ms, cleared: 0, at: 0, after: None };
        CLEARING.set(t, &(), &clearing)?;
        alarm::plan_at(t, now_ms.saturating_add(alarm::SAFETY_MS), now_ms)
    })?;
    let mut room = Room::CLEARING;
    let cleared = go_on(&mut room, now_ms)?;
    let goes_on = transact(|t| {
        let goes_on = is_under_way(t)?;
        if goes_on {
            alarm::plan_at(t, now_ms, now_ms)?;
        }
        Ok::<_, StoreError>(goes_on)
    })?;
    Ok(Cleared { cleared, goes_on })
}

/// The clearing that is under way.
pub fn clearing(t: &mut (impl Read + ?Sized)) -> Result<Option<Clearing>, StoreError> {
    CLEARING.get(t, &())
}

pub(super) fn is_under_way(t: &mut (impl Read + ?Sized)) -> Result<bool, StoreError> {
    Ok(clearing(t)?.is_some())
}

/// One step of the timer.
pub(super) fn step(now_ms: u64) -> Result<Step, QueueError> {
    if !is_under_way(&mut snapshot()?)? {
        return Ok(Step::Done);
    }
    go_on(&mut { Room::CLEARING }, now_ms)?;
    Ok(if is_under_way(&mut snapshot()?)? { Step::More } else { Step::Done })
}

/// Clears as much as there is room for; how many tasks.
fn go_on(room: &mut Room, now_ms: u64) -> Result<u64, QueueError> {
    let mut cleared = 0_u64;
    while room.tasks() > 0 {
        let mut t = snapshot()?;
        let Some(clearing) = CLEARING.get(&mut t, &())? else { break };
        let Some(status) = clearing.statuses.get(clearing.at) else {
            drop(t);
            finish(&clearing)?;
            break;
        };
        let most = u32::try_from(room.tasks()).unwrap_or(u32::MAX);
        let page = LISTED.of(&mut t, &status.as_str().to_owned(), clearing.after.as_ref(), most)?;
        drop(t);
        let places: Vec<(u64, String)> =
            page.into_iter().take_while(|(created, _)| *created <= clearing.asked_ms).collect();
        let ids: Vec<String> = places.iter().map(|(_, id)| id.clone()).collect();
        let done = in_bites(room, &ids, |t, task| clear_task(t, &task, *status, now_ms))?;
        let changed = u64::try_from(done.changed).unwrap_or(u64::MAX);
        cleared = cleared.saturating_add(changed);
        let last = done.gone_through.checked_sub(1).and_then(|last| places.get(last)).cloned();
        let is_over = done.gone_through == places.len();
        if !is_over && last.is_none() {
            break;
        }
        note(&clearing, changed, if is_over && places.is_empty() { None } else { last })?;
    }
    Ok(cleared)
}

/// Notes how far it has come: to a place, or through a status.
fn note(clearing: &Clearing, cleared: u64, place: Option<(u64, String)>) -> Result<(), QueueError> {
    let at = if place.is_some() { clearing.at } else { clearing.at.saturating_add(1) };
    let next = Clearing { at, after: place, cleared: clearing.cleared.saturating_add(cleared), ..clearing.clone() };
    transact(|t| {
        // Another call may have asked for more meanwhile, or the timer have come further: its word counts.
        if CLEARING.get(t, &())?.as_ref() == Some(clearing) { CLEARING.set(t, &(), &next) } else { Ok(()) }
    })?;
    Ok(())
}

fn finish(clearing: &Clearing) -> Result<(), QueueError> {
    transact(|t| {
        if CLEARING.get(t, &())?.as_ref() == Some(clearing) { CLEARING.remove(t, &()).map(drop) } else { Ok(()) }
    })?;
    Ok(())
}

/// Removes one task, if it still has the status; whether it had, and is gone.
fn clear_task(
    t: &mut mcpp_tool::store::Transaction,
    task: &crate::record::Task,
    status: Status,
    now_ms: u64,
) -> Result<bool, QueueError> {
    if task.status() != status {
        return Ok(false);
    }
    let is_waited_for = is_waited_for(t, &task.id)?;
    if status == Status::Queued {
        // Those that wait for it, and those that listen, learn that it is gone.
        let mut cancelled = task.clone();
        rules::cancel(&mut cancelled, "the queue was cleared", false, now_ms)?;
        announce(t, &cancelled)?;
        if is_waited_for {
            upkeep::tell_later(t, &task.id, now_ms)?;
        }
    } else if is_waited_for {
        // Not before those that wait for it know how it ended.
        return Ok(false);
    }
    upkeep::forget_task(t, task, now_ms)?;
    Ok(true)
}
