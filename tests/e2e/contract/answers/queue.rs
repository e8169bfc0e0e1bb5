//! The story of the queue's tools.

use serde_json::json;

use super::clock;
use crate::contract::Row;

/// Tasks, the queue and its workers (1.4), and the tools of 1.1 here.
pub(super) fn queue() -> Vec<Row> {
    let plain = |id: &str| json!({ "task_id": id, "task_type": "kind", "payload": { "n": 1 } });
    vec![
        (
            "task_submit",
            plain("a"),
            json!({ "success": true, "task_id": "a", "status": "queued", "queue_position": 1 }),
        ),
        (
            "task_submit",
            json!({
                "task_id": "b", "task_type": "kind", "payload": {}, "priority": 2.5, "tags": ["x", "y"], "dependencies": ["a"], "timeout": 60,
                "retry_policy": { "max_retries": 1, "backoff_factor": 3 }, "metadata": { "m": 1 }, "concurrency_key": "c", "rate_key": "r",
                "unique": { "key": "u", "window_ms": 60_000 }, "not_before": "2020-01-01T00:00:00Z",
                "notify": true,
            }),
            json!({ "success": true, "status": "queued", "queue_position": null }),
        ),
        ("task_submit", plain("c"), json!({ "success": true })),
        (
            "task_status",
            json!({ "task_id": "a", "include_logs": true, "include_metrics": true }),
            json!({ "status": "queued", "logs": [], "metrics": { "attempt": 0, "execution_time": null } }),
        ),
        (
            "task_list",
            json!({ "status_filter": "queued", "tag_filter": ["x", "y"] }),
            json!({ "total_count": 1, "returned_count": 1 }),
        ),
        (
            "task_list",
            json!({ "priority_min": 2.0, "limit": 1, "offset": 1 }),
            json!({ "total_count": 1, "returned_count": 0 }),
        ),
        ("task_list", json!({ "worker_filter": "w", "cursor": "" }), json!({ "total_count": 0 })),
        (
            "task_priority",
            json!({ "task_id": "a", "new_priority": 9, "requeue": false }),
            json!({ "success": true, "old_priority": 1.0, "new_priority": 9.0, "new_queue_position": 1 }),
        ),
        (
            "worker_register",
            json!({
                "worker_id": "w", "capabilities": ["kind"], "max_concurrent_tasks": 2, "resource_limits": { "cpu_cores": 2, "memory_gb": 1 },
                "metadata": { "zone": "z" },
            }),
            json!({ "success": true, "worker_id": "w", "status": "active", "registered_at": "…" }),
        ),
        ("queue_pause", json!({ "reason": "why" }), json!({ "success": true, "status": "paused", "paused_at": "…" })),
        (
            "queue_resume",
            json!({ "reorder_by_priority": false }),
            json!({ "success": true, "status": "active", "resumed_at": "…", "reordered": false }),
        ),
        (
            "p2p_taskqueue_claim_next",
            json!({ "worker_id": "w", "supported_task_types": ["kind"], "peer_id": "peer-a", "clock": clock(), "session_id": "s" }),
            json!({ "ok": true, "task": { "task_id": "a", "task_type": "kind", "assigned_worker": "w", "status": "running" } }),
        ),
        (
            "p2p_taskqueue_status",
            json!({ "detail": true, "timeout_s": 5 }),
            json!({ "ok": true, "queue": { "running": 1 }, "detail": { "queue": { "running": 1 } }, "scheduler": { "known_peers": [{ "peer_id": "peer-a" }] } }),
        ),
        (
            "p2p_taskqueue_heartbeat",
            json!({ "peer_id": "peer-b", "clock": clock() }),
            json!({ "ok": true, "peer": "peer-b" }),
        ),
        (
            "worker_status",
            json!({ "worker_id": "w", "include_tasks": true, "include_metrics": true }),
            json!({ "success": true, "status": "active", "running_tasks": 1, "tasks": "…", "metrics": { "max_concurrent_tasks": 2 } }),
        ),
        (
            "p2p_taskqueue_list_tasks",
            json!({ "status": "running", "limit": 1, "task_types": ["kind"], "cursor": "" }),
            json!({ "ok": true, "tasks": [{ "task_id": "a" }], "peer_id": "…" }),
        ),
        (
            "p2p_taskqueue_get_task",
            json!({ "task_id": "a" }),
            json!({ "ok": true, "task": { "task_id": "a", "priority": 9.0 } }),
        ),
        (
            "p2p_taskqueue_wait_task",
            json!({ "task_id": "a", "timeout_s": 0.01 }),
            json!({ "ok": true, "task": { "status": "running" } }),
        ),
        (
            "p2p_taskqueue_complete_task",
            json!({ "task_id": "a", "status": "completed", "result": { "output": 42 }, "worker_id": "w", "fencing_token": 1 }),
            json!({ "ok": true, "task_id": "a", "peer_id": "…" }),
        ),
        (
            "task_result",
            json!({ "task_id": "a", "include_output": false, "include_logs": true }),
            json!({ "success": true, "status": "completed", "result": { "output": 42 }, "output": null, "logs": [] }),
        ),
    ]
}

/// The ends of those tasks, and the cache.
pub(super) fn ends() -> Vec<Row> {
    vec![
        ("p2p_taskqueue_claim_next", json!({ "worker_id": "v" }), json!({ "task": { "task_id": "b" } })),
        (
            "p2p_taskqueue_complete_task",
            json!({ "task_id": "b", "status": "failed", "error": "no" }),
            json!({ "ok": true, "task_id": "b" }),
        ),
        ("task_status", json!({ "task_id": "b" }), json!({ "status": "failed" })),
        (
            "task_retry",
            json!({ "task_id": "b", "retry_config": { "max_retries": 0, "timeout": 5 } }),
            json!({ "success": true, "retry_task_id": "b-retry-1", "retry_count": 1 }),
        ),
        (
            "queue_stats",
            json!({ "include_worker_stats": true, "include_historical": true }),
            json!({ "success": true, "queued_count": 2, "completed_count": 1, "failed_count": 1, "worker_stats": [{ "worker_id": "w", "completed_tasks": 1 }], "historical": "…" }),
        ),
        (
            "task_cancel",
            json!({ "task_id": "c", "reason": "no", "force": true }),
            json!({ "success": true, "status": "cancelled", "cancelled_at": "…", "cleanup_required": false }),
        ),
        (
            "queue_clear",
            json!({ "status_filter": "cancelled", "confirm": true }),
            json!({ "success": true, "cleared_count": 1, "cleared_at": "…" }),
        ),
        (
            "worker_unregister",
            json!({ "worker_id": "w", "graceful": false, "timeout": 5 }),
            json!({ "success": true, "status": "unregistered", "completed_tasks": 1, "abandoned_tasks": 0 }),
        ),
        (
            "p2p_taskqueue_cache_set",
            json!({ "key": "k", "value": { "a": 1 }, "ttl_s": 60, "timeout_s": 5 }),
            json!({ "ok": true, "key": "k" }),
        ),
        (
            "p2p_taskqueue_cache_get",
            json!({ "key": "k", "timeout_s": 5 }),
            json!({ "ok": true, "hit": true, "value": { "a": 1 }, "peer_id": "…" }),
        ),
        (
            "p2p_taskqueue_submit_docker_hub",
            json!({
                "image": "a/b:1", "command": ["c"], "entrypoint": "sh -c", "environment": { "A": "b" }, "volumes": { "/srv": "/in" },
                "extra": { "timeout": 5, "priority": 7 },
            }),
            json!({ "ok": true, "task_id": "…" }),
        ),
        (
            "p2p_taskqueue_claim_next",
            json!({ "worker_id": "v", "supported_task_types": ["docker.execute"] }),
            json!({ "task": { "model_name": "docker", "payload": { "image": "a/b:1", "command": ["c"], "entrypoint": ["sh", "-c"], "environment": { "A": "b" }, "volumes": { "/srv": "/in" }, "timeout": 5 } } }),
        ),
        (
            "p2p_taskqueue_submit_docker_github",
            json!({
                "repo_url": "https://github.com/o/r", "branch": "b", "dockerfile_path": "d/D", "context_path": "d", "command": "c d",
                "entrypoint": ["e"], "environment": { "A": "b" }, "build_args": { "V": "1" }, "extra": { "timeout": 5 },
            }),
            json!({ "ok": true, "task_id": "…" }),
        ),
        (
            "p2p_taskqueue_claim_next",
            json!({ "worker_id": "v", "supported_task_types": ["docker.github"] }),
            json!({ "task": { "payload": { "repo_url": "https://github.com/o/r", "branch": "b", "dockerfile_path": "d/D", "context_path": "d", "command": ["c", "d"], "entrypoint": ["e"], "environment": { "A": "b" }, "build_args": { "V": "1" }, "timeout": 5 } } }),
        ),
    ]
}
