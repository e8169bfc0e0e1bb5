//! The four `p2p_bootstrap_*` tools: the sources of peers.

use std::time::Duration;

use mcpp_tool::{caller, environment::now_ms, mesh, store::transact, tool};
use serde_json::{Value, json};

use super::{PeersError, Reply, record, settle};
use crate::{
    records::{self, Source},
    sources::{self, Contents, Found, Stale},
};

/// Longest attempt to connect one peer.
const CONNECT: Duration = Duration::from_secs(10);
/// Time that must be left of the call for another attempt.
const RESERVE: Duration = Duration::from_secs(2);
/// Most peers of an answer.
const MAX_PEERS: i64 = 100;
/// Addresses of each source that `p2p_bootstrap_list` shows.
const SHOWN: usize = 20;

/// What a source has, as the tools show it; connects its peers if that is wanted.
fn answer(source: Source, contents: Contents, max_peers: i64, connect: bool) -> Result<Value, PeersError> {
    let legal = usize::try_from(max_peers).ok().filter(|_| (1..=MAX_PEERS).contains(&max_peers));
    let most = legal.ok_or_else(|| PeersError::Invalid(format!("max_peers must be 1 to {MAX_PEERS}")))?;
    let mut found = contents.found;
    found.truncate(most);
    record(found.iter().map(|found| (found.address.peer(), Some(found.address.text()))), source, now_ms())?;
    let mut connected = 0;
    if connect {
        mesh::identify().map_err(PeersError::Mesh)?;
        for peer in &found {
            if caller::remaining() < RESERVE {
                break;
            }
            if mesh::connect(peer.address.peer(), CONNECT).is_ok() {
                transact(|t| records::connected(t, peer.address.peer(), source, now_ms()))?;
                connected += 1;
            }
        }
    }
    let row = |found: &Found| {
        let mut row = json!({ "peer_id": found.address.peer(), "multiaddr": found.address.text() });
        if let (Source::File | Source::Github, Some(row)) = (source, row.as_object_mut()) {
            row.insert("runner_name".into(), json!(found.runner));
            row.insert("last_seen".into(), json!(found.last_seen));
        }
        row
    };
    Ok(json!({
        "source": source.word(), "peers": found.iter().map(row).collect::<Vec<_>>(), "count": found.len(),
        "connected": connected, "invalid": contents.invalid, "stale_removed": contents.stale_removed,
    }))
}

fn with(mut value: Value, name: &str, more: impl Into<Value>) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.insert(name.to_owned(), more.into());
    }
    value
}

/// Reads peers from a directory of `peer_*.json`, or from a `peer_registry.json`. Files that are older than 30 minutes are removed, if the grant lets the component write.
#[tool]
pub fn p2p_bootstrap_from_file(
    /// The directory or file, as the component's grant names it.
    #[arg(default)]
    path: Option<String>,
    /// Most peers; 1 to 100.
    #[arg(default = 5)]
    max_peers: i64,
    /// Whether to connect them.
    #[arg(default)]
    connect: bool,
) -> Reply {
    let path = path.filter(|path| !path.is_empty()).unwrap_or_else(sources::directory);
    let contents = sources::of_files(&path, Stale::Remove, now_ms()).map_err(PeersError::Invalid);
    let value = contents.and_then(|contents| answer(Source::File, contents, max_peers, connect));
    settle(value.map(|value| with(value, "path", path)))
}

/// Reads peers from a setting of the component's grant, which has the name of an environment variable of the MCP++ programs.
#[tool]
pub fn p2p_bootstrap_from_env(
    /// The setting; `CACHE_BOOTSTRAP_PEERS` or else `IPFS_ACCELERATE_PY_TASK_P2P_BOOTSTRAP_PEERS` if absent.
    #[arg(default)]
    variable: Option<String>,
    /// Most peers; 1 to 100.
    #[arg(default = 5)]
    max_peers: i64,
    /// Whether to connect them.
    #[arg(default)]
    connect: bool,
) -> Reply {
    let (name, contents) = sources::of_settings(variable.as_deref().filter(|name| !name.is_empty()));
    settle(answer(Source::Env, contents, max_peers, connect).map(|value| with(value, "variable", name)))
}

/// Gives the public nodes of libp2p, if the operator turned them on.
#[tool]
pub fn p2p_bootstrap_from_public(
    /// Most peers; 1 to 100.
    #[arg(default = 5)]
    max_peers: i64,
    /// Whether to connect them.
    #[arg(default)]
    connect: bool,
) -> Reply {
    if !sources::public_is_on() {
        return settle(Err(PeersError::Invalid("public_bootstrap_disabled".to_owned())));
    }
    let value = answer(Source::Public, sources::public(), max_peers, connect);
    settle(value.map(|value| with(value, "enabled", true)))
}

/// Lists the sources of peers, and their addresses.
#[tool(read_only)]
pub fn p2p_bootstrap_list() -> Reply {
    let (_, env) = sources::of_settings(None);
    let files = sources::of_files(&sources::directory(), Stale::Keep, now_ms());
    let registry = sources::of_registry(SHOWN);
    let public = if sources::public_is_on() { Ok(sources::public()) } else { Err("public_bootstrap_disabled".into()) };
    let mut total = 0;
    let sources: Vec<Value> = [("env", Ok(env)), ("file", files), ("github", registry), ("public", public)]
        .into_iter()
        .map(|(name, contents): (&str, Result<Contents, String>)| {
            let (found, error) = match contents {
                Ok(contents) => (contents.found, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            total += found.len();
            let addresses: Vec<&str> = found.iter().take(SHOWN).map(|found| found.address.text()).collect();
            json!({
                "name": name, "enabled": error.is_none() && (name != "env" || !found.is_empty()), "count": found.len(),
                "addresses": addresses, "reason": error,
            })
        })
        .collect();
    settle(Ok(json!({ "sources": sources, "total": total })))
}
