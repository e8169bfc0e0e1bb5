//! The writer of the first format, frozen: a record in its JSON form, and everything that was kept beside it, byte for byte.

use mcpp_tool::store::{Index, Map, StoreError, Transaction};
use serde_json::Value;

use crate::queue::{ANY_TYPE, canonical_type, lane, rank};

const TASKS: Map<String, Value> = Map::new("task");
const READY: Index<(String, String), (u64, u64, String)> = Index::new("ready");
const DELAYED: Index<(), (u64, String)> = Index::new("delayed");
const LEASED: Index<(), (u64, String)> = Index::new("leased");
const LISTED: Index<String, (u64, String)> = Index::new("listed");
const ENDED: Index<(), (u64, String)> = Index::new("ended");
const DEPENDENTS: Index<String, String> = Index::new("dependents");
const HELD: Index<String, String> = Index::new("held");
const KEYS: Map<String, String> = Map::new("key");
const COUNTS: Map<(String, u8), i64> = Map::new("count");
const TYPES: Map<(String, String), i64> = Map::new("type");
const RANKS: Map<u64, i64> = Map::new("rank");

/// The record of a task that is ready and was never claimed.
pub(super) fn record(id: &str, created_ms: u64, priority: f64) -> Value {
    serde_json::json!({
        "id": id,
        "spec": {
            "task_type": "kind", "model_name": "", "payload": { "n": created_ms }, "priority": priority, "tags": [], "dependencies": [],
            "session": null, "sticky_worker": null, "idempotency_key": null, "max_attempts": 3, "backoff_ms": 1_000,
            "backoff_factor": 2.0, "timeout_ms": null, "metadata": null,
        },
        "waiting_for": [], "state": "ready", "created_ms": created_ms, "updated_ms": created_ms, "ready_ms": created_ms,
        "started_ms": null, "finished_ms": null, "attempt": 0, "fencing_token": 0, "result": null, "error": null,
        "dead_letter": false, "logs": [], "progress": null, "retries": 0,
    })
}

/// Writes a new task.
pub(super) fn write(t: &Transaction<'_>, task: &Value) -> Result<(), StoreError> {
    let (id, spec, state) = (task["id"].as_str().expect("an id"), &task["spec"], &task["state"]);
    let ms = |field: &Value| field.as_u64().expect("a time");
    let created = ms(&task["created_ms"]);
    let name = state.as_str().or_else(|| state.as_object()?.keys().next().map(String::as_str)).expect("a state");
    let status = if matches!(name, "blocked" | "delayed" | "ready") { "queued" } else { name };
    let task_type = canonical_type(spec["task_type"].as_str().expect("a type"));
    TASKS.set(t, id, task)?;
    LISTED.insert(t, status, &(created, id))?;
    let shard = id.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)) % 8;
    COUNTS.set(t, &(status, shard), &(COUNTS.get(t, &(status, shard))?.unwrap_or(0) + 1))?;
    if matches!(status, "queued" | "running") {
        TYPES.set(t, &(status, task_type), &(TYPES.get(t, &(status, task_type))?.unwrap_or(0) + 1))?;
    }
    if let Some(key) = spec["idempotency_key"].as_str() {
        KEYS.set(t, key, &id.to_owned())?;
    }
    match name {
        "blocked" => {
            for parent in task["waiting_for"].as_array().expect("parents") {
                DEPENDENTS.insert(t, parent.as_str().expect("an id"), id)?;
            }
        }
        "delayed" => DELAYED.insert(t, &(), &(ms(&state["delayed"]["until_ms"]), id))?,
        "ready" => {
            let lane = lane(spec["session"].as_str(), spec["sticky_worker"].as_str());
            let rank = rank(spec["priority"].as_f64().expect("a number"));
            for task_type in [task_type, ANY_TYPE] {
                READY.insert(t, &(&lane, task_type), &(rank, created, id))?;
            }
            RANKS.set(t, &rank, &(RANKS.get(t, &rank)?.unwrap_or(0) + 1))?;
        }
        "running" => {
            LEASED.insert(t, &(), &(ms(&state["running"]["until_ms"]), id))?;
            HELD.insert(t, state["running"]["worker"].as_str().expect("a worker"), id)?;
        }
        _ => ENDED.insert(t, &(), &(ms(&task["finished_ms"]), id))?,
    }
    Ok(())
}
