//! A task's life: who waits for it, restarts, workers that leave, and the queue on the command line.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    command_line::{run, stdout},
    support::{TestHost, folder, grant},
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
async fn claimers_that_wait_take_no_place_of_those_that_claim() {
    let files = folder(&[]);
    let own =
        "call = [\"*\"]\nstore = { quota_bytes = 1000000000 }\nmesh = { see = true, call = [\"*: task_queue.rpc\"] }";
    let one = "[components.taskqueue.tools.task_claim.limits]\nconcurrency = 1";
    grant(&files, &format!("[components.taskqueue]\n{own}\n{one}\n"));
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    let claim = |worker: usize, wait_s: u64| json!({ "worker_id": format!("w{worker}"), "task_types": ["t"], "wait_s": wait_s });
    let waiting = futures::future::join_all((0..8).map(|worker| ask(&host, "task_claim", claim(worker, 15))));
    let others = async {
        host.until("all wait", async |host| host.host.registry().admission().waiting() == 8).await;
        let one_more = ask(&host, "task_claim", json!({ "worker_id": "v", "task_types": ["other"] })).await;
        holds(&one_more, &json!({ "success": true, "tasks": [] }), "it is answered at once");
        let tasks: Vec<Value> =
            (0..8).map(|number| json!({ "task_id": format!("t{number}"), "task_type": "t", "payload": {} })).collect();
        ask(&host, "task_submit_many", json!({ "tasks": tasks })).await;
    };
    let (claimed, ()) = tokio::join!(waiting, others);
    let mut given: Vec<&str> = claimed.iter().map(|one| one["tasks"][0]["task_id"].as_str().expect("a task")).collect();
    given.sort_unstable();
    assert_eq!(given, ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"], "each has one of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_carried_to_another_host_once_however_often() {
    let (from, to) = (start().await, start().await);
    let (from_url, to_url) = (from.host.url(), to.host.url());
    let tasks = |url: &str, arguments: &[&str]| {
        let arguments = [&["tasks"], arguments].concat();
        tokio::task::block_in_place(|| run(&arguments, &[("MCPP_URL", url)]))
    };
    let limit = json!({ "kind": "concurrency", "key": "k", "limit": { "concurrency": 1 } });
    ask(&from, "queue_limit", limit).await;
    let submitted = json!([
        { "task_id": "done", "task_type": "t", "payload": { "n": 1 }, "priority": 9 },
        { "task_id": "failed", "task_type": "t", "payload": {}, "priority": 8, "tags": ["x"] },
        { "task_id": "runs", "task_type": "t", "payload": {}, "priority": 7 },
        { "task_id": "child", "task_type": "t", "payload": {}, "dependencies": ["runs"] },
        { "task_id": "later", "task_type": "t", "payload": {}, "not_before": "2999-01-01T00:00:00Z" },
        { "task_id": "keyed-1", "task_type": "other", "payload": {}, "concurrency_key": "k", "metadata": { "m": 1 } },
        { "task_id": "keyed-2", "task_type": "other", "payload": {}, "concurrency_key": "k" },
        { "task_id": "large", "task_type": "other", "payload": { "text": "é\u{0}\"x".repeat(40_000) } },
    ]);
    holds(
        &ask(&from, "task_submit_many", json!({ "tasks": submitted })).await,
        &json!({ "success": true }),
        "submitted",
    );
    ask(&from, "task_claim", json!({ "worker_id": "w", "task_types": ["t"], "max_tasks": 3 })).await;
    let ends = json!([
        { "task_id": "done", "result": { "answer": 42 } },
        { "task_id": "failed", "status": "failed", "error": "broke" },
    ]);
    holds(&ask(&from, "task_complete_many", json!({ "tasks": ends })).await, &json!({ "done_count": 2 }), "ended");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tasks.jsonl").to_str().expect("text").to_owned();
    let exported = tasks(&from_url, &["export", "--out", &file, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&stdout(&exported)).expect("JSON"), json!({ "exported_count": 8 }));
    let whole = std::fs::read_to_string(&file).expect("lines");
    assert_eq!(stdout(&tasks(&from_url, &["export"])), whole, "standard output has the same");

    // The first half, then all of it, twice.
    let half = folder.path().join("half.jsonl").to_str().expect("text").to_owned();
    let lines: Vec<&str> = whole.lines().collect();
    std::fs::write(&half, lines[..4].join("\n")).expect("written");
    let import = |file: &str| -> Value {
        let imported = tasks(&to_url, &["import", file, "--json"]);
        assert_eq!(imported.status.code(), Some(0), "{imported:?}");
        serde_json::from_str(&stdout(&imported)).expect("JSON")
    };
    assert_eq!(import(&half), json!({ "imported_count": 4, "known_count": 0, "failed_count": 0 }));
    assert_eq!(import(&file), json!({ "imported_count": 4, "known_count": 4, "failed_count": 0 }));
    assert_eq!(import(&file), json!({ "imported_count": 0, "known_count": 8, "failed_count": 0 }));

    // What ran is queued again; everything else is as it was.
    let carried = |host: &'static str, text: &str| -> Vec<Value> {
        let fields =
            ["task_id", "status", "spec", "created_ms", "not_before_ms", "result", "error", "dead_letter", "attempt"];
        let line = |line: &str| {
            let mut task: Value = serde_json::from_str(line).expect("JSON");
            if host == "from" && task["status"] == "running" {
                task["status"] = "queued".into();
            }
            json!(fields.map(|field| task[field].clone()))
        };
        text.lines().map(line).collect()
    };
    assert_eq!(carried("to", &stdout(&tasks(&to_url, &["export"]))), carried("from", &whole));
    let stats = ask(&to, "queue_stats", json!({})).await;
    holds(&stats, &json!({ "queued_count": 6, "running_count": 0, "completed_count": 1, "failed_count": 1 }), "stats");
    let claim = json!({ "worker_id": "v", "max_tasks": 9 });
    let claimed = ask(&to, "task_claim", claim).await;
    let ids: Vec<&str> = claimed["tasks"]
        .as_array()
        .expect("tasks")
        .iter()
        .map(|task| task["task_id"].as_str().expect("an id"))
        .collect();
    assert_eq!(ids, ["runs", "large", "keyed-1", "keyed-2"], "the child waits, and the one for later");
    ask(&to, "task_complete_many", json!({ "tasks": [{ "task_id": "runs" }] })).await;
    holds(
        &ask(&to, "task_claim", json!({ "worker_id": "v" })).await,
        &json!({ "tasks": [{ "task_id": "child" }] }),
        "the child",
    );

    // Other work under a known id is refused, and named.
    let done = lines.iter().find(|line| line.contains(r#""task_id":"done""#)).expect("its line");
    std::fs::write(&half, done.replace(r#"{"n":1}"#, r#"{"n":2}"#)).expect("written");
    let refused = tasks(&to_url, &["import", &half]);
    assert_eq!((refused.status.code(), stdout(&refused).trim()), (Some(1), "0 tasks imported, 0 were here, 1 refused"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("done: "), "{refused:?}");
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
