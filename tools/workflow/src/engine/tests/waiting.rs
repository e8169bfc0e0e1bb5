//! Steps that wait for a time, a signal, a token, or an event.

use mcpp_tool::events::Event;

use super::*;
use crate::run::State;

/// An event that was emitted at a time.
pub(super) fn event(topic: &str, key: &str, payload: &[u8], time_ms: u64) -> Event {
    Event {
        id: format!("{}/{time_ms}-{key}", topic.split('/').next().expect("a component")),
        topic: topic.to_owned(),
        key: key.to_owned(),
        payload: payload.to_vec(),
        time_ms,
        cause: "tool x by test".into(),
        attempt: 1,
    }
}

fn wait_for(step: &str, event: Value) -> Value {
    json!({ "step_id": step, "action": "wait", "inputs": { "event": event } })
}

#[test]
fn an_event_ends_the_steps_that_wait_for_it_and_no_other() {
    clear();
    memory::subscribe(&["orders/*"]);
    start(&draft(
        "r",
        json!([
            wait_for("keyed", json!({ "topic": "orders/paid", "key": "${input.order}" })),
            wait_for("any", json!({ "topic": "orders/paid" })),
            wait_for("other", json!({ "topic": "orders/paid", "key": "8" })),
            wait_for("sent", json!({ "topic": "orders/sent", "key": "7" })),
            { "step_id": "after", "action": "echo", "inputs": { "by": "${steps.keyed.result.payload.by}" } },
            wait_for("again", json!({ "topic": "orders/paid", "key": "7" })).as_object().map(|step| {
                let mut step = step.clone();
                step.insert("depends_on".into(), json!(["keyed"]));
                step
            })
        ]),
        json!({ "order": 7 }),
    ));
    run_all();
    let before = event("orders/paid", "7", b"{}", now_ms() - 1_000);
    hear(&before).expect("heard");
    assert!(shown("r").1[..4].iter().all(|state| state.ends_with("waiting")), "{:?}", shown("r"));
    // The clock is set back behind it, so that the time alone does not tell a repetition from an event to come.
    let paid = event("orders/paid", "7", br#"{"by":"ada"}"#, now_ms() + 60_000);
    hear(&paid).expect("heard");
    run_all();
    let expected =
        ["keyed completed", "any completed", "other waiting", "sent waiting", "after completed", "again waiting"];
    assert_eq!(shown("r").1, expected);
    let heard = json!({ "topic": "orders/paid", "key": "7", "payload": { "by": "ada" }, "encoding": "json", "time_ms": paid.time_ms, "id": paid.id });
    assert_eq!(result("r", 0), heard);
    // A step that began to wait since then does not get what came before.
    hear(&paid).expect("heard");
    run_all();
    assert_eq!(shown("r").1, expected);
    for (number, key, topic, payload, shown, encoding) in [
        (2, "8", "orders/paid", &b"no JSON"[..], "no JSON", "text"),
        (3, "7", "orders/sent", &[0xff, 0xfe, 1][..], "//4B", "base64"),
    ] {
        hear(&event(topic, key, payload, now_ms())).expect("heard");
        let result = result("r", number);
        assert_eq!((&result["payload"], &result["encoding"]), (&json!(shown), &json!(encoding)));
    }
}

#[test]
fn one_event_comes_to_some_steps_at_once_and_to_the_others_by_the_timer() {
    // Sixteen steps are one transaction's, or 1 MiB of results: each byte of the large payload is six in JSON.
    for (payload, left, status) in [(&b"{}"[..], 24, "completed"), (&[1; 65_536], 38, "failed")] {
        clear();
        memory::subscribe(&["orders/paid"]);
        let mut step = wait_for("fan", json!({ "topic": "orders/paid" }));
        step["for_each"] = json!({ "items": (0..40).collect::<Vec<_>>(), "parallel": 40 });
        start(&draft("r", json!([step]), Value::Null));
        run_all();
        let count = |state: &str| shown("r").1.iter().filter(|shown| shown.ends_with(state)).count();
        assert_eq!(count("waiting"), 40);
        hear(&event("orders/paid", "k", payload, now_ms())).expect("heard");
        assert_eq!(count("waiting"), left);
        run_all();
        // The results of a fan-out have a bound of their own.
        let items = if status == "completed" { 41 } else { 40 };
        assert_eq!((shown("r").0, count("completed")), (status, items), "{:?}", shown("r"));
        let left: Vec<String> = memory::timers().into_keys().filter(|key| key != "watch").collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

#[test]
fn a_step_waits_for_no_event_that_nobody_tells_of() {
    clear();
    memory::subscribe(&["orders/paid"]);
    let steps = |topic: &str| json!([wait_for("a", json!({ "topic": topic }))]);
    let check = |topic: &str| draft("r", steps(topic), Value::Null).check(&VisibleTools(&Rights(None), &[]));
    let refused = check("orders/sent").expect_err("it is not granted").to_string();
    assert!(
        refused.contains("at /inputs/event/topic") && refused.contains("subscribe = [\"orders/sent\"]"),
        "{refused}"
    );
    assert!(check("orders/paid").is_ok() && check("workflow/run").is_ok());
    // A topic that is known only when the step runs.
    start(&draft("r", steps("${input.topic}"), json!({ "topic": "orders/sent" })));
    start(&draft("s", steps("${input.topic}"), json!({ "topic": "orders/paid" })));
    run_all();
    assert_eq!((shown("r").0, shown("s").1), ("failed", vec!["a waiting".to_owned()]));
    let next = || {
        let t = snapshot().expect("a snapshot");
        next_event(&t, &find(&t, "s").expect("there"), 0, now_ms()).expect("read")
    };
    assert!(matches!(next(), Next::Event(words) if words == "a: an event on orders/paid"));
    // The operator has taken it out of the grant.
    memory::subscribe(&[]);
    assert!(matches!(next(), Next::Operator(words) if words.contains("mcpp grant workflow")));
}

#[test]
fn a_step_that_waits_for_an_event_gives_up_in_time() {
    clear();
    memory::subscribe(&["orders/paid"]);
    let mut step = wait_for("a", json!({ "topic": "orders/paid", "key": "7" }));
    step["timeout_s"] = json!(0.001);
    start(&draft("r", json!([step]), Value::Null));
    deliver_until(|| shown("r").0 == "failed");
    hear(&event("orders/paid", "7", b"{}", now_ms())).expect("heard");
    let error = NODES.get(&snapshot().expect("a snapshot"), &("r".to_owned(), 0)).expect("read").expect("there").error;
    assert_eq!(error.as_deref(), Some("the time to wait is over, and no such event came"));
}

#[test]
fn a_step_waits_for_the_end_of_another_run() {
    clear();
    start(&draft("r", json!([wait_for("a", json!({ "topic": "workflow/run", "key": "other" }))]), Value::Null));
    run_all();
    start(&draft("third", json!([{ "step_id": "a", "action": "echo" }]), Value::Null));
    run_all();
    assert_eq!(shown("r").1, ["a waiting"]);
    start(&draft("other", json!([{ "step_id": "a", "action": "no" }]), Value::Null));
    run_all();
    assert_eq!(shown("r").1, ["a completed"]);
    assert_eq!(result("r", 0)["payload"], json!({ "workflow_id": "other", "status": "failed", "name": "test" }));
}

#[test]
fn a_step_that_only_waits_does_so_in_the_transaction_in_which_it_is_ready() {
    clear();
    memory::subscribe(&["orders/paid"]);
    let paid = |step: &str, before: &[&str]| {
        let mut wait = wait_for(step, json!({ "topic": "orders/paid", "key": "${input}" }));
        wait["depends_on"] = json!(before);
        wait
    };
    let echo = json!({ "step_id": "a", "action": "echo", "depends_on": ["first"] });
    let given = json!({ "step_id": "given", "action": "wait", "inputs": { "signal": "go" }, "depends_on": ["second"] });
    start(&draft("r", json!([paid("first", &[]), echo, paid("second", &["a"]), given]), json!(7)));
    assert_eq!(shown("r").1[0], "first waiting", "nobody has delivered anything");
    hear(&event("orders/paid", "7", b"{}", now_ms())).expect("heard");
    assert_eq!(shown("r").1[..2], ["first completed", "a completed"], "the delivery goes on with what is ready");
    assert_eq!(shown("r").1[2], "second waiting");
    transact(|t| give(t, "r", ("go", &json!(1)), Origin::Client, now_ms())).expect("given");
    hear(&event("orders/paid", "7", b"{}", now_ms() + 1)).expect("heard");
    assert_eq!(shown("r").0, "completed", "what it waits for was there: {:?}", shown("r"));
    // More than one transaction has begin.
    start(&draft("many", json!((0..20).map(|n| paid(&format!("s{n}"), &[])).collect::<Vec<_>>()), json!(8)));
    let waiting = || shown("many").1.iter().filter(|state| state.ends_with("waiting")).count();
    assert_eq!(waiting(), 16);
    run_all();
    assert_eq!(waiting(), 20);
    // A paused run begins nothing.
    let held = draft("held", json!([{ "step_id": "a", "action": "echo" }, paid("b", &["a"])]), json!(9));
    start(&held);
    transact(|t| pause(t, "held", now_ms())).expect("paused");
    run_all();
    assert_eq!(shown("held").1, ["a held", "b pending"]);
    transact(|t| resume(t, "held", Origin::Client, now_ms())).expect("resumed");
    run_all();
    assert_eq!(shown("held").1, ["a completed", "b waiting"]);
}

#[test]
fn a_signal_for_which_a_step_waits_is_taken_however_many_came_before() {
    clear();
    let wait =
        |n: usize| json!({ "step_id": format!("s{n}"), "action": "wait", "inputs": { "signal": format!("k{n}") } });
    start(&draft("r", json!((0..150).map(wait).collect::<Vec<_>>()), Value::Null));
    run_all();
    let signal = |name: &str| transact(|t| give(t, "r", (name, &Value::Null), Origin::Client, now_ms()));
    (0..100).for_each(|n| assert_eq!(signal(&format!("x{n}")), Ok(0)));
    assert!(matches!(signal("x100"), Err(WorkflowError::Refused(why)) if why.contains("keeps 100 signals")));
    (0..150).for_each(|n| assert_eq!(signal(&format!("k{n}")), Ok(1)));
    run_all();
    assert_eq!(shown("r").0, "completed");
}

#[test]
fn waits_for_which_much_must_be_read_are_left_to_handlers() {
    clear();
    let wait =
        |n: usize| json!({ "step_id": format!("s{n}"), "action": "wait", "inputs": { "signal": "${input.name}" } });
    let steps = json!((0..40).map(wait).collect::<Vec<_>>());
    let input = json!({ "name": "go", "more": (0..20_000).collect::<Vec<_>>() });
    memory::spent();
    start(&draft("r", steps, input));
    let bytes = memory::spent().bytes;
    assert!(bytes < 1 << 20, "{bytes} bytes");
    assert!(shown("r").1.iter().filter(|state| state.ends_with("waiting")).count() < 4, "{:?}", shown("r"));
    run_all();
    assert!(shown("r").1.iter().all(|state| state.ends_with("waiting")), "{:?}", shown("r"));
}

#[test]
fn the_end_of_a_run_is_not_missed_by_one_that_waits_since_a_later_time() {
    clear();
    start(&draft("first", json!([{ "step_id": "a", "action": "wait", "inputs": { "signal": "go" } }]), Value::Null));
    let wait = json!([wait_for("a", json!({ "topic": "workflow/run", "key": "first" }))]);
    start(&draft("then", wait, Value::Null));
    // A handler that has worked for a while ends it with the time of its beginning.
    let before = now_ms() - 5_000;
    transact(|t| cancel(t, "first", ("no", true), Origin::Client, before)).expect("cancelled");
    run_all();
    assert_eq!(shown("then").0, "completed", "{:?}", shown("then"));
}

#[test]
fn a_step_does_not_wait_for_an_end_that_has_been_or_never_comes() {
    clear();
    start(&draft("other", json!([{ "step_id": "a", "action": "echo" }]), Value::Null));
    run_all();
    let wait = |key: &str| json!([wait_for("a", json!({ "topic": "workflow/run", "key": key }))]);
    start(&draft("behind", wait("other"), Value::Null));
    start(&draft("own", wait("own"), Value::Null));
    start(&draft("early", wait("later"), Value::Null));
    run_all();
    assert_eq!((shown("behind").0, shown("own").0, shown("early").0), ("completed", "failed", "running"));
    let heard = result("behind", 0);
    let end = find(&snapshot().expect("a snapshot"), "other").expect("there").ended_ms;
    assert_eq!((&heard["payload"]["status"], &heard["id"]), (&json!("completed"), &Value::Null));
    assert_eq!(heard["time_ms"], json!(end));
    let error =
        NODES.get(&snapshot().expect("a snapshot"), &("own".to_owned(), 0)).expect("read").expect("there").error;
    assert_eq!(error.as_deref(), Some("a run cannot wait for its own end"));
}

#[test]
fn waits_end_with_their_time_their_signal_or_their_token() {
    clear();
    start(&draft(
        "r",
        json!([
            { "step_id": "time", "action": "wait", "inputs": { "seconds": 5 } },
            { "step_id": "signal", "action": "wait", "inputs": { "signal": "go" } },
            { "step_id": "hook", "action": "wait", "inputs": { "webhook": true } },
            { "step_id": "late", "action": "wait", "inputs": { "signal": "never" }, "timeout_s": 3, "may_fail": true },
            { "step_id": "all", "action": "echo", "inputs": { "s": "${steps.signal.result.by}", "h": "${steps.hook.result}" }, "depends_on": ["time", "late"] },
            { "step_id": "again", "action": "wait", "inputs": { "signal": "go" }, "depends_on": ["signal"] }
        ]),
        Value::Null,
    ));
    run_all();
    let waiting = |shown: &(&str, Vec<String>)| shown.1.iter().filter(|state| state.ends_with("waiting")).count();
    assert_eq!(waiting(&shown("r")), 4);
    assert_eq!(transact(|t| give(t, "r", ("go", &json!({ "by": "ada" })), Origin::Client, now_ms())), Ok(1));
    let token =
        match NODES.get(&snapshot().expect("a snapshot"), &("r".to_owned(), 2)).expect("read").expect("there").state {
            State::Waiting { token, .. } => token.expect("a token"),
            other => panic!("{other:?}"),
        };
    transact(|t| give_token(t, &token, &json!("hooked"), Origin::Client, now_ms())).expect("it waits");
    let twice = transact(|t| give_token(t, &token, &json!("hooked"), Origin::Client, now_ms()));
    assert!(matches!(twice, Err(WorkflowError::Refused(_))), "a token is good once: {twice:?}");
    run_all();
    assert_eq!(waiting(&shown("r")), 2, "{:?}", shown("r"));
    let t = now_ms() + 10_000;
    for number in [0, 3] {
        transact(|tx| {
            upkeep::change(tx, "r", Origin::Client, t, |run, nodes| Ok(scheduler::ring(run, nodes, number, t)?))
                .map(drop)
        })
        .expect("rung");
    }
    run_all();
    assert_eq!(shown("r").0, "completed", "{:?}", shown("r"));
    assert_eq!(result("r", 4), json!({ "s": "ada", "h": "hooked" }));
}
