//! A transaction: an overlay in memory over staged writes over durable entries. The file's own write transaction never sees a guest.
//!
//! The turn owns the contents. An operation takes them out and puts them back, so another transaction never waits for it to end the turn.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    commit::{self, Batch},
    file::DataFile,
    scan::RangeWalk,
    space::{SpaceState, SpaceTurn},
    work::TransactionWork,
};
use crate::{
    names::ComponentName,
    store::{Bounds, Entry, KeyRange, Page, Scan, SpaceUsage, StoreError, Transaction},
};

/// Changes of one call after which the turn is checked again: as many as take far less than a turn.
const CHANGES_PER_CHECK: usize = 64;

/// An open transaction of the embedded store.
#[derive(Debug)]
pub(super) struct EmbeddedTransaction {
    file: Arc<DataFile>,
    space: Arc<SpaceState>,
    turn: Arc<SpaceTurn>,
}

/// Begins a transaction when its turn comes.
pub(super) async fn begin(
    file: Arc<DataFile>,
    component: &ComponentName,
    bounds: Bounds,
) -> Result<EmbeddedTransaction, StoreError> {
    let space = file.space(component)?;
    let turn = space.take_turn(bounds).await?;
    turn.put(Box::new(TransactionWork::begin(&file, &space)));
    Ok(EmbeddedTransaction { file, space, turn })
}

impl EmbeddedTransaction {
    fn check(&self) -> Result<(), StoreError> {
        self.turn.check()?;
        self.file.check_whole()
    }

    /// Does one operation, for which no lock is held.
    fn with<T>(&self, operation: impl FnOnce(&mut TransactionWork) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.check()?;
        let mut work = self.turn.take()?;
        let done = operation(&mut work);
        self.turn.put(work);
        done
    }

    fn write(&self, key: Bytes, value: Option<Bytes>) -> Result<bool, StoreError> {
        self.with(|work| work.write(key, value, self.turn.quota_bytes()))
    }

    /// Goes through a range in steps, between which others run and the turn may end.
    async fn walk(&self, range: &KeyRange, scan: Scan) -> Result<Page, StoreError> {
        let mut walk = RangeWalk::new(range, scan);
        loop {
            let step = |work: &mut TransactionWork| {
                work.base.walk(&self.space.component, &work.staged, Some(work.own()), &mut walk)
            };
            if self.with(step)? {
                return Ok(walk.into_page());
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for EmbeddedTransaction {
    fn drop(&mut self) {
        self.turn.end();
    }
}

impl Transaction for EmbeddedTransaction {
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(std::future::ready(self.with(|work| work.read(key))))
    }

    fn scan<'a>(&'a mut self, range: &'a KeyRange, scan: Scan) -> BoxFuture<'a, Result<Page, StoreError>> {
        Box::pin(self.walk(range, scan))
    }

    /// On one host no other transaction of the space is open, so no entry is taken yet.
    fn take<'a>(&'a mut self, range: &'a KeyRange, limit: usize) -> BoxFuture<'a, Result<Page, StoreError>> {
        self.scan(range, Scan::first(limit))
    }

    fn set(&mut self, key: Bytes, value: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(std::future::ready(self.write(key, Some(value)).map(drop)))
    }

    fn delete<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(std::future::ready(self.write(Bytes::copy_from_slice(key), None)))
    }

    fn write_many(&mut self, changes: Vec<(Bytes, Option<Bytes>)>) -> BoxFuture<'_, Result<(), StoreError>> {
        let written = self.with(|work| {
            let write = |(number, (key, value)): (usize, (Bytes, Option<Bytes>))| {
                if number.is_multiple_of(CHANGES_PER_CHECK) {
                    self.check()?;
                }
                work.write(key, value, self.turn.quota_bytes()).map(drop)
            };
            changes.into_iter().enumerate().try_for_each(write)
        });
        Box::pin(std::future::ready(written))
    }

    fn usage(&mut self) -> BoxFuture<'_, Result<SpaceUsage, StoreError>> {
        let quota_bytes = self.turn.quota_bytes();
        let usage = |work: &mut TransactionWork| Ok(SpaceUsage { used_bytes: work.used_bytes(), quota_bytes });
        Box::pin(std::future::ready(self.with(usage)))
    }

    /// The transactions of a space run one after another, so the version of the space orders them.
    fn order<'a>(&'a mut self, _group: &'a [u8]) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(std::future::ready(self.with(|work| Ok(work.version()))))
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            let (is_settled, bytes) = self.with(|work| Ok((work.is_settled(), work.staged_bytes())))?;
            if is_settled {
                return Ok(());
            }
            // The turn has the writes meanwhile. If another transaction takes the turn away, they are gone.
            let room = commit::room(&self.file, bytes).await?;
            let batch = Batch::new(self.turn.take()?.into_written(), room);
            let done = self.turn.finish(|| commit::stage(&self.file, &self.space, batch))?;
            drop(self);
            done.await.unwrap_or(Err(StoreError::OutcomeUnknown))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::TenantId,
        store::{
            ENTRY_COST, Section, Space, Store as _,
            embedded::{EmbeddedConfig, EmbeddedStore, disk::FileSystem},
        },
    };

    const QUOTA: u64 = 1_000;

    fn open(folder: &std::path::Path) -> EmbeddedStore {
        EmbeddedStore::new(folder.join("store"), EmbeddedConfig::default(), Arc::new(FileSystem)).expect("a directory")
    }

    fn value(bytes: u64) -> Bytes {
        vec![0; usize::try_from(bytes).expect("small")].into()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_size_that_is_told_is_the_one_that_the_quota_bounds() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = Space { tenant: TenantId::local(), component: ComponentName::new("a").expect("legal") };
        let (key, bounds) = (Section::Data.key(b"k"), Bounds { quota_bytes: QUOTA, ..Bounds::host() });
        let store = open(folder.path());
        let empty = store.snapshot(&space).await.expect("a snapshot");
        let mut t = store.begin(&space, bounds.clone()).await.expect("a transaction");
        t.set(key.clone(), value(100)).await.expect("it fits");
        let SpaceUsage { used_bytes, quota_bytes } = t.usage().await.expect("known");
        let cost = u64::try_from(ENTRY_COST + "a".len()).expect("small");
        assert_eq!((used_bytes, quota_bytes), (100 + 2 + cost, QUOTA));
        let free = QUOTA - used_bytes;
        let refused = t.set(key.clone(), value(100 + free + 1)).await;
        assert!(matches!(refused, Err(StoreError::QuotaExceeded { limit: QUOTA })), "one byte more than is free");
        assert_eq!(t.usage().await.expect("known").used_bytes, used_bytes, "what is refused does not count");
        t.set(key, value(100 + free)).await.expect("it fits to the byte");
        assert_eq!(t.usage().await.expect("known").used_bytes, QUOTA);
        t.commit().await.expect("committed");
        assert_eq!(empty.used_bytes().await.expect("known"), 0, "as it was when the snapshot was opened");
        drop(empty);
        let full = store.snapshot(&space).await.expect("a snapshot");
        assert_eq!(full.used_bytes().await.expect("known"), QUOTA);
        drop(full);
        store.close().await;
        // A file that was just opened knows no space yet.
        let store = open(folder.path());
        let full = store.snapshot(&space).await.expect("a snapshot");
        assert_eq!(full.used_bytes().await.expect("known"), QUOTA);
        assert_eq!(store.begin(&space, bounds).await.expect("begun").usage().await.expect("known").used_bytes, QUOTA);
    }
}
