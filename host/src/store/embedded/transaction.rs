//! A transaction: an overlay in memory over staged writes over durable entries. The file's own write transaction never sees a guest.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    base::{Base, Overlay, Own, Pending, Writes},
    commit::{self, Batch},
    file::DataFile,
    space::{SpaceState, SpaceTurn},
    wal::Written,
};
use crate::{
    names::ComponentName,
    store::{
        Bounds, Entry, KeyRange, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_WRITES, Page, Scan, StoreError, Transaction,
    },
};

/// Changes of one call after which the turn is checked again: as many as take far less than a turn.
const CHANGES_PER_CHECK: usize = 64;

/// An open transaction of the embedded store.
#[derive(Debug)]
pub(super) struct EmbeddedTransaction {
    file: Arc<DataFile>,
    space: Arc<SpaceState>,
    turn: Arc<SpaceTurn>,
    base: Arc<Base>,
    /// Writes of earlier transactions that the database does not have.
    staged: Overlay,
    /// Whether all of them are durable. Where they are not, the host acknowledges even a read-only transaction only after that.
    is_durable: bool,
    /// This transaction's own writes.
    writes: Writes,
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
    let view = space.view();
    let (base, staged) = (file.base(), view.staged.entries.clone());
    let is_durable = view.staged.version == view.durable.version;
    let (used_bytes, version) = (view.staged.used_bytes, view.staged.version.saturating_add(1));
    drop(view);
    let (writes, written_bytes) = (BTreeMap::new(), 0);
    Ok(EmbeddedTransaction { file, space, turn, base, staged, is_durable, writes, written_bytes, used_bytes, version })
}

impl EmbeddedTransaction {
    fn check(&self) -> Result<(), StoreError> {
        self.turn.check()?;
        self.file.check_whole()
    }

    /// The value and version of an entry, as this transaction has left it; the value is in the first place where it is its own.
    fn pending(&self, key: &[u8]) -> Option<(Option<&Bytes>, u64)> {
        let own = self.writes.get(key).map(|value| (value.as_ref(), self.version));
        own.or_else(|| self.staged.get(key).map(|Pending { version, value }| (value.as_ref(), *version)))
    }

    fn read(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        match self.pending(key) {
            Some((value, version)) => {
                let entry = |value: &Bytes| Entry { key: Bytes::copy_from_slice(key), value: value.clone(), version };
                Ok(value.map(entry))
            }
            None => self.base.get(&self.space.component, key),
        }
    }

    /// Bytes of the key and the value of an entry; none if there is no such entry.
    fn size(&self, key: &[u8]) -> Result<Option<usize>, StoreError> {
        let value_bytes = match self.pending(key) {
            Some((value, _)) => value.map(Bytes::len),
            None => self.base.value_bytes(&self.space.component, key)?,
        };
        Ok(value_bytes.map(|value_bytes| key.len().saturating_add(value_bytes)))
    }

    /// Writes or, without a value, deletes; returns whether an entry existed. The caller has checked the turn.
    fn write(&mut self, key: Bytes, value: Option<Bytes>) -> Result<bool, StoreError> {
        let old = self.size(&key)?;
        if value.is_none() && old.is_none() {
            return Ok(false);
        }
        let new = value.as_ref().map_or(0, |value| key.len().saturating_add(value.len()));
        let written_bytes = self.written_bytes.saturating_add(new.max(key.len()));
        if self.writes.len() >= MAX_TRANSACTION_WRITES || written_bytes > MAX_TRANSACTION_BYTES {
            return Err(StoreError::TransactionTooLarge);
        }
        let old_bytes = old.unwrap_or_default();
        let used_bytes = self.used_bytes.saturating_sub(bytes(old_bytes)).saturating_add(bytes(new));
        let limit = self.turn.quota_bytes();
        if new > old_bytes && used_bytes > limit {
            return Err(StoreError::QuotaExceeded { limit });
        }
        (self.used_bytes, self.written_bytes) = (used_bytes, written_bytes);
        self.writes.insert(key, value);
        Ok(old.is_some())
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
        let page = self.check().and_then(|()| {
            let own = Own { writes: &self.writes, version: self.version };
            self.base.scan(&self.space.component, &self.staged, Some(own), range, scan)
        });
        Box::pin(std::future::ready(page))
    }

    /// On one host no other transaction of the space is open, so no entry is taken yet.
    fn take<'a>(&'a mut self, range: &'a KeyRange, limit: usize) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>> {
        Box::pin(async move { Ok(self.scan(range, Scan::first(limit)).await?.entries) })
    }

    fn set(&mut self, key: Bytes, value: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        let written = self.check().and_then(|()| self.write(key, Some(value)).map(drop));
        Box::pin(std::future::ready(written))
    }

    fn delete<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        let deleted = self.check().and_then(|()| self.write(Bytes::copy_from_slice(key), None));
        Box::pin(std::future::ready(deleted))
    }

    fn write_many(&mut self, changes: Vec<(Bytes, Option<Bytes>)>) -> BoxFuture<'_, Result<(), StoreError>> {
        let write = |(number, (key, value)): (usize, (Bytes, Option<Bytes>))| {
            if number.is_multiple_of(CHANGES_PER_CHECK) {
                self.check()?;
            }
            self.write(key, value).map(drop)
        };
        let written = changes.into_iter().enumerate().try_for_each(write);
        Box::pin(std::future::ready(written))
    }

    /// The transactions of a space run one after another, so the version of the space orders them.
    fn order<'a>(&'a mut self, _group: &'a [u8]) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(std::future::ready(self.check().map(|()| self.version)))
    }

    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            self.check()?;
            let writes = std::mem::take(&mut self.writes);
            if writes.is_empty() && self.is_durable {
                return Ok(());
            }
            let room = commit::room(&self.file, self.written_bytes).await?;
            // Nobody else has them: what is staged grows in place.
            drop(std::mem::take(&mut self.staged));
            let (component, version, used_bytes) = (self.space.component.clone(), self.version, self.used_bytes);
            let batch = Batch::new(Written { component, version, used_bytes, writes }, room);
            let done = self.turn.finish(|| commit::stage(&self.file, &self.space, batch))?;
            drop(self);
            done.await.unwrap_or(Err(StoreError::OutcomeUnknown))
        })
    }
}
