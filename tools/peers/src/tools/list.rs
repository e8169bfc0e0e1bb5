//! `list_peers`: the peers as the task-queue protocol shows them.

use std::time::{Duration, Instant};

use mcpp_tool::{
    Envelope, Failure, IsOk, caller,
    environment::now_ms,
    mesh::{self, MeshError},
    tool,
};
use serde_json::{Map, Value, json};

use super::{PeersError, all, page, record};
use crate::{address::port_of, measures::Seen, records::Source, sources::SERVICE};

/// A peer that was silent for so long does not count as alive, in milliseconds.
const ALIVE_MS: u64 = 300_000;
/// Ways to look for peers that the protocol names.
const METHODS: [&str; 3] = ["mdns", "rendezvous", "dht"];
/// The tool by which a peer tells what it can do.
const RPC: &str = "task_queue.rpc";
/// Time that must be left of the call for asking another peer.
const RESERVE: Duration = Duration::from_secs(1);

/// Lists the peers that this host's mesh knows for this tenant.
#[tool(read_only)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub fn list_peers(
    /// With what each can do.
    #[arg(default)]
    include_capabilities: bool,
    /// How long to wait for that of each, in seconds.
    #[arg(default = 5.0)]
    capabilities_timeout_s: f64,
    /// With all details of it.
    #[arg(default)]
    capabilities_detail: bool,
    /// Look for peers if none is known.
    #[arg(default = true)]
    discover: bool,
    /// How long to look, in seconds; at least 0.1.
    #[arg(default = 1.5)]
    discovery_timeout_s: f64,
    /// How to look: `mdns`, `rendezvous`, `dht`. The host itself looks by the first two all the time.
    #[arg(default)]
    discovery_methods: Option<Vec<String>>,
    /// Most peers; 1 to 1000.
    #[arg(default = 50)]
    limit: i64,
) -> Envelope<Map<String, Value>, IsOk> {
    let look = discover.then_some((discovery_timeout_s, discovery_methods));
    let capabilities = include_capabilities.then_some((capabilities_timeout_s, capabilities_detail));
    let listed = list(look, capabilities, limit);
    let failure = |error| match error {
        PeersError::Mesh(MeshError::Off | MeshError::NotFound) => Failure::new("p2p_service_not_running"),
        error => Failure::new(error),
    };
    listed.map_err(failure).into()
}

type Look = (f64, Option<Vec<String>>);

fn list(look: Option<Look>, capabilities: Option<(f64, bool)>, limit: i64) -> Result<Map<String, Value>, PeersError> {
    let now = now_ms();
    let (most, _) = page(limit, 0)?;
    let host = mesh::identify().map_err(PeersError::Mesh)?;
    let mut seen = all(now)?;
    seen.retain(|seen| seen.id != host.id);
    seen.sort_by_key(|seen| std::cmp::Reverse(seen.seen_ms(now)));
    let mut rows: Vec<Value> = seen.iter().take(most).map(|seen| row(seen, now)).collect();
    if let (true, Some(look)) = (rows.is_empty(), look) {
        rows = find(look, &host.id, most, now)?;
    }
    if let Some((timeout, detail)) = capabilities {
        let within = Duration::try_from_secs_f64(timeout.clamp(0.1, 60.0)).unwrap_or(RESERVE);
        rows.iter_mut().for_each(|row| add_capabilities(row, within, detail));
    }
    let listen_port = host.addresses.iter().find_map(|address| port_of(address));
    let fields = json!({
        "self_peer_id": host.id, "listen_port": listen_port,
        // A component is not told when its host began.
        "started_at": null,
        "count": rows.len(), "peers": rows,
    });
    Ok(fields.as_object().cloned().unwrap_or_default())
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

fn row(seen: &Seen, now: u64) -> Value {
    let last = seen.seen_ms(now);
    let age = last.map(|last| now.saturating_sub(last));
    json!({
        "peer_id": seen.id, "last_seen": last.map(seconds), "age_s": age.map(seconds),
        "alive": age.is_some_and(|age| age < ALIVE_MS),
        "multiaddr": seen.address(seen.link().as_ref()), "transport_peer_id": seen.id,
        "connected": seen.since_ms().is_some(),
    })
}

/// Looks for peers, as none is known.
fn find((timeout, methods): Look, own: &str, most: usize, now: u64) -> Result<Vec<Value>, PeersError> {
    let methods = methods.unwrap_or_else(|| METHODS.map(str::to_owned).to_vec());
    if let Some(other) = methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
        let shown: String = other.chars().take(40).collect();
        return Err(PeersError::Invalid(format!("{shown:?} is none of mdns, rendezvous, dht")));
    }
    if !methods.iter().any(|method| method == "dht") {
        return Ok(Vec::new());
    }
    let patience = Duration::try_from_secs_f64(timeout.clamp(0.1, 30.0)).unwrap_or(RESERVE);
    let mut found = mesh::discover(SERVICE, patience).unwrap_or_default();
    found.retain(|peer| peer != own);
    found.truncate(most);
    record(found.iter().map(|peer| (peer.as_str(), None)), Source::Dht, now)?;
    let row = |peer: &String| json!({ "peer_id": peer, "multiaddr": null, "discovered": true, "method": "dht" });
    Ok(found.iter().map(row).collect())
}

fn add_capabilities(row: &mut Value, within: Duration, detail: bool) {
    let Some(peer) = row.get("peer_id").and_then(Value::as_str).map(str::to_owned) else { return };
    let begun = Instant::now();
    let asked = match caller::remaining().checked_sub(RESERVE) {
        None => Err("out_of_time".to_owned()),
        Some(left) => {
            let request = json!({ "op": "status", "detail": detail });
            let answer = mesh::call_within(&peer, RPC, &request, within.min(left));
            answer.map_err(|error| error.to_string()).and_then(|answer| match answer.structured {
                Some(status @ Value::Object(_)) => Ok(status),
                _ => Err("invalid_response".to_owned()),
            })
        }
    };
    let Some(fields) = row.as_object_mut() else { return };
    match asked {
        Ok(status) => fields.insert("capabilities".into(), status),
        Err(error) => fields.insert("capabilities_error".into(), error.into()),
    };
    fields.insert("capabilities_time_s".into(), begun.elapsed().as_secs_f64().into());
}
