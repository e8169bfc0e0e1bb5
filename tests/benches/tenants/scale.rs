//! The cost of many tenants and many abandoned sessions.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    client::{Client, Era},
    host::{component, folder, team},
    print_row,
    server::Server,
};

/// The names by which these are chosen.
pub(crate) const TENANTS_NAME: &str = "many tenants";
pub(crate) const SESSIONS_NAME: &str = "abandoned sessions";

const TENANTS: usize = 100;
const TOOLS: usize = 50;
const SESSIONS: usize = 100_000;

pub(crate) async fn many_tenants() {
    let empty = folder();
    team(empty.path(), "team-0", &[], &[]);
    // Started twice, as below: compiling takes memory that serving does not.
    let server = Server::mcpp_in(empty).await;
    loaded(&server).await;
    let server = Server::mcpp_in(server.stop()).await;
    loaded(&server).await;
    let bare = server.resident_bytes();
    drop(server);
    let folder = folder();
    let mut tokens = Vec::new();
    for tenant in 0..TENANTS {
        // Each its own: nothing is shared between them.
        let names: Vec<String> = (0..TOOLS).map(|tool| format!("t{tenant}n{tool}")).collect();
        let wasm = component(&names, &format!("i32.const {tenant}"));
        tokens.push(team(folder.path(), &format!("team-{tenant}"), &[("many", &wasm)], &[]).token);
    }
    let server = Server::mcpp_in(folder).await;
    let cold = (server.started_in(), loaded(&server).await);
    let folder = server.stop();
    let server = Server::mcpp_in(folder).await;
    let warm = (server.started_in(), loaded(&server).await);
    let full = server.resident_bytes();
    for (tenant, token) in tokens.iter().enumerate() {
        let client = Client::connect_as(server.url(), Era::Modern, token).await;
        let answer = client.call(&format!("many_t{tenant}n7"), &json!({})).await;
        assert_eq!(answer["result"]["structuredContent"]["result"], tenant, "{answer}");
    }
    let ms = |time: Duration| Some(time.as_secs_f64() * 1e3);
    let mb = |bytes: f64| Some(bytes / 1e6);
    for (state, (serves, loaded)) in [("nothing compiled", cold), ("compiled before", warm)] {
        print_row(format!("{TENANTS} tenants with {TOOLS} tools each, {state}: the door serves"), ms(serves), "ms");
        print_row(format!("{TENANTS} tenants with {TOOLS} tools each, {state}: all is loaded"), ms(loaded), "ms");
    }
    print_row("one tenant without tools of its own: memory", mb(bare), "MB");
    print_row(format!("{TENANTS} tenants with {TOOLS} tools each: memory"), mb(full), "MB");
    print_row("each further tenant with its tools", mb((full - bare) / TENANTS as f64), "MB");
    print_row("the same after a call of each", mb(server.resident_bytes()), "MB");
}

pub(crate) async fn abandoned_sessions() {
    let folder = folder();
    std::fs::write(
        folder.path().join("mcpp.toml"),
        "[sessions]\nmax = 200000\nmax_per_principal = 200000\n[tenant_limits]\nsessions = 200000\n",
    )
    .expect("written");
    let server = Server::mcpp_in(folder).await;
    loaded(&server).await;
    let before = server.resident_bytes();
    let tenth = open(&server, SESSIONS / 10).await;
    let all = open(&server, SESSIONS - SESSIONS / 10).await;
    print_row("no session: memory", Some(before / 1e6), "MB");
    print_row(format!("{} abandoned sessions: memory", SESSIONS / 10), Some(tenth / 1e6), "MB");
    print_row(format!("{SESSIONS} abandoned sessions: memory"), Some(all / 1e6), "MB");
    print_row("each abandoned session", Some((all - before) / SESSIONS as f64 / 1024.0), "KiB");
}

/// Waits until everything is loaded; how long that took from the start of the program.
async fn loaded(server: &Server) -> Duration {
    let (http, url, waiting) = (reqwest::Client::new(), server.url().replace("/mcp", "/ready"), Instant::now());
    while !http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.started_in() + waiting.elapsed()
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
