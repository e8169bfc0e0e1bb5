//! Waits, fan-outs and steps within steps at their bounds.

use super::*;
use crate::{
    run::{Node, Run, State},
    scheduler::Outcome,
};

fn node(id: &str, number: u32) -> Node {
    NODES.get(&snapshot().expect("a snapshot"), &(id.to_owned(), number)).expect("read").expect("there")
}

fn run(id: &str) -> Run {
    find(&snapshot().expect("a snapshot"), id).expect("there")
}

/// Rings for a node so much later, and goes on.
fn ring(id: &str, number: u32, later_ms: u64) {
    let at_ms = now_ms() + later_ms;
    transact(|t| {
        upkeep::change(t, id, Origin::Client, at_ms, |run, nodes| Ok(scheduler::ring(run, nodes, number, at_ms)?))
            .map(drop)
    })
    .expect("rung");
    run_all();
}

#[test]
fn a_wait_that_is_filled_with_something_illegal_fails_and_says_why() {
    clear();
    let wait = |id: &str, field: &str| {
        let mut inputs = Map::new();
        inputs.insert(field.into(), format!("${{input.{id}}}").into());
        json!({ "step_id": id, "action": "wait", "inputs": inputs })
    };
    let mut late = wait("late", "seconds");
    late["timeout_s"] = json!(5);
    late["inputs"]["signal"] = json!("${input.none}");
    start(&draft(
        "r",
        json!([
            wait("long", "signal"),
            wait("empty", "signal"),
            wait("ever", "seconds"),
            wait("banana", "until"),
            wait("far", "until"),
            wait("no", "webhook"),
            late,
            wait("most", "signal")
        ]),
        json!({
            "long": "s".repeat(5_000), "empty": "", "ever": 1e300, "banana": "banana", "far": "9999-01-01T00:00:00Z",
            "no": false, "late": 6, "none": null, "most": "s".repeat(200)
        }),
    ));
    run_all();
    let expected = [
        "signal: a signal's name has 1 to 200 bytes",
        "signal: a signal's name has 1 to 200 bytes",
        "seconds: a wait ends within ten years",
        "until: \"banana\" is no time as RFC 3339 has it",
        "until: a wait ends within ten years",
        "webhook: it is true, or absent",
        "it would wait until ",
    ];
    for (number, expected) in (0..).zip(expected) {
        let error = node("r", number).error.expect(expected);
        assert!(error.starts_with(expected), "{error}\nnot\n{expected}");
    }
    assert_eq!(node("r", 7).state.as_str(), "waiting");
}

#[test]
fn the_items_of_a_large_step_begin_in_several_transactions() {
    clear();
    // As an earlier build took it.
    let step = json!({
        "step_id": "fan", "action": "echo", "inputs": { "text": "x".repeat(50_000), "item": "${item}" },
        "for_each": { "items": (0..100).collect::<Vec<_>>(), "parallel": 100 }
    });
    let mut draft = draft("r", json!([step]), Value::Null);
    assert!(draft.check(&Blind).is_err());
    let whole = std::mem::take(&mut draft.steps);
    let graph = crate::validate::graph(&whole).expect("it fits together");
    draft.steps = whole;
    transact(|t| submit(t, &draft, &graph, Origin::Client, now_ms())).expect("submitted");
    transact(|t| {
        let job = work::take(t, "d", now_ms() + 60_000, now_ms())?.expect("a job");
        let before = t.spent().written_bytes;
        work::record(t, "d", &job, &job.perform(Duration::from_secs(60), now_ms()), (0, false))?;
        assert!(t.spent().written_bytes - before < 2 << 20, "{:?}", t.spent());
        Ok::<_, WorkflowError>(())
    })
    .expect("recorded");
    assert_eq!(run("r").to_fill, [0]);
    run_all();
    assert_eq!((run("r").status(), effects().len()), ("failed", 100));
    assert!(node("r", 0).error.expect("why").contains("too large together"));
}

#[test]
fn progress_counts_the_items_that_have_not_begun() {
    for end in ["signals", "a cancel", "the join"] {
        clear();
        let join = if end == "the join" { json!({ "at_least": 1 }) } else { json!("all") };
        start(&draft(
            "r",
            json!([{ "step_id": "fan", "action": "wait", "inputs": { "signal": "go ${index}" },
                "for_each": { "items": (0..9).collect::<Vec<_>>(), "parallel": 2, "join": join } }]),
            Value::Null,
        ));
        run_all();
        assert_eq!((run("r").tally.total, run("r").tally.to_come, run("r").progress()), (3, 7, 0.0));
        let give = |number: usize| {
            transact(|t| give(t, "r", (&format!("go {number}"), &json!(1)), Origin::Client, now_ms())).expect("given");
            run_all();
        };
        match end {
            "signals" => {
                give(1);
                assert_eq!((run("r").tally.total, run("r").tally.to_come, run("r").progress()), (4, 6, 10.0));
                (2..9).chain([0]).for_each(give);
                assert_eq!((run("r").tally.total, run("r").phase), (10, Phase::Completed));
            }
            "a cancel" => {
                drop(transact(|t| cancel(t, "r", ("no", false), Origin::Client, now_ms())).expect("cancelled"))
            }
            _ => give(0),
        }
        run_all();
        assert_eq!((run("r").tally.to_come, run("r").progress()), (0, 100.0), "{end}");
    }
}

#[test]
fn the_last_items_of_a_decided_fan_out_are_not_tried_again() {
    clear();
    let retry = json!({ "max_attempts": 5, "backoff_s": 60 });
    start(&draft(
        "r",
        json!([{ "step_id": "fan", "action": "${item}", "retry": retry, "for_each": { "items": [1, 2, 3, 4], "join": "any" } }]),
        Value::Null,
    ));
    let take =
        |name: &str| transact(|t| work::take(t, name, now_ms() + 60_000, now_ms())).expect("taken").expect("a job");
    let record = |name: &str, job: &Job, outcome: Outcome| {
        let done = crate::engine::job::Done::of(outcome);
        transact(|t| work::record(t, name, job, &done, (0, false))).expect("recorded");
    };
    let fan = take("fan");
    record("fan", &fan, Outcome::Fans(4));
    let jobs = ["a", "b", "c", "d"].map(|name| (name, take(name)));
    record("a", &jobs[0].1, Outcome::Completed(json!(1)));
    assert_eq!(node("r", 0).state, State::Completed);
    record("b", &jobs[1].1, Outcome::Failed { error: "slow".into(), is_final: false });
    record("c", &jobs[2].1, Outcome::Busy { again_ms: now_ms() + 60_000 });
    let waits = Outcome::Waits { signal: Some("go".into()), token: None, until_ms: None, form: None };
    record("d", &jobs[3].1, waits);
    assert_eq!(
        shown("r"),
        (
            "completed",
            ["fan completed", "fan/0 completed", "fan/1 failed", "fan/2 cancelled", "fan/3 cancelled"]
                .map(str::to_owned)
                .to_vec()
        )
    );
}

#[test]
fn the_steps_of_a_workflow_step_have_its_time_together() {
    clear();
    let inner = json!([
        { "step_id": "x", "action": "wait", "inputs": { "signal": "never" } },
        { "step_id": "y", "action": "echo", "depends_on": ["x"] }
    ]);
    start(&draft(
        "r",
        json!([
            { "step_id": "sub", "action": "workflow", "timeout_s": 30, "may_fail": true, "inputs": { "steps": inner } },
            { "step_id": "end", "action": "echo", "depends_on": ["sub"] }
        ]),
        Value::Null,
    ));
    run_all();
    assert!(memory::timers().contains_key("n:r:0"), "{:?}", memory::timers());
    ring("r", 0, 29_000);
    assert_eq!(shown("r").0, "running");
    ring("r", 0, 31_000);
    assert_eq!(
        shown("r"),
        (
            "completed",
            ["sub failed", "end completed", "sub/x cancelled", "sub/y cancelled"].map(str::to_owned).to_vec()
        )
    );
    assert_eq!(node("r", 0).error.as_deref(), Some("the time of its steps is over"));
}

#[test]
fn a_failure_within_a_step_is_told_by_that_step_and_a_skipped_one_says_why() {
    clear();
    start(&draft(
        "r",
        json!([
            { "step_id": "fan", "action": "no", "for_each": { "items": [1, 2], "parallel": 1 }, "may_fail": true },
            { "step_id": "few", "action": "echo", "for_each": { "items": "${input}", "join": { "at_least": 5 } }, "may_fail": true },
            { "step_id": "sub", "action": "workflow", "inputs": { "steps": [{ "step_id": "x", "action": "no" }] }, "may_fail": true },
            { "step_id": "left", "action": "echo", "when": { "value": false } },
            { "step_id": "null", "action": "echo", "when": { "value": "${steps.left.result}", "is": null } },
            { "step_id": "zero", "action": "echo", "when": { "value": 0, "is_not": null } }
        ]),
        json!([1]),
    ));
    run_all();
    assert_eq!(node("r", 0).error.as_deref(), Some("1 of 2 items failed; fan/0: I will not"));
    assert_eq!(node("r", 1).error.as_deref(), Some("there are 1 items, of which 5 must succeed"));
    assert_eq!(node("r", 2).error.as_deref(), Some("step 'sub/x' failed: I will not"));
    assert_eq!(node("r", 3).reason(), Some("its condition does not hold"));
    assert_eq!((node("r", 4).state, node("r", 5).state), (State::Completed, State::Completed));
}

#[test]
fn an_item_keeps_no_more_names_than_its_inputs_have() {
    clear();
    start(&draft(
        "r",
        json!([
            { "step_id": "a", "action": "echo" }, { "step_id": "b", "action": "echo", "inputs": { "n": 2 } },
            { "step_id": "fan", "action": "echo", "inputs": { "b": "${steps.b.result.n}" }, "for_each": { "items": ["${steps.a.result}"] } }
        ]),
        Value::Null,
    ));
    run_all();
    assert_eq!(node("r", 3).names.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(result("r", 2), json!([{ "b": 2 }]));
}

#[test]
fn a_step_with_a_priority_of_its_own_goes_before_or_behind_others() {
    clear();
    start(&draft(
        "r",
        json!([
            { "step_id": "last", "action": "echo", "inputs": { "n": 5 }, "priority": 9 },
            { "step_id": "as_run", "action": "echo", "inputs": { "n": 3 } },
            { "step_id": "fan", "action": "echo", "inputs": { "n": "${item}" }, "priority": -0.5, "for_each": { "items": [1, 2] } },
            { "step_id": "sub", "action": "workflow", "priority": 2, "inputs": { "steps": [{ "step_id": "x", "action": "echo", "inputs": { "n": 4 } }] } }
        ]),
        Value::Null,
    ));
    for turn in 0..7 {
        work(&format!("d{turn}"), 0).expect("worked");
    }
    run_all();
    assert_eq!(effects(), [1, 2, 3, 4, 5].map(|n| format!(r#"echo {{"n":{n}}}"#)));
    let written = serde_json::to_value(node("r", 0).step).expect("written");
    assert_eq!(written["priority"], json!(9.0));
}

#[test]
fn a_plan_that_is_larger_than_a_definition_fails_its_step() {
    clear();
    let steps = ["a", "b", "c"].map(|id| json!({ "step_id": id, "action": "echo", "inputs": { "text": "${input}" } }));
    let planner = json!([{ "step_id": "p", "action": "plan", "plan": true, "inputs": { "steps": steps } }]);
    start(&draft("r", planner, "x".repeat(200_000).into()));
    run_all();
    let error = node("r", 0).error.expect("why");
    assert!(error.contains("at most 524288 are allowed"), "{error}");
}
