//! Times with an offset that is ignored, so that a task runs hours too early or late (coleifer/huey#139, rq/rq-scheduler#246), and tasks that came due while the queue was down
//! and never run (msavin/SteveJobs#42, agenda/agenda#560).

use serde_json::{Value, json};

use crate::support::{TestHost, folder};

async fn ask(host: &TestHost, tool: &str, arguments: Value) -> Value {
    host.call(tool, arguments).await["result"]["structuredContent"].clone()
}

async fn submit(host: &TestHost, payload: Value) -> Value {
    ask(host, "p2p_taskqueue_submit", json!({ "task_type": "k", "model_name": "m", "payload": payload })).await
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_with_an_offset_is_that_moment() {
    const NEW_YEAR_2099: f64 = 4_070_908_800.0;
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    for (time, seconds) in [
        ("2099-01-01T00:00:00Z", 0.0),
        ("2099-01-01t00:00:00z", 0.0),
        ("2099-01-01T14:00:00+14:00", 0.0),
        ("2098-12-31T13:00:00.250-11:00", 0.25),
        ("2099-01-01T00:00:00-05:30", 19_800.0),
    ] {
        let submitted = submit(&host, json!({ "next_attempt_at": time })).await;
        let get = json!({ "op": "get", "task_id": submitted["task_id"] });
        let task = ask(&host, "task_queue.rpc", get).await["task"].clone();
        assert_eq!(task["next_attempt_at"], NEW_YEAR_2099 + seconds, "{time}: {submitted}: {task}");
    }
    // The time zone of these times is unknown.
    for vague in ["2099-01-01T00:00:00", "2099-01-01", "2099-01-01T25:00:00Z", "2099-02-30T00:00:00Z", "1 Jan 2099"] {
        let refused = submit(&host, json!({ "next_attempt_at": vague })).await;
        assert_eq!(refused["error"], "invalid_message", "{vague}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_due_while_nobody_was_there_is_claimed_afterwards() {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    let due = now() + 2.0;
    for (id, at) in [("soon", due), ("much later", due + 3_600.0)] {
        assert_eq!(submit(&host, json!({ "task_id": id, "next_attempt_at": at })).await["ok"], true);
    }
    assert_eq!(ask(&host, "p2p_taskqueue_claim_next", json!({ "worker_id": "w" })).await["task"], Value::Null);
    let folder = host.stop().await;
    while now() <= due {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let host = TestHost::start_with(folder, |config| config.tools.builtin = true).await;
    host.until("it is claimed", async |host| {
        ask(host, "p2p_taskqueue_claim_next", json!({ "worker_id": "w" })).await["task"]["task_id"] == "soon"
    })
    .await;
    assert_eq!(ask(&host, "p2p_taskqueue_claim_next", json!({ "worker_id": "w" })).await["task"], Value::Null);
}
