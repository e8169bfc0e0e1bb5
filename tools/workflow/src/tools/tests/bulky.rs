//! Runs with many steps, and with large ones: a reply has as many as have room, and says where the rest is.

use mcpp_tool::store::memory;

use super::*;
use crate::engine::tests::keeping::enlarge;

/// Bytes of the store that a call may read by default.
const STORE_BYTES: u64 = 64 << 20;

/// A fan-out of so many items whose step has 400,000 characters, and a step behind it.
pub(super) fn bulky(id: &str, items: usize) {
    let items: Vec<usize> = (0..items).collect();
    let steps = json!([
        { "step_id": "fan", "action": "text", "for_each": { "items": items, "parallel": 4 } },
        { "step_id": "end", "action": "wait", "inputs": { "signal": "go" }, "depends_on": ["fan"] }
    ]);
    submit(id, steps).expect("submitted");
    enlarge(id, 400_000);
    run_all();
}

fn read_of<T>(call: impl FnOnce() -> T) -> T {
    memory::spent();
    let reply = call();
    let bytes = memory::spent().bytes;
    assert!(bytes < STORE_BYTES / 2, "a call reads {bytes} bytes");
    reply
}

#[test]
fn large_steps_are_shown_part_by_part() {
    clear();
    bulky("w", 50);
    workflow_signal(Some("w".into()), Some("go".into()), None, Value::Null).into_result().expect("given");
    run_all();
    let (mut seen, mut from, mut parts) = (Vec::new(), Some(0), 0);
    while let Some(number) = from {
        let status = read_of(|| workflow_status("w".into(), true, true, number)).into_result().expect("there");
        from = status["next_step"].as_u64().map(|next| next as u32);
        assert_eq!(status["has_more_steps"], json!(from.is_some()));
        assert_eq!(status["metrics"]["is_whole"], json!(false), "none of the parts is all");
        let steps = status["steps"].as_array().expect("a list");
        assert!(steps.iter().all(|step| step["duration_s"].is_number()), "{steps:?}");
        seen.extend(steps.iter().map(|step| step["step_id"].as_str().expect("an id").to_owned()));
        parts += 1;
    }
    assert!(parts == 2 && seen.len() == 52 && seen[51] == "fan/49", "{parts} {seen:?}");
    let result = read_of(|| workflow_result("w".into(), true, false)).into_result().expect("ended");
    assert_eq!((&result["is_whole"], result["next_step"].is_number()), (&json!(false), true));
    assert_eq!(result["outputs"]["fan/3"], json!("hello"));
    let drawn = read_of(|| workflow_dependencies("w".into(), None, None)).into_result().expect("there");
    assert_eq!((&drawn["dag"], &drawn["has_more_steps"]), (&json!({ "fan": [], "end": ["fan"] }), &json!(false)));
    let output = read_of(|| workflow_output("w".into(), "fan/49".into(), 0)).into_result().expect("a piece");
    assert_eq!(output["text"], "\"hello\"");
    assert!(read_of(|| workflow_output("w".into(), "fan/50".into(), 0)).into_result().is_err());
}

#[test]
fn steps_that_were_skipped_are_named_with_the_reason_and_all_are_found() {
    clear();
    let mut steps = vec![
        json!({ "step_id": "bad", "action": "no" }),
        json!({ "step_id": "left", "action": "echo", "when": { "value": false } }),
    ];
    steps.extend(
        (0..300).map(|number| json!({ "step_id": format!("s{number}"), "action": "echo", "depends_on": ["bad"] })),
    );
    submit("w", json!(steps)).expect("submitted");
    run_all();
    let result = workflow_result("w".into(), true, false).into_result().expect("ended");
    let mut named = result["not_done"].as_array().expect("a list").clone();
    assert_eq!((named.len(), &result["is_whole"], &result["next_step"]), (200, &json!(false), &json!(200)));
    assert_eq!(named[1], json!({ "step_id": "left", "status": "skipped", "reason": "its condition does not hold" }));
    assert_eq!(named[2]["reason"], "step 'bad' failed");
    let status = workflow_status("w".into(), true, false, 200).into_result().expect("there");
    named.extend(status["steps"].as_array().expect("a list").iter().cloned());
    assert_eq!((named.len(), &status["next_step"]), (302, &Value::Null));
    assert!(named.iter().all(|step| step["reason"].is_string()));
}

#[test]
fn a_run_that_waits_for_an_operator_has_the_results_that_there_are() {
    clear();
    let undo = json!({ "action": "fail_9", "retry": { "max_attempts": 1 } });
    let steps = json!([
        { "step_id": "a", "action": "echo", "inputs": { "n": 1 }, "undo": undo },
        { "step_id": "b", "action": "echo", "inputs": { "n": 2 } },
        { "step_id": "c", "action": "no", "depends_on": ["a", "b"] }
    ]);
    submit("w", steps).expect("submitted");
    run_all();
    let result = workflow_result("w".into(), true, false).into_result().expect("there");
    assert_eq!((&result["status"], &result["phase"]), (&json!("failed"), &json!("undo_failed")));
    assert_eq!(result["outputs"], json!({ "a": { "n": 1 }, "b": { "n": 2 } }));
    let names: Vec<&Value> =
        result["not_done"].as_array().expect("a list").iter().map(|step| &step["step_id"]).collect();
    assert_eq!(names, ["a", "c"], "the effect of one is not taken back, the other has failed");
    assert!(crate::tools::awaited::workflow_run_result("w".into()).expect("read").is_some());
}

#[test]
fn a_run_whose_id_has_a_slash_has_resources() {
    clear();
    submit("a/b c%d", json!([{ "step_id": "s", "action": "echo" }])).expect("submitted");
    run_all();
    let run = read(|t| engine::find(t, "a/b c%d")).expect("there");
    assert_eq!(run.uri("status"), "workflow://a%2Fb%20c%25d/status");
    let found =
        mcpp_tool::resources::variables("workflow://{workflow_id}/status", &run.uri("status")).expect("it fits");
    assert_eq!(found["workflow_id"], "a/b c%d");
    assert_eq!(Run::new("w-1.x:y@z".into(), 0).uri("result"), "workflow://w-1.x:y@z/result");
}
