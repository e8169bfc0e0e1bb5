//! Rehearsals, and what names the effects of runs.

use super::*;
use crate::engine::rehearsal::{Called, Fault, FaultKind, Script, called, prepared};

/// `a` and `b` one behind the other with undos, and `c` beside them.
fn steps() -> Value {
    let undo = json!({ "action": "take_back", "inputs": { "n": "${result.n}" }, "retry": { "max_attempts": 2 } });
    json!([
        { "step_id": "a", "action": "echo", "inputs": { "n": 1 }, "undo": undo },
        { "step_id": "b", "action": "echo", "inputs": { "n": 2, "w": "${steps.w.result}" }, "undo": undo, "depends_on": ["a"] },
        { "step_id": "c", "action": "ask" },
        { "step_id": "w", "action": "wait", "inputs": { "signal": "go" } }
    ])
}

fn rehearse(script: &Script) -> (&'static str, Phase, Vec<Called>) {
    clear();
    start(&Draft { script: Some(script.clone()), ..prepared(draft("r", steps(), Value::Null), script) });
    while deliver(60_000) {
        let paused = find(&snapshot().expect("a snapshot"), "r").expect("there").paused_ms.is_some();
        if paused {
            transact(|t| resume(t, "r", Origin::Client, now_ms())).expect("resumed");
        }
    }
    let t = snapshot().expect("a snapshot");
    let run = find(&t, "r").expect("there");
    (run.status(), run.phase, called(&t, "r").expect("read"))
}

fn fault(step: &str, undo: bool, kind: FaultKind) -> Script {
    let fault = Some(Fault { step: step.into(), undo, kind });
    Script { fault, ends_badly: undo, ..Script::default() }
}

fn order(calls: &[Called]) -> Vec<String> {
    let line = |call: &Called| format!("{}{}{}", if call.undo { "-" } else { "" }, call.step, call.times);
    calls.iter().map(line).collect()
}

#[test]
fn a_rehearsal_waits_for_nothing_and_asks_no_tool_whose_answer_is_recorded() {
    let script = Script {
        recorded: json!({ "ask": { "price": 7 } }).as_object().expect("an object").clone(),
        given: json!({ "go": "ahead" }).as_object().expect("an object").clone(),
        is_stepped: true,
        ..Script::default()
    };
    let (status, _, calls) = rehearse(&script);
    assert_eq!((status, calls.len()), ("completed", 3), "{calls:?}");
    assert!(calls.iter().all(|call| call.succeeded && call.recorded == (call.tool == "ask")), "{calls:?}");
    assert_eq!((result("r", 2), result("r", 1)), (json!({ "price": 7 }), json!({ "n": 2, "w": "ahead" })));
    assert!(effects().iter().all(|effect| !effect.starts_with("ask")), "{:?}", effects());
    let t = snapshot().expect("a snapshot");
    let mut starts: Vec<u64> =
        [0, 1, 2].map(|number| NODES.get(&t, &("r".to_owned(), number)).expect("read").expect("there").order).to_vec();
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len(), 3, "one after another");
}

#[test]
fn each_fault_of_a_step_is_what_it_says() {
    let (status, phase, calls) = rehearse(&fault("b", false, FaultKind::Fail));
    assert_eq!((status, phase), ("failed", Phase::Failed));
    assert_eq!(order(&calls), ["a1", "c1", "-a1"]);
    let (status, _, calls) = rehearse(&fault("a", false, FaultKind::Repeat));
    assert_eq!((status, order(&calls)), ("completed", ["a2", "c1", "b1"].map(str::to_owned).to_vec()));
    assert_eq!(effects().len(), 4);
    NAMES.with_borrow(|names| assert!(names[0] == names[1] && names[1] != names[2], "{names:?}"));
    let (status, _, calls) = rehearse(&fault("a", false, FaultKind::Delay));
    assert_eq!((status, order(&calls)), ("completed", ["c1", "a1", "b1"].map(str::to_owned).to_vec()));
}

#[test]
fn each_fault_of_an_undo_is_what_it_says() {
    let (status, phase, calls) = rehearse(&fault("a", true, FaultKind::Repeat));
    assert_eq!((status, phase), ("failed", Phase::Failed));
    assert_eq!(order(&calls), ["a1", "c1", "b1", "-b1", "-a2"]);
    let (_, phase, calls) = rehearse(&fault("a", true, FaultKind::Delay));
    assert_eq!((phase, calls.len()), (Phase::Failed, 5));
    let (_, phase, calls) = rehearse(&fault("b", true, FaultKind::Fail));
    assert_eq!((phase, order(&calls)), (Phase::UndoFailed, ["a1", "c1", "b1"].map(str::to_owned).to_vec()));
    // The operator tries again what was mended.
    transact(|t| retry(t, "r", Origin::Client, now_ms())).expect("retried").expect("an undo");
    while deliver(60_000) {}
    let t = snapshot().expect("a snapshot");
    assert_eq!(find(&t, "r").expect("there").phase, Phase::Failed);
    assert_eq!(order(&called(&t, "r").expect("read")), ["a1", "c1", "b1", "-b1", "-a1"]);
}

#[test]
fn an_effect_has_one_name_at_all_attempts_and_in_no_other_run() {
    let names = |id: &str| {
        NAMES.take();
        let retry = json!({ "max_attempts": 3, "backoff_s": 0 });
        let steps = json!([
            { "step_id": "fan", "action": "fail_1", "retry": retry, "for_each": { "items": [1, 2], "parallel": 1 }, "undo": { "action": "take_back" } },
            { "step_id": "do", "action": "no", "depends_on": ["fan"] }
        ]);
        start(&draft(id, steps, Value::Null));
        while deliver(60_000) {}
        assert_eq!(shown(id).0, "failed");
        NAMES.take()
    };
    clear();
    let first = names("r");
    // The first item twice, the second, the step that fails, both undos.
    assert_eq!(first.len(), 6, "{first:?}");
    assert_eq!(first[0], first[1]);
    let mut all = [first[1..].to_vec(), names("r-2")].concat();
    let count = all.len();
    all.sort();
    all.dedup();
    // The second run's first item succeeds at once.
    assert_eq!((all.len(), count), (10, 10), "{all:?}");
}
