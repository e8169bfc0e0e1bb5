//! The cost of a call, and the host's own cost around it, each beside something run in the same minute.
//!
//! `cargo build --release && cargo bench -p mcpp-tests` prints one table; `-- --json` prints the same as JSON. Servers are processes of their own, so that their CPU time
//! can be told from the client's. Nothing here is asserted: numbers are for people.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench is a script: it stops at the first surprise"
)]

mod client;
mod engines;
mod native;
mod server;
mod times;

use std::time::{Duration, Instant};

use mcpp::{
    engine::{
        Engine, EngineConfig,
        features::{Code, Features, Heap, Tasks},
    },
    limits::Fuel,
};
use serde_json::{Value, json};

use self::{
    client::{Client, Era},
    server::Server,
    times::Times,
};

/// Calls that are timed, after a tenth as many that are not.
const CALLS: usize = 4_000;
/// Abandoned sessions.
const SESSIONS: usize = 15_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match arguments.first().map(String::as_str) {
        Some("serve-rmcp") => runtime.block_on(native::serve_rmcp()),
        Some("serve-axum") => runtime.block_on(native::serve_axum()),
        Some("engines") => runtime.block_on(async { print(&engines().await, false) }),
        _ => runtime.block_on(run(arguments.iter().any(|argument| argument == "--json"))),
    }
}

async fn run(as_json: bool) {
    let mut rows = Vec::new();
    rows.extend(calls().await);
    rows.extend(loops().await);
    rows.extend(swaps().await);
    rows.extend(starts().await);
    rows.extend(sessions().await);
    rows.extend(engines().await);
    print(&rows, as_json);
}

fn print(rows: &[Row], as_json: bool) {
    if as_json {
        let rows: Vec<Value> =
            rows.iter().map(|row| json!({ "what": row.what, "value": row.value, "unit": row.unit })).collect();
        println!("{}", serde_json::to_string_pretty(&rows).expect("JSON"));
        return;
    }
    for row in rows {
        println!("{:<78} {:>10.1} {}", row.what, row.value, row.unit);
    }
}

struct Row {
    what: String,
    value: f64,
    unit: &'static str,
}

fn row(what: impl Into<String>, value: f64, unit: &'static str) -> Row {
    Row { what: what.into(), value, unit }
}

async fn time_calls(client: &Client, tool: &str, arguments: &Value, calls: usize) -> Times {
    for _ in 0..calls / 10 {
        client.call(tool, arguments).await;
    }
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let started = Instant::now();
        client.call(tool, arguments).await;
        times.push(started.elapsed());
    }
    Times::new(times)
}

/// p50, p99 and CPU of one kind of call on one server.
async fn measure(
    rows: &mut Vec<Row>,
    name: &str,
    server: &Server,
    era: Era,
    tool: &str,
    arguments: Value,
) -> (f64, f64) {
    let client = Client::connect(server.url(), era).await;
    let before = server.cpu();
    let times = time_calls(&client, tool, &arguments, CALLS).await;
    let calls = (CALLS + CALLS / 10) as f64;
    let cpu = (server.cpu() - before).as_secs_f64() * 1e6 / calls;
    rows.push(row(format!("{name}: p50"), times.at(0.5), "µs"));
    rows.push(row(format!("{name}: p99"), times.at(0.99), "µs"));
    rows.push(row(format!("{name}: CPU a call"), cpu, "µs"));
    (times.at(0.5), cpu)
}

async fn calls() -> Vec<Row> {
    let mut rows = Vec::new();
    let (mcpp, rmcp, axum) = (
        Server::mcpp(&[("add", &add())]).await,
        Server::native("serve-rmcp").await,
        Server::native("serve-axum").await,
    );
    let numbers = json!({ "a": 40, "b": 2 });
    measure(&mut rows, "bare axum handler, modern", &axum, Era::Modern, "add", numbers.clone()).await;
    let native =
        measure(&mut rows, "rmcp's own server, native tool, modern", &rmcp, Era::Modern, "add", numbers.clone()).await;
    let plain = measure(&mut rows, "mcpp, plain Wasm tool, modern", &mcpp, Era::Modern, "add", numbers.clone()).await;
    let sdk = measure(
        &mut rows,
        "mcpp, SDK Wasm tool, modern",
        &mcpp,
        Era::Modern,
        "text_statistics",
        json!({ "text": "hello" }),
    )
    .await;
    let native_legacy =
        measure(&mut rows, "rmcp's own server, native tool, legacy", &rmcp, Era::Legacy, "add", numbers.clone()).await;
    let legacy = measure(&mut rows, "mcpp, plain Wasm tool, legacy", &mcpp, Era::Legacy, "add", numbers).await;
    for (name, wasm, native) in
        [("plain, modern", plain, native), ("SDK, modern", sdk, native), ("plain, legacy", legacy, native_legacy)]
    {
        rows.push(row(format!("Wasm over native ({name}): p50 more"), wasm.0 - native.0, "µs"));
        rows.push(row(format!("Wasm over native ({name}): CPU more"), wasm.1 - native.1, "µs"));
        rows.push(row(format!("Wasm over native ({name}): p50 ratio"), wasm.0 / native.0, "×"));
    }
    rows
}

async fn loops() -> Vec<Row> {
    let mcpp = Server::mcpp(&[("add", &add()), ("spin", &spin())]).await;
    let client = Client::connect(mcpp.url(), Era::Modern).await;
    let alone = time_calls(&client, "add", &json!({ "a": 1, "b": 2 }), 1_000).await;
    let loops: Vec<_> = (0..2).map(|_| tokio::spawn(Client::connect_and_call(mcpp.url(), "spin"))).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let beside = time_calls(&client, "add", &json!({ "a": 1, "b": 2 }), 1_000).await;
    for running in loops {
        running.abort();
    }
    vec![
        row("call alone: p50", alone.at(0.5), "µs"),
        row("call alone: p99", alone.at(0.99), "µs"),
        row("call beside two looping tools on two cores: p50", beside.at(0.5), "µs"),
        row("call beside two looping tools on two cores: p99", beside.at(0.99), "µs"),
    ]
}

async fn swaps() -> Vec<Row> {
    let mcpp = Server::mcpp(&[("v", &version(0))]).await;
    let client = Client::connect(mcpp.url(), Era::Modern).await;
    let mut times = Vec::new();
    for n in 1..=60 {
        // A build that was live before comes from the compile cache: what is left is the swap itself.
        let wasm = version(n % 2);
        let started = Instant::now();
        mcpp.write("v", &wasm);
        while client.call("v", &json!({})).await["result"]["structuredContent"]["result"] != json!(n % 2) {}
        times.push(started.elapsed());
    }
    let swap = Times::new(times);
    let guest = std::path::Path::new(env!("MCPP_TEST_GUESTS")).join("probe.wasm");
    let wasm = std::fs::read(guest).expect("a guest");
    let started = Instant::now();
    mcpp.write("probe", &wasm);
    while client.call("probe_add", &json!({ "a": 1, "b": 2 })).await.get("error").is_some() {
        // The host holds back a client that asks more often for a missing tool.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let compiled = started.elapsed();
    vec![
        row("saved → serving, compiled before: p50", swap.at(0.5) / 1e3, "ms"),
        row("saved → serving, compiled before: p99", swap.at(0.99) / 1e3, "ms"),
        row("saved → serving, Rust SDK tool of 0.2 MB, compile counted", compiled.as_secs_f64() * 1e3, "ms"),
    ]
}

async fn starts() -> Vec<Row> {
    let first = Server::mcpp(&[("add", &add())]).await;
    let cold = first.started_in();
    let folder = first.stop();
    let mut times = Vec::new();
    let mut folder = Some(folder);
    for _ in 0..10 {
        let server = Server::mcpp_in(folder.take().expect("a folder")).await;
        times.push(server.started_in());
        folder = Some(server.stop());
    }
    let warm = Times::new(times);
    vec![
        row("start → first answer, nothing compiled", cold.as_secs_f64() * 1e3, "ms"),
        row("start → first answer, compile cache warm: p50", warm.at(0.5) / 1e3, "ms"),
    ]
}

async fn sessions() -> Vec<Row> {
    let mcpp = Server::mcpp(&[]).await;
    Client::abandon_sessions(mcpp.url(), 1).await;
    let before = mcpp.resident_bytes();
    Client::abandon_sessions(mcpp.url(), SESSIONS).await;
    let opened = mcpp.resident_bytes();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let parked = mcpp.resident_bytes();
    let each = |bytes: f64| (bytes - before) / SESSIONS as f64 / 1024.0;
    vec![
        row(format!("{SESSIONS} sessions just abandoned: resident memory each"), each(opened), "KiB"),
        row(format!("{SESSIONS} abandoned sessions, parked: resident memory each"), each(parked), "KiB"),
    ]
}

async fn engines() -> Vec<Row> {
    let engine = Engine::new(&EngineConfig::default()).expect("an engine");
    let with = |tasks, heap, fuel| {
        engine.with(Features { code: Code::Optimized, tasks, heap, fuel }).expect("an engine").clone()
    };
    let of = [
        ("plain", engine.wasmtime().clone()),
        ("with tasks", with(Tasks::Many, Heap::None, Fuel::Uncounted)),
        ("with a heap", with(Tasks::One, Heap::Collected, Fuel::Uncounted)),
        ("with fuel", with(Tasks::One, Heap::None, Fuel::Counted)),
    ];
    let times = engines::measure(&of, &add()).await;
    let plain = times[0].1;
    let mut rows = Vec::new();
    for (name, time) in times {
        rows.push(row(format!("instance made, called and gone, engine {name}"), time, "µs"));
        rows.push(row(format!("engine {name} over plain"), time / plain, "×"));
    }
    rows
}

fn component(name: &str, params: &str, body: &str) -> Vec<u8> {
    let core = params.matches("s32").map(|_| "i32").collect::<Vec<_>>().join(" ");
    let core = if core.is_empty() { String::new() } else { format!("(param {core})") };
    let text = format!(
        r#"(component
            (core module $m (func (export "f") {core} (result i32) {body}))
            (core instance $i (instantiate $m))
            (func (export "{name}") {params} (result s32) (canon lift (core func $i "f"))))"#
    );
    wat::parse_str(text).expect("a component")
}

fn add() -> Vec<u8> {
    component("add", r#"(param "a" s32) (param "b" s32)"#, "local.get 0 local.get 1 i32.add")
}

fn spin() -> Vec<u8> {
    component("spin", "", "(loop (br 0)) i32.const 1")
}

fn version(version: u32) -> Vec<u8> {
    component("v", "", &format!("i32.const {version}"))
}
