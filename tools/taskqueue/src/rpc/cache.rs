//! The cache of the task-queue protocol: values by key, for a time.

use mcpp_tool::{
    environment::now_ms,
    store::{Counts, Index, Map, Places, StoreError, Table, Transaction, snapshot, transact},
};
use scheduling::hash::Hash;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Failure, Reply, fields::Request};
use crate::{
    engine::{self, Part, QueueError},
    origin,
    queue::settings,
    record::json_bytes,
};

/// Values by the hash of their key, so that a key may be long.
const CACHE: Table<String, Cached> = Table::new("cached", declare);
/// Values by the peer that wrote them (empty: this host's callers), the oldest first.
const WRITTEN: Index<String, (u64, String)> = Index::new("cached-of");
/// How many values there are of an owner, and how many KiB.
const AMOUNTS: Counts<(String, u8)> = Counts::new("cached-amounts");
/// Values and KiB, in [`AMOUNTS`].
const COUNT: u8 = 0;
const KIB: u8 = 1;
/// All peers together, in [`AMOUNTS`]: no peer's id.
const PEERS: &str = "*";
/// Values that are removed for a new one in one transaction.
const MOST_REMOVED: usize = 16;
/// Transactions that a new value may take to find room.
const MOST_ROUNDS: usize = 64;
/// The cache of earlier versions, which had no bound: a key of it is removed when it is written or looked for.
const OLD: Map<String, Cached> = Map::new("cache");
/// Largest value, in bytes of JSON.
const MAX_VALUE_BYTES: usize = 512 << 10;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cached {
    key: String,
    value: Value,
    created_ms: u64,
    expires_ms: Option<u64>,
    /// The peer that wrote it; none for a caller of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
}

/// Where a value counts.
fn declare(hash: &String, cached: &Cached, places: &mut Places) {
    let owner = cached.peer.as_deref().unwrap_or_default();
    places.index(&WRITTEN, owner, &(cached.created_ms, hash));
    let bytes = cached.key.len().saturating_add(json_bytes(&cached.value));
    let kib = i64::try_from(bytes / 1_024).unwrap_or(i64::MAX).saturating_add(1);
    let all = cached.peer.as_deref().map(|_| PEERS);
    for whose in [Some(owner), all].into_iter().flatten() {
        places.count(&AMOUNTS, &(whose, COUNT));
        places.sum(&AMOUNTS, &(whose, KIB), kib);
    }
}

/// Most values, and KiB of them, of this host's callers, of a peer, and of all peers together.
const OWN_SHARE: [i64; 2] = [100_000, 1 << 20];
const PEER_SHARE: [i64; 2] = [2_000, 64 << 10];
const ALL_PEERS_SHARE: [i64; 2] = [8_000, 256 << 10];

/// Removes the oldest values of the owner until its share and that of all peers have room for one more; whether they have.
fn make_room(t: &Transaction<'_>, owner: &str) -> Result<bool, StoreError> {
    let shares = match owner {
        "" => vec![(owner, OWN_SHARE)],
        peer => vec![(peer, PEER_SHARE), (PEERS, ALL_PEERS_SHARE)],
    };
    let fits = || -> Result<bool, StoreError> {
        for (whose, [count, kib]) in &shares {
            let largest = i64::try_from(MAX_VALUE_BYTES / 1_024).unwrap_or(i64::MAX);
            let is_full = AMOUNTS.get(t, &(*whose, COUNT))? >= *count
                || AMOUNTS.get(t, &(*whose, KIB))?.saturating_add(largest) > *kib;
            if is_full {
                return Ok(false);
            }
        }
        Ok(true)
    };
    if fits()? {
        return Ok(true);
    }
    let oldest: Vec<(u64, String)> = WRITTEN.of(owner).most(MOST_REMOVED).collect(t)?;
    for (_, hash) in oldest {
        CACHE.remove(t, &hash)?;
        if fits()? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn key<'a>(request: &Request<'a>) -> Result<(&'a str, String), Failure> {
    if !settings(&snapshot()?)?.cache_enabled {
        return Err(Failure::of("cache_disabled"));
    }
    let key = request.needs(&["key"], "missing_key")?;
    Ok((key, Hash::of(key).to_string()))
}

/// The value; an expired one is removed when a caller looks.
fn look(hash: &String) -> Result<Value, Failure> {
    let (found, old) = {
        let t = snapshot()?;
        (CACHE.get(&t, hash)?, OLD.get(&t, hash)?)
    };
    let Some(cached) = found.or(old) else { return Ok(Value::Null) };
    if cached.expires_ms.is_some_and(|expires| expires <= now_ms()) {
        transact(|t| remove(t, hash))?;
        return Ok(Value::Null);
    }
    Ok(cached.value)
}

pub(super) fn get(request: &Request<'_>) -> Reply {
    let (key, hash) = key(request)?;
    let value = look(&hash)?;
    Ok(json!({ "key": key, "hit": !value.is_null(), "value": value }))
}

pub(super) fn has(request: &Request<'_>) -> Reply {
    let (key, hash) = key(request)?;
    Ok(json!({ "key": key, "hit": !look(&hash)?.is_null() }))
}

pub(super) fn set(request: &Request<'_>) -> Reply {
    let (key, hash) = key(request)?;
    let value = request.any("value").cloned().unwrap_or_default();
    if value.to_string().len() > MAX_VALUE_BYTES {
        return Err(QueueError::Invalid(format!("the value is larger than {MAX_VALUE_BYTES} bytes")).into());
    }
    let now = now_ms();
    let ttl = request.number(&["ttl_s"])?.filter(|ttl| *ttl > 0.0);
    let expires_ms = ttl.map(|ttl| now.saturating_add((ttl * 1_000.0) as u64));
    let cached = Cached { key: key.to_owned(), value, created_ms: now, expires_ms, peer: origin::peer() };
    write(&hash, &cached)?;
    crate::remote::replicate(&request.whole_request("cache.set"));
    Ok(json!({ "key": key }))
}

fn remove(t: &Transaction<'_>, hash: &String) -> Result<bool, StoreError> {
    let is_gone = CACHE.remove(t, hash)?.is_some();
    Ok(OLD.remove(t, hash)? || is_gone)
}

/// Writes a value. The oldest ones of its owner give way.
fn write(hash: &String, cached: &Cached) -> Result<(), Failure> {
    let owner = cached.peer.as_deref().unwrap_or_default();
    for _ in 0..MOST_ROUNDS {
        let is_written = transact(|t| {
            engine::within(t, Part::Work, || {
                remove(t, hash)?;
                let has_room = make_room(t, owner)?;
                if has_room {
                    CACHE.put(t, hash, cached)?;
                }
                Ok(has_room)
            })
        })?;
        if is_written {
            return Ok(());
        }
    }
    let detail = "the cache has as many values of peers as it takes; the oldest of this peer's made no room";
    Err(QueueError::Share(detail.into()).into())
}

pub(super) fn delete(request: &Request<'_>) -> Reply {
    let (key, hash) = key(request)?;
    let deleted = transact(|t| remove(t, &hash))?;
    Ok(json!({ "key": key, "deleted": deleted }))
}

#[cfg(test)]
mod tests {
    use mcpp_tool::store::memory;

    use super::*;
    use crate::{origin::memory::as_peer, rpc::handle};

    fn put(key: &str, bytes: usize) -> Value {
        handle(&json!({ "op": "cache.set", "key": key, "value": "x".repeat(bytes) }))
    }

    fn hit(key: &str) -> Value {
        handle(&json!({ "op": "cache.has", "key": key }))["hit"].clone()
    }

    #[test]
    fn the_oldest_values_of_a_peer_give_way_to_its_new_ones_and_to_nobody_elses() {
        memory::clear();
        put("own", 10);
        as_peer("a", || {
            for n in 0..150 {
                assert_eq!(put(&format!("a{n}"), 500_000)["ok"], true, "{n}");
            }
        });
        let [_, most_kib] = PEER_SHARE;
        let t = snapshot().expect("a snapshot");
        assert!(AMOUNTS.get(&t, &("a", KIB)).expect("counted") <= most_kib);
        drop(t);
        assert_eq!((hit("own"), hit("a0"), hit("a149")), (json!(true), json!(false), json!(true)));
        assert_eq!(handle(&json!({ "op": "cache.delete", "key": "a149" }))["deleted"], true);
        assert_eq!(hit("a149"), false);
    }

    #[test]
    fn a_value_that_an_earlier_version_wrote_is_found_and_replaced() {
        memory::clear();
        let hash = Hash::of("k").to_string();
        let old = Cached { key: "k".into(), value: json!(1), created_ms: 1, expires_ms: None, peer: None };
        transact(|t| OLD.set(t, &hash, &old)).expect("set");
        assert_eq!(handle(&json!({ "op": "cache.get", "key": "k" }))["value"], 1);
        put("k", 3);
        assert_eq!(handle(&json!({ "op": "cache.get", "key": "k" }))["value"], "xxx");
        assert_eq!(handle(&json!({ "op": "cache.delete", "key": "k" }))["deleted"], true);
        assert_eq!(hit("k"), false);
    }
}
