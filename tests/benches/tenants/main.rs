//! What tenants cost and what they do to each other: one tenant's calls alone and beside another at full load, a hundred tenants with fifty tools each, and
//! a hundred thousand sessions that nobody comes back to.
//!
//! `cargo build --release && cargo bench -p mcpp-tests --bench tenants` prints one table; `-- --json` prints one JSON object a line. Load generator and host share the processors:
//! the attackers' threads have the lowest priority, so that the host gets the time that it would have if they were on other machines. The other program has an ordinary one.
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
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mcpp::tenant::{
    SCOPE_METRICS, SCOPE_TOOLS, TenantId,
    home::Homes,
    tokens::{NewToken, TokenFile},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinHandle};

use client::{Client, Era};
use server::Server;

/// How long each latency is measured at a time, and how often; the median of those times' quantiles counts.
const MEASURE: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
/// The pause between two calls of the tenant that is measured: it has a user, no load.
const PAUSE: Duration = Duration::from_millis(2);
const TENANTS: usize = 100;
const TOOLS: usize = 50;
const SESSIONS: usize = 100_000;

/// Whether rows are printed as JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

fn print_row(what: impl Into<String>, value: f64, unit: &'static str) {
    let what = what.into();
    if AS_JSON.load(Ordering::Relaxed) {
        println!("{}", json!({ "what": what, "value": value, "unit": unit }));
    } else {
        println!("{what:<76} {value:>10.2} {unit}");
    }
}

fn main() {
    let as_json = std::env::args().any(|argument| argument == "--json");
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // A thread that cannot be given a lower priority would measure something else.
        .on_thread_start(|| {
            rustix::process::nice(19).expect("a lower priority");
        })
        .build()
        .expect("a runtime");
    AS_JSON.store(as_json, Ordering::Relaxed);
    runtime.block_on(async {
        beside_each_other().await;
        many_tenants().await;
        abandoned_sessions().await;
    });
}

/// A plain component with these functions, `(result s32)` each, with this body.
fn component(names: &[String], body: &str) -> Vec<u8> {
    let mut exports = String::new();
    for name in names {
        write!(exports, r#"(func (export "{name}") (result s32) (canon lift (core func $i "f")))"#).expect("written");
    }
    let text = format!(
        r#"(component (core module $m (func $f (export "f") (result i32) {body})) (core instance $i (instantiate $m)) {exports})"#
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

/// How long single calls, and looks at `/health`, take meanwhile; in seconds. On a thread of its own, so that the attackers' work in this program does not count.
async fn observe(url: &str, token: &str) -> (Vec<f64>, Vec<f64>) {
    let (url, token) = (url.to_owned(), token.to_owned());
    let watch = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(watch(&url, &token))
    };
    let (done, seen) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(watch()));
    seen.await.expect("no panic")
}

async fn watch(url: &str, token: &str) -> (Vec<f64>, Vec<f64>) {
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

/// What the greedy tenant, or somebody without a token, does to the host.
#[derive(Clone, Copy)]
enum Attack {
    /// So many clients call this tool without pause.
    Calls(usize, &'static str),
    /// So many connections send a request one byte a second.
    SlowLoris(usize),
    /// So many clients post bodies of many megabytes.
    Bodies(usize),
    /// So many clients send requests with hundreds of headers.
    Headers(usize),
    /// So many clients open connections and leave.
    Connections(usize),
    /// Not ours: another program keeps all processors busy. What the machine itself does to latency.
    OtherProgram,
}

const ATTACKS: [(&str, Attack); 12] = [
    ("another program on all processors (no attack)", Attack::OtherProgram),
    ("64 calls that never end", Attack::Calls(64, "forever")),
    ("64 clients with calls of some 10 ms", Attack::Calls(64, "busy")),
    ("32 clients with short calls", Attack::Calls(32, "short")),
    ("64 calls that take all the memory they may", Attack::Calls(64, "memory")),
    ("64 calls that recurse without end", Attack::Calls(64, "recurse")),
    ("64 calls that answer with megabytes", Attack::Calls(64, "huge")),
    ("64 clients calling what is not there", Attack::Calls(64, "nothing")),
    ("1,000 connections of one byte a second", Attack::SlowLoris(1_000)),
    ("16 clients with bodies of 32 MB", Attack::Bodies(16)),
    ("16 clients with 500 headers", Attack::Headers(16)),
    ("16 clients that connect and leave", Attack::Connections(16)),
];

/// Goes on with an attack until told to stop.
async fn attack(attack: Attack, url: String, token: String, number: usize, stop: Arc<AtomicBool>) {
    let until_stopped = async {
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let address = url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
    let load = async {
        match attack {
            Attack::Calls(_, tool) => {
                let (client, nothing) = (Client::connect_as(url, Era::Modern, &token).await, json!({}));
                loop {
                    // They may be refused or stopped; that is its own affair.
                    client.call(tool, &nothing).await;
                }
            }
            Attack::SlowLoris(_) => loop {
                let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
                for byte in
                    "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n{\"jsonrpc\"".bytes()
                {
                    if stream.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            Attack::Bodies(_) => {
                let (client, body) = (reqwest::Client::new(), Bytes::from(vec![b'['; 32 << 20]));
                loop {
                    let _refused = client.post(&url).bearer_auth(&token).body(body.clone()).send().await;
                }
            }
            Attack::Headers(_) => {
                let client = reqwest::Client::new();
                loop {
                    let request = (0..500).fold(client.post(&url), |request, header| {
                        request.header(format!("x-{number}-{header}"), "a".repeat(100))
                    });
                    let _refused = request.body("{}").send().await;
                }
            }
            Attack::Connections(_) => loop {
                drop(TcpStream::connect(&address).await);
            },
            Attack::OtherProgram => std::future::pending().await,
        }
    };
    tokio::select! {
        () = until_stopped => {}
        () = load => {}
    }
}

/// Begins an attack.
fn begin(kind: Attack, url: &str, token: &str, stop: &Arc<AtomicBool>) -> (Vec<JoinHandle<()>>, Vec<Child>) {
    let clients = match kind {
        Attack::Calls(clients, _)
        | Attack::SlowLoris(clients)
        | Attack::Bodies(clients)
        | Attack::Headers(clients)
        | Attack::Connections(clients) => clients,
        Attack::OtherProgram => {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let spin = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
            return (Vec::new(), (0..processors).map(|_| spin()).collect());
        }
    };
    let one = |number| tokio::spawn(attack(kind, url.to_owned(), token.to_owned(), number, Arc::clone(stop)));
    ((0..clients).map(one).collect(), Vec::new())
}

async fn beside_each_other() {
    let folder = folder();
    let tool = |name: &str, body: &str| component(&[name.to_owned()], body);
    let mine = tool("mine", "i32.const 1");
    let busy = tool(
        "busy",
        "(local $n i32) (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 8000000)))) i32.const 1",
    );
    let (short, forever) = (tool("short", "i32.const 1"), tool("forever", "(loop $l (br $l)) i32.const 1"));
    let recurse = tool("recurse", "(call $f)");
    let memory = wat::parse_str(MEMORY).expect("a component");
    let huge = wat::parse_str(HUGE).expect("a component");
    let modest = team(folder.path(), "modest", &[("mine", &mine)]);
    let components: [(&str, &[u8]); 6] = [
        ("short", &short),
        ("forever", &forever),
        ("busy", &busy),
        ("recurse", &recurse),
        ("memory", &memory),
        ("huge", &huge),
    ];
    let greedy = team(folder.path(), "greedy", &components);
    let server = Server::mcpp_in(folder).await;
    let mut alone = Latencies::default();
    let mut under = ATTACKS.map(|_| Latencies::default());
    for _ in 0..ROUNDS {
        for ((_, kind), latencies) in ATTACKS.iter().zip(&mut under) {
            // Beside every attack, as the machine itself changes.
            alone.note(observe(&server.url(), &modest).await);
            let stop = Arc::new(AtomicBool::new(false));
            let (running, others) = begin(*kind, &server.url(), &greedy, &stop);
            tokio::time::sleep(Duration::from_millis(500)).await;
            latencies.note(observe(&server.url(), &modest).await);
            stop.store(true, Ordering::Relaxed);
            for client in running {
                client.await.expect("no panic");
            }
            for mut other in others {
                other.kill().expect("killed");
                other.wait().expect("ended");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let usual = alone.print("one tenant alone");
    for ((load, _), latencies) in ATTACKS.iter().zip(&mut under) {
        let beside = latencies.print(load);
        print_row(format!("{load}: a call, p99 / alone"), beside / usual, "×");
    }
    print_row("memory of the host after all that", server.resident_bytes() / 1e6, "MB");
}

/// Quantiles of several times, in milliseconds.
#[derive(Default)]
struct Latencies {
    calls_p50: Vec<f64>,
    calls_p99: Vec<f64>,
    health_p99: Vec<f64>,
}

impl Latencies {
    fn note(&mut self, (mut calls, mut looks): (Vec<f64>, Vec<f64>)) {
        self.calls_p50.push(quantile(&mut calls, 0.5));
        self.calls_p99.push(quantile(&mut calls, 0.99));
        self.health_p99.push(quantile(&mut looks, 0.99));
    }

    /// Prints the medians; that of the calls' p99.
    fn print(&mut self, load: &str) -> f64 {
        let median = |values: &mut Vec<f64>| quantile(values, 0.5) / 1e3;
        let p99 = median(&mut self.calls_p99);
        print_row(format!("{load}: a call, p50"), median(&mut self.calls_p50), "ms");
        print_row(format!("{load}: a call, p99"), p99, "ms");
        print_row(format!("{load}: a call, p99, least"), self.calls_p99[0], "ms");
        print_row(format!("{load}: a call, p99, most"), self.calls_p99[self.calls_p99.len() - 1], "ms");
        print_row(format!("{load}: /health, p99"), median(&mut self.health_p99), "ms");
        p99
    }
}

/// Takes all the memory that it may have, and touches it.
const MEMORY: &str = r#"(component
    (core module $m
        (memory 1)
        (func (export "f") (result i32) (local $at i32)
            (loop $l
                (if (i32.ne (memory.grow (i32.const 16)) (i32.const -1)) (then
                    (memory.fill (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1048576)) (i32.const 1) (i32.const 1048576))
                    (br $l))))
            i32.const 1))
    (core instance $i (instantiate $m))
    (func (export "memory") (result s32) (canon lift (core func $i "f"))))"#;

/// Answers with megabytes.
const HUGE: &str = r#"(component
    (core module $m
        (memory (export "memory") 256)
        (func (export "f") (result i32)
            (memory.fill (i32.const 16) (i32.const 120) (i32.const 16000000))
            (i32.store (i32.const 0) (i32.const 16))
            (i32.store (i32.const 4) (i32.const 16000000))
            i32.const 0))
    (core instance $i (instantiate $m))
    (alias core export $i "memory" (core memory $memory))
    (func (export "huge") (result string) (canon lift (core func $i "f") (memory $memory))))"#;

async fn many_tenants() {
    let empty = folder();
    let token = team(empty.path(), "team-0", &[]);
    // Started twice, as below: compiling takes memory that serving does not.
    let empty = Server::mcpp_in(empty).await.stop();
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
    print_row(
        format!("{TENANTS} tenants with {TOOLS} tools each: start, nothing compiled"),
        cold.as_secs_f64() * 1e3,
        "ms",
    );
    print_row(
        format!("{TENANTS} tenants with {TOOLS} tools each: start, compiled before"),
        warm.as_secs_f64() * 1e3,
        "ms",
    );
    print_row("one tenant without tools of its own: memory", bare / 1e6, "MB");
    print_row(format!("{TENANTS} tenants with {TOOLS} tools each: memory"), full / 1e6, "MB");
    print_row("each further tenant with its tools", (full - bare) / TENANTS as f64 / 1e6, "MB");
    print_row("the same after a call of each", server.resident_bytes() / 1e6, "MB");
}

async fn abandoned_sessions() {
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
    print_row("no session: memory", before / 1e6, "MB");
    print_row(format!("{} abandoned sessions: memory", SESSIONS / 10), tenth / 1e6, "MB");
    print_row(format!("{SESSIONS} abandoned sessions: memory"), all / 1e6, "MB");
    print_row("each abandoned session", (all - before) / SESSIONS as f64 / 1024.0, "KiB");
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
