//! How many nodes a run has.

use serde::{Deserialize, Serialize};

/// Numbers of nodes by what has become of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// All nodes.
    pub total: u32,
    /// Those that have not ended.
    pub open: u32,
    /// Those that completed.
    pub completed: u32,
    /// Those that failed.
    pub failed: u32,
    /// Those that were skipped.
    pub skipped: u32,
    /// Those that were cancelled.
    pub cancelled: u32,
    /// Items of fan-outs of which there are no nodes yet.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub to_come: u32,
}

impl Tally {
    /// All nodes, with those that come for the items of fan-outs.
    pub fn expected(&self) -> u32 {
        self.total.saturating_add(self.to_come)
    }
}
