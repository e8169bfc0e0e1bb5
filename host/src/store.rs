//! The store: spaces of ordered keys, snapshots, and serializable transactions that are durable when they commit.
//!
//! One trait, [`Store`], covers every backend; [`embedded`] is the backend that needs nothing installed. The store treats keys and values as opaque bytes.
//! The `store` capability bounds the requests of a guest (sizes of keys and values, how many at once). A space's host sections belong to the host, and
//! count towards the space's quota.

pub mod embedded;
mod error;
mod touched;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;

pub use self::{
    error::{StoreError, Unavailable},
    touched::Touched,
};
use crate::names::{ComponentName, TenantId};

/// Writes of one transaction, and their bytes.
pub const MAX_TRANSACTION_WRITES: usize = 10_000;
/// Bytes that one transaction may write.
pub const MAX_TRANSACTION_BYTES: usize = 4 << 20;
/// What an entry counts for the quota beside its component's name, its key and its value: about what its place in a file takes, and the byte behind the name. Without it, small
/// entries could make a file many times larger than the quota.
pub const ENTRY_COST: usize = 65;

/// What an entry of a component counts for the quota, by the bytes of its key in the space and of its value. The file has the component's name before each key.
pub fn counted_bytes(component: &str, key_bytes: usize, value_bytes: usize) -> usize {
    component.len().saturating_add(key_bytes).saturating_add(value_bytes).saturating_add(ENTRY_COST)
}

/// Entries of one page of a scan, and of one take.
pub const MAX_PAGE_ENTRIES: usize = 1_000;
/// Bytes of one page of a scan; a single larger entry is a page by itself.
pub const MAX_PAGE_BYTES: usize = 1 << 20;
/// How long a snapshot may be read. The store may let go of it earlier, so that it does not hold back too much of the disk.
pub const MAX_SNAPSHOT_AGE: Duration = Duration::from_secs(60);

/// One component's data for one tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space {
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The component that owns it.
    pub component: ComponentName,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.component)
    }
}

/// The parts of a space. A key's first byte is its section. The component sees only [`Section::Data`] and [`Section::KeyValue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Section {
    /// The component's own entries.
    Data = 1,
    /// Events that wait to be delivered.
    Deliveries = 2,
    /// Timers, by key.
    Timers = 3,
    /// Timers, by time.
    Due = 4,
    /// Parked deliveries.
    Parked = 5,
    /// The data's format, subscriptions, and other small notes of the host.
    Notes = 6,
    /// The component's entries of `wasi:keyvalue`.
    KeyValue = 7,
    /// The host's tasks, in a space of their own.
    Tasks = 8,
}

impl Section {
    /// The key of the space for a key of this section.
    pub fn key(self, key: &[u8]) -> Bytes {
        let mut full = Vec::with_capacity(key.len().saturating_add(1));
        full.push(self as u8);
        full.extend_from_slice(key);
        full.into()
    }

    /// All keys of this section that start with `prefix`.
    pub fn prefix(self, prefix: &[u8]) -> KeyRange {
        let start = self.key(prefix);
        let end = after_prefix(&start);
        KeyRange { start, end }
    }

    /// Whether `key` of the space is in this section.
    pub fn has(self, key: &[u8]) -> bool {
        key.first() == Some(&(self as u8))
    }
}

/// The least key above all keys that start with `prefix`.
pub fn after_prefix(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last.saturating_add(1));
            break;
        }
    }
    end.into()
}

/// The least key above `key`.
pub fn after_key(key: &[u8]) -> Bytes {
    let mut after = key.to_vec();
    after.push(0);
    after.into()
}

/// Keys from `start` to below `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The least key in the range.
    pub start: Bytes,
    /// The least key above the range.
    pub end: Bytes,
}

impl KeyRange {
    /// Whether the range contains no key.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// Length and direction of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Most entries; [`MAX_PAGE_ENTRIES`] at the most.
    pub limit: usize,
    /// End of the range that comes first.
    pub order: Order,
}

/// End of a range that comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The least key.
    Ascending,
    /// The greatest key.
    Descending,
}

impl Scan {
    /// The first `limit` entries.
    pub fn first(limit: usize) -> Self {
        Self { limit, order: Order::Ascending }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Changes with every write; never 0.
    pub version: u64,
}

impl Entry {
    /// Bytes of the key and the value alone: see [`counted_bytes`] for what it counts.
    pub fn bytes(&self) -> usize {
        self.key.len().saturating_add(self.value.len())
    }
}

/// Part of a range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Entries in the order of the scan.
    pub entries: Vec<Entry>,
    /// Whether the range has more.
    pub more: bool,
    /// Cost of deleted entries that the store passed over to find these, in bytes.
    pub passed_bytes: usize,
}

/// Size of a space, and its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceUsage {
    /// Bytes of keys and values.
    pub used_bytes: u64,
    /// Most of them.
    pub quota_bytes: u64,
}

/// The version of an entry that does not exist.
pub const ABSENT: u64 = 0;

/// Time limits of a transaction, and the size limit of its space.
#[derive(Clone)]
pub struct Bounds {
    /// Clock of the transaction's owner.
    pub clock: Arc<dyn Clock>,
    /// Most time by `clock`.
    pub own: Duration,
    /// Most time on the wall.
    pub wall: Duration,
    /// Most bytes of keys and values in the space.
    pub quota_bytes: u64,
}

impl fmt::Debug for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounds").field("own", &self.own).field("wall", &self.wall).finish_non_exhaustive()
    }
}

/// Time as one party counts it.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment, without the time that others took from this party.
    fn own_time(&self) -> Duration;
}

/// The wall's clock, for the host's own transactions, which no other party interrupts.
#[derive(Debug, Clone, Copy)]
pub struct Wall(tokio::time::Instant);

impl Clock for Wall {
    fn own_time(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Bounds {
    /// Bounds of the host's own transactions: no quota, so that the host can always work off stored deliveries.
    pub fn host() -> Self {
        let most = Duration::from_secs(10);
        Self { clock: Arc::new(Wall(tokio::time::Instant::now())), own: most, wall: most, quota_bytes: u64::MAX }
    }
}

/// Receiver of the number of entries that a backup has copied.
pub type CopyProgress = Box<dyn Fn(u64) + Send>;

/// A store of spaces.
pub trait Store: fmt::Debug + Send + Sync {
    /// The space as it is now, durably.
    fn snapshot<'a>(&'a self, space: &'a Space) -> BoxFuture<'a, Result<Box<dyn Snapshot>, StoreError>>;

    /// Begins a transaction, after those that this host has begun in this space before.
    fn begin<'a>(&'a self, space: &'a Space, bounds: Bounds)
    -> BoxFuture<'a, Result<Box<dyn Transaction>, StoreError>>;

    /// Waits until the durable version of an entry is not `since`; returns that version. A caller may drop the future at any time.
    fn wait<'a>(&'a self, space: &'a Space, key: &'a [u8], since: u64) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// All spaces of a tenant that were ever written to.
    fn spaces<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Vec<Space>, StoreError>>;

    /// Bytes of keys and values in a space.
    fn used_bytes<'a>(&'a self, space: &'a Space) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// The spaces in which events or timers were written.
    fn touched(&self) -> &Touched;

    /// The tenants that have data.
    fn tenants(&self) -> BoxFuture<'_, Result<Vec<TenantId>, StoreError>>;

    /// Copies a tenant's present data into a new file at `target`, while the store is in use. `progress` receives the number of copied entries.
    fn backup<'a>(
        &'a self,
        tenant: &'a TenantId,
        target: &'a Path,
        progress: CopyProgress,
    ) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// Removes all data of a tenant. From then on the store refuses every access to it, also that of a delivery in flight, until [`Store::readmit`]
    /// announces a tenant of this name again.
    fn remove<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Announces a tenant of this name: a new one, or one that returned after the host removed its data.
    fn readmit(&self, tenant: &TenantId);

    /// Makes everything that was acknowledged durable and closes the store. It serves nothing from then on.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A space at one moment. Reads fail once the store has let go of it: [`StoreError::is_expired`].
pub trait Snapshot: Send + Sync {
    /// One entry.
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// Part of a range.
    fn scan<'a>(&'a self, range: &'a KeyRange, scan: Scan) -> BoxFuture<'a, Result<Page, StoreError>>;

    /// Bytes of keys and values in the space, in all of its sections. The store keeps the number: this goes through no entries.
    fn used_bytes(&self) -> BoxFuture<'_, Result<u64, StoreError>>;
}

/// A serializable transaction; dropping it aborts it.
pub trait Transaction: Send + Sync {
    /// One entry.
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// Part of a range.
    fn scan<'a>(&'a mut self, range: &'a KeyRange, scan: Scan) -> BoxFuture<'a, Result<Page, StoreError>>;

    /// The first entries of a range that no other open transaction has taken.
    fn take<'a>(&'a mut self, range: &'a KeyRange, limit: usize) -> BoxFuture<'a, Result<Page, StoreError>>;

    /// Writes an entry.
    fn set(&mut self, key: Bytes, value: Bytes) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Removes an entry; returns whether one existed.
    fn delete<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// The entries of many keys, each or none, as far as they fit into [`MAX_PAGE_ENTRIES`] and [`MAX_PAGE_BYTES`]; at least the first.
    fn get_many<'a>(&'a mut self, keys: &'a [Bytes]) -> BoxFuture<'a, Result<Vec<Option<Entry>>, StoreError>> {
        Box::pin(async move {
            let (mut found, mut bytes) = (Vec::new(), 0_usize);
            for key in keys.iter().take(MAX_PAGE_ENTRIES) {
                let entry = self.get(key).await?;
                bytes = bytes.saturating_add(entry.as_ref().map_or(0, Entry::bytes));
                if bytes > MAX_PAGE_BYTES && !found.is_empty() {
                    break;
                }
                found.push(entry);
            }
            Ok(found)
        })
    }

    /// Writes many entries, one after another, or without a value removes them. After an error those before the refused one are written.
    fn write_many(&mut self, changes: Vec<(Bytes, Option<Bytes>)>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            for (key, value) in changes {
                match value {
                    Some(value) => self.set(key, value).await?,
                    None => drop(self.delete(&key).await?),
                }
            }
            Ok(())
        })
    }

    /// Size of the space with this transaction's writes, and the quota: the numbers by which the store refuses a write. The store keeps them.
    fn usage(&mut self) -> BoxFuture<'_, Result<SpaceUsage, StoreError>>;

    /// Place of this transaction among those that ask for the same `group`. It is greater than the place of every earlier one that has committed.
    /// Where several hosts share a store, another transaction that asks for the group waits until this one ends.
    fn order<'a>(&'a mut self, group: &'a [u8]) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// Commits; the writes are durable when it returns.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        for (prefix, end) in [(&b"a"[..], &b"b"[..]), (&[1, 255], &[2]), (&[255, 255], &[])] {
            assert_eq!(after_prefix(prefix), end, "{prefix:?}");
        }
        let range = Section::Data.prefix(b"");
        assert_eq!((&*range.start, &*range.end), (&[1_u8][..], &[2_u8][..]));
    }
}
