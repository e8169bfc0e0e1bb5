//! The task queue as a client sees it: every tool, what it answers, and how it refuses.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::{TestHost, folder};

pub(crate) async fn start() -> TestHost {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    host
}

pub(crate) async fn ask(host: &TestHost, tool: &str, arguments: Value) -> Value {
    let answer = host.call(tool, arguments).await;
    let reply = answer["result"]["structuredContent"].clone();
    assert!(reply.is_object() && answer["result"]["isError"] != json!(true), "{tool}: {answer}");
    reply
}

pub(crate) async fn rpc(host: &TestHost, request: Value) -> Value {
    ask(host, "task_queue.rpc", request).await
}

/// Holds what is expected against what is there: objects may have more fields, `"…"` stands for any value but null.
pub(crate) fn holds(found: &Value, expected: &Value, at: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (name, value) in expected {
                holds(
                    found.get(name).unwrap_or_else(|| panic!("{at}: {name} is missing in {found:?}")),
                    value,
                    &format!("{at}.{name}"),
                );
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{at}: {found:?}");
            found.iter().zip(expected).for_each(|(found, expected)| holds(found, expected, at));
        }
        (found, Value::String(any)) if any == "…" => assert!(!found.is_null(), "{at} is null"),
        _ => assert_eq!(found, expected, "{at}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tool_answers_as_its_contract_says() {
    let host = start().await;
    let submit = |id: &str| json!({ "task_id": id, "task_type": "kind", "payload": { "n": 1 } });
    for (tool, arguments, expected) in [
        (
            "task_submit",
            submit("a"),
            json!({ "success": true, "task_id": "a", "status": "queued", "queue_position": 1, "estimated_start_time": "…", "assigned_worker": null }),
        ),
        (
            "task_submit",
            json!({ "task_id": "b", "task_type": "kind", "payload": {}, "priority": 2.5, "tags": ["x", "y"], "dependencies": ["a"], "timeout": 60, "retry_policy": { "max_retries": 1, "backoff_factor": 3 }, "metadata": { "m": 1 } }),
            json!({ "success": true, "status": "queued", "queue_position": null }),
        ),
        ("task_submit", submit("a"), json!({ "success": true, "task_id": "a" })),
        (
            "task_submit",
            json!({ "task_id": "a", "task_type": "other", "payload": {} }),
            json!({ "success": false, "error": "\"a\" was submitted before with other work", "task_id": "a" }),
        ),
        (
            "task_submit",
            json!({ "task_id": "c", "task_type": "kind", "payload": {}, "dependencies": ["nothing"] }),
            json!({ "success": false, "error": "dependency \"nothing\" is not a task" }),
        ),
        (
            "task_status",
            json!({ "task_id": "a", "include_metrics": true, "include_logs": true }),
            json!({ "success": true, "status": "queued", "progress": null, "worker_id": null, "start_time": null, "end_time": null, "queue_position": 1, "logs": [], "metrics": { "attempt": 0, "execution_time": null } }),
        ),
        (
            "task_status",
            json!({ "task_id": "nothing" }),
            json!({ "success": false, "error": "task \"nothing\" not found", "task_id": "nothing" }),
        ),
        (
            "task_result",
            json!({ "task_id": "a" }),
            json!({ "success": false, "error": "task \"a\" is not completed yet: it is queued" }),
        ),
        (
            "task_list",
            json!({ "tag_filter": ["x", "y"] }),
            json!({ "success": true, "total_count": 1, "returned_count": 1, "has_more": false }),
        ),
        ("task_list", json!({ "limit": 1 }), json!({ "total_count": 2, "returned_count": 1, "has_more": true })),
        ("task_list", json!({ "priority_min": 2.0, "status_filter": "queued" }), json!({ "total_count": 1 })),
        (
            "task_priority",
            json!({ "task_id": "a", "new_priority": 9 }),
            json!({ "success": true, "old_priority": 1.0, "new_priority": 9.0, "new_queue_position": 1 }),
        ),
        (
            "worker_register",
            json!({ "worker_id": "w", "capabilities": ["kind"], "max_concurrent_tasks": 1 }),
            json!({ "success": true, "worker_id": "w", "status": "active", "registered_at": "…", "assigned_peers": [] }),
        ),
        (
            "queue_pause",
            json!({ "reason": "why" }),
            json!({ "success": true, "status": "paused", "paused_at": "…", "queued_tasks": 2, "running_tasks": 0 }),
        ),
        ("p2p_taskqueue_claim_next", json!({ "worker_id": "w" }), json!({ "ok": true, "task": null })),
        (
            "queue_resume",
            json!({}),
            json!({ "success": true, "status": "active", "resumed_at": "…", "queued_tasks": 2, "reordered": true }),
        ),
        (
            "p2p_taskqueue_claim_next",
            json!({ "worker_id": "w", "supported_task_types": ["else"] }),
            json!({ "ok": true, "task": null }),
        ),
        (
            "p2p_taskqueue_claim_next",
            json!({ "worker_id": "w", "supported_task_types": ["kind"] }),
            json!({ "ok": true, "task": { "task_id": "a", "task_type": "kind", "model_name": "", "payload": { "n": 1 }, "created_at": "…", "status": "running", "assigned_worker": "w", "fencing_token": 1 } }),
        ),
        ("p2p_taskqueue_claim_next", json!({ "worker_id": "w" }), json!({ "ok": true, "task": null })),
        (
            "worker_status",
            json!({ "worker_id": "w", "include_tasks": true, "include_metrics": true }),
            json!({ "success": true, "status": "busy", "running_tasks": 1, "completed_tasks": 0, "failed_tasks": 0, "metrics": { "max_concurrent_tasks": 1 } }),
        ),
        (
            "task_cancel",
            json!({ "task_id": "a" }),
            json!({ "success": false, "error": "the task is running; cancel it with force" }),
        ),
        (
            "task_queue.rpc",
            json!({ "op": "task.report", "task_id": "a", "worker_id": "w", "progress": { "percent": 50 }, "logs": [{ "message": "line" }] }),
            json!({ "ok": true, "peer_id": "…", "task_id": "a" }),
        ),
        (
            "task_status",
            json!({ "task_id": "a", "include_logs": true }),
            json!({ "status": "running", "worker_id": "w", "progress": { "percent": 50 }, "start_time": "…", "logs": [{ "ts": "…", "stream": "stdout", "message": "line" }] }),
        ),
        (
            "p2p_taskqueue_complete_task",
            json!({ "task_id": "a", "worker_id": "other" }),
            json!({ "ok": false, "error": "refused", "task_id": "a" }),
        ),
        (
            "p2p_taskqueue_complete_task",
            json!({ "task_id": "a", "fencing_token": 7 }),
            json!({ "ok": false, "detail": "the fencing token is stale" }),
        ),
        (
            "p2p_taskqueue_complete_task",
            json!({ "task_id": "a", "result": { "output": 42 } }),
            json!({ "ok": true, "task_id": "a", "peer_id": "…" }),
        ),
        (
            "p2p_taskqueue_complete_task",
            json!({ "task_id": "nothing" }),
            json!({ "ok": false, "error": "task_missing" }),
        ),
        (
            "task_result",
            json!({ "task_id": "a" }),
            json!({ "success": true, "status": "completed", "result": { "output": 42 }, "output": 42, "logs": null, "execution_time": "…" }),
        ),
        ("task_status", json!({ "task_id": "b" }), json!({ "status": "queued", "queue_position": 1 })),
        (
            "task_retry",
            json!({ "task_id": "a", "retry_config": { "max_retries": 0 } }),
            json!({ "success": true, "task_id": "a", "retry_task_id": "a-retry-1", "retry_count": 1, "queue_position": 1 }),
        ),
        (
            "task_retry",
            json!({ "task_id": "b" }),
            json!({ "success": false, "error": "task \"b\" has not ended: it is queued" }),
        ),
        (
            "task_cancel",
            json!({ "task_id": "b", "reason": "no" }),
            json!({ "success": true, "status": "cancelled", "cancelled_at": "…", "cleanup_required": false }),
        ),
        (
            "queue_stats",
            json!({ "include_worker_stats": true, "include_historical": true }),
            json!({ "success": true, "queued_count": 1, "running_count": 0, "completed_count": 1, "failed_count": 0, "average_wait_time": "…", "average_execution_time": "…", "throughput": "…", "worker_stats": [{ "worker_id": "w", "status": "idle", "running_tasks": 0, "completed_tasks": 1, "failed_tasks": 0 }], "historical": "…" }),
        ),
        (
            "queue_clear",
            json!({}),
            json!({ "success": false, "error": "Confirmation required (set confirm=True)", "message": "…" }),
        ),
        (
            "queue_clear",
            json!({ "status_filter": "cancelled", "confirm": true }),
            json!({ "success": true, "cleared_count": 1, "remaining_count": 2, "cleared_at": "…" }),
        ),
        ("queue_clear", json!({ "confirm": true }), json!({ "cleared_count": 2, "remaining_count": 0 })),
        (
            "worker_unregister",
            json!({ "worker_id": "w" }),
            json!({ "success": true, "status": "unregistered", "unregistered_at": "…", "completed_tasks": 1, "abandoned_tasks": 0 }),
        ),
        (
            "worker_status",
            json!({ "worker_id": "w" }),
            json!({ "success": false, "error": "worker \"w\" not found", "worker_id": "w" }),
        ),
        ("worker_unregister", json!({ "worker_id": "w" }), json!({ "success": false })),
    ] {
        let found = ask(&host, tool, arguments.clone()).await;
        let mut expected = expected;
        if tool == "task_submit" && found["estimated_start_time"].is_null() {
            // Nothing was measured yet.
            if let Some(fields) = expected.as_object_mut() {
                fields.remove("estimated_start_time");
            }
        }
        holds(&found, &expected, &format!("{tool} {arguments}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protocol_answers_as_its_contract_says() {
    let host = start().await;
    for (request, expected) in [
        (json!({}), json!({ "ok": false, "error": "unknown_op", "peer_id": "…" })),
        (json!({ "op": "fly" }), json!({ "ok": false, "error": "unknown_op" })),
        (json!({ "op": "claim" }), json!({ "ok": false, "error": "missing_worker_id" })),
        (json!({ "op": "complete" }), json!({ "ok": false, "error": "missing_task_id" })),
        (json!({ "op": "heartbeat" }), json!({ "ok": false, "error": "missing_peer_id" })),
        (json!({ "op": "cache.get" }), json!({ "ok": false, "error": "missing_key" })),
        (json!({ "op": "call_tool" }), json!({ "ok": false, "error": "missing_tool_name" })),
        (
            json!({ "op": "call_tool", "tool": "text_hash", "args": { "text": "abc" } }),
            json!({ "ok": false, "error": "tools_disabled" }),
        ),
        (json!({ "op": "configure", "tools": true }), json!({ "ok": true, "tools": true, "deterministic": false })),
        (
            json!({ "op": "tool", "name": "text_hash", "arguments": { "text": "abc" } }),
            json!({ "ok": true, "tool": "text_hash", "result": { "digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" } }),
        ),
        (json!({ "op": "call_tool", "tool": "nothing" }), json!({ "ok": false, "error": "tool_not_found" })),
        (json!({ "op": "get", "task_id": "nothing" }), json!({ "ok": true, "task": null })),
        (json!({ "op": "wait", "task_id": "nothing" }), json!({ "ok": true, "task": null })),
        (json!({ "op": "cancel", "task_id": "nothing" }), json!({ "ok": true, "cancelled": false })),
        (
            json!({ "op": "heartbeat", "peer_id": "peer-a", "clock": { "node_id": "peer-a", "vector": { "peer-a": 1 }, "merkle_root": "654809be724f0a50a978f54f8327144aee684e6aee214825bb3bdd38c039ace3" } }),
            json!({ "ok": true, "peer": "peer-a", "scheduler": { "clock": { "node_id": "taskqueue-service", "vector": { "peer-a": 1, "taskqueue-service": 1 }, "merkle_root": "96b4942a14424cd86ac2ff1278e2742ecd09f0f8c9be8b1ae6a2de026e864089" }, "known_peers": [{ "peer_id": "peer-a", "last_seen": "…" }] } }),
        ),
        (
            json!({ "op": "heartbeat", "peer_id": "peer-a", "clock": { "node_id": "peer-a", "vector": { "peer-a": 1 }, "merkle_root": "00" } }),
            json!({ "ok": false, "error": "invalid_message" }),
        ),
        (json!({ "op": "cache.set", "key": "k", "value": { "a": 1 } }), json!({ "ok": true, "key": "k" })),
        (json!({ "op": "cache", "key": "k" }), json!({ "ok": true, "hit": true, "value": { "a": 1 } })),
        (json!({ "op": "cache.set", "key": "short", "value": 1, "ttl_s": 0.001 }), json!({ "ok": true })),
        (json!({ "op": "cache_get", "key": "short" }), json!({ "ok": true, "hit": false, "value": null })),
        (json!({ "op": "cache_has", "key": "k" }), json!({ "ok": true, "hit": true })),
        (json!({ "op": "cache_del", "key": "k" }), json!({ "ok": true, "deleted": true })),
        (json!({ "op": "cache.get", "key": "k" }), json!({ "ok": true, "hit": false })),
        (
            json!({ "op": "status" }),
            json!({ "ok": true, "capabilities": { "task_types": [], "resource_keys": [] }, "nat": { "autonat": { "supported": false, "status": "unavailable", "code": null } }, "session": "" }),
        ),
        (
            json!({ "op": "describe", "detail": true }),
            json!({ "queue": { "queued": 0, "running": 0, "queued_by_type": {} }, "detail": { "queue": { "queued": 0 } } }),
        ),
    ] {
        holds(&rpc(&host, request.clone()).await, &expected, &request.to_string());
    }
    let submitted = rpc(&host, json!({ "op": "submit", "payload": "no object" })).await;
    let id = submitted["task_id"].as_str().expect("an id").to_owned();
    assert_eq!(id.len(), 32);
    let record = rpc(&host, json!({ "op": "get", "task_id": id })).await["task"].clone();
    let expected = json!({
        "task_id": id, "task_type": "text-generation", "model_name": "", "payload": { "payload": "no object" }, "status": "queued",
        "assigned_worker": null, "result": null, "error": null, "priority": 5.0, "attempt": 0, "max_attempts": 3, "next_attempt_at": 0.0,
        "lease_until": null, "heartbeat_at": null, "idempotency_key": null, "created_at": "…", "updated_at": "…",
    });
    holds(&record, &expected, "record");
    assert_eq!(record.as_object().map(serde_json::Map::len), expected.as_object().map(serde_json::Map::len));
    // Names of types that mean the same are one; a claim is a lease of 300 s.
    let claimed = rpc(&host, json!({ "op": "claim", "worker_id": "w", "task_types": "else, generation" })).await;
    assert_eq!(claimed["task"]["task_id"], json!(id), "{claimed}");
    let record = rpc(&host, json!({ "op": "get", "task_id": id })).await["task"].clone();
    let lease = record["lease_until"].as_f64().expect("a lease") - record["heartbeat_at"].as_f64().expect("a time");
    assert_eq!((lease, record["attempt"].clone()), (300.0, json!(1)));
    holds(
        &rpc(&host, json!({ "op": "release", "task_id": id, "worker_id": "other" })).await,
        &json!({ "ok": false, "error": "refused" }),
        "release",
    );
    holds(
        &rpc(&host, json!({ "op": "release", "task_id": id, "worker_id": "w", "reason": "r" })).await,
        &json!({ "ok": true }),
        "release",
    );
    let record = rpc(&host, json!({ "op": "get", "task_id": id })).await["task"].clone();
    holds(
        &record,
        &json!({ "status": "queued", "result": { "progress": { "release_count": 1, "last_release_reason": "r", "last_release_ts": "…" } } }),
        "released",
    );
    for _ in 0..3 {
        rpc(&host, json!({ "op": "submit", "task_type": "many", "payload": { "priority": 99 } })).await;
    }
    let many = rpc(&host, json!({ "op": "claim_many", "worker_id": "w", "limit": 9 })).await;
    assert_eq!(many["tasks"].as_array().map(Vec::len), Some(3), "of one type, the highest priority first: {many}");
    let listed = rpc(&host, json!({ "op": "list", "status": "running", "task_types": ["many"] })).await;
    assert_eq!(listed["tasks"].as_array().map(Vec::len), Some(3));
    // The same key and the same work is the same task; with other work it is refused.
    let keyed = |work: u32| json!({ "op": "submit", "payload": { "idempotency_key": "key", "work": work } });
    let first = rpc(&host, keyed(1)).await;
    assert_eq!(rpc(&host, keyed(1)).await["task_id"], first["task_id"]);
    holds(&rpc(&host, keyed(2)).await, &json!({ "ok": false, "error": "idempotency_conflict" }), "other work");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_queues_are_out_of_reach_and_docker_tasks_wait() {
    let host = start().await;
    for (tool, address, mut arguments) in [
        ("p2p_taskqueue_status", "peer_id", json!({})),
        ("p2p_taskqueue_submit", "peer_id", json!({ "task_type": "t", "model_name": "m", "payload": {} })),
        ("p2p_taskqueue_claim_next", "remote_peer_id", json!({ "worker_id": "w" })),
        ("p2p_taskqueue_call_tool", "remote_peer_id", json!({ "tool_name": "t" })),
        ("p2p_taskqueue_list_tasks", "remote_peer_id", json!({})),
        ("p2p_taskqueue_get_task", "remote_peer_id", json!({ "task_id": "t" })),
        ("p2p_taskqueue_wait_task", "remote_peer_id", json!({ "task_id": "t" })),
        ("p2p_taskqueue_complete_task", "remote_peer_id", json!({ "task_id": "t" })),
        ("p2p_taskqueue_heartbeat", "remote_peer_id", json!({ "peer_id": "p" })),
        ("p2p_taskqueue_cache_get", "remote_peer_id", json!({ "key": "k" })),
        ("p2p_taskqueue_cache_set", "remote_peer_id", json!({ "key": "k", "value": 1 })),
        ("p2p_taskqueue_submit_docker_hub", "remote_multiaddr", json!({ "image": "i" })),
        ("p2p_taskqueue_submit_docker_github", "remote_multiaddr", json!({ "repo_url": "https://example.com/r" })),
    ] {
        let nobody = "12D3KooWCFAPi3qBEhJtJtiPJBVD3cTSHe64FtCKMx4McEyiC9jT";
        let is_address = address == "remote_multiaddr";
        arguments[address] =
            if is_address { json!(format!("/ip4/127.0.0.1/tcp/1/p2p/{nobody}")) } else { json!(nobody) };
        let found = ask(&host, tool, arguments).await;
        holds(&found, &json!({ "ok": false, "error": "unauthorized", "detail": "…" }), tool);
    }
    holds(
        &ask(&host, "list_peers", json!({})).await,
        &json!({ "ok": true, "self_peer_id": "…", "count": 0, "peers": [] }),
        "list_peers",
    );
    let hub = json!({ "image": "python:3.12", "command": "python -c 1", "environment": { "A": "b" }, "extra": { "timeout": 5 } });
    let submitted = ask(&host, "p2p_taskqueue_submit_docker_hub", hub).await;
    let task = ask(&host, "p2p_taskqueue_get_task", json!({ "task_id": submitted["task_id"] })).await;
    let payload =
        json!({ "image": "python:3.12", "command": ["python", "-c", "1"], "environment": { "A": "b" }, "timeout": 5 });
    holds(
        &task["task"],
        &json!({ "task_type": "docker.execute", "model_name": "docker", "status": "queued", "payload": payload }),
        "docker",
    );
    let claimed =
        ask(&host, "p2p_taskqueue_claim_next", json!({ "worker_id": "w", "supported_task_types": ["docker.run"] }))
            .await;
    assert_eq!(claimed["task"]["task_id"], submitted["task_id"]);
    for (tool, arguments, error) in [
        ("p2p_taskqueue_submit_docker_hub", json!({ "image": "--privileged" }), "invalid_image"),
        ("p2p_taskqueue_submit_docker_hub", json!({ "image": "a b" }), "invalid_image"),
        ("p2p_taskqueue_submit_docker_github", json!({ "repo_url": "file:///etc" }), "invalid_repo_url"),
        (
            "p2p_taskqueue_submit_docker_github",
            json!({ "repo_url": "https://e.org/r", "context_path": "../.." }),
            "invalid_path",
        ),
    ] {
        holds(&ask(&host, tool, arguments).await, &json!({ "ok": false, "error": error }), tool);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_parameter_is_the_contracts_and_is_checked() {
    let host = start().await;
    let (mut seen, mut checked) = (String::new(), 0);
    let wrong = [json!({ "no": 1 }), json!([{ "no": 1 }]), json!("no"), json!(7.5), json!(true), json!(null)];
    for tool in listed(&host).await {
        let name = tool["name"].as_str().expect("a name");
        let schema = &tool["inputSchema"];
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        seen.push_str(name);
        for (parameter, of_this) in schema["properties"].as_object().into_iter().flatten() {
            let star = if required.contains(&parameter.as_str()) { "*" } else { "" };
            let kind = of_this.get("type").or(of_this.get("anyOf")).cloned().unwrap_or(json!("any"));
            let default = of_this.get("default").map(|default| format!("={default}")).unwrap_or_default();
            write!(seen, "\n  {parameter}{star}: {kind}{default}").expect("written");
            let validator_says: Vec<Value> = {
                // Every value that the schema does not allow, by the schema that clients see.
                let mut bare = of_this.clone();
                if let Some(definitions) = schema.get("$defs") {
                    bare["$defs"] = definitions.clone();
                }
                let validator = jsonschema::validator_for(&bare).expect("a schema");
                wrong.iter().filter(|value| !validator.is_valid(value)).cloned().collect()
            };
            for value in validator_says {
                let text = host.text(name, json!({ parameter: value })).await;
                let names_it = text.contains(&format!("`/{parameter}")) || text.contains("is a required property");
                assert!(text.starts_with("error: invalid argument") && names_it, "{name} {parameter} {value}: {text}");
                checked += 1;
            }
        }
        seen.push('\n');
        let unknown = host.text(name, json!({ "nobody-knows": 1 })).await;
        assert!(unknown.starts_with("error: invalid argument"), "{name}: {unknown}");
        for missing in required {
            let text = host.text(name, json!({})).await;
            assert!(
                text.starts_with("error: invalid argument") && text.contains("required"),
                "{name} {missing}: {text}"
            );
        }
    }
    assert!(checked > 300, "{checked} wrong values were tried");
    insta::assert_snapshot!(seen);
}

/// The queue's tools as clients list them.
async fn listed(host: &TestHost) -> Vec<Value> {
    let mut tools = Vec::new();
    let mut params = json!({});
    loop {
        let page = crate::support::answer(host.modern("tools/list", params).send().await.expect("an answer")).await;
        tools.extend(page["result"]["tools"].as_array().expect("a list").iter().cloned());
        match page["result"].get("nextCursor") {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => break,
        }
    }
    tools.retain(|tool| {
        let name = tool["name"].as_str().unwrap_or_default();
        ["task_", "queue_", "worker_", "p2p_taskqueue_", "list_peers"].iter().any(|prefix| name.starts_with(prefix))
            && name != "task_queue.rpc"
    });
    tools
}
