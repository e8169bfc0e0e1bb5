//! A transaction: an overlay in memory over staged writes over durable entries. The file's own write transaction never sees a guest.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    base::{Base, Overlay, Pending},
    commit::{self, Batch},
    file::DataFile,
    space::{SpaceState, SpaceTurn},
};
use crate::{
    names::ComponentName,
    store::{
        Bounds, Entry, KeyRange, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_WRITES, Page, Scan, StoreError, Transaction,
    },
};

/// An open transaction of the embedded store.
#[derive(Debug)]
pub(super) struct EmbeddedTransaction {
    file: Arc<DataFile>,
    space: Arc<SpaceState>,
    turn: Arc<SpaceTurn>,
    base: Arc<Base>,
    /// Staged writes of earlier transactions, and this one's own.
    overlay: Overlay,
    /// Whether any write was staged. Then the host acknowledges even a read-only transaction only after that write is durable.
    saw_staged: bool,
    writes: BTreeMap<Bytes, Option<Bytes>>,
    written_bytes: usize,
    used_bytes: u64,
    version: u64,
}

/// Begins a transaction when its turn comes.
pub(super) async fn begin(
    file: Arc<DataFile>,
    component: &ComponentName,
    bounds: Bounds,
) -> Result<EmbeddedTransaction, StoreError> {
    let space = file.space(component)?;
    let turn = space.take_turn(bounds).await?;
    // Under one lock, so that no staged write becomes durable between the two looks.
    let (base, overlay, used_bytes, version) = {
        let view = space.view();
        (file.base(), view.staged.clone(), view.used_bytes, view.version.saturating_add(1))
    };
    let saw_staged = !overlay.is_empty();
    let (writes, written_bytes) = (BTreeMap::new(), 0);
    Ok(EmbeddedTransaction { file, space, turn, base, overlay, saw_staged, writes, written_bytes, used_bytes, version })
}

impl EmbeddedTransaction {
    fn check(&self) -> Result<(), StoreError> {
        self.turn.check()?;
        if self.file.is_broken() { Err(StoreError::Conflict) } else { Ok(()) }
    }

    fn read(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        match self.overlay.get(key) {
            Some(Pending { version, value }) => Ok(value.as_ref().map(|value| Entry {
                key: Bytes::copy_from_slice(key),
                value: value.clone(),
                version: *version,
            })),
            None => self.base.get(&self.space.component, key),
        }
    }

    /// Writes or, without a value, deletes; returns whether an entry existed.
    fn write(&mut self, key: Bytes, value: Option<Bytes>) -> Result<bool, StoreError> {
        self.check()?;
        let size = |value: &Bytes| key.len().saturating_add(value.len());
        let new = value.as_ref().map_or(0, size);
        let written_bytes = self.written_bytes.saturating_add(new.max(key.len()));
        if self.writes.len() >= MAX_TRANSACTION_WRITES || written_bytes > MAX_TRANSACTION_BYTES {
            return Err(StoreError::TransactionTooLarge);
        }
        let before = self.read(&key)?;
        let old = before.as_ref().map_or(0, |entry| size(&entry.value));
        let used_bytes = self.used_bytes.saturating_sub(bytes(old)).saturating_add(bytes(new));
        let limit = self.turn.quota_bytes();
        if new > old && used_bytes > limit {
            return Err(StoreError::QuotaExceeded { limit });
        }
        (self.used_bytes, self.written_bytes) = (used_bytes, written_bytes);
        self.overlay.insert_mut(key.clone(), Pending { version: self.version, value: value.clone() });
        self.writes.insert(key, value);
        Ok(before.is_some())
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

impl Drop for EmbeddedTransaction {
    fn drop(&mut self) {
        self.turn.end();
    }
}

impl Transaction for EmbeddedTransaction {
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(std::future::ready(self.check().and_then(|()| self.read(key))))
    }

    fn scan<'a>(&'a mut self, range: &'a KeyRange, scan: Scan) -> BoxFuture<'a, Result<Page, StoreError>> {
        let page = self.check().and_then(|()| self.base.scan(&self.space.component, &self.overlay, range, scan));
        Box::pin(std::future::ready(page))
    }

    /// On one host no other transaction of the space is open, so no entry is taken yet.
    fn take<'a>(&'a mut self, range: &'a KeyRange, limit: usize) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>> {
        Box::pin(async move { Ok(self.scan(range, Scan::first(limit)).await?.entries) })
    }

    fn set(&mut self, key: Bytes, value: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(self.write(key, Some(value)).map(|_| ())))
    }

    fn delete<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        let deleted = match self.check().and_then(|()| self.read(key)) {
            Ok(Some(_)) => self.write(Bytes::copy_from_slice(key), None),
            other => other.map(|_| false),
        };
        Box::pin(std::future::ready(deleted))
    }

    /// The transactions of a space run one after another, so the version of the space orders them.
    fn order<'a>(&'a mut self, _group: &'a [u8]) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(std::future::ready(self.check().map(|()| self.version)))
    }

    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            self.check()?;
            let writes = std::mem::take(&mut self.writes);
            if writes.is_empty() && !self.saw_staged {
                return Ok(());
            }
            let room = commit::room(&self.file, self.written_bytes).await?;
            let batch = Batch::new(Arc::clone(&self.space), self.version, writes, self.used_bytes, room);
            let done = self.turn.finish(|| commit::stage(&self.file, batch))?;
            drop(self);
            done.await.unwrap_or(Err(StoreError::OutcomeUnknown))
        })
    }
}
