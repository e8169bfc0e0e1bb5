//! Claimers that wait for work. Each has an entry of its own, so that a task that becomes ready wakes exactly one claimer that may have it; where no claimer waits, a task
//! costs one look.

use std::time::{Duration, Instant};

use mcpp_tool::{
    environment::{chance, id, millis, now_ms},
    store::{Index, Map, StoreError, Transaction, snapshot, transact, wait},
};

use super::{ClaimRequest, QueueError, claim_many, look_after};
use crate::{
    queue::{ANY_TYPE, canonical_type, lane},
    record::{State, Task},
};

/// The shortest and the longest time after which a claimer looks by itself, in seconds: it may have been woken for a task that another one got.
const LOOK_S: (f64, f64) = (5.0, 10.0);
/// Claimers whose patience is long over that a claimer forgets when it begins to wait.
const MOST_FORGOTTEN: usize = 4;
/// Claimers that are woken at once where all of them may find something.
const MOST_WOKEN: usize = 100;

/// When a claimer's patience is over, in milliseconds since 1970-01-01 UTC, and an id of its own.
pub(crate) type Waiter = (u64, String);

/// Claimers that wait, and the groups of ready tasks that they may have.
const WAITERS: Map<Waiter, Vec<(String, String)>> = Map::new("waiter");
/// Claimers by the groups of ready tasks that they may have.
const ARMED: Index<(String, String), Waiter> = Index::new("armed");

/// Claims at most `most` tasks; where there are none, as soon as there are some, or until the patience or the call's time is over.
pub fn claim_or_wait(request: &ClaimRequest<'_>, most: usize, patience: Duration) -> Result<Vec<Task>, QueueError> {
    let begun = Instant::now();
    let me = (now_ms().saturating_add(millis(patience)), id());
    let mut may_wait = !patience.is_zero();
    loop {
        let now = now_ms();
        look_after(now, chance())?;
        let left = patience.saturating_sub(begun.elapsed());
        may_wait &= !left.is_zero();
        let claimed = transact(|t| {
            let claimed = claim_many(t, request, most, now)?;
            match claimed.is_empty() && may_wait {
                true => arm(t, &me, request, now)?,
                false if patience.is_zero() => {}
                false => dismiss(t, &me)?,
            }
            Ok::<_, QueueError>(claimed)
        })?;
        if !claimed.is_empty() || !may_wait {
            return Ok(claimed);
        }
        may_wait = sleep(&me, left)?;
    }
}

/// Waits until the claimer is woken or looks by itself; false if the call's time is over.
fn sleep(me: &Waiter, left: Duration) -> Result<bool, StoreError> {
    /// How much sooner than asked a wait may end without being the last one.
    const EARLY: Duration = Duration::from_millis(50);
    let (_, version) = WAITERS.get_versioned(&snapshot()?, me)?;
    if version == 0 {
        // A task has come between.
        return Ok(true);
    }
    let patience = left.min(Duration::from_secs_f64(LOOK_S.0 + chance() * (LOOK_S.1 - LOOK_S.0)));
    let begun = Instant::now();
    let is_woken = wait(&WAITERS.key(me), version, patience)? != version;
    Ok(is_woken || begun.elapsed() + EARLY >= patience)
}

/// Notes a claimer that waits, unless it is noted, and forgets a few that are gone without a word.
pub(crate) fn arm(t: &Transaction<'_>, me: &Waiter, request: &ClaimRequest<'_>, now_ms: u64) -> Result<(), StoreError> {
    if WAITERS.get(t, me)?.is_some() {
        return Ok(());
    }
    for gone in WAITERS.all().below(&(now_ms,)).most(MOST_FORGOTTEN).walk(t) {
        dismiss(t, &gone?.0)?;
    }
    let groups = request.groups();
    for group in &groups {
        ARMED.insert(t, group, me)?;
    }
    WAITERS.set(t, me, &groups)
}

/// Removes a claimer that waits, which wakes it.
fn dismiss(t: &Transaction<'_>, who: &Waiter) -> Result<(), StoreError> {
    let Some(groups) = WAITERS.get(t, who)? else { return Ok(()) };
    for group in &groups {
        ARMED.remove(t, group, who)?;
    }
    WAITERS.remove(t, who).map(drop)
}

/// Wakes a claimer for each of these tasks that is ready.
pub(super) fn ring(t: &Transaction<'_>, tasks: &[Task], now_ms: u64) -> Result<(), StoreError> {
    let mut ready = tasks.iter().filter(|task| task.state == State::Ready).peekable();
    if ready.peek().is_none() || ARMED.all().is_empty(t)? {
        return Ok(());
    }
    ready.try_for_each(|task| ring_for(t, task, now_ms))
}

/// Wakes one of the claimers that may have this task.
fn ring_for(t: &Transaction<'_>, task: &Task, now_ms: u64) -> Result<(), StoreError> {
    let lane = lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref());
    for task_type in [canonical_type(&task.spec.task_type), ANY_TYPE] {
        // Those whose patience is over are gone without a word.
        let waiting = ARMED.of(&(&lane, task_type)).from(&(now_ms,));
        if let Some(who) = waiting.first(t)? {
            return dismiss(t, &who);
        }
    }
    Ok(())
}

/// How many wait.
#[cfg(test)]
pub(crate) fn count(t: &mcpp_tool::store::View<'_>) -> Result<usize, StoreError> {
    WAITERS.all().walk(t).try_fold(0, |count, waiter| waiter.map(|_| count + 1))
}

/// Wakes claimers when all of them may find something.
pub(crate) fn ring_all(t: &Transaction<'_>) -> Result<(), StoreError> {
    for waiter in WAITERS.all().most(MOST_WOKEN).walk(t) {
        dismiss(t, &waiter?.0)?;
    }
    Ok(())
}
