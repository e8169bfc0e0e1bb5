//! The vector clock that the MCP++ programs call a Merkle clock: counters by node, and a hash over them that names their state.
//!
//! The hash is over the counters as Python's `json.dumps` writes them, as all peers must agree on it to the byte. A clock's happened-before is not a total order: two
//! clocks may be concurrent.

use std::{cmp::Ordering, collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use crate::hash::Hash;

/// Nodes that a clock from outside may know; one with more is refused.
pub const MAX_NODES: usize = 10_000;
/// Nodes that a clock keeps. So its JSON, with names of [`MAX_NODE_BYTES`], stays below the 1 MiB of a value in the store.
pub const MAX_KEPT_NODES: usize = 2_000;
/// Longest name of a node that a clock takes from another one, in bytes.
pub const MAX_NODE_BYTES: usize = 200;
/// Greatest counter that a clock takes from another one: up to here JSON's numbers are exact everywhere.
pub const MAX_COUNT: u64 = (1 << 53) - 1;
/// Greatest counter that a peer may tell. A node that counts 1,000 events a second gets there after 34 years; a greater one would have its clock stand still.
pub const MAX_TOLD: u64 = 1 << 40;
/// Nodes in a clock that a peer tells.
pub const MAX_TOLD_NODES: usize = 4_096;
/// Bytes of their names together.
pub const MAX_TOLD_BYTES: usize = 256 << 10;

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

/// Why the clock that a peer tells is not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedClock {
    /// It tells more of this node than this node has counted.
    #[error(
        "its vector gives this node, {node:?}, the counter {told}, but this node counts {own}: a peer may tell its own state alone"
    )]
    AheadOfSelf {
        /// This node.
        node: String,
        /// The counter that the clock gives it.
        told: u64,
        /// Its own.
        own: u64,
    },
    /// A counter is near the greatest one that there is.
    #[error("its vector gives {node:?} the counter {told}; at most {MAX_TOLD} is taken")]
    TooGreat {
        /// The node; the first 40 characters of its name.
        node: String,
        /// The counter.
        told: u64,
    },
    /// It has too many nodes, or their names too many bytes.
    #[error(
        "its vector has {nodes} nodes with {bytes} bytes of names; at most {MAX_TOLD_NODES} and {MAX_TOLD_BYTES} are taken"
    )]
    TooLarge {
        /// Its nodes.
        nodes: usize,
        /// The bytes of their names.
        bytes: usize,
    },
    /// The name of the peer's node is none.
    #[error("the node of a peer must have 1 to {MAX_NODE_BYTES} bytes and no control character")]
    Name,
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

    /// Takes in what the peer `teller` tells of itself, and counts that as an event of this node. This is the merge for clocks that strangers send.
    ///
    /// Only the teller's own counter is taken: a counter of a third node would have that node refuse this one's clock. The clock forgets each node that is neither
    /// this one, nor the teller, nor known, and what a peer of an earlier build did to it ([`Self::heal`]). So it has at most a node for each known peer.
    ///
    /// # Errors
    /// See [`RefusedClock`]. The clock has not changed then.
    pub fn merge_told(
        &mut self,
        theirs: &Self,
        teller: &str,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<(), RefusedClock> {
        let mut healed = self.clone();
        healed.heal(|node| node == teller || is_known(node));
        healed.check_told(theirs, teller)?;
        if let Some(told) = theirs.vector.get(teller).filter(|_| teller != healed.node_id) {
            let is_full = healed.vector.len() >= MAX_KEPT_NODES;
            match healed.vector.get_mut(teller) {
                Some(known) => *known = (*known).max(*told),
                None if is_full => {}
                None => drop(healed.vector.insert(teller.to_owned(), *told)),
            }
        }
        healed.tick();
        *self = healed;
        Ok(())
    }

    fn check_told(&self, theirs: &Self, teller: &str) -> Result<(), RefusedClock> {
        if !is_node(teller) {
            return Err(RefusedClock::Name);
        }
        let (nodes, bytes) = (theirs.vector.len(), theirs.vector.keys().map(String::len).sum());
        if nodes > MAX_TOLD_NODES || bytes > MAX_TOLD_BYTES {
            return Err(RefusedClock::TooLarge { nodes, bytes });
        }
        let own = self.vector.get(&self.node_id).copied().unwrap_or_default();
        if let Some(told) = theirs.vector.get(&self.node_id).copied().filter(|told| *told > own) {
            return Err(RefusedClock::AheadOfSelf { node: self.node_id.clone(), told, own });
        }
        // A peer whose own clock an earlier build damaged elsewhere is not refused for it: that part is not taken.
        match theirs.vector.get(teller).copied().filter(|told| *told > MAX_TOLD) {
            Some(told) => Err(RefusedClock::TooGreat { node: teller.chars().take(40).collect(), told }),
            None => Ok(()),
        }
    }

    /// Forgets the nodes that are not known, and counters above [`MAX_TOLD`], which an earlier build took from peers. This node begins anew if its own counter is one of
    /// them. Whether anything changed.
    pub fn heal(&mut self, is_known: impl Fn(&str) -> bool) -> bool {
        let before = self.vector.len();
        let own = self.vector.get(&self.node_id).copied().filter(|count| *count <= MAX_TOLD);
        self.vector.retain(|node, count| *count <= MAX_TOLD && is_node(node) && is_known(node));
        self.vector.insert(self.node_id.clone(), own.unwrap_or_default());
        let is_changed = own.is_none() || self.vector.len() != before;
        self.root = root(&self.vector);
        is_changed
    }

    /// Whether a counter is above [`MAX_TOLD`], so that the clock stands still or is refused elsewhere: see [`Self::heal`].
    pub fn is_damaged(&self) -> bool {
        self.vector.values().any(|count| *count > MAX_TOLD)
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

    fn of(node: &str, vector: &[(&str, u64)]) -> VectorClock {
        let vector = vector.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect();
        VectorClock { root: root(&vector), node_id: node.to_owned(), vector }
    }

    #[test]
    fn a_peer_tells_its_own_state_alone() {
        let mut service = VectorClock::new("taskqueue-service");
        let mut peer = VectorClock::new("peer-a");
        peer.tick();
        service.merge_told(&peer, "peer-a", |_| false).expect("taken");
        assert_eq!(service.root().to_string(), "96b4942a14424cd86ac2ff1278e2742ecd09f0f8c9be8b1ae6a2de026e864089");
        let mut clock = of("a", &[("a", 3), ("b", 5), ("gone", 9)]);
        let before = clock.clone();
        for (wrong, word) in [
            (of("b", &[("a", 4), ("b", 1)]), "\"a\", the counter 4, but this node counts 3"),
            (of("b", &[("a", MAX_COUNT)]), "own state alone"),
            (of("b", &[("b", MAX_TOLD + 1)]), "at most 1099511627776"),
        ] {
            let error = clock.merge_told(&wrong, "b", |_| true).expect_err("refused");
            assert!(error.to_string().contains(word), "{error}");
        }
        for name in ["", "a\nb", &"x".repeat(MAX_NODE_BYTES + 1)] {
            assert_eq!(clock.merge_told(&of("b", &[("b", 1)]), name, |_| true), Err(RefusedClock::Name));
        }
        assert_eq!(clock, before, "what is refused changes nothing");
        let theirs = of("b", &[("a", 3), ("b", 7), ("c", 4), ("d", MAX_COUNT)]);
        clock.merge_told(&theirs, "b", |node| node == "c").expect("taken");
        assert_eq!(clock, of("a", &[("a", 4), ("b", 7)]), "of c it will hear from c; nobody knows d and gone");
        clock.merge_told(&of("b", &[("b", 2)]), "b", |_| true).expect("taken");
        assert_eq!(clock.vector()["b"], 7, "the greater one");
    }

    #[test]
    fn a_told_clock_is_bounded_in_nodes_and_bytes() {
        let mut clock = VectorClock::new("a");
        let with = |nodes: usize, width: usize| {
            let mut theirs = VectorClock::new("b");
            theirs.vector.extend((1..nodes).map(|n| (format!("{n:0>width$}"), 1)));
            theirs
        };
        assert_eq!(clock.merge_told(&with(MAX_TOLD_NODES, 8), "b", |_| true), Ok(()));
        assert!(matches!(
            clock.merge_told(&with(MAX_TOLD_NODES + 1, 8), "b", |_| true),
            Err(RefusedClock::TooLarge { .. })
        ));
        assert_eq!(clock.merge_told(&with(MAX_TOLD_BYTES / 200, 200), "b", |_| true), Ok(()));
        assert!(matches!(clock.merge_told(&with(3_900, 200), "b", |_| true), Err(RefusedClock::TooLarge { .. })));
        assert_eq!(clock.vector().len(), 2);
        // As many known peers as there can be.
        clock.vector.extend((2..MAX_KEPT_NODES - 1).map(|n| (format!("{n:0>200}"), MAX_TOLD)));
        for peer in ["one", "two", "three"] {
            clock.merge_told(&of(peer, &[(peer, 1)]), peer, |_| true).expect("taken");
        }
        assert_eq!(clock.vector().len(), MAX_KEPT_NODES);
        assert!(serde_json::to_vec(&clock).expect("JSON").len() < 1 << 20);
    }

    #[test]
    fn a_damaged_clock_heals() {
        let mut clock = of("a", &[("a", MAX_COUNT), ("b", 2), ("c", MAX_COUNT - 1), ("junk", 1)]);
        assert!(clock.is_damaged());
        assert!(clock.heal(|node| node != "junk"));
        assert_eq!(clock, of("a", &[("a", 0), ("b", 2)]));
        assert!(!clock.is_damaged() && !clock.heal(|_| true));
        let mut clock = of("a", &[("a", MAX_COUNT), ("junk", 1)]);
        clock.merge_told(&of("b", &[("b", 1)]), "b", |_| false).expect("taken");
        assert_eq!(clock, of("a", &[("a", 1), ("b", 1)]));
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
