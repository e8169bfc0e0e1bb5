//! Upkeep, in small bites, when the queue's one alarm rings. Delayed tasks become ready, leases end, tasks that wait for another learn that it has ended, workers that leave are
//! gone, ended tasks are forgotten, and work in the background goes on.

use mcpp_tool::store::{Alarm, Budget, Span, StoreError, Transaction, View, bites, snapshot, transact};

use super::{QueueError, all_workers, bulk, is_waited_for, keep, save, store, turns, workers};
use crate::{
    queue::{DEPENDENTS, DUE, DuePlace, ENDED, RELEASING, TASKS, TaskKey, counted, find, settings},
    record::{State, Status, Task},
    rules, statistics,
};

/// The queue's alarm. It is set for the earliest time at which something is due.
pub(crate) const UPKEEP: Alarm = Alarm::new("upkeep");
/// How soon the alarm rings again when a bite was not enough, in milliseconds.
const SOON_MS: u64 = 20;
/// How soon it rings again for what could not be done, in milliseconds.
const AGAIN_MS: u64 = 30_000;
/// How often ended tasks are looked at, in milliseconds.
const TIDY_MS: u64 = 60_000;
/// Ended tasks whose dependents one ring of the alarm looks after.
const MAX_PARENTS: usize = 20;

/// The room of a claim for other tasks, by the way: a few tasks.
const CLAIM: Budget = Budget { entries: 8, bytes: 4 << 20, ..Budget::UNBOUNDED };
/// One step of the alarm. Its seven steps together stay within a call's default budgets, 64 MiB and 100,000 host calls.
pub(super) const STEP: Budget = Budget { entries: 100, bytes: 8 << 20, ..Budget::UNBOUNDED };
/// Changes that follow from a change within its own transaction: small enough to leave room for the largest record that was changed.
pub(super) const FOLLOWING_TASKS: usize = 16;
/// Bytes that those read and write.
pub(super) const FOLLOWING_BYTES: u64 = 256 << 10;

/// Sees to it that the alarm rings when something is due with one of these tasks.
pub(super) fn plan(t: &Transaction<'_>, tasks: &[Task], now_ms: u64) -> Result<(), StoreError> {
    let due = |task: &Task| match &task.state {
        State::Delayed { until_ms } => Some(*until_ms),
        State::Running(lease) => Some(lease.until_ms),
        State::Completed | State::Failed | State::Cancelled => {
            Some(task.finished_ms.unwrap_or(task.updated_ms).saturating_add(TIDY_MS))
        }
        State::Blocked | State::Held | State::Ready => None,
    };
    match tasks.iter().filter_map(due).min() {
        Some(at_ms) => UPKEEP.by(t, at_ms, now_ms),
        None => UPKEEP.revive(t, now_ms),
    }
}

/// The alarm rings: looks after a bite of everything, and sets it again.
pub fn wake(now_ms: u64, chance: f64) -> Result<(), QueueError> {
    let more = std::cell::Cell::new(false);
    let work = || {
        let steps = [
            catch_up(&mut { STEP }, false, now_ms, chance),
            catch_up(&mut { STEP }, true, now_ms, chance),
            turns::catch_up(now_ms),
            release(&mut { STEP }, now_ms),
            forget(&mut { STEP }, now_ms),
            bulk::step(now_ms),
            workers::let_go(&mut { STEP }, now_ms),
        ];
        more.set(steps.iter().any(|step| matches!(step, Ok(true))));
        // A failure of one step stops no other.
        steps.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    };
    UPKEEP.ring(
        now_ms,
        work,
        |t| {
            if more.get() { Ok(Some(now_ms.saturating_add(SOON_MS))) } else { next_due(t, now_ms) }
        },
    )
}

/// Makes a few due tasks ready, and takes back a few that nobody holds any more, before somebody is told that there is nothing.
pub fn look_after(now_ms: u64, chance: f64) -> Result<(), QueueError> {
    // One snapshot tells that there is nothing to do, as there is most of the time.
    let (delays, leases, rates) = {
        let t = snapshot()?;
        (!due(false, now_ms).is_empty(&t)?, !due(true, now_ms).is_empty(&t)?, turns::is_due(&t, now_ms)?)
    };
    if delays {
        catch_up(&mut { CLAIM }, false, now_ms, chance)?;
    }
    if leases {
        catch_up(&mut { CLAIM }, true, now_ms, chance)?;
    }
    if rates { turns::catch_up(now_ms).map(drop) } else { Ok(()) }
}

/// Delayed tasks, or running ones, with which something is due.
fn due(is_leased: bool, now_ms: u64) -> Span<DuePlace> {
    DUE.of(&is_leased).below(&(now_ms.saturating_add(1),))
}

/// Makes due tasks ready, or takes back what nobody holds any more; whether there is more.
fn catch_up(budget: &mut Budget, is_leased: bool, now_ms: u64, chance: f64) -> Result<bool, QueueError> {
    let change = |t: &Transaction<'_>, (_, created_ms, id): DuePlace| {
        let Some(before) = TASKS.get(t, &(created_ms, id))? else { return Ok(false) };
        let mut after = before.clone();
        // Since it was found it may have become something else.
        if !rules::expire(&mut after, now_ms, chance) && !rules::delay_ended(&mut after, now_ms) {
            return Ok(false);
        }
        store(t, &before, &after, now_ms)?;
        Ok(true)
    };
    Ok(bites::<_, _, QueueError>(budget, &due(is_leased, now_ms), change)?.is_worth_more())
}

/// Goes on with telling those that wait for tasks that these have ended.
fn release(budget: &mut Budget, now_ms: u64) -> Result<bool, QueueError> {
    let parents: Vec<String> = RELEASING.of(&()).most(MAX_PARENTS).collect(&snapshot()?)?;
    let (mut more, mut stuck) = (parents.len() == MAX_PARENTS, 0_usize);
    for parent in parents {
        let succeeded = find(&snapshot()?, &parent)?.is_some_and(|task| task.status() == Status::Completed);
        let children = DEPENDENTS.of(&parent);
        let told = bites(budget, &children, |t, child| tell(t, &child, &parent, succeeded, now_ms))?;
        stuck = stuck.saturating_add(usize::from(told.passed_over > 0));
        more |= told.is_worth_more();
        transact(|t| if children.is_empty(t)? { RELEASING.remove(t, &(), &parent).map(drop) } else { Ok(()) })?;
    }
    // Where nobody gets any further, the alarm need not hurry.
    Ok(more && stuck < MAX_PARENTS)
}

/// Tells a task that one that it waits for has ended; whether it had waited.
fn tell(t: &Transaction<'_>, child: &TaskKey, parent: &str, succeeded: bool, now_ms: u64) -> Result<bool, QueueError> {
    let Some(before) = TASKS.get(t, child)? else { return Ok(false) };
    told(t, &before, parent, succeeded, now_ms)
}

fn told(t: &Transaction<'_>, before: &Task, parent: &str, succeeded: bool, now_ms: u64) -> Result<bool, QueueError> {
    let mut after = before.clone();
    rules::dependency_ended(&mut after, parent, succeeded, now_ms);
    if after == *before {
        return Ok(false);
    }
    keep(t, before, &after, now_ms)?;
    if after.status().is_final() && is_waited_for(t, &after.id)? {
        tell_later(t, &after.id, now_ms)?;
    }
    Ok(true)
}

/// Has the alarm tell those that wait for a task.
pub(super) fn tell_later(t: &Transaction<'_>, id: &str, now_ms: u64) -> Result<(), StoreError> {
    RELEASING.insert(t, &(), id)?;
    UPKEEP.by(t, now_ms, now_ms)
}

/// Tells those that wait for a task that it has ended, a few of them in the transaction in which it did; the alarm tells the others.
pub(super) fn tell_dependents(t: &Transaction<'_>, id: &str, succeeded: bool, now_ms: u64) -> Result<(), QueueError> {
    if DEPENDENTS.all().is_empty(t)? {
        // The usual case, which a transaction looks for once.
        return Ok(());
    }
    let begun = t.spent().bytes;
    for (number, child) in DEPENDENTS.of(id).most(FOLLOWING_TASKS.saturating_add(1)).walk(t).enumerate() {
        let child = match TASKS.get(t, &child?) {
            Ok(Some(child)) if number < FOLLOWING_TASKS => child,
            Ok(None) => continue,
            // No room, or it cannot be read: the alarm passes over what it cannot change.
            Ok(Some(_)) | Err(StoreError::Unreadable) => return Ok(tell_later(t, id, now_ms)?),
            Err(error) => return Err(error.into()),
        };
        if t.spent().bytes.saturating_sub(begun) > FOLLOWING_BYTES {
            return Ok(tell_later(t, id, now_ms)?);
        }
        told(t, &child, id, succeeded, now_ms)?;
    }
    Ok(())
}

/// Forgets ended tasks that are too old or too many, unless something still waits for them or they have only just ended.
fn forget(budget: &mut Budget, now_ms: u64) -> Result<bool, QueueError> {
    transact(|t| statistics::forget(t, now_ms))?;
    let (too_many, keep_ms) = {
        let t = snapshot()?;
        (surplus(&t)?, settings(&t)?.keep_ms.max(TIDY_MS))
    };
    let ended_before = |kept_ms: u64| ENDED.of(&()).below(&(now_ms.saturating_sub(kept_ms).saturating_add(1),));
    let mut change = |t: &Transaction<'_>, (_, created_ms, id): DuePlace| {
        let Some(task) = TASKS.get(t, &(created_ms, id))? else { return Ok(false) };
        // More had waited than were told at once.
        if !task.status().is_final() || is_waited_for(t, &task.id)? {
            return Ok(false);
        }
        save(t, Some(&task), None, now_ms)?;
        Ok::<_, QueueError>(true)
    };
    let mut of_surplus =
        Budget { entries: budget.entries.min(usize::try_from(too_many).unwrap_or(usize::MAX)), ..*budget };
    let surplus = bites(&mut of_surplus, &ended_before(TIDY_MS), &mut change)?;
    budget.entries = budget.entries.saturating_sub(surplus.entries);
    budget.bytes = of_surplus.bytes;
    let more = surplus.is_worth_more() && too_many > u64::try_from(surplus.changed).unwrap_or(u64::MAX);
    Ok(more | bites(budget, &ended_before(keep_ms), change)?.is_worth_more())
}

/// How many more ended tasks there are than are kept.
fn surplus(t: &View<'_>) -> Result<u64, StoreError> {
    let ended = [Status::Completed, Status::Failed, Status::Cancelled];
    let ended = ended
        .into_iter()
        .try_fold(0_u64, |sum, status| Ok::<_, StoreError>(sum.saturating_add(counted(t, status)?)))?;
    Ok(ended.saturating_sub(settings(t)?.keep_tasks))
}

/// When something is due next.
fn next_due(t: &Transaction<'_>, now_ms: u64) -> Result<Option<u64>, QueueError> {
    let mut next: Option<u64> = None;
    let mut due_at = |at: u64| next = Some(next.map_or(at, |next| next.min(at)));
    let again_ms = now_ms.saturating_add(AGAIN_MS);
    let kept_ms = if surplus(t)? > 0 { TIDY_MS } else { settings(t)?.keep_ms.max(TIDY_MS) };
    for (index, after_ms) in [(DUE.of(&false), 0), (DUE.of(&true), 0), (ENDED.of(&()), kept_ms)] {
        let is_past = (now_ms.saturating_sub(after_ms).saturating_add(1),);
        if !index.clone().below(&is_past).is_empty(t)? {
            // It could not be done.
            due_at(again_ms);
        }
        if let Some((at, ..)) = index.from(&is_past).first(t)? {
            due_at(at.saturating_add(after_ms));
        }
    }
    if let Some(at) = turns::next_due(t)? {
        due_at(if at > now_ms { at } else { again_ms });
    }
    if !RELEASING.of(&()).is_empty(t)? || bulk::is_under_way(t)? {
        due_at(again_ms);
    }
    for leaves_ms in all_workers(t)?.into_iter().filter_map(|worker| worker.leaves_ms) {
        due_at(if leaves_ms > now_ms { leaves_ms } else { again_ms });
    }
    Ok(next)
}
