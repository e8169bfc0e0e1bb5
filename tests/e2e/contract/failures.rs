//! An error of each tool that has one, in the shape of its family.

use serde_json::{Value, json};

use super::{Row, start};
use crate::{
    support::{TestHost, folder, grant},
    taskqueue::{ask, holds},
};

/// The rows: what a tool is asked, and what its answer holds.
pub(super) fn rows() -> Vec<Row> {
    let nobody = "12D3KooWCFAPi3qBEhJtJtiPJBVD3cTSHe64FtCKMx4McEyiC9jT";
    let remote = |mut arguments: Value, name: &str| {
        arguments[name] = json!(nobody);
        arguments
    };
    let forged = json!({ "node_id": "a", "vector": { "a": 1 }, "merkle_root": "0".repeat(64) });
    let failed = |error: &str| json!({ "success": false, "error": error });
    let not_ok = |error: &str| json!({ "ok": false, "error": error });
    let unauthorized = not_ok("unauthorized");
    vec![
        ("p2p_taskqueue_status", remote(json!({}), "peer_id"), unauthorized.clone()),
        (
            "p2p_taskqueue_submit",
            remote(json!({ "task_type": "t", "model_name": "m", "payload": {} }), "peer_id"),
            unauthorized.clone(),
        ),
        (
            "p2p_taskqueue_submit",
            json!({ "task_type": " t", "model_name": "m", "payload": {} }),
            not_ok("invalid_message"),
        ),
        ("p2p_taskqueue_claim_next", remote(json!({ "worker_id": "w" }), "remote_peer_id"), unauthorized.clone()),
        ("p2p_taskqueue_claim_next", json!({ "worker_id": "" }), not_ok("missing_worker_id")),
        ("p2p_taskqueue_claim_next", json!({ "worker_id": "w", "clock": forged }), not_ok("invalid_message")),
        ("p2p_taskqueue_call_tool", json!({ "tool_name": "t" }), not_ok("tools_disabled")),
        ("p2p_taskqueue_call_tool", json!({ "tool_name": "" }), not_ok("missing_tool_name")),
        ("p2p_taskqueue_list_tasks", json!({ "status": "none" }), not_ok("invalid_message")),
        ("p2p_taskqueue_list_tasks", json!({ "remote_multiaddr": "192.0.2.1" }), not_ok("invalid_message")),
        ("p2p_taskqueue_get_task", remote(json!({ "task_id": "t" }), "remote_peer_id"), unauthorized.clone()),
        ("p2p_taskqueue_wait_task", json!({ "task_id": "" }), not_ok("missing_task_id")),
        ("p2p_taskqueue_complete_task", json!({ "task_id": "nothing" }), not_ok("task_missing")),
        ("p2p_taskqueue_heartbeat", json!({ "peer_id": "" }), not_ok("missing_peer_id")),
        ("p2p_taskqueue_heartbeat", json!({ "peer_id": "p", "clock": forged }), not_ok("invalid_message")),
        ("p2p_taskqueue_cache_get", json!({ "key": "" }), not_ok("missing_key")),
        ("p2p_taskqueue_cache_set", json!({ "key": "", "value": 1 }), not_ok("missing_key")),
        ("p2p_taskqueue_submit_docker_hub", json!({ "image": "--x" }), not_ok("invalid_image")),
        ("p2p_taskqueue_submit_docker_github", json!({ "repo_url": "file:///x" }), not_ok("invalid_repo_url")),
        ("list_peers", json!({ "discovery_methods": ["smoke"] }), json!({ "ok": false, "error": "…" })),
        (
            "p2p_submit_task",
            json!({ "task_id": "", "workflow_id": "w", "name": "n", "tags": [] }),
            json!({ "error": "…", "tool": "p2p_submit_task", "timestamp": "…" }),
        ),
        (
            "p2p_check_workflow_tags",
            json!({ "tags": vec!["x"; 65] }),
            json!({ "error": "…", "tool": "p2p_check_workflow_tags", "timestamp": "…" }),
        ),
        (
            "p2p_update_peer_state",
            json!({ "peer_id": "a", "clock_data": forged }),
            json!({ "error": "…", "tool": "p2p_update_peer_state", "timestamp": "…" }),
        ),
        (
            "p2p_mark_task_complete",
            json!({ "task_id": "nothing" }),
            json!({ "success": false, "task_id": "nothing", "tool": "p2p_mark_task_complete" }),
        ),
        ("p2p_get_next_task", json!({}), json!({ "task": null, "message": "No tasks available for this peer" })),
        (
            "workflow_submit",
            json!({ "workflow_id": "w", "name": "n", "steps": [{ "step_id": "a" }] }),
            json!({ "success": false, "error": "…", "workflow_id": "w" }),
        ),
        (
            "workflow_submit",
            json!({ "workflow_id": "w", "name": "n", "steps": [] }),
            failed("Missing required parameters: workflow_id, name, or steps"),
        ),
        ("workflow_status", json!({ "workflow_id": "x" }), failed("Workflow x not found")),
        ("workflow_cancel", json!({ "workflow_id": "x" }), failed("Workflow x not found")),
        ("workflow_list", json!({ "limit": 1001 }), failed("Limit must be between 1 and 1000")),
        ("workflow_list", json!({ "offset": -1 }), failed("Offset must be non-negative")),
        ("workflow_list", json!({ "cursor": "" }), failed("…")),
        ("workflow_dependencies", json!({ "workflow_id": "x" }), failed("Workflow x not found")),
        ("workflow_dependencies", json!({ "workflow_id": "x", "format": "svg" }), failed("…")),
        ("workflow_result", json!({ "workflow_id": "x" }), failed("Workflow x not found or not yet completed")),
        ("task_submit", json!({ "task_id": " x", "task_type": "t", "payload": {} }), failed("…")),
        ("task_status", json!({ "task_id": "x" }), failed("task \"x\" not found")),
        ("task_cancel", json!({ "task_id": "x" }), failed("task \"x\" not found")),
        ("task_priority", json!({ "task_id": "x", "new_priority": 1 }), failed("task \"x\" not found")),
        ("task_result", json!({ "task_id": "x" }), failed("task \"x\" not found")),
        ("queue_clear", json!({}), failed("Confirmation required (set confirm=True)")),
        ("task_retry", json!({ "task_id": "x" }), failed("task \"x\" not found")),
        ("worker_register", json!({ "worker_id": "", "capabilities": [] }), failed("…")),
        ("worker_unregister", json!({ "worker_id": "x" }), failed("…")),
        ("worker_status", json!({ "worker_id": "x" }), failed("…")),
        ("peer_discover", json!({ "max_peers": 0 }), failed("Limit must be between 1 and 1000")),
        ("peer_connect", json!({ "peer_id": nobody, "multiaddr": "x" }), failed("…")),
        (
            "peer_connect",
            json!({ "peer_id": nobody, "multiaddr": format!("/ip4/127.0.0.1/tcp/1/p2p/{nobody}"), "retry_count": 0 }),
            failed("…"),
        ),
        ("peer_disconnect", json!({ "peer_id": nobody }), failed("…")),
        ("peer_list", json!({ "limit": 1001 }), failed("Limit must be between 1 and 1000")),
        ("peer_list", json!({ "offset": -1 }), failed("Offset must be non-negative")),
        ("peer_metrics", json!({ "peer_id": "nobody" }), failed("Peer nobody not found")),
        (
            "bootstrap_network",
            json!({ "bootstrap_nodes": ["x"], "min_connections": 1 }),
            json!({ "success": false, "error": "…", "network_ready": false, "failed_count": 1 }),
        ),
        ("p2p_bootstrap_from_file", json!({}), failed("…")),
        ("p2p_bootstrap_from_env", json!({ "max_peers": 0 }), failed("…")),
        ("p2p_bootstrap_from_public", json!({}), failed("public_bootstrap_disabled")),
        ("peer_registry_list", json!({}), failed("registry_not_configured")),
    ]
}

/// The tools that a full store makes fail, with what they are asked.
pub(super) fn full_rows() -> Vec<(&'static str, Value)> {
    vec![
        ("p2p_scheduler_status", json!({})),
        ("p2p_get_merkle_clock", json!({})),
        ("queue_pause", json!({ "reason": "full" })),
        ("queue_resume", json!({ "reorder_by_priority": false })),
    ]
}

/// The tools whose parameters alone can be wrong: a parameter, and a value that it cannot have.
pub(super) fn wrong_rows() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("queue_stats", "include_worker_stats", json!("yes")),
        ("queue_stats", "include_historical", json!("yes")),
        ("p2p_bootstrap_list", "more", json!(1)),
        ("task_list", "status_filter", json!("none")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_has_the_shape_of_its_family() {
    let host = start().await;
    for (tool, arguments, expected) in rows() {
        holds(&ask(&host, tool, arguments.clone()).await, &expected, &format!("{tool} {arguments}"));
    }
    for (tool, parameter, value) in wrong_rows() {
        let text = host.text(tool, json!({ parameter: value })).await;
        assert!(text.starts_with("error: invalid argument") && text.contains(parameter), "{tool}: {text}");
    }
}

/// The tools whose only failure is their store's, each with a component whose store is full before anything is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_whose_store_is_full_fails_in_the_shape_of_its_family() {
    let files = folder(&[]);
    let full = "[components.scheduler]
        store = { quota_bytes = 1 }
        mesh = { see = true, call = ['*: p2p_submit_task', '*: p2p_mark_task_complete', '*: p2p_update_peer_state'] }
        [components.taskqueue]
        call = ['*']
        store = { quota_bytes = 1 }
        mesh = { see = true, call = ['*: task_queue.rpc'] }";
    grant(&files, full);
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    for (tool, arguments) in full_rows() {
        let failed = ask(&host, tool, arguments).await;
        if tool.starts_with("queue") {
            holds(&failed, &json!({ "success": false, "error": "…" }), tool);
            continue;
        }
        holds(&failed, &json!({ "error": "…", "tool": tool, "timestamp": "…" }), tool);
        let error = failed["error"].as_str().expect("a text");
        assert!(error.starts_with("P2P scheduler not available: "), "{tool}: {failed}");
        assert!(failed.get("ok").is_none() && failed.get("success").is_none(), "{tool}: {failed}");
    }
}
