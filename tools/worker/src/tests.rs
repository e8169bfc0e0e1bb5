//! The worker with the real queue, on a store and a mesh in memory.
#![expect(clippy::disallowed_methods, reason = "these tests wait on threads of no runtime")]

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::mpsc,
    time::Duration,
};

use mcpp_tool::{
    Output,
    call::CallError,
    container::memory as container,
    environment::now_ms,
    internal::Definition,
    mesh::{PeerCallError, memory as mesh},
    rights::Rights,
    store::{memory, snapshot, transact},
};
use serde_json::{Value, json};

use crate::{
    beat::{all, beat},
    claimer::{LEASE_S, claim},
    held::{HELD, Stage},
    runner::run,
    service::{SERVICES, Service},
    tools::*,
};

mod peer;

thread_local! {
    /// Whether the queue cannot be reached.
    static IS_AWAY: Cell<bool> = const { Cell::new(false) };
    /// Whether this host stops.
    static STOPS: Cell<bool> = const { Cell::new(false) };
    /// What was called.
    static CALLED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// This host's queue.
pub(crate) fn queue(request: &Value) -> Result<Output, String> {
    match IS_AWAY.get() {
        true => Err("away".to_owned()),
        false => Ok(Output { content: Vec::new(), structured: Some(taskqueue::rpc::handle(request)) }),
    }
}

/// Whether this host stops.
pub(crate) fn host_stops() -> bool {
    STOPS.get()
}

/// The tools of these tests.
pub(crate) fn provider(rights: &Rights, tool: &str, arguments: &Value, time: Duration) -> Result<Output, CallError> {
    assert!(rights.allow(tool) && time <= Duration::from_secs(300));
    CALLED.with_borrow_mut(|called| called.push(format!("{tool} {arguments}")));
    match tool {
        "busy" => Err(CallError::Busy),
        "gone" => Err(CallError::NotFound),
        "fails" => Err(CallError::Failed(Output::text("no"))),
        "large" => Ok(Output::text("x".repeat(1 << 20))),
        "cancelled" => {
            let cancelled = tool_of_queue("task_cancel", json!({ "task_id": arguments["task_id"], "force": true }));
            assert_eq!(cancelled["success"], true, "{cancelled}");
            beat(now_ms()).unwrap();
            Ok(Output::text("too late"))
        }
        "stopped" => {
            STOPS.set(true);
            Ok(Output::text("cut off"))
        }
        "leaves" => {
            assert_eq!(call(&MCPP_TOOL_WORKER_DRAIN, json!({ "hand_over": true }))["handed_over"], 1);
            Ok(Output::text("too late"))
        }
        "cut_off" => {
            IS_AWAY.set(true);
            Ok(Output::text("done"))
        }
        _ => Ok(Output { content: Vec::new(), structured: Some(arguments.clone()) }),
    }
}

pub(crate) fn call(tool: &Definition, arguments: Value) -> Value {
    (tool.call)(arguments).expect("an answer").structured.expect("structured")
}

pub(crate) fn tool_of_queue(tool: &str, arguments: Value) -> Value {
    use taskqueue::tools::tasks::*;
    let tool = match tool {
        "task_submit" => &MCPP_TOOL_TASK_SUBMIT,
        "task_cancel" => &MCPP_TOOL_TASK_CANCEL,
        other => panic!("{other}"),
    };
    call(tool, arguments)
}

pub(crate) fn rpc(request: Value) -> Value {
    taskqueue::rpc::handle(&request)
}

pub(crate) fn clear() {
    memory::clear();
    mesh::clear();
    IS_AWAY.set(false);
    STOPS.set(false);
    container::clear();
    CALLED.take();
}

pub(crate) fn serve(more: Value) -> Value {
    let mut arguments = json!({ "service": "s", "tools": ["*"] });
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    call(&MCPP_TOOL_WORKER_SERVE, arguments)
}

fn submit(id: &str, tool: &str) {
    let payload = json!({ "tool": tool, "args": { "task_id": id } });
    let submitted =
        tool_of_queue("task_submit", json!({ "task_id": id, "task_type": "tool.call", "payload": payload }));
    assert_eq!(submitted["success"], true, "{submitted}");
}

/// Submits a task of a type.
pub(crate) fn submit_of_type(id: &str, task_type: &str, payload: Value) {
    let submitted = tool_of_queue("task_submit", json!({ "task_id": id, "task_type": task_type, "payload": payload }));
    assert_eq!(submitted["success"], true, "{submitted}");
}

pub(crate) fn task(id: &str) -> Value {
    rpc(json!({ "op": "get", "task_id": id }))["task"].clone()
}

/// Delivers the timers that are due, but not the beat.
pub(crate) fn deliver() -> usize {
    let now = now_ms();
    let due: Vec<String> =
        memory::timers().into_iter().filter(|(_, timer)| timer.at_ms <= now).map(|(key, _)| key).collect();
    let mut delivered = 0;
    for key in due {
        if let Some(service) = key.strip_prefix("c:") {
            memory::take_timer(&key);
            claim(service).unwrap();
        } else if let Some(id) = key.strip_prefix("t:") {
            memory::take_timer(&key);
            run(id).unwrap();
            delivered += 1;
        }
    }
    delivered
}

/// Runs all that is queued.
pub(crate) fn work() {
    for _ in 0..20 {
        deliver();
    }
}

pub(crate) fn tally() -> Value {
    call(&MCPP_TOOL_WORKER_SERVICES, json!({}))["services"][0].clone()
}

#[test]
fn tasks_that_name_a_tool_and_those_of_a_type_run_as_calls() {
    clear();
    let served = serve(json!({ "types": { "resize": "image_resize" } }));
    assert_eq!((&served["success"], &served["status"]), (&json!(true), &json!("serving")), "{served}");
    submit("t1", "echo");
    let resize = json!({ "task_id": "t2", "task_type": "resize", "payload": { "width": 5 } });
    tool_of_queue("task_submit", resize);
    tool_of_queue("task_submit", json!({ "task_id": "t3", "task_type": "other", "payload": {} }));
    work();
    assert_eq!(task("t1")["result"], json!({ "tool": "echo", "result": { "task_id": "t1" } }));
    assert_eq!(task("t2")["result"], json!({ "tool": "image_resize", "result": { "width": 5 } }));
    assert_eq!(task("t3")["status"], "queued", "this worker cannot do it");
    let mut called = CALLED.take();
    called.sort();
    assert_eq!(called, ["echo {\"task_id\":\"t1\"}", "image_resize {\"width\":5}"]);
    assert_eq!((&tally()["claimed"], &tally()["completed"]), (&json!(2), &json!(2)));
}

#[test]
fn a_task_calls_what_its_submitter_the_services_caller_and_the_service_allow_and_nothing_else() {
    let only = |tools: &[&str]| Rights(Some(tools.iter().map(|tool| (*tool).to_owned()).collect()));
    let service = |peer: Option<&str>, tools: &[&str], rights: Rights| Service {
        peer: peer.map(str::to_owned),
        tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
        types: [("hash".to_owned(), "text_hash".to_owned())].into(),
        tool_calls: true,
        docker: false,
        concurrency: 1,
        timeout_s: 1,
        rights,
        by: "test".into(),
        is_draining: false,
        since_ms: 0,
    };
    let everything = Rights(None);
    let hash = |reach: Value| json!({ "task_type": "tool.call", "payload": { "tool": "text_hash" }, "reach": reach });
    let all = json!("all");
    for (peer, tools, rights, task, may) in [
        (None, &["*"] as &[&str], everything.clone(), hash(all.clone()), true),
        (None, &["text_*"], everything.clone(), hash(json!({ "only": ["text_hash"] })), true),
        (None, &["add"], everything.clone(), hash(all.clone()), false),
        (None, &["*"], only(&["add", "task_queue.rpc"]), hash(all.clone()), false),
        (None, &["*"], everything.clone(), hash(json!({ "only": ["task_submit", "task_queue.rpc"] })), false),
        (None, &["*"], everything.clone(), hash(json!({ "only": [] })), false),
        (None, &["*"], everything.clone(), hash(json!("unknown")), false),
        (
            None,
            &["*"],
            everything.clone(),
            json!({ "task_type": "tool.call", "payload": { "tool": "text_hash" } }),
            false,
        ),
        // A peer's queue that says nothing of its submitters; one that does.
        (
            Some("p"),
            &["*"],
            everything.clone(),
            json!({ "task_type": "tool.call", "payload": { "tool": "text_hash" } }),
            true,
        ),
        (
            Some("p"),
            &["add"],
            everything.clone(),
            json!({ "task_type": "tool.call", "payload": { "tool": "text_hash" } }),
            false,
        ),
        (Some("p"), &["*"], everything.clone(), hash(json!("unknown")), false),
        (Some("p"), &["*"], everything.clone(), hash(json!({ "only": ["task_queue.rpc"] })), false),
        // A type has its tool by the operator, but the submitter must be able to call it too.
        (None, &["*"], everything.clone(), json!({ "task_type": "hash", "payload": {}, "reach": "all" }), true),
        (
            None,
            &["*"],
            everything.clone(),
            json!({ "task_type": "hash", "payload": {}, "reach": { "only": ["add"] } }),
            false,
        ),
    ] {
        let call = service(peer, tools, rights.clone()).call(&task);
        assert_eq!(call.is_ok(), may, "{task} for {peer:?} by {tools:?} and {rights:?}: {call:?}");
        if let Ok((tool, _, bound)) = call {
            assert!(tool == "text_hash" && bound.allow("text_hash"));
            let submitter = crate::bound::of_submitter(&task).unwrap_or(Rights(None));
            for other in ["add", "task_queue.rpc", "text_count"] {
                let all_allow = submitter.allow(other)
                    && rights.allow(other)
                    && Rights(Some(tools.iter().map(|tool| (*tool).to_owned()).collect())).allow(other);
                assert_eq!(bound.allow(other), all_allow, "{other} below the call");
            }
        }
    }
}

#[test]
fn a_failure_is_tried_again_and_what_cannot_succeed_is_not() {
    clear();
    serve(json!({}));
    for tool in ["fails", "gone", "large"] {
        submit(tool, tool);
    }
    work();
    assert_eq!((&task("fails")["status"], &task("fails")["attempt"]), (&json!("queued"), &json!(1)));
    assert_eq!(task("fails")["error"], "no");
    assert_eq!(task("gone")["status"], "failed");
    assert!(task("gone")["error"].as_str().unwrap().starts_with("gone: there is no such tool"));
    assert!(task("large")["error"].as_str().unwrap().contains("are kept"), "{}", task("large"));
    assert_eq!(tally()["failed"], 3);
}

#[test]
fn a_call_without_room_does_not_count_as_an_attempt() {
    clear();
    serve(json!({}));
    submit("t1", "busy");
    claim("s").unwrap();
    assert_eq!(deliver(), 1);
    let given_back = task("t1");
    assert_eq!((&given_back["status"], &given_back["attempt"]), (&json!("queued"), &json!(0)), "{given_back}");
    assert_eq!(tally()["released"], 1);
}

#[test]
fn an_attempt_that_breaks_off_has_failed_and_an_old_token_ends_nothing() {
    clear();
    serve(json!({}));
    submit("t1", "echo");
    claim("s").unwrap();
    let (id, held) = all().unwrap().pop().expect("claimed");
    let lease = task("t1")["lease_until"].as_f64().unwrap() - task("t1")["heartbeat_at"].as_f64().unwrap();
    assert!((lease - LEASE_S as f64).abs() < 0.01, "the lease is short: {lease}");
    // The host dies in the midst of the call, and the delivery comes again.
    transact(|t| HELD.change(t, &id, |held| held.stage = Stage::Running { until_ms: u64::MAX })).unwrap();
    run(&id).unwrap();
    let failed = task("t1");
    assert_eq!((&failed["status"], &failed["attempt"], all().unwrap().len()), (&json!("queued"), &json!(1), 0));
    assert_eq!((&failed["error"], CALLED.take().len()), (&json!("the attempt broke off"), 0));
    // Also if it is the same worker that has it again, after the pause before the next attempt.
    taskqueue::engine::look_after(now_ms() + 60_000, 0.0).unwrap();
    let next = rpc(json!({ "op": "claim", "worker_id": held.worker }))["task"].clone();
    assert!(next["fencing_token"].as_u64() > held.task["fencing_token"].as_u64());
    let stale = rpc(held.request("complete", json!({ "status": "completed", "result": {} })));
    assert_eq!((&stale["ok"], &stale["error"]), (&json!(false), &json!("refused")), "{stale}");
}

#[test]
fn a_task_that_is_cancelled_or_handed_over_while_it_runs_is_not_ended_by_this_worker() {
    clear();
    serve(json!({}));
    submit("t1", "cancelled");
    work();
    assert_eq!((&task("t1")["status"], &tally()["lost"]), (&json!("cancelled"), &json!(1)));
    assert_eq!(tally()["last_error"], "lease: refused");
    submit("t2", "leaves");
    work();
    assert_eq!((&task("t2")["status"], &task("t2")["attempt"]), (&json!("queued"), &json!(0)), "another may have it");
    assert_eq!((&tally()["status"], &tally()["lost"], &tally()["released"]), (&json!("drained"), &json!(2), &json!(1)));
}

#[test]
fn a_host_that_stops_hands_over_what_it_has() {
    clear();
    serve(json!({ "concurrency": 3 }));
    for (id, tool) in [("t1", "stopped"), ("t2", "echo"), ("t3", "echo")] {
        submit(id, tool);
    }
    claim("s").unwrap();
    assert_eq!(all().unwrap().len(), 3);
    // The handler of one is cut off. None comes for the others, because the host delivers no timer any more.
    let (id, _) = all().unwrap().into_iter().find(|(_, held)| held.task_id() == "t1").unwrap();
    run(&id).unwrap();
    for id in ["t1", "t2", "t3"] {
        assert_eq!((&task(id)["status"], &task(id)["attempt"]), (&json!("queued"), &json!(0)), "{}", task(id));
    }
    assert_eq!((all().unwrap().len(), &tally()["released"]), (0, &json!(3)));
    claim("s").unwrap();
    assert_eq!(all().unwrap().len(), 0, "it claims no more");
    STOPS.set(false);
    claim("s").unwrap();
    assert_eq!(all().unwrap().len(), 3, "after its start it goes on");
}

#[test]
fn an_end_that_the_queue_did_not_hear_is_told_again_with_the_same_token() {
    clear();
    serve(json!({}));
    submit("t1", "cut_off");
    work();
    let told = |held: Vec<(String, crate::held::Held)>| {
        held.iter().filter(|(_, held)| matches!(held.stage, Stage::Ended { .. })).count()
    };
    assert_eq!(told(all().unwrap()), 1);
    beat(now_ms()).unwrap();
    assert_eq!(told(all().unwrap()), 1, "still away");
    IS_AWAY.set(false);
    assert_eq!(task("t1")["status"], "running");
    beat(now_ms()).unwrap();
    assert_eq!((&task("t1")["status"], all().unwrap().len()), (&json!("completed"), 0));
    assert_eq!(CALLED.take().len(), 1, "it ran once");
}

#[test]
fn a_beat_keeps_leases_and_gives_back_what_has_no_handler() {
    clear();
    serve(json!({}));
    submit("t1", "echo");
    claim("s").unwrap();
    let before = task("t1")["heartbeat_at"].as_f64().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    beat(now_ms()).unwrap();
    assert!(task("t1")["heartbeat_at"].as_f64().unwrap() > before);
    beat(now_ms() + 61_000).unwrap();
    assert_eq!((&task("t1")["status"], all().unwrap().len()), (&json!("queued"), 0));
    // The beat goes on as long as there is a service.
    assert!(memory::timers().contains_key("beat"));
    assert_eq!(call(&MCPP_TOOL_WORKER_REMOVE, json!({ "service": "s" }))["success"], true);
    beat(now_ms()).unwrap();
    assert!(!memory::timers().contains_key("beat"));
}

#[test]
fn a_service_takes_as_many_as_it_has_room_for_and_leaves_when_it_is_told() {
    clear();
    serve(json!({ "concurrency": 3 }));
    for n in 0..5 {
        submit(&format!("t{n}"), "echo");
    }
    claim("s").unwrap();
    claim("s").unwrap();
    assert_eq!(all().unwrap().len(), 3);
    let busy = call(&MCPP_TOOL_WORKER_REMOVE, json!({ "service": "s" }));
    assert!(busy["error"].as_str().unwrap().contains("has 3 tasks"), "{busy}");
    let drained = call(&MCPP_TOOL_WORKER_DRAIN, json!({ "service": "s" }));
    assert_eq!((&drained["running"], &drained["handed_over"]), (&json!(3), &json!(0)), "{drained}");
    assert_eq!(tally()["status"], "draining");
    work();
    let counts = |status: &str| (0..5).filter(|n| task(&format!("t{n}"))["status"] == status).count();
    assert_eq!((counts("completed"), counts("queued")), (3, 2), "no more is claimed");
    assert_eq!(tally()["status"], "drained");
    serve(json!({}));
    work();
    assert_eq!(counts("completed"), 5);
}

#[test]
fn services_are_bounded_and_checked() {
    clear();
    for (more, error) in [
        (json!({ "service": "" }), "service must have"),
        (json!({ "service": "a b" }), "service must have"),
        (json!({ "tools": [] }), "tools must have"),
        (json!({ "tools": ["a*b"] }), "is no name of a tool"),
        (json!({ "tools": ["a"], "types": { "t": "b" } }), "is not one of `tools`"),
        (json!({ "types": { "tool.call": "b" } }), "is no type"),
        (json!({ "tool_calls": false }), "it serves nothing"),
        (json!({ "concurrency": 0 }), "concurrency must be"),
        (json!({ "concurrency": 11 }), "concurrency must be"),
        (json!({ "timeout_s": 3501 }), "timeout_s"),
    ] {
        let refused = serve(more.clone());
        assert!(refused["error"].as_str().is_some_and(|text| text.contains(error)), "{more}: {refused}");
    }
    assert_eq!(tally(), json!(null), "nothing was set up");
    for n in 0..4 {
        assert_eq!(serve(json!({ "service": format!("s{n}") }))["success"], true);
    }
    assert!(serve(json!({ "service": "s4" }))["error"].as_str().unwrap().contains("there may be 4 services"));
    assert!(
        serve(json!({ "service": "s3", "concurrency": 5 }))["error"].as_str().unwrap().contains("10 tasks at once")
    );
    for tool in [&MCPP_TOOL_WORKER_DRAIN, &MCPP_TOOL_WORKER_REMOVE] {
        let missing = call(tool, json!({ "service": "none" }));
        assert_eq!((&missing["success"], &missing["service"]), (&json!(false), &json!("none")), "{missing}");
    }
    // A caller that may not use the queue gets no service by which the worker would.
    let restricted = Service {
        rights: Rights(Some(vec!["worker_*".into()])),
        ..SERVICES.get(&snapshot().unwrap(), "s0").unwrap().unwrap()
    };
    assert!(restricted.check("s0").unwrap_err().to_string().contains("which you may not use"));
}
