//! What a node with nodes within it keeps of them.

use serde::{Deserialize, Serialize};

use super::Number;

/// The nodes within a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inner {
    /// One for each item of a list.
    Fan {
        /// Items.
        total: u32,
        /// How many items have begun, but for `nodes`.
        #[serde(default, skip_serializing_if = "super::is_zero")]
        begun: u32,
        /// The nodes of the first items, where an earlier build began them: those of the others are found by the node in which they stand.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        nodes: Vec<Number>,
        /// Nodes that have not ended.
        open: Vec<Number>,
        /// Items that succeeded.
        succeeded: u32,
        /// Items that did not.
        failed: u32,
        /// The first item that failed, and why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The steps of a workflow or a plan.
    Group {
        /// The first of their nodes; the others follow.
        first: Number,
        /// How many they are.
        total: u32,
        /// How many have not ended.
        open: u32,
        /// The first that failed.
        failed: Option<String>,
        /// Why it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
}
