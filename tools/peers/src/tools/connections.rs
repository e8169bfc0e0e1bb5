//! `peer_connect`, `peer_disconnect` and `bootstrap_network`: connections that a caller orders.
//!
//! The host dials the addresses that an operator gave it, or that it knows of a peer itself. An address of a caller must name the same peer, and is recorded; it gives no right to be dialed.

use std::time::{Duration, Instant};

use mcpp_tool::{
    caller,
    environment::{millis, now_ms, pause, rfc3339},
    mesh::{self, MeshError},
    store::{StoreError, transact},
    tool,
};
use scheduling::hash::Hash;
use serde_json::{Value, json};

use super::{PeersError, Reply, one, record, seconds, settle};
use crate::{
    address::{MAX_PEER_BYTES, PeerAddress, is_peer},
    records::{self, PEERS, Source, connected, note},
    rounds::{ROUND, ROUND_MS},
    sources,
};

/// The version of the mesh's protocol, `/mcp+p2p/1.0.0`.
pub(crate) const PROTOCOL_VERSION: &str = "1.0.0";
/// Longest attempt, in seconds.
const MAX_TIMEOUT_S: f64 = 600.0;
/// Most attempts beyond the first.
const MAX_RETRIES: i64 = 10;
/// The time between two attempts.
const BETWEEN: Duration = Duration::from_secs(1);
/// The host waits no longer for one attempt.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(30);
/// Most nodes of `bootstrap_network`.
const MAX_NODES: usize = 100;

/// What to do about an error of the mesh, for a reader.
pub(crate) fn advice(error: &MeshError, peer: &str) -> String {
    match error {
        MeshError::NotFound => format!(
            "this tenant does not deal with {peer}: join it (`mcpp join`), or let the operator name its address: \
             `mcpp grant peers 'mesh.connect = [\"/ip4/…/p2p/{peer}\"]'`"
        ),
        other => other.to_string(),
    }
}

/// Connects, as often as it may; the attempts that were made.
fn attempt(peer: &str, within: Duration, retries: u32) -> Result<u32, (MeshError, u32)> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let error = match mesh::connect(peer, within.min(LONGEST_ATTEMPT)) {
            Ok(_) => return Ok(attempts),
            Err(error) => error,
        };
        let is_worth_it = matches!(error, MeshError::Unreachable(_) | MeshError::Busy | MeshError::TooOften(_));
        if !is_worth_it || attempts > retries || caller::remaining() < BETWEEN * 2 {
            return Err((error, attempts));
        }
        pause(BETWEEN);
    }
}

/// Connects this host to a peer that the operator allows, at the addresses that the host knows.
#[tool(idempotent)]
pub fn peer_connect(
    /// The peer.
    peer_id: String,
    /// Its address, which ends in `/p2p/` and its id.
    multiaddr: String,
    /// How long an attempt may take, in seconds.
    #[arg(default = 30.0)]
    timeout: f64,
    /// Attempts beyond the first, a second apart; 0 to 10.
    #[arg(default = 3)]
    retry_count: i64,
    /// Whether the host connects the peer again when it is lost.
    #[arg(default = true)]
    persist: bool,
) -> Reply {
    settle(connect(&peer_id, &multiaddr, timeout, (retry_count, persist)))
}

fn connect(peer_id: &str, multiaddr: &str, timeout: f64, (retries, persist): (i64, bool)) -> Result<Value, PeersError> {
    let (begun, now) = (Instant::now(), now_ms());
    let within = seconds("timeout", timeout, MAX_TIMEOUT_S)?;
    let retries = u32::try_from(retries)
        .ok()
        .filter(|retries| i64::from(*retries) <= MAX_RETRIES)
        .ok_or_else(|| PeersError::Invalid(format!("retry_count must be 0 to {MAX_RETRIES}")))?;
    let address = PeerAddress::parse(multiaddr).map_err(|error| PeersError::Invalid(format!("multiaddr: {error}")))?;
    if address.peer() != peer_id {
        return Err(PeersError::Invalid(format!("multiaddr is an address of {}, not of peer_id", address.peer())));
    }
    let change = |connecting_ms: u64, is_kept: Option<bool>| {
        transact(|t| {
            ROUND.by(t, now.saturating_add(ROUND_MS), now)?;
            note(t, peer_id, Source::Caller, now, |record| {
                record.connecting_until_ms = connecting_ms;
                record.is_kept = is_kept.unwrap_or(record.is_kept);
                record.address = Some(address.text().to_owned());
            })
        })
    };
    let longest = millis(within).saturating_mul(u64::from(retries) + 1);
    change(now.saturating_add(longest), None)?;
    let attempts = match attempt(peer_id, within, retries) {
        Ok(attempts) => attempts,
        Err((error, attempts)) => {
            change(0, None)?;
            let reason = advice(&error, peer_id);
            return match error {
                MeshError::Off => Err(PeersError::Mesh(error)),
                _ => Err(PeersError::Invalid(format!("not connected after {attempts} attempts: {reason}"))),
            };
        }
    };
    change(0, Some(persist))?;
    transact(|t| connected(t, peer_id, Source::Caller, now_ms()))?;
    let capabilities = one(peer_id)?.map(|seen| seen.capabilities().to_vec()).unwrap_or_default();
    let id: String = Hash::of(&format!("{peer_id}{multiaddr}")).to_string().chars().take(16).collect();
    Ok(json!({
        "peer_id": peer_id, "multiaddr": multiaddr, "connection_id": id,
        "connection_time": begun.elapsed().as_secs_f64(), "protocol_version": PROTOCOL_VERSION,
        "peer_capabilities": capabilities, "persist": persist, "attempts": attempts,
    }))
}

/// Ends this host's connections to a peer, and forgets to connect it again. Peers that others here use stay connected.
#[tool(destructive, idempotent)]
pub fn peer_disconnect(
    /// The peer.
    peer_id: String,
    /// Why; for the answer.
    #[arg(default)]
    reason: String,
    /// Whether calls that run may end first. The host ends them in either case.
    #[arg(default = true)]
    graceful: bool,
) -> Reply {
    settle(disconnect(&peer_id, &reason, graceful))
}

fn disconnect(peer_id: &str, reason: &str, graceful: bool) -> Result<Value, PeersError> {
    if !is_peer(peer_id) {
        let rule = format!(
            "peer_id must be the id of a peer, such as 12D3KooW…: 40 to {MAX_PEER_BYTES} letters and digits of base58"
        );
        return Err(PeersError::Invalid(rule));
    }
    let was_connected = one(peer_id)?.is_some_and(|seen| seen.since_ms().is_some());
    mesh::disconnect(peer_id).map_err(|error| match error {
        MeshError::Off => PeersError::Mesh(error),
        error => PeersError::Invalid(advice(&error, peer_id)),
    })?;
    let forget = |record: &mut crate::records::Record| (record.is_kept, record.connecting_until_ms) = (false, 0);
    let now = now_ms();
    let cleaned = transact(|t| {
        let cleaned = PEERS.change(t, &peer_id.to_owned(), forget)?.is_some();
        if was_connected {
            connected(t, peer_id, Source::Tenant, now)?;
            ROUND.by(t, now.saturating_add(ROUND_MS), now)?;
        }
        Ok::<_, StoreError>(cleaned)
    })?;
    Ok(json!({
        "peer_id": peer_id, "was_connected": was_connected, "graceful": graceful, "reason": reason,
        "cleanup_performed": cleaned, "disconnection_time": rfc3339(now),
    }))
}

/// Connects this host to nodes of a network: the ones that are given, or those of the sources of `p2p_bootstrap_list`.
#[tool(idempotent)]
pub fn bootstrap_network(
    /// Addresses that end in `/p2p/` and a peer's id; at most 100.
    #[arg(default)]
    bootstrap_nodes: Option<Vec<String>>,
    /// How long to try, in seconds.
    #[arg(default = 60.0)]
    timeout: f64,
    /// Connections with which the network is ready.
    #[arg(default = 3)]
    min_connections: i64,
    /// Connections at which to stop.
    #[arg(default = 10)]
    max_connections: i64,
) -> Reply {
    match bootstrap(bootstrap_nodes, timeout, (min_connections, max_connections)) {
        Ok((value, true)) => settle(Ok(value)),
        Ok((mut value, false)) => {
            let error = "fewer peers than min_connections are connected";
            let more = value.as_object_mut().map(std::mem::take).unwrap_or_default();
            Err(mcpp_tool::Failure { error: error.to_owned(), more }).into()
        }
        Err(error) => settle(Err(error)),
    }
}

fn bootstrap(nodes: Option<Vec<String>>, timeout: f64, (min, max): (i64, i64)) -> Result<(Value, bool), PeersError> {
    let (begun, now) = (Instant::now(), now_ms());
    let within = seconds("timeout", timeout, MAX_TIMEOUT_S)?;
    let count = |field: &str, number: i64| {
        let legal = usize::try_from(number).ok().filter(|number| *number <= MAX_NODES);
        legal.ok_or_else(|| PeersError::Invalid(format!("{field} must be 0 to {MAX_NODES}")))
    };
    let (min, max) = (count("min_connections", min)?, count("max_connections", max)?);
    if min > max {
        return Err(PeersError::Invalid("min_connections must not be above max_connections".to_owned()));
    }
    mesh::identify().map_err(PeersError::Mesh)?;
    let nodes = nodes.map_or_else(sources::default_addresses, |nodes| nodes.into_iter().take(MAX_NODES).collect());
    let (mut connected, mut failed, mut used): (Vec<String>, Vec<Value>, Vec<&String>) = (vec![], vec![], vec![]);
    for node in &nodes {
        let left = within.saturating_sub(begun.elapsed()).min(caller::remaining().saturating_sub(BETWEEN));
        if connected.len() >= max || left.is_zero() {
            break;
        }
        used.push(node);
        let reason = match PeerAddress::parse(node) {
            Ok(address) => {
                record([(address.peer(), Some(address.text()))], Source::Caller, now)?;
                match mesh::connect(address.peer(), left.min(LONGEST_ATTEMPT)) {
                    Ok(_) => {
                        transact(|t| records::connected(t, address.peer(), Source::Caller, now_ms()))?;
                        if !connected.iter().any(|peer| peer == address.peer()) {
                            connected.push(address.peer().to_owned());
                        }
                        continue;
                    }
                    Err(error) => advice(&error, address.peer()),
                }
            }
            Err(error) => error.to_string(),
        };
        failed.push(json!({ "address": node, "error": reason }));
    }
    transact(|t| ROUND.by(t, now.saturating_add(ROUND_MS), now))?;
    let is_ready = connected.len() >= min;
    let value = json!({
        "connected_count": connected.len(), "failed_count": failed.len(), "failures": failed,
        "bootstrap_nodes_used": used, "connected_peers": connected, "network_ready": is_ready,
        "bootstrap_time": begun.elapsed().as_secs_f64(), "min_connections": min, "max_connections": max,
    });
    Ok((value, is_ready))
}
