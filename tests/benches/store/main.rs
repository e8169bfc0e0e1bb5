//! The store's operations a second, how fast it reads when it is large, how soon it is back after a kill, and its memory: each beside something run in the
//! same minute on the same disk.
//!
//! `cargo build --release && cargo bench -p mcpp-tests --bench store` prints one table (some minutes and 6 GB of disk); `-- --json` prints the same as JSON,
//! and `-- --rates` measures only transactions a second.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench is a script: it stops at the first surprise"
)]

#[path = "../calls/client.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod client;
mod disk;
mod engines;
mod large;
mod restart;
#[path = "../calls/server.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod server;

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

/// How long each rate is measured.
const MEASURE: Duration = Duration::from_secs(4);
/// Clients at once.
const CLIENTS: [usize; 4] = [1, 8, 32, 128];

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
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match arguments[..] {
        ["fill-and-wait", folder] => runtime.block_on(restart::fill_and_wait(Path::new(folder))),
        ["hold-tenants", folder, tenants] => {
            runtime.block_on(large::hold_tenants(Path::new(folder), tenants.parse().expect("a number")));
        }
        _ => runtime.block_on(run(arguments.contains(&"--json"), arguments.contains(&"--rates"))),
    }
}

async fn run(as_json: bool, only_rates: bool) {
    let mut rows = Vec::new();
    rows.extend(disk::flush_rate());
    for clients in CLIENTS {
        rows.extend(engines::commits(clients).await);
    }
    rows.extend(engines::calls().await);
    if !only_rates {
        rows.extend(restart::after_a_kill().await);
        rows.extend(large::tenants());
        rows.extend(large::ten_million_keys().await);
    }
    if as_json {
        let rows: Vec<Value> =
            rows.iter().map(|row| json!({ "what": row.what, "value": row.value, "unit": row.unit })).collect();
        println!("{}", serde_json::to_string_pretty(&rows).expect("JSON"));
        return;
    }
    for row in rows {
        println!("{:<86} {:>12.1} {}", row.what, row.value, row.unit);
    }
}
