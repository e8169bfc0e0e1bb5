//! `worker_*`: who does the tasks.

use mcpp_tool::{
    environment::{now_ms, rfc3339 as iso},
    store::{StoreError, View},
    tool,
};
use serde_json::{Map, Value, json};

use super::{Reply, read, run, settle};
use crate::{
    engine,
    queue::{COMPLETED, FAILED, HELD, RUNNING, TASKS},
    record::{Worker, seconds},
};

/// After this long without a word a worker counts as offline, in milliseconds.
const OFFLINE_MS: u64 = 300_000;

/// Bytes of a worker's tasks in one answer; `running_tasks` tells of how many these are.
const MAX_TASKS_BYTES: u64 = 1 << 20;

/// The resources of a worker.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct ResourceLimits {
    /// Processors.
    cpu_cores: Option<f64>,
    /// Memory, in GB.
    memory_gb: Option<f64>,
}

/// Registers a worker, so that it is bounded, counted and shown. Registering again renews what is known of it.
#[tool(idempotent)]
pub fn worker_register(
    /// The worker's id.
    worker_id: String,
    /// The types of tasks that it can do.
    capabilities: Vec<String>,
    /// Most tasks that it has at once.
    #[arg(default = 5)]
    #[schemars(range(min = 1, max = 10000))]
    max_concurrent_tasks: u32,
    /// The resources of the worker.
    #[arg(default)]
    resource_limits: Option<ResourceLimits>,
    /// Notes of its own.
    #[arg(default)]
    metadata: Option<Map<String, Value>>,
) -> Reply {
    let now = now_ms();
    let worker = Worker {
        id: worker_id.clone(),
        capabilities,
        max_concurrent_tasks,
        resource_limits: resource_limits.map(|limits| json!(limits)),
        metadata: metadata.map(Value::Object),
        registered_ms: now,
        seen_ms: now,
        leaves_ms: None,
    };
    let registered = run(|t| {
        let worker = engine::register(t, worker.clone())?;
        // Without a mesh there are no peers to assign.
        Ok(json!({
            "worker_id": worker.id,
            "status": "active",
            "registered_at": iso(worker.registered_ms),
            "assigned_peers": [],
        }))
    });
    settle(registered, ("worker_id", &worker_id))
}

/// Lets a worker go. Gracefully, it gets nothing more and may finish what it has, until `timeout` is over; otherwise its tasks are taken back at once.
#[tool(destructive)]
pub fn worker_unregister(
    /// The worker's id.
    worker_id: String,
    /// Whether it may finish what it has.
    #[arg(default = true)]
    graceful: bool,
    /// For how long, in seconds.
    #[arg(default = 300)]
    timeout: u64,
) -> Reply {
    let now = now_ms();
    let patience = graceful.then(|| timeout.saturating_mul(1_000));
    let left = run(|t| {
        let left = engine::unregister(t, &worker_id, patience, now)?;
        Ok(json!({
            "worker_id": worker_id,
            "status": "unregistered",
            "unregistered_at": iso(now),
            "completed_tasks": left.completed,
            "abandoned_tasks": left.abandoned,
        }))
    });
    settle(left, ("worker_id", &worker_id))
}

/// Tells what a worker has and has done.
#[tool(read_only)]
pub fn worker_status(
    /// The worker's id.
    worker_id: String,
    /// With the tasks that it has.
    #[arg(default)]
    include_tasks: bool,
    /// With what is known of it besides.
    #[arg(default)]
    include_metrics: bool,
) -> Reply {
    let now = now_ms();
    let status = read(|t| {
        let worker = engine::find_worker(t, &worker_id)?;
        let mut status = describe(t, &worker, now)?;
        let tasks = if include_tasks { Some(held(t, &worker_id)?) } else { None };
        if let Some(fields) = status.as_object_mut() {
            fields.insert("tasks".into(), json!(tasks));
            fields.insert("metrics".into(), json!(include_metrics.then(|| metrics(&worker))));
        }
        Ok(status)
    });
    settle(status, ("worker_id", &worker_id))
}

fn metrics(worker: &Worker) -> Value {
    json!({
        "max_concurrent_tasks": worker.max_concurrent_tasks,
        "capabilities": worker.capabilities,
        "resource_limits": worker.resource_limits,
        "registered_at": iso(worker.registered_ms),
        "last_seen": seconds(worker.seen_ms),
        "leaving": worker.leaves_ms.is_some(),
    })
}

/// The tasks that a worker has, as many as an answer has room for.
fn held(t: &View<'_>, worker: &str) -> Result<Vec<Value>, StoreError> {
    let (mut tasks, begun) = (Vec::new(), t.spent().bytes);
    for key in HELD.of(worker).most(1_000).walk(t) {
        let task = TASKS.get(t, &key?)?;
        if t.spent().bytes.saturating_sub(begun) > MAX_TASKS_BYTES && !tasks.is_empty() {
            break;
        }
        tasks.extend(task.map(|task| task.wire()));
    }
    Ok(tasks)
}

/// A worker in a few words.
pub(crate) fn describe(t: &View<'_>, worker: &Worker, now: u64) -> Result<Value, StoreError> {
    let silent = worker.seen_ms.saturating_add(OFFLINE_MS) < now;
    let running = engine::has(t, &worker.id, RUNNING)?;
    let status = match running {
        _ if silent => "offline",
        0 => "idle",
        running if running >= u64::from(worker.max_concurrent_tasks) => "busy",
        _ => "active",
    };
    Ok(json!({
        "worker_id": worker.id,
        "status": status,
        "running_tasks": running,
        "completed_tasks": engine::has(t, &worker.id, COMPLETED)?,
        "failed_tasks": engine::has(t, &worker.id, FAILED)?,
    }))
}
