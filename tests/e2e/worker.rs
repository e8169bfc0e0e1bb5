//! The worker of a host: it runs tasks of the host's own queue, and of a peer's, for those that submitted them.

use serde_json::{Value, json};

use crate::{
    mesh_join::Commanded,
    support::{PATIENCE, TestHost, folder, guest},
    taskqueue::{ask, holds},
};

async fn host() -> TestHost {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    host
}

/// Waits for the end of a task; its record.
async fn ended(host: &TestHost, id: &str) -> Value {
    let waited = ask(host, "p2p_taskqueue_wait_task", json!({ "task_id": id, "timeout_s": 60 })).await;
    waited["task"].clone()
}

fn call_of(tool: &str, arguments: Value) -> Value {
    json!({ "tool": tool, "args": arguments })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hosts_own_tasks_run_as_calls_until_the_worker_is_drained() {
    let host = host().await;
    let submit = async |id: &str, task_type: &str, payload: Value| {
        let task = json!({ "task_id": id, "task_type": task_type, "payload": payload });
        holds(&ask(&host, "task_submit", task).await, &json!({ "success": true }), id);
    };
    submit("before", "tool.call", call_of("text_hash", json!({ "text": "hello" }))).await;
    let service = json!({ "service": "own", "tools": ["text_*"], "types": { "hash": "text_hash" }, "concurrency": 3 });
    holds(&ask(&host, "worker_serve", service).await, &json!({ "success": true, "status": "serving" }), "serve");
    let wanted = ask(&host, "text_hash", json!({ "text": "hello" })).await;
    let hashed = ended(&host, "before").await;
    holds(&hashed, &json!({ "status": "completed", "result": { "tool": "text_hash" } }), "before");
    assert_eq!(hashed["result"]["result"], wanted, "the tool itself ran");
    submit("mapped", "hash", json!({ "text": "hello" })).await;
    assert_eq!(ended(&host, "mapped").await["result"]["result"], wanted);
    submit("outside", "tool.call", call_of("task_list", json!({}))).await;
    let refused = ended(&host, "outside").await;
    holds(&refused, &json!({ "status": "failed", "error": "this service may not call \"task_list\"" }), "outside");
    submit("missing", "tool.call", call_of("text_nothing", json!({}))).await;
    holds(&ended(&host, "missing").await, &json!({ "status": "failed", "attempt": 1 }), "missing");
    let drained = ask(&host, "worker_drain", json!({ "service": "own" })).await;
    holds(&drained, &json!({ "success": true, "services": ["own"] }), "drain");
    host.until("its claimer has gone", async |host| host.host.registry().calls() == 0).await;
    submit("after", "hash", json!({ "text": "hello" })).await;
    let shown = ask(&host, "worker_services", json!({})).await;
    holds(&shown["services"][0], &json!({ "status": "drained", "completed": 2, "failed": 2 }), "drained");
    assert_eq!(ask(&host, "task_status", json!({ "task_id": "after" })).await["status"], "queued");
    holds(&ask(&host, "worker_remove", json!({ "service": "own" })).await, &json!({ "success": true }), "remove");
}

/// Two hosts: `here` runs the tasks of `there`.
async fn pair() -> (Commanded, Commanded) {
    let start = || Commanded::start_with(folder(&[]), |config| config.tools.builtin = true);
    let (there, here) = (start().await, start().await);
    let invited = there.json(&["invite", "--tool", "task_queue.rpc", "--tool", "task_import"]);
    here.json(&["join", invited["ticket"].as_str().expect("a ticket")]);
    (there, here)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peers_task_runs_within_the_rights_of_its_submitter_there_and_the_services_here() {
    let (there, here) = pair().await;
    let service = json!({ "service": "them", "peer_id": there.id(), "tools": ["text_hash"] });
    holds(&ask(&here.test, "worker_serve", service).await, &json!({ "success": true }), "serve");
    let task = |id: &str, tool: &str| json!({ "task_id": id, "task_type": "tool.call", "payload": call_of(tool, json!({ "text": "x" })) });
    for (id, tool) in [("may", "text_hash"), ("may-not", "text_count")] {
        ask(&there.test, "task_submit", task(id, tool)).await;
    }
    holds(
        &ended(&there.test, "may").await,
        &json!({ "status": "completed", "result": { "tool": "text_hash" } }),
        "may",
    );
    holds(&ended(&there.test, "may-not").await, &json!({ "status": "failed" }), "the service has no such tool");
    // Who may use the queue there and nothing else gains nothing by it: this host as a peer of that one.
    let by_peer = json!({
        "task_type": "tool.call", "model_name": "", "payload": { "tool": "text_hash", "args": { "text": "x" }, "task_id": "by-peer" },
        "peer_id": there.id(),
    });
    holds(&ask(&here.test, "p2p_taskqueue_submit", by_peer).await, &json!({ "ok": true }), "by a peer");
    let refused = json!({ "status": "failed", "error": "the submitter of the task may not call \"text_hash\"" });
    holds(&ended(&there.test, "by-peer").await, &refused, "by a peer");
    // Nor by importing a task that says of itself what it may use.
    let mut line = ask(&there.test, "task_export", json!({})).await["tasks"][0].clone();
    assert_eq!(line["spec"]["reach"], "all", "{line}");
    (line["task_id"], line["status"]) = (json!("imported"), json!("queued"));
    let lines = json!({ "tasks": [line] }).to_string();
    let (said, error, code) = here.run(&["call", "--peer", there.id().as_str(), "task_import", &lines]);
    assert_eq!(code, Some(0), "{said} {error}");
    holds(&ended(&there.test, "imported").await, &refused, "imported");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_of_a_cancelled_task_is_cancelled_and_a_host_that_stops_hands_over() {
    let start = async |folder| {
        let host = TestHost::start_with(folder, |config| {
            config.tools.builtin = true;
            config.server.drain_ms = 15_000;
            config.limits.deadline_ms = Some(600_000.try_into().expect("legal"));
        });
        let host = host.await;
        assert_eq!(host.problems(), "");
        host
    };
    let host = start(folder(&[("probe", &guest("probe"))])).await;
    let service = json!({ "service": "own", "tools": ["probe_*"], "concurrency": 2 });
    holds(&ask(&host, "worker_serve", service).await, &json!({ "success": true }), "serve");
    let begin = async |id: &str| {
        let payload = call_of("probe_sleep", json!({ "ms": 500_000 }));
        ask(&host, "task_submit", json!({ "task_id": id, "task_type": "tool.call", "payload": payload })).await;
        host.until("the call runs", async |host| {
            let shown = ask(host, "worker_services", json!({})).await;
            shown["services"][0]["tasks"][0]["stage"] == "running"
        })
        .await;
    };
    begin("cancelled").await;
    holds(
        &ask(&host, "task_cancel", json!({ "task_id": "cancelled", "force": true })).await,
        &json!({ "success": true }),
        "cancel",
    );
    // The next beat hears of it. Only then does the call end: it would sleep for minutes.
    host.until("the call was cancelled", async |host| {
        let shown = ask(host, "worker_services", json!({})).await["services"][0].clone();
        (&shown["lost"], &shown["tasks"]) == (&json!(1), &json!([]))
    })
    .await;
    begin("handed-over").await;
    let folder = tokio::time::timeout(PATIENCE, host.stop()).await.expect("it stops");
    let again = start(folder).await;
    let task = ask(&again, "p2p_taskqueue_get_task", json!({ "task_id": "handed-over" })).await["task"].clone();
    assert_eq!(task["result"]["progress"]["last_release_reason"], "this host stops", "{task}");
    // Its new attempt is the first that counts, and it did not wait for the end of a lease.
    again
        .until("it runs again", async |host| {
            let task = ask(host, "p2p_taskqueue_get_task", json!({ "task_id": "handed-over" })).await["task"].clone();
            (&task["status"], &task["attempt"]) == (&json!("running"), &json!(1))
        })
        .await;
}
