//! The tools: a failure is `{success: false, error}`.
#![allow(missing_docs, reason = "a tool's doc comment is its description, and its parameters have their own")]

use mcpp_tool::{
    Envelope, Failure, config,
    environment::{now_ms, rfc3339},
    mesh,
    store::{Alarm, Map as StoreMap, StoreError, snapshot, transact},
    tool,
};
use serde_json::{Map, Value, json};

use crate::{
    github::GithubError,
    public::{self, ip_of, is_public},
    record::PeerRecord,
    registry::PeerRegistry,
};

/// `{success: true, …}` or `{success: false, error, …}`.
pub type Reply = Envelope<Map<String, Value>>;

/// Rings for the next heartbeat.
const HEARTBEAT: Alarm = Alarm::new("heartbeat");
/// Whether a caller wants this host in the registry.
const IS_REGISTERED: StoreMap<(), bool> = StoreMap::new("is-registered");
/// The time between two heartbeats, in milliseconds.
const HEARTBEAT_MS: u64 = 5 * 60_000;
/// Most records of an answer.
const MAX_PEERS: i64 = 100;

fn settle(result: Result<Value, GithubError>) -> Reply {
    let failure = |error: GithubError| match &error {
        GithubError::RateLimited(seconds) => {
            Failure::new("rate_limited").with("retry_after_s", *seconds).with("detail", error.to_string())
        }
        GithubError::NotConfigured(_) => Failure::new("registry_not_configured").with("detail", error.to_string()),
        _ => Failure::new(error),
    };
    Reply::of_json(result.map_err(failure))
}

/// The record of this host as it is now.
fn own(registry: &PeerRegistry) -> Result<PeerRecord, GithubError> {
    let host = mesh::identify().map_err(|error| GithubError::Away(error.to_string()))?;
    let public = public::find()?;
    let port_of = |address: &String| {
        let mut parts = address.split('/').skip_while(|part| !matches!(*part, "tcp" | "udp"));
        parts.nth(1)?.parse::<u16>().ok()
    };
    let reached = host.addresses.iter().find(|address| ip_of(address).is_some_and(|ip| is_public(&ip)));
    let listen_port = reached.and_then(port_of).or_else(|| host.addresses.iter().find_map(port_of)).unwrap_or_default();
    // An address through a relay names the relay, and ends in this host all the same.
    let with_peer = |address: &str| match address.rsplit('/').nth(1) {
        Some("p2p" | "ipfs") => address.to_owned(),
        _ => format!("{}/p2p/{}", address.trim_end_matches('/'), host.id),
    };
    let multiaddr = match (config::get("multiaddr"), reached, &public) {
        (Some(address), ..) => with_peer(&address),
        (None, Some(address), _) => with_peer(address),
        (None, None, Some(public)) => {
            let version = if public.ip.is_ipv4() { "ip4" } else { "ip6" };
            with_peer(&format!("/{version}/{}/tcp/{listen_port}", public.ip))
        }
        (None, None, None) => host.addresses.first().map(|address| with_peer(address)).unwrap_or_default(),
    };
    Ok(PeerRecord {
        last_seen: rfc3339(now_ms()),
        listen_port,
        metadata: Map::from_iter([("program".to_owned(), "mcpp".into())]),
        multiaddr,
        peer_id: host.id,
        public_ip: public.map(|public| public.ip.to_string()),
        runner_name: registry.runner().to_owned(),
    })
}

fn register() -> Result<Value, GithubError> {
    let registry = PeerRegistry::of_settings()?;
    let record = own(&registry)?;
    let comment_id = registry.register(&record)?;
    Ok(json!({ "comment_id": comment_id, "record": record }))
}

/// Writes this host's address into the registry, or writes it anew. From then on the host does so every five minutes.
#[tool(idempotent, open_world)]
pub fn peer_registry_register() -> Reply {
    let registered = register();
    let now = now_ms();
    let next = transact(|t| {
        IS_REGISTERED.set(t, &(), &true)?;
        HEARTBEAT.by(t, now.saturating_add(HEARTBEAT_MS), now)
    });
    settle(registered.and_then(|value| next.map(|()| value).map_err(GithubError::from)))
}

/// Takes this host's record out of the registry. The host does not write it anew.
#[tool(destructive, idempotent, open_world)]
pub fn peer_registry_unregister() -> Reply {
    let end = || {
        transact(|t| IS_REGISTERED.remove(t, &()))?;
        Ok(json!({ "removed": PeerRegistry::of_settings()?.unregister()? }))
    };
    settle(end())
}

/// One heartbeat. GitHub's failures are no failures of the timer: the next one is due in five minutes in any case.
pub(crate) fn beat(now_ms: u64) -> Result<(), StoreError> {
    let wanted = IS_REGISTERED.get(&snapshot()?, &())?.unwrap_or_default();
    let work = || {
        if !wanted {
            return Ok(());
        }
        if let Err(error) = register() {
            mcpp_tool::log::warning(format!("this host is not registered anew: {error}"));
        }
        Ok(())
    };
    HEARTBEAT.ring(now_ms, work, |_| Ok(wanted.then(|| now_ms.saturating_add(HEARTBEAT_MS))))
}

/// Lists the peers in the registry that have been there in the last 30 minutes, the newest first.
#[tool(read_only, open_world)]
pub fn peer_registry_list(
    /// Most peers; 1 to 100.
    #[arg(default = 10)]
    max_peers: i64,
) -> Reply {
    let list = || {
        let legal = usize::try_from(max_peers).ok().filter(|_| (1..=MAX_PEERS).contains(&max_peers));
        let most = legal.ok_or_else(|| GithubError::Invalid(format!("max_peers must be 1 to {MAX_PEERS}")))?;
        let peers = PeerRegistry::of_settings()?.peers(most)?;
        Ok(json!({ "count": peers.len(), "peers": peers }))
    };
    settle(list())
}

/// Deletes the records of hosts that have been silent for more than 30 minutes; at most 20.
#[tool(destructive, idempotent, open_world)]
pub fn peer_registry_cleanup() -> Reply {
    let clean_up = || Ok(json!({ "removed": PeerRegistry::of_settings()?.clean_up()? }));
    settle(clean_up())
}

/// Tells this host's public address: as its peers see it, or as the services of the settings do. Null if it is not known.
#[tool(read_only, open_world)]
pub fn peer_public_address() -> Reply {
    let found = public::find().map_err(GithubError::from);
    settle(found.map(|found| {
        let (ip, by) = found.map(|found| (found.ip.to_string(), found.found_by)).unzip();
        json!({ "public_ip": ip, "found_by": by })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_range_is_refused_by_name() {
        for max_peers in [0, -3, 101] {
            let answer = (MCPP_TOOL_PEER_REGISTRY_LIST.call)(json!({ "max_peers": max_peers })).expect("an answer");
            let answer = answer.structured.expect("structured");
            assert_eq!((&answer["success"], &answer["error"]), (&json!(false), &json!("max_peers must be 1 to 100")));
        }
        let answer = (MCPP_TOOL_PEER_REGISTRY_LIST.call)(json!({ "max_peers": 100 })).expect("an answer");
        assert_eq!(answer.structured.expect("structured")["error"], "registry_not_configured");
    }
}
