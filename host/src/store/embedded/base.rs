//! Entries in the database: one read transaction, replaced after every checkpoint, and the merge of pending writes over it.

use std::{cmp::Ordering, collections::BTreeMap, iter::Peekable, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use redb::{ReadOnlyTable, ReadableDatabase as _, TableDefinition};

use super::{file::DataFile, unavailable};
use crate::{
    names::ComponentName,
    store::{
        ABSENT, Entry, KeyRange, MAX_PAGE_BYTES, MAX_PAGE_ENTRIES, Order, Page, Scan, Snapshot, StoreError, Unavailable,
    },
};

/// `component NUL key` → version (8 bytes, little end first) and value. A component's name has no NUL, so no space reaches into another.
pub(super) const ENTRIES: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("entries");
const VERSION_BYTES: usize = 8;

/// The entries in the database at one moment.
pub(super) struct Base {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    path: PathBuf,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A key or value as redb holds it.
type Found<'a> = redb::AccessGuard<'a, &'static [u8]>;

/// One write that the database does not have yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) version: u64,
    /// None for a deletion.
    pub(super) value: Option<Bytes>,
}

/// Pending writes by key of the space; a clone shares all entries that do not change afterwards.
pub(super) type Overlay = rpds::RedBlackTreeMapSync<Bytes, Pending>;

/// The own writes of an open transaction, by key of the space; none for a deletion.
pub(super) type Writes = BTreeMap<Bytes, Option<Bytes>>;

/// The own writes of an open transaction, and the version that they get.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) writes: &'a Writes,
    pub(super) version: u64,
}

/// Key of an entry in the file.
pub(super) fn full_key(component: &ComponentName, key: &[u8]) -> Vec<u8> {
    let name = component.as_str().as_bytes();
    let mut full = Vec::with_capacity(name.len().saturating_add(key.len()).saturating_add(1));
    full.extend_from_slice(name);
    full.push(0);
    full.extend_from_slice(key);
    full
}

/// Value of an entry in the file.
pub(super) fn stored(version: u64, value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(value.len().saturating_add(VERSION_BYTES));
    stored.extend_from_slice(&version.to_le_bytes());
    stored.extend_from_slice(value);
    stored
}

impl Base {
    pub(super) fn new(database: &redb::Database, path: PathBuf) -> Result<Self, redb::Error> {
        let table = database.begin_read()?.open_table(ENTRIES)?;
        Ok(Self { table, path })
    }

    fn entry(&self, key: Bytes, stored: &[u8]) -> Result<Entry, StoreError> {
        let Some((version, value)) = stored.split_first_chunk::<VERSION_BYTES>() else {
            let source = "an entry has no version".into();
            return Err(Unavailable::Corrupt { path: self.path.clone(), source }.into());
        };
        Ok(Entry { key, value: Bytes::copy_from_slice(value), version: u64::from_le_bytes(*version) })
    }

    fn failed(&self, error: redb::StorageError) -> StoreError {
        unavailable(&self.path, error.into()).into()
    }

    pub(super) fn get(&self, component: &ComponentName, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let found = self.table.get(&*full_key(component, key)).map_err(|error| self.failed(error))?;
        found.map(|stored| self.entry(Bytes::copy_from_slice(key), stored.value())).transpose()
    }

    /// The version of an entry, without copying its value.
    pub(super) fn version(&self, component: &ComponentName, key: &[u8]) -> Result<u64, StoreError> {
        let found = self.table.get(&*full_key(component, key)).map_err(|error| self.failed(error))?;
        let version =
            found.and_then(|stored| Some(u64::from_le_bytes(*stored.value().first_chunk::<VERSION_BYTES>()?)));
        Ok(version.unwrap_or(ABSENT))
    }

    /// How long the value of an entry is, without copying it.
    pub(super) fn value_bytes(&self, component: &ComponentName, key: &[u8]) -> Result<Option<usize>, StoreError> {
        let found = self.table.get(&*full_key(component, key)).map_err(|error| self.failed(error))?;
        Ok(found.map(|stored| stored.value().len().saturating_sub(VERSION_BYTES)))
    }

    /// Part of a range, with `staged` over it, and over that the `own` writes of a transaction.
    pub(super) fn scan(
        &self,
        component: &ComponentName,
        staged: &Overlay,
        own: Option<Own<'_>>,
        range: &KeyRange,
        scan: Scan,
    ) -> Result<Page, StoreError> {
        if range.is_empty() || scan.limit == 0 {
            return Ok(Page::default());
        }
        let strip = component.as_str().len().saturating_add(1);
        let (start, end) = (full_key(component, &range.start), full_key(component, &range.end));
        let durable = self.table.range::<&[u8]>(&*start..&*end).map_err(|error| self.failed(error))?;
        let entry = |found: Result<(Found<'_>, Found<'_>), redb::StorageError>| {
            let (key, stored) = found.map_err(|error| self.failed(error))?;
            let key = Bytes::copy_from_slice(key.value().get(strip..).unwrap_or_default());
            self.entry(key, stored.value())
        };
        let keys = || range.start.clone()..range.end.clone();
        let staged = staged.range(keys()).map(|(key, pending)| (key, pending.value.as_ref(), pending.version));
        let own = own
            .into_iter()
            .flat_map(|own| own.writes.range(keys()).map(move |(key, value)| (key, value.as_ref(), own.version)));
        match scan.order {
            Order::Ascending => page(durable.map(entry), over(own, staged, scan.order), scan),
            Order::Descending => page(durable.rev().map(entry), over(own.rev(), staged.rev(), scan.order), scan),
        }
    }
}

/// A write that is not durable yet: its key, its value if it is no deletion, and its version.
type PendingWrite<'a> = (&'a Bytes, Option<&'a Bytes>, u64);

fn compare(one: &Bytes, other: &Bytes, order: Order) -> Ordering {
    match order {
        Order::Ascending => one.cmp(other),
        Order::Descending => other.cmp(one),
    }
}

/// Merges two runs of writes; where both have a key the upper one stands.
fn over<'a>(
    upper: impl Iterator<Item = PendingWrite<'a>>,
    lower: impl Iterator<Item = PendingWrite<'a>>,
    order: Order,
) -> Peekable<impl Iterator<Item = PendingWrite<'a>>> {
    let (mut upper, mut lower) = (upper.peekable(), lower.peekable());
    let merged = std::iter::from_fn(move || match (upper.peek(), lower.peek()) {
        (Some((above, ..)), Some((below, ..))) => match compare(above, below, order) {
            Ordering::Less => upper.next(),
            Ordering::Equal => lower.next().and(upper.next()),
            Ordering::Greater => lower.next(),
        },
        (Some(_), None) => upper.next(),
        (None, _) => lower.next(),
    });
    merged.peekable()
}

/// Merges two runs in the order of the scan; where both have a key the pending write stands.
fn page<'a>(
    durable: impl Iterator<Item = Result<Entry, StoreError>>,
    mut pending: Peekable<impl Iterator<Item = PendingWrite<'a>>>,
    scan: Scan,
) -> Result<Page, StoreError> {
    let limit = scan.limit.min(MAX_PAGE_ENTRIES);
    let mut durable = durable.peekable();
    let (mut page, mut bytes) = (Page::default(), 0_usize);
    loop {
        let first = match (durable.peek(), pending.peek()) {
            (None, None) => return Ok(page),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(Err(_)), Some(_)) => Ordering::Less,
            (Some(Ok(entry)), Some((key, ..))) => compare(&entry.key, key, scan.order),
        };
        let found = match first {
            Ordering::Less => durable.next().transpose()?,
            Ordering::Equal => {
                durable.next();
                live(pending.next())
            }
            Ordering::Greater => live(pending.next()),
        };
        let Some(entry) = found else { continue };
        bytes = bytes.saturating_add(entry.bytes());
        if page.entries.len() >= limit || (bytes > MAX_PAGE_BYTES && !page.entries.is_empty()) {
            page.more = true;
            return Ok(page);
        }
        page.entries.push(entry);
    }
}

/// The entry that a pending write makes, unless it is a deletion.
fn live(pending: Option<PendingWrite<'_>>) -> Option<Entry> {
    let (key, value, version) = pending?;
    Some(Entry { key: key.clone(), value: value?.clone(), version })
}

/// A snapshot for a guest or the host. As long as it lives, the file cannot reuse the pages that it sees.
#[derive(Debug)]
pub(super) struct DurableSnapshot {
    // The file stays open as long as the snapshot.
    _file: Arc<DataFile>,
    base: Arc<Base>,
    /// Durable writes that only the log has.
    logged: Overlay,
    component: ComponentName,
}

impl DurableSnapshot {
    pub(super) fn new(file: Arc<DataFile>, component: &ComponentName) -> Self {
        let (base, logged) = file.durable(component);
        Self { _file: file, base, logged, component: component.clone() }
    }

    fn read(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        match self.logged.get_key_value(key) {
            Some((key, Pending { version, value })) => Ok(live(Some((key, value.as_ref(), *version)))),
            None => self.base.get(&self.component, key),
        }
    }
}

impl Snapshot for DurableSnapshot {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(std::future::ready(self.read(key)))
    }

    fn scan<'a>(&'a self, range: &'a KeyRange, scan: Scan) -> BoxFuture<'a, Result<Page, StoreError>> {
        Box::pin(std::future::ready(self.base.scan(&self.component, &self.logged, None, range, scan)))
    }
}
