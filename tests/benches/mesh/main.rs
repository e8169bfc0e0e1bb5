//! The cost of the mesh: a call on a peer over an open connection and over a new one, many calls in flight, and peers that are connected and do nothing.
//!
//! `cargo build --release && cargo bench -p mcpp-tests --bench mesh` prints one table; `-- --json` prints one JSON object a line, and any other word chooses among `calls`, `cold`,
//! `work` and `idle`. Hosts are processes of their own, so that their CPU time and memory can be told apart. Nothing here is asserted: numbers are for people.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench is a script: it stops at the first surprise"
)]

mod caller;
#[path = "../calls/client.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod client;
mod hosts;
mod idle;
#[path = "../calls/server.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod server;
#[path = "../calls/times.rs"]
mod times;
mod work;

use std::{
    future::Future,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;

use self::{
    caller::Caller,
    client::{Client, Era},
    hosts::MeshedHost,
    times::Times,
};

/// Calls one by one that are timed, after a tenth as many that are not.
const CALLS: usize = 4_000;
/// Calls with many in flight.
const MANY_CALLS: usize = 60_000;
/// Calls in flight.
const IN_FLIGHT: usize = 32;
/// Connections made one after the other.
const CONNECTIONS: usize = 100;
/// Time between two of them.
const BETWEEN: Duration = Duration::from_millis(25);
/// Peers that do nothing: as many as the seeds promised, and many more.
const IDLE_PEERS: [usize; 2] = [150, 1_000];

/// Whether rows are printed as JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

fn print_row(what: impl Into<String>, value: f64, unit: &'static str) {
    let what = what.into();
    if AS_JSON.load(Ordering::Relaxed) {
        println!("{}", json!({ "what": what, "value": value, "unit": unit }));
    } else {
        println!("{what:<96} {value:>10.2} {unit}");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    AS_JSON.store(arguments.iter().any(|argument| argument == "--json"), Ordering::Relaxed);
    let chosen: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wants = |part: &str| chosen.is_empty() || chosen.iter().any(|word| *word == part);
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        if wants("calls") {
            calls().await;
        }
        if wants("cold") {
            cold().await;
        }
        if wants("work") {
            work::measure().await;
        }
        if wants("idle") {
            for transport in ["tcp", "quic"] {
                for peers in IDLE_PEERS {
                    idle::measure(transport, peers).await;
                }
            }
        }
    });
}

/// Prints how long calls took.
fn print_times(what: &str, times: &Times) {
    print_row(format!("{what}: p50"), times.at(0.5), "µs");
    print_row(format!("{what}: p99"), times.at(0.99), "µs");
}

/// Times something, again and again.
async fn time<F: Future<Output = ()>>(times: usize, mut once: impl FnMut() -> F) -> Times {
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let started = Instant::now();
        once().await;
        taken.push(started.elapsed());
    }
    Times::new(taken)
}

/// Prints the processor time of hosts for each of so many calls.
fn print_cpu(what: &str, hosts: &[(&str, &MeshedHost, Duration)], calls: usize) {
    for (name, host, before) in hosts {
        let cpu = (host.server.cpu() - *before).as_secs_f64() * 1e6 / calls as f64;
        print_row(format!("{what}: CPU of the {name} host a call"), cpu, "µs");
    }
}

/// Calls over a connection that is open: from the bench straight to the door of a host, and through a host with a mount.
async fn calls() {
    let called = MeshedHost::start("", true).await;
    let calling = MeshedHost::start("", false).await;
    calling.join(&called);
    calling.command(&["mount", "far", "--peer", &called.id, "--tool", "add"]);
    let caller = Caller::join(&called).await;
    let numbers = json!({ "a": 40, "b": 2 });

    let local = Client::connect(called.server.url(), Era::Modern).await;
    let far = Client::connect(calling.server.url(), Era::Modern).await;
    for (what, client, tool) in
        [("the tool here, over HTTP", &local, "add"), ("the tool on a peer, HTTP → mount → mesh", &far, "far_add")]
    {
        let once = || async { drop(client.call(tool, &numbers).await) };
        time(CALLS / 10, once).await;
        let before = [called.server.cpu(), calling.server.cpu()];
        let times = time(CALLS, once).await;
        print_times(what, &times);
        print_cpu(what, &[("called", &called, before[0]), ("calling", &calling, before[1])], CALLS);
    }
    for transport in ["tcp", "quic"] {
        let what = format!("frames of the mesh alone, {transport}");
        let line = caller.line(&called, transport).await;
        line.calls(CALLS / 10, 1).await;
        let before = called.server.cpu();
        print_times(&what, &line.calls(CALLS, 1).await);
        print_cpu(&what, &[("called", &called, before)], CALLS);
        let (started, before) = (Instant::now(), called.server.cpu());
        line.calls(MANY_CALLS, IN_FLIGHT).await;
        let what = format!("{what}, {IN_FLIGHT} in flight");
        print_row(format!("{what}: calls"), MANY_CALLS as f64 / started.elapsed().as_secs_f64(), "/s");
        print_cpu(&what, &[("called", &called, before)], MANY_CALLS);
    }
    let started = Instant::now();
    let before = [called.server.cpu(), calling.server.cpu()];
    let clients = (0..IN_FLIGHT).map(|_| async {
        let client = Client::connect(calling.server.url(), Era::Modern).await;
        for _ in 0..MANY_CALLS / 2 / IN_FLIGHT {
            drop(client.call("far_add", &numbers).await);
        }
    });
    futures::future::join_all(clients).await;
    let what = format!("the tool on a peer, HTTP → mount → mesh, {IN_FLIGHT} in flight");
    print_row(format!("{what}: calls"), (MANY_CALLS / 2) as f64 / started.elapsed().as_secs_f64(), "/s");
    print_cpu(&what, &[("called", &called, before[0]), ("calling", &calling, before[1])], MANY_CALLS / 2);
}

/// From nothing to the first answer: connection, encryption, protocols, stream, call.
async fn cold() {
    let called = MeshedHost::start("", true).await;
    let caller = Caller::join(&called).await;
    for transport in ["tcp", "quic"] {
        let mut taken = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            caller.hang_up(&called).await;
            // The door takes 64 new streams of a peer in a second.
            tokio::time::sleep(BETWEEN).await;
            let started = Instant::now();
            caller.line(&called, transport).await.calls(1, 1).await;
            taken.push(started.elapsed());
        }
        print_times(&format!("a new connection to its first answer, {transport}"), &Times::new(taken));
    }
}
