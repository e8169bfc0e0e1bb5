//! Queues that have grown: too long to be listed or cleared within one call (stitchfix/resque-brain#18, ShaneK/Matador#23), and tasks too large to follow one another in one
//! transaction.

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::support::{TestHost, folder, grant};

async fn ask(host: &TestHost, tool: &str, arguments: Value) -> Value {
    let answer = host.call(tool, arguments).await;
    let reply = answer["result"]["structuredContent"].clone();
    assert!(reply.is_object(), "{tool}: {answer}");
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_no_call_can_read_or_clear_at_once_is_listed_and_cleared() {
    const TASKS: usize = 1_500;
    let folder = folder(&[]);
    // A fraction of what a call may do by default, on a queue that is as much shorter.
    let limits = "[components.taskqueue.limits]\nstore_bytes = 2097152\nhost_calls = 60000\n";
    grant(
        &folder,
        &format!(
            "[components.taskqueue]\ncall = [\"*\"]\nstore = {{}}\nmesh = {{ see = true, call = [\"*: task_queue.rpc\"] }}\n{limits}"
        ),
    );
    let host = TestHost::start_with(folder, |config| config.tools.builtin = true).await;
    let payload = json!({ "fill": "x".repeat(1_000) });
    let submitted = stream::iter(0..TASKS).map(|number| {
        ask(
            &host,
            "task_submit",
            json!({ "task_id": format!("task-{number:05}"), "task_type": "k", "payload": payload }),
        )
    });
    let replies: Vec<Value> = submitted.buffer_unordered(16).collect().await;
    let refused: Vec<_> = replies.iter().filter(|reply| reply["success"] != true).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let list = ask(&host, "task_list", json!({})).await;
    assert_eq!(
        (&list["total_count"], &list["returned_count"], &list["has_more"]),
        (&json!(TASKS), &json!(100), &json!(true))
    );
    let next = ask(&host, "task_list", json!({ "cursor": list["next_cursor"], "limit": 1 })).await;
    assert_ne!(next["tasks"][0]["task_id"], list["tasks"][99]["task_id"]);
    let far = ask(&host, "task_list", json!({ "offset": TASKS - 1 })).await;
    assert_eq!((&far["returned_count"], &far["has_more"]), (&json!(1), &json!(false)), "{far}");
    let cleared = ask(&host, "queue_clear", json!({ "confirm": true })).await;
    assert_eq!((&cleared["success"], &cleared["in_progress"]), (&json!(true), &json!(true)), "{cleared}");
    assert!(cleared["cleared_count"].as_u64().is_some_and(|cleared| cleared < TASKS as u64), "{cleared}");
    host.until("the rest is cleared", async |host| {
        let stats = ask(host, "queue_stats", json!({})).await;
        stats["queued_count"] == 0 && stats["clearing"].is_null()
    })
    .await;
    let list = ask(&host, "task_list", json!({})).await;
    assert_eq!(list["total_count"], 0, "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_dependents_of_500_kb_learn_that_their_parent_is_done() {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    let payload = json!({ "fill": "x".repeat(500_000) });
    let task = |id: &str, dependencies: &[&str]| json!({ "task_id": id, "task_type": "k", "payload": payload, "dependencies": dependencies });
    assert_eq!(ask(&host, "task_submit", task("parent", &[])).await["success"], true);
    for number in 0..9 {
        let child = ask(&host, "task_submit", task(&format!("child-{number}"), &["parent"])).await;
        assert_eq!(child["success"], true, "{child}");
    }
    let done = ask(&host, "p2p_taskqueue_complete_task", json!({ "task_id": "parent" })).await;
    assert_eq!(done["ok"], true, "{done}");
    let mut claimed = 0;
    host.until("all can be claimed", async |host| {
        let next = ask(host, "p2p_taskqueue_claim_next", json!({ "worker_id": "w" })).await;
        assert_eq!(next["ok"], true, "{next}");
        claimed += usize::from(!next["task"].is_null());
        claimed == 9
    })
    .await;
    let listed = ask(&host, "p2p_taskqueue_list_tasks", json!({})).await;
    assert_eq!((&listed["ok"], &listed["has_more"]), (&json!(true), &json!(true)), "as many as fit");
}
