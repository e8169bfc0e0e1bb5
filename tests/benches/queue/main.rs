//! The speed of the task queue while 0, 100,000 and 1,000,000 tasks wait in it: durable submissions, claims and completions a second by 32 clients at once, and how long each
//! takes; and the same in batches. Beside it, in the same run and on the same disk, BullMQ on a Redis that flushes before it answers (`appendfsync always`), and a queue in
//! PostgreSQL, with the same tasks.
//!
//! `cargo build --release && cargo bench -p mcpp-tests --bench queue` prints one table; `-- --json` prints the same as JSON; `-- --small` is a try-out with 0 and 1,000 tasks and few
//! operations. It needs Node.js with npm and Debian's `redis-server` and `postgresql`, of which it starts one each of its own.
//!
//! The machine's cores are shared by server and clients on both sides. Ours are 32 connections of one Rust program, each with ordinary HTTP requests, one at a time; BullMQ's are 32 loops
//! in one Node.js process, as a BullMQ program has them: they share a connection, so that Redis can answer several of them after one flush.
//! PostgreSQL has as many connections as there are clients.
//!
//! In batches, 8 clients submit 500 tasks a call, and complete and claim 128 a call. BullMQ adds as many with `addBulk`; it completes and claims one task with one command, so all its 32
//! loops do that.
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
mod postgres;
#[path = "../calls/server.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod server;

use std::time::Duration;

use serde_json::{Value, json};

use self::{bullmq::BullMq, ours::Ours, postgres::Postgres};

/// How long the disk is measured.
const MEASURE: Duration = Duration::from_secs(4);
/// Clients at once.
const CLIENTS: usize = 32;
/// The measured operations, in this order: so many tasks are submitted, as many claimed, and those completed, so that as many wait afterwards as before.
const OPERATIONS: [&str; 3] = ["submit", "claim", "complete"];

/// The measured operations in batches.
const BATCHED: [&str; 2] = ["submit in batches", "complete and claim in batches"];
/// Clients at once that use batches.
const BATCH_CLIENTS: usize = 8;
/// Tasks of one submission.
const SUBMITTED_AT_ONCE: usize = 500;
/// Tasks of one claim.
const CLAIMED_AT_ONCE: usize = 128;

/// How much is measured.
struct Extent {
    backlogs: &'static [usize],
    operations: usize,
    batched: usize,
}

const WHOLE: Extent = Extent { backlogs: &[0, 100_000, 1_000_000], operations: 10_000, batched: 50_000 };
const SMALL: Extent = Extent { backlogs: &[0, 1_000], operations: 500, batched: 2_000 };

/// The measurements of one operation.
pub(crate) struct Speed {
    /// In a second.
    rate: f64,
    p50_us: f64,
    p99_us: f64,
}

/// The speed of `operations` in calls that took so long each, and so long all.
pub(crate) fn speed(mut times: Vec<Duration>, operations: usize, took: Duration) -> Speed {
    times.sort();
    let last = times.len() - 1;
    let at = |quantile: f64| times[(last as f64 * quantile).round() as usize].as_secs_f64() * 1e6;
    Speed { rate: operations as f64 / took.as_secs_f64(), p50_us: at(0.5), p99_us: at(0.99) }
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
    let (ours, bullmq, postgres) = (Ours::start().await, BullMq::start().await, Postgres::start().await);
    for &backlog in extent.backlogs {
        ours.fill(backlog).await;
        postgres.fill(backlog).await;
        let mut measured: Vec<[Speed; 3]> = Vec::new();
        let (single, batched) = bullmq.fill_and_measure(backlog, extent.operations, extent.batched);
        let (ours_single, postgres_single) =
            (ours.measure(extent.operations).await, postgres.measure(extent.operations).await);
        for ((ours, bullmq), postgres) in ours_single.into_iter().zip(single).zip(postgres_single) {
            measured.push([ours, bullmq, postgres]);
        }
        let (ours_batched, postgres_batched) =
            (ours.measure_batched(extent.batched).await, postgres.measure_batched(extent.batched).await);
        for ((ours, bullmq), postgres) in ours_batched.into_iter().zip(batched).zip(postgres_batched) {
            measured.push([ours, bullmq, postgres]);
        }
        for (operation, speeds) in OPERATIONS.iter().chain(&BATCHED).zip(measured) {
            let what = format!("{backlog} queued, {operation}");
            for (name, speed) in ["mcpp", "BullMQ", "PostgreSQL"].iter().zip(&speeds) {
                rows.push(row(format!("{what}: {name}"), speed.rate, "1/s"));
                rows.push(row(format!("{what}: {name}, p50 of a call"), speed.p50_us / 1e3, "ms"));
                rows.push(row(format!("{what}: {name}, p99 of a call"), speed.p99_us / 1e3, "ms"));
            }
            let [ours, bullmq, postgres] = speeds.map(|speed| speed.rate);
            rows.push(row(format!("{what}: mcpp / BullMQ"), ours / bullmq, "×"));
            rows.push(row(format!("{what}: mcpp / PostgreSQL"), ours / postgres, "×"));
        }
    }
    rows
}
