//! The cache of the task-queue protocol: values by key, for a time.

use mcpp_tool::{
    environment::now_ms,
    store::{Map, snapshot, transact},
};
use scheduling::hash::Hash;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Failure, Reply, fields::Request};
use crate::{engine::QueueError, queue::settings};

/// Values by the hash of their key, so that a key may be long.
const CACHE: Map<String, Cached> = Map::new("cache");
/// Largest value, in bytes of JSON.
const MAX_VALUE_BYTES: usize = 512 << 10;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cached {
    key: String,
    value: Value,
    created_ms: u64,
    expires_ms: Option<u64>,
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
    let Some(cached) = CACHE.get(&snapshot()?, hash)? else { return Ok(Value::Null) };
    if cached.expires_ms.is_some_and(|expires| expires <= now_ms()) {
        transact(|t| CACHE.remove(t, hash))?;
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
    let cached = Cached { key: key.to_owned(), value, created_ms: now, expires_ms };
    transact(|t| CACHE.set(t, &hash, &cached))?;
    crate::remote::replicate(&request.whole_request("cache.set"));
    Ok(json!({ "key": key }))
}

pub(super) fn delete(request: &Request<'_>) -> Reply {
    let (key, hash) = key(request)?;
    let deleted = transact(|t| CACHE.remove(t, &hash))?;
    Ok(json!({ "key": key, "deleted": deleted }))
}
