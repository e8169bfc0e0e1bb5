//! The round: every five minutes it measures the tenant's peers, ends old records, and connects again the peers that a caller has kept.
//!
//! It begins with the first use of a tool, and ends when there is neither a peer nor a record.

use std::time::Duration;

use mcpp_tool::{
    caller,
    environment::now_ms,
    mesh::{self, Path, Peer},
    store::{Alarm, StoreError, snapshot, transact},
};

use crate::{
    announce,
    records::{Counters, Hour, KEPT, PEERS, Source, connected, measure, note, tidy},
};

/// Rings for the next round.
pub const ROUND: Alarm = Alarm::new("round");
/// The time between two rounds, in milliseconds.
pub const ROUND_MS: u64 = 5 * 60 * 1_000;
/// Peers that a round measures. Beyond these the first ones by id are measured.
const MAX_MEASURED: usize = 256;
/// Peers that one transaction writes of: each takes some eight writes.
const AT_ONCE: usize = 64;
/// Peers that a round connects again.
const MAX_AGAIN: usize = 8;
/// Longest attempt to connect one.
const CONNECT: Duration = Duration::from_secs(3);
/// With less time than this no further attempt is begun.
const RESERVE: Duration = Duration::from_secs(5);

/// One round.
///
/// # Errors
/// See [`StoreError`].
pub fn round(now_ms: u64) -> Result<(), StoreError> {
    let peers = mesh::peers().unwrap_or_default();
    let work = || {
        sample(&peers, now_ms)?;
        tidy(now_ms)?;
        if let Ok(host) = mesh::identify() {
            announce::write(&host, now_ms);
        }
        connect_again(&peers)
    };
    ROUND.ring(now_ms, work, |t| {
        let is_needed = !peers.is_empty() || !PEERS.all().is_empty(t)?;
        Ok(is_needed.then(|| now_ms.saturating_add(ROUND_MS)))
    })
}

/// Measures peers of the tenant.
///
/// # Errors
/// See [`StoreError`].
pub fn sample(peers: &[Peer], now_ms: u64) -> Result<(), StoreError> {
    for some in peers.get(..MAX_MEASURED.min(peers.len())).unwrap_or_default().chunks(AT_ONCE) {
        let looked: Vec<_> = some
            .iter()
            .map(|peer| {
                let link = peer.connection.and_then(|_| mesh::link(&peer.id).ok().flatten());
                (peer, mesh::metrics(&peer.id).unwrap_or_default(), link)
            })
            .collect();
        transact(|t| {
            for (peer, measures, link) in &looked {
                let is_connected = peer.connection.is_some();
                let round_trip = measures.round_trip.filter(|_| is_connected);
                let mut risen = Counters::default();
                note(t, &peer.id, Source::Tenant, now_ms, |record| {
                    record.noted_ms = now_ms;
                    if is_connected {
                        record.alive_ms = Some(now_ms);
                    }
                    if let Some(address) = link.as_ref().and_then(|link| link.addresses.first()) {
                        record.address = Some(address.clone());
                    }
                    if let Some(counted) = Counters::of(measures) {
                        risen = counted.since(record.counted);
                        record.counted = counted;
                    }
                })?;
                let measured = Hour {
                    samples: 1,
                    connected: u32::from(is_connected),
                    relayed: u32::from(is_connected && measures.path == Some(Path::Relayed)),
                    round_trips: u32::from(round_trip.is_some()),
                    round_trip_us: round_trip.map_or(0, micros),
                    requests: risen.requests,
                    failures: risen.failures,
                    bytes: risen.bytes,
                };
                measure(t, &peer.id, now_ms, &measured)?;
            }
            Ok::<_, StoreError>(())
        })?;
    }
    Ok(())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn connect_again(peers: &[Peer]) -> Result<(), StoreError> {
    let kept: Vec<String> = KEPT.of(&()).collect(&snapshot()?)?;
    let is_connected = |id: &String| peers.iter().any(|peer| peer.id == *id && peer.connection.is_some());
    for peer in kept.iter().filter(|id| !is_connected(id)).take(MAX_AGAIN) {
        if caller::remaining() < RESERVE {
            break;
        }
        // A peer that is not there now may be there in the next round.
        if mesh::connect(peer, CONNECT).is_ok() {
            transact(|t| connected(t, peer, Source::Tenant, now_ms()))?;
        }
    }
    Ok(())
}
