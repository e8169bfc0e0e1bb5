//! Values that a queue drops in silence: times as text that count as now, numbers as names, white space that one door keeps and another trims.

use serde_json::{Value, json};

use crate::support::{TestHost, folder};

async fn start() -> TestHost {
    TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await
}

async fn ask(host: &TestHost, tool: &str, arguments: Value) -> Value {
    host.call(tool, arguments).await["result"]["structuredContent"].clone()
}

async fn submit(host: &TestHost, payload: Value) -> Value {
    ask(host, "p2p_taskqueue_submit", json!({ "task_type": "k", "model_name": "m", "payload": payload })).await
}

async fn claim(host: &TestHost) -> Value {
    ask(host, "p2p_taskqueue_claim_next", json!({ "worker_id": "w" })).await["task"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_as_text_is_a_time_and_what_is_no_value_is_refused() {
    let host = start().await;
    let later = submit(&host, json!({ "task_id": "later", "next_attempt_at": "2099-01-01T00:00:00Z" })).await;
    assert_eq!(later["ok"], true, "{later}");
    assert_eq!(claim(&host).await, Value::Null, "it is not for now");
    for (id, priority) in [("five", json!(5)), ("nine", json!("9"))] {
        assert_eq!(submit(&host, json!({ "task_id": id, "priority": priority })).await["ok"], true);
    }
    assert_eq!(claim(&host).await["task_id"], "nine", "\"9\" is before 5");
    for (payload, field) in [
        (json!({ "next_attempt_at": "tomorrow" }), "payload.next_attempt_at"),
        (json!({ "priority": true }), "payload.priority"),
        (json!({ "task_id": 7 }), "payload.task_id"),
        (json!({ "idempotency_key": 7 }), "payload.idempotency_key"),
    ] {
        let refused = submit(&host, payload.clone()).await;
        assert_eq!(refused["error"], "invalid_message", "{payload}: {refused}");
        assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains(field)), "{payload}: {refused}");
    }
    let stats = ask(&host, "queue_stats", json!({})).await;
    assert_eq!(
        (&stats["queued_count"], &stats["running_count"]),
        (&json!(2), &json!(1)),
        "what was refused is not there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn white_space_at_the_ends_of_a_name_is_refused_at_every_door_and_trimmed_at_none() {
    let host = start().await;
    let task = |id: &str, kind: &str| json!({ "task_id": id, "task_type": kind, "payload": {} });
    for (tool, arguments, field) in [
        ("task_submit", task("order 7 ", "k"), "task_id"),
        ("task_submit", task("\u{3000}order", "k"), "task_id"),
        ("task_submit", task("order", "k\u{a0}"), "task_type"),
        ("worker_register", json!({ "worker_id": " w9 ", "capabilities": ["k"] }), "worker_id"),
        ("worker_register", json!({ "worker_id": "w9", "capabilities": ["k "] }), "capabilities/0"),
        ("p2p_taskqueue_submit", json!({ "task_type": "k ", "model_name": "m", "payload": {} }), "task_type"),
        (
            "p2p_taskqueue_submit",
            json!({ "task_type": "k", "model_name": "m", "payload": { "task_id": " x" } }),
            "task_id",
        ),
        ("p2p_taskqueue_claim_next", json!({ "worker_id": " w" }), "worker_id"),
        ("p2p_taskqueue_heartbeat", json!({ "peer_id": "p " }), "peer_id"),
    ] {
        let reply = ask(&host, tool, arguments.clone()).await;
        assert!(reply["success"] == false || reply["error"] == "invalid_message", "{tool} {arguments}: {reply}");
        let says = [&reply["detail"], &reply["error"]].map(|said| said.as_str().unwrap_or_default().to_owned());
        assert!(says.iter().any(|said| said.starts_with(field)), "{tool} {arguments}: {reply}");
    }
    assert_eq!(ask(&host, "task_submit", task("order 7", "k")).await["success"], true);
    let missing = ask(&host, "p2p_taskqueue_get_task", json!({ "task_id": "order 7 " })).await;
    assert_eq!(missing["task"], Value::Null, "nothing is trimmed");
    let done = ask(&host, "p2p_taskqueue_complete_task", json!({ "task_id": "order 7" })).await;
    assert_eq!(done["ok"], true, "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_id_that_can_be_submitted_can_be_retried() {
    let host = start().await;
    let task = |id: &str| json!({ "task_id": id, "task_type": "k", "payload": {} });
    let (longest, longer) = ("x".repeat(183), "x".repeat(184));
    let refused = ask(&host, "task_submit", task(&longer)).await;
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("1 to 183")), "{refused}");
    assert_eq!(ask(&host, "task_submit", task(&longest)).await["success"], true);
    ask(&host, "p2p_taskqueue_complete_task", json!({ "task_id": longest })).await;
    let mut id = longest.clone();
    for round in 1..=4 {
        let retried = ask(&host, "task_retry", json!({ "task_id": id })).await;
        assert_eq!(retried["success"], true, "round {round}: {retried}");
        if round == 1 {
            assert_eq!(retried["retry_task_id"], format!("{longest}-retry-1"));
        }
        id = retried["retry_task_id"].as_str().expect("an id").to_owned();
        let done = ask(&host, "p2p_taskqueue_complete_task", json!({ "task_id": id })).await;
        assert_eq!(done["ok"], true, "round {round}: {done}");
    }
}
