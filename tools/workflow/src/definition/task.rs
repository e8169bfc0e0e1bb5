//! The step that any worker of a type does, as a task of the queue.

use serde_json::{Map, Value, json};

/// The action of a step that a worker of the queue does.
pub const TASK: &str = "task";
/// The tool by which it gets there, which the run's submitter must be allowed to use.
pub const SUBMIT: &str = "task_submit";
/// What such a step may say of its task: fields of that tool.
pub const TASK_FIELDS: [&str; 10] = [
    "task_type",
    "payload",
    "priority",
    "tags",
    "timeout",
    "retry_policy",
    "metadata",
    "concurrency_key",
    "rate_key",
    "not_before",
];
/// Longest type of a task, in bytes.
pub const MAX_TASK_TYPE_BYTES: usize = 200;

/// The arguments of [`SUBMIT`] for a task of this id.
pub fn submission(inputs: &Map<String, Value>, id: &str) -> Map<String, Value> {
    let mut arguments = inputs.clone();
    arguments.entry("payload").or_insert_with(|| json!({}));
    arguments.insert("task_id".into(), id.into());
    arguments.insert("notify".into(), true.into());
    arguments
}
