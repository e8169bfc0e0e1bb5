//! Every parameter of every tool with a value that its default is not, and what the answer shows of it: one story on a host with a peer.

mod queue;

use mcpp::mesh::PeerId;
use serde_json::{Value, json};

use self::queue::{ends, queue};
use super::Row;
use crate::{
    mesh_join::Commanded,
    support::{folder, grant},
    taskqueue::{ask, holds},
};

/// Stands for the id of the peer.
const PEER: &str = "$peer";
/// Stands for its address.
const AT: &str = "$at";
/// An address in a setting and in a file.
const OTHER: &str = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWCFAPi3qBEhJtJtiPJBVD3cTSHe64FtCKMx4McEyiC9jT";

/// The rows, in their order.
pub(super) fn rows() -> Vec<Row> {
    [queue(), ends(), remote(), scheduler(), peers(), sources(), workflows()].concat()
}

fn clock() -> Value {
    json!({
        "node_id": "peer-a", "vector": { "peer-a": 1 },
        "merkle_root": "654809be724f0a50a978f54f8327144aee684e6aee214825bb3bdd38c039ace3",
    })
}

/// The tools of 1.1 at the peer, by its id and by its address.
fn remote() -> Vec<Row> {
    let by = |name: &str, value: &str, mut arguments: Value| {
        arguments[name] = json!(value);
        arguments
    };
    let task = || json!({ "task_type": "kind", "model_name": "m", "payload": { "task_id": "far" } });
    let docker = || json!({ "image": "a/b:1" });
    let github = || json!({ "repo_url": "https://github.com/o/r" });
    let mut rows = vec![
        ("p2p_taskqueue_submit", by("peer_id", PEER, task()), json!({ "ok": true, "peer_id": PEER, "task_id": "far" })),
        (
            "p2p_taskqueue_submit",
            by("remote_multiaddr", AT, task()),
            json!({ "ok": true, "peer_id": PEER, "task_id": "far" }),
        ),
        ("p2p_taskqueue_status", by("peer_id", PEER, json!({})), json!({ "ok": true, "peer_id": PEER })),
        ("p2p_taskqueue_status", by("remote_multiaddr", AT, json!({})), json!({ "ok": true, "peer_id": PEER })),
    ];
    for (name, value) in [("remote_peer_id", PEER), ("remote_multiaddr", AT)] {
        let no_tools = json!({ "ok": false, "error": "tools_disabled", "peer_id": PEER });
        for (tool, arguments, expected) in [
            ("p2p_taskqueue_list_tasks", json!({}), json!({ "ok": true, "peer_id": PEER })),
            ("p2p_taskqueue_get_task", json!({ "task_id": "far" }), json!({ "task": { "task_id": "far" } })),
            (
                "p2p_taskqueue_wait_task",
                json!({ "task_id": "far", "timeout_s": 0.01 }),
                json!({ "task": { "task_id": "far" } }),
            ),
            (
                "p2p_taskqueue_claim_next",
                json!({ "worker_id": "w", "supported_task_types": ["none"] }),
                json!({ "ok": true, "task": null }),
            ),
            ("p2p_taskqueue_heartbeat", json!({ "peer_id": "w" }), json!({ "ok": true, "peer_id": PEER })),
            (
                "p2p_taskqueue_complete_task",
                json!({ "task_id": "none" }),
                json!({ "ok": false, "error": "task_missing" }),
            ),
            ("p2p_taskqueue_cache_set", json!({ "key": "k", "value": name }), json!({ "ok": true, "peer_id": PEER })),
            ("p2p_taskqueue_cache_get", json!({ "key": "k" }), json!({ "hit": true, "value": name, "peer_id": PEER })),
            ("p2p_taskqueue_call_tool", json!({ "tool_name": "t", "args": { "a": 1 }, "timeout_s": 5 }), no_tools),
            ("p2p_taskqueue_submit_docker_hub", docker(), json!({ "ok": true, "task_id": "…" })),
            ("p2p_taskqueue_submit_docker_github", github(), json!({ "ok": true, "task_id": "…" })),
        ] {
            rows.push((tool, by(name, value, arguments), expected));
        }
    }
    rows
}

/// The workflow scheduler (1.2).
fn scheduler() -> Vec<Row> {
    let task = json!({ "task_id": "t1", "workflow_id": "wf1", "name": "n", "tags": ["p2p-only", "UNIT_TEST", "unknown"], "priority": 8 });
    let hash = "beb43a15b6fb460810d343f9aa4fa9c7c1a8456a3d797d78172ac370b55c3570";
    vec![
        (
            "p2p_scheduler_status",
            json!({}),
            json!({ "pending_tasks": 0, "merkle_clock": "…", "tool": "p2p_scheduler_status", "timestamp": "…" }),
        ),
        (
            "p2p_submit_task",
            task.clone(),
            json!({ "success": true, "task_id": "t1", "task_hash": hash, "priority": 8 }),
        ),
        ("p2p_submit_task", task, json!({ "success": false, "task_id": "t1" })),
        (
            "p2p_get_next_task",
            json!({}),
            json!({ "task": { "task_id": "t1", "workflow_id": "wf1", "name": "n", "tags": ["p2p-only", "unit-test"], "priority": 8, "task_hash": hash, "assigned_peer": "…" } }),
        ),
        ("p2p_mark_task_complete", json!({ "task_id": "t1" }), json!({ "success": true, "task_id": "t1" })),
        (
            "p2p_check_workflow_tags",
            json!({ "tags": ["P2P_ONLY"] }),
            json!({ "should_bypass_github": true, "is_p2p_only": true }),
        ),
        ("p2p_get_merkle_clock", json!({}), json!({ "node_id": "…", "vector": "…", "merkle_root": "…" })),
        (
            "p2p_update_peer_state",
            json!({ "peer_id": "peer-a", "clock_data": clock() }),
            json!({ "success": true, "peer_id": "peer-a" }),
        ),
    ]
}

/// Peers (1.4b), and `list_peers`.
fn peers() -> Vec<Row> {
    vec![
        (
            "peer_connect",
            json!({ "peer_id": PEER, "multiaddr": AT, "timeout": 20, "retry_count": 1, "persist": false }),
            json!({ "success": true, "peer_id": PEER, "persist": false, "connection_id": "…", "attempts": "…" }),
        ),
        (
            "peer_list",
            json!({ "status_filter": "connected", "capability_filter": ["task_queue.rpc"], "sort_by": "peer_id", "limit": 1, "offset": 0 }),
            json!({ "success": true, "total_count": 1, "peers": [{ "peer_id": PEER }], "limit": 1, "filters": { "sort_by": "peer_id", "status": "connected" } }),
        ),
        ("peer_list", json!({ "offset": 1 }), json!({ "success": true, "returned_count": 0, "offset": 1 })),
        (
            "peer_metrics",
            json!({ "peer_id": PEER, "include_history": true, "history_hours": 2 }),
            json!({ "success": true, "peer_id": PEER, "history": "…", "history_hours": 2, "current_metrics": "…" }),
        ),
        (
            "peer_discover",
            json!({ "capability_filter": ["task_queue.rpc"], "max_peers": 3, "timeout": 5, "include_metrics": true }),
            json!({ "success": true, "discovered_count": 1, "max_peers": 3, "peers": [{ "peer_id": PEER, "metrics": "…" }] }),
        ),
        (
            "list_peers",
            json!({
                "include_capabilities": true, "capabilities_timeout_s": 10, "capabilities_detail": true, "discover": false,
                "discovery_timeout_s": 0.2, "discovery_methods": ["dht"], "limit": 3,
            }),
            json!({ "ok": true, "count": 1, "peers": [{ "peer_id": PEER, "capabilities": { "ok": true, "detail": "…" } }] }),
        ),
        (
            "peer_disconnect",
            json!({ "peer_id": PEER, "reason": "done", "graceful": false }),
            json!({ "success": true, "peer_id": PEER, "graceful": false, "reason": "done" }),
        ),
        (
            "bootstrap_network",
            json!({ "bootstrap_nodes": [AT], "timeout": 20, "min_connections": 1, "max_connections": 2 }),
            json!({ "success": true, "connected_peers": [PEER], "network_ready": true, "min_connections": 1, "max_connections": 2 }),
        ),
    ]
}

/// Sources of peers (1.5).
fn sources() -> Vec<Row> {
    let other = json!([{ "multiaddr": OTHER }]);
    vec![
        (
            "p2p_bootstrap_from_file",
            json!({ "path": "/peers", "max_peers": 2, "connect": true }),
            json!({ "success": true, "source": "file", "path": "/peers", "count": 1, "peers": other, "connected": 0 }),
        ),
        (
            "p2p_bootstrap_from_env",
            json!({ "variable": "CACHE_BOOTSTRAP_PEERS", "max_peers": 2, "connect": true }),
            json!({ "success": true, "source": "env", "variable": "CACHE_BOOTSTRAP_PEERS", "count": 1, "peers": other, "connected": 0 }),
        ),
        (
            "p2p_bootstrap_from_public",
            json!({ "max_peers": 2, "connect": false }),
            json!({ "success": true, "source": "public", "enabled": true, "count": 2 }),
        ),
        (
            "p2p_bootstrap_list",
            json!({}),
            json!({ "success": true, "sources": [{ "name": "env", "enabled": true, "count": 1 }, { "name": "file" }, { "name": "github" }, { "name": "public", "enabled": true }] }),
        ),
    ]
}

/// Workflows (1.3).
fn workflows() -> Vec<Row> {
    let step = |id: &str| json!({ "step_id": id, "action": "text_hash", "inputs": { "text": "${input.text}" } });
    let endless = json!({ "step_id": "a", "action": "wait", "inputs": { "signal": "never" } });
    vec![
        (
            "workflow_submit",
            json!({ "workflow_id": "one", "name": "n", "steps": [step("a")], "priority": 0.5, "tags": ["x"], "dependencies": [], "metadata": { "m": 1 }, "input": { "text": "t" } }),
            json!({ "success": true, "workflow_id": "one", "status": "submitted" }),
        ),
        ("workflow_template", json!({ "name": "t", "steps": [step("a")] }), json!({ "success": true })),
        (
            "workflow_submit",
            json!({ "workflow_id": "two", "name": "n", "template": "t", "input": { "text": "t" } }),
            json!({ "success": true, "workflow_id": "two" }),
        ),
        ("workflow_wait", json!({ "workflow_id": "one" }), json!({})),
        (
            "workflow_status",
            json!({ "workflow_id": "one", "include_steps": true, "include_metrics": true, "from_step": 0 }),
            json!({ "success": true, "status": "completed", "progress": "…", "steps": "…", "metrics": "…" }),
        ),
        (
            "workflow_list",
            json!({
                "status_filter": "completed", "tag_filter": ["x"], "limit": 5, "offset": 0, "created_after": "2020-01-01T00:00:00Z",
                "created_before": "2100-01-01T00:00:00Z",
            }),
            json!({ "success": true, "returned_count": 1 }),
        ),
        ("workflow_list", json!({ "peer_filter": "nobody" }), json!({ "success": true, "returned_count": 0 })),
        (
            "workflow_dependencies",
            json!({ "workflow_id": "one", "format": "dot" }),
            json!({ "success": true, "nodes": "…" }),
        ),
        (
            "workflow_dependencies",
            json!({ "workflow_id": "one", "fmt": "mermaid" }),
            json!({ "success": true, "critical_path": ["a"] }),
        ),
        (
            "workflow_result",
            json!({ "workflow_id": "one", "include_outputs": false, "include_logs": true }),
            json!({ "success": true, "status": "completed", "logs": "…" }),
        ),
        (
            "workflow_submit",
            json!({ "workflow_id": "three", "name": "n", "steps": [endless], "dependencies": ["two"], "input": { "text": "t" } }),
            json!({ "success": true }),
        ),
        (
            "workflow_cancel",
            json!({ "workflow_id": "three", "reason": "no", "force": true }),
            json!({ "success": true, "status": "cancelled", "message": "…" }),
        ),
        ("workflow_delete", json!({ "workflow_id": "three" }), json!({ "success": true, "deleted": true })),
    ]
}

/// A value with the peer's names in the places that stand for them.
fn with_peer(value: Value, peer: &PeerId, at: &str) -> Value {
    match value {
        Value::String(text) if text == PEER => json!(peer),
        Value::String(text) if text == AT => json!(at),
        Value::Array(values) => values.into_iter().map(|value| with_peer(value, peer, at)).collect(),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, with_peer(value, peer, at))).collect())
        }
        other => other,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_tool_answers_each_of_its_parameters() {
    let there = Commanded::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    let files = folder(&[]);
    let peers = files.path().join("peers");
    std::fs::create_dir(&peers).expect("a folder");
    let now = "2099-01-01T00:00:00Z";
    let record =
        json!({ "peer_id": OTHER.rsplit('/').next(), "runner_name": "r", "multiaddr": OTHER, "last_seen": now });
    std::fs::write(peers.join("peer_r.json"), record.to_string()).expect("a file");
    let granted = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/peers/grant.toml"));
    let mut granted: toml::Table = toml::from_str(&granted.expect("the shipped grant")).expect("TOML");
    let more = format!(
        "files = [{{ path = {:?}, at = '/peers' }}]\n\
         config = {{ CACHE_BOOTSTRAP_PEERS = '{OTHER}', IPFS_ACCELERATE_ENABLE_PUBLIC_BOOTSTRAP = '1' }}",
        peers.display()
    );
    granted.extend(toml::from_str::<toml::Table>(&more).expect("TOML"));
    let table = toml::Table::from_iter([(
        "components".to_owned(),
        toml::Value::Table([("peers".to_owned(), toml::Value::Table(granted))].into_iter().collect()),
    )]);
    grant(&files, &toml::to_string(&table).expect("TOML"));
    let here = Commanded::start_with(files, |config| config.tools.builtin = true).await;
    assert_eq!((here.test.problems(), there.test.problems()), (String::new(), String::new()));
    let invited = there.json(&["invite", "--tool", "task_queue.rpc"]);
    here.json(&["join", invited["ticket"].as_str().expect("a ticket")]);
    let (peer, at) = (there.id(), crate::peers::address(&there));
    for (tool, arguments, expected) in rows() {
        let (arguments, expected) = (with_peer(arguments, &peer, &at), with_peer(expected, &peer, &at));
        if tool == "workflow_wait" {
            // Of the story, and no tool.
            here.test
                .until("the run has ended", async |test| {
                    ask(test, "workflow_status", arguments.clone()).await["status"] == "completed"
                })
                .await;
            continue;
        }
        holds(&ask(&here.test, tool, arguments.clone()).await, &expected, &format!("{tool} {arguments}"));
    }
}
