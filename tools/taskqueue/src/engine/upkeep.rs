//! Upkeep, in small bites, when the queue's one timer wakes. Delayed tasks become ready, leases end, tasks that wait for another learn that it has ended, workers that leave are
//! gone, ended tasks are forgotten, and a clearing goes on.

use mcpp_tool::store::{Index, Read, StoreError, Transaction, Write, snapshot, transact};

use super::{
    QueueError, alarm,
    bites::{Bites, Room, in_bites},
    clearing, is_waited_for, store,
};
use crate::{
    queue::{
        DELAYED, DEPENDENTS, ENDED, HELD, KEYS, LEASED, RELEASING, TASKS, WORKERS, counted, find_sized, save, settings,
    },
    record::{State, Status, Task, Worker},
    rules,
};

/// How soon the timer looks again when a bite was not enough, in milliseconds.
const SOON_MS: u64 = 20;
/// How soon the timer looks again at what could not be done, in milliseconds.
const AGAIN_MS: u64 = 30_000;
/// How often ended tasks are looked at, in milliseconds.
const TIDY_MS: u64 = 60_000;
/// Ended tasks whose dependents one wake of the timer looks after.
const MAX_PARENTS: u32 = 20;

/// Sees to it that the timer wakes when something is due with this task.
pub(super) fn plan(t: &mut (impl Write + ?Sized), task: &Task, now_ms: u64) -> Result<(), StoreError> {
    match &task.state {
        State::Delayed { until_ms } => alarm::plan_at(t, *until_ms, now_ms),
        State::Running(lease) => alarm::plan_at(t, lease.until_ms, now_ms),
        State::Completed | State::Failed | State::Cancelled => {
            let ended_ms = task.finished_ms.unwrap_or(task.updated_ms);
            alarm::plan_at(t, ended_ms.saturating_add(TIDY_MS), now_ms)
        }
        State::Blocked | State::Ready => alarm::revive(t, now_ms),
    }
}

/// The timer has woken: looks after a bite of everything, and sets it again.
pub fn wake(now_ms: u64, chance: f64) -> Result<(), QueueError> {
    // Before anything that may fail: whatever comes of the rest, the timer wakes again.
    transact(|t| alarm::set_for(t, now_ms.saturating_add(alarm::SAFETY_MS)))?;
    let steps = [
        catch_up(&mut { Room::STEP }, &DELAYED, now_ms, chance),
        catch_up(&mut { Room::STEP }, &LEASED, now_ms, chance),
        release(now_ms),
        forget(now_ms),
        clearing::step(now_ms),
        let_go(now_ms),
    ];
    let more = steps.iter().any(|step| matches!(step, Ok(Step::More)));
    let rested = transact(|t| rest(t, more, now_ms));
    // A failure of one step stops no other.
    steps.into_iter().find_map(Result::err).map_or(rested, Err)
}

/// How far a step has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is nothing left that could be done now.
    Done,
    /// It has done something, and there is more.
    More,
}

impl Step {
    /// The progress of `done` through `all`.
    fn of(done: Bites, all: usize) -> Self {
        if done.gone_through < all && done.changed > 0 { Self::More } else { Self::Done }
    }
}

/// Makes a few due tasks ready, and takes back a few that nobody holds any more, before somebody is told that there is nothing.
pub fn look_after(now_ms: u64, chance: f64) -> Result<(), QueueError> {
    for index in [&DELAYED, &LEASED] {
        catch_up(&mut { Room::CLAIM }, index, now_ms, chance)?;
    }
    Ok(())
}

/// Makes due tasks ready, or takes back what nobody holds any more.
fn catch_up(room: &mut Room, index: &Index<(), (u64, String)>, now_ms: u64, chance: f64) -> Result<Step, QueueError> {
    // One more than there is room for, to see whether that is all.
    let most = u32::try_from(room.tasks().saturating_add(1)).unwrap_or(u32::MAX);
    let due = index.of(&mut snapshot()?, &(), None, most)?;
    let due: Vec<String> = due.into_iter().take_while(|(at, _)| *at <= now_ms).map(|(_, id)| id).collect();
    let done = in_bites(room, &due, |t, before| {
        let mut after = before.clone();
        // Since it was found it may have become something else.
        if !rules::expire(&mut after, now_ms, chance) {
            let State::Delayed { until_ms } = after.state else { return Ok(false) };
            if until_ms > now_ms {
                return Ok(false);
            }
            rules::settle(&mut after, 0, now_ms);
        }
        after.fit();
        store(t, &before, &after, now_ms)?;
        Ok(true)
    })?;
    Ok(Step::of(done, due.len()))
}

/// Goes on with telling those that wait for tasks that these have ended.
fn release(now_ms: u64) -> Result<Step, QueueError> {
    let mut room = Room::STEP;
    let parents = RELEASING.of(&mut snapshot()?, &(), None, MAX_PARENTS)?;
    let mut step = if parents.len() == MAX_PARENTS as usize { Step::More } else { Step::Done };
    let mut stuck = 0;
    for parent in parents {
        let mut t = snapshot()?;
        let succeeded = TASKS.get(&mut t, &parent)?.is_some_and(|task| task.status() == Status::Completed);
        let most = u32::try_from(room.tasks().saturating_add(1)).unwrap_or(u32::MAX);
        let children = DEPENDENTS.of(&mut t, &parent, None, most)?;
        drop(t);
        let done = in_bites(&mut room, &children, |t, child| tell(t, &child, &parent, succeeded, now_ms))?;
        stuck += usize::from(done.passed_over > 0);
        if Step::of(done, children.len()) == Step::More {
            step = Step::More;
        }
        transact(|t| {
            let is_done = DEPENDENTS.of(t, &parent, None, 1)?.is_empty();
            if is_done { RELEASING.remove(t, &(), &parent).map(drop) } else { Ok(()) }
        })?;
    }
    // Where nobody gets any further, the timer need not hurry.
    Ok(if stuck == MAX_PARENTS as usize { Step::Done } else { step })
}

/// Tells a task that one that it waits for has ended; whether it had waited.
fn tell(
    t: &mut (impl Write + ?Sized),
    child: &Task,
    parent: &str,
    succeeded: bool,
    now_ms: u64,
) -> Result<bool, QueueError> {
    let mut after = child.clone();
    rules::dependency_ended(&mut after, parent, succeeded, now_ms);
    if after == *child {
        return Ok(false);
    }
    after.fit();
    save(t, Some(child), Some(&after), now_ms)?;
    plan(t, &after, now_ms)?;
    if after.status().is_final() && is_waited_for(t, &after.id)? {
        tell_later(t, &after.id, now_ms)?;
    }
    Ok(true)
}

/// Has the timer tell those that wait for a task.
pub(super) fn tell_later(t: &mut (impl Write + ?Sized), id: &str, now_ms: u64) -> Result<(), StoreError> {
    RELEASING.insert(t, &(), &id.to_owned())?;
    alarm::plan_at(t, now_ms, now_ms)
}

/// Tells those that wait for a task that it has ended, a few of them in the transaction in which it did; the timer tells the others.
pub(super) fn tell_dependents(
    t: &mut (impl Write + ?Sized),
    id: &str,
    succeeded: bool,
    now_ms: u64,
) -> Result<(), QueueError> {
    let mut room = Room::FOLLOWING;
    let most = u32::try_from(room.tasks().saturating_add(1)).unwrap_or(u32::MAX);
    for child in DEPENDENTS.of(t, &id.to_owned(), None, most)? {
        let child = match find_sized(t, &child) {
            Ok(Some((child, bytes))) if room.take(bytes) => child,
            Ok(None) => continue,
            // No room, or it cannot be read: the timer passes over what it cannot change.
            Ok(Some(_)) | Err(StoreError::Unreadable) => return Ok(tell_later(t, id, now_ms)?),
            Err(error) => return Err(error.into()),
        };
        tell(t, &child, id, succeeded, now_ms)?;
    }
    Ok(())
}

/// Forgets ended tasks that are too old or too many, unless something still waits for them or they have only just ended.
fn forget(now_ms: u64) -> Result<Step, QueueError> {
    let mut room = Room::STEP;
    let mut t = snapshot()?;
    let (mut too_many, keep_ms) = (surplus(&mut t)?, settings(&mut t)?.keep_ms);
    let most = u32::try_from(room.tasks().saturating_add(1)).unwrap_or(u32::MAX);
    let oldest = ENDED.of(&mut t, &(), None, most)?;
    drop(t);
    let is_over = |(at, _): &(u64, String)| {
        let kept = if too_many > 0 { TIDY_MS } else { keep_ms.max(TIDY_MS) };
        too_many = too_many.saturating_sub(1);
        at.saturating_add(kept) <= now_ms
    };
    let old: Vec<String> = oldest.into_iter().take_while(is_over).map(|(_, id)| id).collect();
    let done = in_bites(&mut room, &old, |t, task| {
        // More had waited than were told at once.
        if !task.status().is_final() || is_waited_for(t, &task.id)? {
            return Ok(false);
        }
        forget_task(t, &task, now_ms)?;
        Ok(true)
    })?;
    Ok(Step::of(done, old.len()))
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
pub(super) fn forget_task(t: &mut (impl Write + ?Sized), task: &Task, now_ms: u64) -> Result<(), QueueError> {
    if let Some(key) = &task.spec.idempotency_key {
        KEYS.remove(t, key)?;
    }
    Ok(save(t, Some(task), None, now_ms)?)
}

/// Workers that have had the time to leave are gone, and their tasks taken back.
fn let_go(now_ms: u64) -> Result<Step, QueueError> {
    let mut room = Room::STEP;
    let mut step = Step::Done;
    for worker in super::all_workers(&mut snapshot()?)? {
        let Some(leaves_ms) = worker.leaves_ms else { continue };
        if leaves_ms <= now_ms {
            let most = u32::try_from(room.tasks().saturating_add(1)).unwrap_or(u32::MAX);
            let held = HELD.of(&mut snapshot()?, &worker.id, None, most)?;
            let done = in_bites(&mut room, &held, |t, task| take_back(t, &task, &worker.id, now_ms))?;
            if Step::of(done, held.len()) == Step::More {
                step = Step::More;
            }
        }
        if leaves_ms <= now_ms || worker.running == 0 {
            transact(|t| forget_worker(t, &worker.id))?;
        }
    }
    Ok(step)
}

/// Takes a task back from a worker; whether that had it.
fn take_back(t: &mut (impl Write + ?Sized), task: &Task, worker: &str, now_ms: u64) -> Result<bool, QueueError> {
    if task.worker() != Some(worker) {
        return Ok(false);
    }
    let mut after = task.clone();
    rules::release(&mut after, rules::Claim::default(), "worker unregistered", now_ms)?;
    after.fit();
    store(t, task, &after, now_ms)?;
    Ok(true)
}

/// Forgets a worker that is leaving and has nothing any more.
fn forget_worker(t: &mut Transaction, worker: &String) -> Result<(), QueueError> {
    let is_leaving = WORKERS.get(t, worker)?.is_some_and(|worker| worker.leaves_ms.is_some());
    if is_leaving && HELD.of(t, worker, None, 1)?.is_empty() {
        WORKERS.remove(t, worker)?;
    }
    Ok(())
}

/// Takes back a few of the tasks of a worker that leaves, if its time is over; whether it has nothing any more, and is forgotten.
pub(super) fn let_go_of(t: &mut (impl Write + ?Sized), worker: &Worker, now_ms: u64) -> Result<bool, QueueError> {
    if worker.leaves_ms.is_some_and(|leaves| leaves <= now_ms) {
        let mut room = Room::FOLLOWING;
        let most = u32::try_from(room.tasks()).unwrap_or(u32::MAX);
        for id in HELD.of(t, &worker.id, None, most)? {
            let task = match find_sized(t, &id) {
                Ok(Some((task, bytes))) if room.take(bytes) => task,
                Ok(None) => continue,
                Ok(Some(_)) | Err(StoreError::Unreadable) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            take_back(t, &task, &worker.id, now_ms)?;
        }
    }
    let is_gone = HELD.of(t, &worker.id, None, 1)?.is_empty();
    if is_gone {
        WORKERS.remove(t, &worker.id)?;
    }
    Ok(is_gone)
}

/// Sets the timer for when something is due next.
fn rest(t: &mut Transaction, more: bool, now_ms: u64) -> Result<(), QueueError> {
    if more {
        return Ok(alarm::set_for(t, now_ms.saturating_add(SOON_MS))?);
    }
    let mut next: Option<u64> = None;
    let mut due_at = |at: u64| next = Some(next.map_or(at, |next| next.min(at)));
    let kept_ms = if surplus(t)? > 0 { TIDY_MS } else { settings(t)?.keep_ms.max(TIDY_MS) };
    for (index, after_ms) in [(&DELAYED, 0), (&LEASED, 0), (&ENDED, kept_ms)] {
        let at = |found: Vec<(u64, String)>| found.first().map(|(at, _)| at.saturating_add(after_ms));
        if at(index.of(t, &(), None, 1)?).is_some_and(|at| at <= now_ms) {
            // It could not be done.
            due_at(now_ms.saturating_add(AGAIN_MS));
        }
        let later = (now_ms.saturating_sub(after_ms).saturating_add(1), String::new());
        at(index.of(t, &(), Some(&later), 1)?).into_iter().for_each(&mut due_at);
    }
    if !RELEASING.of(t, &(), None, 1)?.is_empty() || clearing::is_under_way(t)? {
        due_at(now_ms.saturating_add(AGAIN_MS));
    }
    for worker in super::all_workers(t)? {
        let again_ms = now_ms.saturating_add(AGAIN_MS);
        worker.leaves_ms.into_iter().for_each(|leaves| due_at(if leaves > now_ms { leaves } else { again_ms }));
    }
    match next {
        Some(at) => Ok(alarm::set_for(t, at)?),
        None => Ok(alarm::cancel(t)?),
    }
}
