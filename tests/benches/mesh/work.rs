//! Submissions to the queue of a peer, each durable when it is answered: one task a request with many in flight, and many tasks a request.

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    caller::{Caller, Line},
    client::{Client, Era},
    hosts::MeshedHost,
    print_cpu, print_row, print_times,
};

/// Tasks that are submitted one by one, and how many requests are in flight then.
const TASKS: usize = 20_000;
// The door takes 64 requests of a peer at once.
const IN_FLIGHT: [usize; 3] = [1, 32, 64];
/// Tasks of one request, all of them, and how many requests are in flight then.
const BATCH: usize = 500;
const BATCHED: usize = 100_000;
const BATCHES_IN_FLIGHT: usize = 8;

fn task(number: usize) -> Value {
    json!({ "task_type": "bench", "model_name": "m", "payload": { "n": number, "text": "x".repeat(64) } })
}

fn submit(number: usize) -> Value {
    let mut request = task(number);
    request["op"] = json!("submit");
    request
}

fn submit_many(number: usize) -> Value {
    json!({ "op": "submit_many", "tasks": (0..BATCH).map(|n| task(number * BATCH + n)).collect::<Vec<_>>() })
}

/// Prints the rates.
pub(crate) async fn measure() {
    through_a_host().await;
    for transport in ["tcp", "quic"] {
        let host = MeshedHost::with_queue().await;
        let caller = Caller::join(&host).await;
        let line = caller.line(&host, transport).await;
        line.calls_of("task_queue.rpc", submit, TASKS / 10, IN_FLIGHT[1]).await;
        for in_flight in IN_FLIGHT {
            let what = format!("remote submit, {transport}, {in_flight} in flight");
            let tasks = if in_flight == 1 { TASKS / 10 } else { TASKS };
            rate(&what, &host, &line, (submit, tasks, in_flight, 1)).await;
        }
        let what = format!("remote submit of {BATCH} at once, {transport}, {BATCHES_IN_FLIGHT} in flight");
        rate(&what, &host, &line, (submit_many, BATCHED / BATCH, BATCHES_IN_FLIGHT, BATCH)).await;
    }
}

async fn rate(
    what: &str,
    host: &MeshedHost,
    line: &Line,
    (request, requests, in_flight, tasks_each): (fn(usize) -> Value, usize, usize, usize),
) {
    let (started, before) = (Instant::now(), host.server.cpu());
    let times = line.calls_of("task_queue.rpc", request, requests, in_flight).await;
    let tasks = requests * tasks_each;
    print_row(format!("{what}: tasks"), tasks as f64 / started.elapsed().as_secs_f64(), "/s");
    print_times(what, &times);
    print_cpu(what, &[("called", host, before)], tasks);
}

/// By the tool of another host, as its clients submit: HTTP, the queue's component there, mesh, the queue's component here.
async fn through_a_host() {
    let (called, calling) = (MeshedHost::with_queue().await, MeshedHost::with_queue().await);
    calling.join(&called);
    let mut arguments = task(0);
    arguments["peer_id"] = json!(called.id);
    let (started, before) = (Instant::now(), [called.server.cpu(), calling.server.cpu()]);
    let clients = (0..IN_FLIGHT[1]).map(|_| async {
        let client = Client::connect(calling.server.url(), Era::Modern).await;
        for _ in 0..TASKS / IN_FLIGHT[1] {
            let answer = client.call("p2p_taskqueue_submit", &arguments).await;
            assert!(answer["result"]["structuredContent"]["ok"] == true, "{answer}");
        }
    });
    futures::future::join_all(clients).await;
    let what = format!("remote submit, HTTP → p2p_taskqueue_submit → mesh, {} in flight", IN_FLIGHT[1]);
    print_row(format!("{what}: tasks"), TASKS as f64 / started.elapsed().as_secs_f64(), "/s");
    print_cpu(&what, &[("called", &called, before[0]), ("calling", &calling, before[1])], TASKS);
}
