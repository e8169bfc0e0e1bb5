//! The tasks that this worker has. Each is in the table from the claim until its queue knows how it ended, or it is another worker's.

use mcpp_tool::store::{Counts, Map, StoreError, Table, Transaction, View};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Where a task is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It was claimed, and no handler has it yet.
    Claimed,
    /// A handler runs it.
    Running {
        /// When the handler has certainly ended, by this host's clock.
        until_ms: u64,
    },
    /// It has ended, and its queue does not know yet: the request that tells it.
    Ended {
        /// The request.
        report: Value,
        /// Until when it is told.
        until_ms: u64,
    },
    /// It is another worker's now, or was given back: what the handler finds out is of no use.
    Lost,
}

/// A task that this worker has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The service that has it.
    pub service: String,
    /// The task, as its queue gave it.
    pub task: Value,
    /// The name by which this host claimed it.
    pub worker: String,
    /// Where it is.
    pub stage: Stage,
    /// When it was claimed, in milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
}

const OF_SERVICE: Counts<String> = Counts::new("worker-held-count");
/// The tasks, by an id of this host's.
pub const HELD: Table<String, Held> = Table::new("worker-held", |_, held, places| {
    places.count(&OF_SERVICE, &held.service);
});
/// What this host calls itself where it has no mesh.
pub const NAME: Map<(), String> = Map::new("worker-name");

/// How many tasks a service has.
///
/// # Errors
/// See [`StoreError`].
pub fn count(t: &View<'_>, service: &str) -> Result<u64, StoreError> {
    Ok(OF_SERVICE.get(t, service)?.unsigned_abs())
}

/// Puts a claimed task into the table and calls for a handler.
///
/// # Errors
/// See [`StoreError`].
pub fn take(t: &Transaction<'_>, id: &str, held: &Held, now_ms: u64) -> Result<(), StoreError> {
    HELD.put(t, &id.to_owned(), held)?;
    t.wake_at(&format!("t:{id}"), now_ms, b"")
}

/// Removes a task, for which the service then has room.
///
/// # Errors
/// See [`StoreError`].
pub fn drop_task(t: &Transaction<'_>, id: &str, now_ms: u64) -> Result<(), StoreError> {
    match HELD.remove(t, &id.to_owned())? {
        Some(held) => t.wake_at(&format!("c:{}", held.service), now_ms, b""),
        None => Ok(()),
    }
}

impl Held {
    /// The id of the task in its queue.
    pub fn task_id(&self) -> &str {
        self.task.get("task_id").and_then(Value::as_str).unwrap_or_default()
    }

    /// A request of the queue about this task, which only its holder may make.
    pub fn request(&self, op: &str, more: Value) -> Value {
        let mut request = json!({
            "op": op, "task_id": self.task_id(), "worker_id": self.worker,
            "fencing_token": self.task.get("fencing_token"),
        });
        if let (Some(fields), Value::Object(more)) = (request.as_object_mut(), more) {
            fields.extend(more);
        }
        request
    }
}
