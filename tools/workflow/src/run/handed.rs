//! What a node keeps of the task that does its step.

use serde::{Deserialize, Serialize};

/// The task of the queue that does an attempt of a step, or did the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedTask {
    /// Its id.
    pub id: String,
    /// The worker that has it, or did it, as far as the queue said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// How often the queue was asked for it in vain.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub looks: u32,
    /// Whether the event of its end came before the node waited for it.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub has_ended: bool,
}
