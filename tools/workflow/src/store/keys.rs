//! The keys of steps in the store: who waits for one, how many count, and when the next one may begin. The table of nodes keeps all but the last by construction.

use std::collections::BTreeSet;

use mcpp_tool::store::{Counts, Index, Places, Table};

use super::Place;
use crate::run::{Limited, Line, Node, Number, State};

/// A line as a key of the store: whether it is of a rate, and the key.
pub type LineKey = (bool, String);

/// Nodes that wait for a key, the next one first.
pub const LINES: Index<LineKey, Place> = Index::new("lines");
/// How many nodes of a concurrency key run, or have their turn.
pub const SLOTS: Counts<String> = Counts::new("slots");
/// How many nodes of a rate key have their turn and have not begun: one at most.
pub const NEXT: Counts<String> = Counts::new("next-of-rate");
/// When the next node of a rate key may begin, in microseconds since 1970-01-01 UTC.
pub const OPENS: Table<String, u64> = Table::new("opens", |key, opens_us, places| {
    places.index(&OPENED, &(), &(opens_us / 1_000, key));
});
/// The same in milliseconds, so that what is over is found.
pub const OPENED: Index<(), (u64, String)> = Index::new("opened");
/// Lines that go on at a time, in milliseconds since 1970-01-01 UTC.
pub const DUE_LINES: Index<(), (u64, bool, String)> = Index::new("due-lines");

impl Line {
    /// Its key in the store.
    pub fn key(&self) -> (bool, &str) {
        (self.of == Limited::Rate, &self.key)
    }
}

/// Where a node waits and counts.
pub(super) fn declare((run, number): (&String, Number), node: &Node, places: &mut Places) {
    if let State::InLine(line) = &node.state {
        places.index(&LINES, &line.key(), &(node.rank, node.ready_ms, run, number));
    }
    if let Some(key) = node.slot() {
        places.count(&SLOTS, key);
    }
    if let Some(key) = node.next_of_rate() {
        places.count(&NEXT, key);
    }
}

/// Notes the lines that may go on when a node changes: the keys among whose nodes it counts no longer.
pub(super) fn note(touched: &mut BTreeSet<Line>, before: &Node, after: &Node) {
    let slot = before.slot().filter(|slot| after.slot() != Some(slot));
    let next = before.next_of_rate().filter(|next| after.next_of_rate() != Some(next));
    let line = |of| move |key: &str| Line { of, key: key.to_owned() };
    touched.extend(slot.map(line(Limited::Concurrency)));
    touched.extend(next.map(line(Limited::Rate)));
}
