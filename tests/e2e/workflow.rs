//! Workflows on the whole host: submitted by a client and ended by the host alone, within the submitter's rights.

use serde_json::{Value, json};

use crate::{
    command_line::{run, stdout},
    support::{PATIENCE, TestHost, folder, grant, guest},
    tenants::{User, token},
};

/// The structured answer of a tool.
pub(crate) async fn ask(host: &TestHost, tool: &str, arguments: Value) -> Value {
    host.call(tool, arguments).await["result"]["structuredContent"].clone()
}

pub(crate) async fn ended(host: &TestHost, id: &str) -> Value {
    let id = id.to_owned();
    host.until("the run has ended", async |host| {
        !ask(host, "workflow_status", json!({ "workflow_id": id, "include_steps": false })).await["end_time"].is_null()
    })
    .await;
    ask(host, "workflow_result", json!({ "workflow_id": id, "include_logs": true })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_of_tool_calls_ends_with_nothing_else_installed() {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    let submitted = ask(
        &host,
        "workflow_submit",
        json!({
            "workflow_id": "w", "name": "digests", "input": { "texts": ["a", "b", "c"] },
            "steps": [
                { "step_id": "each", "action": "text_hash", "inputs": { "text": "${item}" }, "for_each": { "items": "${input.texts}", "parallel": 2 } },
                { "step_id": "go", "action": "wait", "inputs": { "signal": "go" } },
                { "step_id": "all", "action": "text_hash", "inputs": { "text": "all: ${steps.each.result}" }, "depends_on": ["go"] }
            ],
        }),
    )
    .await;
    assert_eq!((&submitted["success"], &submitted["status"]), (&json!(true), &json!("submitted")), "{submitted}");
    host.until("it waits for the signal", async |host| {
        let status = ask(host, "workflow_status", json!({ "workflow_id": "w" })).await;
        status["steps"][0]["status"] == "completed" && status["steps"][1]["status"] == "waiting"
    })
    .await;
    let given = ask(&host, "workflow_signal", json!({ "workflow_id": "w", "signal": "go" })).await;
    assert_eq!(given["steps_signalled"], 1, "{given}");
    let result = ended(&host, "w").await;
    assert_eq!(result["status"], "completed", "{result}");
    let first = result["outputs"]["each"][0]["digest"].as_str().expect("a digest");
    assert!(first.starts_with("ca978112ca1bbdca"), "{result}");
    assert_eq!(result["result"]["all"]["digest"].as_str().map(str::len), Some(64));
    // The catalog is asked before anything runs.
    for (steps, error) in [
        (json!([{ "step_id": "a", "action": "nothing" }]), "step 'a' at /action: there is no tool `nothing`"),
        (
            json!([{ "step_id": "a", "action": "text_hash", "inputs": {} }]),
            "step 'a' at /inputs/text: \"text\" is missing",
        ),
        (
            json!([{ "step_id": "a", "action": "text_hash", "inputs": { "text": "x", "algorithm": "md5" } }]),
            "step 'a' at /inputs/algorithm: ",
        ),
        (
            json!([{ "step_id": "a", "action": "text_hash", "inputs": { "text": "x" } }, { "step_id": "b", "action": "text_hash", "inputs": { "text": "${steps.a.result.hash}" } }]),
            "step 'b' at /inputs/text: `${steps.a.result.hash}`: the result of `text_hash` has no \"hash\"",
        ),
    ] {
        let refused = ask(&host, "workflow_submit", json!({ "workflow_id": "x", "name": "x", "steps": steps })).await;
        assert!(refused["error"].as_str().expect("an error").starts_with(error), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_chain_and_a_wide_fan_end() {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    let chain: Vec<Value> = (0..60)
        .map(|number| match number {
            0 => json!({ "step_id": "s0", "action": "text_hash", "inputs": { "text": "x" } }),
            _ => json!({ "step_id": format!("s{number}"), "action": "text_hash", "inputs": { "text": format!("${{steps.s{}.result.digest}}", number - 1) } }),
        })
        .collect();
    let wide = json!([{ "step_id": "fan", "action": "text_hash", "inputs": { "text": "item ${index}" }, "for_each": { "items": vec![0; 100], "parallel": 20 } }]);
    for (id, steps) in [("chain", json!(chain)), ("wide", wide)] {
        let submitted = ask(&host, "workflow_submit", json!({ "workflow_id": id, "name": id, "steps": steps })).await;
        assert_eq!(submitted["success"], true, "{submitted}");
    }
    for (id, steps) in [("chain", 60), ("wide", 101)] {
        let result = ended(&host, id).await;
        assert_eq!(result["status"], "completed", "{result}");
        assert_eq!(result["logs"].as_array().map(Vec::len), Some(steps));
        assert!(result["logs"].as_array().expect("lines").iter().all(|line| line["attempts"] == 1), "{result}");
    }
    let doctor = ask(&host, "workflow_doctor", json!({})).await;
    assert_eq!(doctor["healthy"], true, "{doctor}");
}

/// As many steps as one submission may have fit into a transaction, and all are cancelled, so many at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_steps_are_submitted_and_cancelled() {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    let gate = json!({ "step_id": "gate", "action": "wait", "inputs": { "signal": "go" } });
    let behind = (1..1_000).map(|number| json!({ "step_id": format!("s{number}"), "action": "text_hash", "inputs": { "text": "gate: ${steps.gate.result}" } }));
    let steps: Vec<Value> = [gate].into_iter().chain(behind).collect();
    let submit = |steps: &[Value]| json!({ "workflow_id": "w", "name": "w", "steps": steps });
    let submitted = ask(&host, "workflow_submit", submit(&steps)).await;
    assert_eq!(submitted["success"], true, "{submitted}");
    let cancelled = ask(&host, "workflow_cancel", json!({ "workflow_id": "w" })).await;
    assert_eq!(
        (&cancelled["status"], &cancelled["cancelled_steps"]),
        (&json!("cancelled"), &json!(1_000)),
        "{cancelled}"
    );
    let result = ended(&host, "w").await;
    assert_eq!((&result["status"], &result["phase"]), (&json!("cancelled"), &json!("cancelled")));
    let one_more =
        [steps, vec![json!({ "step_id": "more", "action": "text_hash", "inputs": { "text": "" } })]].concat();
    let refused = ask(&host, "workflow_submit", submit(&one_more)).await;
    assert_eq!(refused["error"], "there are 1001 steps; at most 1000 are allowed");
}

/// The commands show the same as the tools.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_watched_on_the_command_line() {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    let steps = json!([
        { "step_id": "a", "action": "workflow", "inputs": { "steps": [{ "step_id": "b", "action": "text_hash", "inputs": { "text": "x" } }] } },
        { "step_id": "c", "action": "text_hash", "inputs": { "text": "${steps.a.result.b.digest}" } }
    ]);
    ask(&host, "workflow_submit", json!({ "workflow_id": "w", "name": "n", "tags": ["nightly"], "steps": steps }))
        .await;
    let url = format!("--url={}", host.host.url());
    let command = |arguments: &[&str]| {
        let all: Vec<&str> = ["workflow", &url].iter().chain(arguments).copied().collect();
        tokio::task::block_in_place(|| run(&all, &[]))
    };
    let followed = command(&["follow", "w"]);
    assert!(followed.status.success() && stdout(&followed).ends_with("w: completed (completed)\n"), "{followed:?}");
    let listed: Value = serde_json::from_str(&stdout(&command(&["list", "--tag", "nightly", "--json"]))).expect("JSON");
    assert_eq!((&listed[0]["workflow_id"], listed.as_array().map(Vec::len)), (&json!("w"), Some(1)));
    assert!(stdout(&command(&["list"])).contains("completed"));
    let shown = stdout(&command(&["show", "w"]));
    let rows: Vec<&str> = shown.lines().filter(|line| line.contains("text_hash")).collect();
    assert!(rows.len() == 2 && rows[0].contains("  b"), "the step within a step stands behind it: {shown}");
    assert!(rows.iter().all(|row| row.contains(" here")), "each says where it ran: {shown}");
    assert!(stdout(&followed).lines().any(|line| line.starts_with("c completed in ") && line.ends_with(" s on here")));
    assert!(stdout(&command(&["show", "w", "--dot"])).starts_with("digraph \"n\" {\n"));
    assert!(stdout(&command(&["show", "w", "--mermaid"])).contains("s0 ==> s1"));
    let doctor = command(&["doctor"]);
    assert!(doctor.status.success() && stdout(&doctor).contains("0 without a next event"), "{doctor:?}");
    assert!(!command(&["show", "nothing"]).status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_may_do_no_more_than_its_submitter_even_through_another_tool() {
    let files = folder(&[("caller", &guest("caller")), ("probe", &guest("probe"))]);
    grant(&files, "[components.caller]\ncall = ['*']\n");
    let data = files.path().join("data");
    let some = token(&data, "local", &["tools"], &["workflow_*", "caller_*", "text_hash"]);
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    let user = User::new(&host, &some);
    let submit = |id: &str, steps: Value| json!({ "workflow_id": id, "name": id, "steps": steps });
    let direct = json!([{ "step_id": "a", "action": "probe_caller" }]);
    let refused = user.call("workflow_submit", submit("direct", direct)).await["result"]["structuredContent"].clone();
    assert!(refused["error"].as_str().expect("an error").contains("there is no tool `probe_caller`"), "{refused}");
    // A tool that it may call may call all: but not for it.
    let through = |tool: &str, arguments: Value| json!([{ "step_id": "a", "action": "caller_call", "inputs": { "tool": tool, "arguments": arguments } }]);
    for (id, tool, arguments, status) in [
        ("allowed", "text_hash", json!({ "text": "x" }), "completed"),
        ("forbidden", "probe_caller", json!({}), "failed"),
        (
            "child",
            "workflow_submit",
            submit("inner", json!([{ "step_id": "a", "action": "probe_caller" }])),
            "completed",
        ),
    ] {
        let submitted = user.call("workflow_submit", submit(id, through(tool, arguments))).await;
        assert_eq!(submitted["result"]["structuredContent"]["success"], true, "{submitted}");
        let result = async {
            loop {
                let answer = user.call("workflow_result", json!({ "workflow_id": id, "include_logs": true })).await;
                let result = answer["result"]["structuredContent"].clone();
                if result["success"] == true {
                    return result;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let result = tokio::time::timeout(PATIENCE, result).await.expect("it ends");
        match id {
            // What a step submits has the same bound.
            "child" => assert!(result.to_string().contains("there is no tool `probe_caller`"), "{result}"),
            _ => assert_eq!(result["status"], status, "{result}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_hands_its_work_to_any_worker_of_a_type() {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    let steps = json!([
        { "step_id": "give", "action": "task_submit", "inputs": { "task_id": "page-7", "task_type": "render", "payload": { "page": 7 } } },
        { "step_id": "done", "action": "task_result", "inputs": { "task_id": "${steps.give.result.task_id}" },
          "retry": { "max_attempts": 1000, "backoff_s": 0.05, "factor": 1, "final_errors": ["not found"] } }
    ]);
    let submitted = ask(&host, "workflow_submit", json!({ "workflow_id": "w", "name": "w", "steps": steps })).await;
    assert_eq!(submitted["success"], true, "{submitted}");
    let claim = json!({ "worker_id": "any", "supported_task_types": ["render"] });
    host.until("the worker has the task", async |host| {
        ask(host, "p2p_taskqueue_claim_next", claim.clone()).await["task"]["payload"]["page"] == 7
    })
    .await;
    host.until("the run waits for the worker", async |host| {
        let status = ask(host, "workflow_status", json!({ "workflow_id": "w" })).await;
        status["steps"][1]["error"].as_str().is_some_and(|error| error.contains("is not completed yet"))
    })
    .await;
    let done = json!({ "task_id": "page-7", "result": { "pixels": 9 }, "worker_id": "any" });
    ask(&host, "p2p_taskqueue_complete_task", done).await;
    let result = ended(&host, "w").await;
    assert_eq!(result["outputs"]["done"]["status"], "completed", "{result}");
    assert_eq!(result["outputs"]["done"]["result"]["pixels"], 9, "{result}");
}
