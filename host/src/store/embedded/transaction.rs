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
