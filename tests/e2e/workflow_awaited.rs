//! Runs of workflows as MCP tasks: progress, a person who is asked, cancelling, a restart in between, results as resources.

use mcpp::auth::tokens::TokenFile;
use mcpp::tenant::home::Homes;
use serde_json::{Value, json};

use crate::{
    mcp_tasks::{ask, call, ended, get, new_token, task_of, until, update},
    support::{TestHost, answer, folder, text_of},
};

async fn host() -> TestHost {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    host
}

/// A run of three steps, the second of which asks its user.
fn workflow(id: &str) -> Value {
    let fields = json!({ "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] });
    let form = json!({ "message": "Who is ${steps.a.result.digest}?", "schema": fields });
    json!({ "workflow_id": id, "name": "asks", "steps": [
        { "step_id": "a", "action": "text_hash", "inputs": { "text": "x" } },
        { "step_id": "who", "action": "wait", "inputs": { "signal": "name", "form": form }, "depends_on": ["a"] },
        { "step_id": "b", "action": "text_hash", "inputs": { "text": "${steps.who.result.name}" } }] })
}

fn accepted(key: &str, content: Value) -> Value {
    json!({ key: { "action": "accept", "content": content } })
}

fn key_of(asking: &Value) -> String {
    let asked = asking["inputRequests"].as_object().expect("requests");
    assert_eq!(asked.len(), 1, "{asking}");
    asked.keys().next().expect("one").clone()
}

async fn run_status(host: &TestHost, id: &str) -> Value {
    let asked = json!({ "workflow_id": id });
    host.call("workflow_status", asked).await["result"]["structuredContent"].clone()
}

async fn digest(host: &TestHost, text: &str) -> Value {
    host.call("text_hash", json!({ "text": text })).await["result"]["structuredContent"]["digest"].clone()
}

/// The host has noted that the task has work which goes on, so it may take a month.
async fn noted(host: &TestHost, task: &str) {
    let long = Some(30 * 86_400_000);
    host.until("it is noted", async |host| get(host, task).await["result"]["ttlMs"].as_u64() > long).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_a_task_that_asks_its_user_goes_on_after_a_restart_and_has_results_as_resources() {
    let host = host().await;
    let waits = json!([{ "step_id": "go", "action": "wait", "inputs": { "signal": "go" } }]);
    let early = json!({ "workflow_id": "early", "name": "n", "steps": waits });
    let early = task_of(&call(&host, "workflow_run", early).await);
    noted(&host, &early).await;
    host.call("workflow_signal", json!({ "workflow_id": "early", "signal": "go", "payload": 1 })).await;
    let done = ended(&host, &early).await;
    assert_eq!(done["result"]["structuredContent"]["result"], json!({ "go": 1 }), "{done}");
    assert!(done["ttlMs"].as_u64().is_some_and(|ms| ms < 2 * 3_600_000), "its end is known by now: {done}");

    // This one asks soon, and in its task all the same.
    let task = task_of(&call(&host, "workflow_run", workflow("w")).await);
    noted(&host, &task).await;
    let asking = until(&host, &task, &["input_required"]).await;
    let key = key_of(&asking);
    let asked = &asking["inputRequests"][&key]["params"];
    assert!(asked["message"].as_str().is_some_and(|text| text.starts_with("Who is 2d711642")), "{asking}");
    update(&host, &task, accepted(&key, json!({ "name": 7 }))).await;
    assert_eq!(until(&host, &task, &["input_required"]).await["status"], "input_required", "that was no answer");
    let files = host.stop().await;

    // The first word after the restart is the answer.
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    let acknowledged = update(&host, &task, accepted(&key, json!({ "name": "Ada L" }))).await;
    assert_eq!(acknowledged["result"], json!({ "resultType": "complete" }));
    let done = ended(&host, &task).await;
    assert_eq!(done["status"], "completed", "{done}");
    let reply = &done["result"]["structuredContent"];
    assert_eq!(
        (&reply["success"], &reply["result"]["b"]["digest"]),
        (&json!(true), &digest(&host, "Ada L").await),
        "{done}"
    );
    let link = &done["result"]["content"][1];
    assert_eq!((&link["type"], &link["uri"]), (&json!("resource_link"), &json!("workflow://w/result")), "{done}");
    let read = async |uri: &str| {
        let read = answer(
            host.modern("resources/read", json!({ "uri": uri })).header("mcp-name", uri).send().await.expect("sent"),
        )
        .await;
        let text = read["result"]["contents"][0]["text"].as_str().map(str::to_owned);
        text.map_or(read["error"]["code"].clone(), |text| serde_json::from_str(&text).expect("JSON"))
    };
    assert_eq!(read("workflow://w/result").await["outputs"]["who"], json!({ "name": "Ada L" }));
    assert_eq!(read("workflow://w/status").await["status"], "completed");
    assert_eq!(read("workflow://w/steps/who").await, json!({ "name": "Ada L" }));
    assert_eq!(read("workflow://w/steps/none").await, -32602);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_cancels_its_run_and_one_that_only_waits_does_not() {
    let host = host().await;
    let steps = json!([{ "step_id": "go", "action": "wait", "inputs": { "signal": "go" } }]);
    let owned = json!({ "workflow_id": "owned", "name": "n", "steps": steps });
    let task = task_of(&call(&host, "workflow_run", owned).await);
    let watcher = task_of(&call(&host, "workflow_wait", json!({ "workflow_id": "owned" })).await);
    ask(&host, "tasks/cancel", json!({ "taskId": watcher }), None).await;
    assert_eq!(ended(&host, &watcher).await["status"], "cancelled");
    assert_eq!(run_status(&host, "owned").await["status"], "running");
    let watcher = task_of(&call(&host, "workflow_wait", json!({ "workflow_id": "owned" })).await);
    ask(&host, "tasks/cancel", json!({ "taskId": task }), None).await;
    assert_eq!(ended(&host, &task).await["status"], "cancelled");
    host.until("the run is cancelled", async |host| run_status(host, "owned").await["status"] == "cancelled").await;
    let watched = ended(&host, &watcher).await;
    let told = &watched["result"]["structuredContent"]["status"];
    assert_eq!((&watched["status"], told), (&json!("completed"), &json!("cancelled")), "who waits learns it");
    // A client that goes away takes its run along, before it is a task too.
    let gone = json!({ "workflow_id": "gone", "name": "n", "steps": steps });
    let params = json!({ "name": "workflow_run", "arguments": gone });
    let waiting = tokio::spawn(host.modern("tools/call", params).send());
    host.until("it runs", async |host| run_status(host, "gone").await["status"] == "running").await;
    waiting.abort();
    host.until("the run is cancelled", async |host| run_status(host, "gone").await["status"] == "cancelled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_that_are_open_at_once_are_asked_one_after_the_other_and_none_is_asked_again() {
    let host = host().await;
    let asks = |step: &str| {
        let form = json!({ "message": step });
        json!({ "step_id": step, "action": "wait", "inputs": { "signal": step, "form": form } })
    };
    let three = json!({ "workflow_id": "w", "name": "n", "steps": [asks("a"), asks("b"), asks("c")] });
    let task = task_of(&call(&host, "workflow_run", three).await);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let asking = until(&host, &task, &["input_required"]).await;
        let key = key_of(&asking);
        update(&host, &task, accepted(&key, json!({}))).await;
        seen.push(key.clone());
        host.until("it asks another", async |host| {
            let now = get(host, &task).await;
            now["result"]["inputRequests"].as_object().is_some_and(|asked| !asked.contains_key(&key))
        })
        .await;
    }
    // Somebody else gives the last signal: the form closes, and the run has ended.
    host.call("workflow_signal", json!({ "workflow_id": "w", "signal": "c" })).await;
    assert_eq!(ended(&host, &task).await["status"], "completed");
    assert_eq!(seen, ["step-0", "step-1"]);
    // The same submission by another caller takes nothing along.
    let again = json!({ "workflow_id": "x", "name": "n", "steps": [asks("a")] });
    let first = task_of(&call(&host, "workflow_run", again.clone()).await);
    let second = task_of(&call(&host, "workflow_run", again).await);
    ask(&host, "tasks/cancel", json!({ "taskId": second }), None).await;
    assert_eq!(ended(&host, &second).await["status"], "cancelled");
    assert_eq!(run_status(&host, "x").await["status"], "running");
    until(&host, &first, &["input_required"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_no_tasks_waits_and_is_asked_in_the_answer() {
    let host = host().await;
    let declared = |mut params: Value| {
        params["_meta"] = json!({ "io.modelcontextprotocol/clientCapabilities": { "elicitation": { "form": {} } } });
        params
    };
    let request = json!({ "name": "workflow_run", "arguments": workflow("w") });
    let first = answer(host.modern("tools/call", declared(request.clone())).send().await.expect("sent")).await;
    let asking = &first["result"];
    assert_eq!(asking["resultType"], "input_required", "{first}");
    let mut retry = request;
    retry["requestState"] = asking["requestState"].clone();
    retry["inputResponses"] = accepted(&key_of(asking), json!({ "name": "Ada" }));
    let done = answer(host.modern("tools/call", declared(retry)).send().await.expect("sent")).await;
    assert_eq!(done["result"]["structuredContent"]["result"]["b"]["digest"], digest(&host, "Ada").await, "{done}");
    // One without a user waits until somebody else gives the signal.
    let request = json!({ "name": "workflow_run", "arguments": workflow("v") });
    let waiting = tokio::spawn(host.modern("tools/call", request).send());
    host.until("it waits", async |host| run_status(host, "v").await["steps"][1]["status"] == "waiting").await;
    let given = json!({ "workflow_id": "v", "signal": "name", "payload": { "name": "a b c" } });
    host.call("workflow_signal", given).await;
    let done = answer(waiting.await.expect("joined").expect("an answer")).await;
    assert_eq!(done["result"]["structuredContent"]["result"]["b"]["digest"], digest(&host, "a b c").await, "{done}");
    // And a workflow in which it is a step goes on at once.
    let waits = json!([{ "step_id": "go", "action": "wait", "inputs": { "signal": "go" } }]);
    let inner = json!({ "workflow_id": "inner", "name": "n", "steps": waits });
    let step = json!([{ "step_id": "s", "action": "workflow_run", "inputs": inner }]);
    let outer = json!({ "workflow_id": "outer", "name": "n", "steps": step });
    let done = host.call("workflow_run", outer).await;
    assert_eq!(done["result"]["structuredContent"]["result"]["s"]["status"], "submitted", "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_too_long_gets_the_rest_by_a_tool_also_after_a_restart() {
    let files = folder(&[]);
    crate::support::grant(
        &files,
        "[components.workflow]\ncall = ['*']\nstore = {}\n[components.workflow.limits]\nlong_call_s = 1\n",
    );
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    let steps = json!([{ "step_id": "go", "action": "wait", "inputs": { "signal": "go" } }]);
    let arguments = json!({ "workflow_id": "w", "name": "n", "steps": steps });
    let answered = host.call("workflow_run", arguments).await;
    let task = answered["result"]["_meta"]["mcpp/task"]["taskId"].as_str().expect("a task").to_owned();
    let files = host.stop().await;
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    let still = host.call("task_wait", json!({ "task": task })).await;
    assert!(text_of(&still).contains("has not ended"), "{still}");
    host.call("workflow_signal", json!({ "workflow_id": "w", "signal": "go", "payload": "x" })).await;
    let done = host.call("task_wait", json!({ "task": task })).await;
    assert_eq!(done["result"]["structuredContent"]["result"], json!({ "go": "x" }), "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_goes_on_after_a_restart_is_there_for_its_caller_alone_and_ends_with_its_token() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let (record, owner) = new_token(&data, "team", "ada", &[]);
    let (_, other) = new_token(&data, "team", "eve", &[]);
    let start = async |files| {
        TestHost::start_with(files, |config| {
            config.tools.builtin = true;
            config.sessions.park_ms = 100;
        })
        .await
    };
    let host = start(files).await;
    let steps = json!([{ "step_id": "go", "action": "wait", "inputs": { "signal": "go" } }]);
    let arguments = json!({ "workflow_id": "w", "name": "n", "steps": steps });
    let made = json!({ "name": "workflow_run", "arguments": arguments });
    let task = task_of(&ask(&host, "tools/call", made, Some(&owner)).await);
    let host = start(host.stop().await).await;
    let status =
        async |host: &TestHost, token: &str| ask(host, "tasks/get", json!({ "taskId": task }), Some(token)).await;
    assert_eq!(status(&host, &other).await["error"]["code"], -32602);
    assert_eq!(status(&host, &owner).await["result"]["status"], "working");
    TokenFile::new(Homes::new(data).tokens()).revoke(&record.id).expect("revoked");
    host.until("the run is cancelled", async |host| {
        let asked = json!({ "name": "workflow_status", "arguments": { "workflow_id": "w" } });
        let shown = ask(host, "tools/call", asked, Some(&other)).await;
        shown["result"]["structuredContent"]["status"] == "cancelled"
    })
    .await;
}
