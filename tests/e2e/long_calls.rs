//! Calls that take longer than their clients wait, for clients that know no tasks: an answer in time, and the tool `task_wait` for the rest, in both eras and at every door.

use serde_json::{Value, json};

use crate::support::{TestHost, answer, folder, grant, guest, messages, text_of};

const LIMITS: &str = "deadline_ms = 600000\nlong_call_s = 1";

async fn host() -> TestHost {
    let files = folder(&[("conformance", &guest("conformance"))]);
    grant(&files, &format!("[components.conformance.limits]\n{LIMITS}\n"));
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    host
}

/// The task that an answer in the place of another one names.
fn handle(answer: &Value) -> String {
    let result = &answer["result"];
    let task = result["_meta"]["mcpp/task"]["taskId"].as_str().unwrap_or_else(|| panic!("no handle: {answer}"));
    let text = result["content"][0]["text"].as_str().expect("a text");
    assert!(text.contains("task_wait") && text.contains(task), "{text}");
    task.to_owned()
}

/// The answer of `task_wait` in the end, asked for as often as it takes.
async fn rest(mut wait: impl AsyncFnMut(Value) -> Value, task: &str) -> Value {
    for _ in 0..20 {
        let waited = wait(json!({ "task": task })).await;
        if waited["result"]["structuredContent"]["status"] != "working" {
            return waited;
        }
    }
    panic!("{task} does not end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_call_is_answered_in_time_and_its_rest_is_waited_for() {
    let host = host().await;
    assert!(host.tools().await.contains(&"task_wait".to_owned()));
    let soon = host.call("slow_compute", json!({ "seconds": 0.1, "label": "soon" })).await;
    assert_eq!(text_of(&soon), "computed soon");
    let late = host.call("slow_compute", json!({ "seconds": 3, "label": "late" })).await;
    let task = handle(&late);
    let state = &late["result"]["structuredContent"];
    assert_eq!((&state["task"], &state["status"]), (&json!(task), &json!("working")), "{late}");
    assert!(state["progress"].as_str().expect("progress").ends_with(" of 60: late"), "{late}");
    assert_eq!(state["log"], json!(["info: computes late"]), "{late}");
    assert_eq!(late["result"]["isError"], false);
    assert_eq!(text_of(&rest(async |arguments| host.call("task_wait", arguments).await, &task).await), "computed late");
    // As often as it is asked for.
    assert_eq!(host.text("task_wait", json!({ "task": task })).await, "computed late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_client_waits_in_the_same_way() {
    let host = host().await;
    let session = host.initialize().await;
    let call = async |tool: &str, arguments: Value| {
        let params = json!({ "name": tool, "arguments": arguments, "_meta": { "progressToken": 1 } });
        let message = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
        messages(host.legacy(&session, &message).send().await.expect("an answer")).await
    };
    let heard = call("slow_compute", json!({ "seconds": 2, "label": "late" })).await;
    let progress = heard.iter().filter(|message| message["method"] == "notifications/progress").count();
    assert!(progress > 1, "{heard:?}");
    let late = heard.last().expect("an answer");
    assert_eq!(late["result"].get("resultType"), None);
    let task = handle(late);
    let wait = async |arguments| call("task_wait", arguments).await.pop().expect("an answer");
    assert_eq!(text_of(&rest(wait, &task).await), "computed late");
    // A tool that has to be a task is one here too.
    let failed = call("failing_job", json!({})).await.pop().expect("an answer");
    assert_eq!(text_of(&failed), "error: This job always fails");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_with_an_output_schema_gives_no_other_structured_content() {
    let host = host().await;
    let late = host.call("slow_structured", json!({ "seconds": 2 })).await;
    let task = handle(&late);
    assert_eq!((&late["result"]["isError"], late["result"].get("structuredContent")), (&json!(true), None), "{late}");
    let done = rest(async |arguments| host.call("task_wait", arguments).await, &task).await;
    assert_eq!(done["result"]["structuredContent"], json!({ "seconds": 2.0 }), "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_call_can_be_stopped_and_nobody_else_waits_for_it() {
    let host = host().await;
    let task = handle(&host.call("slow_compute", json!({ "seconds": 600 })).await);
    let guessed = host.text("task_wait", json!({ "task": "0".repeat(32) })).await;
    assert!(guessed.starts_with("error: there is no task with this id"), "{guessed}");
    let stopped = host.text("task_wait", json!({ "task": task, "cancel": true })).await;
    assert_eq!(stopped, "error: the call of `slow_compute` was cancelled");
    host.until("nothing runs", async |host| host.host.registry().calls() == 0).await;
    let asks = host.call("confirm_delete", json!({ "filename": "f" })).await;
    assert_eq!(asks["error"]["code"], -32021, "{asks}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_long_tools_has_no_tool_of_its_own() {
    let host = TestHost::start(&[("conformance", &guest("conformance"))]).await;
    assert!(!host.tools().await.contains(&"task_wait".to_owned()));
    assert_eq!(host.text("task_wait", json!({ "task": "x" })).await, "JSON-RPC error -32602: unknown tool `task_wait`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_may_have_a_tool_of_that_name() {
    let files = folder(&[("conformance", &guest("conformance")), ("add", &crate::support::add())]);
    let own = "[components.add.rename]\nadd = 'task_wait'\n";
    grant(&files, &format!("{own}[components.conformance.limits]\n{LIMITS}\n"));
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.text("task_wait", json!({ "a": 40, "b": 2 })).await, r#"{"result":42}"#);
    // Nothing could be waited for.
    assert_eq!(host.text("slow_compute", json!({ "seconds": 1.5 })).await, "computed nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grant_says_which_tools_are_tasks() {
    let files = folder(&[("conformance", &guest("conformance"))]);
    grant(
        &files,
        "[components.conformance.tools.greet]\ntask = 'must'\n[components.conformance.tools.failing_job]\ntask = 'never'\n",
    );
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.call("greet", json!({ "name": "x" })).await["error"]["code"], -32021);
    assert_eq!(host.text("failing_job", json!({})).await, "error: This job always fails");
    let declared = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } });
    let params = json!({
        "name": "greet", "arguments": { "name": "x" },
        "_meta": { "io.modelcontextprotocol/clientCapabilities": declared },
    });
    let made = answer(host.modern("tools/call", params).send().await.expect("an answer")).await;
    assert_eq!(made["result"]["resultType"], "task", "{made}");
}
