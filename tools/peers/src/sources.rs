//! Where addresses of peers come from: settings, files, the registry, and the public nodes.
//!
//! A component has no environment. Its settings are the `config` of its grant, under the names of the environment variables of the MCP++ programs. Files need a directory in the grant.

use std::{collections::BTreeSet, fs, io::Read as _, path::Path};

use mcpp_tool::{
    config,
    environment::{parse_rfc3339, rfc3339},
    mesh,
};
use serde_json::{Value, json};

use crate::{
    address::{PeerAddress, with_peer},
    records::TTL_MS,
};

/// The service under which hosts of the task queue find each other.
pub const SERVICE: &str = "ipfs-accelerate-task-queue";
/// Settings with addresses, in the order in which they are looked at.
pub const VARIABLES: [&str; 3] = [
    "CACHE_BOOTSTRAP_PEERS",
    "IPFS_ACCELERATE_PY_TASK_P2P_BOOTSTRAP_PEERS",
    "IPFS_DATASETS_PY_TASK_P2P_BOOTSTRAP_PEERS",
];
/// The setting with the directory of peer files.
const DIRECTORY: &str = "IPFS_ACCELERATE_P2P_CACHE_DIR";
/// The directory without that setting: `at` of the grant's `files`.
const DEFAULT_DIRECTORY: &str = "/peers";
/// The setting that turns the public nodes on.
const PUBLIC: &str = "IPFS_ACCELERATE_ENABLE_PUBLIC_BOOTSTRAP";
const PUBLIC_HOST: &str = "/dnsaddr/bootstrap.libp2p.io/p2p/";
const PUBLIC_NODES: [&str; 4] = [
    "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
    "QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa",
    "QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb",
    "QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt",
];
/// Entries of a setting or a directory that are read.
pub const MAX_ENTRIES: usize = 1_000;
/// Largest file of one peer, and of many, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;
const MAX_REGISTRY_BYTES: u64 = 1 << 20;

/// A peer that a source names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub address: PeerAddress,
    /// The name of the host that wrote it, if a file or the registry says so.
    pub runner: Option<String>,
    /// When it was last seen, as RFC 3339, if a file or the registry says so.
    pub last_seen: Option<String>,
}

/// What happens to files of peers that are too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// They are removed.
    Remove,
    /// They stay.
    Keep,
}

/// The contents of a source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// This host, which no source names to itself; none without a mesh.
    own: Option<String>,
    /// Its peers, each address once.
    pub found: Vec<Found>,
    /// Entries that are no addresses: `{value, error}`.
    pub invalid: Vec<Value>,
    /// Files that were removed, as they were too old.
    pub stale_removed: usize,
}

impl Contents {
    /// Nothing yet, for this host.
    fn new() -> Self {
        Self { own: mesh::identify().ok().map(|host| host.id), ..Self::default() }
    }

    /// Adds an address, unless it is one of this host: readers pass over their own.
    fn add(&mut self, text: &str, runner: Option<&str>, last_seen: Option<u64>) {
        match PeerAddress::parse(text) {
            Ok(address) if self.own.as_deref() == Some(address.peer()) => {}
            Ok(address) if self.found.iter().any(|known| known.address == address) => {}
            Ok(address) => {
                self.found.push(Found {
                    address,
                    runner: runner.map(str::to_owned),
                    last_seen: last_seen.map(rfc3339),
                });
            }
            Err(error) => self.add_invalid(text, &error.to_string()),
        }
    }

    fn add_invalid(&mut self, value: &str, error: &str) {
        let value: String = value.chars().take(200).collect();
        self.invalid.push(json!({ "value": value, "error": error }));
    }
}

/// The setting of this name, or the first of [`VARIABLES`] that is set; and its addresses. `0` turns it off.
pub fn of_settings(variable: Option<&str>) -> (String, Contents) {
    let names: &[&str] = variable.as_ref().map_or(&VARIABLES, std::slice::from_ref);
    let set = names.iter().find_map(|name| Some((*name, config::get(name)?)));
    let (name, text) = set.unwrap_or((names.first().copied().unwrap_or_default(), String::new()));
    let mut contents = Contents::new();
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    if text.trim() != "0" {
        entries.take(MAX_ENTRIES).for_each(|entry| contents.add(entry, None, None));
    }
    (name.to_owned(), contents)
}

/// Whether the operator turned the public nodes on.
pub fn public_is_on() -> bool {
    let on = |value: String| matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on");
    config::get(PUBLIC).is_some_and(on)
}

/// The public nodes.
pub fn public() -> Contents {
    let mut contents = Contents::new();
    PUBLIC_NODES.iter().for_each(|node| contents.add(&format!("{PUBLIC_HOST}{node}"), None, None));
    contents
}

/// Where peer files are.
pub fn directory() -> String {
    config::get(DIRECTORY).filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_DIRECTORY.to_owned())
}

/// The peers of a directory of `peer_*.json`, announce files and `peer_registry.json`, or of one such file.
///
/// # Errors
/// Why it cannot be read.
pub fn of_files(path: &str, stale: Stale, now_ms: u64) -> Result<Contents, String> {
    let mut contents = Contents::new();
    let place = Path::new(path);
    let shown = |error: std::io::Error| format!("{path} cannot be read: {error}; the grant's `files` must have it");
    if !fs::metadata(place).map_err(shown)?.is_dir() {
        read_file(place, stale, now_ms, &mut contents);
        return Ok(contents);
    }
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(place).map_err(shown)?.flatten().take(MAX_ENTRIES) {
        if entry.file_name().to_str().is_some_and(is_ours) {
            files.insert(entry.path());
        }
    }
    files.iter().for_each(|file| read_file(file, stale, now_ms, &mut contents));
    Ok(contents)
}

fn is_ours(name: &str) -> bool {
    let is_json = name.ends_with(".json");
    is_json && (name.starts_with("peer_") || name.starts_with("task_p2p_announce"))
}

fn read_file(file: &Path, stale: Stale, now_ms: u64, contents: &mut Contents) {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let is_registry = name == "peer_registry.json";
    let most = if is_registry { MAX_REGISTRY_BYTES } else { MAX_FILE_BYTES };
    let mut text = String::new();
    let read = fs::File::open(file).and_then(|file| file.take(most + 1).read_to_string(&mut text));
    match read {
        Ok(bytes) if bytes as u64 > most => {
            return contents.add_invalid(&name, &format!("it has more than {most} bytes"));
        }
        Ok(_) => {}
        Err(error) => return contents.add_invalid(&name, &error.to_string()),
    }
    let value: Value = match serde_json::from_str(&text) {
        Ok(value) => value,
        Err(error) => return contents.add_invalid(&name, &error.to_string()),
    };
    if is_registry {
        let peers = value.get("peers").and_then(Value::as_object).into_iter().flatten();
        peers.take(MAX_ENTRIES).for_each(|(_, record)| {
            add_record(record, now_ms, contents);
        });
        return;
    }
    let age = add_record(&value, now_ms, contents);
    if age == Age::Old && stale == Stale::Remove && fs::remove_file(file).is_ok() {
        contents.stale_removed += 1;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Fresh,
    Old,
}

/// Adds a record, unless it is too old or this host's own.
fn add_record(record: &Value, now_ms: u64, contents: &mut Contents) -> Age {
    let text = |key: &str| record.get(key).and_then(Value::as_str);
    let last_seen = record.get("last_seen").and_then(time_of);
    let ttl_ms = record.get("ttl_seconds").and_then(Value::as_u64).map_or(TTL_MS, |ttl| ttl.saturating_mul(1_000));
    if last_seen.is_some_and(|seen| seen.saturating_add(ttl_ms) <= now_ms) {
        return Age::Old;
    }
    let runner = text("runner_name");
    let has_own_name = runner.is_some() && runner == config::get("RUNNER_NAME").as_deref();
    let is_own = has_own_name || (contents.own.is_some() && text("peer_id") == contents.own.as_deref());
    if !is_own {
        match (text("multiaddr"), text("peer_id")) {
            // An address may leave the peer out, which the record names.
            (Some(address), Some(peer)) => contents.add(&with_peer(address, peer), runner, last_seen),
            (Some(address), None) => contents.add(address, runner, last_seen),
            (None, _) => contents.add_invalid(runner.unwrap_or("a record"), "it has no multiaddr"),
        }
    }
    Age::Fresh
}

/// The milliseconds of a time that a record has: RFC 3339, the same without an offset (then UTC), or unix seconds.
pub fn time_of(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => parse_rfc3339(text).or_else(|| parse_rfc3339(&format!("{text}Z"))),
        Value::Number(seconds) => {
            seconds.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| (seconds * 1_000.0) as u64)
        }
        _ => None,
    }
}

/// The addresses that the registry on GitHub has, if the operator runs its component.
///
/// # Errors
/// Why there are none.
pub fn of_registry(most: usize) -> Result<Contents, String> {
    let arguments = json!({ "max_peers": most.clamp(1, 100) });
    let answer = mcpp_tool::call("peer_registry_list", &arguments).map_err(|error| error.to_string())?;
    let answer = answer.structured.unwrap_or_default();
    if answer.get("success") != Some(&json!(true)) {
        return Err(answer.get("error").and_then(Value::as_str).unwrap_or("invalid_response").to_owned());
    }
    let mut contents = Contents::new();
    for peer in answer.get("peers").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| peer.get(key).and_then(Value::as_str);
        contents.add(
            text("multiaddr").unwrap_or_default(),
            text("runner_name"),
            peer.get("last_seen").and_then(time_of),
        );
    }
    Ok(contents)
}

/// The addresses of all sources: those of the settings, of files, of the registry, and of the public nodes only if there is no other.
pub fn default_addresses() -> Vec<String> {
    let mut found = of_settings(None).1.found;
    let now_ms = mcpp_tool::environment::now_ms();
    found.extend(of_files(&directory(), Stale::Keep, now_ms).unwrap_or_default().found);
    found.extend(of_registry(MAX_REGISTRY).unwrap_or_default().found);
    if found.is_empty() && public_is_on() {
        found = public().found;
    }
    let mut known = BTreeSet::new();
    found.retain(|found| known.insert(found.address.text().to_owned()));
    found.iter().map(|found| found.address.text().to_owned()).collect()
}

/// Peers that the registry is asked for.
const MAX_REGISTRY: usize = 10;
