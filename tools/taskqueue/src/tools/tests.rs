//! The tools for many tasks, called as the host calls them.

use mcpp_tool::store::{memory, snapshot, transact};
use serde_json::{Value, json};

use super::{batch::*, bulk::*, queue::*, tasks::*};
use crate::{
    engine::{self, ClaimRequest},
    queue::counted,
    record::Status,
};

/// Calls a tool, and checks its answer against what its schema requires.
fn call(tool: &mcpp_tool::internal::Definition, arguments: Value) -> Value {
    let output = (tool.call)(arguments.clone()).unwrap_or_else(|error| panic!("{}: {error}: {arguments}", tool.name));
    let answer = output.structured.expect("structured");
    if let Some(schema) = (tool.output_schema)() {
        let branch = if answer["success"] == true { "then" } else { "else" };
        for name in schema[branch]["required"].as_array().into_iter().flatten() {
            assert!(answer.get(name.as_str().expect("a name")).is_some(), "{}: {name} is missing: {answer}", tool.name);
        }
    }
    answer
}

fn task(id: &str) -> Value {
    json!({ "task_id": id, "task_type": "kind", "payload": { "id": id } })
}

fn tasks(count: usize) -> Vec<Value> {
    (0..count).map(|number| task(&format!("task-{number:04}"))).collect()
}

fn status(id: &str) -> Value {
    call(&MCPP_TOOL_TASK_STATUS, json!({ "task_id": id }))["status"].clone()
}

fn submit_many(tasks: Vec<Value>) -> Value {
    call(&MCPP_TOOL_TASK_SUBMIT_MANY, json!({ "tasks": tasks }))
}

fn claim(worker: &str, most: usize) -> Vec<Value> {
    let answer = call(&MCPP_TOOL_TASK_CLAIM, json!({ "worker_id": worker, "max_tasks": most }));
    answer["tasks"].as_array().expect("tasks").clone()
}

fn count(status: Status) -> u64 {
    counted(&snapshot().expect("a snapshot"), status).expect("counted")
}

#[test]
fn a_thousand_tasks_are_submitted_in_one_transaction_or_none_of_them() {
    memory::clear();
    let mut all = tasks(1_000);
    all[1]["dependencies"] = json!(["task-0000"]);
    let answer = submit_many(all.clone());
    assert_eq!((&answer["done_count"], &answer["failed_count"]), (&json!(1_000), &json!(0)), "{}", answer["error"]);
    assert_eq!((count(Status::Queued), &answer["results"][999]["task_id"]), (1_000, &json!("task-0999")));
    assert_eq!(submit_many(all)["done_count"], 1_000, "the same work is the same tasks");
    assert_eq!(count(Status::Queued), 1_000);
    memory::clear();
    let mut wrong = tasks(50);
    wrong[30]["dependencies"] = json!(["nothing"]);
    let answer = submit_many(wrong.clone());
    assert_eq!(answer["success"], false);
    assert!(answer["error"].as_str().is_some_and(|error| error.starts_with("tasks/30: ")), "{answer}");
    assert!(memory::entries().is_empty(), "none of them");
    // Each for itself.
    wrong[7]["not_before"] = json!("tomorrow");
    let answer = call(&MCPP_TOOL_TASK_SUBMIT_MANY, json!({ "tasks": wrong, "all_or_none": false }));
    assert_eq!((&answer["done_count"], &answer["failed_count"]), (&json!(48), &json!(2)), "{answer}");
    assert_eq!((&answer["results"][30]["ok"], &answer["results"][7]["ok"]), (&json!(false), &json!(false)));
    assert_eq!(count(Status::Queued), 48);
}

#[test]
fn large_tasks_are_submitted_each_for_itself_and_refused_together() {
    memory::clear();
    let large = |number: usize| {
        let payload = json!({ "fill": "x".repeat(engine::MAX_PAYLOAD_BYTES - 100) });
        json!({ "task_id": format!("large-{number}"), "task_type": "kind", "payload": payload })
    };
    let mut all: Vec<Value> = (0..12).map(large).collect();
    let answer = submit_many(all.clone());
    assert!(answer["error"].as_str().is_some_and(|error| error.contains("all or none")), "{answer}");
    assert_eq!(count(Status::Queued), 0);
    all[5]["payload"]["more"] = json!("x".repeat(200));
    let answer = call(&MCPP_TOOL_TASK_SUBMIT_MANY, json!({ "tasks": all, "all_or_none": false }));
    assert_eq!((&answer["done_count"], &answer["results"][5]["ok"]), (&json!(11), &json!(false)), "{answer}");
    // A claim gives as many as an answer has room for, and no more are taken.
    let claimed = claim("w", 100).len();
    assert!((2..=3).contains(&claimed), "{claimed}");
    assert_eq!(count(Status::Running), claimed as u64);
}

#[test]
fn tasks_are_claimed_in_their_order_and_completed_and_claimed_in_one_call() {
    memory::clear();
    let mut all = tasks(300);
    all[200]["priority"] = json!(5.0);
    submit_many(all);
    let first = claim("w", 128);
    assert_eq!(first.len(), 128);
    let id = |task: &Value| task["task_id"].as_str().expect("an id").to_owned();
    let expected = std::iter::once(200).chain(0..127).map(|number| format!("task-{number:04}"));
    assert_eq!(first.iter().map(id).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    let end = |task: &Value| json!({ "task_id": task["task_id"], "worker_id": "w", "fencing_token": task["fencing_token"], "result": { "n": 1 } });
    let mut ends: Vec<Value> = first.iter().map(end).collect();
    ends[3]["fencing_token"] = json!(9);
    ends[4]["task_id"] = json!("nothing");
    ends[5] = json!({ "task_id": id(&first[5]), "status": "failed", "error": "why", "retry": true });
    ends[6] = json!({ "task_id": id(&first[6]), "status": "failed", "error": "why" });
    let answer =
        call(&MCPP_TOOL_TASK_COMPLETE_MANY, json!({ "tasks": ends, "claim": { "worker_id": "w", "max_tasks": 10 } }));
    assert_eq!((&answer["done_count"], &answer["failed_count"]), (&json!(126), &json!(2)), "{answer}");
    assert_eq!(answer["results"][3]["error"], "the fencing token is stale");
    assert_eq!(answer["results"][5]["status"], "queued");
    assert_eq!(answer["tasks"].as_array().map(Vec::len), Some(10));
    assert_eq!((status(&id(&first[0])), status(&id(&first[3]))), (json!("completed"), json!("running")));
    assert_eq!((count(Status::Completed), count(Status::Failed), count(Status::Running)), (124, 1, 12));
    // Only completing.
    let next = &answer["tasks"][0];
    let answer = call(&MCPP_TOOL_TASK_COMPLETE_MANY, json!({ "tasks": [end(next)] }));
    assert_eq!((&answer["done_count"], &answer["tasks"]), (&json!(1), &Value::Null));
}

#[test]
fn many_leases_are_renewed_in_one_call() {
    memory::clear();
    submit_many(tasks(20));
    let claimed = claim("w", 20);
    let held: Vec<Value> = claimed
        .iter()
        .map(|task| json!({ "task_id": task["task_id"], "fencing_token": task["fencing_token"] }))
        .collect();
    let answer = call(&MCPP_TOOL_TASK_RENEW_MANY, json!({ "worker_id": "w", "tasks": held }));
    assert_eq!(answer["done_count"], 20, "{answer}");
    assert!(answer["results"][0]["lease_until"].is_string());
    let answer = call(&MCPP_TOOL_TASK_RENEW_MANY, json!({ "worker_id": "other", "tasks": held }));
    assert_eq!(answer["failed_count"], 20, "{answer}");
}

#[test]
fn all_tasks_that_match_are_changed_in_the_background_with_progress() {
    memory::clear();
    for hundreds in 0..12 {
        let mut some = tasks(1_000)[hundreds * 80..(hundreds + 1) * 80].to_vec();
        some.iter_mut().for_each(|task| task["tags"] = json!([if hundreds % 2 == 0 { "even" } else { "odd" }]));
        submit_many(some);
    }
    let bulk = |arguments: Value| call(&MCPP_TOOL_TASK_BULK, arguments);
    let finish = |started: &Value| {
        for _ in 0..50 {
            let Some(timer) = memory::take_timer("upkeep") else { break };
            engine::wake(timer.at_ms.max(mcpp_tool::environment::now_ms()), 0.5).expect("it rings");
            let told = call(&MCPP_TOOL_TASK_BULK_STATUS, json!({ "bulk_id": started["bulk_id"] }));
            if told["in_progress"] == false {
                return told;
            }
        }
        panic!("it never ends: {started}");
    };
    let raised = bulk(json!({ "action": "priority", "tags": ["odd"], "new_priority": 7.0 }));
    assert_eq!((&raised["in_progress"], &raised["success"]), (&json!(true), &json!(true)), "{raised}");
    assert_eq!(finish(&raised)["changed_count"], 480);
    let first = &claim("w", 1)[0];
    assert_eq!(first["task_id"], "task-0080", "the first odd one");
    let cancelled = bulk(json!({ "action": "cancel", "tags": ["even"], "reason": "no need" }));
    let late = submit_many(vec![json!({ "task_id": "late", "task_type": "kind", "payload": {}, "tags": ["even"] })]);
    assert_eq!(late["done_count"], 1);
    assert_eq!(finish(&cancelled)["changed_count"], 480);
    assert_eq!(
        (count(Status::Cancelled), status("late"), status("task-0000")),
        (480, json!("queued"), json!("cancelled"))
    );
    let retried = bulk(json!({ "action": "retry", "statuses": ["cancelled"], "tags": ["even"] }));
    assert_eq!(finish(&retried)["changed_count"], 480);
    assert_eq!(status("task-0000-retry-1"), "queued");
    let refused = bulk(json!({ "action": "delete", "tags": ["even"] }));
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("confirm")), "{refused}");
    let wrong = bulk(json!({ "action": "retry", "statuses": ["running"] }));
    assert_eq!(wrong["success"], false, "{wrong}");
    let deleted = bulk(json!({ "action": "delete", "tags": ["even"], "confirm": true }));
    let stats = call(&MCPP_TOOL_QUEUE_STATS, json!({}));
    assert_eq!((stats["bulk"].as_array().map(Vec::len), &stats["clearing"]), (Some(1), &Value::Null), "{stats}");
    assert_eq!(finish(&deleted)["changed_count"], 480 + 481);
    assert_eq!((count(Status::Queued), count(Status::Running), count(Status::Cancelled)), (479, 1, 0));
}

#[test]
fn a_claimer_that_waits_is_noted_while_it_waits_and_woken_by_one_task() {
    memory::clear();
    // In memory a wait ends at once: the claimer finds nothing, and is not noted any more.
    let answer = call(&MCPP_TOOL_TASK_CLAIM, json!({ "worker_id": "w", "wait_s": 0.2 }));
    assert_eq!(answer["tasks"], json!([]));
    assert!(memory::entries().is_empty(), "{:?}", memory::entries());
    // Three that wait elsewhere.
    let request = |worker| ClaimRequest { worker, types: vec!["kind".into()], ..ClaimRequest::default() };
    let waiting = |t: &mcpp_tool::store::View<'_>| crate::engine::waiting_count(t).expect("counted");
    transact(|t| {
        for worker in ["b", "c", "d"] {
            engine::note_waiting(t, &(u64::MAX, worker.to_owned()), &request(worker), 0)?;
        }
        engine::note_waiting(t, &(1, "gone".to_owned()), &request("gone"), 0)
    })
    .expect("noted");
    let left = |submitted: Value| {
        submit_many(vec![submitted]);
        waiting(&snapshot().expect("a snapshot"))
    };
    assert_eq!(left(json!({ "task_id": "1", "task_type": "other", "payload": {} })), 4, "it is for none of them");
    assert_eq!(left(task("2")), 3, "one is woken, and the one that was gone is passed over");
    transact(|t| engine::note_waiting(t, &(u64::MAX, "e".to_owned()), &request("e"), 5)).expect("noted");
    assert_eq!(waiting(&snapshot().expect("a snapshot")), 3, "which the next one that waits forgets");
    assert_eq!(left(task("3")), 2, "and the next");
    assert_eq!(
        left(json!({ "task_id": "4", "task_type": "kind", "payload": {}, "not_before": "2999-01-01T00:00:00Z" })),
        2
    );
    assert_eq!((left(task("5")), left(task("6")), left(task("7"))), (1, 0, 0), "and the last ones");
}

#[test]
fn a_unique_key_has_one_task_in_a_time_by_its_rule() {
    let submit = |id: &str, rule: &str, window_ms: u64| {
        let mut task = task(id);
        task["unique"] = json!({ "key": "report", "window_ms": window_ms, "on_conflict": rule });
        call(&MCPP_TOOL_TASK_SUBMIT, task)
    };
    memory::clear();
    assert_eq!(submit("a", "reject", 60_000)["success"], true);
    assert_eq!(submit("a", "reject", 60_000)["success"], true, "it is the same one");
    assert_eq!(submit("b", "reject", 60_000)["error"], "the unique key has the task \"a\" now");
    assert_eq!(submit("c", "replace", 60_000)["status"], "queued");
    assert_eq!((status("a"), status("c")), (json!("cancelled"), json!("queued")));
    assert_eq!(claim("w", 9)[0]["task_id"], "c");
    assert_eq!(submit("d", "replace", 0)["success"], true, "one that runs is not replaced");
    assert_eq!((status("c"), submit("e", "reject", 60_000)["success"].clone()), (json!("running"), json!(true)));
    memory::clear();
    for id in ["a", "b", "c"] {
        assert_eq!(submit(id, "debounce", 60_000)["success"], true);
    }
    assert_eq!((status("a"), status("b"), status("c")), (json!("cancelled"), json!("cancelled"), json!("queued")));
    assert!(claim("w", 9).is_empty(), "not before nothing more has come for a minute");
    // A task that is forgotten leaves nothing.
    call(&MCPP_TOOL_QUEUE_CLEAR, json!({ "confirm": true }));
    assert_eq!(submit("d", "reject", 60_000)["success"], true);
}

#[test]
fn limits_of_keys_are_shown_and_changed() {
    memory::clear();
    let limit = |arguments: Value| call(&MCPP_TOOL_QUEUE_LIMIT, arguments);
    let set = limit(
        json!({ "kind": "concurrency", "key": "gpu", "limit": { "concurrency": 1, "max_waiting": 1, "overflow": "drop_newest" } }),
    );
    assert_eq!((&set["limit"]["concurrency"], &set["held_count"]), (&json!(1), &json!(0)), "{set}");
    let mut all = tasks(4);
    all.iter_mut().for_each(|task| task["concurrency_key"] = json!("gpu"));
    let submitted = call(&MCPP_TOOL_TASK_SUBMIT_MANY, json!({ "tasks": all, "all_or_none": false }));
    assert_eq!((&submitted["done_count"], &submitted["failed_count"]), (&json!(2), &json!(2)), "{submitted}");
    assert_eq!(claim("w", 9).len(), 1);
    let shown = limit(json!({ "kind": "concurrency", "key": "gpu" }));
    assert_eq!(
        (&shown["held_count"], &shown["ready_count"], &shown["running_count"]),
        (&json!(1), &json!(0), &json!(1))
    );
    limit(json!({ "kind": "concurrency", "key": "gpu", "limit": {} }));
    assert_eq!(claim("w", 9).len(), 1, "without a limit");
    assert_eq!(limit(json!({ "kind": "rate", "key": " " , "limit": {} }))["success"], false);
}

#[test]
fn the_end_of_a_task_is_told_to_those_who_asked_for_it_once_and_with_its_worker() {
    memory::clear();
    let submit = |id: &str, notify: bool| {
        let mut task = task(id);
        task["notify"] = notify.into();
        task["retry_policy"] = json!({ "max_retries": 1 });
        assert_eq!(call(&MCPP_TOOL_TASK_SUBMIT, task)["success"], true);
    };
    let end = |id: &str, end: Value| {
        let mut end = end;
        end["task_id"] = id.into();
        call(&MCPP_TOOL_TASK_COMPLETE_MANY, json!({ "tasks": [end] }))
    };
    ["done", "failed", "cancelled"].into_iter().for_each(|id| submit(id, true));
    submit("quiet", false);
    assert_eq!(claim("w", 9).len(), 4);
    end("done", json!({ "status": "completed", "result": { "n": 1 } }));
    end("quiet", json!({ "status": "completed" }));
    end("failed", json!({ "status": "failed", "error": "no", "retry": true }));
    assert_eq!(status("failed"), "queued", "it is tried again, so it has not ended");
    end("failed", json!({ "status": "failed", "error": "no" }));
    call(&MCPP_TOOL_TASK_CANCEL, json!({ "task_id": "failed" }));
    call(&MCPP_TOOL_TASK_CANCEL, json!({ "task_id": "cancelled", "force": true }));
    let told: Vec<(String, Value)> = memory::emitted()
        .into_iter()
        .filter(|event| event.topic == "ended")
        .map(|event| (event.key, serde_json::from_slice(&event.payload).expect("JSON")))
        .collect();
    let keys: Vec<&str> = told.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["done", "failed", "cancelled"]);
    assert_eq!((&told[0].1["status"], &told[0].1["worker"]), (&json!("completed"), &json!("w")), "{told:?}");
    assert_eq!((&told[2].1["status"], told[2].1.get("worker")), (&json!("cancelled"), None), "{told:?}");
    assert_eq!(call(&MCPP_TOOL_TASK_RESULT, json!({ "task_id": "done" }))["worker_id"], "w");
}

/// What each call of a steady stream asks of the host: its cost is in these, more than in what it computes.
#[test]
fn the_frequent_calls_ask_little_of_the_host() {
    memory::clear();
    let submit = |number: usize| call(&MCPP_TOOL_TASK_SUBMIT, task(&format!("t{number}")));
    (0..200).for_each(|number| drop(submit(number)));
    let claim = || call(&MCPP_TOOL_TASK_CLAIM, json!({ "worker_id": "w", "max_tasks": 1 }));
    let complete =
        |id: &Value| call(&MCPP_TOOL_TASK_COMPLETE_MANY, json!({ "tasks": [{ "task_id": id, "result": {} }] }));
    for _ in 0..50 {
        complete(&claim()["tasks"][0]["task_id"]);
    }
    let calls = |work: &dyn Fn()| {
        memory::spent();
        work();
        memory::spent().calls
    };
    let submitted = calls(&|| drop(submit(500)));
    let claimed = calls(&|| drop(claim()));
    let ended = calls(&|| drop(complete(&json!("t50"))));
    // Each of them was counted once, and then held.
    assert!(submitted <= 12 && claimed <= 15 && ended <= 12, "{submitted} {claimed} {ended}");
    assert_eq!((status("t500"), status("t50")), (json!("queued"), json!("completed")));
}

/// The answers to calls of `task_submit` that come together.
fn submit_each(calls: &[Value]) -> Vec<Value> {
    let outcomes = mcpp_tool::internal::serve(calls.to_vec(), task_submit_each);
    let answer = |outcome: Result<mcpp_tool::Output, _>| outcome.map(|output| output.structured).expect("an answer");
    outcomes.into_iter().map(|outcome| answer(outcome).expect("structured")).collect()
}

#[test]
fn calls_that_come_together_have_the_answers_of_calls_alone() {
    let mut calls = tasks(20);
    calls[3]["priority"] = json!(9.0);
    calls[5]["dependencies"] = json!(["nothing"]);
    calls[6]["dependencies"] = json!(["task-0002"]);
    calls[7]["not_before"] = json!("tomorrow");
    calls[8] = calls[2].clone();
    calls[9] = json!({ "task_id": "task-0002", "task_type": "other", "payload": {} });
    calls[10]["payload"] = json!({ "text": "x".repeat(600 << 10) });
    calls[11]["unique"] = json!({ "key": "k", "window_ms": 60_000, "on_conflict": "reject" });
    calls[12]["unique"] = calls[11]["unique"].clone();
    memory::clear();
    let mut alone: Vec<Value> = calls.iter().map(|arguments| call(&MCPP_TOOL_TASK_SUBMIT, arguments.clone())).collect();
    let stored = count(Status::Queued);
    memory::clear();
    let mut together = submit_each(&calls);
    assert_eq!(count(Status::Queued), stored);
    for answer in alone.iter_mut().chain(&mut together) {
        if let Some(answer) = answer.as_object_mut() {
            // They tell how many waited at that moment.
            answer.remove("queue_position");
            answer.remove("estimated_start_time");
        }
    }
    assert_eq!(together, alone);
    memory::clear();
    let places: Vec<Value> =
        submit_each(&tasks(20)).into_iter().map(|answer| answer["queue_position"].clone()).collect();
    let expected: Vec<Value> = (0..20).map(|number| if number < 4 { Value::Null } else { json!(number + 1) }).collect();
    assert_eq!(places[4..], expected[4..]);
}

#[test]
fn calls_that_come_together_are_one_transaction() {
    memory::clear();
    let alone = {
        memory::spent();
        call(&MCPP_TOOL_TASK_SUBMIT, task("first"));
        memory::spent().calls
    };
    submit_each(&tasks(32));
    let together = memory::spent().calls;
    assert!(together <= alone * 3, "{together} calls of the host for 32 tasks, {alone} for one");
}
