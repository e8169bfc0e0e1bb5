//! The tools on a store, a mesh and settings in memory.

use std::time::Duration;

use mcpp_tool::{
    Output, config,
    environment::{now_ms, rfc3339},
    internal::Definition,
    mesh::{Link, Measures, Path, memory as mesh},
    store::{memory, snapshot, transact},
};
use serde_json::{Value, json};

use super::{bootstrap::*, connections::*, list::*, peers::*};
use crate::{
    records::{self, HOUR_MS, Hour, KEPT_HOURS, MAX_PEERS, PEERS, Source, TTL_MS, measure, note},
    rounds::round,
};

mod seen;

const A: &str = "12D3KooWCFAPi3qBEhJtJtiPJBVD3cTSHe64FtCKMx4McEyiC9jT";
const B: &str = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";

fn call(tool: &Definition, arguments: Value) -> Value {
    (tool.call)(arguments).expect("an answer").structured.expect("structured")
}

fn refused(tool: &Definition, arguments: Value, word: &str) {
    let answer = call(tool, arguments.clone());
    let flag = if tool.name == "list_peers" { "ok" } else { "success" };
    assert_eq!(answer[flag], false, "{arguments}: {answer}");
    assert!(answer["error"].as_str().is_some_and(|error| error.contains(word)), "{arguments}: {answer}");
}

fn address(peer: &str) -> String {
    format!("/ip4/192.0.2.1/tcp/4001/p2p/{peer}")
}

/// A mesh with the peer A, which has a tool and was called ten times.
fn start() {
    memory::clear();
    config::memory::clear();
    mesh::start("12D3KooWme");
    mesh::add_tool(A, "render_scene", |_| Ok(Output::default()));
    let measures = Measures {
        path: None,
        round_trip: Some(Duration::from_millis(25)),
        call: Some(Duration::from_millis(2)),
        requests: Some(10),
        failures: Some(1),
        sent_bytes: Some(700),
        received_bytes: Some(300),
    };
    mesh::set_measures(A, measures);
    mesh::set_link(A, Link { addresses: vec![address(A)], program: Some("mcpp/0.1.0".into()) });
}

fn connect_a() -> Value {
    call(&MCPP_TOOL_PEER_CONNECT, json!({ "peer_id": A, "multiaddr": address(A) }))
}

#[test]
fn a_peer_is_connected_shown_measured_and_disconnected() {
    start();
    let before = call(&MCPP_TOOL_PEER_LIST, json!({}));
    assert_eq!(
        (&before["total_count"], &before["peers"][0]["status"]),
        (&json!(1), &json!("disconnected")),
        "{before}"
    );
    assert_eq!(
        (&before["peers"][0]["last_seen"], &before["peers"][0]["connected_since"]),
        (&Value::Null, &Value::Null)
    );
    let connected = connect_a();
    assert_eq!((&connected["success"], &connected["attempts"]), (&json!(true), &json!(1)), "{connected}");
    assert_eq!(connected["protocol_version"], "1.0.0");
    assert_eq!(connected["peer_capabilities"], json!(["render_scene"]));
    assert_eq!(connected["connection_id"].as_str().map(str::len), Some(16));
    assert!(connected["connection_time"].is_f64());
    let listed = call(&MCPP_TOOL_PEER_LIST, json!({ "status_filter": "connected", "sort_by": "latency" }));
    let row = &listed["peers"][0];
    assert_eq!(
        (&row["peer_id"], &row["multiaddr"], &row["metrics"]["latency_ms"]),
        (&json!(A), &json!(address(A)), &json!(25.0))
    );
    assert_eq!(
        (&row["metrics"]["bandwidth_mbps"], &row["metrics"]["reliability_score"]),
        (&Value::Null, &json!(10.0 / 12.0))
    );
    assert_eq!(listed["filters"], json!({ "status": "connected", "capabilities": null, "sort_by": "latency" }));
    let shown = call(&MCPP_TOOL_PEER_METRICS, json!({ "peer_id": A }));
    let current = &shown["current_metrics"];
    assert_eq!((&current["requests_served"], &current["bytes_transferred"]), (&json!(9), &json!(1_000)), "{shown}");
    assert_eq!((&current["packet_loss_percent"], &current["connection_quality"]), (&Value::Null, &json!(0.8)));
    assert_eq!(shown["connection_info"]["peer_type"], "mcpp/0.1.0");
    assert!(shown["reputation"]["explanation"].as_str().is_some_and(|why| why.starts_with("9 of 10 calls")), "{shown}");
    assert!(shown.get("history").is_none());
    let gone = call(&MCPP_TOOL_PEER_DISCONNECT, json!({ "peer_id": A, "reason": "why" }));
    assert_eq!(
        (&gone["was_connected"], &gone["cleanup_performed"], &gone["reason"]),
        (&json!(true), &json!(true), &json!("why")),
        "{gone}"
    );
    let gone = call(&MCPP_TOOL_PEER_DISCONNECT, json!({ "peer_id": A }));
    assert_eq!((&gone["success"], &gone["was_connected"]), (&json!(true), &json!(false)));
    let shown = call(&MCPP_TOOL_PEER_METRICS, json!({ "peer_id": A }));
    assert_eq!(
        (&shown["current_metrics"]["connection_quality"], &shown["current_metrics"]["uptime_hours"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    start();
    let connect = |change: (&str, Value)| {
        let mut arguments = json!({ "peer_id": A, "multiaddr": address(A) });
        arguments[change.0] = change.1;
        arguments
    };
    refused(&MCPP_TOOL_PEER_CONNECT, connect(("multiaddr", json!(address(B)))), "not of peer_id");
    refused(&MCPP_TOOL_PEER_CONNECT, connect(("multiaddr", json!("192.0.2.1:4001"))), "multiaddr");
    refused(&MCPP_TOOL_PEER_CONNECT, connect(("timeout", json!(-1))), "timeout");
    refused(&MCPP_TOOL_PEER_CONNECT, connect(("retry_count", json!(11))), "retry_count");
    assert!(memory::entries().is_empty(), "{:?}", memory::entries());
    refused(&MCPP_TOOL_PEER_CONNECT, json!({ "peer_id": B, "multiaddr": address(B) }), "mcpp join");
    refused(&MCPP_TOOL_PEER_DISCONNECT, json!({ "peer_id": B }), "mcpp join");
    refused(&MCPP_TOOL_PEER_METRICS, json!({ "peer_id": "nobody" }), "not found");
    refused(&MCPP_TOOL_PEER_METRICS, json!({ "peer_id": "x".repeat(5_000) }), "not found");
    for hours in [0, 721, -1] {
        refused(
            &MCPP_TOOL_PEER_METRICS,
            json!({ "peer_id": A, "include_history": true, "history_hours": hours }),
            "history_hours",
        );
    }
    for limit in [0, -3, 1_001] {
        refused(&MCPP_TOOL_LIST_PEERS, json!({ "limit": limit }), "Limit must be between 1 and 1000");
        refused(&MCPP_TOOL_PEER_LIST, json!({ "limit": limit }), "Limit must be between 1 and 1000");
    }
    refused(
        &MCPP_TOOL_PEER_METRICS,
        json!({ "peer_id": A, "history_hours": 100_000 }),
        "history_hours must be 1 to 720",
    );
    refused(&MCPP_TOOL_PEER_DISCONNECT, json!({ "peer_id": "nope" }), "peer_id must be the id of a peer");
    refused(&MCPP_TOOL_PEER_LIST, json!({ "offset": -1 }), "Offset must be non-negative");
    refused(&MCPP_TOOL_PEER_DISCOVER, json!({ "max_peers": 0 }), "Limit");
    refused(&MCPP_TOOL_PEER_DISCOVER, json!({ "timeout": -1 }), "timeout");
    refused(&MCPP_TOOL_BOOTSTRAP_NETWORK, json!({ "min_connections": 5, "max_connections": 4 }), "min_connections");
    refused(&MCPP_TOOL_BOOTSTRAP_NETWORK, json!({ "max_connections": 101 }), "max_connections");
    refused(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_ENV, json!({ "max_peers": 101 }), "max_peers");
    refused(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_PUBLIC, json!({}), "public_bootstrap_disabled");
    refused(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_FILE, json!({ "path": "/nowhere" }), "/nowhere cannot be read");
    mesh::clear();
    for (tool, arguments) in [
        (&MCPP_TOOL_PEER_LIST, json!({})),
        (&MCPP_TOOL_PEER_DISCOVER, json!({})),
        (&MCPP_TOOL_PEER_METRICS, json!({ "peer_id": A })),
        (&MCPP_TOOL_PEER_DISCONNECT, json!({ "peer_id": A })),
        (&MCPP_TOOL_BOOTSTRAP_NETWORK, json!({ "bootstrap_nodes": [address(A)] })),
    ] {
        assert_eq!(call(tool, arguments.clone())["degraded_mode"], true, "{}", tool.name);
        refused(tool, arguments, "MCP++ module not available");
    }
    refused(
        &MCPP_TOOL_PEER_CONNECT,
        json!({ "peer_id": A, "multiaddr": address(A), "retry_count": 0 }),
        "not available",
    );
    refused(&MCPP_TOOL_LIST_PEERS, json!({}), "p2p_service_not_running");
}

#[test]
fn peers_are_filtered_sorted_and_paged() {
    start();
    connect_a();
    for (n, ms) in [(1, 5), (2, 90), (3, 40)] {
        let peer = format!("peer{n}");
        mesh::add_peer(&peer);
        mesh::set_measures(&peer, Measures { round_trip: Some(Duration::from_millis(ms)), ..Measures::default() });
    }
    mesh::add_peer("peer4");
    let ids = |arguments: Value| -> Vec<String> {
        let listed = call(&MCPP_TOOL_PEER_LIST, arguments);
        listed["peers"]
            .as_array()
            .expect("peers")
            .iter()
            .map(|row| row["peer_id"].as_str().expect("an id").to_owned())
            .collect()
    };
    assert_eq!(ids(json!({ "sort_by": "latency" })), ["peer1", A, "peer3", "peer2", "peer4"]);
    assert_eq!(ids(json!({ "sort_by": "peer_id" })), [A, "peer1", "peer2", "peer3", "peer4"]);
    assert_eq!(ids(json!({ "sort_by": "bandwidth" })), [A, "peer1", "peer2", "peer3", "peer4"]);
    assert_eq!(ids(json!({}))[0], A, "the one that is connected was seen last");
    assert_eq!(
        ids(json!({ "status_filter": "disconnected", "limit": 2, "offset": 1, "sort_by": "peer_id" })),
        ["peer2", "peer3"]
    );
    assert_eq!(ids(json!({ "status_filter": "connecting" })), Vec::<String>::new());
    assert_eq!(ids(json!({ "capability_filter": ["render_scene"] })), [A]);
    assert_eq!(ids(json!({ "capability_filter": ["render_scene", "other"] })), Vec::<String>::new());
    let page = call(&MCPP_TOOL_PEER_LIST, json!({ "limit": 2 }));
    assert_eq!(
        (&page["total_count"], &page["returned_count"], &page["has_more"]),
        (&json!(5), &json!(2), &json!(true))
    );
    mesh::add_provider("ipfs-accelerate-task-queue", B);
    let found = call(&MCPP_TOOL_PEER_DISCOVER, json!({ "include_metrics": true }));
    assert_eq!(found["discovered_count"], 6, "{found}");
    let stranger = found["peers"].as_array().and_then(|rows| rows.iter().find(|row| row["peer_id"] == B)).expect("B");
    assert_eq!(
        (&stranger["metrics"]["latency_ms"], &stranger["last_seen"]),
        (&Value::Null, &Value::Null),
        "nothing is made up"
    );
    let found = call(&MCPP_TOOL_PEER_DISCOVER, json!({ "capability_filter": ["render_scene"], "max_peers": 1 }));
    assert_eq!((&found["discovered_count"], &found["max_peers"]), (&json!(1), &json!(1)));
    assert!(found["peers"][0].get("metrics").is_none());
}

#[test]
fn measurements_are_kept_by_the_hour_for_thirty_days() {
    start();
    connect_a();
    let now = now_ms();
    round(now).expect("a round");
    round(now + 1).expect("a round");
    let history = |hours: u64| {
        let shown =
            call(&MCPP_TOOL_PEER_METRICS, json!({ "peer_id": A, "include_history": true, "history_hours": hours }));
        shown["history"].as_array().expect("a history").clone()
    };
    let rows = history(1);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(
        (&rows[0]["requests"], &rows[0]["failures"], &rows[0]["bytes_transferred"]),
        (&json!(10), &json!(1), &json!(1_000)),
        "what was counted once"
    );
    assert_eq!((&rows[0]["latency_ms"], &rows[0]["connected_share"]), (&json!(25.0), &json!(1.0)));
    assert_eq!(rows[0]["bandwidth_mbps"], Value::Null);
    // The host began anew, so its counters did too.
    mesh::set_measures(
        A,
        Measures {
            requests: Some(2),
            failures: Some(2),
            sent_bytes: Some(5),
            received_bytes: Some(0),
            ..Measures::default()
        },
    );
    round(now + 2).expect("a round");
    assert_eq!((&history(1)[0]["requests"], &history(1)[0]["failures"]), (&json!(12), &json!(3)));
    let hour = now / HOUR_MS;
    transact(|t| {
        (1..=800).try_for_each(|back| measure(t, A, (hour - back) * HOUR_MS, &Hour { samples: 1, ..Hour::default() }))
    })
    .expect("measured");
    round(now + 3).expect("a round");
    let rows = history(720);
    assert_eq!(rows.len(), 720);
    assert!(rows[0]["timestamp"].as_str() < rows[1]["timestamp"].as_str(), "the oldest first");
    let kept = records::hours(&snapshot().expect("a snapshot"), A, 0).expect("read");
    assert_eq!(kept.first().map(|(first, _)| *first), Some(hour - KEPT_HOURS), "and no older one");
    assert_eq!(rows[0]["latency_ms"], Value::Null, "not measured");
}

#[test]
fn records_end_after_half_an_hour_unless_they_are_kept() {
    start();
    let now = now_ms();
    connect_a();
    transact(|t| note(t, B, Source::File, now, |_| {})).expect("noted");
    mesh::start("12D3KooWme");
    round(now + TTL_MS - 1_000).expect("a round");
    assert!(PEERS.get(&snapshot().expect("a snapshot"), B).expect("read").is_some());
    round(now + TTL_MS + 1_000).expect("a round");
    let t = &snapshot().expect("a snapshot");
    assert_eq!(PEERS.get(t, B).expect("read"), None);
    assert!(PEERS.get(t, A).expect("read").is_some_and(|record| record.is_kept), "a caller wants it");
    assert!(memory::timers().contains_key("round"), "and the round goes on for it");
    // The round connects it again.
    mesh::add_peer(A);
    round(now + TTL_MS + 2_000).expect("a round");
    assert_eq!(mcpp_tool::mesh::metrics(A).map(|measures| measures.path), Ok(Some(Path::Direct)));
    call(&MCPP_TOOL_PEER_DISCONNECT, json!({ "peer_id": A }));
    mesh::start("12D3KooWme");
    round(now + 3 * TTL_MS).expect("a round");
    assert!(!memory::timers().contains_key("round"), "there is nothing left to do");
}

#[test]
fn records_are_bounded_in_number() {
    start();
    for n in 0..MAX_PEERS {
        assert_eq!(transact(|t| note(t, &format!("p{n}"), Source::File, now_ms(), |_| {})), Ok(true));
    }
    assert_eq!(transact(|t| note(t, "one more", Source::File, now_ms(), |_| {})), Ok(false));
    assert_eq!(transact(|t| note(t, "p0", Source::File, now_ms(), |_| {})), Ok(true));
}

#[test]
fn a_network_is_ready_with_enough_connections() {
    start();
    mesh::add_peer(B);
    let ask = |min: i64, max: i64| {
        let nodes = json!([address(A), "nonsense", address(A), address(B)]);
        call(
            &MCPP_TOOL_BOOTSTRAP_NETWORK,
            json!({ "bootstrap_nodes": nodes, "min_connections": min, "max_connections": max }),
        )
    };
    let ready = ask(2, 10);
    assert_eq!(
        (&ready["success"], &ready["network_ready"], &ready["connected_count"]),
        (&json!(true), &json!(true), &json!(2)),
        "{ready}"
    );
    assert_eq!((&ready["failed_count"], &ready["connected_peers"]), (&json!(1), &json!([A, B])));
    assert_eq!(ask(1, 1)["bootstrap_nodes_used"], json!([address(A)]), "and no more than are wanted");
    let short = ask(3, 10);
    assert_eq!(
        (&short["success"], &short["network_ready"], &short["connected_count"]),
        (&json!(false), &json!(false), &json!(2)),
        "{short}"
    );
    assert_eq!(ask(0, 0)["success"], true);
    // Without nodes: those of the sources.
    config::memory::set("CACHE_BOOTSTRAP_PEERS", &address(B));
    let of_sources = call(&MCPP_TOOL_BOOTSTRAP_NETWORK, json!({ "min_connections": 1 }));
    assert_eq!(of_sources["connected_peers"], json!([B]), "{of_sources}");
}

#[test]
fn settings_name_peers() {
    start();
    let text = format!("{}, /ip4/192.0.2.1/tcp/1 ,{},", address(A), address(A));
    config::memory::set("IPFS_ACCELERATE_PY_TASK_P2P_BOOTSTRAP_PEERS", &text);
    let found = call(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_ENV, json!({ "connect": true }));
    assert_eq!(found["peers"], json!([{ "peer_id": A, "multiaddr": address(A) }]), "{found}");
    assert_eq!(
        (&found["source"], &found["connected"], &found["invalid"][0]["value"]),
        (&json!("env"), &json!(1), &json!("/ip4/192.0.2.1/tcp/1"))
    );
    assert_eq!(found["variable"], "IPFS_ACCELERATE_PY_TASK_P2P_BOOTSTRAP_PEERS");
    config::memory::set("CACHE_BOOTSTRAP_PEERS", "0");
    let off = call(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_ENV, json!({}));
    assert_eq!(
        (&off["count"], &off["variable"], &off["invalid"]),
        (&json!(0), &json!("CACHE_BOOTSTRAP_PEERS"), &json!([]))
    );
    assert_eq!(call(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_ENV, json!({ "variable": "MINE" }))["count"], 0);
    config::memory::set("IPFS_ACCELERATE_ENABLE_PUBLIC_BOOTSTRAP", "Yes");
    let public = call(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_PUBLIC, json!({}));
    assert_eq!((&public["enabled"], &public["count"]), (&json!(true), &json!(4)), "{public}");
    let listed = call(&MCPP_TOOL_P2P_BOOTSTRAP_LIST, json!({}));
    let names: Vec<_> = listed["sources"]
        .as_array()
        .expect("sources")
        .iter()
        .map(|source| (&source["name"], &source["enabled"], &source["count"]))
        .collect();
    assert_eq!(json!(names), json!([["env", false, 0], ["file", false, 0], ["github", false, 0], ["public", true, 4]]));
    assert_eq!(listed["total"], 4);
}

#[test]
fn peer_files_are_read_and_old_ones_removed() {
    start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let write =
        |name: &str, value: &Value| std::fs::write(folder.path().join(name), value.to_string()).expect("written");
    let record = |runner: &str, peer: &str, last_seen: Value| json!({ "peer_id": peer, "runner_name": runner, "multiaddr": address(peer), "last_seen": last_seen });
    let fresh = rfc3339(now_ms() - 60_000);
    let naive = fresh.trim_end_matches('Z').to_owned();
    write("peer_one.json", &record("one", A, json!(naive)));
    write("peer_old.json", &record("old", B, json!(rfc3339(now_ms() - TTL_MS - 1))));
    write("peer_me.json", &record("me", B, json!(fresh)));
    write("peer_broken.json", &json!([1]));
    write("other.json", &record("other", B, json!(fresh)));
    write("task_p2p_announce.json", &json!({ "peer_id": B, "multiaddr": format!("/ip4/192.0.2.2/tcp/9710/p2p/{B}") }));
    std::fs::write(folder.path().join("peer_large.json"), vec![b' '; 70_000]).expect("written");
    config::memory::set("RUNNER_NAME", "me");
    config::memory::set("IPFS_ACCELERATE_P2P_CACHE_DIR", &path);
    assert_eq!(call(&MCPP_TOOL_P2P_BOOTSTRAP_LIST, json!({}))["sources"][1]["count"], 2);
    assert!(folder.path().join("peer_old.json").exists(), "to list changes nothing");
    let found = call(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_FILE, json!({}));
    let peers: Vec<_> =
        found["peers"].as_array().expect("peers").iter().map(|row| (&row["peer_id"], &row["runner_name"])).collect();
    assert_eq!(json!(peers), json!([[A, "one"], [B, null]]), "{found}");
    assert_eq!(
        (&found["stale_removed"], &found["path"], found["invalid"].as_array().map(Vec::len)),
        (&json!(1), &json!(path), Some(2)),
        "{found}"
    );
    assert!(!folder.path().join("peer_old.json").exists());
    let registry = json!({ "peers": { A: { "peer_id": A, "multiaddr": address(A), "last_seen": now_ms() / 1_000, "ttl_seconds": 3_600 } } });
    write("peer_registry.json", &registry);
    let file = format!("{path}/peer_registry.json");
    assert_eq!(call(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_FILE, json!({ "path": file }))["count"], 1);
    let some = call(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_FILE, json!({ "max_peers": 1, "connect": true }));
    assert_eq!((&some["count"], &some["connected"]), (&json!(1), &json!(1)), "{some}");
}

#[test]
fn peers_are_listed_as_the_queues_protocol_has_it() {
    start();
    connect_a();
    round(now_ms()).expect("a round");
    let listed = call(&MCPP_TOOL_LIST_PEERS, json!({}));
    assert_eq!(
        (&listed["ok"], &listed["self_peer_id"], &listed["count"]),
        (&json!(true), &json!("12D3KooWme"), &json!(1)),
        "{listed}"
    );
    let row = &listed["peers"][0];
    assert_eq!((&row["peer_id"], &row["alive"]), (&json!(A), &json!(true)));
    assert!(row["age_s"].as_f64() < Some(10.0) && row["last_seen"].is_f64(), "{row}");
    let with = call(&MCPP_TOOL_LIST_PEERS, json!({ "include_capabilities": true }));
    assert!(with["peers"][0]["capabilities_error"].is_string(), "{with}");
    mesh::add_tool(A, "task_queue.rpc", |request| {
        Ok(Output { content: Vec::new(), structured: Some(json!({ "ok": true, "asked": request })) })
    });
    let with = call(&MCPP_TOOL_LIST_PEERS, json!({ "include_capabilities": true, "capabilities_detail": true }));
    assert_eq!(with["peers"][0]["capabilities"]["asked"], json!({ "op": "status", "detail": true }));
    // Nobody is known: the hash table is asked.
    start();
    mesh::start("12D3KooWme");
    for peer in [A, B, "12D3KooWme"] {
        mesh::add_provider("ipfs-accelerate-task-queue", peer);
    }
    let found = call(&MCPP_TOOL_LIST_PEERS, json!({ "discovery_methods": ["dht"], "limit": 1 }));
    assert_eq!(
        found["peers"],
        json!([{ "peer_id": A, "multiaddr": null, "discovered": true, "method": "dht" }]),
        "{found}"
    );
    memory::clear();
    assert_eq!(call(&MCPP_TOOL_LIST_PEERS, json!({ "discovery_methods": ["mdns"] }))["count"], 0);
    assert_eq!(call(&MCPP_TOOL_LIST_PEERS, json!({ "discover": false }))["count"], 0);
    refused(&MCPP_TOOL_LIST_PEERS, json!({ "discovery_methods": ["smoke"] }), "smoke");
}
