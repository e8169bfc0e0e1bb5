//! The queue in the store: the tables and what they declare, so that indexes and counts agree with the records by construction.
//!
//! A task's record lies at the time of its submission, so that tasks that are claimed one after another lie side by side. Everything goes through [`save`]: it also keeps statistics
//! and workers, and every change of state is an event on the topic `task`.

use std::collections::BTreeMap;

use mcpp_tool::store::{Counts, Index, Map, Places, Prepared, StoreError, Table, Transaction, View};
use serde::{Deserialize, Serialize};

use crate::{
    record::{Aging, State, Status, Task, Worker},
    statistics,
};

/// Where a task's record lies: when it was submitted, in milliseconds since 1970-01-01 UTC, and its id.
pub type TaskKey = (u64, String);
/// Where a task stands in line: its rank (less is sooner), since when in microseconds, its id, and when it was submitted.
pub type Place = (u64, u64, String, u64);
/// When something is due with a task, when that was submitted, and its id.
pub type DuePlace = (u64, u64, String);

/// All tasks.
pub const TASKS: Table<TaskKey, Task> = Table::new("tasks", declare);
/// When the task of an id was submitted.
pub const IDS: Map<String, u64> = Map::new("ids");
/// Tasks by idempotency key.
pub const KEYS: Map<String, String> = Map::new("keys");
/// Ready tasks by lane and type (`*` for any), the next one first.
pub const READY: Index<(String, String), Place> = Index::new("line");
/// Tasks that wait for the turn of their key, by its line, the next one first.
pub const LINES: Index<(bool, String), Place> = Index::new("lines");
/// How many tasks of a line are held, ready and running.
pub const IN_LINE: Counts<(bool, String, u8)> = Counts::new("in-line");
/// Delayed tasks (false) by the end of their delay, and running ones (true) by the end of their lease.
pub const DUE: Index<bool, DuePlace> = Index::new("due");
/// Tasks by status, oldest first.
pub const LISTED: Index<String, TaskKey> = Index::new("listing");
/// Ended tasks by the time when they ended.
pub const ENDED: Index<(), DuePlace> = Index::new("over");
/// Tasks that wait for a task.
pub const DEPENDENTS: Index<String, TaskKey> = Index::new("children");
/// Ended tasks of which not all dependents know yet.
pub const RELEASING: Index<(), String> = Index::new("telling");
/// Running tasks by worker.
pub const HELD: Index<String, TaskKey> = Index::new("hands");
/// All workers.
pub const WORKERS: Map<String, Worker> = Map::new("worker");
/// How many tasks a worker has, and has had.
pub const WORK: Counts<(String, u8)> = Counts::new("work");
/// How many tasks have a status.
const COUNTS: Counts<String> = Counts::new("counts").sharded(8);
/// How many tasks of a type are queued or running.
const TYPES: Counts<(String, String)> = Counts::new("types");
/// What the tasks of a peer amount to, and those of all peers (the empty name): how many have not ended, and KiB of records.
pub const OF_PEER: Counts<(String, u8)> = Counts::new("of-peer");
/// Ended tasks of a peer by the time when they ended.
pub const ENDED_OF_PEER: Index<String, DuePlace> = Index::new("over-of-peer");
/// How many ready tasks have a rank.
const RANKS: Counts<u64> = Counts::new("ranks");
/// Settings and notes of the queue.
const SETTINGS: Map<(), Settings> = Map::new("settings");

/// The lane of tasks that anybody may have.
pub const OPEN_LANE: &str = "";
/// Any type.
pub const ANY_TYPE: &str = "*";
/// Tasks that are held, in [`IN_LINE`].
pub const HELD_BACK: u8 = 1;
/// Tasks that are ready, in [`IN_LINE`].
pub const ADMITTED: u8 = 2;
/// The tasks that a worker has, in [`WORK`], or that run, in [`IN_LINE`].
pub const RUNNING: u8 = 0;
/// The tasks that a registered worker completed.
pub const COMPLETED: u8 = 1;
/// The tasks that failed in a registered worker's hands.
pub const FAILED: u8 = 2;

/// Tasks that have not ended, in [`OF_PEER`].
pub const UNENDED: u8 = 0;
/// KiB of records, in [`OF_PEER`].
pub const KIB: u8 = 1;

/// KiB that a record counts: each part of one, and its places.
pub fn kib(task: &Task) -> i64 {
    i64::try_from(task.bytes() / 1_024).unwrap_or(i64::MAX).saturating_add(1)
}

fn line_kind(state: &State) -> Option<u8> {
    match state {
        State::Held => Some(HELD_BACK),
        State::Ready => Some(ADMITTED),
        State::Running(_) => Some(RUNNING),
        _ => None,
    }
}

/// Where a task is found, and where it counts.
fn declare((created_ms, id): &TaskKey, task: &Task, places: &mut Places) {
    let (key, status) = ((*created_ms, id), task.status());
    places.name(&IDS, id, created_ms);
    if let Some(idempotency_key) = &task.spec.idempotency_key {
        places.name(&KEYS, idempotency_key, id);
    }
    places.index(&LISTED, status.as_str(), &key);
    places.count(&COUNTS, status.as_str());
    let task_type = canonical_type(&task.spec.task_type);
    if !status.is_final() {
        places.count(&TYPES, &(status.as_str(), task_type));
    }
    if let (Some((is_concurrency, name)), Some(kind)) = (task.spec.line(), line_kind(&task.state)) {
        places.count(&IN_LINE, &(is_concurrency, name, kind));
    }
    if let Some(peer) = task.spec.peer.as_deref() {
        for whose in [peer, ""] {
            places.sum(&OF_PEER, &(whose, KIB), kib(task));
            if !status.is_final() {
                places.count(&OF_PEER, &(whose, UNENDED));
            }
        }
        if status.is_final() {
            places.index(&ENDED_OF_PEER, peer, &(task.finished_ms.unwrap_or(task.updated_ms), *created_ms, id));
        }
    }
    match &task.state {
        State::Held => {
            if let Some(line) = task.spec.line() {
                places.index(&LINES, &line, &(rank(task.line_priority()), task.line_us(), id, *created_ms));
            }
        }
        State::Blocked => task.waiting_for.iter().for_each(|parent| places.index(&DEPENDENTS, parent, &key)),
        State::Delayed { until_ms } => places.index(&DUE, &false, &(*until_ms, *created_ms, id)),
        State::Ready => {
            let lane = lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref());
            for task_type in [task_type, ANY_TYPE] {
                places.index(&READY, &(&lane, task_type), &place(task));
            }
            places.count(&RANKS, &rank(task.line_priority()));
        }
        State::Running(lease) => {
            places.index(&DUE, &true, &(lease.until_ms, *created_ms, id));
            places.index(&HELD, &lease.worker, &key);
            places.count(&WORK, &(&lease.worker, RUNNING));
        }
        State::Completed | State::Failed | State::Cancelled => {
            places.index(&ENDED, &(), &(task.finished_ms.unwrap_or(task.updated_ms), *created_ms, id));
        }
    }
}

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
    /// How waiting raises the priority of tasks that are submitted from now on.
    pub aging: Option<Aging>,
    /// How long ended tasks are kept, in milliseconds.
    pub keep_ms: u64,
    /// How many ended tasks are kept.
    pub keep_tasks: u64,
    /// How many tasks of one peer may wait and run.
    pub peer_tasks: u64,
    /// How many MiB the tasks of one peer may have, ended ones included.
    pub peer_mib: u64,
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
            aging: None,
            keep_ms: 7 * 24 * 3_600 * 1_000,
            keep_tasks: 100_000,
            peer_tasks: 2_000,
            peer_mib: 256,
        }
    }
}

/// The settings.
pub fn settings(t: &View<'_>) -> Result<Settings, StoreError> {
    Ok(SETTINGS.get(t, &())?.unwrap_or_default())
}

/// Changes the settings.
pub fn set_settings(t: &Transaction<'_>, settings: &Settings) -> Result<(), StoreError> {
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

/// Where a ready task stands: by its key's turn, if it has a key.
pub fn place(task: &Task) -> Place {
    (rank(task.line_priority()), task.turn_us.unwrap_or(task.line_us()), task.id.clone(), task.created_ms)
}

/// The task of this id.
pub fn find(t: &View<'_>, id: &str) -> Result<Option<Task>, StoreError> {
    match IDS.get(t, id)? {
        Some(created_ms) => TASKS.get(t, &(created_ms, id)),
        None => Ok(None),
    }
}

/// The same, for a task that the caller changes.
pub fn find_to_change(t: &Transaction<'_>, id: &str) -> Result<Option<Task>, StoreError> {
    match IDS.get(t, id)? {
        Some(created_ms) => TASKS.get_to_change(t, &(created_ms, id)),
        None => Ok(None),
    }
}

/// Reads at once what a new task looks at: whether its id is known, the settings, and `more`.
pub fn read_ahead_of_new(t: &View<'_>, id: &str, more: Vec<u8>) -> Result<(), StoreError> {
    t.read_ahead([IDS.key(id), SETTINGS.key(&()), more])
}

/// Reads at once what a claim looks at first: the settings, the claimer, and `more`.
pub fn read_ahead_of_claim(t: &View<'_>, worker: &str, more: Vec<u8>) -> Result<(), StoreError> {
    t.read_ahead([SETTINGS.key(&()), WORKERS.key(worker), more])
}

/// Reads the tasks of these ids at once, as far as there are such tasks, so that finding each costs little afterwards.
pub fn read_ahead<'a>(t: &View<'_>, ids: impl Iterator<Item = &'a str> + Clone) -> Result<(), StoreError> {
    IDS.read_ahead(t, ids.clone())?;
    let mut places = Vec::new();
    for id in ids {
        places.extend(IDS.get(t, id)?.map(|created_ms| (created_ms, id)));
    }
    TASKS.read_ahead(t, &places)
}

/// Stores what has become of a task; none for a task that is forgotten.
pub fn save(t: &Transaction<'_>, before: Option<&Task>, after: Option<&Task>, now_ms: u64) -> Result<(), StoreError> {
    let Some(key) = after.or(before).map(|task| (task.created_ms, task.id.clone())) else { return Ok(()) };
    match (TASKS.replace(t, &key, before, after), after) {
        (Err(StoreError::ValueTooLarge), Some(after)) => {
            let mut fitting = after.clone();
            fitting.fit();
            TASKS.replace(t, &key, before, Some(&fitting))?;
        }
        (stored, _) => stored?,
    }
    if let Some(after) = after
        && before.map(|task| &task.state) != Some(&after.state)
    {
        statistics::note(t, before, after, now_ms);
        announce(t, after)?;
    }
    workers(t, before, after, now_ms)
}

/// The payload of an event on the topics `task` and `ended`. Only the latter names the worker whose word ended the task.
#[derive(Serialize)]
struct Told<'a> {
    task_id: &'a str,
    task_type: &'a str,
    status: Status,
    attempt: u32,
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
}

/// Stores a new task whose record is ready.
pub fn insert(t: &Transaction<'_>, row: &Prepared, task: &Task, now_ms: u64) -> Result<(), StoreError> {
    TASKS.insert(t, row)?;
    statistics::note(t, None, task, now_ms);
    announce(t, task)
}

/// Emits the event that tells of a task's state.
pub(crate) fn announce(t: &Transaction<'_>, task: &Task) -> Result<(), StoreError> {
    /// Characters of an error that an event has: its payload has a bound, and each subscriber gets a copy.
    const MAX_ERROR_CHARS: usize = 1_000;
    let error = task.error.as_ref().map(|error| error.chars().take(MAX_ERROR_CHARS).collect::<String>());
    let payload = Told {
        task_id: &task.id,
        task_type: &task.spec.task_type,
        status: task.status(),
        attempt: task.attempt,
        error,
        worker: None,
    };
    let written = |told: &Told<'_>| serde_json::to_vec(told).map_err(|_| StoreError::Unreadable);
    // The key of an event has a bound that an id need not keep to.
    let key: String = task.id.chars().take(64).collect();
    t.tell("task", &key, written(&payload)?)?;
    if !task.spec.notify || !task.status().is_final() {
        return Ok(());
    }
    let worker = task.parting.as_ref().map(|parting| parting.worker.as_str());
    t.tell("ended", &key, written(&Told { worker, ..payload })?)
}

/// How many tasks have a status.
pub fn counted(t: &View<'_>, status: Status) -> Result<u64, StoreError> {
    Ok(COUNTS.get(t, status.as_str())?.unsigned_abs())
}

/// How many tasks of each type have a status, for what has not ended; and whether these are all types.
pub fn counted_by_type(t: &View<'_>, status: Status) -> Result<(BTreeMap<String, u64>, bool), StoreError> {
    /// Types that are told of: what a reply has room for.
    const MOST_TYPES: usize = 1_000;
    let mut found = TYPES.under(t, &(status.as_str(),), MOST_TYPES.saturating_add(1))?;
    let is_all = found.len() <= MOST_TYPES;
    found.truncate(MOST_TYPES);
    Ok((found.into_iter().map(|((_, task_type), count)| (task_type, count.unsigned_abs())).collect(), is_all))
}

/// How many ready tasks have each rank, of the first 1,000 ranks.
#[derive(Debug)]
pub struct ReadyRanks {
    counts: Vec<(u64, i64)>,
    is_all: bool,
}

/// The ranks of the ready tasks.
pub fn ready_ranks(t: &View<'_>) -> Result<ReadyRanks, StoreError> {
    const MOST_RANKS: usize = 1_000;
    let counts = RANKS.under(t, &(), MOST_RANKS)?;
    Ok(ReadyRanks { is_all: counts.len() < MOST_RANKS, counts })
}

impl ReadyRanks {
    /// How many ready tasks have this rank, or one that is sooner. None where not all of these are known.
    pub fn up_to(&self, last: u64) -> Option<u64> {
        let is_complete = self.is_all || self.counts.last().is_some_and(|(rank, _)| *rank > last);
        let sum = self.counts.iter().filter(|(rank, _)| *rank <= last).map(|(_, count)| count.unsigned_abs()).sum();
        is_complete.then_some(sum)
    }
}

/// Notes that a worker has got or given up a task.
fn workers(t: &Transaction<'_>, before: Option<&Task>, after: Option<&Task>, now_ms: u64) -> Result<(), StoreError> {
    /// How much later a worker must have been seen for its entry to be written, in milliseconds.
    const SEEN_MS: u64 = 1_000;
    let (old, new) = (before.and_then(Task::worker), after.and_then(Task::worker));
    if old == new {
        return Ok(());
    }
    let ended = match after.map(Task::status) {
        Some(Status::Completed) => Some(COMPLETED),
        Some(Status::Failed) => Some(FAILED),
        _ => None,
    };
    if let (Some(old), Some(ended)) = (old, ended)
        && t.get(&WORKERS.key(old))?.is_some()
    {
        WORK.add(t, &(old, ended), 1);
    }
    if let Some(new) = new
        && let Some(worker) = WORKERS.get(t, new)?.filter(|worker| worker.seen_ms.saturating_add(SEEN_MS) <= now_ms)
    {
        WORKERS.set(t, new, &Worker { seen_ms: now_ms, ..worker })?;
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
