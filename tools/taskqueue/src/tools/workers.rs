//! `worker_*`: who does the tasks.

use mcpp_tool::{Output, tool};
use serde_json::{Map, Value, json};

use super::{read, run, settle};
use crate::{
    engine,
    environment::{iso, now_ms},
    queue::{HELD, find_sized},
    record::{Worker, seconds},
};

/// After this long without a word a worker counts as offline, in milliseconds.
const OFFLINE_MS: u64 = 300_000;

/// Bytes of a worker's tasks in one answer; `running_tasks` tells of how many these are.
const MAX_TASKS_BYTES: usize = 1 << 20;

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
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 10000))]
    max_concurrent_tasks: u32,
    /// The resources of the worker.
    #[serde(default)]
    resource_limits: Option<ResourceLimits>,
    /// Notes of its own.
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
) -> Output {
    let now = now_ms();
    let worker = Worker {
        id: worker_id.clone(),
        capabilities,
        max_concurrent_tasks,
        resource_limits: resource_limits.map(|limits| json!(limits)),
        metadata: metadata.map(Value::Object),
        registered_ms: now,
        seen_ms: now,
        running: 0,
        completed: 0,
        failed: 0,
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

fn five() -> u32 {
    5
}

/// Lets a worker go. Gracefully, it gets nothing more and may finish what it has, until `timeout` is over; otherwise its tasks are taken back at once.
#[tool(destructive)]
pub fn worker_unregister(
    /// The worker's id.
    worker_id: String,
    /// Whether it may finish what it has.
    #[serde(default = "super::tasks::yes")]
    graceful: bool,
    /// For how long, in seconds.
    #[serde(default = "three_hundred")]
    timeout: u64,
) -> Output {
    let now = now_ms();
    let patience = graceful.then(|| timeout.saturating_mul(1_000));
    let left = run(|t| {
        let left = engine::unregister(t, &worker_id, patience, now)?;
        Ok(json!({
            "worker_id": worker_id,
            "status": "unregistered",
            "unregistered_at": iso(now),
            "completed_tasks": left.worker.completed,
            "abandoned_tasks": left.abandoned,
        }))
    });
    settle(left, ("worker_id", &worker_id))
}

fn three_hundred() -> u64 {
    300
}

/// Tells what a worker has and has done.
#[tool(read_only)]
pub fn worker_status(
    /// The worker's id.
    worker_id: String,
    /// With the tasks that it has.
    #[serde(default)]
    include_tasks: bool,
    /// With what is known of it besides.
    #[serde(default)]
    include_metrics: bool,
) -> Output {
    let now = now_ms();
    let status = read(|t| {
        let worker = engine::find_worker(t, &worker_id)?;
        let mut status = describe(&worker, now);
        let tasks = match include_tasks {
            true => {
                let held = HELD.of(t, &worker_id, None, 1_000)?;
                let (mut tasks, mut bytes) = (Vec::new(), 0_usize);
                for id in &held {
                    let Some((task, size)) = find_sized(t, id)? else { continue };
                    bytes = bytes.saturating_add(size);
                    if bytes > MAX_TASKS_BYTES && !tasks.is_empty() {
                        break;
                    }
                    tasks.push(task.wire());
                }
                Some(tasks)
            }
            false => None,
        };
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

/// A worker in a few words.
pub(crate) fn describe(worker: &Worker, now: u64) -> Value {
    let silent = worker.seen_ms.saturating_add(OFFLINE_MS) < now;
    let status = match worker.running {
        _ if silent => "offline",
        0 => "idle",
        running if running >= worker.max_concurrent_tasks => "busy",
        _ => "active",
    };
    json!({
        "worker_id": worker.id,
        "status": status,
        "running_tasks": worker.running,
        "completed_tasks": worker.completed,
        "failed_tasks": worker.failed,
    })
}
