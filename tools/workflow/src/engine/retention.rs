//! Runs that have ended are kept for a time and in a number. What is over is removed in rings of bounded work, each right behind the other until nothing is over.

use std::time::Duration;

use mcpp_tool::store::{Budget, Key, Map, Prefix, Span, StoreError, Transaction, View, bites, snapshot};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    WorkflowError, find,
    rehearsal::{self, CALLED},
    upkeep::WATCH,
};
use crate::{
    blob::{self, BLOBS},
    run::{Node, Number, Run},
    store::{
        BLOCKED, DEFINITIONS, DEPENDENCIES, ENDED, GIVEN, INPUTS, ITEM, ITEMS, LISTED_COUNTS, NODES, RESULTS, ROOT,
        RUNS,
    },
};

/// How long an ended run is kept, in milliseconds: seven days.
pub const KEEP_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// How many ended runs are kept.
pub(super) const KEEP_RUNS: i64 = 100_000;
/// What one ring removes: about a thousand small runs, and a quarter of the bytes that a call may read.
const RING: Budget = Budget { entries: 5_000, bytes: 16 << 20, writes: 20_000, time: Duration::from_secs(2) };
/// Nodes of a run, and other entries of it, that one transaction removes.
const REMOVED_NODES: usize = 100;
const REMOVED_ENTRIES: usize = 300;
/// Bytes of nodes, which must be read to be removed, behind which a transaction removes no more of a run.
const REMOVED_BYTES: u64 = 1 << 20;

/// Ended runs, by the time when they did.
type Ended = Span<(u64, String)>;

/// The runs that ended long ago, or else the first of all, and how many of these are over; none if nothing is.
fn surplus(t: &View<'_>, now_ms: u64, most: i64) -> Result<Option<(Ended, usize)>, StoreError> {
    let old = ENDED.of(&()).below(&(now_ms.saturating_sub(KEEP_MS),));
    if !old.is_empty(t)? {
        return Ok(Some((old, usize::MAX)));
    }
    let mut kept = 0_i64;
    for status in ["completed", "failed", "cancelled"] {
        kept = kept.saturating_add(LISTED_COUNTS.get(t, &(status, ""))?);
    }
    let over = usize::try_from(kept.saturating_sub(most)).unwrap_or_default();
    Ok((over > 0).then(|| (ENDED.of(&()), over)))
}

/// Removes runs that ended long ago, or are more than `most`, as many as one ring does; whether more are to be removed.
pub(super) fn forget(now_ms: u64, most: i64) -> Result<bool, WorkflowError> {
    forget_within(RING, now_ms, most)
}

/// As [`forget`], within a budget.
pub(super) fn forget_within(mut budget: Budget, now_ms: u64, most: i64) -> Result<bool, WorkflowError> {
    loop {
        let t = snapshot()?;
        let Some((span, over)) = surplus(&t, now_ms, most)? else { return Ok(false) };
        drop(t);
        if budget.is_spent() {
            return Ok(true);
        }
        let most = budget.entries.min(over);
        let mut room = Budget { entries: most, ..budget };
        let removed = bites(&mut room, &span, |t, (_, id)| {
            remove(t, &id, now_ms)?;
            Ok::<_, WorkflowError>(true)
        })?;
        let looked_at = most.saturating_sub(room.entries);
        budget = Budget { entries: budget.entries.saturating_sub(looked_at), ..room };
        // What cannot be removed at all is tried again with the next look, not at once.
        if removed.changed == 0 {
            return Ok(false);
        }
    }
}

/// Removes a run that has ended, for a client. Of a large one nobody sees the rest from now on, and the watch removes it at once; whether all is gone already.
///
/// # Errors
/// There is no such run, or it has not ended.
pub fn delete(t: &Transaction<'_>, id: &str, now_ms: u64) -> Result<bool, WorkflowError> {
    let run = find(t, id)?;
    if !run.phase.is_final() {
        let what = if run.cancelled.is_some() { "it is being cancelled; try again" } else { "cancel it first" };
        let reason = format!("Workflow {id} has not ended: it is {}; {what}", run.phase.as_str());
        return Err(WorkflowError::Refused(reason));
    }
    if !BLOCKED.of(&run.id).is_empty(t)? {
        let reason = format!("runs that wait for workflow {id} have not all been told of its end; try again");
        return Err(WorkflowError::Refused(reason));
    }
    let is_whole = remove(t, &run.id, now_ms)?;
    if !is_whole {
        RUNS.put(t, &run.id.clone(), &Run { is_removed: true, ..run })?;
        WATCH.by(t, now_ms, now_ms)?;
    }
    Ok(is_whole)
}

/// Removes rows of a run, and the run itself with the last of them; whether those were the last.
fn remove(t: &Transaction<'_>, id: &String, now_ms: u64) -> Result<bool, StoreError> {
    let before = t.spent().bytes;
    let is_full = || t.spent().bytes.saturating_sub(before) > REMOVED_BYTES;
    let mut nodes: Vec<Node> = Vec::new();
    let mut is_whole = true;
    for row in NODES.under(&(id,)).most(REMOVED_NODES).walk(t) {
        nodes.push(row?.1);
        if is_full() {
            break;
        }
    }
    is_whole &= nodes.len() < REMOVED_NODES && !is_full();
    let keys: Vec<(&String, Number)> = nodes.iter().map(|node| (id, node.number)).collect();
    t.read_ahead(keys.iter().map(|key| BLOBS.key(key)))?;
    for node in &nodes {
        let key = (id, node.number);
        NODES.replace(t, &(id.clone(), node.number), Some(node), None)?;
        blob::forget(t, (id, node.number), now_ms)?;
        t.discard(&RESULTS.key(&key))?;
        t.discard(&INPUTS.key(&key))?;
        t.discard(&ITEMS.key(&key))?;
    }
    is_whole &= remove_under(t, &GIVEN, id)?;
    is_whole &= remove_under(t, &ITEM, id)?;
    is_whole &= remove_under(t, &CALLED, id)?;
    if is_whole {
        rehearsal::forget(t, id)?;
        t.discard(&INPUTS.key(&(id, ROOT)))?;
        t.discard(&DEFINITIONS.key(id))?;
        t.discard(&DEPENDENCIES.key(id))?;
        RUNS.remove(t, id)?;
    }
    Ok(is_whole)
}

/// Removes what a map has of a run, as much as one transaction does; whether that is all.
fn remove_under<K: Key, V: Serialize + DeserializeOwned>(
    t: &Transaction<'_>,
    map: &Map<K, V>,
    id: &String,
) -> Result<bool, StoreError>
where
    for<'a> (&'a String,): Prefix<K>,
{
    let before = t.spent().bytes;
    let (mut keys, mut bytes) = (Vec::new(), 0);
    for row in map.under(&(id,)).most(REMOVED_ENTRIES).walk(t) {
        keys.push(row?.0);
        bytes = t.spent().bytes.saturating_sub(before);
        if bytes > REMOVED_BYTES {
            break;
        }
    }
    for key in &keys {
        t.discard(&map.key(key))?;
    }
    Ok(keys.len() < REMOVED_ENTRIES && bytes <= REMOVED_BYTES)
}
