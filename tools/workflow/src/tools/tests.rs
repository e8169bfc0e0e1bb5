mod again;
mod awaiting;
mod bulky;
mod doctor;
mod mending;

use mcpp_tool::Failure;

use super::*;
use super::{control::*, doctor::*, listing::*, show::*, submission::*};
use crate::engine::{
    self,
    tests::{clear, effects, run_all},
};

/// A submission with a tag and an input.
fn submission(id: &str, steps: Value) -> Submission {
    let steps = steps.as_array().expect("a list").clone();
    let (workflow_id, name, tags) = (id.into(), "test".into(), vec!["t".into()]);
    Submission { workflow_id, name, steps, priority: 1.0, tags, input: json!({ "n": 1 }), ..Submission::default() }
}

fn submit(id: &str, steps: Value) -> Result<Map<String, Value>, Failure> {
    workflow_submit(submission(id, steps)).into_result()
}

fn list(
    status: Option<Status>,
    tags: &[&str],
    limit: i64,
    offset: i64,
    cursor: Option<String>,
) -> Result<Value, Failure> {
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    workflow_list(status, None, tags, None, None, limit, offset, cursor).into_result().map(Value::Object)
}

fn ids(listed: &Value) -> Vec<&str> {
    listed["workflows"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|run| run["workflow_id"].as_str().expect("an id"))
        .collect()
}

#[test]
fn the_six_tools_answer_as_the_contract_has_it() {
    clear();
    let steps = json!([
        { "step_id": "a", "action": "echo", "inputs": { "n": "${input.n}" } },
        { "step_id": "b", "action": "echo", "inputs": { "a": "${steps.a.result.n}" }, "depends_on": ["a"] }
    ]);
    let submitted = submit("w", steps.clone()).expect("submitted");
    assert_eq!(
        (&submitted["status"], &submitted["peer_assigned"], &submitted["workflow_id"]),
        (&json!("submitted"), &json!("localhost"), &json!("w"))
    );
    assert!(submitted["estimated_start_time"].is_string() && submitted["message"].is_string());
    // A time is not the same twice.
    let timeless = |mut reply: Map<String, Value>| {
        assert!(reply.shift_remove("estimated_start_time").is_some_and(|time| time.is_string()));
        reply
    };
    assert_eq!(timeless(submit("w", steps).expect("the same")), timeless(submitted.clone()));
    assert_eq!(
        submit("w", json!([{ "step_id": "a", "action": "echo" }])).expect_err("another").error,
        "Workflow w was submitted before with other work"
    );
    let early = workflow_result("w".into(), true, false).into_result().expect_err("not yet");
    assert_eq!(
        (early.error.as_str(), &early.more["workflow_id"]),
        ("Workflow w not found or not yet completed", &json!("w"))
    );
    run_all();
    let status = workflow_status("w".into(), true, true, 0).into_result().expect("there");
    assert_eq!(
        (&status["status"], &status["progress"], &status["current_step"]),
        (&json!("completed"), &json!(100.0), &json!("b"))
    );
    assert_eq!(status["steps"].as_array().map(Vec::len), Some(2));
    assert_eq!((&status["metrics"]["attempts"], &status["metrics"]["steps"]["completed"]), (&json!(2), &json!(2)));
    let result = workflow_result("w".into(), true, true).into_result().expect("ended");
    assert_eq!(
        (&result["result"], &result["outputs"]["a"], &result["is_whole"]),
        (&json!({ "b": { "a": 1 } }), &json!({ "n": 1 }), &json!(true))
    );
    assert!(result["execution_time"].is_number() && result["logs"].as_array().is_some_and(|logs| logs.len() == 2));
    let drawn = workflow_dependencies("w".into(), None, None).into_result().expect("there");
    assert_eq!((&drawn["dag"], &drawn["critical_path"]), (&json!({ "a": [], "b": ["a"] }), &json!(["a", "b"])));
    assert_eq!(drawn["edges"], json!([{ "from": "a", "to": "b" }]));
    for (format, begins) in [("dot", "digraph \"test\""), ("mermaid", "flowchart TD")] {
        let drawn = workflow_dependencies("w".into(), None, Some(format.into())).into_result().expect("there");
        assert!(drawn["dag"].as_str().expect("text").starts_with(begins));
    }
    let wrong = workflow_dependencies("w".into(), Some("svg".into()), None).into_result().expect_err("unknown");
    assert!(wrong.error.starts_with("Invalid format: svg"));
    assert_eq!(
        workflow_status("x".into(), true, false, 0).into_result().expect_err("unknown").error,
        "Workflow x not found"
    );
    assert_eq!(
        workflow_cancel("x".into(), None, false).into_result().expect_err("unknown").error,
        "Workflow x not found"
    );
}

#[test]
fn a_wrong_submission_names_the_step_and_the_place() {
    clear();
    let missing = submit("", json!([{ "step_id": "a", "action": "echo" }])).expect_err("no id");
    assert_eq!(missing.error, "Missing required parameters: workflow_id, name, or steps");
    assert_eq!(
        submit("w", json!([])).expect_err("no steps").error,
        "Missing required parameters: workflow_id, name, or steps"
    );
    assert!(
        submit("w", json!([{ "step_id": "a" }]))
            .expect_err("no action")
            .error
            .starts_with("Invalid step structure — missing step_id or action: ")
    );
    let cycle = submit("w", json!([{ "step_id": "a", "action": "echo", "depends_on": ["b"] }, { "step_id": "b", "action": "echo", "depends_on": ["a"] }])).expect_err("a cycle");
    assert!(cycle.error.ends_with("Workflow contains cycle: a -> b -> a"), "{}", cycle.error);
    assert_eq!(
        (&cycle.more["step_id"], &cycle.more["path"], &cycle.more["workflow_id"]),
        (&json!("a"), &json!("/depends_on"), &json!("w"))
    );
    assert!(list(None, &[], 50, 0, None).expect("a list")["workflows"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn lists_are_counted_filtered_and_turned_by_pages() {
    clear();
    for number in 0..25 {
        let action = if number % 5 == 0 { "no" } else { "echo" };
        submit(&format!("w{number:02}"), json!([{ "step_id": "a", "action": action }])).expect("submitted");
    }
    run_all();
    // Nothing of this one has begun; a step that only waits would have.
    submit("new", json!([{ "step_id": "a", "action": "echo" }])).expect("submitted");
    submit("wait", json!([{ "step_id": "a", "action": "wait", "inputs": { "signal": "go" } }])).expect("submitted");
    for (status, count) in [
        (None, 27),
        (Some(Status::Running), 1),
        (Some(Status::Completed), 20),
        (Some(Status::Failed), 5),
        (Some(Status::Submitted), 1),
        (Some(Status::Cancelled), 0),
    ] {
        let all = list(status, &["t"], 1_000, 0, None).expect("a list");
        assert_eq!(
            (&all["total_count"], ids(&all).len(), &all["has_more"]),
            (&json!(count), count, &json!(false)),
            "{status:?}"
        );
    }
    let (mut cursor, mut seen) = (None, Vec::new());
    loop {
        let page = list(Some(Status::Completed), &[], 7, 0, cursor).expect("a page");
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        assert_eq!((&page["total_count"], page["has_more"] == json!(true)), (&json!(20), cursor.is_some()));
        if cursor.is_none() {
            break;
        }
    }
    let whole = list(Some(Status::Completed), &[], 1_000, 0, None).expect("a list");
    assert_eq!(seen, ids(&whole));
    assert_eq!(ids(&list(Some(Status::Completed), &[], 3, 18, None).expect("a page")), &ids(&whole)[18..]);
    assert_eq!(ids(&list(None, &["t", "other"], 3, 0, None).expect("a page")).len(), 0);
    for (limit, offset, error) in [
        (0, 0, "Limit must be between 1 and 1000"),
        (1_001, 0, "Limit must be between 1 and 1000"),
        (1, -1, "Offset must be non-negative"),
    ] {
        assert_eq!(list(None, &[], limit, offset, None).expect_err("refused").error, error);
    }
    let doctor = workflow_doctor(None).into_result().expect("examined");
    assert_eq!((&doctor["healthy"], &doctor["stuck"]), (&json!(true), &json!([])));
}

#[test]
fn the_doctor_names_a_run_without_a_next_event() {
    clear();
    submit("w", json!([{ "step_id": "a", "action": "wait", "inputs": { "signal": "go" } }])).expect("submitted");
    run_all();
    // What must never be: a step that nothing lets begin.
    run(|t| {
        let mut node = crate::store::node(t, "w", 0)?;
        node.state = State::Pending;
        crate::store::NODES.put(t, &("w".into(), 0), &node)?;
        Ok(())
    })
    .expect("written");
    let doctor = workflow_doctor(None).into_result().expect("examined");
    assert_eq!((&doctor["healthy"], &doctor["stuck"][0]["workflow_id"]), (&json!(false), &json!("w")));
}

#[test]
fn what_failed_is_retried_in_a_new_run() {
    clear();
    submit(
        "w",
        json!([{ "step_id": "a", "action": "echo" }, { "step_id": "b", "action": "fail_2", "depends_on": ["a"] }]),
    )
    .expect("submitted");
    run_all();
    for (id, new, status) in [("w", "w-retry-1", "failed"), ("w-retry-1", "w-retry-2", "completed")] {
        let retried = workflow_retry(id.into()).into_result().expect("retried");
        assert_eq!((&retried["workflow_id"], &retried["steps_kept"]), (&json!(new), &json!(1)));
        run_all();
        assert_eq!(workflow_status(new.into(), false, false, 0).into_result().expect("there")["status"], status);
    }
    assert!(workflow_retry("w-retry-2".into()).into_result().expect_err("completed").error.contains("fork it"));
    assert_eq!(effects().iter().filter(|effect| effect.starts_with("echo")).count(), 1);
}
