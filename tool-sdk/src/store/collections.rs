//! Collections over the store: a map, an index, an ordered queue, a counter.
//!
//! Each has a name of its own, which is the beginning of its keys; values are JSON, so that their types may gain fields. All take the transaction (or the snapshot) to
//! work in, so what belongs together is changed together.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Entry, Key, KeyOf, Prefix, Span, StoreError, Transaction, View,
    codec::{self},
};

/// The beginning of the keys of a collection.
pub(super) fn beginning(name: &str) -> Vec<u8> {
    key_of::<()>(name, &())
}

pub(super) fn key_of<K>(name: &str, key: &(impl KeyOf<K> + ?Sized)) -> Vec<u8> {
    /// Room for most keys, so that they need not grow.
    const MOST_KEYS: usize = 96;
    let mut bytes = Vec::with_capacity(MOST_KEYS);
    append_key(name, key, &mut bytes);
    bytes
}

/// Appends the key of an entry of a collection.
pub(super) fn append_key<K>(name: &str, key: &(impl KeyOf<K> + ?Sized), bytes: &mut Vec<u8>) {
    codec::encode_bytes(name.as_bytes(), bytes);
    key.encode(bytes);
}

/// A key that is all of `bytes`.
pub(super) fn decode_key<K: Key>(mut bytes: &[u8]) -> Result<K, StoreError> {
    let key = K::decode(&mut bytes).ok_or(StoreError::Unreadable)?;
    if bytes.is_empty() { Ok(key) } else { Err(StoreError::Unreadable) }
}

pub(super) fn decode_value<V: DeserializeOwned>(value: &[u8]) -> Result<V, StoreError> {
    serde_json::from_slice(value).map_err(|_| StoreError::Unreadable)
}

/// Appends a value's encoded form.
pub(super) fn append_value(value: &impl Serialize, bytes: &mut Vec<u8>) -> Result<(), StoreError> {
    serde_json::to_writer(bytes, value).map_err(|_| StoreError::Unreadable)
}

pub(super) fn encode_value(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|_| StoreError::Unreadable)
}

/// Removes entries of the collection of this name, whatever it is, at most so many; whether it has none left. For a migration that has a better form for them.
///
/// # Errors
/// See [`StoreError`].
pub fn remove_collection(t: &Transaction<'_>, name: &str, most: usize) -> Result<bool, StoreError> {
    let all: Span<(), Vec<u8>> = Span::of(beginning(name), |_, entry| Ok(entry.key.clone()));
    for key in all.clone().most(most).walk(t) {
        t.discard(&key?)?;
    }
    all.is_empty(t)
}

/// Entries by key, in the order of the keys.
#[derive(Debug)]
pub struct Map<K, V> {
    pub(super) name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Serialize + DeserializeOwned> Map<K, V> {
    /// The map of this name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The store's own key of an entry, for [`wait`](super::wait).
    pub fn key(&self, key: &(impl KeyOf<K> + ?Sized)) -> Vec<u8> {
        key_of(self.name, key)
    }

    /// One value.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get(&self, t: &View<'_>, key: &(impl KeyOf<K> + ?Sized)) -> Result<Option<V>, StoreError> {
        t.decoded(&self.key(key), decode_value)
    }

    /// One value and its version; `(None, 0)` if there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get_versioned(&self, t: &View<'_>, key: &(impl KeyOf<K> + ?Sized)) -> Result<(Option<V>, u64), StoreError> {
        match t.get(&self.key(key))? {
            Some(entry) => Ok((Some(decode_value(&entry.value)?), entry.version)),
            None => Ok((None, 0)),
        }
    }

    /// Reads many values at once, so that getting each costs little afterwards: see [`View::read_ahead`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn read_ahead<'k, Q: KeyOf<K> + ?Sized + 'k>(
        &self,
        t: &View<'_>,
        keys: impl IntoIterator<Item = &'k Q>,
    ) -> Result<(), StoreError> {
        t.read_ahead(keys.into_iter().map(|key| self.key(key)))
    }

    /// Writes one value.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn set(&self, t: &Transaction<'_>, key: &(impl KeyOf<K> + ?Sized), value: &V) -> Result<(), StoreError> {
        t.change(self.key(key), Some(encode_value(value)?))
    }

    /// Removes one value; whether there was one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn remove(&self, t: &Transaction<'_>, key: &(impl KeyOf<K> + ?Sized)) -> Result<bool, StoreError> {
        t.delete(&self.key(key))
    }

    /// All entries.
    pub fn all(&self) -> Span<K, (K, V)> {
        Span::of(beginning(self.name), |key, entry| Ok((decode_key(key)?, decode_value(&entry.value)?)))
    }

    /// The entries whose keys begin so: `("ada",)` for all `("ada", …)`.
    pub fn under(&self, prefix: &impl Prefix<K>) -> Span<K, (K, V)> {
        self.all().narrowed(prefix)
    }
}

/// Which `P`s there are for a `K`: a set of pairs, found by the first.
#[derive(Debug)]
pub struct Index<K, P> {
    pub(super) name: &'static str,
    types: PhantomData<fn() -> (K, P)>,
}

impl<K: Key, P: Key> Index<K, P> {
    /// The index of this name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    pub(super) fn key(&self, key: &(impl KeyOf<K> + ?Sized), value: &(impl KeyOf<P> + ?Sized)) -> Vec<u8> {
        key_of::<(K, P)>(self.name, &(key, value))
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn insert(
        &self,
        t: &Transaction<'_>,
        key: &(impl KeyOf<K> + ?Sized),
        value: &(impl KeyOf<P> + ?Sized),
    ) -> Result<(), StoreError> {
        t.change(self.key(key, value), Some(Vec::new()))
    }

    /// Removes a pair; whether it was there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn remove(
        &self,
        t: &Transaction<'_>,
        key: &(impl KeyOf<K> + ?Sized),
        value: &(impl KeyOf<P> + ?Sized),
    ) -> Result<bool, StoreError> {
        t.delete(&self.key(key, value))
    }

    /// The values of `key`, in order.
    pub fn of(&self, key: &(impl KeyOf<K> + ?Sized)) -> Span<P> {
        Span::of(key_of(self.name, key), |place, _| decode_key(place))
    }

    /// All pairs, in order.
    pub fn all(&self) -> Span<(K, P)> {
        Span::of(beginning(self.name), |pair, _| decode_key(pair))
    }
}

/// A place in a queue: its order, and its number among those with the same order.
pub type Place<O> = (O, u64);

/// A queue in the order of `O`, then first in, first out.
#[derive(Debug)]
pub struct Queue<O, V> {
    name: &'static str,
    types: PhantomData<fn() -> (O, V)>,
}

impl<O: Key, V: Serialize + DeserializeOwned> Queue<O, V> {
    /// The queue of this name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// Adds a value; its number, which with its order names its place.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn push(&self, t: &Transaction<'_>, order: O, value: &V) -> Result<Place<O>, StoreError> {
        let last = key_of::<u8>(self.name, &0_u8);
        let number = t.decoded(&last, decode_value::<u64>)?.map_or(1, |number| number.saturating_add(1));
        t.set(&last, &encode_value(&number)?)?;
        let place = (order, number);
        t.set(&self.place(&place), &encode_value(value)?)?;
        Ok(place)
    }

    fn place(&self, place: &Place<O>) -> Vec<u8> {
        let mut key = key_of::<u8>(self.name, &1_u8);
        place.encode(&mut key);
        key
    }

    /// The first values that no other open transaction has taken, with their places: at most `limit`, 1,000, and 1 MiB. They stay until they are removed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn take(&self, t: &Transaction<'_>, limit: u32) -> Result<Vec<(Place<O>, V)>, StoreError> {
        self.all().take(t, limit)
    }

    /// All values with their places, the next one first.
    pub fn all(&self) -> Span<Place<O>, (Place<O>, V)> {
        let decode = |place: &[u8], entry: &Entry| Ok((decode_key(place)?, decode_value(&entry.value)?));
        Span::of(key_of::<u8>(self.name, &1_u8), decode)
    }

    /// Removes the value at a place; whether it was there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn remove(&self, t: &Transaction<'_>, place: Place<O>) -> Result<bool, StoreError> {
        t.delete(&self.place(&place))
    }
}

/// A number.
#[derive(Debug)]
pub struct Counter {
    name: &'static str,
}

impl Counter {
    /// The counter of this name; 0 at first.
    pub const fn new(name: &'static str) -> Self {
        Self { name }
    }

    /// The number.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get(&self, t: &View<'_>) -> Result<i64, StoreError> {
        Ok(t.decoded(&beginning(self.name), decode_value)?.unwrap_or_default())
    }

    /// Adds to the number, up to the ends of `i64`; the number then.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn add(&self, t: &Transaction<'_>, delta: i64) -> Result<i64, StoreError> {
        let number = self.get(t)?.saturating_add(delta);
        t.set(&beginning(self.name), &encode_value(&number)?)?;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{memory, snapshot, transact};

    const MAP: Map<(String, u64), Vec<u32>> = Map::new("map");
    const INDEX: Index<String, u64> = Index::new("index");
    const QUEUE: Queue<i64, String> = Queue::new("queue");
    const COUNTER: Counter = Counter::new("counter");

    #[test]
    fn a_map_is_ordered_and_paged() {
        memory::clear();
        transact::<_, StoreError>(|t| {
            for (a, n) in [("b", 1), ("a", 2), ("a", 1), ("a\0", 9)] {
                MAP.set(t, &(a, n), &vec![1, 2])?;
            }
            assert!(MAP.remove(t, &("b", 1))?);
            assert!(!MAP.remove(t, &("b", 1))?);
            Ok(())
        })
        .expect("committed");
        let t = &snapshot().expect("a snapshot");
        type Key = (String, u64);
        let keys = |span: Span<Key, (Key, Vec<u32>)>| -> Vec<Key> {
            span.walk(t).map(|row| row.expect("readable").0).collect()
        };
        assert_eq!(keys(MAP.all().after(&("a", 1))), [("a".to_owned(), 2), ("a\0".into(), 9)]);
        assert_eq!(keys(MAP.all().descending().most(1)), [("a\0".to_owned(), 9)]);
        assert_eq!(keys(MAP.all().descending().after(&("a", 2))), [("a".to_owned(), 1)]);
        assert_eq!(keys(MAP.under(&("a",))), [("a".to_owned(), 1), ("a".into(), 2)]);
        assert_eq!(keys(MAP.all().from(&("a", 2)).below(&("a\0",))), [("a".to_owned(), 2)]);
        assert_eq!(MAP.get(t, &("a", 1)), Ok(Some(vec![1, 2])));
    }

    #[test]
    fn a_walk_reads_little_where_little_is_wanted_and_goes_on_where_another_stopped() {
        memory::clear();
        transact(|t| (0..5_000_u64).try_for_each(|number| INDEX.insert(t, "x", &number))).expect("committed");
        let t = &snapshot().expect("a snapshot");
        let mut walk = INDEX.of("x").walk(t);
        assert_eq!(walk.by_ref().take(10).collect::<Result<Vec<_>, _>>(), Ok((0..10).collect()));
        assert!(t.spent().bytes < 1_000, "{:?}", t.spent());
        let rest: Vec<u64> = INDEX.of("x").behind(walk.cursor()).collect(t).expect("read");
        assert_eq!(rest, (10..5_000).collect::<Vec<u64>>());
        assert!(t.spent().ops < 12, "{:?}", t.spent());
        let back: Vec<u64> = INDEX.of("x").descending().most(2_000).collect(t).expect("read");
        assert_eq!(back, (3_000..5_000).rev().collect::<Vec<u64>>());
    }

    #[test]
    fn an_index_and_a_queue_and_a_counter() {
        memory::clear();
        transact::<_, StoreError>(|t| {
            for (key, value) in [("x", 3), ("x", 1), ("y", 2), ("xx", 5)] {
                INDEX.insert(t, key, &value)?;
            }
            assert_eq!(INDEX.of("x").collect::<Vec<_>>(t)?, [1, 3]);
            assert_eq!(INDEX.of("x").after(&1).collect::<Vec<_>>(t)?, [3]);
            for (order, value) in [(5, "later"), (-5, "first"), (5, "last")] {
                QUEUE.push(t, order, &value.to_owned())?;
            }
            let taken = QUEUE.take(t, 2)?;
            assert_eq!(taken.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["first", "later"]);
            for (place, _) in taken {
                assert!(QUEUE.remove(t, place)?);
            }
            assert_eq!(QUEUE.take(t, 2)?.len(), 1);
            assert_eq!((COUNTER.add(t, 2)?, COUNTER.add(t, -5)?, COUNTER.get(t)?), (2, -3, -3));
            Ok(())
        })
        .expect("committed");
    }

    #[test]
    fn a_collection_is_removed_and_no_other() {
        memory::clear();
        const OTHER: Map<u8, ()> = Map::new("map ");
        transact::<_, StoreError>(|t| {
            (0..5).try_for_each(|number| MAP.set(t, &("x", number), &vec![]))?;
            OTHER.set(t, &1, &())?;
            assert_eq!((remove_collection(t, "map", 3)?, remove_collection(t, "map", 3)?), (false, true));
            assert_eq!((MAP.all().is_empty(t)?, OTHER.all().is_empty(t)?), (true, false));
            Ok(())
        })
        .expect("committed");
    }

    #[test]
    fn what_fails_has_not_happened() {
        memory::clear();
        let failed = transact(|t| {
            COUNTER.add(t, 1)?;
            t.emit("topic", "key", b"payload")?;
            Err::<(), _>(StoreError::Unreadable)
        });
        assert_eq!(failed, Err(StoreError::Unreadable));
        assert_eq!(COUNTER.get(&snapshot().expect("a snapshot")), Ok(0));
        assert!(memory::emitted().is_empty());
        let nested = transact::<_, StoreError>(|_| transact(|t| COUNTER.add(t, 1)));
        assert_eq!(nested, Err(StoreError::TransactionOpen));
    }
}
