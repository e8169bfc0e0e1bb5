mod bounds;
mod handed;
pub(crate) mod keeping;
mod large;
mod pinned;
pub(super) mod place;
pub(crate) mod queue;
mod rehearsal;
mod shared;
mod waiting;
mod windows;

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use mcpp_tool::{
    Output,
    builds::Build,
    call::CallError,
    environment::now_ms,
    rights::Rights,
    store::{memory, snapshot, transact},
};
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    store::{NODES, RESULTS},
    validate::{Blind, parse},
};

thread_local! {
    /// Effects at the provider: what was called, in order.
    static EFFECTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// How often a tool of a name has failed so far, for those that fail at first.
    static FAILED: RefCell<BTreeMap<String, u32>> = const { RefCell::new(BTreeMap::new()) };
    /// What names each effect.
    static NAMES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// The builds on which each was called.
    static BUILDS: RefCell<Vec<Vec<Build>>> = const { RefCell::new(Vec::new()) };
    static EVENTS: RefCell<usize> = const { RefCell::new(0) };
}

/// The tools of these tests. `echo` gives back its arguments; `fail_N` fails N times; `no` says so in a result.
pub(super) fn provider(
    Job { rights, builds, effect, .. }: &Job,
    tool: &str,
    arguments: &Map<String, Value>,
    timeout: Duration,
) -> Result<Output, CallError> {
    assert!(timeout <= Duration::from_secs(60));
    if !rights.allow(tool) {
        return Err(CallError::NotFound);
    }
    EFFECTS.with_borrow_mut(|effects| effects.push(format!("{tool} {}", Value::Object(arguments.clone()))));
    NAMES.with_borrow_mut(|names| names.push(effect.clone()));
    BUILDS.with_borrow_mut(|seen| seen.push(builds.clone()));
    let structured = |value: Value| Ok(Output { content: Vec::new(), structured: Some(value) });
    if let Some(answer) = queue::answer(tool, arguments) {
        return structured(answer);
    }
    if let Some(times) = tool.strip_prefix("fail_") {
        let times: u32 = times.parse().expect("a number");
        let failed = FAILED.with_borrow_mut(|failed| {
            let failed = failed.entry(tool.to_owned()).or_default();
            *failed += 1;
            *failed
        });
        if failed <= times {
            return Err(CallError::Failed(Output::text("no")));
        }
    }
    match tool {
        "no" => structured(json!({ "success": false, "error": "I will not" })),
        "text" => Ok(Output::text("hello")),
        "plan" => structured(json!({ "steps": arguments.get("steps"), "input": { "from": "plan" } })),
        "large" => structured(json!({ "text": "x".repeat(1 << 20), "last": 7 })),
        "huge" => structured(json!({ "text": "x".repeat(crate::blob::MAX_BLOB_BYTES) })),
        _ => structured(Value::Object(arguments.clone())),
    }
}

pub(crate) fn clear() {
    memory::clear();
    queue::clear();
    EFFECTS.take();
    NAMES.take();
    BUILDS.take();
    FAILED.take();
    EVENTS.take();
}

/// Goes to a host that knows nothing; what happened at the provider has happened.
pub(crate) fn go_elsewhere() {
    memory::clear();
    EVENTS.take();
}

pub(crate) fn effects() -> Vec<String> {
    EFFECTS.with_borrow(Clone::clone)
}

pub(crate) fn draft(id: &str, steps: Value, input: Value) -> Draft {
    let steps = parse(steps.as_array().expect("a list")).expect("steps");
    Draft { id: id.into(), name: "test".into(), steps, priority: 1.0, input, by: "test".into(), ..Draft::default() }
}

pub(crate) fn start(draft: &Draft) {
    let graph = draft.check(&Blind).expect("it fits together");
    transact(|t| submit(t, draft, &graph, Origin::Client, now_ms())).expect("submitted");
}

/// Delivers what waits, as the host does: events first, then timers that are due within `ahead_ms`. Whether there was anything.
pub(crate) fn deliver(ahead_ms: u64) -> bool {
    let emitted = memory::emitted();
    let at = EVENTS.with_borrow_mut(|at| std::mem::replace(at, emitted.len()));
    let ready: Vec<_> = emitted.into_iter().enumerate().skip(at).filter(|(_, event)| event.topic == "ready").collect();
    let mut was_any = !ready.is_empty();
    for (number, event) in ready {
        let hops = String::from_utf8(event.payload).expect("text").parse().expect("a number");
        work(&format!("event {number}"), hops).expect("delivered");
    }
    let now = now_ms();
    for (key, timer) in memory::timers() {
        if timer.at_ms <= now + ahead_ms && key != "watch" {
            memory::take_timer(&key);
            was_any = true;
            wake(&key, &format!("timer {key} {}", timer.at_ms)).expect("delivered");
        }
    }
    was_any
}

pub(crate) fn run_all() {
    while deliver(0) {}
}

/// Delivers what is due until a condition holds, for ten seconds at most.
fn deliver_until(condition: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "nothing more happens");
        deliver(0);
    }
}

pub(crate) fn shown(id: &str) -> (&'static str, Vec<String>) {
    let t = snapshot().expect("a snapshot");
    let run = find(&t, id).expect("it is there");
    let states = NODES.under(&(id,)).walk(&t).map(|row| {
        let (_, node) = row.expect("a node");
        format!("{} {}", node.path, node.state.as_str())
    });
    (run.status(), states.collect())
}

fn result(id: &str, number: u32) -> Value {
    RESULTS.get(&snapshot().expect("a snapshot"), &(id, number)).expect("read").unwrap_or_default()
}

#[test]
fn a_run_ends_with_every_result_and_nothing_is_left_behind() {
    clear();
    start(&draft(
        "r",
        json!([
            { "step_id": "a", "action": "echo", "inputs": { "n": "${input.n}", "t": "n is ${input.n}" } },
            { "step_id": "b", "action": "echo", "inputs": { "of_a": "${steps.a.result}" } },
            { "step_id": "fan", "action": "echo", "inputs": { "item": "${item}", "i": "${index}" }, "for_each": { "items": "${input.list}", "parallel": 2 } },
            { "step_id": "end", "action": "echo", "inputs": { "x": "${steps.fan.result.1.item}", "t": "${steps.txt.result}" }, "depends_on": ["b"] },
            { "step_id": "txt", "action": "text" }
        ]),
        json!({ "n": 5, "list": ["p", "q", "r"] }),
    ));
    run_all();
    assert_eq!(shown("r").0, "completed", "{:?}", shown("r"));
    assert_eq!(result("r", 1), json!({ "of_a": { "n": 5, "t": "n is 5" } }));
    assert_eq!(result("r", 2), json!([{ "item": "p", "i": 0 }, { "item": "q", "i": 1 }, { "item": "r", "i": 2 }]));
    assert_eq!(result("r", 3), json!({ "x": "q", "t": "hello" }));
    assert_eq!(effects().len(), 7);
    let left: Vec<String> = memory::timers().into_keys().filter(|key| key != "watch").collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_failure_is_retried_then_final_and_what_follows_is_skipped() {
    clear();
    let retry = json!({ "max_attempts": 3, "backoff_s": 0.001, "jitter": 0 });
    start(&draft(
        "r",
        json!([
            { "step_id": "twice", "action": "fail_2", "retry": retry },
            { "step_id": "often", "action": "fail_9", "retry": retry },
            { "step_id": "final", "action": "no", "retry": { "max_attempts": 9, "final_errors": ["will not"] } },
            { "step_id": "after", "action": "echo", "depends_on": ["often"] },
            { "step_id": "behind", "action": "echo", "depends_on": ["after"] },
            { "step_id": "anyway", "action": "echo", "depends_on": ["soft"] },
            { "step_id": "soft", "action": "no", "may_fail": true },
            { "step_id": "left", "action": "echo", "when": { "value": "${steps.soft.result}" } },
            { "step_id": "huge", "action": "huge" }
        ]),
        Value::Null,
    ));
    while deliver(10_000) {}
    let expected = [
        "twice completed",
        "often failed",
        "final failed",
        "after skipped",
        "behind skipped",
        "anyway completed",
        "soft failed",
        "left skipped",
        "huge failed",
    ];
    assert_eq!(shown("r"), ("failed", expected.map(str::to_owned).to_vec()));
    let count = |tool: &str| effects().iter().filter(|effect| effect.starts_with(tool)).count();
    assert_eq!((count("fail_2"), count("fail_9"), count("no")), (3, 3, 2));
    let t = snapshot().expect("a snapshot");
    let error = |number: u32| NODES.get(&t, &("r".to_owned(), number)).expect("read").expect("there").error;
    assert_eq!(error(3).as_deref(), Some("step 'often' failed"));
    assert!(error(8).expect("an error").contains("at most 16777216 are kept"));
}

#[test]
fn effects_are_taken_back_last_first_and_an_undo_that_fails_waits_for_an_operator() {
    clear();
    let undo =
        |tool: &str| json!({ "action": tool, "inputs": { "of": "${result.n}" }, "retry": { "max_attempts": 1 } });
    start(&draft(
        "r",
        json!([
            { "step_id": "a", "action": "echo", "inputs": { "n": 1 }, "undo": undo("fail_1") },
            { "step_id": "b", "action": "echo", "inputs": { "n": 2 }, "undo": undo("undo_b"), "depends_on": ["a"] },
            { "step_id": "c", "action": "no", "depends_on": ["b"] }
        ]),
        Value::Null,
    ));
    run_all();
    assert_eq!(shown("r"), ("failed", ["a undo_failed", "b undone", "c failed"].map(str::to_owned).to_vec()));
    let t = snapshot().expect("a snapshot");
    let run = find(&t, "r").expect("there");
    assert!(!run.phase.is_final() && matches!(next_event(&t, &run, 0, now_ms()), Ok(Next::Operator(_))));
    transact(|t| retry(t, "r", Origin::Client, now_ms())).expect("retried").expect("an undo");
    run_all();
    assert_eq!(shown("r"), ("failed", ["a undone", "b undone", "c failed"].map(str::to_owned).to_vec()));
    assert_eq!(&effects()[3..], [r#"undo_b {"of":2}"#, r#"fail_1 {"of":1}"#, r#"fail_1 {"of":1}"#]);
    assert_eq!(find(&snapshot().expect("a snapshot"), "r").expect("there").phase, Phase::Failed);
}

#[test]
fn steps_within_steps_and_plans_are_part_of_the_run() {
    clear();
    let inner = json!([
        { "step_id": "x", "action": "echo", "inputs": { "in": "${input.k}" } },
        { "step_id": "y", "action": "echo", "inputs": { "x": "${steps.x.result.in}" } }
    ]);
    start(&draft(
        "r",
        json!([
            { "step_id": "sub", "action": "workflow", "inputs": { "steps": inner, "input": { "k": "${input.v}" } } },
            { "step_id": "plan", "action": "plan", "plan": true, "inputs": { "steps": [{ "step_id": "p", "action": "echo", "inputs": { "f": "$${input.from}" } }] } },
            { "step_id": "bad", "action": "plan", "plan": true, "may_fail": true, "inputs": { "steps": [{ "step_id": "p", "action": "echo", "depends_on": ["q"] }] } },
            { "step_id": "end", "action": "echo", "inputs": { "y": "${steps.sub.result.y.x}", "p": "${steps.plan.result.p.f}" }, "depends_on": ["bad"] }
        ]),
        json!({ "v": 9 }),
    ));
    run_all();
    assert_eq!(shown("r").0, "completed", "{:?}", shown("r"));
    assert_eq!(result("r", 3), json!({ "y": 9, "p": "plan" }));
    let t = snapshot().expect("a snapshot");
    let bad = NODES.get(&t, &("r".to_owned(), 2)).expect("read").expect("there").error.expect("an error");
    assert!(
        bad.contains("the plan is refused: step 'p' at /depends_on/0: Step 'p' depends on non-existent step 'q'"),
        "{bad}"
    );
}

#[test]
fn a_delivery_that_comes_again_has_its_node_and_a_completed_step_never_runs_again() {
    clear();
    start(&draft(
        "r",
        json!([{ "step_id": "a", "action": "echo" }, { "step_id": "b", "action": "echo", "depends_on": ["a"] }]),
        Value::Null,
    ));
    let taken = transact(|t| work::take(t, "d", now_ms() + 60_000, now_ms())).expect("taken").expect("a job");
    // The handler is gone behind its effect; the delivery comes again, and another one has nothing to do meanwhile.
    taken.perform(Duration::from_secs(60), now_ms());
    assert_eq!(transact(|t| work::take(t, "other", now_ms() + 60_000, now_ms())), Ok(None));
    work("d", 1).expect("worked");
    work("d", 1).expect("nothing to do");
    run_all();
    assert_eq!(effects(), ["echo {}", "echo {}", "echo {}"], "a twice, b once");
    assert_eq!(shown("r").0, "completed");
}

#[test]
fn a_handler_that_never_comes_back_loses_its_node() {
    clear();
    start(&draft("r", json!([{ "step_id": "a", "action": "echo" }]), Value::Null));
    transact(|t| work::take(t, "gone", now_ms().saturating_sub(1), now_ms())).expect("taken").expect("a job");
    // Its event is gone too: only the watch knows.
    EVENTS.with_borrow_mut(|at| *at = memory::emitted().len());
    assert!(memory::timers().contains_key("watch"));
    memory::take_timer("watch");
    wake("watch", "timer watch").expect("rung");
    let job = transact(|t| work::take(t, "next", now_ms() + 60_000, now_ms())).expect("taken");
    assert!(job.is_some());
}

#[test]
fn a_pause_holds_back_what_has_not_begun_and_cancelling_ends_the_rest() {
    clear();
    start(&draft(
        "r",
        json!([{ "step_id": "a", "action": "echo" }, { "step_id": "b", "action": "echo", "depends_on": ["a"] }]),
        Value::Null,
    ));
    transact(|t| pause(t, "r", now_ms())).expect("paused");
    run_all();
    assert_eq!((effects().len(), shown("r").1), (0, ["a held", "b pending"].map(str::to_owned).to_vec()));
    transact(|t| resume(t, "r", Origin::Client, now_ms())).expect("resumed");
    run_all();
    assert_eq!((effects().len(), shown("r").0), (2, "completed"));
    assert!(transact(|t| resume(t, "r", Origin::Client, now_ms())).is_err());
    start(&draft(
        "s",
        json!([{ "step_id": "a", "action": "echo", "undo": { "action": "undo" } }, { "step_id": "b", "action": "wait", "inputs": { "signal": "x" }, "depends_on": ["a"] }, { "step_id": "c", "action": "echo", "depends_on": ["b"] }]),
        Value::Null,
    ));
    run_all();
    let (run, open) = transact(|t| cancel(t, "s", ("enough", false), Origin::Client, now_ms())).expect("cancelled");
    assert_eq!((run.status(), open), ("cancelled", 2));
    run_all();
    assert_eq!(shown("s").1, ["a undone", "b cancelled", "c cancelled"]);
    assert_eq!(find(&snapshot().expect("a snapshot"), "s").expect("there").phase, Phase::Cancelled);
    assert_eq!(
        transact(|t| cancel(t, "s", ("", false), Origin::Client, now_ms())).expect_err("ended").to_string(),
        "Workflow s has ended: cancelled"
    );
}

#[test]
fn a_run_waits_for_others_and_ends_with_those_that_do_not_complete() {
    clear();
    let wait = json!([{ "step_id": "w", "action": "wait", "inputs": { "signal": "go" } }]);
    start(&draft("first", wait.clone(), Value::Null));
    start(&draft("bad", wait, Value::Null));
    let one = json!([{ "step_id": "a", "action": "echo" }]);
    start(&Draft { dependencies: vec!["first".into()], ..draft("second", one.clone(), Value::Null) });
    start(&Draft { dependencies: vec!["first".into(), "bad".into()], ..draft("third", one.clone(), Value::Null) });
    run_all();
    assert_eq!((shown("second").0, effects().len()), ("submitted", 0));
    transact(|t| give(t, "first", ("go", &Value::Null), Origin::Client, now_ms())).expect("given");
    transact(|t| cancel(t, "bad", ("no", false), Origin::Client, now_ms())).expect("cancelled");
    run_all();
    assert_eq!((shown("second").0, shown("third").0), ("completed", "cancelled"));
    let missing = Draft { dependencies: vec!["nothing".into()], ..draft("fourth", one, Value::Null) };
    let graph = missing.check(&Blind).expect("it fits together");
    let error = transact(|t| submit(t, &missing, &graph, Origin::Client, now_ms())).expect_err("unknown");
    assert_eq!(error.to_string(), "the dependency 'nothing' does not exist");
}

#[test]
fn a_fork_keeps_what_had_completed_and_the_rights_of_the_run() {
    clear();
    let steps = json!([
        { "step_id": "a", "action": "echo", "inputs": { "n": 1 } },
        { "step_id": "b", "action": "fail_1", "inputs": { "a": "${steps.a.result.n}" } },
        { "step_id": "c", "action": "echo", "inputs": { "b": "${steps.b.result.a}" } }
    ]);
    let rights = Rights(Some(vec!["echo".into(), "fail_1".into()]));
    start(&Draft { rights: rights.clone(), ..draft("r", steps, Value::Null) });
    run_all();
    assert_eq!(shown("r").0, "failed");
    let request = ForkRequest {
        run: "r".into(),
        id: "r-2".into(),
        by: "bob".into(),
        rights: rights.clone(),
        ..ForkRequest::default()
    };
    let t = snapshot().expect("a snapshot");
    for (other, is_refused) in
        [(Rights(None), false), (Rights(Some(vec!["*".into()])), true), (Rights(Some(vec!["echo".into()])), true)]
    {
        let forked = fork(&t, &ForkRequest { rights: other, ..request.clone() });
        assert_eq!(forked.as_ref().is_err(), is_refused);
        // The new run may do what the old one might, whoever forks it.
        assert!(forked.is_err() || forked.is_ok_and(|draft| draft.rights == rights));
    }
    start(&fork(&t, &request).expect("it has ended"));
    run_all();
    assert_eq!((shown("r-2").0, result("r-2", 2)), ("completed", json!({ "b": 1 })));
    let edited = ForkRequest {
        id: "r-3".into(),
        run: "r-2".into(),
        inputs: json!({ "a": { "n": 7 } }).as_object().expect("an object").clone(),
        ..request
    };
    start(&fork(&snapshot().expect("a snapshot"), &edited).expect("it has ended"));
    run_all();
    assert_eq!(result("r-3", 2), json!({ "b": 7 }));
    assert_eq!(
        effects().iter().filter(|effect| effect.starts_with("echo {\"n\":1}")).count(),
        1,
        "a ran once for both"
    );
    assert_eq!(find(&snapshot().expect("a snapshot"), "r-3").expect("there").forked.expect("a fork").by, "bob");
}

#[test]
fn a_step_has_no_more_power_than_the_submitter() {
    clear();
    let only_echo = Rights(Some(vec!["echo".into()]));
    let steps = json!([{ "step_id": "a", "action": "secret" }, { "step_id": "p", "action": "echo", "plan": true, "inputs": { "steps": [{ "step_id": "s", "action": "secret" }] } }]);
    let draft = Draft { rights: only_echo.clone(), ..draft("r", steps, Value::Null) };
    let error = draft.check(&VisibleTools(&only_echo, &[])).expect_err("refused");
    assert!(error.to_string().starts_with("step 'a' at /action: there is no tool `secret`"), "{error}");
    // Even if it were submitted.
    start(&draft);
    run_all();
    assert_eq!(shown("r").0, "failed");
    assert!(effects().iter().all(|effect| effect.starts_with("echo ")), "{:?}", effects());
}
