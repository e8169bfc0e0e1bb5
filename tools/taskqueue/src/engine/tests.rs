//! Large payloads, long queues, records that cannot be read, and ids that an earlier version took.

use mcpp_tool::store::{Map, Transaction, memory, snapshot};
use serde_json::{Value, json};

use super::{upkeep::UPKEEP, *};
use crate::{
    listing::{self, Query},
    queue::{TASKS, WORKERS, counted, ready_ranks},
    record::{Spec, Worker},
};

const NOW: u64 = 1_800_000_000_000;
/// The default budgets of a call.
const BUDGET: memory::Spent =
    memory::Spent { ops: 100_000, bytes: 64 << 20, writes: u64::MAX, written_bytes: u64::MAX, calls: u64::MAX };

fn run<T>(work: impl FnMut(&Transaction<'static>) -> Result<T, QueueError>) -> Result<T, QueueError> {
    mcpp_tool::store::transact(work)
}

fn submission(id: &str, payload: Value) -> Submission {
    Submission { id: Some(id.to_owned()), not_before_ms: 0, spec: Spec::new("kind", &payload) }
}

fn large() -> Value {
    json!({ "fill": "x".repeat(MAX_PAYLOAD_BYTES - 100) })
}

fn submit_with(id: &str, payload: Value, change: impl FnOnce(&mut Submission)) {
    let mut submission = submission(id, payload);
    change(&mut submission);
    run(|t| submit(t, &Draft::new(submission.clone(), id, NOW), NOW)).expect("submitted");
}

fn task(id: &str) -> Task {
    find(&snapshot().expect("a snapshot"), id).expect("it is there")
}

fn claim_by(worker: &str, now_ms: u64) -> Option<Task> {
    look_after(now_ms, 0.5).expect("looked after");
    let request = ClaimRequest { worker, ..ClaimRequest::default() };
    run(|t| claim(t, &request, now_ms)).expect("a claim is legal")
}

fn complete(id: &str, now_ms: u64) -> Result<Task, QueueError> {
    run(|t| finish(t, id, Claim::default(), Outcome::Completed(None), now_ms, 0.5))
}

/// Wakes the timer as often as it is due until `now_ms`; how often. Each wake stays within the budgets of a call.
fn wake_until(now_ms: u64) -> usize {
    let mut wakes = 0;
    while let Some(timer) = memory::timers().get(UPKEEP.name()).cloned().filter(|timer| timer.at_ms <= now_ms) {
        memory::take_timer(UPKEEP.name());
        memory::spent();
        wake(timer.at_ms.max(NOW), 0.5).expect("it wakes");
        let spent = memory::spent();
        assert!(spent.ops <= BUDGET.ops && spent.bytes <= BUDGET.bytes, "a wake took {spent:?}");
        wakes += 1;
        assert!(wakes < 1_000, "the timer never rests");
    }
    wakes
}

/// Damages the record of a task.
fn damage(id: &str) {
    let key = task(id);
    run(|t| Ok(t.set(&TASKS.key(&(key.created_ms, id)), b"\"no task\"")?)).expect("written");
}

#[test]
fn a_parent_with_nine_large_dependents_can_be_completed_and_all_of_them_learn_it() {
    submit_with("parent", large(), |_| {});
    for number in 0..9 {
        submit_with(&format!("child-{number}"), large(), |task| task.spec.dependencies = vec!["parent".into()]);
    }
    submit_with("grandchild", large(), |task| task.spec.dependencies = vec!["child-3".into(), "child-4".into()]);
    assert_eq!(claim_by("w", NOW).expect("the parent").id, "parent");
    complete("parent", NOW).expect("completed");
    assert!(wake_until(NOW + 1_000) > 0, "the timer goes on");
    assert!((0..9).all(|number| task(&format!("child-{number}")).state == State::Ready));
    assert_eq!(task("grandchild").state, State::Blocked);
    // One that fails takes those with it that wait for it.
    let failed = |t: &Transaction| {
        finish(t, "child-3", Claim::default(), Outcome::FailedForGood(None, "no".into()), NOW + 1_000, 0.5)
    };
    run(failed).expect("failed");
    wake_until(NOW + 2_000);
    assert_eq!(task("grandchild").state, State::Failed);
}

#[test]
fn a_hundred_dependents_are_told_once_each_and_the_first_at_once() {
    submit_with("parent", json!({}), |_| {});
    for number in 0..100 {
        submit_with(&format!("child-{number:03}"), json!({}), |task| task.spec.dependencies = vec!["parent".into()]);
    }
    complete("parent", NOW).expect("completed");
    assert_eq!(task("child-000").state, State::Ready);
    assert_eq!(task("child-099").state, State::Blocked);
    wake_until(NOW + 1_000);
    assert!((0..100).all(|number| task(&format!("child-{number:03}")).state == State::Ready));
    let told = memory::emitted().iter().filter(|event| event.key == "child-000").count();
    assert_eq!(told, 2, "submitted, and ready");
}

#[test]
fn leases_and_delays_of_large_tasks_end_and_claims_go_on() {
    // All of them in one wake would be more than a call may read and write.
    const EACH: usize = 36;
    for number in 0..EACH {
        submit_with(&format!("late-{number:02}"), large(), |task| task.not_before_ms = NOW + 10_000);
        submit_with(&format!("held-{number:02}"), large(), |_| {});
    }
    for _ in 0..EACH {
        assert!(claim_by("w", NOW).expect("a task").id.starts_with("held"));
    }
    let later = NOW + crate::rules::LEASE_MS + 1;
    memory::spent();
    assert!(claim_by("w", later).is_some(), "what is due does not stop a claim");
    let spent = memory::spent();
    assert!(spent.bytes <= BUDGET.bytes / 4, "a claim took {spent:?}");
    wake_until(later + 10_000);
    let ready = run(|t| Ok(ready_ranks(t)?.up_to(u64::MAX))).expect("readable");
    assert_eq!(ready, Some(2 * EACH as u64 - 1), "all but the one that was claimed");
}

#[test]
fn what_stops_one_step_of_the_timer_stops_no_other() {
    submit_with("parent", json!({}), |_| {});
    for number in 0..40 {
        submit_with(&format!("child-{number:02}"), json!({}), |task| task.spec.dependencies = vec!["parent".into()]);
    }
    complete("parent", NOW).expect("completed");
    assert_eq!(task("child-39").state, State::Blocked, "the timer has to tell it");
    damage("parent");
    let worker = Worker {
        id: "w".into(),
        capabilities: Vec::new(),
        max_concurrent_tasks: 1,
        resource_limits: None,
        metadata: None,
        registered_ms: NOW,
        seen_ms: NOW,
        leaves_ms: None,
    };
    run(|t| register(t, worker.clone())).expect("registered");
    run(|t| Ok(WORKERS.set(t, &"w".to_owned(), &Worker { leaves_ms: Some(NOW), ..worker.clone() })?)).expect("leaving");
    assert!(wake(NOW + 1, 0.5).is_err(), "whether the parent succeeded cannot be read");
    let gone = run(|t| find_worker(t, "w")).expect_err("it has left all the same");
    assert_eq!(gone, QueueError::NoWorker("w".into()));
}

#[test]
fn a_record_that_cannot_be_read_stops_nobody() {
    for id in ["a-bad", "b-good"] {
        submit_with(&format!("late-{id}"), json!({}), |task| task.not_before_ms = NOW + 1);
        submit_with(&format!("held-{id}"), json!({}), |_| {});
        submit_with(&format!("parent-{id}"), json!({}), |task| task.not_before_ms = NOW + 600_000);
    }
    for id in ["a-bad", "b-good"] {
        submit_with(&format!("child-{id}"), json!({}), |task| task.spec.dependencies = vec!["parent-b-good".into()]);
    }
    claim_by("w", NOW).expect("one");
    claim_by("w", NOW).expect("the other");
    for id in ["late-a-bad", "held-a-bad", "child-a-bad"] {
        damage(id);
    }
    complete("parent-b-good", NOW).expect("completed, though a dependent cannot be read");
    let later = NOW + crate::rules::LEASE_MS + 1;
    assert!(claim_by("w", later).is_some(), "a claim is not stopped");
    wake_until(later);
    for id in ["late-b-good", "child-b-good"] {
        assert!(matches!(task(id).state, State::Ready | State::Running(_)), "{id}: {:?}", task(id).state);
    }
    assert_ne!(task("held-b-good").updated_ms, NOW, "its lease has ended");
    let timer = memory::timers().get(UPKEEP.name()).cloned().expect("the timer is set");
    assert!(timer.at_ms > later, "and does not spin: {timer:?}");
}

/// Something that a client does at a time.
type Activity = fn(u64);

#[test]
fn a_timer_that_the_host_gave_up_is_set_again_by_what_happens_next() {
    submit_with("late", json!({}), |task| task.not_before_ms = NOW + 1_000);
    let activities: [(&str, Activity); 3] = [
        ("claim", |now| drop(claim_by("w", now))),
        ("submit", |now| {
            let more = submission(&format!("more-{now}"), json!({}));
            run(|t| submit(t, &Draft::new(more.clone(), "", now), now)).expect("submitted");
        }),
        ("complete", |now| drop(complete(&format!("more-{}", now - 100_000), now).expect("completed"))),
    ];
    for (number, (name, activity)) in activities.into_iter().enumerate() {
        assert!(memory::take_timer(UPKEEP.name()).is_some(), "{name}: it was set");
        let now = NOW + 100_000 * (number as u64 + 1);
        activity(now);
        let timer = memory::timers().get(UPKEEP.name()).cloned();
        assert!(timer.is_some_and(|timer| timer.at_ms <= now), "{name} sets it again");
    }
    // A failure in the handler does not take the timer with it.
    const RAW: Map<String, Value> = Map::new("worker");
    run(|t| Ok(RAW.set(t, &"w".to_owned(), &json!("no worker"))?)).expect("written");
    memory::take_timer(UPKEEP.name());
    let late = NOW + 1_000_000;
    assert!(wake(late, 0.5).is_err(), "a worker cannot be read");
    let timer = memory::timers().get(UPKEEP.name()).cloned();
    assert!(timer.is_some_and(|timer| timer.at_ms == late + 60_000));
    assert_ne!(task("late").status(), Status::Failed);
    assert!(!matches!(task("late").state, State::Delayed { .. }), "and its other work is done");
}

#[test]
fn ids_that_an_earlier_version_took_are_found_and_can_be_retried() {
    let longest = "y".repeat(MAX_ID_BYTES);
    for id in ["order 7 ", "\u{a0}order", longest.as_str()] {
        let fresh = submission(id, json!({ "n": 1 }));
        let refused = run(|t| submit(t, &Draft::new(fresh.clone(), "", NOW), NOW)).expect_err("refused");
        assert!(refused.to_string().starts_with("task_id "), "{refused}");
        // As an earlier version stored it.
        let unnamed = Submission { id: None, ..fresh.clone() };
        run(|t| submit(t, &Draft::new(unnamed.clone(), id, NOW), NOW)).expect("stored");
        assert_eq!(run(|t| submit(t, &Draft::new(fresh.clone(), "", NOW), NOW)).expect("the same task").id, id);
        complete(id, NOW).expect("completed by its exact id");
        let (again, _) = run(|t| retry(t, id, None, None, NOW)).expect("retried");
        assert!(is_id(&again.id) && again.state == State::Ready, "{:?}", again.id);
        complete(&again.id, NOW).expect("completed");
        run(|t| retry(t, &again.id, None, None, NOW)).expect("retried once more");
        assert!(complete(id.trim(), NOW).is_err() || id == longest, "nothing is trimmed");
    }
    let edge = "z".repeat(MAX_SUBMITTED_ID_BYTES);
    submit_with(&edge, json!({}), |_| {});
    complete(&edge, NOW).expect("completed");
    let (again, _) = run(|t| retry(t, &edge, None, None, NOW)).expect("retried");
    assert_eq!(again.id, format!("{edge}-retry-1"));
}

#[test]
fn what_a_client_adds_to_a_record_leaves_room_for_what_the_queue_adds() {
    submit_with("full", large(), |_| {});
    let token = claim_by("w", NOW).expect("the task").fencing_token;
    let by = Claim { worker: Some("w"), token: Some(token) };
    let fill = |bytes: usize| Some(json!("p".repeat(bytes)));
    let used = task("full").bytes();
    let edge = MAX_RECORD_BYTES - used;
    let refused = run(|t| report(t, "full", by, fill(edge + 100), Vec::new(), NOW)).expect_err("too large");
    assert!(refused.to_string().contains(&MAX_RECORD_BYTES.to_string()), "{refused}");
    run(|t| report(t, "full", by, fill(edge - 100), Vec::new(), NOW)).expect("it fits");
    run(|t| finish(t, "full", by, Outcome::FailedForGood(None, "e".repeat(80 << 10)), NOW, 0.5))
        .expect_err("too large");
    run(|t| cancel(t, "full", "r", true, NOW)).expect("what the queue adds fits");
    // A record that an earlier version let grow to the edge can still end.
    submit_with("grown", json!({}), |_| {});
    let before = task("grown");
    let mut grown = before.clone();
    grown.logs = vec![LogLine { ts: 0.0, stream: "stdout".into(), message: "l".repeat((1 << 20) - 1_600) }];
    grown.state = State::Delayed { until_ms: NOW + 1 };
    run(|t| save(t, Some(&before), Some(&grown), NOW)).expect("stored");
    look_after(NOW + 1, 0.5).expect("looked after");
    assert_eq!(task("grown").state, State::Ready);
}

/// Fills the queue with small tasks.
fn fill(tasks: usize) {
    let mut number = 0;
    while number < tasks {
        run(|t| {
            for more in number..(number + 200).min(tasks) {
                let mut task = submission(&format!("task-{more:06}"), json!({ "n": more }));
                task.spec.tags = if more % 1_000 == 7 { vec!["rare".into()] } else { Vec::new() };
                submit(t, &Draft::new(task.clone(), "", NOW + more as u64 / 10), NOW + more as u64 / 10)?;
            }
            Ok(())
        })
        .expect("submitted");
        number += 200;
    }
    memory::spent();
}

fn query(limit: usize, after: Option<&str>) -> Query {
    let after = after.map(|cursor| listing::parse_cursor(cursor).expect("a cursor"));
    Query { filter: all(), after, offset: 0, limit }
}

fn all() -> Filter {
    Filter { statuses: Status::ALL.to_vec(), ..Filter::default() }
}

fn shown(task: &Task) -> Value {
    json!(task.id)
}

#[test]
fn a_long_queue_is_listed_page_by_page_within_a_calls_budgets() {
    const TASKS: usize = 24_000;
    fill(TASKS);
    let t = &snapshot().expect("a snapshot");
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let list = listing::list(t, &query(1_000, cursor.as_deref()), shown).expect("listed");
        assert_eq!(list.total, Some(TASKS as u64));
        let spent = memory::spent();
        assert!(spent.bytes < BUDGET.bytes / 16, "a page took {spent:?}");
        seen.extend(list.tasks);
        cursor = list.next;
        if cursor.is_none() {
            break;
        }
    }
    let expected: Vec<Value> = (0..TASKS).map(|number| json!(format!("task-{number:06}"))).collect();
    assert_eq!(seen, expected, "each once, oldest first");
    // Far behind, by its number.
    let far = Query { offset: TASKS - 1, ..query(10, None) };
    let list = listing::list(t, &far, shown).expect("listed");
    assert_eq!((list.tasks, list.next), (vec![json!("task-023999")], None));
    // Few match: the budget ends before the queue does, and the list says so.
    memory::spent();
    let rare = Filter { tags: vec!["rare".into()], ..all() };
    let (mut seen, mut cursor, mut lists) = (0, None, 0);
    loop {
        let list =
            listing::list(t, &Query { filter: rare.clone(), ..query(100, cursor.as_deref()) }, shown).expect("listed");
        let spent = memory::spent();
        assert!(spent.bytes < BUDGET.bytes / 4 && spent.ops < BUDGET.ops / 2, "a list took {spent:?}");
        assert_eq!(list.total, None, "it could not be counted");
        (seen, lists) = (seen + list.tasks.len(), lists + 1);
        cursor = list.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, 24);
    assert!(lists > 1, "the budget was reached");
}

#[test]
fn a_list_with_a_match_knows_whether_there_are_more() {
    for number in 0..30 {
        submit_with(&format!("task-{number:06}"), json!({}), |task| task.spec.priority = f64::from(number % 2));
    }
    let t = &snapshot().expect("a snapshot");
    let query = |limit, after: Option<&str>| Query {
        filter: Filter { priority_min: Some(1.0), ..all() },
        ..query(limit, after)
    };
    for (offset, limit, found, more) in [(0, 15, 15, false), (0, 14, 14, true), (14, 9, 1, false), (15, 1, 0, false)] {
        let query = Query { offset, ..query(limit, None) };
        let list = listing::list(t, &query, shown).expect("listed");
        assert_eq!((list.tasks.len(), list.total, list.next.is_some()), (found, Some(15), more), "{offset} {limit}");
    }
    let first = listing::list(t, &query(4, None), shown).expect("listed");
    let second = listing::list(t, &query(100, first.next.as_deref()), shown).expect("listed");
    assert_eq!((second.tasks.len(), second.tasks[0].clone()), (11, json!("task-000009")));
}

#[test]
fn large_tasks_are_listed_as_many_as_fit_into_an_answer() {
    for number in 0..9 {
        submit_with(&format!("task-{number}"), large(), |_| {});
    }
    let t = &snapshot().expect("a snapshot");
    let (mut seen, mut cursor) = (0, None);
    loop {
        let list = listing::list(t, &query(50, cursor.as_deref()), Task::wire).expect("listed");
        let bytes: usize = list.tasks.iter().map(|task| task.to_string().len()).sum();
        assert!(bytes <= 2 << 20 && !list.tasks.is_empty(), "{bytes} bytes");
        seen += list.tasks.len();
        cursor = list.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, 9);
}

#[test]
fn a_long_queue_is_cleared_by_the_call_and_the_timer_and_what_comes_later_stays() {
    const TASKS: usize = 3_000;
    fill(TASKS);
    submit_with("running", json!({}), |task| task.spec.priority = 9.0);
    claim_by("w", NOW).expect("it runs");
    submit_with("child", json!({}), |task| task.spec.dependencies = vec!["task-000001".into()]);
    memory::spent();
    let asked = NOW + 1_000;
    let statuses = [Status::Queued, Status::Completed, Status::Failed, Status::Cancelled];
    let cleared = clear(&statuses, asked).expect("cleared");
    let spent = memory::spent();
    assert!(spent.ops <= BUDGET.ops && spent.bytes <= BUDGET.bytes, "the call took {spent:?}");
    assert!(cleared.ended_ms.is_none() && cleared.changed > 100, "{cleared:?}");
    let later = Submission { not_before_ms: 0, ..submission("later", json!({})) };
    run(|t| submit(t, &Draft::new(later.clone(), "", asked + 1), asked + 1)).expect("submitted");
    let told = bulks(&snapshot().expect("a snapshot")).expect("readable");
    assert_eq!(told, [cleared], "it is under way");
    assert!(wake_until(asked + 60_000) > 1, "in bites");
    let t = &snapshot().expect("a snapshot");
    let told = bulks(t).expect("readable");
    assert!(told[0].ended_ms.is_some() && told[0].changed == TASKS as u64 + 1, "it has come to its end: {told:?}");
    let left: Vec<u64> = Status::ALL.iter().map(|status| counted(t, *status).expect("counted")).collect();
    assert_eq!(left, [1, 1, 0, 0, 0], "what came later is queued, what runs runs");
    assert!(memory::entries().len() < 60, "nothing else is left: {}", memory::entries().len());
}

#[test]
fn types_are_counted_up_to_a_bound_and_the_count_says_when_there_are_more() {
    let by_type = |status| crate::queue::counted_by_type(&snapshot().expect("a snapshot"), status).expect("counted");
    for number in 0..1_001 {
        if number == 1_000 {
            claim_by("w", NOW).expect("a task");
        }
        let mut task = submission(&format!("task-{number}"), json!({}));
        task.spec.task_type = format!("type-{number:04}");
        run(|t| submit(t, &Draft::new(task.clone(), "", NOW), NOW)).expect("submitted");
    }
    let (running, all) = by_type(Status::Running);
    assert_eq!((running.len(), all), (1, true), "those of one status do not hide those of another");
    let (queued, all) = by_type(Status::Queued);
    assert_eq!((queued.len(), all), (1_000, true));
    let more = Submission { spec: Spec::new("type-9999", &json!({})), ..submission("more", json!({})) };
    run(|t| submit(t, &Draft::new(more.clone(), "", NOW), NOW)).expect("submitted");
    let (queued, all) = by_type(Status::Queued);
    assert_eq!((queued.len(), all), (1_000, false));
    let _readable = snapshot().expect("a snapshot").get(b"x");
}
