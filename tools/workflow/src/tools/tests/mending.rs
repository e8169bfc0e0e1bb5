//! Many runs at once, large results, and runs that go from host to host.

use super::*;
use crate::{
    engine,
    tools::{bulk::*, rehearsal::*, transfer::*},
};

fn tagged(id: &str, tags: &[&str], steps: Value) {
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    workflow_submit(Submission { tags, ..submission(id, steps) }).into_result().expect("submitted");
}

#[test]
fn many_runs_are_steered_by_a_filter() {
    clear();
    let waits = json!([{ "step_id": "a", "action": "wait", "inputs": { "signal": "go" } }]);
    for number in 0..130 {
        tagged(&format!("w{number:03}"), if number % 2 == 0 { &["even", "all"] } else { &["all"] }, waits.clone());
    }
    run_all();
    let bulk = |action, status, tags: &[&str], dry_run, cursor: Option<String>| {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let reply = workflow_bulk(action, status, tags, None, None, Some("enough".into()), false, dry_run, cursor);
        run_all();
        reply.into_result().expect("done")
    };
    let count = |reply: &Map<String, Value>| reply["changed"].as_array().map(Vec::len);
    let dry = bulk(BulkAction::Cancel, Status::Running, &["all", "even"], true, None);
    assert_eq!((count(&dry), &dry["next_cursor"]), (Some(65), &Value::Null));
    let paused = bulk(BulkAction::Pause, Status::Running, &["even"], false, None);
    assert_eq!(count(&paused), Some(65));
    let first = bulk(BulkAction::Resume, Status::Running, &[], false, None);
    // Of the first hundred, those that were not paused refuse.
    assert_eq!((count(&first), first["refused"].as_array().map(Vec::len)), (Some(50), Some(50)));
    let next = first["next_cursor"].as_str().map(str::to_owned);
    let second = bulk(BulkAction::Resume, Status::Running, &[], false, next);
    assert_eq!((count(&second), &second["next_cursor"]), (Some(15), &Value::Null));
    let cancelled = bulk(BulkAction::Cancel, Status::Running, &["all", "even"], false, None);
    assert_eq!(count(&cancelled), Some(65));
    let total = |status| list(Some(status), &["all"], 1, 0, None).expect("a list")["total_count"].clone();
    assert_eq!((total(Status::Running), total(Status::Cancelled)), (json!(65), json!(65)));
    let retried = bulk(BulkAction::Retry, Status::Cancelled, &["even"], false, None);
    assert_eq!((count(&retried), total(Status::Running)), (Some(65), json!(130)));
}

#[test]
fn runs_are_listed_by_the_time_of_their_submission() {
    clear();
    tagged("old", &["t"], json!([{ "step_id": "a", "action": "echo" }]));
    run_all();
    run(|t| {
        let mut old = engine::find(t, "old")?;
        old.created_ms = 1_000_000;
        crate::store::RUNS.put(t, &"old".to_owned(), &old)?;
        Ok(())
    })
    .expect("written");
    tagged("new", &["t"], json!([{ "step_id": "a", "action": "echo" }]));
    run_all();
    let between = |from: Option<&str>, before: Option<&str>| {
        let (from, before) = (from.map(str::to_owned), before.map(str::to_owned));
        let listed = workflow_list(None, None, vec!["t".into()], from, before, 50, 0, None);
        listed.into_result().map(|reply| ids(&Value::Object(reply)).into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(between(None, None), Ok(vec!["new".into(), "old".into()]));
    assert_eq!(between(Some("2020-01-01T00:00:00Z"), None), Ok(vec!["new".into()]));
    assert_eq!(between(None, Some("2020-01-01T00:00:00Z")), Ok(vec!["old".into()]));
    assert_eq!(between(Some("1970-01-01T00:16:40Z"), Some("1970-01-01T00:16:40.001Z")), Ok(vec!["old".into()]));
    assert_eq!(between(Some("1970-01-01T00:16:40.001Z"), Some("2020-01-01T00:00:00Z")), Ok(Vec::new()));
    assert!(between(Some("yesterday"), None).expect_err("no time").error.contains("RFC 3339"));
}

#[test]
fn a_result_that_is_larger_than_a_record_is_kept_shown_used_and_forked() {
    clear();
    let steps = json!([
        { "step_id": "big", "action": "large" },
        { "step_id": "use", "action": "echo", "inputs": { "last": "${steps.big.result.last}" } }
    ]);
    tagged("w", &[], steps);
    run_all();
    let result = workflow_result("w".into(), true, false).into_result().expect("ended");
    assert_eq!((&result["status"], &result["outputs"]["use"]), (&json!("completed"), &json!({ "last": 7 })));
    let big = &result["outputs"]["big"];
    assert!(
        big["bytes"].as_u64().expect("bytes") > 1 << 20 && big["sha256"].as_str().expect("text").len() == 64,
        "{big}"
    );
    let (mut text, mut piece) = (String::new(), Some(0));
    while let Some(number) = piece {
        let part = workflow_output("w".into(), "big".into(), number).into_result().expect("a piece");
        text.push_str(part["text"].as_str().expect("text"));
        piece = part["next_piece"].as_u64().map(|next| next as u32);
    }
    let whole: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&whole["last"], whole["text"].as_str().map(str::len)), (&json!(7), Some(1 << 20)));
    assert!(workflow_output("w".into(), "big".into(), 1_000).into_result().is_err());
    assert!(workflow_output("w".into(), "none".into(), 0).into_result().is_err());
    let forked = workflow_fork("w".into(), "w-2".into(), Some("use".into()), None, Map::new()).into_result();
    assert_eq!(forked.expect("forked")["steps_kept"], 1);
    run_all();
    let result = workflow_result("w-2".into(), true, false).into_result().expect("ended");
    assert_eq!((&result["outputs"]["big"], &result["outputs"]["use"]), (big, &json!({ "last": 7 })));
    assert_eq!(effects().iter().filter(|effect| effect.starts_with("large")).count(), 1);
}

#[test]
fn a_run_goes_to_another_host_as_a_document() {
    clear();
    let steps = json!([
        { "step_id": "a", "action": "echo", "inputs": { "n": "${input.n}" } },
        { "step_id": "big", "action": "large" },
        { "step_id": "b", "action": "fail_1", "inputs": { "a": "${steps.a.result.n}" }, "depends_on": ["big"] }
    ]);
    tagged("w", &["t"], steps);
    run_all();
    let exported = workflow_export("w".into()).into_result().expect("exported");
    let document = exported["document"].clone();
    assert_eq!((&document["status"], &document["results"]["a"]), (&json!("failed"), &json!({ "n": 1 })));
    // Another host: nothing is left of it.
    crate::engine::tests::go_elsewhere();
    let imported = workflow_import(document.clone(), None).into_result().expect("imported");
    assert_eq!((&imported["workflow_id"], &imported["steps_kept"]), (&json!("w"), &json!(2)));
    run_all();
    let result = workflow_result("w".into(), true, false).into_result().expect("ended");
    assert_eq!((&result["status"], &result["outputs"]["b"]), (&json!("completed"), &json!({ "a": 1 })));
    assert_eq!(
        effects().iter().filter(|effect| effect.starts_with("echo")).count(),
        1,
        "what had completed did not run again"
    );
    let again = workflow_export("w".into()).into_result().expect("exported");
    assert_eq!(again["document"]["results"]["big"], document["results"]["big"]);
    let other_form = |form: &str| {
        let mut other = document.clone();
        other["form"] = form.into();
        workflow_import(other, Some("x".into())).into_result().expect_err("refused").error
    };
    assert!(other_form("mcpp-workflow-run/2").contains("this host reads"));
    let mut odd = document.clone();
    odd["results"]["nobody"] = json!(1);
    let refused = workflow_import(odd, Some("y".into())).into_result().expect_err("refused");
    assert!(refused.error.contains("a result of no step"), "{}", refused.error);
    assert!(workflow_import(json!({ "steps": [] }), None).into_result().is_err());
}

#[test]
fn a_rehearsal_is_shown_with_its_calls() {
    clear();
    let steps = vec![json!({ "step_id": "a", "action": "echo" })];
    workflow_rehearse("r".into(), steps, Value::Null, Map::new(), Default::default()).into_result().expect("begun");
    run_all();
    let shown = workflow_rehearse("r".into(), Vec::new(), Value::Null, Map::new(), Default::default());
    let shown = shown.into_result().expect("shown");
    assert_eq!(
        (&shown["status"], &shown["calls"][0]["step"], &shown["calls"][0]["times"]),
        (&json!("completed"), &json!("a"), &json!(1))
    );
    tagged("w", &[], json!([{ "step_id": "a", "action": "echo" }]));
    let other = workflow_rehearse("w".into(), Vec::new(), Value::Null, Map::new(), Default::default());
    assert_eq!(other.into_result().expect_err("refused").error, "Workflow w is no rehearsal");
}
