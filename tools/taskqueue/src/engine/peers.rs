//! Peers: who takes part in placement, and the service's clock.
//!
//! Names cost a caller nothing, so their number is bounded, in all and for each peer that calls. Names that are silent give way to new ones. A claimer that has no entry takes part all the
//! same.

use mcpp_tool::store::{Counts, Map, StoreError, Transaction, View};
use scheduling::clock::{Extent, ThirdNodes, ToldRules, VectorClock};

use super::{QueueError, ids::check_name};
use crate::origin;

/// After this long without a word a peer is not alive any more, in milliseconds.
pub const PEER_TIMEOUT_MS: u64 = 300_000;
/// After this long without a word a peer is forgotten, in milliseconds.
const FORGET_MS: u64 = 24 * 3_600 * 1_000;
/// Peers that are remembered: placement compares each with 200 tasks within a transaction's time.
const MAX_PEERS: usize = 256;
/// Peers that are remembered on the word of one peer that calls.
const MAX_OF_SOURCE: usize = 16;
/// Entries that are read at once: an earlier version kept more.
const MAX_READ: usize = 1_000;
/// Peers of which a reply tells: with the longest names about 40 KiB.
const MAX_TOLD: usize = 100;
/// Most of a clock that is merged.
const TOLD: Extent = Extent { nodes: 256, bytes: 16 << 10 };
/// Most of the service's clock. Each heartbeat's reply has it.
const KEPT: Extent = Extent { nodes: 512, bytes: 32 << 10 };
/// Nodes that one peer that calls has brought into it.
const MAX_NODES_OF_SOURCE: i64 = 128;

/// The service's clock.
const CLOCK: Map<(), VectorClock> = Map::new("clock");
/// How many nodes of the clock each calling peer has brought.
const CLOCK_NODES: Counts<String> = Counts::new("clock-nodes");
/// When each peer was last heard of, in the order in which they became known.
const PEERS: Map<(u64, String), Peer> = Map::new("peer");
/// Which number a peer has.
const PEER_NUMBERS: Map<String, u64> = Map::new("peer-number");

/// The queue's record of a peer.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Peer {
    /// When it was last heard of, in milliseconds since 1970-01-01 UTC.
    seen_ms: u64,
    /// The peer that first told of it; none for a caller of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Peer {
    fn is_alive(&self, now_ms: u64) -> bool {
        self.seen_ms.saturating_add(PEER_TIMEOUT_MS) > now_ms
    }
}

type Known = ((u64, String), Peer);

/// The service's clock. It heals of counters that an earlier version took from peers: one near the greatest one that there is could not rise any more.
pub fn clock(t: &View<'_>) -> Result<VectorClock, StoreError> {
    let mut clock = CLOCK.get(t, &())?.unwrap_or_else(|| VectorClock::new("taskqueue-service"));
    if clock.is_damaged() {
        clock.heal(|_| true);
    }
    Ok(clock)
}

/// Notes a sign of life of a claimer; the peers that are alive, in the order in which they became known. The claimer is one of them, also where there is no room to remember it.
pub(super) fn heard_of(t: &Transaction<'_>, peer: &str, now_ms: u64) -> Result<Vec<String>, QueueError> {
    match heartbeat(t, peer, None, now_ms) {
        Ok(_) | Err(QueueError::Share(_)) => {}
        Err(error) => return Err(error),
    }
    let alive = known(t)?.into_iter().filter(|(_, known)| known.is_alive(now_ms));
    let mut alive: Vec<String> = alive.map(|((_, name), _)| name).take(MAX_PEERS).collect();
    if !alive.iter().any(|name| name == peer) {
        alive.push(peer.to_owned());
    }
    Ok(alive)
}

/// A peer is alive, and this is its clock; why its clock was not merged, if it was not. The sign of life counts all the same.
pub fn heartbeat(
    t: &Transaction<'_>,
    peer: &str,
    theirs: Option<&VectorClock>,
    now_ms: u64,
) -> Result<Option<String>, QueueError> {
    check_name("peer_id", peer)?;
    let source = origin::peer();
    let mut all = known(t)?;
    forget(t, &mut all, now_ms)?;
    let found = all.iter().find(|((_, name), _)| name == peer);
    match found {
        Some((key, known)) => PEERS.set(t, key, &Peer { seen_ms: now_ms, ..known.clone() })?,
        None => {
            make_room(t, &mut all, source.as_deref(), now_ms)?;
            // An entry beyond those that were read keeps its number.
            let number = match PEER_NUMBERS.get(t, peer)? {
                Some(number) => number,
                None => PEERS.all().descending().first(t)?.map_or(0, |((last, _), _)| last).saturating_add(1),
            };
            PEER_NUMBERS.set(t, peer, &number)?;
            PEERS.set(t, &(number, peer), &Peer { seen_ms: now_ms, source: source.clone() })?;
        }
    }
    theirs.map_or(Ok(None), |theirs| merge(t, peer, theirs, source.as_deref()))
}

/// Merges the clock of a peer into the service's by the rules of [`VectorClock::merge_told`], or says why not. Third nodes are taken: the protocol's programs merge all.
fn merge(
    t: &Transaction<'_>,
    peer: &str,
    theirs: &VectorClock,
    source: Option<&str>,
) -> Result<Option<String>, QueueError> {
    let mut own = clock(t)?;
    let new = match source {
        Some(source) => MAX_NODES_OF_SOURCE.saturating_sub(CLOCK_NODES.get(t, source)?),
        None => i64::MAX,
    };
    // A number of 64 bits may be too large for a guest's `usize`.
    let third = ThirdNodes::New(usize::try_from(new.max(0)).unwrap_or(usize::MAX));
    match own.merge_told(theirs, peer, &ToldRules { told: TOLD, kept: KEPT, third }) {
        Err(refused) => return Ok(Some(refused.to_string())),
        Ok(brought) => {
            if let Some(source) = source.filter(|_| brought > 0) {
                CLOCK_NODES.add(t, source, i64::try_from(brought).unwrap_or(i64::MAX));
            }
        }
    }
    CLOCK.set(t, &(), &own)?;
    Ok(None)
}

fn known(t: &View<'_>) -> Result<Vec<Known>, StoreError> {
    PEERS.all().most(MAX_READ).walk(t).collect()
}

fn remove(t: &Transaction<'_>, (key, _): &Known) -> Result<(), StoreError> {
    PEERS.remove(t, key)?;
    PEER_NUMBERS.remove(t, &key.1).map(drop)
}

/// Forgets peers that have been silent for a day, and those beyond the bound that are silent: an earlier version had none.
fn forget(t: &Transaction<'_>, all: &mut Vec<Known>, now_ms: u64) -> Result<(), StoreError> {
    let mut surplus = all.len().saturating_sub(MAX_PEERS);
    let mut kept = Vec::with_capacity(all.len());
    for known in all.drain(..) {
        let is_old = known.1.seen_ms.saturating_add(FORGET_MS) < now_ms;
        if is_old || (surplus > 0 && !known.1.is_alive(now_ms)) {
            surplus = surplus.saturating_sub(1);
            remove(t, &known)?;
        } else {
            kept.push(known);
        }
    }
    *all = kept;
    Ok(())
}

/// Makes room for one more peer: the one that was silent for longest gives way, within the source's share and in all.
fn make_room(t: &Transaction<'_>, all: &mut Vec<Known>, source: Option<&str>, now_ms: u64) -> Result<(), QueueError> {
    let is_of_source = |known: &Known| source.is_some() && known.1.source.as_deref() == source;
    let of_source = all.iter().filter(|known| is_of_source(known)).count();
    let full = if of_source >= MAX_OF_SOURCE { Some(true) } else { (all.len() >= MAX_PEERS).then_some(false) };
    let Some(is_share) = full else { return Ok(()) };
    let silent = all.iter().enumerate().filter(|(_, known)| !is_share || is_of_source(known));
    let silent = silent.filter(|(_, known)| !known.1.is_alive(now_ms)).min_by_key(|(_, known)| known.1.seen_ms);
    match silent.map(|(at, _)| at) {
        Some(at) => Ok(remove(t, &all.swap_remove(at))?),
        None if is_share => Err(QueueError::Share(format!(
            "{MAX_OF_SOURCE} peers are alive on this peer's word, which is its share; one is silent after {} s",
            PEER_TIMEOUT_MS / 1_000
        ))),
        None => Err(QueueError::Share(format!(
            "{MAX_PEERS} peers are alive, as many as the queue remembers; one is silent after {} s",
            PEER_TIMEOUT_MS / 1_000
        ))),
    }
}

/// The known peers and when they were last heard of, in the order in which they became known: those heard of last, as many as a reply has room for. And how many are known.
pub fn peers(t: &View<'_>) -> Result<(Vec<(String, u64)>, usize), StoreError> {
    let mut all = known(t)?;
    let count = all.len();
    all.sort_by_key(|(_, known)| std::cmp::Reverse(known.seen_ms));
    all.truncate(MAX_TOLD);
    all.sort_by_key(|((number, _), _)| *number);
    Ok((all.into_iter().map(|((_, name), known)| (name, known.seen_ms)).collect(), count))
}

#[cfg(test)]
mod tests;
