use mcpp_tool::store::{memory, snapshot, transact};
use serde_json::{Value, json};

use super::*;
use crate::{
    engine::{
        Action, ClaimRequest, Completion, Draft, Filter, Submission, Traveller, bulk, cancel, claim, clear, end_all,
        find, register, renew, report, retry, submit, submit_all, submit_each, take_in_each,
    },
    record::{LogLine, Spec, State, Status, Task, Worker},
    rpc::handle,
    rules::{Claim, Outcome},
};

const NOW: u64 = 1_800_000_000_000;
const MIB: u64 = 1 << 20;
/// Its reserve is 1 MiB.
const QUOTA: u64 = 8 * MIB;

fn draft(id: &str, bytes: usize) -> Draft {
    let spec = Spec::new("kind", &json!({ "text": "x".repeat(bytes) }));
    Draft::new(Submission { id: Some(id.to_owned()), not_before_ms: 0, spec }, "", NOW)
}

fn put(id: &str, bytes: usize) -> Result<Task, QueueError> {
    let draft = draft(id, bytes);
    transact(|t| submit(t, &draft, NOW))
}

fn usage() -> Usage {
    snapshot().expect("a snapshot").usage().expect("known")
}

fn task(id: &str) -> Task {
    find(&snapshot().expect("a snapshot"), id).expect("known")
}

/// Fills the store of this quota with tasks of 100 kB, then of 1 kB, until none fits; how many there are.
fn fill(quota_bytes: u64) -> usize {
    memory::clear();
    memory::set_quota(quota_bytes);
    let mut count = 0;
    for bytes in [100_000, 1_000, 0] {
        while let Ok(task) = put(&format!("t{count}"), bytes) {
            assert_eq!(task.state, State::Ready);
            count += 1;
        }
    }
    assert!(count > 50, "only {count} tasks fit");
    let Usage { used_bytes, quota_bytes } = usage();
    let most = quota_bytes - reserve_bytes(quota_bytes);
    assert!(used_bytes <= most && used_bytes > most - 4_096, "{used_bytes} of {most}");
    count
}

fn claim_by(worker: &str) -> Result<Option<Task>, QueueError> {
    let request = ClaimRequest { worker, ..ClaimRequest::default() };
    transact(|t| claim(t, &request, NOW))
}

fn end(id: &str, outcome: Outcome) -> Result<Task, QueueError> {
    let end = Completion { task: id.to_owned(), worker: None, token: None, outcome };
    end_all(&[end], NOW, 0.5).remove(0)
}

fn of_bytes(bytes: usize) -> Option<Value> {
    Some(json!({ "text": "y".repeat(bytes) }))
}

#[test]
fn a_queue_that_is_full_takes_no_more_work_and_says_why() {
    fill(QUOTA);
    transact(|t| cancel(t, "t0", "", false, NOW).map(drop)).expect("cancelled");
    let line = crate::engine::export(&Task { id: "far".into(), ..task("t1") });
    let far = [Traveller::read(line.as_object().cloned().expect("an object"))];
    let worker = Worker {
        id: "w".into(),
        capabilities: Vec::new(),
        max_concurrent_tasks: 1,
        resource_limits: None,
        metadata: Some(json!("z".repeat(30_000))),
        registered_ms: NOW,
        seen_ms: NOW,
        leaves_ms: None,
    };
    let before = memory::entries();
    let both = [draft("a", 10), draft("b", 5_000)];
    let each = [Ok(draft("a", 5_000)), Ok(draft("t1", 100_000)), Ok(draft("b", 5_000))];
    let each = submit_each(&each, NOW);
    assert_eq!(each[1].as_ref().map(|task| &*task.id), Ok("t1"), "what is there already is no new work");
    for refused in [
        put("more", 5_000).map(drop),
        transact(|t| submit_all(t, &both, NOW).map(drop)),
        each[0].clone().map(drop),
        each[2].clone().map(drop),
        take_in_each(&far, NOW).remove(0).map(drop),
        transact(|t| retry(t, "t0", None, None, NOW).map(drop)),
        transact(|t| register(t, worker.clone()).map(drop)),
    ] {
        let error = refused.expect_err("there is no room").to_string();
        assert!(error.contains("before the last 1048576, the reserve for claims"), "{error}");
        assert!(error.contains(" of 8388608 bytes") && error.contains("`quota_bytes`"), "{error}");
    }
    assert_eq!(memory::entries(), before, "what was refused left nothing");
    let ops = [
        json!({ "op": "submit", "task_type": "kind", "payload": { "text": "x".repeat(5_000) } }),
        json!({ "op": "submit_many", "tasks": [{ "task_type": "kind", "payload": { "text": "x".repeat(5_000) } }] }),
        json!({ "op": "cache.set", "key": "k", "value": "x".repeat(5_000) }),
    ];
    for op in ops {
        let reply = handle(&op);
        assert_eq!((&reply["ok"], &reply["error"]), (&json!(false), &json!("quota_exceeded")), "{reply}");
    }
    // A retry of all leaves them, and the queue goes on.
    let filter = Filter { statuses: vec![Status::Cancelled], ..Filter::default() };
    let bulk = bulk(&Action::Retry, &filter, NOW).expect("asked");
    assert_eq!(bulk.changed, 0);
}

#[test]
fn all_work_of_a_full_queue_ends_and_makes_room_again() {
    let count = fill(QUOTA);
    for number in 0..count {
        let claimed = claim_by("w").expect("there is room for claims").expect("a task");
        transact(|t| renew(t, &claimed.id, Claim::default(), NOW)).expect("a sign of life");
        let outcome = match number % 4 {
            0 => Outcome::Completed(Some(json!({ "ok": true }))),
            1 => Outcome::FailedForGood(None, "no".into()),
            2 => Outcome::Cancelled("no".into()),
            _ => Outcome::Completed(None),
        };
        assert!(end(&claimed.id, outcome).expect("ended").status().is_final());
    }
    assert!(usage().used_bytes > QUOTA - reserve_bytes(QUOTA), "the ends use the reserve");
    assert!(put("more", 1_000).is_err());
    assert_eq!(put("t0", 100_000).map(|task| task.status()), Ok(Status::Completed), "the same work adds nothing");
    let statuses = [Status::Queued, Status::Completed, Status::Failed, Status::Cancelled];
    assert_eq!(clear(&statuses, NOW).expect("removed").changed, u64::try_from(count).expect("small"));
    put("more", 1_000).expect("there is room again");
}

#[test]
fn a_result_that_does_not_fit_fails_its_task_and_leaves_room_for_the_other_ends() {
    fill(QUOTA);
    let claimed: Vec<Task> = (0..20).map(|_| claim_by("w").expect("room").expect("a task")).collect();
    assert_eq!(
        end(&claimed[0].id, Outcome::Completed(of_bytes(300_000))).map(|task| task.status()),
        Ok(Status::Completed)
    );
    // Of the first half of the reserve about 200 kB are left.
    let failed = end(&claimed[1].id, Outcome::Completed(of_bytes(400_000))).expect("ended");
    let error = failed.error.clone().unwrap_or_default();
    assert_eq!((failed.status(), &failed.result), (Status::Failed, &None));
    assert!(error.starts_with("the result of 400011 bytes was not kept: the queue's store has "), "{error}");
    assert!(error.contains("before the last 524288, the reserve for ends of tasks without a result"), "{error}");
    let again = end(&claimed[2].id, Outcome::Failed(of_bytes(400_000), "it broke".into())).expect("tried again");
    assert!(again.error.as_ref().is_some_and(|error| error.starts_with("it broke; the result of ")), "{again:?}");
    assert!(!again.status().is_final(), "an attempt that may be repeated is");
    // In one call, those that fit end as they are told.
    let ends = [3, 4, 5, 6].map(|n| Completion {
        task: claimed[n].id.clone(),
        worker: None,
        token: None,
        outcome: Outcome::Completed(of_bytes(if n == 4 { 400_000 } else { 50 })),
    });
    let ended: Vec<Task> = end_all(&ends, NOW, 0.5).into_iter().map(|end| end.expect("ended")).collect();
    let statuses: Vec<Status> = ended.iter().map(Task::status).collect();
    assert_eq!(statuses, [Status::Completed, Status::Failed, Status::Completed, Status::Completed]);
    let unkept: Vec<bool> = ends.iter().zip(&ended).map(|(end, task)| end.unkept(task).is_some()).collect();
    assert_eq!(unkept, [false, true, false, false]);
    let reply = handle(&json!({ "op": "complete", "task_id": claimed[7].id, "result": of_bytes(400_000) }));
    assert_eq!((&reply["ok"], &reply["status"]), (&json!(true), &json!("failed")), "{reply}");
    assert!(reply["detail"].as_str().is_some_and(|why| why.contains("was not kept")), "{reply}");
    let reply = handle(&json!({ "op": "complete", "task_id": claimed[8].id, "result": {} }));
    assert_eq!((&reply["ok"], &reply["status"]), (&json!(true), &Value::Null), "{reply}");
    // What is left of that half goes into results; the other half stays for ends.
    while let Some(task) = claimed.iter().map(|claimed| task(&claimed.id)).find(|task| task.worker().is_some()) {
        let ended = end(&task.id, Outcome::Completed(of_bytes(100_000))).expect("ended");
        assert!(ended.status().is_final());
    }
    assert!(usage().free_bytes() >= reserve_bytes(QUOTA) / 2);
}

#[test]
fn claims_and_reports_stop_before_the_half_that_ends_need() {
    fill(QUOTA);
    let held: Vec<String> = (0..10).map(|_| claim_by("w").expect("room").expect("a task").id).collect();
    let mut refusals = 0;
    for bytes in [90_000, 1_000, 0] {
        for id in held.iter().cycle().take(200) {
            let line = LogLine { ts: 0.0, stream: "stdout".into(), message: "z".repeat(bytes) };
            if let Err(why) = transact(|t| report(t, id, Claim::default(), None, vec![line.clone()], NOW)) {
                assert!(matches!(why, QueueError::Full(Shortage { part: Part::Results, .. })), "{why}");
                refusals += 1;
                break;
            }
        }
    }
    assert_eq!(refusals, 3);
    assert!(usage().free_bytes() >= reserve_bytes(QUOTA) / 2);
    let refused = claim_by("w").expect_err("there is no room for its end");
    assert!(matches!(refused, QueueError::Full(_)), "{refused}");
    let reply = handle(&json!({ "op": "claim", "worker_id": "w" }));
    assert_eq!(reply["error"], "busy", "a worker asks again later: {reply}");
    for id in &held {
        transact(|t| renew(t, id, Claim::default(), NOW)).expect("a sign of life");
        assert!(end(id, Outcome::FailedForGood(None, "no".into())).is_ok());
    }
}

#[test]
fn the_size_of_the_store_is_told() {
    memory::clear();
    memory::set_quota(QUOTA);
    put("t", 1_000).expect("submitted");
    let told = crate::statistics::store(&snapshot().expect("a snapshot"));
    let used = usage().used_bytes;
    assert_eq!(told, json!({ "used_bytes": used, "quota_bytes": QUOTA, "reserve_bytes": MIB }));
    assert!(used > 1_000);
    assert_eq!(handle(&json!({ "op": "status", "detail": true }))["queue"]["store"], told);
}
