//! The contents of an open transaction: what it reads from, and its own writes over that. Its turn owns them, so that they end with the turn.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    base::{Base, Overlay, Own, Pending, Writes},
    file::DataFile,
    space::SpaceState,
    wal::Written,
};
use crate::{
    names::ComponentName,
    store::{Entry, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_WRITES, StoreError, counted_bytes},
};

/// Memory of a write beside its key and value, in bytes: its places in the maps that have it until the disk has it.
const WRITE_OVERHEAD: usize = 128;

/// What an open transaction holds.
#[derive(Debug)]
pub(super) struct TransactionWork {
    component: ComponentName,
    pub(super) base: Arc<Base>,
    /// Writes of earlier transactions that the database does not have.
    pub(super) staged: Overlay,
    /// Whether all of them are durable. Where they are not, the host acknowledges even a read-only transaction only after that.
    is_durable: bool,
    /// This transaction's own writes.
    writes: Writes,
    written_bytes: usize,
    used_bytes: u64,
    version: u64,
}

impl TransactionWork {
    /// Begins on what the space has now.
    pub(super) fn begin(file: &DataFile, space: &SpaceState) -> Self {
        // Under one lock, so that no staged write becomes durable between the two looks.
        let view = space.view();
        Self {
            component: space.component.clone(),
            base: file.base(),
            staged: view.staged.entries.clone(),
            is_durable: view.staged.version == view.durable.version,
            writes: BTreeMap::new(),
            written_bytes: 0,
            used_bytes: view.staged.used_bytes,
            version: view.staged.version.saturating_add(1),
        }
    }

    /// The version that its writes get.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Bytes of keys and values in the space, with its own writes.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Its own writes, for a scan.
    pub(super) fn own(&self) -> Own<'_> {
        Own { writes: &self.writes, version: self.version }
    }

    /// Whether a commit has nothing to make durable.
    pub(super) fn is_settled(&self) -> bool {
        self.writes.is_empty() && self.is_durable
    }

    /// Bytes of memory that its writes take until the disk has them.
    pub(super) fn staged_bytes(&self) -> usize {
        self.written_bytes.saturating_add(self.writes.len().saturating_mul(WRITE_OVERHEAD))
    }

    /// What it leaves in the space. It lets go of all that it reads from: nobody else then has the staged writes, and they grow in place.
    pub(super) fn into_written(self) -> Written {
        let Self { component, version, used_bytes, writes, .. } = self;
        Written { component, version, used_bytes, writes }
    }

    /// The value and version of an entry, as this transaction has left it; the value is in the first place where it is its own.
    fn pending(&self, key: &[u8]) -> Option<(Option<&Bytes>, u64)> {
        let own = self.writes.get(key).map(|value| (value.as_ref(), self.version));
        own.or_else(|| self.staged.get(key).map(|Pending { version, value }| (value.as_ref(), *version)))
    }

    /// One entry.
    pub(super) fn read(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        match self.pending(key) {
            Some((value, version)) => {
                let entry = |value: &Bytes| Entry { key: Bytes::copy_from_slice(key), value: value.clone(), version };
                Ok(value.map(entry))
            }
            None => self.base.get(&self.component, key),
        }
    }

    fn counted(&self, key: &[u8], value_bytes: usize) -> usize {
        counted_bytes(self.component.as_str(), key.len(), value_bytes)
    }

    /// What an entry counts for the quota; none if there is no such entry.
    fn size(&self, key: &[u8]) -> Result<Option<usize>, StoreError> {
        let value_bytes = match self.pending(key) {
            Some((value, _)) => value.map(Bytes::len),
            None => self.base.value_bytes(&self.component, key)?,
        };
        Ok(value_bytes.map(|value_bytes| self.counted(key, value_bytes)))
    }

    /// Writes or, without a value, deletes, where the space may have `limit` bytes; returns whether an entry existed.
    pub(super) fn write(&mut self, key: Bytes, value: Option<Bytes>, limit: u64) -> Result<bool, StoreError> {
        let old = self.size(&key)?;
        if value.is_none() && old.is_none() {
            return Ok(false);
        }
        let new = value.as_ref().map_or(0, |value| self.counted(&key, value.len()));
        let written = key.len().saturating_add(value.as_ref().map_or(0, Bytes::len));
        let written_bytes = self.written_bytes.saturating_add(written);
        if self.writes.len() >= MAX_TRANSACTION_WRITES || written_bytes > MAX_TRANSACTION_BYTES {
            return Err(StoreError::TransactionTooLarge);
        }
        let old_bytes = old.unwrap_or_default();
        let used_bytes = self.used_bytes.saturating_sub(bytes(old_bytes)).saturating_add(bytes(new));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::{base::ENTRIES, layout::SPACES};

    #[test]
    fn tiny_writes_take_more_than_their_bytes() {
        let database = redb::Database::builder().create_with_backend(redb::backends::InMemoryBackend::new());
        let database = database.expect("a database");
        let write = database.begin_write().expect("a transaction");
        write.open_table(ENTRIES).expect("a table");
        write.open_table(SPACES).expect("a table");
        write.commit().expect("committed");
        let mut work = TransactionWork {
            component: ComponentName::new("a").expect("legal"),
            base: Arc::new(Base::new(&database, "a.redb".into()).expect("a base")),
            staged: Overlay::new(),
            is_durable: true,
            writes: Writes::new(),
            written_bytes: 0,
            used_bytes: 0,
            version: 1,
        };
        assert!(work.is_settled());
        for number in 0..MAX_TRANSACTION_WRITES {
            let key = Bytes::copy_from_slice(&u16::try_from(number).expect("small").to_be_bytes());
            work.write(key, Some(Bytes::new()), u64::MAX).expect("written");
        }
        assert_eq!(work.staged_bytes(), MAX_TRANSACTION_WRITES * (2 + 128));
    }
}
