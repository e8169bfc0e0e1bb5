//! What happens by itself: delayed tasks become ready, leases end, workers that leave are gone, ended tasks are forgotten. In small bites, when the queue's one timer wakes.

use mcpp_tool::store::{Map, Read, StoreError, Write};

use super::{QueueError, is_waited_for, release, store};
use crate::{
    queue::{DELAYED, DEPENDENTS, ENDED, HELD, KEYS, LEASED, RELEASING, TASKS, WORKERS, counted, save, settings},
    record::{State, Status, Task, Worker},
    rules,
};

/// Tasks of each kind that a claim looks after by the way.
pub(super) const BITE_OF_A_CLAIM: u32 = 8;
/// Tasks of each kind that the timer looks after at once.
const BITE: u32 = 50;
/// How soon the timer looks again when a bite was not enough, in milliseconds.
const SOON_MS: u64 = 20;
/// How often ended tasks are looked at, in milliseconds.
const TIDY_MS: u64 = 60_000;
/// The key of the queue's timer.
const TIMER: &str = "upkeep";
/// When the timer is set for, in milliseconds since 1970-01-01 UTC; none if it is not.
const WAKE: Map<(), u64> = Map::new("wake");
/// Tasks that are released or failed with one that has ended, in its own transaction; the timer goes on with more.
const MAX_DEPENDENTS: u32 = 200;

/// Sees to it that the timer wakes when something is due with this task.
pub(super) fn plan(t: &mut (impl Write + ?Sized), task: &Task) -> Result<(), StoreError> {
    match &task.state {
        State::Delayed { until_ms } => plan_at(t, *until_ms),
        State::Running(lease) => plan_at(t, lease.until_ms),
        State::Completed | State::Failed | State::Cancelled => {
            plan_at(t, task.finished_ms.unwrap_or(task.updated_ms).saturating_add(TIDY_MS))
        }
        State::Blocked | State::Ready => Ok(()),
    }
}

/// Sets the timer, if it is not set for an earlier time.
pub(super) fn plan_at(t: &mut (impl Write + ?Sized), at_ms: u64) -> Result<(), StoreError> {
    if WAKE.get(t, &())?.is_some_and(|set| set <= at_ms) {
        return Ok(());
    }
    WAKE.set(t, &(), &at_ms)?;
    t.wake_at(TIMER, at_ms, b"")
}

/// The timer has woken: looks after a bite of everything, and sets it again.
pub fn wake(t: &mut (impl Write + ?Sized), now_ms: u64, chance: f64) -> Result<(), QueueError> {
    WAKE.remove(t, &())?;
    upkeep(t, now_ms, chance)
}

/// Looks after a bite of everything.
pub fn upkeep(t: &mut (impl Write + ?Sized), now_ms: u64, chance: f64) -> Result<(), QueueError> {
    let caught_up = catch_up(t, BITE, now_ms, chance)?;
    let tidy = forget(t, now_ms)?;
    let gone = let_go(t, now_ms)?;
    if !(caught_up && tidy && gone) {
        plan_at(t, now_ms.saturating_add(SOON_MS))?;
    } else if let Some(next) = next_due(t)? {
        plan_at(t, next.max(now_ms))?;
    }
    Ok(())
}

/// Makes due tasks ready and takes back what nobody holds any more: at most `bite` of each; whether that was all.
pub(super) fn catch_up(t: &mut (impl Write + ?Sized), bite: u32, now_ms: u64, chance: f64) -> Result<bool, QueueError> {
    let mut all = true;
    for parent in RELEASING.of(t, &(), None, 1)? {
        RELEASING.remove(t, &(), &parent)?;
        release_dependents(t, &parent, now_ms)?;
        all = false;
    }
    for index in [&DELAYED, &LEASED] {
        let due = index.of(t, &(), None, bite)?;
        all &= due.len() < bite as usize || due.last().is_some_and(|(at, _)| *at > now_ms);
        for (_, id) in due.into_iter().filter(|(at, _)| *at <= now_ms) {
            let Some(before) = TASKS.get(t, &id)? else { continue };
            let mut after = before.clone();
            if !rules::expire(&mut after, now_ms, chance) {
                rules::settle(&mut after, 0, now_ms);
            }
            store(t, &before, &after, now_ms)?;
        }
    }
    Ok(all)
}

/// Tells those that wait for a task that it has ended. What they come to may end others.
pub(super) fn release_dependents(t: &mut (impl Write + ?Sized), id: &str, now_ms: u64) -> Result<(), QueueError> {
    let mut ended = vec![id.to_owned()];
    let mut told = 0_u32;
    while let Some(parent) = ended.pop() {
        if told == MAX_DEPENDENTS {
            RELEASING.insert(t, &(), &parent)?;
            continue;
        }
        let succeeded = TASKS.get(t, &parent)?.is_some_and(|task| task.status() == Status::Completed);
        for child in DEPENDENTS.of(t, &parent, None, MAX_DEPENDENTS)? {
            if told == MAX_DEPENDENTS {
                RELEASING.insert(t, &(), &parent)?;
                plan_at(t, now_ms.saturating_add(SOON_MS))?;
                break;
            }
            told = told.saturating_add(1);
            let Some(before) = TASKS.get(t, &child)? else { continue };
            let mut after = before.clone();
            rules::dependency_ended(&mut after, &parent, succeeded, now_ms);
            save(t, Some(&before), Some(&after), now_ms)?;
            if after.status().is_final() {
                plan(t, &after)?;
                ended.push(child);
            }
        }
    }
    Ok(())
}

/// Forgets ended tasks that are too old or too many, unless something still waits for them or they have only just ended; whether that was all.
fn forget(t: &mut (impl Write + ?Sized), now_ms: u64) -> Result<bool, QueueError> {
    let mut too_many = surplus(t)?;
    let keep_ms = settings(t)?.keep_ms;
    let oldest = ENDED.of(t, &(), None, BITE)?;
    let bite_was_full = oldest.len() >= BITE as usize;
    let mut forgotten = 0_u32;
    for (at, id) in oldest {
        let kept = if too_many > 0 { TIDY_MS } else { keep_ms.max(TIDY_MS) };
        if at.saturating_add(kept) > now_ms {
            return Ok(true);
        }
        // More had waited than were told at once.
        if is_waited_for(t, &id)? {
            continue;
        }
        too_many = too_many.saturating_sub(1);
        forgotten = forgotten.saturating_add(1);
        forget_task(t, &id, now_ms)?;
    }
    Ok(!bite_was_full || forgotten == 0)
}

/// How many more ended tasks there are than are kept.
fn surplus(t: &mut (impl Read + ?Sized)) -> Result<u64, StoreError> {
    let mut ended = 0_u64;
    for status in [Status::Completed, Status::Failed, Status::Cancelled] {
        ended = ended.saturating_add(counted(t, status)?);
    }
    Ok(ended.saturating_sub(settings(t)?.keep_tasks))
}

/// Forgets one task.
pub fn forget_task(t: &mut (impl Write + ?Sized), id: &str, now_ms: u64) -> Result<(), QueueError> {
    let Some(task) = TASKS.get(t, &id.to_owned())? else { return Ok(()) };
    if let Some(key) = &task.spec.idempotency_key {
        KEYS.remove(t, key)?;
    }
    Ok(save(t, Some(&task), None, now_ms)?)
}

/// Workers that have had the time to leave are gone, and their tasks taken back; whether that was all.
fn let_go(t: &mut (impl Write + ?Sized), now_ms: u64) -> Result<bool, QueueError> {
    for worker in super::all_workers(t)? {
        let is_over = worker.leaves_ms.is_some_and(|leaves| leaves <= now_ms || worker.running == 0);
        if is_over && !let_go_of(t, &worker, now_ms)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes back a bite of what a leaving worker has, if its time is over; whether it has nothing any more, and is forgotten.
pub(super) fn let_go_of(t: &mut (impl Write + ?Sized), worker: &Worker, now_ms: u64) -> Result<bool, QueueError> {
    if worker.leaves_ms.is_some_and(|leaves| leaves <= now_ms) {
        for id in HELD.of(t, &worker.id, None, BITE)? {
            release(t, &id, rules::Claim::default(), "worker unregistered", now_ms)?;
        }
    }
    let is_gone = HELD.of(t, &worker.id, None, 1)?.is_empty();
    if is_gone {
        WORKERS.remove(t, &worker.id)?;
    }
    Ok(is_gone)
}

/// When something is due next.
fn next_due(t: &mut (impl Read + ?Sized)) -> Result<Option<u64>, StoreError> {
    let mut due = Vec::new();
    for index in [&DELAYED, &LEASED] {
        due.extend(index.of(t, &(), None, 1)?.into_iter().map(|(at, _)| at));
    }
    let kept = if surplus(t)? > 0 { TIDY_MS } else { settings(t)?.keep_ms.max(TIDY_MS) };
    due.extend(ENDED.of(t, &(), None, 1)?.into_iter().map(|(at, _)| at.saturating_add(kept)));
    for worker in super::all_workers(t)? {
        due.extend(worker.leaves_ms);
    }
    Ok(due.into_iter().min())
}
