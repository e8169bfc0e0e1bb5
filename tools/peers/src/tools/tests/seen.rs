//! When a peer was last connected, and where it is.

use mcpp_tool::environment::parse_rfc3339;

use super::*;

fn row() -> Value {
    call(&MCPP_TOOL_PEER_LIST, json!({}))["peers"][0].clone()
}

fn last_seen() -> Option<u64> {
    row()["last_seen"].as_str().and_then(parse_rfc3339)
}

/// Has the record say that A was connected long ago, as after the last round.
fn age(by_ms: u64) {
    let back = |record: &mut records::Record| record.alive_ms = record.alive_ms.map(|ms| ms - by_ms);
    transact(|t| PEERS.change(t, &A.to_owned(), back)).expect("older");
}

#[test]
fn a_peer_was_last_seen_when_its_connection_ended() {
    start();
    connect_a();
    round(now_ms()).expect("a round");
    age(280_000);
    let before = now_ms();
    assert_eq!(call(&MCPP_TOOL_PEER_DISCONNECT, json!({ "peer_id": A }))["was_connected"], true);
    assert!(last_seen().is_some_and(|seen| seen >= before), "{}", row());
    let listed = call(&MCPP_TOOL_LIST_PEERS, json!({}));
    assert!(listed["peers"][0]["age_s"].as_f64() < Some(10.0), "{listed}");
    // To disconnect a peer that is not there is no sign of life.
    age(280_000);
    call(&MCPP_TOOL_PEER_DISCONNECT, json!({ "peer_id": A }));
    assert!(last_seen().is_some_and(|seen| seen < before), "{}", row());
}

#[test]
fn a_peer_that_comes_and_goes_between_two_rounds_was_seen() {
    let gone = || {
        mesh::start("12D3KooWme");
        mesh::add_peer(A);
        assert_eq!(row()["status"], "disconnected");
        last_seen()
    };
    start();
    assert_eq!(last_seen(), None);
    let before = now_ms();
    connect_a();
    assert!(gone().is_some_and(|seen| seen >= before), "a call connected it");
    start();
    let nodes = json!({ "bootstrap_nodes": [address(A)], "min_connections": 1 });
    assert_eq!(call(&MCPP_TOOL_BOOTSTRAP_NETWORK, nodes)["success"], true);
    assert!(gone().is_some_and(|seen| seen >= before), "so did this one");
    start();
    config::memory::set("CACHE_BOOTSTRAP_PEERS", &address(A));
    assert_eq!(call(&MCPP_TOOL_P2P_BOOTSTRAP_FROM_ENV, json!({ "connect": true }))["connected"], 1);
    assert!(gone().is_some_and(|seen| seen >= before), "and this one");
    // The peer dialed, and a call happened to see it.
    start();
    mcpp_tool::mesh::connect(A, Duration::from_secs(1)).expect("connected");
    assert_eq!(row()["status"], "connected");
    assert!(gone().is_some_and(|seen| seen >= before), "and this one");
}

#[test]
fn the_address_of_a_connection_ends_in_the_peer() {
    start();
    let bare = "/ip4/192.0.2.1/tcp/53122";
    mesh::set_link(A, Link { addresses: vec![bare.into()], program: None });
    mcpp_tool::mesh::connect(A, Duration::from_secs(1)).expect("connected");
    let shown = row()["multiaddr"].clone();
    assert_eq!(shown, format!("{bare}/p2p/{A}"));
    let connected = call(&MCPP_TOOL_PEER_CONNECT, json!({ "peer_id": A, "multiaddr": shown }));
    assert_eq!(connected["success"], true, "what one tool shows the other takes: {connected}");
    for tool in [&MCPP_TOOL_LIST_PEERS, &MCPP_TOOL_PEER_DISCOVER] {
        assert_eq!(call(tool, json!({}))["peers"][0]["multiaddr"], shown, "{}", tool.name);
    }
}

#[test]
fn a_host_is_no_peer_of_itself() {
    start();
    mesh::start(B);
    mesh::add_peer(A);
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, value: Value| {
        std::fs::write(folder.path().join(name), value.to_string()).expect("written");
    };
    let path = folder.path().display().to_string();
    config::memory::set("IPFS_ACCELERATE_P2P_CACHE_DIR", &path);
    config::memory::set("IPFS_ACCELERATE_PY_TASK_P2P_ANNOUNCE_FILE", &format!("{path}/task_p2p_announce.json"));
    config::memory::set("CACHE_BOOTSTRAP_PEERS", &format!("{},{}", address(B), address(A)));
    write("task_p2p_announce.json", json!({ "peer_id": B, "multiaddr": address(B) }));
    write("task_p2p_announce_mcp.json", json!({ "peer_id": B, "multiaddr": "/ip4/192.0.2.9/tcp/1" }));
    write("peer_other_name.json", json!({ "runner_name": "old", "peer_id": B, "multiaddr": address(B) }));
    write("peer_a.json", json!({ "runner_name": "a", "peer_id": A, "multiaddr": address(A) }));
    for tool in [&MCPP_TOOL_P2P_BOOTSTRAP_FROM_FILE, &MCPP_TOOL_P2P_BOOTSTRAP_FROM_ENV] {
        let found = call(tool, json!({}));
        assert_eq!((&found["count"], &found["peers"][0]["peer_id"]), (&json!(1), &json!(A)), "{found}");
        assert_eq!(found["invalid"], json!([]), "{found}");
    }
    let listed = call(&MCPP_TOOL_P2P_BOOTSTRAP_LIST, json!({}));
    assert!(!listed.to_string().contains(B), "{listed}");
    let network = call(&MCPP_TOOL_BOOTSTRAP_NETWORK, json!({ "min_connections": 1 }));
    assert_eq!((&network["success"], &network["failed_count"]), (&json!(true), &json!(0)), "{network}");
}
