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
    CLIENTS, Speed,
    client::{Client, Era},
    server::Server,
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

    /// Submits, claims and completes so many tasks.
    pub(crate) async fn measure(&self, operations: usize) -> [Speed; 3] {
        let clients = self.clients(CLIENTS).await;
        // The first round is not counted: connecting, first uses.
        round(&clients, operations.div_ceil(10)).await;
        round(&clients, operations).await
    }
}

/// The payload is 200 bytes of JSON.
fn submission(number: usize) -> Value {
    let payload = json!({ "number": number, "priority": number % PRIORITIES + 1, "text": "x".repeat(TEXT_BYTES) });
    json!({ "op": "submit", "task_type": "bench", "payload": payload })
}

async fn round(clients: &[Arc<Client>], operations: usize) -> [Speed; 3] {
    let before = queued(&clients[0]).await;
    let submitted = ask(clients, 0..operations, submission).await;
    distinct(submitted.replies.iter().map(|reply| &reply["task_id"]), operations);
    let claim = |number: usize| json!({ "op": "claim", "worker_id": format!("worker-{}", number % CLIENTS) });
    let claimed = ask(clients, 0..operations, claim).await;
    distinct(claimed.replies.iter().map(|reply| &reply["task"]["task_id"]), operations);
    let tasks: Arc<[Value]> = claimed.replies.iter().map(|reply| reply["task"].clone()).collect();
    let completion = move |number: usize| {
        let task = &tasks[number];
        json!({
            "op": "complete", "task_id": task["task_id"], "worker_id": task["assigned_worker"],
            "fencing_token": task["fencing_token"], "result": { "done": true },
        })
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
    let status = rpc(client, &json!({ "op": "status", "detail": true })).await;
    status["queue"]["queued"].as_u64().and_then(|queued| usize::try_from(queued).ok()).expect("a number")
}

/// Asks once for each number, every client one request at a time.
async fn ask(
    clients: &[Arc<Client>],
    numbers: Range<usize>,
    request: impl Fn(usize) -> Value + Send + Sync + 'static,
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
                let request = request(number);
                let started = Instant::now();
                let reply = rpc(&client, &request).await;
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
async fn rpc(client: &Client, request: &Value) -> Value {
    let mut answer = client.call("task_queue.rpc", request).await;
    let reply = answer["result"]["structuredContent"].take();
    assert!(reply["ok"] == true, "{request}: {answer} {reply}");
    reply
}

impl Answers {
    fn speed(mut self) -> Speed {
        self.times.sort();
        let last = self.times.len() - 1;
        let at = |quantile: f64| self.times[(last as f64 * quantile).round() as usize].as_secs_f64() * 1e6;
        Speed { rate: self.times.len() as f64 / self.took.as_secs_f64(), p50_us: at(0.5), p99_us: at(0.99) }
    }
}
