//! The speed of the task queue while 0, 100,000 and 1,000,000 tasks wait in it: durable submissions, claims and completions a second by 32 clients at once, and how long each
//! takes. Beside it, in the same run and on the same disk, BullMQ on a Redis that flushes before it answers (`appendfsync always`), with the same tasks.
//!
//! `cargo build --release && cargo bench -p mcpp-tests --bench queue` prints one table; `-- --json` prints the same as JSON; `-- --small` is a try-out with 0 and 1,000 tasks and few
//! operations. It needs Node.js with npm and Debian's `redis-server`, of which it starts one of its own.
//!
//! The machine's cores are shared by server and clients on both sides. Ours are 32 connections of one Rust program, each with ordinary HTTP requests, one at a time; BullMQ's are 32 loops
//! in one Node.js process, as a BullMQ program has them: they share a connection, so that Redis can answer several of them after one flush.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench is a script: it stops at the first surprise"
)]

mod bullmq;
#[path = "../calls/client.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod client;
#[path = "../store/disk.rs"]
mod disk;
mod ours;
#[path = "../calls/server.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod server;

use std::time::Duration;

use serde_json::{Value, json};

use self::{bullmq::BullMq, ours::Ours};

/// How long the disk is measured.
const MEASURE: Duration = Duration::from_secs(4);
/// Clients at once.
const CLIENTS: usize = 32;
/// The measured operations, in this order: so many tasks are submitted, as many claimed, and those completed, so that as many wait afterwards as before.
const OPERATIONS: [&str; 3] = ["submit", "claim", "complete"];

/// How much is measured.
struct Extent {
    backlogs: &'static [usize],
    operations: usize,
}

const WHOLE: Extent = Extent { backlogs: &[0, 100_000, 1_000_000], operations: 10_000 };
const SMALL: Extent = Extent { backlogs: &[0, 1_000], operations: 500 };

/// The measurements of one operation.
pub(crate) struct Speed {
    /// In a second.
    rate: f64,
    p50_us: f64,
    p99_us: f64,
}

pub(crate) struct Row {
    what: String,
    value: f64,
    unit: &'static str,
}

pub(crate) fn row(what: impl Into<String>, value: f64, unit: &'static str) -> Row {
    Row { what: what.into(), value, unit }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rows = runtime.block_on(run(if has("--small") { SMALL } else { WHOLE }));
    if has("--json") {
        let rows: Vec<Value> =
            rows.iter().map(|row| json!({ "what": row.what, "value": row.value, "unit": row.unit })).collect();
        println!("{}", serde_json::to_string_pretty(&rows).expect("JSON"));
        return;
    }
    for row in rows {
        println!("{:<60} {:>12.2} {}", row.what, row.value, row.unit);
    }
}

async fn run(extent: Extent) -> Vec<Row> {
    let mut rows = disk::flush_rate();
    let (ours, bullmq) = (Ours::start().await, BullMq::start().await);
    for &backlog in extent.backlogs {
        ours.fill(backlog).await;
        let measured = ours.measure(extent.operations).await;
        let theirs = bullmq.fill_and_measure(backlog, extent.operations);
        for ((operation, ours), theirs) in OPERATIONS.iter().zip(measured).zip(theirs) {
            let what = format!("{backlog} queued, {operation}");
            for (name, speed) in [("mcpp", &ours), ("BullMQ", &theirs)] {
                rows.push(row(format!("{what}: {name}"), speed.rate, "1/s"));
                rows.push(row(format!("{what}: {name}, p50"), speed.p50_us / 1e3, "ms"));
                rows.push(row(format!("{what}: {name}, p99"), speed.p99_us / 1e3, "ms"));
            }
            rows.push(row(format!("{what}: mcpp / BullMQ"), ours.rate / theirs.rate, "×"));
        }
    }
    rows
}
