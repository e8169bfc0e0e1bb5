//! `peer_discover`, `peer_list` and `peer_metrics`: what is known of peers.

use std::{cmp::Ordering, time::Instant};

use mcpp_tool::{
    environment::{now_ms, rfc3339},
    mesh,
    store::snapshot,
    tool,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{PeersError, Reply, all, one, page, record, reputation, seconds, settle};
use crate::{
    measures::{Seen, history},
    records::{HOUR_MS, KEPT_HOURS, Source, hours},
    sources::SERVICE,
};

/// Longest wait of `peer_discover`, in seconds.
const MAX_DISCOVER_S: f64 = 30.0;

/// A status of a connection.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatusFilter {
    /// It is open.
    Connected,
    /// A call makes it.
    Connecting,
    /// There is none.
    Disconnected,
}

impl StatusFilter {
    const fn word(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Connecting => "connecting",
            Self::Disconnected => "disconnected",
        }
    }
}

/// An order of peers. A peer without the value comes last.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SortBy {
    /// The last sign of life, the newest first.
    LastSeen,
    /// The round trip, the shortest first.
    Latency,
    /// The throughput, the greatest first. The host measures none, so the order is that of the ids.
    Bandwidth,
    /// The id.
    PeerId,
}

impl SortBy {
    const fn word(self) -> &'static str {
        match self {
            Self::LastSeen => "last_seen",
            Self::Latency => "latency",
            Self::Bandwidth => "bandwidth",
            Self::PeerId => "peer_id",
        }
    }

    fn compare(self, a: &Seen, b: &Seen, now_ms: u64) -> Ordering {
        let first = match self {
            Self::LastSeen => b.seen_ms(now_ms).cmp(&a.seen_ms(now_ms)),
            Self::Latency => {
                let latency = |seen: &Seen| seen.measures.round_trip.map_or((1, None), |trip| (0, Some(trip)));
                latency(a).cmp(&latency(b))
            }
            Self::Bandwidth | Self::PeerId => Ordering::Equal,
        };
        first.then_with(|| a.id.cmp(&b.id))
    }
}

fn time(ms: Option<u64>) -> Option<String> {
    ms.map(rfc3339)
}

/// Finds peers: those of this tenant, and those that say in the mesh's hash table that they serve the task queue.
#[tool(read_only)]
pub fn peer_discover(
    /// Only peers that have all of these tools.
    #[arg(default)]
    capability_filter: Vec<String>,
    /// Most peers; 1 to 1000.
    #[arg(default = 10)]
    max_peers: i64,
    /// How long to look, in seconds; at most 30.
    #[arg(default = 30.0)]
    timeout: f64,
    /// With what was measured of each.
    #[arg(default)]
    include_metrics: bool,
) -> Reply {
    settle(discover(&capability_filter, max_peers, timeout, include_metrics))
}

fn discover(filter: &[String], max_peers: i64, timeout: f64, metrics: bool) -> Result<Value, PeersError> {
    let (begun, now) = (Instant::now(), now_ms());
    let (most, _) = page(max_peers, 0)?;
    let patience = seconds("timeout", timeout, 3_600.0)?.min(std::time::Duration::from_secs_f64(MAX_DISCOVER_S));
    let mut found: Vec<Seen> = all(now)?.into_iter().filter(|seen| seen.can(filter)).collect();
    found.sort_by(|a, b| SortBy::LastSeen.compare(a, b, now));
    // Who is only found there has no capability that could be known.
    if found.len() < most && filter.is_empty() {
        let known: Vec<String> = found.iter().map(|seen| seen.id.clone()).collect();
        let new: Vec<String> = mesh::discover(SERVICE, patience).unwrap_or_default();
        let new: Vec<&String> = new.iter().filter(|id| !known.contains(id)).collect();
        record(new.iter().map(|id| (id.as_str(), None)), Source::Dht, now)?;
        for id in new {
            found.extend(one(id)?);
        }
    }
    found.truncate(most);
    let rows = found.into_iter().map(|seen| if metrics { seen.measured() } else { seen }).map(|seen| {
        let mut row = json!({
            "peer_id": seen.id,
            "multiaddr": seen.address(seen.link().as_ref()),
            "capabilities": seen.capabilities(),
            "last_seen": time(seen.seen_ms(now)),
        });
        if let (true, Some(fields)) = (metrics, row.as_object_mut()) {
            fields.insert("metrics".into(), seen.brief(now, &reputation(&seen, now)?));
        }
        Ok(row)
    });
    let rows = rows.collect::<Result<Vec<_>, PeersError>>()?;
    Ok(json!({
        "discovered_count": rows.len(), "peers": rows, "search_time": begun.elapsed().as_secs_f64(),
        "capability_filter": filter, "max_peers": max_peers,
    }))
}

/// Lists peers: those with which this tenant deals, and those that were found or named in the last 30 minutes.
#[tool(read_only)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub fn peer_list(
    /// Only peers with this status.
    #[arg(default)]
    status_filter: Option<StatusFilter>,
    /// Only peers that have all of these tools.
    #[arg(default)]
    capability_filter: Option<Vec<String>>,
    /// The order.
    #[arg(default = SortBy::LastSeen)]
    sort_by: SortBy,
    /// Most peers; 1 to 1000.
    #[arg(default = 100)]
    limit: i64,
    /// Peers to pass over.
    #[arg(default)]
    offset: i64,
) -> Reply {
    settle(list(status_filter, capability_filter, sort_by, (limit, offset)))
}

fn list(
    status: Option<StatusFilter>,
    capabilities: Option<Vec<String>>,
    sort_by: SortBy,
    (limit, offset): (i64, i64),
) -> Result<Value, PeersError> {
    let (most, passed) = page(limit, offset)?;
    let now = now_ms();
    let wanted = |seen: &Seen| {
        status.is_none_or(|status| status.word() == seen.status(now))
            && capabilities.as_ref().is_none_or(|all| seen.can(all))
    };
    let mut found: Vec<Seen> = all(now)?.into_iter().filter(wanted).collect();
    if matches!(sort_by, SortBy::Latency) {
        found = found.into_iter().map(Seen::measured).collect();
    }
    found.sort_by(|a, b| sort_by.compare(a, b, now));
    let total = found.len();
    let rows = found.into_iter().skip(passed).take(most).map(Seen::measured).map(|seen| {
        let link = seen.link();
        Ok(json!({
            "peer_id": seen.id,
            "multiaddr": seen.address(link.as_ref()),
            "status": seen.status(now),
            "capabilities": seen.capabilities(),
            "connected_since": time(seen.since_ms()),
            "last_seen": time(seen.seen_ms(now)),
            "source": seen.record.as_ref().map_or(Source::Tenant, |record| record.source).word(),
            "metrics": seen.brief(now, &reputation(&seen, now)?),
        }))
    });
    let rows = rows.collect::<Result<Vec<_>, PeersError>>()?;
    Ok(json!({
        "total_count": total, "returned_count": rows.len(), "has_more": passed.saturating_add(rows.len()) < total,
        "peers": rows, "limit": limit, "offset": offset,
        "filters": { "status": status, "capabilities": capabilities, "sort_by": sort_by.word() },
    }))
}

/// Shows what was measured of a peer. A value that was not measured is null.
#[tool(read_only)]
pub fn peer_metrics(
    /// The peer.
    peer_id: String,
    /// With the hours before, the oldest first.
    #[arg(default)]
    include_history: bool,
    /// Hours of that; 1 to 720.
    #[arg(default = 24)]
    history_hours: i64,
) -> Reply {
    settle(metrics(&peer_id, history_hours, include_history))
}

fn metrics(peer_id: &str, history_hours: i64, with_history: bool) -> Result<Value, PeersError> {
    let now = now_ms();
    let legal = u64::try_from(history_hours).ok().filter(|hours| (1..=KEPT_HOURS).contains(hours));
    let back = legal.ok_or_else(|| PeersError::Invalid(format!("history_hours must be 1 to {KEPT_HOURS}")))?;
    let unknown = || PeersError::Invalid(format!("Peer {peer_id} not found"));
    if peer_id.len() > crate::address::MAX_PEER_BYTES {
        return Err(unknown());
    }
    let seen = one(peer_id)?.ok_or_else(unknown)?;
    let (reputation, link) = (reputation(&seen, now)?, seen.link());
    let mut shown = json!({
        "peer_id": peer_id,
        "current_metrics": seen.full(now, &reputation),
        "reputation": reputation.explain(),
        "connection_info": {
            "status": seen.status(now),
            "connected_since": time(seen.since_ms()),
            "last_active": time(seen.seen_ms(now)),
            "protocol_version": seen.since_ms().map(|_| super::connections::PROTOCOL_VERSION),
            "peer_type": link.and_then(|link| link.program),
            "capabilities": seen.capabilities(),
        },
        "timestamp": rfc3339(now),
    });
    if let (true, Some(fields)) = (with_history, shown.as_object_mut()) {
        let first = (now / HOUR_MS).saturating_sub(back.saturating_sub(1));
        let rows = hours(&snapshot()?, peer_id, first)?;
        let rows: Vec<Value> = rows.iter().map(|(hour, measured)| history(*hour, measured)).collect();
        fields.insert("history".into(), rows.into());
        fields.insert("history_hours".into(), back.into());
    }
    Ok(shown)
}
