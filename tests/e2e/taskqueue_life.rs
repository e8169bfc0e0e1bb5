//! A task's life: who waits for it, restarts, workers that leave, and the queue on the command line.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    command_line::{run, stdout},
    support::TestHost,
    taskqueue::{ask, holds, rpc, start},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_wakes_when_its_task_ends_and_a_failed_task_is_tried_again() {
    let host = start().await;
    let submit = json!({ "op": "submit", "task_type": "t", "payload": { "max_attempts": 2 } });
    let id = rpc(&host, submit).await["task_id"].as_str().expect("an id").to_owned();
    rpc(&host, json!({ "op": "claim", "worker_id": "w" })).await;
    let waiting = ask(&host, "p2p_taskqueue_wait_task", json!({ "task_id": id, "timeout_s": 20 }));
    let completing = async {
        host.until("it waits", async |host| host.host.registry().admission().waiting() == 1).await;
        rpc(&host, json!({ "op": "complete", "task_id": id, "result": { "n": 1 } })).await;
    };
    let (waited, ()) = tokio::join!(waiting, completing);
    holds(&waited, &json!({ "ok": true, "task": { "status": "completed", "result": { "n": 1 } } }), "wait");
    // A task whose time for an attempt is over is tried again, by itself, and is a dead letter in the end.
    let timed = json!({ "task_id": "timed", "task_type": "t", "payload": {}, "timeout": 1, "retry_policy": { "max_retries": 0 } });
    ask(&host, "task_submit", timed).await;
    rpc(&host, json!({ "op": "claim", "worker_id": "w" })).await;
    let ended = tokio::time::timeout(
        Duration::from_secs(20),
        ask(&host, "p2p_taskqueue_wait_task", json!({ "task_id": "timed", "timeout_s": 20 })),
    );
    let ended = ended.await.expect("the queue's timer ends it");
    holds(&ended, &json!({ "task": { "status": "failed", "error": "timed out after maximum attempts" } }), "timed out");
    let status = ask(&host, "task_status", json!({ "task_id": "timed", "include_metrics": true })).await;
    assert_eq!(status["metrics"]["dead_letter"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_survive_a_restart_and_claimers_never_share_one() {
    let host = start().await;
    let ids: Vec<String> = (0..40).map(|number| format!("task-{number:02}")).collect();
    let submit = |id: &String| ask(&host, "task_submit", json!({ "task_id": id, "task_type": "t", "payload": {} }));
    futures::future::join_all(ids.iter().map(submit)).await;
    let folder = host.stop().await;
    let host = TestHost::start_with(folder, |config| config.tools.builtin = true).await;
    let work = async |worker: usize| {
        let mut mine = Vec::new();
        loop {
            let claimed = rpc(&host, json!({ "op": "claim", "worker_id": format!("w{worker}") })).await;
            let Some(id) = claimed["task"]["task_id"].as_str() else { return mine };
            let done = json!({ "op": "complete", "task_id": id, "worker_id": format!("w{worker}"), "fencing_token": claimed["task"]["fencing_token"] });
            assert_eq!(rpc(&host, done).await["ok"], true);
            mine.push(id.to_owned());
        }
    };
    let mut done: Vec<String> = futures::future::join_all((0..6).map(work)).await.into_iter().flatten().collect();
    done.sort();
    assert_eq!(done, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_watches_the_queue() {
    let host = start().await;
    let url = host.host.url();
    let tasks = |arguments: &[&str]| {
        let arguments = [&["tasks"], arguments].concat();
        tokio::task::block_in_place(|| run(&arguments, &[("MCPP_URL", &url)]))
    };
    for id in ["good", "bad"] {
        ask(&host, "task_submit", json!({ "task_id": id, "task_type": "t", "payload": {} })).await;
    }
    let list = stdout(&tasks(&["list", "--status", "queued"]));
    assert!(list.lines().filter(|line| line.contains("queued")).count() == 2, "{list}");
    let shown: Value = serde_json::from_str(&stdout(&tasks(&["show", "good", "--json"]))).expect("JSON");
    assert_eq!(shown["task_type"], "t");
    assert_eq!(tasks(&["show", "nothing"]).status.code(), Some(1));
    rpc(&host, json!({ "op": "complete", "task_id": "good" })).await;
    let followed = tasks(&["follow", "good"]);
    assert_eq!((followed.status.code(), stdout(&followed).contains("good completed")), (Some(0), true));
    rpc(&host, json!({ "op": "complete", "task_id": "bad", "status": "failed", "error": "broke" })).await;
    let followed = tasks(&["follow", "good", "bad"]);
    assert_eq!((followed.status.code(), stdout(&followed).contains("bad failed (attempt 0): broke")), (Some(1), true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_leaves_gives_back_everything_it_had() {
    let host = start().await;
    let worker = json!({ "worker_id": "w", "capabilities": ["t"], "max_concurrent_tasks": 200 });
    ask(&host, "worker_register", worker).await;
    for number in 0..120 {
        let task = json!({ "task_id": format!("task-{number}"), "task_type": "t", "payload": {} });
        ask(&host, "task_submit", task).await;
        rpc(&host, json!({ "op": "claim", "worker_id": "w" })).await;
    }
    let left = ask(&host, "worker_unregister", json!({ "worker_id": "w", "graceful": false })).await;
    holds(&left, &json!({ "success": true, "abandoned_tasks": 120, "completed_tasks": 0 }), "left");
    host.until("all are queued again", async |host| {
        let stats = ask(host, "queue_stats", json!({})).await;
        stats["queued_count"] == 120 && stats["running_count"] == 0
    })
    .await;
    // It is forgotten after its last task is, in a transaction of its own.
    host.until("it is forgotten", async |host| {
        ask(host, "worker_status", json!({ "worker_id": "w" })).await["success"] == false
    })
    .await;
}
