//! `p2p_taskqueue_*` and `task_queue.rpc`: the task-queue protocol, on this host's queue or on a peer's.

use mcpp_tool::tool;
use serde_json::{Map, Value, json};

use super::{PeerReply, answer};
use crate::{remote, rpc};

/// The queue that is meant.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
pub struct Remote {
    /// The remote queue's multiaddress, which ends in `/p2p/` and the peer's id; this host's queue if this and the id are empty.
    #[serde(default)]
    remote_multiaddr: String,
    /// The remote queue's peer id; `*` for any peer that lets this tenant.
    #[serde(default)]
    remote_peer_id: String,
}

/// The queue that is meant, as two of the protocol's tools name it.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
pub struct RemotePeer {
    /// The remote queue's multiaddress, which ends in `/p2p/` and the peer's id; this host's queue if this and the id are empty.
    #[serde(default)]
    remote_multiaddr: String,
    /// The remote queue's peer id; `*` for any peer that lets this tenant.
    #[serde(default)]
    peer_id: String,
}

impl Remote {
    pub(super) fn address(&self) -> [&str; 2] {
        [&self.remote_multiaddr, &self.remote_peer_id]
    }
}

impl RemotePeer {
    fn address(&self) -> [&str; 2] {
        [&self.remote_multiaddr, &self.peer_id]
    }
}

/// Asks this host's queue, unless a remote one is meant.
pub(super) fn ask(address: [&str; 2], request: Value) -> Value {
    remote::ask(address, request)
}

/// The fields of a reply that a tool gives; a failure as it is.
pub(super) fn only(reply: Value, fields: &[&str]) -> PeerReply {
    let Some(reply) = reply.as_object() else { return answer(json!({ "ok": false, "error": "invalid_response" })) };
    if reply.get("ok") != Some(&json!(true)) {
        return answer(Value::Object(reply.clone()));
    }
    let kept = reply.iter().filter(|(name, _)| *name == "ok" || fields.contains(&name.as_str()));
    answer(Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect()))
}

/// Tells what a task queue can do; with `detail` how it is.
#[tool(read_only)]
pub fn p2p_taskqueue_status(
    #[arg(flatten)] remote: RemotePeer,
    /// How long to wait for a remote, in seconds.
    #[arg(default = 10.0)]
    timeout_s: f64,
    /// With queue, scheduler, worker and transport.
    #[arg(default)]
    detail: bool,
) -> PeerReply {
    answer(ask(remote.address(), json!({ "op": "status", "timeout_s": timeout_s, "detail": detail })))
}

/// Submits a task. The payload may name `priority` (1 to 10, higher is sooner), `max_attempts`, `next_attempt_at`, `idempotency_key`, `session_id` and `sticky_worker_id`.
#[tool]
pub fn p2p_taskqueue_submit(
    /// Its type, by which workers choose.
    task_type: String,
    /// The model that it is for.
    model_name: String,
    /// The data that the worker gets; a value that is no object counts as an empty one.
    payload: Value,
    #[arg(flatten)] remote: RemotePeer,
) -> PeerReply {
    let payload = if payload.is_object() { payload } else { json!({}) };
    let request = json!({ "op": "submit", "task_type": task_type, "model_name": model_name, "payload": payload });
    only(ask(remote.address(), request), &["task_id", "peer_id"])
}

/// Claims the next task for a worker; null if there is none that it may have. The claim is a lease of 300 s.
#[tool]
pub fn p2p_taskqueue_claim_next(
    /// The worker.
    worker_id: String,
    /// The types that it can do; any if absent or empty.
    #[arg(default)]
    supported_task_types: Option<Vec<String>>,
    /// The identity under which it takes part in placement.
    #[arg(default)]
    peer_id: String,
    /// Its clock.
    #[arg(default)]
    clock: Option<Map<String, Value>>,
    #[arg(flatten)] remote: Remote,
    /// Its session, for tasks that are only for that. Ours beyond the protocol's tool.
    #[arg(default)]
    session_id: String,
) -> PeerReply {
    let request = json!({
        "op": "claim", "worker_id": worker_id, "supported_task_types": supported_task_types, "peer_id": peer_id,
        "clock": clock, "session_id": session_id,
    });
    only(ask(remote.address(), request), &["task"])
}

/// Calls a tool by way of the queue's service, if it allows that.
#[tool]
pub fn p2p_taskqueue_call_tool(
    /// The tool.
    tool_name: String,
    /// Its arguments.
    #[arg(default)]
    args: Option<Map<String, Value>>,
    #[arg(flatten)] remote: Remote,
    /// How long to wait, in seconds.
    #[arg(default = 30.0)]
    timeout_s: f64,
) -> PeerReply {
    let request = json!({ "op": "call_tool", "tool_name": tool_name, "args": args, "timeout_s": timeout_s });
    answer(ask(remote.address(), request))
}

/// Lists tasks, oldest first, as the array `tasks`.
#[tool(read_only)]
pub fn p2p_taskqueue_list_tasks(
    /// Only tasks with this status; any if empty.
    #[arg(default)]
    status: String,
    /// Most tasks; 1 to 1000.
    #[arg(default = 50)]
    limit: i64,
    /// Only tasks of these types.
    #[arg(default)]
    task_types: Option<Vec<String>>,
    #[arg(flatten)] remote: Remote,
    /// The `next_cursor` of an earlier list, to go on behind it. Ours beyond the protocol's tool.
    #[arg(default)]
    cursor: String,
) -> PeerReply {
    let request = json!({ "op": "list", "status": status, "limit": limit, "task_types": task_types, "cursor": cursor });
    only(ask(remote.address(), request), &["tasks", "peer_id", "has_more", "next_cursor"])
}

/// Gives a task's full record; null if there is none.
#[tool(read_only)]
pub fn p2p_taskqueue_get_task(
    /// The task.
    task_id: String,
    #[arg(flatten)] remote: Remote,
) -> PeerReply {
    only(ask(remote.address(), json!({ "op": "get", "task_id": task_id })), &["task"])
}

/// Waits until a task has ended; its record then, or as it is when the time is over.
#[tool(read_only)]
pub fn p2p_taskqueue_wait_task(
    /// The task.
    task_id: String,
    /// How long to wait, in seconds; never longer than the call may take.
    #[arg(default = 60.0)]
    timeout_s: f64,
    #[arg(flatten)] remote: Remote,
) -> PeerReply {
    let request = json!({ "op": "wait", "task_id": task_id, "timeout_s": timeout_s });
    only(ask(remote.address(), request), &["task"])
}

/// Ends a task. With `worker_id` or `fencing_token` only its holder can.
#[tool]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub fn p2p_taskqueue_complete_task(
    /// The task.
    task_id: String,
    /// `completed`, `failed` or `cancelled`; anything else is `failed`.
    #[arg(default = "completed")]
    status: String,
    /// The result; merged into the results that the worker reported before.
    #[arg(default)]
    result: Option<Map<String, Value>>,
    /// The error, if the task failed.
    #[arg(default)]
    error: String,
    #[arg(flatten)] remote: Remote,
    /// The worker that holds the task. Ours beyond the protocol's tool.
    #[arg(default)]
    worker_id: String,
    /// The fencing token that the claim gave. Ours beyond the protocol's tool.
    #[arg(default)]
    fencing_token: Option<u64>,
) -> PeerReply {
    let request = json!({
        "op": "complete", "task_id": task_id, "status": status, "result": result, "error": error,
        "worker_id": worker_id, "fencing_token": fencing_token,
    });
    let mut reply = ask(remote.address(), request);
    if let Some(reply) = reply.as_object_mut() {
        reply.insert("task_id".into(), json!(task_id));
    }
    answer(reply)
}

/// Tells the queue that a peer is alive, and exchanges clocks. It does not renew leases: see `task_queue.rpc`, `task.heartbeat`.
#[tool]
pub fn p2p_taskqueue_heartbeat(
    /// The peer that is alive.
    peer_id: String,
    /// Its clock.
    #[arg(default)]
    clock: Option<Map<String, Value>>,
    #[arg(flatten)] remote: Remote,
) -> PeerReply {
    answer(ask(remote.address(), json!({ "op": "heartbeat", "peer_id": peer_id, "clock": clock })))
}

/// Reads a value from the cache.
#[tool(read_only)]
pub fn p2p_taskqueue_cache_get(
    /// The key.
    key: String,
    #[arg(flatten)] remote: Remote,
    /// How long to wait for a remote, in seconds.
    #[arg(default = 10.0)]
    timeout_s: f64,
) -> PeerReply {
    answer(ask(remote.address(), json!({ "op": "cache.get", "key": key, "timeout_s": timeout_s })))
}

/// Writes a value into the cache.
#[tool(idempotent)]
pub fn p2p_taskqueue_cache_set(
    /// The key.
    key: String,
    /// The value; null counts as none.
    value: Value,
    /// How long it stays, in seconds; for ever if absent or not above 0.
    #[arg(default)]
    ttl_s: Option<f64>,
    #[arg(flatten)] remote: Remote,
    /// How long to wait for a remote, in seconds.
    #[arg(default = 10.0)]
    timeout_s: f64,
) -> PeerReply {
    let request = json!({ "op": "cache.set", "key": key, "value": value, "ttl_s": ttl_s, "timeout_s": timeout_s });
    answer(ask(remote.address(), request))
}

/// One request of the task-queue protocol: `op` and its fields. Besides the protocol's operations there are `task.heartbeat` (renews a lease), `task.report` (progress and log lines)
/// and `configure`.
#[tool(name = "task_queue.rpc")]
pub fn task_queue_rpc(args: Map<String, Value>) -> PeerReply {
    answer(rpc::handle(&Value::Object(args)))
}
