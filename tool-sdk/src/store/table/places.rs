//! Where a row is found and counted, as its table's declaration says it from the row alone.

use std::ops::Range;

use serde::{Serialize, de::DeserializeOwned};

use super::{
    super::{
        Index, Key, KeyOf, Map, StoreError, Transaction,
        collections::{append_key, append_value},
    },
    Counts,
};

/// Where a row must be found, and where it counts: filled by the function that a [`Table`](super::Table) is declared with.
#[derive(Debug, Default)]
pub struct Places {
    /// The bytes of all keys and values below, so that none of them has an allocation of its own: most places of a row stay where they are when it changes.
    bytes: Vec<u8>,
    /// Keys and values: few, so that looking for one goes through them.
    entries: Vec<(Range<usize>, Range<usize>)>,
    /// The keys of counts without their part, how many parts they have, and what the row amounts to there.
    counts: Vec<(Range<usize>, u8, i64)>,
}

impl Places {
    /// The row is found in an index.
    pub fn index<G: Key, P: Key>(
        &mut self,
        index: &Index<G, P>,
        group: &(impl KeyOf<G> + ?Sized),
        place: &(impl KeyOf<P> + ?Sized),
    ) {
        let key = self.written(|bytes| append_key::<(G, P)>(index.name, &(group, place), bytes));
        self.entries.push((key, 0..0));
    }

    /// The row is found by a name of its own. Two rows must not have the same one.
    pub fn name<K: Key, V: Serialize + DeserializeOwned>(
        &mut self,
        names: &Map<K, V>,
        name: &(impl KeyOf<K> + ?Sized),
        value: &V,
    ) {
        let key = self.written(|bytes| append_key(names.name, name, bytes));
        // Nothing that is a key is without a JSON form; if it were, the map would call it unreadable.
        let value = self.written(|bytes| append_value(value, bytes).unwrap_or_default());
        self.entries.push((key, value));
    }

    /// The row is one of those that are counted there.
    pub fn count<K: Key>(&mut self, counts: &Counts<K>, key: &(impl KeyOf<K> + ?Sized)) {
        self.sum(counts, key, 1);
    }

    /// The row amounts to so much there.
    pub fn sum<K: Key>(&mut self, counts: &Counts<K>, key: &(impl KeyOf<K> + ?Sized), amount: i64) {
        let key = self.written(|bytes| append_key(counts.name, key, bytes));
        self.counts.push((key, counts.shards, amount));
    }

    fn written(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        /// Room for the places of most rows.
        const MOST_BYTES: usize = 1_024;
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(MOST_BYTES);
        }
        let start = self.bytes.len();
        write(&mut self.bytes);
        start..self.bytes.len()
    }

    fn at(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|(key, value)| (self.at(key), self.at(value)))
    }

    /// The keys of counts without their part, how many parts they have, and what the row amounts to there.
    fn counts(&self) -> impl Iterator<Item = (&[u8], u8, i64)> {
        self.counts.iter().map(|(key, shards, amount)| (self.at(key), *shards, *amount))
    }

    /// Writes all of them.
    pub(super) fn add(&self, t: &Transaction<'_>) -> Result<(), StoreError> {
        self.entries().try_for_each(|(key, value)| t.change_place(key, Some(value)))?;
        t.add_to_counts(self.counts());
        Ok(())
    }

    /// Changes everything that differs from what it was.
    pub(super) fn replace(&self, t: &Transaction<'_>, before: &Self) -> Result<(), StoreError> {
        for (key, _) in before.entries() {
            if self.entries().all(|(kept, _)| kept != key) {
                t.change_place(key, None)?;
            }
        }
        for entry in self.entries() {
            if before.entries().all(|kept| kept != entry) {
                t.change_place(entry.0, Some(entry.1))?;
            }
        }
        if !self.counts().eq(before.counts()) {
            t.add_to_counts(before.counts().map(|(key, shards, amount)| (key, shards, amount.saturating_neg())));
            t.add_to_counts(self.counts());
        }
        Ok(())
    }
}
