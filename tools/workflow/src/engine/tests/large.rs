//! What is too much for a handler fails by itself: no other step and no other run waits for it or is done again.

use super::*;
use crate::scheduler::Outcome;

/// The error of a step.
fn error(run: &str, path: &str) -> String {
    let view = snapshot().expect("a snapshot");
    let nodes: Vec<_> = NODES.under(&(run,)).walk(&view).map(|row| row.expect("read").1).collect();
    nodes.into_iter().find(|node| node.path == path).and_then(|node| node.error).unwrap_or_default()
}

fn all() {
    while deliver(0) {}
}

#[test]
fn arguments_that_are_too_large_fail_their_step_and_nothing_else() {
    clear();
    let text = "x".repeat(250_000);
    let large = json!({ "text": "${input.text}".repeat(1_000) });
    start(&draft(
        "bomb",
        json!([
            { "step_id": "pay", "action": "echo", "inputs": { "pay": 1 } },
            { "step_id": "big", "action": "echo", "inputs": large.clone(), "depends_on": ["pay"] }
        ]),
        json!({ "text": text.clone() }),
    ));
    start(&draft("other", json!([{ "step_id": "a", "action": "echo", "inputs": { "n": 1 } }]), Value::Null));
    all();
    assert_eq!((shown("bomb").0, shown("other").0), ("failed", "completed"));
    let reason = error("bomb", "big");
    assert!(reason.contains("at /inputs/text") && reason.contains("at most 8388608 are allowed"), "{reason}");
    assert_eq!(effects().iter().filter(|effect| effect.contains("pay")).count(), 1, "it is done once");
    // The same in an undo, and in a condition.
    clear();
    let undo = json!({ "action": "echo", "inputs": large });
    let when = json!({ "value": "${input.text}".repeat(1_000), "is": 1 });
    for (id, steps) in [
        (
            "undo",
            json!([{ "step_id": "a", "action": "echo", "undo": undo }, { "step_id": "b", "action": "no", "depends_on": ["a"] }]),
        ),
        ("when", json!([{ "step_id": "a", "action": "echo", "when": when }])),
    ] {
        start(&draft(id, steps, json!({ "text": text.clone() })));
        all();
        assert_eq!(shown(id).0, "failed", "{id}");
    }
    assert!(error("when", "a").contains("at /when/value"), "{}", error("when", "a"));
}

#[test]
fn what_is_much_is_read_outside_of_any_transaction() {
    clear();
    start(&draft(
        "r",
        json!([{ "step_id": "a", "action": "echo", "inputs": { "text": "${input}".repeat(20) } }]),
        json!("y".repeat(200_000)),
    ));
    let job = transact(|t| work::take(t, "one", now_ms() + 60_000, now_ms())).expect("taken").expect("a node");
    assert_eq!(job.work, job::Work::Unread);
    all();
    assert_eq!(shown("r").0, "running", "the first handler has it");
    work("one", 1).expect("delivered again");
    assert_eq!(shown("r").0, "completed");
    assert!(effects()[0].len() > 4_000_000);
}

#[test]
fn what_cannot_be_recorded_has_failed_and_the_next_one_is_taken() {
    clear();
    start(&draft("r", json!([{ "step_id": "a", "action": "echo" }]), Value::Null));
    start(&draft("s", json!([{ "step_id": "a", "action": "echo" }]), Value::Null));
    let job = transact(|t| work::take(t, "one", now_ms() + 60_000, now_ms())).expect("taken").expect("a node");
    let signal = Some("s".repeat(5_000));
    let done = job::Done::of(Outcome::Waits { signal, token: None, until_ms: None, form: None });
    let refused = transact(|t| work::record(t, "one", &job, &done, (1, false))).expect_err("no such key");
    assert_eq!(refused, WorkflowError::Store(StoreError::InvalidKey));
    work::record_alone("one", &job, &done, (1, false)).expect("recorded");
    assert!(error("r", "a").contains("a key is empty or too long"), "{}", error("r", "a"));
    all();
    assert_eq!((shown("r").0, shown("s").0), ("failed", "completed"));
}

#[test]
fn a_long_chain_of_runs_ends_run_by_run() {
    clear();
    const RUNS: usize = 300;
    let steps = || json!([{ "step_id": "a", "action": "wait", "inputs": { "signal": "go" } }]);
    start(&draft("r0", steps(), Value::Null));
    for number in 1..RUNS {
        let needs = vec![format!("r{}", number - 1)];
        start(&Draft { dependencies: needs, ..draft(&format!("r{number}"), steps(), Value::Null) });
    }
    all();
    transact(|t| cancel(t, "r0", ("enough", true), Origin::Client, now_ms()).map(drop)).expect("cancelled");
    let ended = || (0..RUNS).filter(|number| shown(&format!("r{number}")).0 == "cancelled").count();
    assert_eq!(ended(), 1 + TOLD, "one transaction tells so many; timers tell the others");
    // The handler of the first timer goes on by itself.
    let timers = || memory::timers().into_keys().filter(|key| key.starts_with("d:")).collect::<Vec<_>>();
    assert_eq!(timers(), ["d:r16"]);
    wake("d:r16", "timer").expect("delivered");
    assert!(timers().is_empty(), "{:?}", timers());
    assert_eq!(ended(), RUNS);
}
