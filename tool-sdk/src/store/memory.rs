//! The store in memory, for native tests: one for each thread, empty at first. What a test wants to see of it is here.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use super::{Entry, Order, Page, Range, Read, StoreError, Write};

const MAX_KEY_BYTES: usize = 1_024;
const MAX_VALUE_BYTES: usize = 1 << 20;
const MAX_WRITES: usize = 10_000;
const MAX_PAGE_ENTRIES: usize = 1_000;

/// An event that was emitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// Its id.
    pub id: String,
    /// Its topic, without the component.
    pub topic: String,
    /// What orders it.
    pub key: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A timer that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// When it is due, in milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// What was written with it.
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct State {
    entries: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    version: u64,
    emitted: Vec<Emitted>,
    timers: BTreeMap<String, Timer>,
}

thread_local! {
    static STORE: RefCell<State> = RefCell::default();
    static OPEN: RefCell<bool> = const { RefCell::new(false) };
}

/// All events that were emitted and committed on this thread, oldest first.
pub fn emitted() -> Vec<Emitted> {
    STORE.with_borrow(|state| state.emitted.clone())
}

/// The timers that are set on this thread, by key.
pub fn timers() -> BTreeMap<String, Timer> {
    STORE.with_borrow(|state| state.timers.clone())
}

/// Forgets everything on this thread.
pub fn clear() {
    STORE.set(State::default());
}

/// An open transaction: a copy that replaces the original when it commits.
#[derive(Debug)]
pub(super) struct Transaction {
    state: State,
    writes: usize,
}

#[derive(Debug)]
pub(super) struct Snapshot(State);

pub(super) fn begin() -> Result<Transaction, StoreError> {
    if OPEN.replace(true) {
        return Err(StoreError::TransactionOpen);
    }
    let mut state = STORE.with_borrow(State::clone);
    state.version += 1;
    Ok(Transaction { state, writes: 0 })
}

pub(super) fn snapshot() -> Result<Snapshot, StoreError> {
    Ok(Snapshot(STORE.with_borrow(State::clone)))
}

pub(super) fn wait(key: &[u8], _since: u64, _timeout: Duration) -> Result<u64, StoreError> {
    check_key(key)?;
    if OPEN.with_borrow(|open| *open) {
        return Err(StoreError::TransactionOpen);
    }
    Ok(STORE.with_borrow(|state| state.entries.get(key).map_or(0, |(_, version)| *version)))
}

impl Drop for Transaction {
    fn drop(&mut self) {
        OPEN.set(false);
    }
}

impl Transaction {
    pub(super) fn commit(mut self) -> Result<(), StoreError> {
        STORE.set(std::mem::take(&mut self.state));
        Ok(())
    }

    fn count_write(&mut self) -> Result<(), StoreError> {
        self.writes += 1;
        if self.writes > MAX_WRITES { Err(StoreError::TransactionTooLarge) } else { Ok(()) }
    }
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES { Err(StoreError::InvalidKey) } else { Ok(()) }
}

impl State {
    fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let entry =
            |(value, version): &(Vec<u8>, u64)| Entry { key: key.to_vec(), value: value.clone(), version: *version };
        Ok(self.entries.get(key).map(entry))
    }

    fn scan(&self, range: &Range, limit: u32, order: Order) -> Page {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_PAGE_ENTRIES);
        let inside = |(key, _): &(&Vec<u8>, &(Vec<u8>, u64))| {
            **key >= range.start && range.end.as_ref().is_none_or(|end| *key < end)
        };
        let mut entries: Vec<Entry> = self
            .entries
            .iter()
            .filter(inside)
            .map(|(key, (value, version))| Entry { key: key.clone(), value: value.clone(), version: *version })
            .collect();
        if order == Order::Descending {
            entries.reverse();
        }
        let more = entries.len() > limit;
        entries.truncate(limit);
        Page { entries, more: more && limit > 0 }
    }
}

impl Read for Transaction {
    fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.state.get(key)
    }

    fn scan(&mut self, range: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        Ok(self.state.scan(range, limit, order))
    }
}

impl Read for Snapshot {
    fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.0.get(key)
    }

    fn scan(&mut self, range: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        Ok(self.0.scan(range, limit, order))
    }
}

impl Write for Transaction {
    fn take(&mut self, range: &Range, limit: u32) -> Result<Vec<Entry>, StoreError> {
        Ok(self.state.scan(range, limit, Order::Ascending).entries)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        check_key(key)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(StoreError::ValueTooLarge);
        }
        self.count_write()?;
        self.state.entries.insert(key.to_vec(), (value.to_vec(), self.state.version));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        check_key(key)?;
        self.count_write()?;
        Ok(self.state.entries.remove(key).is_some())
    }

    fn emit(&mut self, topic: &str, key: &str, payload: &[u8]) -> Result<String, StoreError> {
        self.count_write()?;
        let id = format!("memory/{}-{}", self.state.version, self.state.emitted.len());
        let (topic, key) = (topic.to_owned(), key.to_owned());
        self.state.emitted.push(Emitted { id: id.clone(), topic, key, payload: payload.to_vec() });
        Ok(id)
    }

    fn wake_at(&mut self, key: &str, at_ms: u64, payload: &[u8]) -> Result<(), StoreError> {
        self.count_write()?;
        self.state.timers.insert(key.to_owned(), Timer { at_ms, payload: payload.to_vec() });
        Ok(())
    }

    fn cancel_wake(&mut self, key: &str) -> Result<bool, StoreError> {
        self.count_write()?;
        Ok(self.state.timers.remove(key).is_some())
    }
}
