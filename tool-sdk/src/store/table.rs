//! A table: rows by key, with the indexes and counts that its author declares. Every write of a row changes those by the difference, so that they agree with the rows by
//! construction, and none is ever computed by walking.

mod places;

use std::{fmt, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};

pub use self::places::Places;
use super::{
    Key, KeyOf, Map, Prefix, Span, StoreError, Transaction, View,
    collections::{decode_key, decode_value, encode_value, key_of},
};

/// Numbers by key that tables keep: how many rows there are of a kind, or the sum of what they amount to. One that comes to 0 takes no room.
///
/// A transaction writes each number that has changed once, at its end, however often it has changed.
#[derive(Debug)]
pub struct Counts<K> {
    name: &'static str,
    shards: u8,
    types: PhantomData<fn() -> K>,
}

impl<K: Key> Counts<K> {
    /// The counts of this name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, shards: 1, types: PhantomData }
    }

    /// Keeps each number in so many parts, so that several hosts on one database do not all change one entry. Reading it costs as many host calls.
    #[must_use]
    pub const fn sharded(mut self, shards: u8) -> Self {
        self.shards = if shards == 0 { 1 } else { shards };
        self
    }

    fn key(&self, key: &(impl KeyOf<K> + ?Sized), shard: u8) -> Vec<u8> {
        let mut bytes = key_of(self.name, key);
        bytes.push(shard);
        bytes
    }

    /// One number.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get(&self, t: &View<'_>, key: &(impl KeyOf<K> + ?Sized)) -> Result<i64, StoreError> {
        (0..self.shards).try_fold(0_i64, |sum, shard| Ok(sum.saturating_add(t.count(&self.key(key, shard))?)))
    }

    /// Adds to a number.
    pub fn add(&self, t: &Transaction<'_>, key: &(impl KeyOf<K> + ?Sized), delta: i64) {
        t.add_to_counts([(&*key_of(self.name, key), self.shards, delta)]);
    }

    /// The numbers whose keys begin so, in the order of the keys: at most `most` of them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn under(&self, t: &View<'_>, prefix: &impl Prefix<K>, most: usize) -> Result<Vec<(K, i64)>, StoreError>
    where
        K: PartialEq,
    {
        Self::sums(self.parts().narrowed(prefix), t, most)
    }

    /// The numbers at this place and above it, in the order of the keys: at most `most` of them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn from(&self, t: &View<'_>, place: &impl Prefix<K>, most: usize) -> Result<Vec<(K, i64)>, StoreError>
    where
        K: PartialEq,
    {
        Self::sums(self.parts().from(place), t, most)
    }

    /// The parts of all numbers.
    fn parts(&self) -> Span<K, (K, i64)> {
        Span::of(super::collections::beginning(self.name), |key, entry| {
            let (_shard, key) = key.split_last().ok_or(StoreError::Unreadable)?;
            Ok((decode_key(key)?, decode_value(&entry.value)?))
        })
    }

    fn sums(parts: Span<K, (K, i64)>, t: &View<'_>, most: usize) -> Result<Vec<(K, i64)>, StoreError>
    where
        K: PartialEq,
    {
        let mut found: Vec<(K, i64)> = Vec::new();
        for part in parts.walk(t) {
            let (key, part) = part?;
            let is_full = found.len() == most;
            match found.last_mut().filter(|(last, _)| *last == key) {
                Some((_, sum)) => *sum = sum.saturating_add(part),
                None if is_full => break,
                None => found.push((key, part)),
            }
        }
        Ok(found)
    }
}

/// A new row of a [`Table`], encoded.
#[derive(Debug)]
pub struct Prepared {
    key: Vec<u8>,
    row: Vec<u8>,
    places: Places,
}

/// Rows by key, with declared indexes and counts.
///
/// ```
/// use mcpp_tool::store::{Counts, Index, StoreError, Table, snapshot, transact};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Order { customer: String, is_paid: bool, cents: i64 }
///
/// const BY_CUSTOMER: Index<String, u64> = Index::new("orders-by-customer");
/// const UNPAID: Index<(), u64> = Index::new("orders-unpaid");
/// const CENTS: Counts<String> = Counts::new("cents-by-customer");
/// const ORDERS: Table<u64, Order> = Table::new("orders", |number, order, places| {
///     places.index(&BY_CUSTOMER, &order.customer, number);
///     places.sum(&CENTS, &order.customer, order.cents);
///     if !order.is_paid {
///         places.index(&UNPAID, &(), number);
///     }
/// });
///
/// transact(|t| {
///     for (number, cents) in [(1, 500), (2, 250)] {
///         ORDERS.put(t, &number, &Order { customer: "ada".into(), is_paid: false, cents })?;
///     }
///     ORDERS.change(t, &1, |order| order.is_paid = true)?;
///     Ok::<_, StoreError>(())
/// })?;
/// let t = &snapshot()?;
/// assert_eq!(UNPAID.of(&()).collect::<Vec<u64>>(t)?, [2]);
/// assert_eq!(BY_CUSTOMER.of("ada").collect::<Vec<u64>>(t)?, [1, 2]);
/// assert_eq!(CENTS.get(t, "ada")?, 750);
/// # Ok::<(), StoreError>(())
/// ```
///
/// The declaration is part of the data's format: a build that changes it brings a migration, which puts every row once.
pub struct Table<K, V> {
    rows: Map<K, V>,
    declare: fn(&K, &V, &mut Places),
}

impl<K, V> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl<K: Key, V: Clone + Serialize + DeserializeOwned + 'static> Table<K, V> {
    /// The table of this name. `declare` says where a row is found and counted, from the row alone.
    pub const fn new(name: &'static str, declare: fn(&K, &V, &mut Places)) -> Self {
        Self { rows: Map::new(name), declare }
    }

    fn places(&self, key: &K, row: Option<&V>) -> Places {
        let mut places = Places::default();
        if let Some(row) = row {
            (self.declare)(key, row, &mut places);
        }
        places
    }

    /// The store's own key of a row, for [`wait`](super::wait).
    pub fn key(&self, key: &(impl KeyOf<K> + ?Sized)) -> Vec<u8> {
        self.rows.key(key)
    }

    /// One row.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get(&self, t: &View<'_>, key: &(impl KeyOf<K> + ?Sized)) -> Result<Option<V>, StoreError> {
        let key = self.key(key);
        if let Some(row) = t.row(&key) {
            return Ok(Some(row));
        }
        let read = t.decoded(&key, |value| Ok((decode_value(value)?, value.len())))?;
        Ok(read.map(|(row, bytes)| {
            t.learn_row(key, &row, bytes);
            row
        }))
    }

    /// One row that the caller writes anew or removes. Costs less than [`Table::get`], which keeps the row for the next one that reads it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get_to_change(&self, t: &Transaction<'_>, key: &(impl KeyOf<K> + ?Sized)) -> Result<Option<V>, StoreError> {
        let key = self.key(key);
        match t.take_row(&key) {
            Some(row) => Ok(Some(row)),
            None => t.decoded(&key, decode_value),
        }
    }

    /// Reads many rows at once, so that getting each costs little afterwards: see [`View::read_ahead`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn read_ahead<'k, Q: KeyOf<K> + ?Sized + 'k>(
        &self,
        t: &View<'_>,
        keys: impl IntoIterator<Item = &'k Q>,
    ) -> Result<(), StoreError> {
        self.rows.read_ahead(t, keys)
    }

    /// One row and its version; `(None, 0)` if there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get_versioned(&self, t: &View<'_>, key: &(impl KeyOf<K> + ?Sized)) -> Result<(Option<V>, u64), StoreError> {
        self.rows.get_versioned(t, key)
    }

    /// All rows, in the order of their keys.
    pub fn all(&self) -> Span<K, (K, V)> {
        self.rows.all()
    }

    /// The rows whose keys begin so.
    pub fn under(&self, prefix: &impl Prefix<K>) -> Span<K, (K, V)> {
        self.rows.under(prefix)
    }

    /// Writes a row, new or in the place of the one with this key; the row before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn put(&self, t: &Transaction<'_>, key: &K, row: &V) -> Result<Option<V>, StoreError> {
        let before = self.get_to_change(t, key)?;
        self.replace(t, key, before.as_ref(), Some(row))?;
        Ok(before)
    }

    /// Changes a row, if there is one; the row then.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn change(&self, t: &Transaction<'_>, key: &K, change: impl FnOnce(&mut V)) -> Result<Option<V>, StoreError> {
        let Some(mut row) = self.get_to_change(t, key)? else { return Ok(None) };
        let before = self.places(key, Some(&row));
        change(&mut row);
        self.set(t, key, &row)?;
        self.places(key, Some(&row)).replace(t, &before)?;
        Ok(Some(row))
    }

    /// Writes a row alone, without its places.
    fn set(&self, t: &Transaction<'_>, key: &K, row: &V) -> Result<(), StoreError> {
        let (key, value) = (self.key(key), encode_value(row)?);
        let bytes = value.len();
        t.change(key.clone(), Some(value))?;
        t.learn_row(key, row, bytes);
        Ok(())
    }

    /// Makes a new row ready to be written, before a transaction is open: the encoding takes most of the time.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn prepare(&self, key: &K, row: &V) -> Result<Prepared, StoreError> {
        Ok(Prepared { key: self.key(key), row: encode_value(row)?, places: self.places(key, Some(row)) })
    }

    /// Writes a row that is ready. There must be none with its key.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn insert(&self, t: &Transaction<'_>, row: &Prepared) -> Result<(), StoreError> {
        t.set(&row.key, &row.row)?;
        row.places.add(t)
    }

    /// Removes a row; the row that was there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn remove(&self, t: &Transaction<'_>, key: &K) -> Result<Option<V>, StoreError> {
        let before = self.get_to_change(t, key)?;
        self.replace(t, key, before.as_ref(), None)?;
        Ok(before)
    }

    /// Writes (or removes, for none) a row whose stored form the caller knows already: `before` must be the row as it is in this transaction. Nothing has changed
    /// where the row is too large.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn replace(
        &self,
        t: &Transaction<'_>,
        key: &K,
        before: Option<&V>,
        after: Option<&V>,
    ) -> Result<(), StoreError> {
        match after {
            // First, so that a row that is too large has changed nothing.
            Some(row) => self.set(t, key, row)?,
            None if before.is_some() => t.discard(&self.key(key))?,
            None => {}
        }
        self.places(key, after).replace(t, &self.places(key, before))
    }
}

#[cfg(test)]
mod tests;
