//! Rows that a transaction has read or written, as their tables have them: a row is decoded once in a transaction, however often it is read and changed.

use std::{any::Any, collections::BTreeMap};

/// Bytes of encoded rows that are kept. With more, all are forgotten.
const MAX_BYTES: usize = 2 << 20;

/// Decoded rows, by the store's own keys.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<Vec<u8>, (Box<dyn Any>, usize)>,
    bytes: usize,
}

impl Rows {
    /// A row, and the bytes of its encoded form.
    pub(super) fn find<V: Clone + 'static>(&self, key: &[u8]) -> Option<(V, usize)> {
        let (row, bytes) = self.rows.get(key)?;
        Some((row.downcast_ref::<V>()?.clone(), *bytes))
    }

    /// A row that the caller writes anew or removes, and the bytes of its encoded form. It is forgotten.
    pub(super) fn take<V: 'static>(&mut self, key: &[u8]) -> Option<(V, usize)> {
        let (row, bytes) = self.forget(key)?;
        Some((*row.downcast().ok()?, bytes))
    }

    /// Keeps a row that is as it is stored in this transaction.
    pub(super) fn learn<V: 'static>(&mut self, key: Vec<u8>, row: V, bytes: usize) {
        self.forget(&key);
        if self.bytes.saturating_add(bytes) > MAX_BYTES {
            self.rows.clear();
            self.bytes = 0;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.rows.insert(key, (Box::new(row), bytes));
    }

    /// Forgets a row, because its entry is written otherwise.
    pub(super) fn forget(&mut self, key: &[u8]) -> Option<(Box<dyn Any>, usize)> {
        let (row, bytes) = self.rows.remove(key)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        Some((row, bytes))
    }
}
