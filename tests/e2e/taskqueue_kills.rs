//! The real program under ten submitters and ten workers that use batches. They are killed at random in the midst of their calls, and so is the program.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    kills::Program,
    support::{PATIENCE, http_client, modern_request, parse_messages},
};

const KILLS: u64 = 6;
const CLIENTS: u64 = 10;
/// Tasks of one submission, and most tasks of one claim.
const BATCH: u64 = 12;

/// What the clients know.
#[derive(Default)]
struct Known {
    submitted: BTreeSet<String>,
    completed: BTreeSet<String>,
    /// Tasks that were acknowledged as completed twice.
    twice: BTreeSet<String>,
}

impl Known {
    fn is_load(&self) -> bool {
        self.submitted.len() > 100 && !self.completed.is_empty()
    }
}

struct Clients {
    http: reqwest::Client,
    url: String,
    known: Mutex<Known>,
    next: AtomicU64,
}

/// A number from 0 to below `end`, another one for each `seed`.
fn dice(seed: u64, end: u64) -> u64 {
    (seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % end
}

async fn call(http: &reqwest::Client, url: &str, tool: &str, arguments: Value) -> Option<Value> {
    let request = modern_request(http, url, "tools/call", json!({ "name": tool, "arguments": arguments }));
    let text = request.send().await.ok()?.text().await.ok()?;
    let answer = parse_messages(&text).ok()?.pop()?;
    Some(answer["result"]["structuredContent"].clone()).filter(|reply| reply["success"] == true)
}

impl Clients {
    /// Calls, unless the client is killed before the answer comes.
    async fn call(&self, tool: &str, arguments: Value) -> Option<Value> {
        let seed = self.next.fetch_add(1, Ordering::Relaxed);
        let life = if dice(seed, 4) == 0 { Duration::from_millis(dice(seed, 40)) } else { PATIENCE };
        tokio::time::timeout(life, call(&self.http, &self.url, tool, arguments)).await.ok()?
    }

    async fn submit(&self) {
        let first = self.next.fetch_add(BATCH, Ordering::Relaxed);
        let ids: Vec<String> = (first..first + BATCH).map(|number| format!("task-{number}")).collect();
        let task = |id: &String| {
            let retries = json!({ "max_retries": 1000, "backoff_factor": 1.0 });
            json!({ "task_id": id, "task_type": "t", "payload": { "x": "x".repeat(100) }, "timeout": 1, "retry_policy": retries })
        };
        let tasks: Vec<Value> = ids.iter().map(task).collect();
        if self.call("task_submit_many", json!({ "tasks": tasks })).await.is_some() {
            self.known.lock().expect("no panic").submitted.extend(ids);
        }
    }

    /// Ends what a worker has and claims more in the same call; what it has then.
    async fn work(&self, worker: &str, held: Vec<Value>) -> Vec<Value> {
        let end = |task: &Value| json!({ "task_id": task["task_id"], "worker_id": worker, "fencing_token": task["fencing_token"] });
        let ends: Vec<Value> = held.iter().map(end).collect();
        let claim = json!({ "worker_id": worker, "max_tasks": BATCH });
        let Some(reply) = self.call("task_complete_many", json!({ "tasks": ends, "claim": claim })).await else {
            // A killed worker has nothing when it is back.
            return Vec::new();
        };
        let mut known = self.known.lock().expect("no panic");
        for one in reply["results"].as_array().expect("results").iter().filter(|one| one["ok"] == true) {
            let id = one["task_id"].as_str().expect("an id").to_owned();
            if !known.completed.insert(id.clone()) {
                known.twice.insert(id);
            }
        }
        reply["tasks"].as_array().expect("tasks").clone()
    }
}

/// Clients that go on until they are told to stop.
fn load(clients: &Arc<Clients>, until: &tokio_util::sync::CancellationToken) -> Vec<tokio::task::JoinHandle<()>> {
    let one = |number: u64| {
        let (clients, until) = (Arc::clone(clients), until.clone());
        tokio::spawn(async move {
            let mut held = Vec::new();
            while !until.is_cancelled() {
                match number < CLIENTS {
                    true => clients.submit().await,
                    false => held = clients.work(&format!("worker-{number}"), held).await,
                }
            }
        })
    };
    (0..2 * CLIENTS).map(one).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_kept_and_completed_once_whoever_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("tools")).expect("made");
    let mut known = Known::default();
    let mut next = 0;
    for kill in 0..KILLS {
        let program = Program::start(folder.path());
        let (http, url) = (http_client(), program.url.clone());
        let clients = Arc::new(Clients { http, url, known: Mutex::new(known), next: AtomicU64::new(next) });
        let until = tokio_util::sync::CancellationToken::new();
        let running = load(&clients, &until);
        tokio::time::sleep(Duration::from_millis(300 + dice(kill, 500))).await;
        // On a slow machine the last life goes on until there was a load.
        let begin = std::time::Instant::now();
        while kill == KILLS - 1 && !clients.known.lock().expect("no panic").is_load() && begin.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::task::block_in_place(|| program.kill());
        until.cancel();
        for client in running {
            client.await.expect("no panic");
        }
        let clients = Arc::into_inner(clients).expect("all clients have ended");
        (known, next) = (clients.known.into_inner().expect("no panic"), clients.next.into_inner());
    }
    let submitted = known.submitted.clone();
    assert!(known.is_load(), "there was no load: {} and {}", submitted.len(), known.completed.len());
    // One worker that lives does the rest; leases of those that were killed end after a second.
    let program = Program::start(folder.path());
    let (http, url) = (http_client(), program.url.clone());
    let mut held: Vec<Value> = Vec::new();
    let rest = async {
        loop {
            let end = |task: &Value| json!({ "task_id": task["task_id"], "worker_id": "last", "fencing_token": task["fencing_token"] });
            let ends: Vec<Value> = held.iter().map(end).collect();
            let claim = json!({ "worker_id": "last", "max_tasks": 128, "wait_s": 0.2 });
            let reply = call(&http, &url, "task_complete_many", json!({ "tasks": ends, "claim": claim }))
                .await
                .expect("a reply");
            for one in reply["results"].as_array().expect("results").iter().filter(|one| one["ok"] == true) {
                let id = one["task_id"].as_str().expect("an id").to_owned();
                assert!(known.completed.insert(id.clone()), "{id} is completed twice");
            }
            held = reply["tasks"].as_array().expect("tasks").clone();
            let stats = call(&http, &url, "queue_stats", json!({})).await.expect("a reply");
            if held.is_empty() && stats["queued_count"] == 0 && stats["running_count"] == 0 {
                return stats;
            }
        }
    };
    let stats = tokio::time::timeout(PATIENCE, rest).await.expect("all tasks end");
    assert_eq!(known.twice, BTreeSet::new());
    let all = stats["completed_count"].as_u64().expect("a number");
    assert_eq!(stats["failed_count"], 0);
    // A batch is there as a whole or not at all; those that were acknowledged are, and so may others be whose answer nobody heard.
    assert!(all.is_multiple_of(BATCH) && all >= submitted.len() as u64, "{all} of {}", submitted.len());
    for id in &submitted {
        let status = call(&http, &url, "task_status", json!({ "task_id": id })).await.expect("it is there");
        assert_eq!(status["status"], "completed", "{id}");
    }
    program.kill();
}
