//! The tools. None raises: a failure is `{success: false, error}`, or `{ok: false, error}` of `list_peers`.
#![allow(missing_docs, reason = "a tool's doc comment is its description, and its parameters have their own")]

pub mod bootstrap;
pub mod connections;
pub mod list;
pub mod peers;

use std::{collections::BTreeMap, time::Duration};

use mcpp_tool::{
    Envelope, Failure,
    mesh::{self, MeshError, Peer},
    store::{StoreError, snapshot, transact},
};
use serde_json::{Map, Value};

use crate::{
    measures::{Reputation, Seen},
    records::{Counters, HOUR_MS, KEPT_HOURS, PEERS, Source, hours, note, saw},
    rounds::{ROUND, ROUND_MS},
};

/// `{success: true, …}` or `{success: false, error, …}`, with properties that the contract names.
pub type Reply = Envelope<Map<String, Value>>;

/// Most rows of a list.
pub(crate) const MAX_LIMIT: i64 = 1_000;

/// Why a tool did nothing: a word of the mesh's, or a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeersError {
    #[error("{0}")]
    Invalid(String),
    #[error("MCP++ module not available: {0}")]
    Mesh(MeshError),
    #[error("the store does not answer: {0}")]
    Store(#[from] StoreError),
}

pub(crate) fn settle(result: Result<Value, PeersError>) -> Reply {
    let failure = |error: PeersError| match &error {
        PeersError::Mesh(_) => Failure::new(error).with("degraded_mode", true),
        _ => Failure::new(error),
    };
    Reply::of_json(result.map_err(failure))
}

/// All peers: those with which the tenant deals, and those that are recorded.
pub(crate) fn all(now_ms: u64) -> Result<Vec<Seen>, PeersError> {
    let dealt = mesh::peers().map_err(PeersError::Mesh)?;
    transact(|t| {
        ROUND.by(t, now_ms.saturating_add(ROUND_MS), now_ms)?;
        saw(t, dealt.iter().filter(|peer| peer.connection.is_some()).map(|peer| &peer.id), now_ms)
    })?;
    let mut dealt: BTreeMap<String, Peer> = dealt.into_iter().map(|peer| (peer.id.clone(), peer)).collect();
    let recorded = PEERS.all().collect::<Vec<_>>(&snapshot()?)?;
    let mut all: Vec<Seen> = recorded
        .into_iter()
        .map(|(id, record)| {
            let peer = dealt.remove(&id);
            Seen::new(id, peer, Some(record))
        })
        .collect();
    all.extend(dealt.into_values().map(|peer| Seen::new(peer.id.clone(), Some(peer), None)));
    Ok(all)
}

/// One peer; none if nothing is known of it.
pub(crate) fn one(id: &str) -> Result<Option<Seen>, PeersError> {
    let dealt = mesh::peers().map_err(PeersError::Mesh)?.into_iter().find(|peer| peer.id == id);
    let record = PEERS.get(&snapshot()?, id)?;
    let is_known = dealt.is_some() || record.is_some();
    Ok(is_known.then(|| Seen::new(id.to_owned(), dealt, record).measured()))
}

/// A peer's reputation: its hours of 30 days, and the calls since it was last measured.
pub(crate) fn reputation(seen: &Seen, now_ms: u64) -> Result<Reputation, PeersError> {
    let first = (now_ms / HOUR_MS).saturating_sub(KEPT_HOURS);
    let measured = hours(&snapshot()?, &seen.id, first)?;
    let before = seen.record.as_ref().map(|record| record.counted).unwrap_or_default();
    let risen = Counters::of(&seen.measures).map(|counted| counted.since(before)).unwrap_or_default();
    Ok(Reputation::of(measured.iter().map(|(_, hour)| hour)).with(risen))
}

/// Records what a source told of peers.
pub(crate) fn record<'p>(
    found: impl IntoIterator<Item = (&'p str, Option<&'p str>)> + Clone,
    source: Source,
    now_ms: u64,
) -> Result<(), PeersError> {
    transact(|t| {
        ROUND.by(t, now_ms.saturating_add(ROUND_MS), now_ms)?;
        for (peer, address) in found.clone() {
            note(t, peer, source, now_ms, |record| {
                record.noted_ms = now_ms;
                if let Some(address) = address {
                    record.address = Some(address.to_owned());
                }
            })?;
        }
        Ok::<_, StoreError>(())
    })?;
    Ok(())
}

/// A time in seconds that a caller gave, as one.
pub(crate) fn seconds(field: &str, seconds: f64, most: f64) -> Result<Duration, PeersError> {
    if seconds.is_finite() && (0.0..=most).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(PeersError::Invalid(format!("{field} must be 0 to {most} seconds")))
}

/// The page of a list that a caller wants.
pub(crate) fn page(limit: i64, offset: i64) -> Result<(usize, usize), PeersError> {
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(PeersError::Invalid(format!("Limit must be between 1 and {MAX_LIMIT}")));
    }
    let offset = usize::try_from(offset).map_err(|_| PeersError::Invalid("Offset must be non-negative".to_owned()))?;
    Ok((usize::try_from(limit).unwrap_or(usize::MAX), offset))
}

#[cfg(test)]
mod tests;
