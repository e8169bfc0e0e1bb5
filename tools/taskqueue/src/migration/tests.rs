//! The migration of a store of the first format: of one that its version wrote, and of a large one.

use std::collections::BTreeMap;

use mcpp_tool::store::{Map, Transaction, View, memory, snapshot, transact};
use serde_json::{Value, json};

use super::{frozen, migrate};
use crate::{
    engine::{self, ClaimRequest},
    model::agreement::agree,
    queue::{READY, TASKS, WORKERS, counted, settings},
    record::{Status, Task},
    rpc, statistics,
};

/// Every entry of a store that the first version wrote, in the order of the keys: hexadecimal key, JSON value.
const WRITTEN: &str = include_str!("format-0.txt");
const NOW: u64 = 1_800_000_000_000;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
}

fn written() -> BTreeMap<Vec<u8>, Vec<u8>> {
    WRITTEN.lines().map(|line| line.split_once(' ').expect("two")).map(|(k, v)| (bytes(k), v.into())).collect()
}

fn load(entries: &BTreeMap<Vec<u8>, Vec<u8>>) {
    memory::clear();
    transact(|t| entries.iter().try_for_each(|(key, value)| t.set(key, value))).expect("loaded");
}

/// Runs the migration to its end; how many steps. Before every seventh the host crashes in the step before it commits.
fn run() -> usize {
    let (mut cursor, mut seen) = (None, Vec::new());
    loop {
        let crashes = seen.len() % 7 == 6;
        memory::spent();
        let step = transact(|t| {
            let next = migrate(t, 0, cursor.clone())?;
            if crashes { Err(mcpp_tool::Error::failed("crash")) } else { Ok(next) }
        });
        let spent = memory::spent();
        assert!(spent.writes < 8_000 && spent.written_bytes < 4 << 20, "a step took {spent:?}");
        if crashes {
            step.expect_err("crashed");
            seen.push(Vec::new());
            continue;
        }
        cursor = step.expect("migrated");
        let Some(next) = &cursor else { return seen.len() };
        assert!(!seen.contains(next), "the cursor comes back");
        seen.push(next.clone());
    }
}

fn all(t: &View<'_>) -> BTreeMap<String, Task> {
    TASKS.all().walk(t).map(|row| row.map(|(_, task)| (task.id.clone(), task))).collect::<Result<_, _>>().expect("read")
}

#[test]
fn the_frozen_writer_writes_what_the_first_version_wrote() {
    let written = written();
    let of = |name: &[u8]| {
        let beginning = [name, &[0, 0]].concat();
        written.iter().filter(move |(key, _)| key.starts_with(&beginning))
    };
    memory::clear();
    let records: Vec<Value> = of(b"task").map(|(_, json)| serde_json::from_slice(json).expect("JSON")).collect();
    assert_eq!(records.len(), 30);
    transact(|t| records.iter().try_for_each(|record| frozen::write(t, record))).expect("written");
    let own: BTreeMap<Vec<u8>, Vec<u8>> = memory::entries().into_iter().collect();
    for name in
        ["task", "ready", "delayed", "leased", "listed", "ended", "dependents", "held", "key", "count", "type", "rank"]
    {
        let theirs: Vec<_> = of(name.as_bytes()).collect();
        let beginning = [name.as_bytes(), &[0, 0]].concat();
        let ours: Vec<_> = own.iter().filter(|(key, _)| key.starts_with(&beginning)).collect();
        assert!(!theirs.is_empty(), "{name}");
        assert_eq!(ours, theirs, "{name}");
    }
    let ready: Value =
        serde_json::from_slice(of(b"task").find(|(key, _)| key.ends_with(b"plain\0\0")).expect("it is there").1)
            .expect("JSON");
    let mut same = frozen::record("plain", NOW, 5.0);
    same["spec"]["payload"] = json!({});
    assert_eq!(same.to_string(), ready.to_string(), "the generated records have their form");
}

#[test]
fn a_store_of_the_first_version_becomes_one_of_today() {
    load(&written());
    let steps = run();
    assert!(steps > 10, "{steps} steps");
    let t = &snapshot().expect("a snapshot");
    let tasks = all(t);
    assert_eq!(tasks.len(), 30);
    agree(t, &tasks).expect("indexes and counts are those of the records");
    // Every field that clients see is what it was.
    const OLD: Map<String, Value> = Map::new("task");
    for (_, json) in written().iter().filter(|(key, _)| key.starts_with(b"task\0\0")) {
        let old: Value = serde_json::from_slice(json).expect("JSON");
        let task = &tasks[old["id"].as_str().expect("an id")];
        let own: Task = serde_json::from_slice(json).expect("a task");
        assert_eq!((task.wire(), task), (own.wire(), &own), "{old}");
        assert!(OLD.get(t, &task.id).expect("readable").is_none());
    }
    assert_eq!(settings(t).expect("readable").keep_tasks, 50_000);
    assert_eq!(WORKERS.get(t, "w1").expect("readable").expect("registered").max_concurrent_tasks, 5);
    assert_eq!(statistics::average_execution_s(t), Ok(Some(0.002)));
    assert_eq!(statistics::minutes(t, NOW).expect("readable")[0].submitted, 30);
    let names = memory::entries();
    let old = [
        "task",
        "ready",
        "delayed",
        "leased",
        "listed",
        "ended",
        "dependents",
        "releasing",
        "held",
        "key",
        "count",
        "type",
        "rank",
        "totals",
        "minute",
        "clearing",
        "wake",
    ];
    for name in old {
        let beginning = [name.as_bytes(), &[0, 0]].concat();
        assert!(names.iter().all(|(key, _)| !key.starts_with(&beginning)), "{name} is left");
    }
    // The alarm tells the dependents that did not know, and the clearing goes on.
    let timer = memory::take_timer("upkeep").expect("the alarm is set");
    assert!(timer.at_ms <= NOW + 7, "{timer:?}");
    engine::wake(NOW + 100, 0.5).expect("it rings");
    let t = &snapshot().expect("a snapshot");
    let tasks = all(t);
    assert_eq!(tasks["child-19"].status(), Status::Queued);
    assert!(tasks["child-19"].waiting_for.is_empty() && !tasks.contains_key("cancelled"), "{:?}", tasks["child-19"]);
    agree(t, &tasks).expect("indexes and counts are those of the records");
    let again = rpc::handle(&json!({ "op": "submit", "payload": { "task_id": "plain" }, "task_type": "other" }));
    assert_eq!(again["error"], "idempotency_conflict");
}

#[test]
fn a_store_of_a_hundred_thousand_tasks_is_migrated_in_steps_and_claimed_in_its_order() {
    const TASKS_WRITTEN: u64 = 100_000;
    memory::clear();
    for first in (0..TASKS_WRITTEN).step_by(1_000) {
        transact(|t| {
            (first..first + 1_000)
                .try_for_each(|n| frozen::write(t, &frozen::record(&format!("task-{n}"), NOW + n, (n % 3) as f64)))
        })
        .expect("written");
    }
    memory::spent();
    let steps = run();
    assert!((100..400).contains(&steps), "{steps} steps");
    let t = &snapshot().expect("a snapshot");
    assert_eq!(counted(t, Status::Queued), Ok(TASKS_WRITTEN));
    let last = READY.of(&("", "kind")).descending().first(t).expect("readable").expect("a task");
    assert_eq!(last.2, format!("task-{}", TASKS_WRITTEN - 1), "of the least priority, the youngest");
    let request = ClaimRequest { worker: "w", ..ClaimRequest::default() };
    let claimed = transact(|t| engine::claim_many(t, &request, 128, NOW)).expect("claimed");
    let expected: Vec<String> = (0..128).map(|n| format!("task-{}", 2 + 3 * n)).collect();
    assert_eq!(claimed.iter().map(|task| task.id.clone()).collect::<Vec<_>>(), expected);
}

#[test]
fn a_record_that_cannot_be_read_stays_and_stops_no_other() {
    memory::clear();
    const OLD: Map<String, Value> = Map::new("task");
    for id in ["a", "b", "c"] {
        transact(|t| frozen::write(t, &frozen::record(id, NOW, 1.0))).expect("written");
    }
    let large = |t: &Transaction<'_>, id: &str| {
        let mut record = frozen::record(id, NOW, 1.0);
        record["spec"]["payload"] = json!({ "fill": "x".repeat(500_000) });
        frozen::write(t, &record)
    };
    for number in 0..9 {
        transact(|t| large(t, &format!("large-{number}"))).expect("written");
    }
    for id in ["a-bad", "b-bad", "large-4-bad"] {
        transact(|t| OLD.set(t, id, &json!("no task"))).expect("written");
    }
    run();
    let t = &snapshot().expect("a snapshot");
    assert_eq!((all(t).len(), counted(t, Status::Queued)), (12, Ok(12)));
    assert_eq!(OLD.all().walk(t).count(), 3);
}
