//! The vector clock that the MCP++ programs call a Merkle clock: counters by node, and a hash over them that names their state.
//!
//! The hash is over the counters as Python's `json.dumps` writes them, as all peers must agree on it to the byte. A clock's happened-before is not a total order: two
//! clocks may be concurrent.

mod told;

use std::{cmp::Ordering, collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

pub use self::told::{Extent, MAX_TOLD, RefusedClock, ThirdNodes, ToldRules};
use crate::hash::Hash;

/// Nodes that a clock from outside may know; one with more is refused.
pub const MAX_NODES: usize = 10_000;
/// Nodes that a clock keeps. So its JSON, with names of [`MAX_NODE_BYTES`], stays below the 1 MiB of a value in the store.
pub const MAX_KEPT_NODES: usize = 2_000;
/// Longest name of a node that a clock takes from another one, in bytes.
pub const MAX_NODE_BYTES: usize = 200;
/// Greatest counter that a clock takes from another one: up to here JSON's numbers are exact everywhere.
pub const MAX_COUNT: u64 = (1 << 53) - 1;
/// One node's vector clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct VectorClock {
    node_id: String,
    vector: BTreeMap<String, u64>,
    root: Hash,
}

/// A clock as it is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Wire {
    node_id: String,
    vector: BTreeMap<String, u64>,
    merkle_root: Hash,
}

/// Why a clock from outside is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClock {
    /// The hash is not that of the counters.
    #[error("the clock's merkle_root is not the hash of its vector")]
    Root,
    /// It knows too many nodes.
    #[error("the clock has more than {MAX_NODES} nodes")]
    TooManyNodes,
}

impl TryFrom<Wire> for VectorClock {
    type Error = InvalidClock;

    fn try_from(wire: Wire) -> Result<Self, InvalidClock> {
        if wire.vector.len() > MAX_NODES {
            return Err(InvalidClock::TooManyNodes);
        }
        let root = root(&wire.vector);
        if root != wire.merkle_root {
            return Err(InvalidClock::Root);
        }
        Ok(Self { node_id: wire.node_id, vector: wire.vector, root })
    }
}

impl From<VectorClock> for Wire {
    fn from(clock: VectorClock) -> Self {
        Self { node_id: clock.node_id, vector: clock.vector, merkle_root: clock.root }
    }
}

impl VectorClock {
    /// A clock whose own counter is 0.
    pub fn new(node_id: impl Into<String>) -> Self {
        let node_id = node_id.into();
        let vector = BTreeMap::from([(node_id.clone(), 0)]);
        Self { root: root(&vector), node_id, vector }
    }

    /// The node whose clock this is.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// The counters by node.
    pub fn vector(&self) -> &BTreeMap<String, u64> {
        &self.vector
    }

    /// The hash over the counters.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Counts one event of this node.
    pub fn tick(&mut self) {
        let own = self.vector.entry(self.node_id.clone()).or_default();
        *own = own.saturating_add(1).min(MAX_COUNT);
        self.root = root(&self.vector);
    }

    /// Takes in what another clock knows (the greater of each two counters), and counts that as an event of this node.
    ///
    /// A node is passed over beyond [`MAX_KEPT_NODES`], and where its name is empty, too long, or has a control character.
    pub fn merge(&mut self, other: &Self) {
        for (node, count) in &other.vector {
            let count = (*count).min(MAX_COUNT);
            if let Some(known) = self.vector.get_mut(node) {
                *known = (*known).max(count);
            } else if self.vector.len() < MAX_KEPT_NODES && is_node(node) {
                self.vector.insert(node.clone(), count);
            }
        }
        self.tick();
    }

    /// As the MCP++ programs compare: −1 if this happened before, 1 if after, 0 if they are concurrent or equal.
    pub fn compare(&self, other: &Self) -> i8 {
        match self.partial_cmp(other) {
            Some(Ordering::Less) => -1,
            Some(Ordering::Greater) => 1,
            Some(Ordering::Equal) | None => 0,
        }
    }
}

/// `Less` is happened-before; none is concurrent. A node that a clock does not know counts 0.
impl PartialOrd for VectorClock {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let exceeds = |a: &Self, b: &Self| {
            a.vector.iter().any(|(node, count)| *count > b.vector.get(node).copied().unwrap_or_default())
        };
        match (exceeds(self, other), exceeds(other, self)) {
            (false, false) => (self.node_id == other.node_id && self.vector == other.vector).then_some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (true, true) => None,
        }
    }
}

fn is_node(name: &str) -> bool {
    (1..=MAX_NODE_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn root(vector: &BTreeMap<String, u64>) -> Hash {
    Hash::of(&preimage(vector))
}

/// The counters as Python's `json.dumps` writes a list of pairs: `[["a", 1], ["b", 2]]`, sorted by code point, pure ASCII.
fn preimage(vector: &BTreeMap<String, u64>) -> String {
    let mut text = String::from("[");
    for (index, (node, count)) in vector.iter().enumerate() {
        text.push_str(if index == 0 { "[\"" } else { ", [\"" });
        escape(node, &mut text);
        // Writing into a string does not fail.
        let _infallible = write!(text, "\", {count}]");
    }
    text.push(']');
    text
}

fn escape(node: &str, text: &mut String) {
    for c in node.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            ' '..='~' => text.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _infallible = write!(text, "\\u{unit:04x}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn roots_are_those_of_the_other_programs() {
        let mut service = VectorClock::new("taskqueue-service");
        assert_eq!(preimage(service.vector()), r#"[["taskqueue-service", 0]]"#);
        assert_eq!(service.root().to_string(), "d83964234cb3f7451644cb8dfbd8a97cb70571490208c3ffcb5b346c43c380fa");
        let mut peer = VectorClock::new("peer-a");
        assert_eq!(peer.root().to_string(), "e555e12dee98a5e7d39e3a5e3703dc1f556b341869ed6d7f33dada99a2ddd4a9");
        peer.tick();
        assert_eq!(peer.root().to_string(), "654809be724f0a50a978f54f8327144aee684e6aee214825bb3bdd38c039ace3");
        service.merge(&peer);
        assert_eq!(service.root().to_string(), "96b4942a14424cd86ac2ff1278e2742ecd09f0f8c9be8b1ae6a2de026e864089");
        let mut odd = VectorClock::new("pé\"er");
        odd.tick();
        assert_eq!(preimage(odd.vector()), r#"[["p\u00e9\"er", 1]]"#);
        assert_eq!(odd.root().to_string(), "2b2653a1c47fb8894960aa562b459416e0edbbadf1c55ae179d466d3bb052b16");
    }

    #[test]
    fn what_is_not_ascii_is_escaped_as_python_does() {
        let mut text = String::new();
        escape("\u{0}\u{7f}ä𝄞\\\n", &mut text);
        assert_eq!(text, "\\u0000\\u007f\\u00e4\\ud834\\udd1e\\\\\\n");
    }

    #[test]
    fn a_clock_whose_root_is_wrong_is_refused() {
        let clock = VectorClock::new("a");
        let mut wire = serde_json::to_value(&clock).expect("JSON");
        assert_eq!(serde_json::from_value::<VectorClock>(wire.clone()).expect("the same"), clock);
        wire["vector"]["a"] = 7.into();
        let error = serde_json::from_value::<VectorClock>(wire).expect_err("wrong");
        assert!(error.to_string().contains("merkle_root"), "{error}");
    }

    #[test]
    fn a_hostile_clock_fills_no_other() {
        let mut hostile = VectorClock::new("h");
        let long = |n: usize| format!("{n:0>width$}", width = MAX_NODE_BYTES - 1) + "\"";
        hostile.vector.extend((0..MAX_NODES).map(|n| (long(n), u64::MAX)));
        hostile.vector.extend([("x".repeat(MAX_NODE_BYTES + 1), 1), ("a\nb".to_owned(), 1), (String::new(), 1)]);
        let mut clock = VectorClock::new("a");
        clock.merge(&hostile);
        assert_eq!(clock.vector().len(), MAX_KEPT_NODES);
        assert!(clock.vector().keys().all(|node| is_node(node)));
        assert_eq!(clock.vector().values().max(), Some(&MAX_COUNT));
        let bytes = serde_json::to_vec(&clock).expect("JSON").len();
        assert!(bytes < 1 << 20, "{bytes}");
        hostile.vector = BTreeMap::from([("a".to_owned(), u64::MAX)]);
        clock.merge(&hostile);
        assert_eq!(clock.vector()["a"], MAX_COUNT, "its own counter stays exact too");
    }

    fn clock() -> impl Strategy<Value = VectorClock> {
        prop::collection::btree_map("[a-c]", 0_u64..4, 0..3).prop_map(|vector| {
            let mut clock = VectorClock::new("a");
            clock.vector.extend(vector);
            clock.root = root(&clock.vector);
            clock
        })
    }

    proptest! {
        #[test]
        fn happened_before_is_an_order_and_a_merge_is_after_both(a in clock(), b in clock()) {
            prop_assert_eq!(a.compare(&b), -b.compare(&a));
            let mut merged = a.clone();
            merged.merge(&b);
            prop_assert!(merged > a && merged > b);
            prop_assert_eq!(merged.root(), root(merged.vector()));
        }
    }
}
