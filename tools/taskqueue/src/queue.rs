//! The queue in the store: records, the indexes by which they are found, and the counts of them.
//!
//! Everything goes through [`save`]: it compares a record with what it was and changes indexes, counts, statistics and workers by the difference, so that they agree with the records by
//! construction. Every change of state is an event on the topic `task`.

use std::collections::{BTreeMap, BTreeSet};

use mcpp_tool::store::{Index, Key, Map, Read, StoreError, Write};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    record::{State, Status, Task, Worker},
    statistics,
};

/// All tasks.
pub const TASKS: Map<String, Task> = Map::new("task");
/// All workers.
pub const WORKERS: Map<String, Worker> = Map::new("worker");
/// Ready tasks by lane and type (`*` for any), the next one first.
pub const READY: Index<(String, String), Place> = Index::new("ready");
/// Delayed tasks by the time when they become ready.
pub const DELAYED: Index<(), (u64, String)> = Index::new("delayed");
/// Running tasks by the end of their lease.
pub const LEASED: Index<(), (u64, String)> = Index::new("leased");
/// Tasks by status, oldest first.
pub const LISTED: Index<String, (u64, String)> = Index::new("listed");
/// Ended tasks by the time when they ended.
pub const ENDED: Index<(), (u64, String)> = Index::new("ended");
/// Tasks that wait for a task.
pub const DEPENDENTS: Index<String, String> = Index::new("dependents");
/// Ended tasks of which not all dependents know yet.
pub const RELEASING: Index<(), String> = Index::new("releasing");
/// Running tasks by worker.
pub const HELD: Index<String, String> = Index::new("held");
/// Tasks by idempotency key.
pub const KEYS: Map<String, String> = Map::new("key");
/// How many tasks have a status, in shards, so that hosts on one database do not all change one entry.
const COUNTS: Map<(String, u8), i64> = Map::new("count");
/// How many tasks of a type are queued or running.
const TYPES: Map<(String, String), i64> = Map::new("type");
/// How many ready tasks have a rank.
const RANKS: Map<u64, i64> = Map::new("rank");
/// Settings and notes of the queue.
const SETTINGS: Map<(), Settings> = Map::new("settings");

/// Shards of a count.
const SHARDS: u8 = 8;
/// The lane of tasks that anybody may have.
pub const OPEN_LANE: &str = "";
/// Any type.
pub const ANY_TYPE: &str = "*";

/// Where a ready task stands: rank (less is sooner), when it was submitted, its id.
pub type Place = (u64, u64, String);

/// The settings of the whole queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Nothing is handed out while it is paused.
    pub paused: Option<Paused>,
    /// Whether tasks go only to the peer that deterministic placement names.
    pub deterministic: bool,
    /// Whether `p2p_taskqueue_call_tool` may call tools.
    pub tools_enabled: bool,
    /// Whether there is a cache.
    pub cache_enabled: bool,
    /// How long ended tasks are kept, in milliseconds.
    pub keep_ms: u64,
    /// How many ended tasks are kept.
    pub keep_tasks: u64,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paused {
    /// Since when.
    pub since_ms: u64,
    /// Why.
    pub reason: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            paused: None,
            deterministic: false,
            tools_enabled: false,
            cache_enabled: true,
            keep_ms: 7 * 24 * 3_600 * 1_000,
            keep_tasks: 100_000,
        }
    }
}

/// The settings.
pub fn settings(t: &mut (impl Read + ?Sized)) -> Result<Settings, StoreError> {
    Ok(SETTINGS.get(t, &())?.unwrap_or_default())
}

/// Changes the settings.
pub fn set_settings(t: &mut (impl Write + ?Sized), settings: &Settings) -> Result<(), StoreError> {
    SETTINGS.set(t, &(), settings)
}

/// The type under which tasks are found: names that mean the same are one.
pub fn canonical_type(task_type: &str) -> &str {
    match task_type {
        "text_generation" | "generation" => "text-generation",
        "tool" => "tool.call",
        "docker.run" | "docker.hub" | "docker.execute_docker_container" => "docker.execute",
        "docker.github_repo" | "docker.build_and_execute_github_repo" => "docker.github",
        other => other,
    }
}

/// The lane of a task: who may have it.
pub fn lane(session: Option<&str>, sticky_worker: Option<&str>) -> String {
    match (session, sticky_worker) {
        (None, None) => OPEN_LANE.to_owned(),
        (session, worker) => format!("s={}\nw={}", session.unwrap_or_default(), worker.unwrap_or_default()),
    }
}

/// A priority as a number of which less is sooner. Keeps the order of all numbers; what is no number is the last.
pub fn rank(priority: f64) -> u64 {
    if priority.is_nan() {
        return u64::MAX;
    }
    let bits = priority.to_bits();
    let ascending = if bits >> 63 == 1 { !bits } else { bits | (1 << 63) };
    !ascending
}

fn place(task: &Task) -> Place {
    (rank(task.spec.priority), task.created_ms, task.id.clone())
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Ready { lane: String, task_type: String, place: Place },
    Delayed(u64),
    Leased(u64),
    Listed(Status, u64),
    Ended(u64),
    Dependent(String),
    Held(String),
}

/// Where a task must be found.
fn entries(task: &Task) -> BTreeSet<Entry> {
    let mut entries = BTreeSet::from([Entry::Listed(task.status(), task.created_ms)]);
    match &task.state {
        State::Blocked => entries.extend(task.waiting_for.iter().cloned().map(Entry::Dependent)),
        State::Delayed { until_ms } => drop(entries.insert(Entry::Delayed(*until_ms))),
        State::Ready => {
            let lane = lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref());
            for task_type in [canonical_type(&task.spec.task_type), ANY_TYPE] {
                let (lane, task_type) = (lane.clone(), task_type.to_owned());
                entries.insert(Entry::Ready { lane, task_type, place: place(task) });
            }
        }
        State::Running(lease) => {
            entries.insert(Entry::Leased(lease.until_ms));
            entries.insert(Entry::Held(lease.worker.clone()));
        }
        State::Completed | State::Failed | State::Cancelled => {
            entries.insert(Entry::Ended(task.finished_ms.unwrap_or(task.updated_ms)));
        }
    }
    entries
}

/// Puts an entry into its index, or takes it out.
fn put(t: &mut (impl Write + ?Sized), entry: &Entry, id: &String, is_there: bool) -> Result<(), StoreError> {
    fn set<G: Key, K: Key>(
        t: &mut (impl Write + ?Sized),
        index: &Index<G, K>,
        group: &G,
        key: &K,
        is_there: bool,
    ) -> Result<(), StoreError> {
        if is_there { index.insert(t, group, key) } else { index.remove(t, group, key).map(drop) }
    }
    let at = |ms: &u64| (*ms, id.clone());
    match entry {
        Entry::Ready { lane, task_type, place } => set(t, &READY, &(lane.clone(), task_type.clone()), place, is_there),
        Entry::Delayed(ms) => set(t, &DELAYED, &(), &at(ms), is_there),
        Entry::Leased(ms) => set(t, &LEASED, &(), &at(ms), is_there),
        Entry::Listed(status, ms) => set(t, &LISTED, &status.as_str().to_owned(), &at(ms), is_there),
        Entry::Ended(ms) => set(t, &ENDED, &(), &at(ms), is_there),
        Entry::Dependent(parent) => set(t, &DEPENDENTS, parent, id, is_there),
        Entry::Held(worker) => set(t, &HELD, worker, id, is_there),
    }
}

/// Stores what has become of a task; none for a task that is forgotten.
pub fn save(
    t: &mut (impl Write + ?Sized),
    before: Option<&Task>,
    after: Option<&Task>,
    now_ms: u64,
) -> Result<(), StoreError> {
    let Some(id) = after.or(before).map(|task| task.id.clone()) else { return Ok(()) };
    let (old, new) = (before.map(entries).unwrap_or_default(), after.map(entries).unwrap_or_default());
    for entry in old.difference(&new) {
        put(t, entry, &id, false)?;
    }
    for entry in new.difference(&old) {
        put(t, entry, &id, true)?;
    }
    tally(t, &COUNTS, before.map(count_key), after.map(count_key))?;
    tally(t, &TYPES, before.and_then(type_key), after.and_then(type_key))?;
    tally(t, &RANKS, before.and_then(rank_key), after.and_then(rank_key))?;
    match after {
        Some(task) => TASKS.set(t, &id, task)?,
        None => drop(TASKS.remove(t, &id)?),
    }
    if let Some(after) = after
        && before.map(|task| &task.state) != Some(&after.state)
    {
        statistics::note(t, before, after, now_ms)?;
        announce(t, after)?;
    }
    workers(t, before, after, now_ms)
}

/// Emits the event that tells of a task's state.
pub(crate) fn announce(t: &mut (impl Write + ?Sized), task: &Task) -> Result<(), StoreError> {
    /// Characters of an error that an event has: its payload has a bound, and each subscriber gets a copy.
    const MAX_ERROR_CHARS: usize = 1_000;
    let error = task.error.as_ref().map(|error| error.chars().take(MAX_ERROR_CHARS).collect::<String>());
    let payload = json!({
        "task_id": task.id,
        "task_type": task.spec.task_type,
        "status": task.status().as_str(),
        "attempt": task.attempt,
        "error": error,
    });
    // The key of an event has a bound that an id need not keep to.
    let key: String = task.id.chars().take(64).collect();
    t.emit("task", &key, payload.to_string().as_bytes()).map(|_| ())
}

/// A task, and the bytes of its record.
pub(crate) fn find_sized(t: &mut (impl Read + ?Sized), id: &str) -> Result<Option<(Task, usize)>, StoreError> {
    let Some(entry) = t.get(&TASKS.key(&id.to_owned()))? else { return Ok(None) };
    let task = serde_json::from_slice(&entry.value).map_err(|_| StoreError::Unreadable)?;
    Ok(Some((task, entry.value.len())))
}

fn shard(id: &str) -> u8 {
    id.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)) % SHARDS
}

/// Where a task is counted by its status.
fn count_key(task: &Task) -> (String, u8) {
    (task.status().as_str().to_owned(), shard(&task.id))
}

/// Where a task is counted by status and type, if it has not ended.
fn type_key(task: &Task) -> Option<(String, String)> {
    let status = task.status();
    (!status.is_final()).then(|| (status.as_str().to_owned(), canonical_type(&task.spec.task_type).to_owned()))
}

/// Where a task is counted by its rank, if it is ready.
fn rank_key(task: &Task) -> Option<u64> {
    (task.state == State::Ready).then(|| rank(task.spec.priority))
}

/// Counts one less where a task was counted, and one more where it is counted now.
fn tally<K: Key + PartialEq>(
    t: &mut (impl Write + ?Sized),
    map: &Map<K, i64>,
    from: Option<K>,
    to: Option<K>,
) -> Result<(), StoreError> {
    if from == to {
        return Ok(());
    }
    for (key, delta) in [(from, -1), (to, 1)] {
        if let Some(key) = key {
            add(t, map, &key, delta)?;
        }
    }
    Ok(())
}

/// How many tasks have a status.
pub fn counted(t: &mut (impl Read + ?Sized), status: Status) -> Result<u64, StoreError> {
    let mut sum = 0_i64;
    for shard in 0..SHARDS {
        sum = sum.saturating_add(COUNTS.get(t, &(status.as_str().to_owned(), shard))?.unwrap_or_default());
    }
    Ok(sum.unsigned_abs())
}

/// How many tasks of each type have a status, for what has not ended; and whether these are all types.
pub fn counted_by_type(
    t: &mut (impl Read + ?Sized),
    status: Status,
) -> Result<(BTreeMap<String, u64>, bool), StoreError> {
    /// Types that are told of: what a reply has room for.
    const MOST_TYPES: u32 = 1_000;
    let order = mcpp_tool::store::Order::Ascending;
    let before_first = (status.as_str().to_owned(), String::new());
    let mut page = TYPES.page(t, Some(&before_first), MOST_TYPES, order)?;
    page.retain(|((name, _), _)| name == status.as_str());
    let is_of_this = |((name, _), _): &((String, String), i64)| name == status.as_str();
    let is_all = match page.last() {
        Some((last, _)) => !TYPES.page(t, Some(last), 1, order)?.iter().any(is_of_this),
        None => true,
    };
    Ok((page.into_iter().map(|((_, task_type), count)| (task_type, count.unsigned_abs())).collect(), is_all))
}

fn add<K: Key>(t: &mut (impl Write + ?Sized), map: &Map<K, i64>, key: &K, delta: i64) -> Result<(), StoreError> {
    let sum = map.get(t, key)?.unwrap_or_default().saturating_add(delta);
    if sum == 0 { map.remove(t, key).map(|_| ()) } else { map.set(t, key, &sum) }
}

/// How many ready tasks have this rank, or one that is sooner. None if there are more different ranks than are looked at.
pub fn ready_up_to(t: &mut (impl Read + ?Sized), last: u64) -> Result<Option<u64>, StoreError> {
    const MOST_RANKS: u32 = 1_000;
    let ranks = RANKS.page(t, None, MOST_RANKS, mcpp_tool::store::Order::Ascending)?;
    let complete = ranks.len() < MOST_RANKS as usize || ranks.last().is_some_and(|(rank, _)| *rank > last);
    let sum = ranks.iter().filter(|(rank, _)| *rank <= last).map(|(_, count)| count.unsigned_abs()).sum();
    Ok(complete.then_some(sum))
}

/// Updates the counts of a worker's running, completed and failed tasks, by the difference.
fn workers(
    t: &mut (impl Write + ?Sized),
    before: Option<&Task>,
    after: Option<&Task>,
    now_ms: u64,
) -> Result<(), StoreError> {
    let (old, new) = (before.and_then(Task::worker), after.and_then(Task::worker));
    if old == new {
        return Ok(());
    }
    if let Some(old) = old
        && let Some(mut worker) = WORKERS.get(t, &old.to_owned())?
    {
        worker.running = worker.running.saturating_sub(1);
        match after.map(Task::status) {
            Some(Status::Completed) => worker.completed = worker.completed.saturating_add(1),
            Some(Status::Failed) => worker.failed = worker.failed.saturating_add(1),
            _ => {}
        }
        WORKERS.set(t, &worker.id.clone(), &worker)?;
    }
    if let Some(new) = new
        && let Some(mut worker) = WORKERS.get(t, &new.to_owned())?
    {
        worker.running = worker.running.saturating_add(1);
        worker.seen_ms = now_ms;
        WORKERS.set(t, &worker.id.clone(), &worker)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::rank;

    proptest! {
        #[test]
        fn ranks_are_in_the_opposite_order(a: f64, b: f64) {
            prop_assume!(!a.is_nan() && !b.is_nan() && a != b);
            prop_assert_eq!(a > b, rank(a) < rank(b));
        }
    }
}
