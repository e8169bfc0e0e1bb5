//! What a clock takes of one that a peer tells: the one merge for clocks from strangers.

use super::{MAX_NODE_BYTES, VectorClock, is_node, root};

/// Greatest counter that a peer may tell. A node that counts 1,000 events a second gets there after 34 years; a greater one would have its clock stand still.
pub const MAX_TOLD: u64 = 1 << 40;

/// Most nodes of a clock, and most bytes of their names together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Nodes.
    pub nodes: usize,
    /// Bytes of their names.
    pub bytes: usize,
}

impl Extent {
    fn of(clock: &VectorClock) -> Self {
        Self { nodes: clock.vector.len(), bytes: clock.vector.keys().map(String::len).sum() }
    }

    fn is_within(self, most: Self) -> bool {
        self.nodes <= most.nodes && self.bytes <= most.bytes
    }
}

/// What is taken of nodes that are neither this one nor the teller.
#[derive(Clone, Copy)]
pub enum ThirdNodes<'a> {
    /// No counter. The clock forgets those for which this is false, so it has at most a node for each known peer.
    Known(&'a dyn Fn(&str) -> bool),
    /// The greater counter of each. At most so many nodes may be new here, with the teller's own.
    New(usize),
}

impl std::fmt::Debug for ThirdNodes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(_) => f.write_str("Known"),
            Self::New(most) => f.debug_tuple("New").field(most).finish(),
        }
    }
}

/// The bounds within which a clock takes what peers tell.
#[derive(Debug, Clone, Copy)]
pub struct ToldRules<'a> {
    /// Most of a clock that a peer tells.
    pub told: Extent,
    /// Most of this clock. One that is larger already takes no new node.
    pub kept: Extent,
    /// What is taken of third nodes.
    pub third: ThirdNodes<'a>,
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
    /// The teller's own counter is near the greatest one that there is.
    #[error("its vector gives {node:?} the counter {told}; at most {MAX_TOLD} is taken")]
    TooGreat {
        /// The node; the first 40 characters of its name.
        node: String,
        /// The counter.
        told: u64,
    },
    /// It has too many nodes, or their names too many bytes.
    #[error(
        "its vector has {} nodes with {} bytes of names; at most {} and {} are taken", told.nodes, told.bytes, most.nodes, most.bytes
    )]
    TooLarge {
        /// What it has.
        told: Extent,
        /// What is allowed.
        most: Extent,
    },
    /// It has more new nodes than its teller may bring.
    #[error("its vector has {new} nodes that are new here; its teller may bring {most} more")]
    TooManyNew {
        /// The new nodes.
        new: usize,
        /// What is allowed.
        most: usize,
    },
    /// This clock has no room for its new nodes.
    #[error("this node's clock has room for {} nodes with {} bytes of names, and would have more", most.nodes, most.bytes)]
    NoRoom {
        /// What is allowed.
        most: Extent,
    },
    /// The name of the peer's node is none.
    #[error("the node of a peer must have 1 to {MAX_NODE_BYTES} bytes and no control character")]
    Name,
}

impl VectorClock {
    /// Takes in the clock that the peer `teller` tells, and counts that as an event of this node. This is the merge for clocks that strangers send. How many nodes are
    /// new here then. Its rules:
    ///
    /// 1. A told clock has at most as many nodes and bytes of names as `rules` say, and the teller's name is a legal node.
    /// 2. Only this node counts its events: a clock that gives it a greater counter than its own is refused.
    /// 3. The greater one of the teller's two counters is taken. A teller that gives itself more than [`MAX_TOLD`] is refused.
    /// 4. Of third nodes the clock takes what [`ThirdNodes`] says: nothing, for another node may refuse a clock that a stranger's word has raised for it; or the greater
    ///    counters, of so many new nodes. It passes over a third node whose counter is above [`MAX_TOLD`] or whose name is not legal: the teller may only carry on what
    ///    somebody else damaged.
    /// 5. The clock grows no larger than `rules` say: a clock that would make it larger is refused.
    /// 6. Before, the clock heals of what an earlier build took ([`Self::heal`]).
    ///
    /// # Errors
    /// See [`RefusedClock`]. The clock has not changed then.
    pub fn merge_told(&mut self, theirs: &Self, teller: &str, rules: &ToldRules<'_>) -> Result<usize, RefusedClock> {
        let mut merged = self.clone();
        match rules.third {
            ThirdNodes::Known(is_known) => merged.heal(|node| node == teller || is_known(node)),
            ThirdNodes::New(_) => merged.heal(|_| true),
        };
        merged.check_told(theirs, teller, rules.told)?;
        let takes = |node: &str, count: u64| match rules.third {
            _ if node == teller => true,
            ThirdNodes::Known(_) => false,
            ThirdNodes::New(_) => count <= MAX_TOLD && is_node(node),
        };
        let before = merged.vector.len();
        for (node, count) in theirs.vector.iter().filter(|(node, count)| takes(node, **count)) {
            match merged.vector.get_mut(node) {
                Some(known) => *known = (*known).max(*count),
                None => drop(merged.vector.insert(node.clone(), *count)),
            }
        }
        let new = merged.vector.len().saturating_sub(before);
        match rules.third {
            ThirdNodes::New(most) if new > most => return Err(RefusedClock::TooManyNew { new, most }),
            _ if new > 0 && !Extent::of(&merged).is_within(rules.kept) => {
                return Err(RefusedClock::NoRoom { most: rules.kept });
            }
            _ => {}
        }
        merged.tick();
        *self = merged;
        Ok(new)
    }

    fn check_told(&self, theirs: &Self, teller: &str, most: Extent) -> Result<(), RefusedClock> {
        if !is_node(teller) {
            return Err(RefusedClock::Name);
        }
        let told = Extent::of(theirs);
        if !told.is_within(most) {
            return Err(RefusedClock::TooLarge { told, most });
        }
        let own = self.vector.get(&self.node_id).copied().unwrap_or_default();
        if let Some(told) = theirs.vector.get(&self.node_id).copied().filter(|told| *told > own) {
            return Err(RefusedClock::AheadOfSelf { node: self.node_id.clone(), told, own });
        }
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
}

#[cfg(test)]
mod tests;
