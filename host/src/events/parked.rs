//! Parked deliveries, for an operator: to list, to deliver again, or to drop.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::record::{Delivery, Kind, decode, due_key, encode, timer_key};
use crate::{
    limits::now_ms,
    names::{ComponentName, TenantId},
    store::{
        Bounds, KeyRange, MAX_PAGE_ENTRIES, Scan, Section, Snapshot, Space, Store, StoreError, Transaction, after_key,
    },
};

/// Parked deliveries of a space that are looked at for loops.
const LOOKED_AT_FOR_LOOPS: usize = 100;

/// A delivery that was given up, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Parked {
    /// Where it was stored before, without its section's byte.
    key: Vec<u8>,
    to: String,
    delivery: Delivery,
    reason: String,
    parked_ms: u64,
}

/// A delivery that waits or was given up, as an operator sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shown {
    /// The component that wrote it.
    pub from: String,
    /// The component that it is for.
    pub to: String,
    /// Unique in the tenant, for each `to`.
    pub id: String,
    /// The topic, or `timer`.
    pub topic: String,
    /// Its key.
    pub key: String,
    /// Bytes of its payload.
    pub payload_bytes: usize,
    /// When it was emitted or due, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// Action that wrote it.
    pub cause: String,
    /// Attempts that failed.
    pub attempts: u32,
    /// Why the last one failed; none if it was not given up.
    pub reason: Option<String>,
}

/// Puts a delivery aside.
pub(super) async fn park(
    transaction: &mut dyn Transaction,
    key: &Bytes,
    to: &ComponentName,
    delivery: Delivery,
    reason: String,
) -> Result<(), StoreError> {
    let at = parked_key(to.as_str(), &delivery.id);
    let key = key.get(1..).unwrap_or_default().to_vec();
    let parked = Parked { key, to: to.to_string(), delivery, reason, parked_ms: now_ms() };
    transaction.set(at, encode(&parked)).await
}

fn parked_key(to: &str, id: &str) -> Bytes {
    Section::Parked.key(format!("{to}\0{id}").as_bytes())
}

/// Waiting and parked deliveries of a tenant, oldest keys first; at most `limit` of each for a space.
pub async fn list(store: &dyn Store, tenant: &TenantId, limit: usize) -> Result<Vec<Shown>, StoreError> {
    let mut shown = Vec::new();
    for space in store.spaces(tenant).await? {
        let snapshot = store.snapshot(&space).await?;
        let sections = [(Section::Parked, true), (Section::Deliveries, false), (Section::Timers, false)];
        for (section, is_parked) in sections {
            for (key, value) in read(&*snapshot, section, limit).await? {
                shown.push(if is_parked { show_parked(&space, &value)? } else { show_waiting(&space, &key, &value)? });
            }
        }
    }
    Ok(shown)
}

/// A loop of events that was stopped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoppedLoop {
    /// The component that emitted the last event.
    pub from: ComponentName,
    /// The component that it is for.
    pub to: String,
    /// Its topic.
    pub topic: String,
}

/// The loops of a tenant's events that were stopped, as far as the first parked deliveries of each space tell.
pub async fn loops(store: &dyn Store, tenant: &TenantId) -> Result<BTreeSet<StoppedLoop>, StoreError> {
    let mut loops = BTreeSet::new();
    for space in store.spaces(tenant).await? {
        let snapshot = store.snapshot(&space).await?;
        for (_, value) in read(&*snapshot, Section::Parked, LOOKED_AT_FOR_LOOPS).await? {
            let Parked { to, delivery, .. } = decode(&value)?;
            if let (true, Kind::Event { topic }) = (delivery.is_of_a_loop(), delivery.kind) {
                loops.insert(StoppedLoop { from: space.component.clone(), to, topic });
            }
        }
    }
    Ok(loops)
}

async fn read(snapshot: &dyn Snapshot, section: Section, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let page = snapshot.scan(&section.prefix(b""), Scan::first(limit)).await?;
    Ok(page.entries.into_iter().map(|entry| (entry.key, entry.value)).collect())
}

fn show_parked(space: &Space, value: &[u8]) -> Result<Shown, StoreError> {
    let Parked { to, delivery, reason, .. } = decode(value)?;
    Ok(show(space, to, delivery, Some(reason)))
}

fn show_waiting(space: &Space, key: &Bytes, value: &[u8]) -> Result<Shown, StoreError> {
    let to = match super::record::group_of(key) {
        Some((_, to)) if Section::Deliveries.has(key) => to,
        _ => space.component.clone(),
    };
    Ok(show(space, to.to_string(), decode(value)?, None))
}

fn show(space: &Space, to: String, delivery: Delivery, reason: Option<String>) -> Shown {
    let topic = match delivery.kind {
        Kind::Event { topic } => topic,
        Kind::Timer => "timer".into(),
    };
    Shown {
        from: space.component.to_string(),
        to,
        id: delivery.id,
        topic,
        key: delivery.key,
        payload_bytes: delivery.payload.len(),
        time_ms: delivery.time_ms,
        cause: delivery.cause,
        attempts: delivery.attempts,
        reason,
    }
}

/// Decision of an operator about parked deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Deliver them again, each with all its attempts.
    Retry,
    /// Drop them.
    Drop,
}

/// Carries out a verdict on the parked deliveries with this id, or on all; returns how many there were.
pub async fn settle(
    store: &dyn Store,
    tenant: &TenantId,
    id: Option<&str>,
    verdict: Verdict,
) -> Result<usize, StoreError> {
    let mut settled = 0_usize;
    for space in store.spaces(tenant).await? {
        let mut range = Section::Parked.prefix(b"");
        loop {
            let more = settle_page(store, &space, &mut range, id, verdict, &mut settled).await?;
            if !more {
                break;
            }
        }
    }
    Ok(settled)
}

/// Goes through one page of a space, in one transaction; returns whether another page follows.
async fn settle_page(
    store: &dyn Store,
    space: &Space,
    range: &mut KeyRange,
    id: Option<&str>,
    verdict: Verdict,
    settled: &mut usize,
) -> Result<bool, StoreError> {
    let mut transaction = store.begin(space, Bounds::host()).await?;
    let page = transaction.scan(range, Scan::first(MAX_PAGE_ENTRIES)).await?;
    let Some(last) = page.entries.last() else { return Ok(false) };
    range.start = after_key(&last.key);
    let mut here = 0_usize;
    for entry in &page.entries {
        let parked: Parked = decode(&entry.value)?;
        if id.is_some_and(|id| id != parked.delivery.id) {
            continue;
        }
        transaction.delete(&entry.key).await?;
        if verdict == Verdict::Retry {
            retry(&mut *transaction, parked).await?;
        }
        here = here.saturating_add(1);
    }
    transaction.commit().await?;
    *settled = settled.saturating_add(here);
    Ok(page.more)
}

async fn retry(transaction: &mut dyn Transaction, parked: Parked) -> Result<(), StoreError> {
    let delivery = Delivery { attempts: 0, chain: 0, next_ms: now_ms(), ..parked.delivery };
    if delivery.kind == Kind::Timer {
        let timer = timer_key(&delivery.key);
        // A timer that the component has set since then takes precedence.
        if transaction.get(&timer).await?.is_none() {
            transaction.set(due_key(delivery.next_ms, &delivery.key), Bytes::new()).await?;
            transaction.set(timer, encode(&delivery)).await?;
        }
        return Ok(());
    }
    transaction.set(Section::Deliveries.key(&parked.key), encode(&delivery)).await
}
