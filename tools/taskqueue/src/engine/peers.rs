//! Peers: who takes part in placement, and the service's clock.

use mcpp_tool::store::{Map, StoreError, Transaction, View};
use scheduling::clock::VectorClock;

use super::{QueueError, ids::check_name};

/// After this long without a word a peer is not alive any more, in milliseconds.
pub const PEER_TIMEOUT_MS: u64 = 300_000;
/// Peers that are remembered.
const MAX_PEERS: usize = 1_000;

/// The service's clock.
const CLOCK: Map<(), VectorClock> = Map::new("clock");
/// When each peer was last heard of, in the order in which they became known.
const PEERS: Map<(u64, String), Peer> = Map::new("peer");
/// Which number a peer has.
const PEER_NUMBERS: Map<String, u64> = Map::new("peer-number");

/// The queue's record of a peer.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Peer {
    /// When it was last heard of, in milliseconds since 1970-01-01 UTC.
    seen_ms: u64,
}

/// The service's clock.
pub fn clock(t: &View<'_>) -> Result<VectorClock, StoreError> {
    Ok(CLOCK.get(t, &())?.unwrap_or_else(|| VectorClock::new("taskqueue-service")))
}

/// Notes a sign of life of a peer; the peers that are alive, in the order in which they became known.
pub(super) fn heard_of(t: &Transaction<'_>, peer: &str, now_ms: u64) -> Result<Vec<String>, QueueError> {
    heartbeat(t, peer, None, now_ms)?;
    let alive = peers(t)?.into_iter().filter(|(_, seen)| seen.saturating_add(PEER_TIMEOUT_MS) > now_ms);
    Ok(alive.map(|(peer, _)| peer).collect())
}

/// A peer is alive, and this is its clock.
pub fn heartbeat(t: &Transaction<'_>, peer: &str, theirs: Option<&VectorClock>, now_ms: u64) -> Result<(), QueueError> {
    check_name("peer_id", peer)?;
    let number = match PEER_NUMBERS.get(t, peer)? {
        Some(number) => number,
        None => {
            let last = PEERS.all().descending().first(t)?.map_or(0, |((number, _), _)| number);
            let number = last.saturating_add(1);
            PEER_NUMBERS.set(t, peer, &number)?;
            number
        }
    };
    PEERS.set(t, &(number, peer), &Peer { seen_ms: now_ms })?;
    if let Some(theirs) = theirs {
        let mut clock = clock(t)?;
        clock.merge(theirs);
        CLOCK.set(t, &(), &clock)?;
    }
    forget_peers(t, now_ms)
}

/// Forgets peers that have been silent for a day, a few at a time.
fn forget_peers(t: &Transaction<'_>, now_ms: u64) -> Result<(), QueueError> {
    const DAY_MS: u64 = 24 * 3_600 * 1_000;
    for peer in PEERS.all().most(4).walk(t) {
        let ((number, peer), known) = peer?;
        if known.seen_ms.saturating_add(DAY_MS) < now_ms {
            PEERS.remove(t, &(number, &peer))?;
            PEER_NUMBERS.remove(t, &peer)?;
        }
    }
    Ok(())
}

/// The known peers and when they were last heard of, in the order in which they became known.
pub fn peers(t: &View<'_>) -> Result<Vec<(String, u64)>, StoreError> {
    PEERS.all().most(MAX_PEERS).walk(t).map(|peer| peer.map(|((_, peer), known)| (peer, known.seen_ms))).collect()
}
