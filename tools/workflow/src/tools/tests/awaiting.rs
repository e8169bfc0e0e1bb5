//! Runs whose clients wait for them.

use mcpp_tool::{
    Output,
    deferred::{Deferred, FormAnswer, Outcome, Work},
};

use super::*;
use crate::tools::awaited::*;

fn work(handle: &str) -> Work {
    match Runs::look(handle).expect("a look") {
        Outcome::Running(work) => work,
        other => panic!("{other:?}"),
    }
}

fn answer(handle: &str) -> Output {
    match Runs::look(handle).expect("a look") {
        Outcome::Completed(output) => output,
        other => panic!("{other:?}"),
    }
}

fn asks() -> Value {
    let form = json!({ "message": "Send ${steps.a.result.n} out?", "schema": { "type": "object", "properties": { "to": { "type": "string" } } } });
    json!([
        { "step_id": "a", "action": "echo", "inputs": { "n": 7 } },
        { "step_id": "ask", "action": "wait", "inputs": { "signal": "yes", "form": form }, "depends_on": ["a"] },
        { "step_id": "b", "action": "echo", "inputs": { "to": "${steps.ask.result.to}" } }
    ])
}

#[test]
fn a_run_asks_its_user_and_goes_on_with_the_values() {
    clear();
    workflow_run(submission("w", asks())).expect("submitted").into_result().expect("submitted");
    assert_eq!(work("owned:w").asks().count(), 0, "nothing has run");
    run_all();
    let waits = work("owned:w");
    assert_eq!(waits.asks().collect::<Vec<_>>(), ["step-1"]);
    let status = workflow_status("w".into(), true, false, 0).into_result().expect("there");
    assert_eq!(status["steps"][1]["waits_for"]["form"]["message"], "Send 7 out?", "placeholders are filled");
    Runs::reply("owned:w", "step-9", FormAnswer::Accepted(json!({}))).expect("nobody asked it");
    Runs::reply("owned:w", "step-1", FormAnswer::Accepted(json!({ "to": "Ada" }))).expect("taken");
    assert_ne!(work("owned:w"), waits, "the entry changed");
    Runs::reply("owned:w", "step-1", FormAnswer::Declined).expect("the second time nothing");
    run_all();
    let answer = answer("owned:w");
    let reply = answer.structured.expect("a value");
    assert_eq!((&reply["success"], &reply["result"]["b"]), (&json!(true), &json!({ "to": "Ada" })));
    let links = |block: &mcpp_tool::Content| matches!(block, mcpp_tool::Content::ResourceLink { uri, .. } if uri == "workflow://w/result");
    assert!(answer.content.iter().any(links));
    let step = workflow_step_result("w".into(), "b".into()).expect("read");
    assert_eq!(step, Some(json!({ "to": "Ada" })));
    assert_eq!(workflow_step_result("w".into(), "c".into()).expect("read"), None);
    assert_eq!(workflow_run_result("w".into()).expect("read").expect("there")["outputs"]["a"], json!({ "n": 7 }));
    assert!(workflow_run_status("x".into()).expect("read").is_none());
}

#[test]
fn a_user_who_says_no_fails_the_step() {
    clear();
    submit("w", asks()).expect("submitted");
    run_all();
    assert!(workflow_run_result("w".into()).expect("read").is_none(), "it has not ended");
    Runs::reply("watched:w", "step-1", FormAnswer::Declined).expect("taken");
    run_all();
    let reply = answer("watched:w").structured.expect("a value");
    assert_eq!(reply["status"], "failed");
    assert!(reply["error"].as_str().expect("an error").contains("said no"), "{reply}");
}

#[test]
fn a_run_that_nobody_waits_for_any_more_is_cancelled_unless_it_was_only_watched() {
    clear();
    submit("w", asks()).expect("submitted");
    run_all();
    Runs::cancel("watched:w").expect("taken");
    assert_eq!(work("watched:w").asks().count(), 1);
    Runs::cancel("owned:w").expect("taken");
    Runs::cancel("owned:w").expect("the second time nothing");
    Runs::cancel("owned:x").expect("there is none");
    run_all();
    assert!(matches!(Runs::look("owned:w"), Ok(Outcome::Cancelled)));
    assert!(matches!(Runs::look("owned:x"), Ok(Outcome::Unknown)));
}

#[test]
fn a_form_that_is_none_is_refused() {
    clear();
    for (inputs, path) in [
        (json!({ "form": { "message": "x" } }), "/inputs"),
        (json!({ "seconds": 1, "form": { "message": "x" } }), "/inputs/form"),
        (json!({ "signal": "s", "form": { "message": " " } }), "/inputs/form"),
        (json!({ "signal": "s", "form": { "message": "x", "schema": { "type": "string" } } }), "/inputs/form"),
        (json!({ "signal": "s", "form": { "message": "x".repeat(20_000) } }), "/inputs/form"),
    ] {
        let refused = submit("w", json!([{ "step_id": "a", "action": "wait", "inputs": inputs }]));
        assert_eq!(refused.expect_err("no form").more["path"], path);
    }
}

#[test]
fn who_waits_for_a_run_that_another_client_cancels_is_told_how_it_ended() {
    clear();
    submit("w", asks()).expect("submitted");
    run_all();
    workflow_cancel("w".into(), Some("too late".into()), false).into_result().expect("cancelled");
    run_all();
    assert!(matches!(Runs::look("owned:w"), Ok(Outcome::Cancelled)));
    let reply = answer("watched:w").structured.expect("a value");
    assert_eq!((&reply["status"], &reply["workflow_id"]), (&json!("cancelled"), &json!("w")));
}
