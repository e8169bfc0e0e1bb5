//! Runs in the store: the tables and what they declare, so that indexes and counts agree with the rows by construction.

pub mod keys;

use std::collections::BTreeSet;

use mcpp_tool::store::{Counts, Index, Map, Places, StoreError, Table, Transaction, View};
use serde_json::Value;

use crate::{
    blob::{self, BLOBS, Blob},
    definition::{EventWanted, Step, WAIT},
    engine::Heard,
    run::{Line, Node, Number, Run, State},
    scheduler::Nodes,
};

/// Where a ready node stands in line: its run's rank (less is sooner), since when, its run and its number.
pub type Place = (u64, u64, String, Number);

/// All runs.
pub const RUNS: Table<String, Run> = Table::new("runs", declare_run);
/// Runs by status (empty for any) and tag (empty for any), in the order of their submission.
pub const LISTED: Index<(String, String), (u64, String)> = Index::new("listed");
/// How many runs are listed there.
pub const LISTED_COUNTS: Counts<(String, String)> = Counts::new("listed-counts");
/// Runs that have ended, by the time when they did.
pub const ENDED: Index<(), (u64, String)> = Index::new("ended");
/// How many unfinished runs name a build, by its component and its digest.
pub const NAMED: Counts<(String, String)> = Counts::new("named");
/// Runs that wait for a run.
pub const BLOCKED: Index<String, String> = Index::new("blocked");
/// All nodes, by run and number.
pub const NODES: Table<(String, Number), Node> = Table::new("nodes", declare_node);
/// Nodes that are ready, the next one first.
pub const READY: Index<(), Place> = Index::new("ready");
/// Nodes that handlers have, by the time when they are given up.
pub const LEASES: Index<(), (u64, String, Number)> = Index::new("leases");
/// Nodes that wait for a signal, by run and signal.
pub const SIGNALS: Index<(String, String), Number> = Index::new("signals");
/// Nodes that wait for an event, by its topic, whether any key will do, and its key: since when, their run, and their number.
pub const LISTENING: Index<(String, bool, String), (u64, String, Number)> = Index::new("listening");
/// Events that have not come to all nodes that waited for them, by their ids.
pub const HEARD: Map<String, Heard> = Map::new("heard");
/// The nodes whose steps tasks of the queue do, by task.
pub const HANDED: Map<String, (String, Number)> = Map::new("handed");
/// Nodes that ask a user something, by run.
pub const ASKED: Index<String, Number> = Index::new("asked");
/// The nodes that wait for a token.
pub const TOKENS: Map<String, (String, Number)> = Map::new("tokens");
/// The nodes of a fan-out's items, by the fan-out's run and node, in the order of the items.
pub const WITHIN: Index<(String, Number), Number> = Index::new("within");
/// Completed nodes with an undo, by run, in the order of their ends.
pub const UNDO: Index<String, (u64, Number)> = Index::new("undo");
/// Results of nodes.
pub const RESULTS: Map<(String, Number), Value> = Map::new("results");
/// Inputs of runs (at [`ROOT`]) and of nodes with steps within them.
pub const INPUTS: Map<(String, Number), Value> = Map::new("inputs");
/// Items of fan-outs, by the fan-out's run and node and the place in the list.
pub const ITEM: Map<(String, Number, Number), Value> = Map::new("item");
/// Items of fan-outs that an earlier build opened.
pub const ITEMS: Map<(String, Number), Vec<Value>> = Map::new("items");
/// Definitions of runs.
pub const DEFINITIONS: Map<String, Vec<Step>> = Map::new("definitions");
/// The runs for which runs were submitted to wait. An earlier build kept none.
pub const DEPENDENCIES: Map<String, Vec<String>> = Map::new("dependencies");
/// Signals that runs were given.
pub const GIVEN: Map<(String, String), Value> = Map::new("given");
/// The node that a delivery has.
pub const CLAIMS: Map<String, (String, Number)> = Map::new("claims");

/// Where the input of a run itself is kept.
pub const ROOT: Number = Number::MAX;
/// Largest result that stands in a record, in bytes of JSON: the store takes values of 1 MiB.
pub const MAX_RESULT_BYTES: usize = 960 << 10;

/// Bytes that a transaction writes before the rest waits for the next one. The host takes 4 MiB: a last node, its result and the run's head fit into what is left.
pub const FULL_BYTES: u64 = 1 << 20;

fn declare_run(id: &String, run: &Run, places: &mut Places) {
    if run.is_removed {
        // Nobody sees it any more, and it is the next one to go.
        return places.index(&ENDED, &(), &(0, id));
    }
    let (status, place) = (run.status(), (run.created_ms, id));
    let tags = [""].into_iter().chain(run.tags.iter().map(String::as_str));
    for tag in tags {
        for status in ["", status] {
            places.index(&LISTED, &(status, tag), &place);
            places.count(&LISTED_COUNTS, &(status, tag));
        }
    }
    if let Some(ended_ms) = run.ended_ms {
        places.index(&ENDED, &(), &(ended_ms, id));
    }
    for build in run.builds.iter().filter(|_| !run.phase.is_final()) {
        places.count(&NAMED, &(&*build.component, &*build.digest));
    }
    for other in &run.waits_for {
        places.index(&BLOCKED, other, id);
    }
}

fn declare_node((run, number): &(String, Number), node: &Node, places: &mut Places) {
    if let (Some(parent), Some(_)) = (node.parent, node.index) {
        places.index(&WITHIN, &(run, parent), number);
    }
    keys::declare((run, *number), node, places);
    if let Some(task) = node.task.as_ref().filter(|_| !node.state.has_ended()) {
        places.name(&HANDED, &task.id, &(run.clone(), *number));
    }
    match &node.state {
        State::Ready | State::Undoing { claim: None } => {
            places.index(&READY, &(), &(node.rank, node.ready_ms, run, *number));
        }
        State::Running { until_ms, .. } | State::Undoing { claim: Some((_, until_ms)) } => {
            places.index(&LEASES, &(), &(*until_ms, run, *number));
        }
        State::Waiting { signal, token, form, .. } => {
            if form.is_some() {
                places.index(&ASKED, run, number);
            }
            if let Some(signal) = signal {
                places.index(&SIGNALS, &(run, signal), number);
            }
            if let Some(token) = token {
                places.name(&TOKENS, token, &(run.clone(), *number));
            }
        }
        State::Listening { event: EventWanted { topic, key }, since_ms, .. } => {
            let place = (*since_ms, run, *number);
            places.index(&LISTENING, &(topic, key.is_none(), key.as_deref().unwrap_or_default()), &place);
        }
        // Of a fan-out its items are undone.
        State::Completed if node.step.undo.is_some() && node.step.for_each.is_none() => {
            places.index(&UNDO, run, &(node.order, *number));
        }
        _ => {}
    }
}

/// A priority as a number of which less is sooner, in the order of all numbers: a lower priority is sooner.
pub fn rank(priority: f64) -> u64 {
    let bits = priority.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }
}

/// The nodes of one run in a transaction.
#[derive(Debug)]
pub struct StoredNodes<'a, 't> {
    t: &'a Transaction<'t>,
    run: String,
    /// How many nodes have become ready.
    pub woken: u32,
    /// Those of them whose steps only wait.
    pub waits: Vec<Number>,
    /// Lines of keys that may go on.
    pub touched: BTreeSet<Line>,
}

impl<'a, 't> StoredNodes<'a, 't> {
    /// The nodes of a run.
    pub fn new(t: &'a Transaction<'t>, run: &str) -> Self {
        Self { t, run: run.to_owned(), woken: 0, waits: Vec::new(), touched: BTreeSet::new() }
    }

    fn count_woken(&mut self, node: &Node) {
        if matches!(node.state, State::Ready | State::Undoing { claim: None }) {
            self.woken = self.woken.saturating_add(1);
            if node.state == State::Ready && node.step.action == WAIT && node.step.for_each.is_none() {
                self.waits.push(node.number);
            }
        }
    }
}

/// A run that nobody has removed.
///
/// # Errors
/// See [`StoreError`].
pub fn stored_run(t: &View<'_>, id: &str) -> Result<Option<Run>, StoreError> {
    Ok(RUNS.get(t, id)?.filter(|run| !run.is_removed))
}

/// The result of a node; none if it has none.
///
/// # Errors
/// See [`StoreError`].
pub fn result(t: &View<'_>, run: &str, number: Number) -> Result<Option<Value>, StoreError> {
    if let Some(value) = RESULTS.get(t, &(run, number))? {
        return Ok(Some(value));
    }
    BLOBS.get(t, &(run, number))?.map(|blob| blob::read(t, &blob)).transpose()
}

/// A node; that there is one the caller knows.
pub fn node(t: &View<'_>, run: &str, number: Number) -> Result<Node, StoreError> {
    NODES.get(t, &(run, number))?.ok_or(StoreError::Unreadable)
}

impl Nodes for StoredNodes<'_, '_> {
    type Error = StoreError;

    fn node(&self, number: Number) -> Result<Node, StoreError> {
        node(self.t, &self.run, number)
    }

    fn save(&mut self, node: &Node) -> Result<(), StoreError> {
        self.count_woken(node);
        let before = NODES.put(self.t, &(self.run.clone(), node.number), node)?;
        if let Some(before) = before {
            keys::note(&mut self.touched, &before, node);
        }
        Ok(())
    }

    fn add(&mut self, node: &Node) -> Result<(), StoreError> {
        self.count_woken(node);
        // The host need not be asked for the row: a submission may have a thousand.
        NODES.replace(self.t, &(self.run.clone(), node.number), None, Some(node))
    }

    fn result(&self, number: Number) -> Result<Value, StoreError> {
        Ok(result(self.t, &self.run, number)?.unwrap_or_default())
    }

    fn items(&self, fan: Number) -> Result<Vec<Number>, StoreError> {
        WITHIN.of(&(&self.run, fan)).collect(self.t)
    }

    fn read_ahead(&self, numbers: &[Number]) -> Result<(), StoreError> {
        let keys: Vec<(&str, Number)> = numbers.iter().map(|number| (self.run.as_str(), *number)).collect();
        RESULTS.read_ahead(self.t, &keys)
    }

    fn keep(&mut self, number: Number, result: &Value) -> Result<bool, StoreError> {
        let is_kept = result.to_string().len() <= MAX_RESULT_BYTES;
        if is_kept {
            RESULTS.set(self.t, &(&self.run, number), result)?;
        }
        Ok(is_kept)
    }

    fn keep_blob(&mut self, number: Number, blob: &Blob) -> Result<bool, StoreError> {
        blob::give(self.t, (&self.run, number), blob)
    }

    fn is_full(&self) -> bool {
        self.t.spent().written_bytes >= FULL_BYTES
    }

    fn alarm(&mut self, node: &Node, at_ms: u64) -> Result<(), StoreError> {
        self.t.wake_at(&format!("n:{}:{}", self.run, node.number), at_ms, b"")
    }

    fn drop_task(&mut self, task: &str, now_ms: u64) -> Result<(), StoreError> {
        self.t.wake_at(&format!("x:{task}"), now_ms, b"")
    }

    fn last_undoable(&self) -> Result<Option<Number>, StoreError> {
        Ok(UNDO.of(&self.run).descending().first(self.t)?.map(|(_, number)| number))
    }
}

#[cfg(test)]
mod golden;
