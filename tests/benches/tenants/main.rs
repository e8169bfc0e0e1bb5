//! What tenants cost and what they do to each other: one tenant's calls alone and beside another at full load, a hundred tenants with fifty tools each, and
//! a hundred thousand sessions that nobody comes back to.
//!
//! `cargo build --release && cargo bench -p mcpp-tests --bench tenants` prints one table; `-- --json` prints the same as JSON. Load generator and host share the processors.
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
#[path = "../calls/server.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod server;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mcpp::tenant::{
    SCOPE_METRICS, SCOPE_TOOLS, TenantId,
    home::Homes,
    tokens::{NewToken, TokenFile},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use client::{Client, Era};
use server::Server;

/// How long each latency is measured.
const MEASURE: Duration = Duration::from_secs(6);
/// The pause between two calls of the tenant that is measured: it has a user, no load.
const PAUSE: Duration = Duration::from_millis(2);
const TENANTS: usize = 100;
const TOOLS: usize = 50;
const SESSIONS: usize = 100_000;

struct Row {
    what: String,
    value: f64,
    unit: &'static str,
}

fn row(what: impl Into<String>, value: f64, unit: &'static str) -> Row {
    Row { what: what.into(), value, unit }
}

fn main() {
    let as_json = std::env::args().any(|argument| argument == "--json");
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rows = runtime.block_on(async {
        let mut rows = beside_each_other().await;
        rows.extend(many_tenants().await);
        rows.extend(abandoned_sessions().await);
        rows
    });
    if as_json {
        let rows: Vec<Value> =
            rows.iter().map(|row| json!({ "what": row.what, "value": row.value, "unit": row.unit })).collect();
        println!("{}", serde_json::to_string_pretty(&rows).expect("JSON"));
        return;
    }
    for row in rows {
        println!("{:<86} {:>12.2} {}", row.what, row.value, row.unit);
    }
}

/// A plain component with these functions, `(result s32)` each, with this body.
fn component(names: &[String], body: &str) -> Vec<u8> {
    let mut exports = String::new();
    for name in names {
        write!(exports, r#"(func (export "{name}") (result s32) (canon lift (core func $i "f")))"#).expect("written");
    }
    let text = format!(
        r#"(component (core module $m (func (export "f") (result i32) {body})) (core instance $i (instantiate $m)) {exports})"#
    );
    wat::parse_str(text).expect("a component")
}

/// A tenant with these components and without its folder pinned; a token for it.
fn team(folder: &Path, name: &str, components: &[(&str, &[u8])]) -> String {
    let homes = Homes::new(folder.join("data"));
    let tenant = TenantId::new(name).expect("legal");
    let settings = toml::from_str("version = 1\npinned = false").expect("valid");
    let home = homes.add(&tenant, settings).expect("made");
    for (component, wasm) in components {
        std::fs::write(home.tools().join(format!("{component}.wasm")), wasm).expect("written");
    }
    let scopes = [SCOPE_TOOLS, SCOPE_METRICS].map(str::to_owned);
    let (subject, tools) = ("bench".to_owned(), Vec::new());
    let new = NewToken { tenant, subject, scopes: BTreeSet::from(scopes), tools, good_for: None };
    TokenFile::new(homes.tokens()).create(new).expect("made").1
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("tools")).expect("made");
    std::fs::create_dir_all(folder.path().join("data")).expect("made");
    folder
}

fn quantile(times: &mut [f64], quantile: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * quantile).round() as usize] * 1e3
}

/// How long single calls, and looks at `/health`, take meanwhile; in seconds.
async fn observe(url: &str, token: &str) -> (Vec<f64>, Vec<f64>) {
    let client = Client::connect_as(url.to_owned(), Era::Modern, token).await;
    let (http, health) = (reqwest::Client::new(), url.replace("/mcp", "/health"));
    let (mut calls, mut looks) = (Vec::new(), Vec::new());
    let until = Instant::now() + MEASURE;
    while Instant::now() < until {
        let started = Instant::now();
        let answer = client.call("mine", &json!({})).await;
        calls.push(started.elapsed().as_secs_f64());
        assert_eq!(answer["result"]["structuredContent"]["result"], 1, "{answer}");
        let started = Instant::now();
        http.get(&health).send().await.expect("an answer").text().await.expect("text");
        looks.push(started.elapsed().as_secs_f64());
        tokio::time::sleep(PAUSE).await;
    }
    (calls, looks)
}

async fn beside_each_other() -> Vec<Row> {
    let folder = folder();
    let names = |name: &str| [name.to_owned()];
    let (mine, short) = (component(&names("mine"), "i32.const 1"), component(&names("short"), "i32.const 1"));
    let forever = component(&names("forever"), "(loop $l (br $l)) i32.const 1");
    let busy = component(
        &names("busy"),
        "(local $n i32) (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 8000000)))) i32.const 1",
    );
    let modest = team(folder.path(), "modest", &[("mine", &mine)]);
    let greedy = team(folder.path(), "greedy", &[("short", &short), ("forever", &forever), ("busy", &busy)]);
    let server = Server::mcpp_in(folder).await;
    let mut rows = Vec::new();
    let (mut calls, mut looks) = observe(&server.url(), &modest).await;
    let (alone, health_alone) = (quantile(&mut calls, 0.99), quantile(&mut looks, 0.99));
    rows.push(row("one tenant alone: a call, p50", quantile(&mut calls, 0.5), "ms"));
    rows.push(row("one tenant alone: a call, p99", alone, "ms"));
    rows.push(row("one tenant alone: /health, p99", health_alone, "ms"));
    for (load, tool, clients) in [
        ("64 calls that never end", "forever", 64),
        ("64 clients with calls of some 10 ms", "busy", 64),
        ("32 clients with short calls without pause", "short", 32),
    ] {
        let stop = Arc::new(AtomicBool::new(false));
        let running: Vec<_> = (0..clients)
            .map(|_| {
                let (stop, url, greedy) = (Arc::clone(&stop), server.url(), greedy.clone());
                tokio::spawn(async move {
                    let client = Client::connect_as(url, Era::Modern, &greedy).await;
                    let nothing = json!({});
                    let until_stopped = async {
                        while !stop.load(Ordering::Relaxed) {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    };
                    let load = async {
                        loop {
                            // Its calls may be refused or stopped; that is its own affair.
                            client.call(tool, &nothing).await;
                        }
                    };
                    tokio::select! {
                        () = until_stopped => {}
                        () = load => {}
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (mut calls, mut looks) = observe(&server.url(), &modest).await;
        stop.store(true, Ordering::Relaxed);
        for client in running {
            client.await.expect("no panic");
        }
        let beside = quantile(&mut calls, 0.99);
        rows.push(row(format!("beside another's {load}: a call, p50"), quantile(&mut calls, 0.5), "ms"));
        rows.push(row(format!("beside another's {load}: a call, p99"), beside, "ms"));
        rows.push(row(format!("beside another's {load}: a call, p99 / alone"), beside / alone, "×"));
        rows.push(row(format!("beside another's {load}: /health, p99"), quantile(&mut looks, 0.99), "ms"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    rows
}

async fn many_tenants() -> Vec<Row> {
    let empty = folder();
    let token = team(empty.path(), "team-0", &[]);
    let server = Server::mcpp_in(empty).await;
    let bare = server.resident_bytes();
    drop((server, token));
    let folder = folder();
    let mut tokens = Vec::new();
    for tenant in 0..TENANTS {
        // Each its own: nothing is shared between them.
        let names: Vec<String> = (0..TOOLS).map(|tool| format!("t{tenant}n{tool}")).collect();
        let wasm = component(&names, &format!("i32.const {tenant}"));
        tokens.push(team(folder.path(), &format!("team-{tenant}"), &[("many", &wasm)]));
    }
    let server = Server::mcpp_in(folder).await;
    let cold = server.started_in();
    let folder = server.stop();
    let server = Server::mcpp_in(folder).await;
    let warm = server.started_in();
    let full = server.resident_bytes();
    for (tenant, token) in tokens.iter().enumerate() {
        let client = Client::connect_as(server.url(), Era::Modern, token).await;
        let answer = client.call(&format!("many_t{tenant}n7"), &json!({})).await;
        assert_eq!(answer["result"]["structuredContent"]["result"], tenant, "{answer}");
    }
    vec![
        row(
            format!("{TENANTS} tenants with {TOOLS} tools each: start, nothing compiled"),
            cold.as_secs_f64() * 1e3,
            "ms",
        ),
        row(
            format!("{TENANTS} tenants with {TOOLS} tools each: start, compiled before"),
            warm.as_secs_f64() * 1e3,
            "ms",
        ),
        row("one tenant without tools of its own: memory", bare / 1e6, "MB"),
        row(format!("{TENANTS} tenants with {TOOLS} tools each: memory"), full / 1e6, "MB"),
        row("each further tenant with its tools", (full - bare) / TENANTS as f64 / 1e6, "MB"),
        row("the same after a call of each", server.resident_bytes() / 1e6, "MB"),
    ]
}

async fn abandoned_sessions() -> Vec<Row> {
    let folder = folder();
    std::fs::write(
        folder.path().join("mcpp.toml"),
        "[sessions]\nmax = 200000\nmax_per_principal = 200000\n[tenant_limits]\nsessions = 200000\n",
    )
    .expect("written");
    let server = Server::mcpp_in(folder).await;
    let before = server.resident_bytes();
    let tenth = open(&server, SESSIONS / 10).await;
    let all = open(&server, SESSIONS - SESSIONS / 10).await;
    vec![
        row("no session: memory", before / 1e6, "MB"),
        row(format!("{} abandoned sessions: memory", SESSIONS / 10), tenth / 1e6, "MB"),
        row(format!("{SESSIONS} abandoned sessions: memory"), all / 1e6, "MB"),
        row("each abandoned session", (all - before) / SESSIONS as f64 / 1024.0, "KiB"),
    ]
}

/// Opens sessions that nobody comes back to; the memory when they are parked.
async fn open(server: &Server, count: usize) -> f64 {
    let openers: Vec<_> = (0..8).map(|_| tokio::spawn(Client::abandon_sessions(server.url(), count / 8))).collect();
    for opener in openers {
        opener.await.expect("no panic");
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    server.resident_bytes()
}
