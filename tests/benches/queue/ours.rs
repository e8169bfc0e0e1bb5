//! mcpp's task queue, through the program and over HTTP.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    BATCH_CLIENTS, CLAIMED_AT_ONCE, CLIENTS, SUBMITTED_AT_ONCE, Speed,
    client::{Client, Era},
    server::Server,
    speed,
};

/// Clients that fill the queue.
const FILLERS: usize = 64;
/// Tasks that are filled in between two looks at the progress.
const SLICE: usize = 10_000;
const PRIORITIES: usize = 10;
const TEXT_BYTES: usize = 160;

pub(crate) struct Ours {
    server: Server,
}

/// The replies to many requests.
struct Answers {
    replies: Vec<Value>,
    /// How long each took.
    times: Vec<Duration>,
    /// How long all took.
    took: Duration,
}

impl Ours {
    pub(crate) async fn start() -> Self {
        Self { server: Server::mcpp(&[]).await }
    }

    async fn clients(&self, count: usize) -> Vec<Arc<Client>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(Arc::new(Client::connect(self.server.url(), Era::Modern).await));
        }
        clients
    }

    /// Submits tasks until so many are queued.
    pub(crate) async fn fill(&self, backlog: usize) {
        let clients = self.clients(FILLERS).await;
        let (mut done, started) = (queued(&clients[0]).await, Instant::now());
        while done < backlog {
            let slice = done..backlog.min(done + SLICE);
            done = slice.end;
            ask(&clients, slice, submission).await;
            eprintln!("mcpp: {done} of {backlog} queued, {:.0} s", started.elapsed().as_secs_f64());
        }
        assert_eq!(queued(&clients[0]).await, backlog);
    }

    /// Submits so many tasks in batches; then completes and claims them, the next ones with the end of the last.
    pub(crate) async fn measure_batched(&self, operations: usize) -> [Speed; 2] {
        let clients = self.clients(BATCH_CLIENTS).await;
        let before = queued(&clients[0]).await;
        let run = format!("{before}-{operations}-{:?}", Instant::now());
        let submit = move |call: usize| {
            let first = call * SUBMITTED_AT_ONCE;
            let task = |number: usize| {
                let id = format!("{number}-{run}").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
                json!({ "task_id": id, "task_type": "bench", "priority": number % PRIORITIES + 1, "payload": payload(number) })
            };
            let tasks: Vec<Value> = (first..operations.min(first + SUBMITTED_AT_ONCE)).map(task).collect();
            ("task_submit_many", json!({ "tasks": tasks }))
        };
        let submitted = ask(&clients, 0..operations.div_ceil(SUBMITTED_AT_ONCE), submit).await;
        let started = Instant::now();
        let left = AtomicUsize::new(operations);
        let workers =
            clients.iter().enumerate().map(|(number, client)| work(client, format!("worker-{number}"), &left));
        let times: Vec<Duration> = futures::future::join_all(workers).await.concat();
        let worked = speed(times, operations, started.elapsed());
        assert_eq!(queued(&clients[0]).await, before);
        [speed(submitted.times, operations, submitted.took), worked]
    }

    /// Submits, claims and completes so many tasks.
    pub(crate) async fn measure(&self, operations: usize) -> [Speed; 3] {
        let clients = self.clients(CLIENTS).await;
        // The first round is not counted: connecting, first uses.
        round(&clients, operations.div_ceil(10)).await;
        round(&clients, operations).await
    }
}

/// A payload of 200 bytes of JSON.
pub(crate) fn payload(number: usize) -> Value {
    json!({ "number": number, "priority": number % PRIORITIES + 1, "text": "x".repeat(TEXT_BYTES) })
}

/// Submits a task as people do, with an id that no other has.
fn submission(number: usize) -> Call {
    static SUBMITTED: AtomicUsize = AtomicUsize::new(0);
    let id = format!("single-{}", SUBMITTED.fetch_add(1, Ordering::Relaxed));
    ("task_submit", json!({ "task_id": id, "task_type": "bench", "payload": payload(number) }))
}

/// Claims and completes until `left` is used up, each time the next ones with the end of the last; how long each call took.
async fn work(client: &Client, worker: String, left: &AtomicUsize) -> Vec<Duration> {
    let (mut times, mut held) = (Vec::new(), Vec::new());
    loop {
        let take = |left: usize| Some(left.saturating_sub(CLAIMED_AT_ONCE));
        let wanted = left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .expect("it is always some")
            .min(CLAIMED_AT_ONCE);
        if wanted == 0 && held.is_empty() {
            return times;
        }
        let end = |task: &Value| json!({ "task_id": task["task_id"], "worker_id": worker, "fencing_token": task["fencing_token"], "result": { "done": true } });
        let mut arguments = json!({ "tasks": held.iter().map(end).collect::<Vec<Value>>() });
        if wanted > 0 {
            arguments["claim"] = json!({ "worker_id": worker, "max_tasks": wanted });
        }
        let started = Instant::now();
        let reply = call(client, "task_complete_many", &arguments).await;
        times.push(started.elapsed());
        assert_eq!(reply["done_count"], held.len(), "{reply}");
        held = reply["tasks"].as_array().cloned().unwrap_or_default();
        assert_eq!(held.len(), wanted, "there are enough");
    }
}

/// A tool and its arguments.
type Call = (&'static str, Value);

const RPC: &str = "task_queue.rpc";

async fn round(clients: &[Arc<Client>], operations: usize) -> [Speed; 3] {
    let before = queued(&clients[0]).await;
    let submitted = ask(clients, 0..operations, submission).await;
    distinct(submitted.replies.iter().map(|reply| &reply["task_id"]), operations);
    let claim = |number: usize| (RPC, json!({ "op": "claim", "worker_id": format!("worker-{}", number % CLIENTS) }));
    let claimed = ask(clients, 0..operations, claim).await;
    distinct(claimed.replies.iter().map(|reply| &reply["task"]["task_id"]), operations);
    let tasks: Arc<[Value]> = claimed.replies.iter().map(|reply| reply["task"].clone()).collect();
    let completion = move |number: usize| {
        let task = &tasks[number];
        let end = json!({
            "op": "complete", "task_id": task["task_id"], "worker_id": task["assigned_worker"],
            "fencing_token": task["fencing_token"], "result": { "done": true },
        });
        (RPC, end)
    };
    let completed = ask(clients, 0..operations, completion).await;
    assert_eq!(queued(&clients[0]).await, before);
    [submitted, claimed, completed].map(Answers::speed)
}

/// Every one has an id of its own.
fn distinct<'a>(ids: impl Iterator<Item = &'a Value>, count: usize) {
    let ids: BTreeSet<&str> = ids.map(|id| id.as_str().expect("a task was given")).collect();
    assert_eq!(ids.len(), count, "each task is given once");
}

async fn queued(client: &Client) -> usize {
    let status = call(client, RPC, &json!({ "op": "status", "detail": true })).await;
    status["queue"]["queued"].as_u64().and_then(|queued| usize::try_from(queued).ok()).expect("a number")
}

/// Asks once for each number, every client one request at a time.
async fn ask(
    clients: &[Arc<Client>],
    numbers: Range<usize>,
    request: impl Fn(usize) -> Call + Send + Sync + 'static,
) -> Answers {
    let (next, end, request) = (Arc::new(AtomicUsize::new(numbers.start)), numbers.end, Arc::new(request));
    let one_client = |client: &Arc<Client>| {
        let (client, next, request) = (Arc::clone(client), Arc::clone(&next), Arc::clone(&request));
        tokio::spawn(async move {
            let mut answers = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return answers;
                }
                let (tool, arguments) = request(number);
                let started = Instant::now();
                let reply = call(&client, tool, &arguments).await;
                answers.push((reply, started.elapsed()));
            }
        })
    };
    let started = Instant::now();
    let running: Vec<_> = clients.iter().map(one_client).collect();
    let mut answers = Vec::new();
    for client in running {
        answers.extend(client.await.expect("no panic"));
    }
    let took = started.elapsed();
    let (replies, times) = answers.into_iter().unzip();
    Answers { replies, times, took }
}

/// The queue's reply; anything but a success is the end.
async fn call(client: &Client, tool: &str, arguments: &Value) -> Value {
    let mut answer = client.call(tool, arguments).await;
    let reply = answer["result"]["structuredContent"].take();
    assert!(reply["ok"] == true || reply["success"] == true, "{tool}: {answer} {reply}");
    reply
}

impl Answers {
    fn speed(self) -> Speed {
        let operations = self.times.len();
        speed(self.times, operations, self.took)
    }
}
