//! The one transaction type, and the view of the data that it has in common with a snapshot. Both count what they read and write, and both work through `&`, so that a range
//! can be walked through and changed at the same time.

mod page;
mod usage;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::{Bound, Deref},
};

use super::{
    Entry, Order, Page, Range, StoreError,
    ahead::{Ahead, Known, check_key},
    backend,
    rows::Rows,
};

/// Keys that one call of the host reads.
const MOST_KEYS: usize = 1_000;
/// Bytes of entries after which reading ahead stops.
const MOST_BYTES_AHEAD: usize = 1 << 20;
/// Bytes of an event's payload.
const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// The work of the store, as the host counts it for a call's budgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Operations.
    pub ops: u64,
    /// Bytes of keys and values read and written.
    pub bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes of keys and values written.
    pub written_bytes: u64,
    /// Calls of the host. Many writes, or many reads, may be one call.
    pub calls: u64,
}

/// The data to read: of a transaction, or of a snapshot.
#[derive(Debug)]
pub struct View<'a> {
    source: backend::Source<'a>,
    spent: Cell<Spent>,
    ahead: RefCell<Ahead>,
    rows: RefCell<Rows>,
    last_error: Cell<Option<StoreError>>,
    /// Changes of kept counts that are not written yet, by the key of the count.
    deltas: RefCell<BTreeMap<Vec<u8>, i64>>,
    /// When alarms are set for, as far as this transaction knows.
    alarms: RefCell<BTreeMap<&'static str, Option<u64>>>,
    /// A random number that chooses the parts of counts that this transaction changes.
    shard: Cell<Option<u8>>,
}

/// The data as it was when the snapshot was opened, durably. Closed when dropped.
pub type Snapshot = View<'static>;

impl<'a> View<'a> {
    fn new(source: backend::Source<'a>) -> Self {
        Self {
            source,
            spent: Cell::default(),
            ahead: RefCell::default(),
            rows: RefCell::default(),
            last_error: Cell::default(),
            deltas: RefCell::default(),
            alarms: RefCell::default(),
            shard: Cell::default(),
        }
    }

    /// One entry.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let known = self.ahead.borrow().find(key);
        let found = match known {
            Known::Read(found) => found,
            // The host knows the version that it gets.
            Known::Written => {
                self.hand_over()?;
                self.ask(key)?
            }
            Known::Nothing => self.ask(key)?,
        };
        self.charge(key.len(), found.as_ref().map_or(0, |entry| entry.value.len()), false);
        Ok(found)
    }

    /// What `decode` makes of the value of one entry.
    pub(super) fn decoded<T>(
        &self,
        key: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let decode = |value: Option<&[u8]>| {
            self.charge(key.len(), value.map_or(0, <[u8]>::len), false);
            value.map(decode).transpose()
        };
        if let Some(value) = self.ahead.borrow().value(key) {
            return decode(value);
        }
        decode(self.ask(key)?.as_ref().map(|entry| &*entry.value))
    }

    /// A row that its table has read or written in this transaction.
    pub(super) fn row<V: Clone + 'static>(&self, key: &[u8]) -> Option<V> {
        let (row, bytes) = self.rows.borrow().find(key)?;
        self.charge(key.len(), bytes, false);
        Some(row)
    }

    /// A row that its table has read or written in this transaction, and is about to write anew or to remove.
    pub(super) fn take_row<V: 'static>(&self, key: &[u8]) -> Option<V> {
        let (row, bytes) = self.rows.borrow_mut().take(key)?;
        self.charge(key.len(), bytes, false);
        Some(row)
    }

    /// Keeps a row as its table has it, whose encoded form has so many bytes. A snapshot keeps none: what it has is read once.
    pub(super) fn learn_row<V: Clone + 'static>(&self, key: Vec<u8>, row: &V, bytes: usize) {
        if self.source.is_transaction() {
            self.rows.borrow_mut().learn(key, row.clone(), bytes);
        }
    }

    fn ask(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.called();
        let found = self.noted(self.source.get(key))?;
        self.ahead.borrow_mut().learn(key.to_vec(), found.clone());
        Ok(found)
    }

    /// Reads the entries of many keys at once, about 1 MiB of them, so that reading them one by one costs little afterwards. A snapshot reads nothing ahead.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn read_ahead(&self, keys: impl IntoIterator<Item = Vec<u8>>) -> Result<(), StoreError> {
        let mut unknown: Vec<Vec<u8>> = {
            let ahead = self.ahead.borrow();
            keys.into_iter().filter(|key| !ahead.is_known(key)).collect()
        };
        let mut bytes = 0_usize;
        while unknown.len() > 1 && bytes < MOST_BYTES_AHEAD && self.source.is_transaction() {
            let rest = unknown.split_off(unknown.len().min(MOST_KEYS));
            self.called();
            let found = self.noted(self.source.get_many(&unknown))?;
            let unread = unknown.split_off(found.len().min(unknown.len()));
            bytes = bytes.saturating_add(found.iter().flatten().map(|entry| entry.value.len()).sum());
            let mut ahead = self.ahead.borrow_mut();
            unknown.into_iter().zip(found).for_each(|(key, entry)| ahead.learn(key, entry));
            unknown = if unread.is_empty() { rest } else { unread.into_iter().chain(rest).collect() };
        }
        Ok(())
    }

    /// Part of a range: at most `limit` entries, 1,000, and 1 MiB.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn scan(&self, range: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        self.make_readable(range)?;
        self.ask_page(range, limit, order)
    }

    /// Sees to it that the host knows all writes in a range.
    fn make_readable(&self, range: &Range) -> Result<(), StoreError> {
        self.write_counts_in(range)?;
        let is_written = self.ahead.borrow().writes_in(range);
        if is_written { self.hand_over() } else { Ok(()) }
    }

    /// Gives the host the writes and events that it has not got yet.
    fn hand_over(&self) -> Result<(), StoreError> {
        let (writes, events) = self.ahead.borrow_mut().take();
        if !writes.is_empty() {
            self.called();
            self.noted(self.source.write_many(writes))?;
        }
        if !events.is_empty() {
            self.called();
            self.noted(self.source.emit_many(events))?;
        }
        Ok(())
    }

    fn hand_over_if_full(&self) -> Result<(), StoreError> {
        let is_full = self.ahead.borrow().is_full();
        if is_full { self.hand_over() } else { Ok(()) }
    }

    /// The work of this transaction or snapshot so far.
    pub fn spent(&self) -> Spent {
        self.spent.get()
    }

    fn called(&self) {
        let spent = self.spent.get();
        self.spent.set(Spent { calls: spent.calls.saturating_add(1), ..spent });
    }

    fn charge(&self, key_bytes: usize, value_bytes: usize, is_write: bool) {
        let bytes = u64::try_from(key_bytes.saturating_add(value_bytes)).unwrap_or(u64::MAX);
        let mut spent = self.spent.get();
        spent.ops = spent.ops.saturating_add(1);
        spent.bytes = spent.bytes.saturating_add(bytes);
        if is_write {
            spent.writes = spent.writes.saturating_add(1);
            spent.written_bytes = spent.written_bytes.saturating_add(bytes);
        }
        self.spent.set(spent);
    }

    fn noted<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            self.last_error.set(Some(*error));
        }
        result
    }

    /// A kept count as it will be written.
    pub(super) fn count(&self, key: &[u8]) -> Result<i64, StoreError> {
        let stored: i64 = self.decoded(key, super::collections::decode_value)?.unwrap_or_default();
        Ok(stored.saturating_add(self.deltas.borrow().get(key).copied().unwrap_or_default()))
    }

    /// Writes the kept counts, if one that has changed is in a range.
    fn write_counts_in(&self, range: &Range) -> Result<(), StoreError> {
        let is_changed = {
            let deltas = self.deltas.borrow();
            let first = deltas.range::<[u8], _>((Bound::Included(&*range.start), Bound::Unbounded)).next();
            first.is_some_and(|(key, _)| range.end.as_ref().is_none_or(|end| key < end))
        };
        if is_changed { self.write_counts() } else { Ok(()) }
    }

    /// Writes the kept counts that have changed: once for each, however many rows were counted.
    fn write_counts(&self) -> Result<(), StoreError> {
        let mut deltas = self.deltas.take();
        deltas.retain(|_, delta| *delta != 0);
        self.read_ahead(deltas.keys().cloned())?;
        for (key, delta) in deltas {
            match self.count(&key)?.saturating_add(delta) {
                0 => self.change(key, None)?,
                sum => self.change(key, Some(sum.to_string().into_bytes()))?,
            }
        }
        Ok(())
    }

    /// Writes an entry, or without a value removes it, if there is one. The host hears of it later.
    pub(super) fn change(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.rows.borrow_mut().forget(&key);
        self.write(key, value)
    }

    /// Writes or removes an entry that is no row of a table.
    fn write(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.charge(key.len(), value.as_ref().map_or(0, Vec::len), true);
        self.noted(self.ahead.borrow_mut().write(key, value))?;
        self.hand_over_if_full()
    }

    fn delete(&self, key: &[u8]) -> Result<bool, StoreError> {
        let known = self.ahead.borrow().value(key).map(|value| value.is_some());
        let is_there = match known {
            Some(is_there) => is_there,
            None => {
                self.noted(check_key(key))?;
                self.ask(key)?.is_some()
            }
        };
        match is_there {
            true => self.change(key.to_vec(), None)?,
            false => self.charge(key.len(), 0, false),
        }
        Ok(is_there)
    }
}

pub(super) fn snapshot() -> Result<Snapshot, StoreError> {
    Ok(View::new(backend::snapshot()?))
}

/// An open transaction: a [`View`] that can also be written to.
#[derive(Debug)]
pub struct Transaction<'a>(View<'a>);

impl<'a> Deref for Transaction<'a> {
    type Target = View<'a>;

    fn deref(&self) -> &View<'a> {
        &self.0
    }
}

impl<'a> Transaction<'a> {
    pub(super) fn begin() -> Result<Transaction<'static>, StoreError> {
        Ok(Transaction(View::new(backend::begin()?)))
    }

    /// Works in a transaction that the host commits, and leaves everything written in it.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn within<T, E: From<StoreError>>(
        source: backend::Source<'a>,
        work: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = Self(View::new(source));
        let done = work(&transaction)?;
        transaction.0.write_counts()?;
        transaction.0.hand_over()?;
        Ok(done)
    }

    pub(super) fn commit(self) -> Result<(), StoreError> {
        self.0.write_counts()?;
        self.0.hand_over()?;
        self.0.source.commit()
    }

    /// When alarms are set for, as far as this transaction knows.
    pub(super) fn alarms(&self) -> &RefCell<BTreeMap<&'static str, Option<u64>>> {
        &self.0.alarms
    }

    fn shard(&self) -> u8 {
        let shard = self.0.shard.get().unwrap_or_else(crate::environment::byte);
        self.0.shard.set(Some(shard));
        shard
    }

    /// The last error that the store gave in this transaction.
    pub(super) fn last_error(&self) -> Option<StoreError> {
        self.0.last_error.get()
    }

    /// Changes counts that are kept in so many parts, in the part that is this transaction's.
    pub(super) fn add_to_counts<'k>(&self, counts: impl IntoIterator<Item = (&'k [u8], u8, i64)>) {
        let (mut deltas, mut part) = (self.0.deltas.borrow_mut(), Vec::new());
        for (key, shards, delta) in counts {
            part.clear();
            part.extend_from_slice(key);
            part.push(if shards == 1 { 0 } else { self.shard() % shards });
            match deltas.get_mut(&part) {
                Some(sum) => *sum = sum.saturating_add(delta),
                None => {
                    deltas.insert(part.clone(), delta);
                }
            }
        }
    }

    /// Writes or removes an entry at which a row is found, and which is no row itself.
    pub(super) fn change_place(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        self.0.write(key.to_vec(), value.map(<[u8]>::to_vec))
    }

    /// The first entries of a range that no other open transaction has taken: at most `limit`, 1,000, and 1 MiB.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn take(&self, range: &Range, limit: u32) -> Result<Vec<Entry>, StoreError> {
        self.make_readable(range)?;
        if self.0.ahead.borrow().is_empty(range) {
            return Ok(Vec::new());
        }
        self.called();
        let taken = self.noted(self.0.source.take(range, limit))?;
        self.charge(0, taken.iter().map(|entry| entry.key.len() + entry.value.len()).sum(), false);
        Ok(taken)
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.0.change(key.to_vec(), Some(value.to_vec()))
    }

    /// Removes an entry; whether there was one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn delete(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.0.delete(key)
    }

    /// Removes an entry, if there is one. Costs less than [`Transaction::delete`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn discard(&self, key: &[u8]) -> Result<(), StoreError> {
        self.0.change(key.to_vec(), None)
    }

    /// Emits an event on this component's topic `topic`, whose id nobody asks for. Costs less than [`Transaction::emit`].
    ///
    /// # Errors
    /// See [`StoreError`]. The host refuses an illegal topic when it gets the transaction's writes.
    pub fn tell(&self, topic: &str, key: &str, payload: Vec<u8>) -> Result<(), StoreError> {
        self.charge(key.len(), payload.len(), true);
        if payload.len() > MAX_PAYLOAD_BYTES {
            return self.noted(Err(StoreError::PayloadTooLarge));
        }
        self.0.ahead.borrow_mut().tell(topic, key, payload);
        self.0.hand_over_if_full()
    }

    /// Emits an event on this component's topic `topic`; its id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn emit(&self, topic: &str, key: &str, payload: &[u8]) -> Result<String, StoreError> {
        self.charge(key.len(), payload.len(), true);
        self.called();
        self.noted(self.0.source.emit(topic, key, payload))
    }

    /// Has the host wake this component at a time, in milliseconds since 1970-01-01 UTC. The same key replaces.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn wake_at(&self, key: &str, at_ms: u64, payload: &[u8]) -> Result<(), StoreError> {
        self.charge(key.len(), payload.len(), true);
        self.called();
        self.noted(self.0.source.wake_at(key, at_ms, payload))
    }

    /// Cancels the timer of a key; whether there was one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn cancel_wake(&self, key: &str) -> Result<bool, StoreError> {
        self.charge(key.len(), 0, true);
        self.called();
        self.noted(self.0.source.cancel_wake(key))
    }
}
