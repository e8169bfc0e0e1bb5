//! Calls that end in another way than with their answer: an answer that comes later, a caller that gives up.

use serde_json::json;

use crate::{
    mcp_tasks::{ask, call, ended, get, task_of, until, update},
    support::{TestHost, folder, grant},
};

const CANCELLATION_0_1_0: &[u8] = include_bytes!("../../guests/frozen/cancellation-0.1.0.wasm");
const TASKS_0_1_1: &[u8] = include_bytes!("../../guests/frozen/tasks-0.1.1.wasm");

/// A caller that gives up: who asked for notice has a second, and everybody is stopped in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_cancellation_0_1_0() {
    let files = folder(&[("frozen", CANCELLATION_0_1_0)]);
    grant(&files, "[components.frozen]\nstore = {}\n[components.frozen.limits]\ntask_after_ms = 0\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    let running = |host: &TestHost| host.host.registry().calls();
    for (tool, end, noted) in [
        // Its answer came in time, so that it is the answer.
        ("orderly", "completed", true),
        ("stubborn", "cancelled", true),
        ("careless", "cancelled", false),
    ] {
        let has_noted = async |host: &TestHost, what: &str| {
            let noted = host.call("noted", json!({})).await["result"]["structuredContent"]["result"].clone();
            noted.as_array().expect("a list").iter().any(|one| one == what)
        };
        let begun = format!("{tool} has begun");
        let task = task_of(&call(&host, tool, json!({})).await);
        host.until(&begun, async |host| has_noted(host, &begun).await).await;
        ask(&host, "tasks/cancel", json!({ "taskId": task }), None).await;
        let done = ended(&host, &task).await;
        assert_eq!(done["status"], end, "{tool}: {done}");
        host.until("no call runs", async |host| running(host) == 0).await;
        assert_eq!(has_noted(&host, tool).await, noted, "{tool}");
        assert!(!has_noted(&host, "stubborn was not stopped").await);
    }
    // A client that goes away is the same.
    let params = json!({ "name": "stubborn", "arguments": {} });
    let gone = tokio::spawn(host.modern("tools/call", params).send());
    host.until("it runs", async |host| running(host) == 1).await;
    gone.abort();
    host.until("no call runs", async |host| running(host) == 0).await;
}

/// Answers that come later: as tasks, with a form, a progress, and every end; also of a component that cannot always say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_tasks_0_1_1() {
    let files = folder(&[("frozen", TASKS_0_1_1)]);
    grant(
        &files,
        "[components.frozen]\nstore = {}\n[components.frozen.limits]\ntask_after_ms = 0\n[components.frozen.tools.wrong]\ntask = 'never'\n",
    );
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    let handle = "the handle of an answer that comes later has 1 to 256 bytes";
    let again = "the call has put off its answer already";
    // Without somebody who waits the tool's own answer is the answer.
    assert_eq!(host.text("wrong", json!({})).await, format!("{handle}; {handle}; put off; {again}"));
    assert_eq!(host.text("fails", json!({})).await, "error: it failed");
    assert_eq!(
        call(&host, "fails", json!({})).await["result"]["isError"],
        true,
        "a call that fails has put off nothing"
    );
    let change = async |id: &str, state: &str| drop(host.call("change", json!({ "id": id, "state": state })).await);
    let begin =
        async |id: &str, state: &str| task_of(&call(&host, "approve", json!({ "id": id, "state": state })).await);
    for (state, status, text) in [
        ("yes", "completed", json!("approved")),
        ("no", "completed", json!("not approved")),
        ("gone", "cancelled", json!(null)),
    ] {
        let task = begin(state, "begun").await;
        let working = until(&host, &task, &["working"]).await;
        assert_eq!(working["status"], "working", "{working}");
        change(state, state).await;
        let done = ended(&host, &task).await;
        assert_eq!((&done["status"], &done["result"]["content"][0]["text"]), (&json!(status), &text), "{done}");
        assert_eq!(done["result"]["isError"] == true, state == "no", "{done}");
    }
    for (answer, text) in
        [(json!({ "action": "accept", "content": {} }), "approved"), (json!({ "action": "decline" }), "not approved")]
    {
        let task = begin(text, "asks").await;
        until(&host, &task, &["input_required"]).await;
        update(&host, &task, json!({ "ok": answer })).await;
        assert_eq!(ended(&host, &task).await["result"]["content"][0]["text"], text);
    }
    // A user who closes the form is not asked again and again; the work goes on.
    let closed = begin("closed", "asks").await;
    until(&host, &closed, &["input_required"]).await;
    update(&host, &closed, json!({ "ok": { "action": "cancel" } })).await;
    until(&host, &closed, &["working"]).await;
    change("closed", "half way").await;
    host.until("its progress is there", async |host| {
        let status = get(host, &closed).await;
        status["result"]["statusMessage"] == "1 of 2: half way"
    })
    .await;
    ask(&host, "tasks/cancel", json!({ "taskId": closed }), None).await;
    assert_eq!(ended(&host, &closed).await["status"], "cancelled");
    host.until("the component has learned it", async |host| {
        host.text("state", json!({ "id": "closed" })).await.contains("cancelled")
    })
    .await;
    // One that cannot say how it is now says so later, and one that it does not know has failed.
    let trap = begin("trap", "trap").await;
    until(&host, &trap, &["working"]).await;
    host.until("it could not say how it is", async |host| {
        let looked = host.metric("mcpp_primitives_total").await;
        looked.iter().any(|line| line.contains("deferred") && line.contains("trapped"))
    })
    .await;
    change("trap", "yes").await;
    assert_eq!(ended(&host, &trap).await["result"]["content"][0]["text"], "approved");
}
