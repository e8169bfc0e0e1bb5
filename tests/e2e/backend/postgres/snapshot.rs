//! A snapshot: a read-only transaction of the database.

use futures::future::BoxFuture;
use mcpp::store::{Entry, KeyRange, MAX_PAGE_ENTRIES, Page, Scan, Snapshot, Space, StoreError};

use super::{page, session::Session, used};

pub(super) struct PostgresSnapshot {
    pub(super) session: Session,
    pub(super) space: Space,
}

impl Snapshot for PostgresSnapshot {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(self.session.get(&self.space, key))
    }

    fn scan<'a>(&'a self, range: &'a KeyRange, scan: Scan) -> BoxFuture<'a, Result<Page, StoreError>> {
        Box::pin(async move {
            let limit = scan.limit.min(MAX_PAGE_ENTRIES);
            Ok(page(self.session.range(&self.space, range, limit + 1, scan.order).await?, limit))
        })
    }

    fn used_bytes(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(used(self.session.client(), &self.space))
    }
}
