//! Workers that come back when their task is somebody else's, or has ended: they renew its lease, or overwrite its result (aegra/aegra#502, nazarli-shabnam/clevis#253,
//! jamjet-labs/jamjet#108), and what was cancelled becomes completed (SamSaffron/term-llm#790, grantcarthew/node-rethinkdb-job-queue#82).

use serde_json::{Value, json};

use crate::support::{TestHost, folder};

async fn start() -> TestHost {
    TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await
}

async fn ask(host: &TestHost, tool: &str, arguments: Value) -> Value {
    host.call(tool, arguments).await["result"]["structuredContent"].clone()
}

async fn rpc(host: &TestHost, request: Value) -> Value {
    ask(host, "task_queue.rpc", request).await
}

async fn claim(host: &TestHost, worker: &str) -> Value {
    rpc(host, json!({ "op": "claim", "worker_id": worker })).await["task"].clone()
}

async fn status(host: &TestHost, id: &str) -> Value {
    ask(host, "task_status", json!({ "task_id": id })).await["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_attempt_is_over_changes_nothing() {
    let host = start().await;
    let task =
        json!({ "task_id": "t", "task_type": "k", "payload": {}, "timeout": 1, "retry_policy": { "max_retries": 9 } });
    assert_eq!(ask(&host, "task_submit", task).await["success"], true);
    let first = claim(&host, "w").await;
    let mut second = Value::Null;
    host.until("its attempt is over, and it is claimed again under the same name", async |host| {
        second = claim(host, "w").await;
        !second.is_null()
    })
    .await;
    let by = |op: &str, task: &Value| json!({ "op": op, "task_id": "t", "worker_id": "w", "fencing_token": task["fencing_token"], "result": { "of": task["fencing_token"] } });
    for op in ["task.heartbeat", "task.report", "complete", "release"] {
        let late = rpc(&host, by(op, &first)).await;
        assert_eq!(late["ok"], false, "{op}: {late}");
        assert_eq!(status(&host, "t").await, "running", "{op}");
    }
    assert_eq!(rpc(&host, by("complete", &second)).await["ok"], true);
    // Its answer may have been lost: the same end again is no other end.
    assert_eq!(rpc(&host, by("complete", &second)).await["ok"], true);
    let mut other_end = by("complete", &second);
    other_end["result"] = json!("another");
    assert_eq!(rpc(&host, other_end).await["ok"], false);
    for (op, task) in [("task.heartbeat", &second), ("complete", &first), ("release", &first)] {
        let late = rpc(&host, by(op, task)).await;
        assert_eq!(late["ok"], false, "{op} of what has ended: {late}");
    }
    let kept = ask(&host, "p2p_taskqueue_get_task", json!({ "task_id": "t" })).await["task"].clone();
    assert_eq!((&kept["status"], &kept["result"]["of"]), (&json!("completed"), &second["fencing_token"]), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cancelled_stays_so_and_its_worker_is_told() {
    let host = start().await;
    ask(&host, "task_submit", json!({ "task_id": "t", "task_type": "k", "payload": {} })).await;
    let task = claim(&host, "w").await;
    let refused = ask(&host, "task_cancel", json!({ "task_id": "t" })).await;
    assert_eq!(refused["success"], false, "it runs: {refused}");
    assert_eq!(ask(&host, "task_cancel", json!({ "task_id": "t", "force": true })).await["success"], true);
    for op in ["task.heartbeat", "task.report", "complete", "release"] {
        let late =
            rpc(&host, json!({ "op": op, "task_id": "t", "worker_id": "w", "fencing_token": task["fencing_token"] }))
                .await;
        assert_eq!(late["ok"], false, "{op}: {late}");
    }
    assert_eq!(status(&host, "t").await, "cancelled");
}
