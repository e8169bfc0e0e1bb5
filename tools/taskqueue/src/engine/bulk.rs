//! Changes of all tasks that match a filter: as much as fits into the call that asks for it, and the rest by the alarm. A task that comes into the queue after the call
//! stays as it is.

use mcpp_tool::store::{Budget, Cursor, Map, StoreError, Transaction, View, bites, snapshot, transact};
use serde::{Deserialize, Serialize};

use super::{QueueError, cancel, is_waited_for, reserve, retry, save, set_priority, upkeep, upkeep::UPKEEP};
use crate::{
    queue::{LISTED, TASKS, TaskKey, announce, canonical_type},
    record::{Status, Task},
    rules::{self, Refused},
};

/// One call's or ring's work.
const ROOM: Budget = Budget { entries: 500, bytes: 8 << 20, ..Budget::UNBOUNDED };
/// When the alarm looks after work that a call did not come to the end of, in milliseconds.
const SAFETY_MS: u64 = 60_000;
/// How long the outcome is kept, in milliseconds: a day.
const KEEP_MS: u64 = 24 * 3_600 * 1_000;

/// Most changes that are known: under way, or ended lately. Each call and each ring of the alarm reads them all.
const MOST_KNOWN: usize = 64;
/// So many of the oldest that have ended make room at once.
const MAKE_ROOM: usize = 8;
/// Most types that a filter names, and most tags.
const MAX_NAMES: usize = 64;
/// Most bytes of all names in a filter. They need not keep to the rule for new names: tags have none, and an earlier version stored others.
const MAX_FILTER_BYTES: usize = 16 << 10;
/// The longest reason, in bytes.
const MAX_REASON_BYTES: usize = 4 << 10;

/// Work in the background, by its number.
const BULKS: Map<u64, Bulk> = Map::new("bulk");

/// The change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Cancel what has not ended.
    Cancel {
        /// Why.
        reason: String,
        /// Also what runs.
        force: bool,
    },
    /// Submit again what has ended.
    Retry,
    /// Remove for good what does not run.
    Delete,
    /// Give what has not ended another priority.
    Priority {
        /// The priority.
        priority: f64,
        /// Whether it goes behind those that have it already.
        requeue: bool,
    },
}

impl Action {
    /// The statuses of the tasks that it can change.
    pub fn statuses(&self) -> Vec<Status> {
        match self {
            Self::Cancel { force: false, .. } => vec![Status::Queued],
            Self::Cancel { force: true, .. } | Self::Priority { .. } => vec![Status::Queued, Status::Running],
            Self::Retry => vec![Status::Completed, Status::Failed, Status::Cancelled],
            Self::Delete => vec![Status::Queued, Status::Completed, Status::Failed, Status::Cancelled],
        }
    }
}

/// Which tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// Those with one of these statuses.
    pub statuses: Vec<Status>,
    /// Those of one of these types; of any if there are none.
    pub task_types: Vec<String>,
    /// Those that this worker has.
    pub worker: Option<String>,
    /// Those with all of these tags.
    pub tags: Vec<String>,
    /// Those with at least this priority.
    pub priority_min: Option<f64>,
}

impl Filter {
    /// Checks the number and the size of the names in it.
    fn check(&self) -> Result<(), QueueError> {
        let mut bytes = 0_usize;
        let mut fits = |field: String, name: &str| {
            bytes = bytes.saturating_add(name.len());
            let reason = || format!("{field}: the names of a filter have more than {MAX_FILTER_BYTES} bytes together");
            if bytes > MAX_FILTER_BYTES { Err(QueueError::Invalid(reason())) } else { Ok(()) }
        };
        for (what, names) in [("task_types", &self.task_types), ("tags", &self.tags)] {
            if names.len() > MAX_NAMES {
                return Err(QueueError::Invalid(format!("{what} has more than {MAX_NAMES} entries")));
            }
            let mut named = names.iter().enumerate();
            named.try_for_each(|(number, name)| fits(format!("{what}/{number}"), name))?;
        }
        self.worker.as_deref().map_or(Ok(()), |worker| fits("worker_id".to_owned(), worker))
    }

    /// Whether a task with one of the statuses is meant.
    pub fn matches(&self, task: &Task) -> bool {
        let is_its_type = |name: &String| canonical_type(name) == canonical_type(&task.spec.task_type);
        (self.task_types.is_empty() || self.task_types.iter().any(is_its_type))
            && self.worker.as_deref().is_none_or(|worker| task.worker() == Some(worker))
            && self.tags.iter().all(|tag| task.spec.tags.contains(tag))
            && self.priority_min.is_none_or(|least| task.spec.priority >= least)
    }

    /// Whether it looks at more than the status.
    pub fn is_narrow(&self) -> bool {
        !self.task_types.is_empty() || self.worker.is_some() || !self.tags.is_empty() || self.priority_min.is_some()
    }
}

/// A change of many tasks, and how far it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bulk {
    /// Its number.
    pub number: u64,
    /// The change.
    pub action: Action,
    /// Which tasks.
    pub filter: Filter,
    /// When it was asked for, in milliseconds since 1970-01-01 UTC: later tasks stay as they are.
    pub asked_ms: u64,
    /// Tasks that it changed.
    pub changed: u64,
    /// When it came to its end; none while it goes on.
    pub ended_ms: Option<u64>,
    /// Which of the statuses is being gone through.
    at: usize,
    /// How far.
    cursor: Option<Cursor>,
}

/// Changes the tasks that match: some now, the rest by the alarm. Where that has come to.
pub fn bulk(action: &Action, filter: &Filter, now_ms: u64) -> Result<Bulk, QueueError> {
    filter.check()?;
    if matches!(action, Action::Cancel { reason, .. } if reason.len() > MAX_REASON_BYTES) {
        return Err(QueueError::Invalid(format!("reason is longer than {MAX_REASON_BYTES} bytes")));
    }
    let mut filter = filter.clone();
    let able = action.statuses();
    filter.statuses = if filter.statuses.is_empty() { able.clone() } else { filter.statuses };
    if let Some(wrong) = filter.statuses.iter().find(|status| !able.contains(status)) {
        return Err(QueueError::Invalid(format!("{} tasks cannot be changed in this way", wrong.as_str())));
    }
    let number = transact(|t| {
        let known = bulks(t)?;
        let is_same = |bulk: &&Bulk| bulk.ended_ms.is_none() && bulk.action == *action && bulk.filter == filter;
        if let Some(same) = known.iter().find(is_same) {
            // Once more from the beginning, for what came between.
            let again = Bulk { asked_ms: now_ms, at: 0, cursor: None, ..same.clone() };
            BULKS.set(t, &again.number, &again)?;
            return Ok(again.number);
        }
        make_room(t, known, now_ms)?;
        let number = BULKS.all().descending().first(t)?.map_or(1, |(last, _)| last.saturating_add(1));
        let (action, filter) = (action.clone(), filter.clone());
        let bulk = Bulk { number, action, filter, asked_ms: now_ms, changed: 0, ended_ms: None, at: 0, cursor: None };
        BULKS.set(t, &number, &bulk)?;
        UPKEEP.by(t, now_ms.saturating_add(SAFETY_MS), now_ms)?;
        Ok::<_, QueueError>(number)
    })?;
    go_on(number, now_ms)?;
    transact(|t| {
        let bulk = BULKS.get(t, &number)?.ok_or(StoreError::Unreadable)?;
        if bulk.ended_ms.is_none() {
            UPKEEP.by(t, now_ms, now_ms)?;
        }
        Ok(bulk)
    })
}

/// Removes tasks with these statuses for good; never those that run.
pub fn clear(statuses: &[Status], now_ms: u64) -> Result<Bulk, QueueError> {
    bulk(&Action::Delete, &Filter { statuses: statuses.to_vec(), ..Filter::default() }, now_ms)
}

/// Takes over a clearing that an earlier version began.
pub(crate) fn adopt(t: &Transaction<'_>, statuses: Vec<Status>, asked_ms: u64, changed: u64) -> Result<(), StoreError> {
    let filter = Filter { statuses, ..Filter::default() };
    let (action, ended_ms, at, cursor) = (Action::Delete, None, 0, None);
    BULKS.set(t, &1, &Bulk { number: 1, action, filter, asked_ms, changed, ended_ms, at, cursor })
}

/// Ends a change where it has come to; what it has changed stays so.
pub fn stop(number: u64, now_ms: u64) -> Result<Bulk, QueueError> {
    transact(|t| {
        let Some(mut bulk) = bulk_of(t, number)? else {
            return Err(QueueError::Invalid(format!("bulk_id {number} is not known")));
        };
        bulk.ended_ms.get_or_insert(now_ms);
        BULKS.set(t, &number, &bulk)?;
        Ok(bulk)
    })
}

/// The change with this number, if it is known.
pub fn bulk_of(t: &View<'_>, number: u64) -> Result<Option<Bulk>, StoreError> {
    BULKS.get(t, &number)
}

/// The changes that are under way or have ended lately, the oldest first.
pub fn bulks(t: &View<'_>) -> Result<Vec<Bulk>, StoreError> {
    BULKS.all().most(MOST_KNOWN).walk(t).map(|bulk| bulk.map(|(_, bulk)| bulk)).collect()
}

pub(super) fn is_under_way(t: &View<'_>) -> Result<bool, StoreError> {
    Ok(bulks(t)?.iter().any(|bulk| bulk.ended_ms.is_none()))
}

/// Forgets what has ended long ago, and some of what has ended at all where there is no room for one more. A queue with more than that, of an earlier version, comes to it call by call.
fn make_room(t: &Transaction<'_>, known: Vec<Bulk>, now_ms: u64) -> Result<(), QueueError> {
    let (is_full, mut forgotten) = (known.len() >= MOST_KNOWN, 0);
    for old in known {
        let Some(ended) = old.ended_ms else { continue };
        if ended.saturating_add(KEEP_MS) < now_ms || (is_full && forgotten < MAKE_ROOM) {
            BULKS.remove(t, &old.number)?;
            forgotten = forgotten.saturating_add(1);
        }
    }
    if is_full && forgotten == 0 {
        let reason =
            format!("{MOST_KNOWN} changes of many tasks are under way: wait until one has ended, or stop some");
        return Err(QueueError::Invalid(reason));
    }
    Ok(())
}

/// One step of the alarm, for the oldest that is under way; whether there is more.
pub(super) fn step(now_ms: u64) -> Result<bool, QueueError> {
    let oldest = bulks(&snapshot()?)?.into_iter().find(|bulk| bulk.ended_ms.is_none());
    let Some(oldest) = oldest else { return Ok(false) };
    go_on(oldest.number, now_ms)?;
    Ok(is_under_way(&snapshot()?)?)
}

/// Changes as much as there is room for.
fn go_on(number: u64, now_ms: u64) -> Result<(), QueueError> {
    let mut budget = ROOM;
    while !budget.is_spent() {
        let Some(bulk) = BULKS.get(&snapshot()?, &number)?.filter(|bulk| bulk.ended_ms.is_none()) else { break };
        let Some(status) = bulk.filter.statuses.get(bulk.at) else {
            note(&bulk, Bulk { ended_ms: Some(now_ms), ..bulk.clone() })?;
            break;
        };
        let span = LISTED.of(status.as_str()).below(&(bulk.asked_ms.saturating_add(1),)).behind(bulk.cursor.clone());
        let bitten = bites(&mut budget, &span, |t, key| apply(t, &key, &bulk, *status, now_ms))?;
        let changed = bulk.changed.saturating_add(u64::try_from(bitten.changed).unwrap_or(u64::MAX));
        let at = if bitten.next.is_some() { bulk.at } else { bulk.at.saturating_add(1) };
        note(&bulk, Bulk { changed, at, cursor: bitten.next, ..bulk.clone() })?;
    }
    Ok(())
}

/// Notes how far it has come, unless another run has come further meanwhile: its word counts.
fn note(before: &Bulk, after: Bulk) -> Result<(), StoreError> {
    transact(|t| match BULKS.get(t, &before.number)?.as_ref() == Some(before) {
        true => BULKS.set(t, &before.number, &after),
        false => Ok(()),
    })
}

/// Changes one task, if it is meant and can be; whether it was. Twice is the same as once.
fn apply(t: &Transaction<'_>, key: &TaskKey, bulk: &Bulk, status: Status, now_ms: u64) -> Result<bool, QueueError> {
    let Some(task) = TASKS.get(t, key)?.filter(|task| task.status() == status && bulk.filter.matches(task)) else {
        return Ok(false);
    };
    let done = match &bulk.action {
        Action::Cancel { reason, force } => cancel(t, &task.id, reason, *force, now_ms).map(drop),
        Action::Priority { priority, requeue } => set_priority(t, &task.id, *priority, *requeue, now_ms).map(drop),
        // One that was changed since is one that this retried already.
        Action::Retry if task.updated_ms > bulk.asked_ms => return Ok(false),
        // Each would be refused, and refused transactions are no use.
        Action::Retry if reserve::is_full(t)? => return Ok(false),
        Action::Retry => retry(t, &task.id, None, None, now_ms.max(bulk.asked_ms.saturating_add(1))).map(drop),
        Action::Delete => return delete(t, &task, now_ms),
    };
    match done {
        Ok(()) => Ok(true),
        Err(QueueError::Refused(Refused::Ended | Refused::Running)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes one task; whether it is gone.
fn delete(t: &Transaction<'_>, task: &Task, now_ms: u64) -> Result<bool, QueueError> {
    let is_waited_for = is_waited_for(t, &task.id)?;
    if task.status() == Status::Queued {
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
    save(t, Some(task), None, now_ms)?;
    Ok(true)
}

#[cfg(test)]
mod tests;
