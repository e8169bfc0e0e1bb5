//! Results that steps take from earlier ones: with the same tool of the same build, the same arguments, and the same rights of the submitter.
//!
//! A result is kept for a time, in a number, and in bytes. The oldest leave first.

use mcpp_tool::{
    builds::{self, Build},
    environment::hexadecimal,
    rights::Rights,
    store::{Alarm, Budget, Counts, Index, Map, StoreError, Table, Transaction, View, bites, snapshot},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::WorkflowError;
use crate::definition::{Cache, ms};

/// Most results of a tenant that are kept.
const MAX_ENTRIES: i64 = 10_000;
/// Most bytes of them together.
const MAX_BYTES: i64 = 32 << 20;
/// Largest result that is kept, in bytes of JSON.
const MAX_RESULT_BYTES: usize = 256 << 10;
/// What a small result counts as, so that few need leave for a large one.
const LEAST_BYTES: i64 = 4 << 10;
/// Results that one transaction removes for another.
const MAX_REMOVED: usize = 100;
/// How far apart the timer rings for results whose time is over, in milliseconds.
const APART_MS: u64 = 1_000;
/// What one ring removes.
const RING: Budget = Budget { entries: 2_000, bytes: 8 << 20, ..Budget::UNBOUNDED };

/// Rings when the time of a result is over.
pub(super) const CACHE: Alarm = Alarm::new("cache");

/// What is known of a result that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CachedResult {
    /// When its step ended, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// When it leaves.
    pub expires_ms: u64,
    /// The bytes that it counts as.
    pub bytes: i64,
}

/// The results, by their keys: SHA-256 in hexadecimal digits.
const CACHED: Table<String, CachedResult> = Table::new("cached", |key, entry, places| {
    places.index(&OLDEST, &(), &(entry.created_ms, key));
    places.index(&EXPIRING, &(), &(entry.expires_ms, key));
    places.count(&TOTALS, &false);
    places.sum(&TOTALS, &true, entry.bytes);
});
/// Their values.
const VALUES: Map<String, Value> = Map::new("cached-values");
/// Their keys, the oldest first.
const OLDEST: Index<(), (u64, String)> = Index::new("cached-oldest");
/// Their keys, the first that leaves first.
const EXPIRING: Index<(), (u64, String)> = Index::new("cached-expiring");
/// How many they are, and their bytes.
const TOTALS: Counts<bool> = Counts::new("cached-totals");

/// Where the result of a step is looked for, and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheKey {
    key: String,
    ttl_ms: u64,
}

/// What became of a step whose result may be cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// It has the result of an earlier one.
    Hit,
    /// Its own result is kept.
    Miss(Box<CacheKey>),
}

/// A value as JSON whose objects have their fields in order, so that equal values are one text.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            text.push('{');
            for (name, field) in fields {
                text.push_str(&Value::String(name.clone()).to_string());
                text.push(':');
                canonical(field, text);
                text.push(',');
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

/// SHA-256 of texts, each behind its length: no two lists of texts are one text.
fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hexadecimal(&hasher.finalize())
}

impl CacheKey {
    /// Where the result of a call is; none where the host knows neither the build nor the interface of the tool.
    pub(super) fn of(
        cache: &Cache,
        (rights, builds): (&Rights, &[Build]),
        tool: &str,
        arguments: &serde_json::Map<String, Value>,
    ) -> Option<Self> {
        let (kind, component, build) = match builds::of_tool(builds, tool) {
            Some(build) => ("build", build.component.clone(), build.digest.clone()),
            // A tool of another host has no build here: its interface stands for one.
            None if builds::is_elsewhere(tool) => ("interface", String::new(), interface(tool)?),
            None => return None,
        };
        let (mut given, mut allowed) = (String::new(), String::new());
        canonical(&Value::Object(arguments.clone()), &mut given);
        canonical(&serde_json::to_value(rights).ok()?, &mut allowed);
        let key = digest(&["step result", tool, kind, &component, &build, &given, &allowed]);
        Some(Self { key, ttl_ms: ms(cache.ttl_s) })
    }
}

/// The schemas of a tool as a text.
fn interface(tool: &str) -> Option<String> {
    let Some(described) = builds::describe(&[], tool) else {
        // A native test has no catalog.
        return cfg!(not(target_arch = "wasm32")).then(String::new);
    };
    let mut text = String::new();
    canonical(&described.input, &mut text);
    canonical(&described.output.unwrap_or_default(), &mut text);
    Some(text)
}

/// The result of an earlier step, if one is kept that is not too old. A store that cannot be read has none.
pub(super) fn look_up(at: &CacheKey, now_ms: u64) -> Option<Value> {
    let find = || {
        let t = snapshot()?;
        let Some(entry) = CACHED.get(&t, &at.key)? else { return Ok(None) };
        let is_young = now_ms < entry.expires_ms && now_ms < entry.created_ms.saturating_add(at.ttl_ms);
        if is_young { VALUES.get(&t, &at.key) } else { Ok::<_, StoreError>(None) }
    };
    find().unwrap_or_default()
}

/// Keeps the result of a step that completed, if there is room for it when the oldest have left.
pub(super) fn keep(t: &Transaction<'_>, at: &CacheKey, result: &Value, now_ms: u64) -> Result<(), StoreError> {
    let bytes = result.to_string().len();
    if bytes > MAX_RESULT_BYTES {
        return Ok(());
    }
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX).max(LEAST_BYTES);
    remove(t, &at.key)?;
    for _ in 0..MAX_REMOVED {
        if has_room(t, bytes)? {
            break;
        }
        let Some((_, oldest)) = OLDEST.of(&()).first(t)? else { break };
        remove(t, &oldest)?;
    }
    if !has_room(t, bytes)? {
        return Ok(());
    }
    let expires_ms = now_ms.saturating_add(at.ttl_ms);
    CACHED.put(t, &at.key, &CachedResult { created_ms: now_ms, expires_ms, bytes })?;
    VALUES.set(t, &at.key, result)?;
    CACHE.by(t, expires_ms, now_ms)
}

fn has_room(t: &View<'_>, bytes: i64) -> Result<bool, StoreError> {
    Ok(TOTALS.get(t, &false)? < MAX_ENTRIES && TOTALS.get(t, &true)?.saturating_add(bytes) <= MAX_BYTES)
}

fn remove(t: &Transaction<'_>, key: &String) -> Result<(), StoreError> {
    match CACHED.remove(t, key)? {
        Some(_) => t.discard(&VALUES.key(key)),
        None => Ok(()),
    }
}

/// The timer rings: results whose time is over leave.
pub(super) fn ring(now_ms: u64) -> Result<(), WorkflowError> {
    let over = || EXPIRING.of(&()).below(&(now_ms.saturating_add(1),));
    let forget = || {
        bites(&mut { RING }, &over(), |t, (_, key)| {
            remove(t, &key)?;
            Ok::<_, WorkflowError>(true)
        })
        .map(drop)
    };
    CACHE.ring(now_ms, forget, |t| {
        let next = EXPIRING.of(&()).first(t)?;
        Ok(next.map(|(expires_ms, _)| expires_ms.max(now_ms.saturating_add(APART_MS))))
    })
}
