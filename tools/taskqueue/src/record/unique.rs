//! Tasks of which there is one in a time.

use serde::{Deserialize, Serialize};

/// A task of which there is one in a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Unique {
    /// The name that such tasks share.
    pub key: String,
    /// How long, in milliseconds.
    pub window_ms: u64,
    /// The rule for a second one.
    #[serde(default)]
    pub on_conflict: OnConflict,
}

/// The rule for a second task of a unique key within its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// It is refused.
    #[default]
    Reject,
    /// The earlier one is cancelled if it still waits.
    Replace,
    /// The same, and each waits until no other one has come for so long.
    Debounce,
}
