//! This host's identity and clock, and the peers that take part.
//!
//! A peer is known from the first word of its state on, and keeps its place in that order. A peer that was silent for [`PEER_TIMEOUT_MS`] has failed; after a day it is forgotten.

use std::collections::BTreeSet;

use mcpp_tool::{
    environment::id as new_id,
    mesh,
    store::{Counts, Index, Map, StoreError, Table, Transaction, View},
};
use scheduling::{
    clock::{Extent, MAX_KEPT_NODES, MAX_NODE_BYTES, ThirdNodes, ToldRules, VectorClock},
    hash::Hash,
};
use serde::{Deserialize, Serialize};

use crate::tasks::SchedulerError;

/// After this long without a word a peer has failed, in milliseconds.
pub const PEER_TIMEOUT_MS: u64 = 300_000;
/// A peer that was silent for so long is forgotten, in milliseconds.
const FORGET_MS: u64 = 24 * 3_600 * 1_000;
/// Peers that are known. A further one is refused until one is forgotten.
pub const MAX_PEERS: i64 = 256;

/// Nodes of a sound clock: this host, its peers, and names that this host had before.
const MAX_NODES: usize = MAX_PEERS as usize + 16;

/// Most of a clock that a peer tells.
const TOLD: Extent = Extent { nodes: 4_096, bytes: 256 << 10 };
/// Most of this host's clock: what one value of the store has room for.
const KEPT: Extent = Extent { nodes: MAX_KEPT_NODES, bytes: MAX_KEPT_NODES * MAX_NODE_BYTES };

/// What this host is called where it has no mesh.
const NAME: Map<(), String> = Map::new("name");
const CLOCK: Map<(), VectorClock> = Map::new("clock");
/// The peers in the order in which they became known.
const ORDER: Index<(), (u64, String)> = Index::new("peer-order");
const COUNT: Counts<()> = Counts::new("peer-count");
const PEERS: Table<String, Peer> = Table::new("peers", |id, peer, places| {
    places.index(&ORDER, &(), &(peer.number, id));
    places.count(&COUNT, &());
});

/// The scheduler's record of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its place in the order.
    number: u64,
    /// When it was last heard of, in milliseconds since 1970-01-01 UTC.
    pub seen_ms: u64,
}

impl Peer {
    /// Whether it has not failed.
    pub fn is_alive(&self, now_ms: u64) -> bool {
        self.seen_ms.saturating_add(PEER_TIMEOUT_MS) > now_ms
    }
}

/// The name under which the mesh knows this host, if there is a mesh. Asked before a transaction, which then may use it.
pub fn mesh_name() -> Option<String> {
    mesh::identify().ok().map(|host| host.id)
}

/// This host's clock, whose node is this host: `name` if that is known, else a name that it made up and keeps.
///
/// # Errors
/// See [`StoreError`].
pub fn clock(t: &Transaction<'_>, name: Option<&str>) -> Result<VectorClock, StoreError> {
    let kept = CLOCK.get(t, &())?;
    let name = match name.map(str::to_owned).or(NAME.get(t, &())?) {
        Some(name) => name,
        None => format!("peer-{}", new_id().get(..8).unwrap_or_default()),
    };
    match kept {
        Some(mut clock) if clock.node_id() == name => {
            // An earlier build took what peers told it of any node.
            if clock.is_damaged() || clock.vector().len() > MAX_NODES {
                let known = known(t)?;
                clock.heal(|node| known.contains(node));
                CLOCK.set(t, &(), &clock)?;
            }
            Ok(clock)
        }
        kept => {
            let mut clock = VectorClock::new(name.as_str());
            if let Some(before) = kept {
                clock.merge(&before);
            }
            NAME.set(t, &(), &name)?;
            CLOCK.set(t, &(), &clock)?;
            Ok(clock)
        }
    }
}

/// Counts an event of this host.
///
/// # Errors
/// See [`StoreError`].
pub fn tick(t: &Transaction<'_>, name: Option<&str>) -> Result<(), StoreError> {
    let mut clock = clock(t, name)?;
    clock.tick();
    CLOCK.set(t, &(), &clock)
}

fn known(t: &View<'_>) -> Result<BTreeSet<String>, StoreError> {
    PEERS.all().walk(t).map(|known| Ok(known?.0)).collect()
}

/// A peer said this: it is alive, and its clock is that. Of its clock only its own counter is taken.
///
/// # Errors
/// See [`SchedulerError`].
pub fn heard(
    t: &Transaction<'_>,
    name: Option<&str>,
    peer: &str,
    theirs: Option<&VectorClock>,
    now_ms: u64,
) -> Result<(), SchedulerError> {
    let mut own = clock(t, name)?;
    if own.node_id() != peer {
        see(t, peer, now_ms)?;
    }
    if let Some(theirs) = theirs {
        let known = known(t)?;
        let is_known = |node: &str| known.contains(node);
        own.merge_told(theirs, peer, &ToldRules { told: TOLD, kept: KEPT, third: ThirdNodes::Known(&is_known) })
            .map_err(|error| SchedulerError::Invalid(format!("clock_data: {error}")))?;
        CLOCK.set(t, &(), &own)?;
    }
    Ok(())
}

fn see(t: &Transaction<'_>, peer: &str, now_ms: u64) -> Result<(), SchedulerError> {
    let is_name = (1..=MAX_NODE_BYTES).contains(&peer.len()) && !peer.chars().any(char::is_control);
    if !is_name {
        return Err(SchedulerError::Invalid(format!(
            "peer_id must have 1 to {MAX_NODE_BYTES} bytes and no control character"
        )));
    }
    let number = match PEERS.get(t, peer)? {
        Some(known) => known.number,
        None => {
            forget_silent(t, now_ms)?;
            if COUNT.get(t, &())? >= MAX_PEERS {
                return Err(SchedulerError::Invalid(format!(
                    "{MAX_PEERS} peers are known; one is forgotten a day after its last word"
                )));
            }
            ORDER.of(&()).descending().first(t)?.map_or(1, |(last, _)| last.saturating_add(1))
        }
    };
    PEERS.put(t, &peer.to_owned(), &Peer { number, seen_ms: now_ms })?;
    Ok(())
}

fn forget_silent(t: &Transaction<'_>, now_ms: u64) -> Result<(), StoreError> {
    for (id, peer) in PEERS.all().collect::<Vec<_>>(t)? {
        if peer.seen_ms.saturating_add(FORGET_MS) < now_ms {
            PEERS.remove(t, &id)?;
        }
    }
    Ok(())
}

/// A peer that is known is alive: this host is connected to it.
///
/// # Errors
/// See [`StoreError`].
pub fn connected(t: &Transaction<'_>, peer: &str, now_ms: u64) -> Result<(), StoreError> {
    PEERS.change(t, &peer.to_owned(), |known| known.seen_ms = known.seen_ms.max(now_ms)).map(drop)
}

/// The peers that have failed.
///
/// # Errors
/// See [`StoreError`].
pub fn failed(t: &View<'_>, now_ms: u64) -> Result<Vec<String>, StoreError> {
    let known: Vec<(String, Peer)> = PEERS.all().collect(t)?;
    Ok(known.into_iter().filter(|(_, peer)| !peer.is_alive(now_ms)).map(|(id, _)| id).collect())
}

/// Whether a peer is known that has not failed.
///
/// # Errors
/// See [`StoreError`].
pub fn is_any_alive(t: &View<'_>, now_ms: u64) -> Result<bool, StoreError> {
    PEERS.all().walk(t).try_fold(false, |found, known| Ok(found || known?.1.is_alive(now_ms)))
}

/// How many peers are known.
///
/// # Errors
/// See [`StoreError`].
pub fn count(t: &View<'_>) -> Result<i64, StoreError> {
    COUNT.get(t, &())
}

/// A peer as placement sees it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The peer.
    pub id: String,
    /// The hash of its id.
    pub hash: Hash,
    /// Whether it has not failed.
    pub is_alive: bool,
}

/// The peers among which placement chooses: this host first, then the others in the order in which they became known.
///
/// # Errors
/// See [`StoreError`].
pub fn candidates(t: &View<'_>, own: &str, now_ms: u64) -> Result<Vec<Candidate>, StoreError> {
    let candidate = |id: String, is_alive| Candidate { hash: Hash::of(&id), id, is_alive };
    let mut all: Vec<(u64, Candidate)> = vec![(0, candidate(own.to_owned(), true))];
    for known in PEERS.all().walk(t) {
        let (id, peer) = known?;
        if id != own {
            all.push((peer.number, candidate(id, peer.is_alive(now_ms))));
        }
    }
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, candidate)| candidate).collect())
}
