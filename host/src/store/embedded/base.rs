//! Entries in the database: one read transaction, replaced after every checkpoint.

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use redb::{AccessGuard, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{layout::SPACES, unavailable};
use crate::{
    names::ComponentName,
    store::{ABSENT, Entry, StoreError, Unavailable},
};

/// `component NUL key` → version (8 bytes, little end first) and value. A component's name has no NUL, so no space reaches into another.
pub(super) const ENTRIES: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("entries");
/// Bytes of a version, before the value.
pub(super) const VERSION_BYTES: usize = 8;

/// The entries in the database at one moment.
pub(super) struct Base {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    /// Size and version of each space.
    spaces: ReadOnlyTable<&'static str, (u64, u64)>,
    path: PathBuf,
    /// Bytes of keys and values of all spaces.
    used_bytes: u64,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("path", &self.path).finish_non_exhaustive()
    }
}

/// An entry as redb holds it: nothing of it is copied.
pub(super) struct Found<'a> {
    key: AccessGuard<'a, &'static [u8]>,
    stored: AccessGuard<'a, &'static [u8]>,
}

impl Found<'_> {
    /// Its key in the space, behind the component's name and the NUL.
    pub(super) fn key(&self, strip: usize) -> &[u8] {
        self.key.value().get(strip..).unwrap_or_default()
    }

    /// Its version and value.
    pub(super) fn stored(&self) -> &[u8] {
        self.stored.value()
    }

    /// Bytes of its value.
    pub(super) fn value_bytes(&self) -> usize {
        self.stored().len().saturating_sub(VERSION_BYTES)
    }

    /// Bytes of its key in the space and its value.
    pub(super) fn bytes(&self, strip: usize) -> usize {
        self.key(strip).len().saturating_add(self.value_bytes())
    }
}

/// One write that the database does not have yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) version: u64,
    /// None for a deletion.
    pub(super) value: Option<Bytes>,
}

/// Pending writes by key of the space; a clone shares all entries that do not change afterwards.
pub(super) type Overlay = imbl::OrdMap<Bytes, Pending>;

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
        let read = database.begin_read()?;
        let mut used_bytes = 0_u64;
        for space in read.open_table(SPACES)?.iter()? {
            used_bytes = used_bytes.saturating_add(space?.1.value().0);
        }
        Ok(Self { table: read.open_table(ENTRIES)?, spaces: read.open_table(SPACES)?, path, used_bytes })
    }

    /// Bytes of keys and values of all spaces.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Bytes of keys and values of one space.
    pub(super) fn used_bytes_of(&self, component: &ComponentName) -> Result<u64, StoreError> {
        let found = self.spaces.get(component.as_str()).map_err(|error| self.failed(error))?;
        Ok(found.map(|record| record.value().0).unwrap_or_default())
    }

    /// The entries between two keys of the file.
    pub(super) fn range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> Result<impl DoubleEndedIterator<Item = Result<Found<'_>, StoreError>>, StoreError> {
        let range = self.table.range::<&[u8]>(start..end).map_err(|error| self.failed(error))?;
        Ok(range.map(|found| {
            let (key, stored) = found.map_err(|error| self.failed(error))?;
            Ok(Found { key, stored })
        }))
    }

    /// An entry, with a copy of its value.
    pub(super) fn entry(&self, key: Bytes, stored: &[u8]) -> Result<Entry, StoreError> {
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
}
