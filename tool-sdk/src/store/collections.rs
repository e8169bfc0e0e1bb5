//! Collections over the store: a map, an index, an ordered queue, a counter.
//!
//! Each has a name of its own, which is the beginning of its keys; values are JSON, so that their types may gain fields. All take the transaction (or the snapshot) to
//! work in, so what belongs together is changed together.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Entry, Key, Order, Range, Read, StoreError, Write,
    codec::{self},
};

fn prefix(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode_bytes(name.as_bytes(), &mut bytes);
    bytes
}

fn key_of(name: &str, key: &impl Key) -> Vec<u8> {
    let mut bytes = prefix(name);
    key.encode(&mut bytes);
    bytes
}

/// All keys that start with `prefix`.
fn under(prefix: Vec<u8>) -> Range {
    let mut end = prefix.clone();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Range { start: prefix, end: Some(end) };
        }
    }
    Range { start: prefix, end: None }
}

fn decode_key<K: Key>(name: &str, entry: &Entry) -> Result<K, StoreError> {
    let mut bytes = entry.key.strip_prefix(&*prefix(name)).ok_or(StoreError::Unreadable)?;
    let key = K::decode(&mut bytes).ok_or(StoreError::Unreadable)?;
    if bytes.is_empty() { Ok(key) } else { Err(StoreError::Unreadable) }
}

fn decode_value<V: DeserializeOwned>(entry: &Entry) -> Result<V, StoreError> {
    serde_json::from_slice(&entry.value).map_err(|_| StoreError::Unreadable)
}

fn encode_value(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|_| StoreError::Unreadable)
}

/// Entries by key, in the order of the keys.
#[derive(Debug)]
pub struct Map<K, V> {
    name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Serialize + DeserializeOwned> Map<K, V> {
    /// The map of this name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The store's own key of an entry, for [`wait`](super::wait).
    pub fn key(&self, key: &K) -> Vec<u8> {
        key_of(self.name, key)
    }

    /// One value.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get(&self, t: &mut (impl Read + ?Sized), key: &K) -> Result<Option<V>, StoreError> {
        t.get(&self.key(key))?.as_ref().map(decode_value).transpose()
    }

    /// One value and its version; `(None, 0)` if there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get_versioned(&self, t: &mut (impl Read + ?Sized), key: &K) -> Result<(Option<V>, u64), StoreError> {
        match t.get(&self.key(key))? {
            Some(entry) => Ok((Some(decode_value(&entry)?), entry.version)),
            None => Ok((None, 0)),
        }
    }

    /// Writes one value.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn set(&self, t: &mut (impl Write + ?Sized), key: &K, value: &V) -> Result<(), StoreError> {
        t.set(&self.key(key), &encode_value(value)?)
    }

    /// Removes one value; whether there was one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn remove(&self, t: &mut (impl Write + ?Sized), key: &K) -> Result<bool, StoreError> {
        t.delete(&self.key(key))
    }

    /// Entries after `after` (all if none), in order: at most `limit`, 1,000, and 1 MiB.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn page(
        &self,
        t: &mut (impl Read + ?Sized),
        after: Option<&K>,
        limit: u32,
        order: Order,
    ) -> Result<Vec<(K, V)>, StoreError> {
        let mut range = under(prefix(self.name));
        match (after.map(|key| self.key(key)), order) {
            (None, _) => {}
            (Some(mut key), Order::Ascending) => {
                key.push(0);
                range.start = key;
            }
            (Some(key), Order::Descending) => range.end = Some(key),
        }
        let page = t.scan(&range, limit, order)?;
        page.entries.iter().map(|entry| Ok((decode_key(self.name, entry)?, decode_value(entry)?))).collect()
    }
}

/// Which `P`s there are for a `K`: a set of pairs, found by the first.
#[derive(Debug)]
pub struct Index<K, P> {
    name: &'static str,
    types: PhantomData<fn() -> (K, P)>,
}

impl<K: Key, P: Key> Index<K, P> {
    /// The index of this name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    fn key(&self, key: &K, value: &P) -> Vec<u8> {
        let mut bytes = key_of(self.name, key);
        value.encode(&mut bytes);
        bytes
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn insert(&self, t: &mut (impl Write + ?Sized), key: &K, value: &P) -> Result<(), StoreError> {
        t.set(&self.key(key, value), &[])
    }

    /// Removes a pair; whether it was there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn remove(&self, t: &mut (impl Write + ?Sized), key: &K, value: &P) -> Result<bool, StoreError> {
        t.delete(&self.key(key, value))
    }

    /// The values of `key`, in order, after `after` (all if none): at most `limit` and 1,000.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn of(
        &self,
        t: &mut (impl Read + ?Sized),
        key: &K,
        after: Option<&P>,
        limit: u32,
    ) -> Result<Vec<P>, StoreError> {
        let mut range = under(key_of(self.name, key));
        if let Some(after) = after {
            range.start = self.key(key, after);
            range.start.push(0);
        }
        let page = t.scan(&range, limit, Order::Ascending)?;
        page.entries.iter().map(|entry| Ok(decode_key::<(K, P)>(self.name, entry)?.1)).collect()
    }

    /// The first of what there is for `key` that no other open transaction has taken: at most `limit` and 1,000.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn take(&self, t: &mut (impl Write + ?Sized), key: &K, limit: u32) -> Result<Vec<P>, StoreError> {
        let taken = t.take(&under(key_of(self.name, key)), limit)?;
        taken.iter().map(|entry| Ok(decode_key::<(K, P)>(self.name, entry)?.1)).collect()
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
    pub fn push(&self, t: &mut (impl Write + ?Sized), order: O, value: &V) -> Result<Place<O>, StoreError> {
        let last = key_of(self.name, &0_u8);
        let number = match t.get(&last)? {
            Some(entry) => decode_value::<u64>(&entry)?.saturating_add(1),
            None => 1,
        };
        t.set(&last, &encode_value(&number)?)?;
        let place = (1_u8, order, number);
        t.set(&key_of(self.name, &place), &encode_value(value)?)?;
        Ok((place.1, number))
    }

    /// The first values that no other open transaction has taken, with their places: at most `limit`, 1,000, and 1 MiB. They stay until they are removed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn take(&self, t: &mut (impl Write + ?Sized), limit: u32) -> Result<Vec<(Place<O>, V)>, StoreError> {
        let taken = t.take(&under(key_of(self.name, &1_u8)), limit)?;
        let place = |entry: &Entry| {
            let (_, order, number) = decode_key::<(u8, O, u64)>(self.name, entry)?;
            Ok(((order, number), decode_value(entry)?))
        };
        taken.iter().map(place).collect()
    }

    /// Removes the value at a place; whether it was there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn remove(&self, t: &mut (impl Write + ?Sized), place: Place<O>) -> Result<bool, StoreError> {
        t.delete(&key_of(self.name, &(1_u8, place.0, place.1)))
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
    pub fn get(&self, t: &mut (impl Read + ?Sized)) -> Result<i64, StoreError> {
        t.get(&prefix(self.name))?.as_ref().map_or(Ok(0), decode_value)
    }

    /// Adds to the number, up to the ends of `i64`; the number then.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn add(&self, t: &mut (impl Write + ?Sized), delta: i64) -> Result<i64, StoreError> {
        let number = self.get(t)?.saturating_add(delta);
        t.set(&prefix(self.name), &encode_value(&number)?)?;
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
                MAP.set(t, &(a.into(), n), &vec![1, 2])?;
            }
            assert!(MAP.remove(t, &("b".into(), 1))?);
            assert!(!MAP.remove(t, &("b".into(), 1))?);
            Ok(())
        })
        .expect("committed");
        let t = &mut snapshot().expect("a snapshot");
        let keys = |page: Vec<((String, u64), Vec<u32>)>| page.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let after = ("a".to_owned(), 1);
        assert_eq!(
            keys(MAP.page(t, Some(&after), 9, Order::Ascending).expect("a page")),
            [("a".to_owned(), 2), ("a\0".into(), 9)]
        );
        assert_eq!(keys(MAP.page(t, None, 1, Order::Descending).expect("a page")), [("a\0".to_owned(), 9)]);
        assert_eq!(MAP.get(t, &after), Ok(Some(vec![1, 2])));
    }

    #[test]
    fn an_index_and_a_queue_and_a_counter() {
        memory::clear();
        transact::<_, StoreError>(|t| {
            for (key, value) in [("x", 3), ("x", 1), ("y", 2), ("xx", 5)] {
                INDEX.insert(t, &key.to_owned(), &value)?;
            }
            assert_eq!(INDEX.of(t, &"x".into(), None, 9)?, [1, 3]);
            assert_eq!(INDEX.of(t, &"x".into(), Some(&1), 9)?, [3]);
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
    fn what_fails_has_not_happened() {
        memory::clear();
        let failed = transact(|t| {
            COUNTER.add(t, 1)?;
            t.emit("topic", "key", b"payload")?;
            Err::<(), _>(StoreError::Unreadable)
        });
        assert_eq!(failed, Err(StoreError::Unreadable));
        assert_eq!(COUNTER.get(&mut snapshot().expect("a snapshot")), Ok(0));
        assert!(memory::emitted().is_empty());
        let nested = transact::<_, StoreError>(|_| transact(|t| COUNTER.add(t, 1)));
        assert_eq!(nested, Err(StoreError::TransactionOpen));
    }
}
