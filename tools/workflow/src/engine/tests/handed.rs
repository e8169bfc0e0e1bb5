//! Steps that a worker of the task queue does.

use super::{
    queue::{be_fast, end, event, forget, ids, task},
    *,
};
use crate::run::{HandedTask, Node, State};

fn render(more: Value) -> Value {
    let mut step = json!({ "step_id": "a", "action": "task", "inputs": { "task_type": "render", "payload": { "page": "${input.page}" } } });
    step.as_object_mut().expect("a step").extend(more.as_object().expect("fields").clone());
    step
}

fn begin(steps: Value) {
    clear();
    start(&draft("r", steps, json!({ "page": 7, "pages": [1, 2, 3] })));
    run_all();
}

fn node(number: u32) -> Node {
    NODES.get(&snapshot().expect("a snapshot"), &("r".to_owned(), number)).expect("read").expect("there")
}

fn handed() -> HandedTask {
    node(0).task.expect("a task")
}

fn count(tool: &str) -> usize {
    effects().iter().filter(|effect| effect.starts_with(tool)).count()
}

#[test]
fn a_worker_does_a_step_and_no_handler_waits_for_it() {
    begin(json!([
        render(json!({})),
        { "step_id": "b", "action": "echo", "inputs": { "of": "${steps.a.result.pixels}" } }
    ]));
    let queued = ids("queued");
    assert_eq!((shown("r").1, queued.len()), (vec!["a waiting".to_owned(), "b pending".to_owned()], 1));
    assert_eq!(task(&queued[0]).expect("a task")["payload"], json!({ "page": 7 }));
    let next = next_event(
        &snapshot().expect("a snapshot"),
        &find(&snapshot().expect("a snapshot"), "r").expect("there"),
        0,
        now_ms(),
    );
    assert_eq!(next, Ok(Next::Event("a: the end of its task".into())));
    let status = crate::tools::step(&node(0));
    assert_eq!((&status["task_id"], &status["worker"]), (&json!(queued[0]), &Value::Null));
    end(&queued[0], "completed", json!({ "result": { "pixels": 9 } }));
    hear(&event(&queued[0])).expect("heard");
    run_all();
    assert_eq!(shown("r").0, "completed", "{:?}", shown("r"));
    assert_eq!((result("r", 0), result("r", 1)), (json!({ "pixels": 9 }), json!({ "of": 9 })));
    assert_eq!(crate::tools::step(&node(0))["worker"], "w7");
    hear(&event(&queued[0])).expect("heard");
    let left: Vec<String> =
        memory::timers().into_keys().filter(|key| key != "watch" && !key.starts_with("n:")).collect();
    assert_eq!((left, count("task_submit"), count("task_result")), (Vec::new(), 1, 1));
}

#[test]
fn a_task_that_ends_before_its_node_waits_for_it_is_not_waited_for() {
    clear();
    be_fast();
    start(&draft("r", json!([render(json!({}))]), json!({ "page": 7 })));
    run_all();
    assert_eq!((shown("r").0, result("r", 0)), ("completed", json!("fast")), "{:?}", shown("r"));
}

#[test]
fn the_queue_is_asked_itself_where_no_event_comes() {
    begin(json!([render(json!({}))]));
    let id = handed().id;
    end(&id, "running", json!({}));
    for looks in 1..=6 {
        assert!(deliver(u64::MAX / 2));
        assert_eq!((handed().looks, handed().worker.as_deref()), (looks, Some("w7")));
        let State::Handed { look_ms, .. } = node(0).state else { panic!("{:?}", node(0)) };
        let wait_ms = look_ms - now_ms() + 1_000;
        let expected_ms = (30_000_u64 << looks).min(300_000);
        assert!((expected_ms..=expected_ms + 1_000).contains(&wait_ms), "{wait_ms} ms behind look {looks}");
    }
    end(&id, "completed", json!({ "result": 1 }));
    assert!(deliver(u64::MAX / 2));
    assert_eq!((shown("r").0, result("r", 0)), ("completed", json!(1)));
}

#[test]
fn each_attempt_is_a_task_of_its_own_and_fails_with_its_error() {
    begin(json!([render(json!({ "retry": { "max_attempts": 4, "backoff_s": 0.001 } }))]));
    let mut seen = Vec::new();
    for (status, fields, says) in [
        ("failed", json!({ "error": "no ink" }), "no ink"),
        ("cancelled", json!({ "error": null, "cancel_reason": "no paper" }), "was cancelled: no paper"),
        ("gone", json!({}), "the queue has no task"),
        ("failed", json!({}), "failed"),
    ] {
        deliver_until(|| matches!(node(0).state, State::Handed { .. }));
        let id = handed().id;
        assert!(!seen.contains(&id), "{id}");
        match status {
            "gone" => forget(&id),
            status => end(&id, status, fields),
        }
        hear(&event(&id)).expect("heard");
        assert!(node(0).error.expect("an error").contains(says), "{:?}", node(0));
        seen.push(id);
    }
    run_all();
    assert_eq!((shown("r").0, count("task_submit"), count("task_cancel")), ("failed", 4, 0));
}

#[test]
fn a_time_out_cancels_the_task_and_is_an_attempt() {
    begin(json!([render(json!({ "timeout_s": 0.001, "retry": { "max_attempts": 2, "backoff_s": 0 } }))]));
    deliver_until(|| shown("r").0 == "failed");
    run_all();
    assert_eq!((ids("cancelled").len(), ids("queued").len(), count("task_cancel")), (2, 0, 2));
    assert_eq!(node(0).error.as_deref(), Some("its task did not end within timeout_s"));
}

#[test]
fn the_end_of_a_run_cancels_the_tasks_of_its_steps() {
    for is_forced in [false, true] {
        begin(json!([
            render(json!({ "for_each": { "items": "${input.pages}", "parallel": 2 } })),
            render(json!({ "step_id": "b", "undo": { "action": "take_back" } }))
        ]));
        assert_eq!(ids("queued").len(), 3, "{:?}", shown("r"));
        transact(|t| cancel(t, "r", ("asked", is_forced), Origin::Client, now_ms())).expect("cancelled");
        run_all();
        assert_eq!((shown("r").0, ids("cancelled").len(), ids("queued").len()), ("cancelled", 3, 0));
        assert_eq!(count("take_back"), 0, "there is nothing to take back");
    }
}

#[test]
fn a_join_that_is_decided_cancels_the_tasks_of_the_other_items() {
    begin(json!([render(json!({ "for_each": { "items": "${input.pages}", "parallel": 3, "join": "any" } }))]));
    let queued = ids("queued");
    end(&queued[1], "completed", json!({ "result": 5 }));
    hear(&event(&queued[1])).expect("heard");
    run_all();
    assert_eq!((shown("r").0, ids("cancelled").len(), ids("queued").len()), ("completed", 2, 0));
}

#[test]
fn a_crash_around_the_submission_makes_no_second_task_and_leaves_none_behind() {
    clear();
    start(&draft("r", json!([render(json!({}))]), json!({ "page": 7 })));
    let until_ms = now_ms() + 60_000;
    let take =
        |delivery: &str| transact(|t| work::take(t, delivery, until_ms, now_ms())).expect("taken").expect("a node");
    // The handler's host is killed when the queue has the task, and the delivery comes again; then it is lost, and the watch gives the node back.
    take("one").perform(Duration::from_secs(60), now_ms());
    take("one").perform(Duration::from_secs(60), now_ms());
    transact(|t| scheduler::give_back(&mut StoredNodes::new(t, "r"), 0, until_ms)).expect("given back");
    take("two").perform(Duration::from_secs(60), now_ms());
    assert_eq!((count("task_submit"), ids("queued").len()), (3, 1));
    // It is lost too, and the run is cancelled before the next one.
    transact(|t| scheduler::give_back(&mut StoredNodes::new(t, "r"), 0, until_ms)).expect("given back");
    transact(|t| cancel(t, "r", ("asked", false), Origin::Client, now_ms())).expect("cancelled");
    run_all();
    assert_eq!((shown("r").0, ids("queued").len()), ("cancelled", 0));
}

#[test]
fn a_handler_that_comes_too_late_leaves_no_task_behind() {
    for is_forced in [false, true] {
        clear();
        start(&draft("r", json!([render(json!({}))]), json!({ "page": 7 })));
        let job = transact(|t| work::take(t, "one", now_ms() + 60_000, now_ms())).expect("taken").expect("a node");
        transact(|t| cancel(t, "r", ("asked", is_forced), Origin::Client, now_ms())).expect("cancelled");
        // A forced one asks for a cancellation before there is a task.
        deliver(0);
        let done = job.perform(Duration::from_secs(60), now_ms());
        assert_eq!(ids("queued").len(), 1);
        transact(|t| work::record(t, "one", &job, &done, (1, false))).expect("recorded");
        run_all();
        assert_eq!((shown("r").0, ids("queued").len()), ("cancelled", 0), "forced: {is_forced}");
    }
}

#[test]
fn a_submitter_needs_the_tool_that_submits_and_no_other() {
    for (tools, status) in [(vec!["task_submit"], "completed"), (vec!["task_status"], "failed")] {
        clear();
        be_fast();
        let rights = Rights(Some(tools.into_iter().map(str::to_owned).collect()));
        start(&Draft { rights, ..draft("r", json!([render(json!({}))]), json!({ "page": 7 })) });
        run_all();
        assert_eq!(shown("r").0, status, "{:?}", node(0));
    }
}

#[test]
fn a_pause_holds_back_what_follows_and_not_the_task() {
    begin(json!([render(json!({})), { "step_id": "b", "action": "echo", "depends_on": ["a"] }]));
    transact(|t| pause(t, "r", now_ms())).expect("paused");
    let id = handed().id;
    end(&id, "completed", json!({ "result": 1 }));
    hear(&event(&id)).expect("heard");
    run_all();
    assert_eq!(shown("r").1, ["a completed", "b held"]);
    transact(|t| resume(t, "r", Origin::Client, now_ms())).expect("resumed");
    run_all();
    assert_eq!(shown("r").0, "completed");
}

#[test]
fn a_rehearsal_submits_no_task_and_takes_the_recorded_result() {
    clear();
    let recorded = json!({ "task": { "pixels": 9 } }).as_object().expect("an object").clone();
    let script = crate::engine::rehearsal::Script { recorded, ..crate::engine::rehearsal::Script::default() };
    let draft = draft("r", json!([render(json!({}))]), json!({ "page": 7 }));
    start(&Draft { script: Some(script.clone()), ..crate::engine::rehearsal::prepared(draft, &script) });
    run_all();
    assert_eq!((shown("r").0, result("r", 0), count("task_")), ("completed", json!({ "pixels": 9 }), 0));
}

#[test]
fn a_step_counts_for_its_key_until_its_task_has_ended() {
    let key = json!({ "concurrency": { "key": "printer", "limit": 1 } });
    let mut second = render(key.clone());
    second["step_id"] = json!("b");
    begin(json!([render(key), second]));
    let first = ids("queued");
    assert_eq!((first.len(), shown("r").1), (1, vec!["a waiting".to_owned(), "b waiting".to_owned()]));
    assert_eq!(crate::tools::step(&node(1))["reason"], "waits for the key \"printer\"");
    end(&first[0], "completed", json!({ "result": 1 }));
    hear(&event(&first[0])).expect("heard");
    run_all();
    let left = ids("queued");
    assert_eq!(left.len(), 1, "the second one has its turn");
    end(&left[0], "completed", json!({ "result": 2 }));
    hear(&event(&left[0])).expect("heard");
    run_all();
    assert_eq!(shown("r").0, "completed", "{:?}", shown("r"));
}

#[test]
fn an_event_that_comes_again_after_the_host_was_killed_goes_on_with_the_node_that_its_handler_had() {
    begin(json!([render(json!({}))]));
    start(&draft("s", json!([{ "step_id": "a", "action": "echo" }]), Value::Null));
    let id = handed().id;
    end(&id, "completed", json!({ "result": 1 }));
    let told = event(&id);
    hear(&told).expect("heard");
    run_all();
    // The handler of that event took a node of another run, and the host was killed.
    start(&draft("t", json!([{ "step_id": "a", "action": "echo" }]), Value::Null));
    let taken = transact(|t| work::take(t, &told.id, now_ms() + 3_600_000, now_ms())).expect("taken");
    assert_eq!(taken.map(|job| job.run), Some("t".to_owned()));
    hear(&told).expect("heard again");
    assert_eq!(shown("t").0, "completed");
}

#[test]
fn a_timer_that_may_be_set_anew_takes_no_node() {
    clear();
    start(&draft(
        "r",
        json!([{ "step_id": "a", "action": "wait", "inputs": { "seconds": 0 } }, { "step_id": "b", "action": "echo", "depends_on": ["a"] }]),
        Value::Null,
    ));
    work("first", 1).expect("delivered");
    wake("n:r:0", "timer").expect("delivered");
    assert_eq!(shown("r").1, ["a completed", "b ready"], "its delivery would not come again for b");
    run_all();
    assert_eq!(shown("r").0, "completed");
}
