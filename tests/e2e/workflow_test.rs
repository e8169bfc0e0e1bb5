//! `mcpp workflow test`: it names the steps whose effects stay, and no others.

use serde_json::{Value, json};

use crate::{
    command_line::{mcpp, run, stdout},
    precompiled,
    support::{folder, grant, guest},
};

/// Rehearses a workflow on the component `store`; the exit code and the report.
fn rehearse(workflow: &Value) -> (i32, Value) {
    let files = folder(&[("store", &guest("store"))]);
    grant(&files, "[components.store]\ncall = ['x']\nstore = {}\nsubscribe = ['other/*']\n");
    let data = files.path().join("data");
    precompiled::give(&data.join("rehearsal"));
    let (tools, data) = (files.path().join("tools").display().to_string(), data.display().to_string());
    let file = files.path().join("workflow.json");
    std::fs::write(&file, workflow.to_string()).expect("written");
    let file = file.display().to_string();
    assert!(mcpp().exists());
    let tested = run(&["workflow", "test", &file, "--tools", &tools, "--data", &data, "--json"], &[]);
    precompiled::keep(&files.path().join("data/rehearsal"));
    let report = serde_json::from_str(&stdout(&tested)).unwrap_or_else(|_| panic!("{tested:?}"));
    assert!(!files.path().join("data/rehearsal/store").exists(), "the store is thrown away");
    (tested.status.code().expect("it ended by itself"), report)
}

/// The steps that leak, by what went wrong.
fn leaks(report: &Value) -> Vec<String> {
    let mut leaks = Vec::new();
    for fault in report["faults"].as_array().expect("a list") {
        for leak in fault["leaks"].as_array().expect("a list") {
            let at = &fault["fault"];
            let undo = if at["undo"] == true { "undo of " } else { "" };
            leaks.push(format!(
                "{undo}{} {}: {}",
                at["step"].as_str().expect("a step"),
                at["kind"].as_str().expect("a kind"),
                leak["step"].as_str().unwrap_or("?")
            ));
        }
    }
    leaks
}

fn set(id: &str, undo: Option<&str>, needs: &[&str]) -> Value {
    let mut step = json!({ "step_id": id, "action": "store_set", "inputs": { "key": id, "value": "${input.value}" }, "depends_on": needs });
    if let Some(key) = undo {
        step["undo"] = json!({ "action": "store_remove", "inputs": { "key": key } });
    }
    step
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_that_takes_back_all_it_does_is_healthy() {
    let workflow = json!({
        "input": { "value": "x" },
        "steps": [
            set("a", Some("a"), &[]),
            set("b", Some("b"), &["a"]),
            { "step_id": "go", "action": "wait", "inputs": { "signal": "go" }, "timeout_s": 86_400 },
            { "step_id": "mail", "action": "text_hash", "inputs": { "text": "${steps.b.result}" }, "depends_on": ["go"], "undo": { "action": "text_hash", "inputs": { "text": "sorry" } } }
        ],
        "recorded": { "text_hash": { "digest": "d", "algorithm": "sha256" } },
    });
    let (code, report) = tokio::task::block_in_place(|| rehearse(&workflow));
    assert_eq!((code, &report["healthy"], leaks(&report)), (0, &json!(true), Vec::new()), "{report}");
    // Two without a fault, three for each of three steps, one that undoes all, three for each of three undos.
    assert_eq!(report["rehearsals"], 2 + 9 + 1 + 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_that_leaves_something_behind_is_told_which_step_it_is() {
    let workflow = json!({
        "input": { "value": "x" },
        "steps": [
            set("book", None, &[]),
            { "step_id": "pay", "action": "store_add", "inputs": { "counter": "money", "delta": 5 }, "depends_on": ["book"] },
            set("ship", Some("another"), &["pay"]),
        ],
    });
    let (code, report) = tokio::task::block_in_place(|| rehearse(&workflow));
    assert_eq!(code, 1, "{report}");
    assert_eq!(
        leaks(&report),
        [
            // `book` may fail and be repeated: nothing was done before, and the same entry is written twice.
            "pay fail: book",
            "pay repeat: pay",
            "ship fail: book",
            "ship fail: pay",
            "undo of every step none: book",
            "undo of every step none: pay",
            "undo of every step none: ship",
            "undo of ship fail: book",
            "undo of ship fail: pay",
            "undo of ship fail: ship",
            "undo of ship repeat: book",
            "undo of ship repeat: pay",
            "undo of ship repeat: ship",
            "undo of ship delay: book",
            "undo of ship delay: pay",
            "undo of ship delay: ship",
        ],
        "{report}"
    );
    let failing = json!({ "steps": [{ "step_id": "a", "action": "store_misuse", "inputs": { "how": "nothing" } }] });
    let files = folder(&[]);
    let file = files.path().join("w.json");
    std::fs::write(&file, failing.to_string()).expect("written");
    let data = files.path().join("data").display().to_string();
    precompiled::give(&files.path().join("data/rehearsal"));
    let refused =
        tokio::task::block_in_place(|| run(&["workflow", "test", &file.display().to_string(), "--data", &data], &[]));
    let said = crate::command_line::stderr(&refused);
    assert!(!refused.status.success() && said.contains("there is no tool `store_misuse`"), "{said}");
}
