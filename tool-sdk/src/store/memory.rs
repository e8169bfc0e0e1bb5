//! The store in memory, for native tests: one for each thread, empty at first. It has the host's bounds on keys, values, pages and transactions, and a quota where
//! a test sets one. Tests look into the store by the functions here.

mod failures;
mod quota;

use std::{cell::RefCell, collections::BTreeMap, marker::PhantomData, ops::Bound, rc::Rc, time::Duration};

pub use self::{
    failures::{Failure, fail_commit, mend},
    quota::set_quota,
};
pub use super::Spent;
use super::{
    Entry, Order, Page, Range, StoreError, Usage,
    ahead::{Change, Message, check_key},
};

const MAX_VALUE_BYTES: usize = 1 << 20;
const MAX_WRITES: usize = 10_000;
const MAX_TRANSACTION_BYTES: usize = 4 << 20;
const MAX_PAGE_ENTRIES: usize = 1_000;
const MAX_PAGE_BYTES: usize = 1 << 20;
const MAX_PAYLOAD_BYTES: usize = 64 << 10;
/// The bytes that an event or a timer takes of a transaction beside its payload, about: the host's record of it.
const RECORD_BYTES: usize = 512;

/// An event that was emitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// Its id.
    pub id: String,
    /// Its topic, without the component.
    pub topic: String,
    /// The key that orders it.
    pub key: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A timer that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// When it is due, in milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// The payload that was written with it.
    pub payload: Vec<u8>,
}

type Entries = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

#[derive(Debug, Default)]
struct State {
    entries: Rc<Entries>,
    /// Bytes of the entries, as the quota counts them.
    used_bytes: u64,
    version: u64,
    emitted: Vec<Emitted>,
    timers: BTreeMap<String, Timer>,
    spent: Spent,
    subscribed: Vec<String>,
}

thread_local! {
    static STORE: RefCell<State> = RefCell::default();
    static OPEN: RefCell<bool> = const { RefCell::new(false) };
}

/// All events that were emitted and committed on this thread, oldest first.
pub fn emitted() -> Vec<Emitted> {
    STORE.with_borrow(|state| state.emitted.clone())
}

/// Has [`events::subscribed`](crate::events::subscribed) give these topics on this thread, until [`clear`].
pub fn subscribe(topics: &[&str]) {
    STORE.with_borrow_mut(|state| state.subscribed = topics.iter().map(|topic| (*topic).to_owned()).collect());
}

pub(crate) fn subscribed() -> Vec<String> {
    STORE.with_borrow(|state| state.subscribed.clone())
}

/// The timers that are set on this thread, by key.
pub fn timers() -> BTreeMap<String, Timer> {
    STORE.with_borrow(|state| state.timers.clone())
}

/// Takes a timer away, as the host does with one that it has delivered or given up.
pub fn take_timer(key: &str) -> Option<Timer> {
    STORE.with_borrow_mut(|state| state.timers.remove(key))
}

/// The work of the store for this thread since [`clear`] or the last call of this function.
pub fn spent() -> Spent {
    STORE.with_borrow_mut(|state| std::mem::take(&mut state.spent))
}

/// All entries on this thread, in the order of their keys.
pub fn entries() -> Vec<(Vec<u8>, Vec<u8>)> {
    STORE.with_borrow(|state| state.entries.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect())
}

/// Forgets everything on this thread.
pub fn clear() {
    STORE.set(State::default());
    quota::lift();
    mend();
}

/// Counts a call of the host, as it would be.
fn called() {
    STORE.with_borrow_mut(|state| state.spent.calls += 1);
}

fn charge(bytes: usize) {
    STORE.with_borrow_mut(|state| {
        state.spent.ops += 1;
        state.spent.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    });
}

fn charge_write(bytes: usize) {
    charge(bytes);
    STORE.with_borrow_mut(|state| {
        state.spent.writes += 1;
        state.spent.written_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    });
}

/// A snapshot or a transaction.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    Own(RefCell<Overlay>),
    /// With the bytes of its entries.
    Snapshot(Rc<Entries>, u64, PhantomData<&'a ()>),
}

/// The writes of an open transaction: they lie over the entries that were there, until it commits.
#[derive(Debug)]
pub(crate) struct Overlay {
    base: Rc<Entries>,
    version: u64,
    writes: BTreeMap<Vec<u8>, Option<(Vec<u8>, u64)>>,
    emitted: Vec<Emitted>,
    timers: BTreeMap<String, Option<Timer>>,
    count: usize,
    bytes: usize,
    used_bytes: u64,
}

pub(super) fn begin() -> Result<Source<'static>, StoreError> {
    called();
    if OPEN.replace(true) {
        return Err(StoreError::TransactionOpen);
    }
    charge(0);
    let (writes, emitted, timers) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    Ok(Source::Own(RefCell::new(STORE.with_borrow(|state| {
        let (base, version, used_bytes) = (Rc::clone(&state.entries), state.version + 1, state.used_bytes);
        Overlay { base, version, writes, emitted, timers, count: 0, bytes: 0, used_bytes }
    }))))
}

pub(super) fn snapshot() -> Result<Source<'static>, StoreError> {
    called();
    charge(0);
    Ok(STORE.with_borrow(|state| Source::Snapshot(Rc::clone(&state.entries), state.used_bytes, PhantomData)))
}

pub(super) fn wait(key: &[u8], _since: u64, _timeout: Duration) -> Result<u64, StoreError> {
    check_key(key)?;
    if OPEN.with_borrow(|open| *open) {
        return Err(StoreError::TransactionOpen);
    }
    Ok(STORE.with_borrow(|state| state.entries.get(key).map_or(0, |(_, version)| *version)))
}

impl Drop for Overlay {
    fn drop(&mut self) {
        OPEN.set(false);
    }
}

impl Overlay {
    fn commit(mut self) -> Result<(), StoreError> {
        charge(0);
        // So that the entries are the store's alone, and need no copy.
        drop(std::mem::take(&mut self.base));
        STORE.with_borrow_mut(|state| {
            (state.version, state.used_bytes) = (self.version, self.used_bytes);
            let entries = Rc::make_mut(&mut state.entries);
            for (key, value) in std::mem::take(&mut self.writes) {
                match value {
                    Some(value) => drop(entries.insert(key, value)),
                    None => drop(entries.remove(&key)),
                }
            }
            state.emitted.append(&mut self.emitted);
            for (key, timer) in std::mem::take(&mut self.timers) {
                match timer {
                    Some(timer) => drop(state.timers.insert(key, timer)),
                    None => drop(state.timers.remove(&key)),
                }
            }
        });
        Ok(())
    }

    fn count_write(&mut self, bytes: usize) -> Result<(), StoreError> {
        charge_write(bytes);
        if self.count >= MAX_WRITES || self.bytes + bytes > MAX_TRANSACTION_BYTES {
            return Err(StoreError::TransactionTooLarge);
        }
        self.count += 1;
        self.bytes += bytes;
        Ok(())
    }

    fn find(&self, key: &[u8]) -> Option<&(Vec<u8>, u64)> {
        self.writes.get(key).map_or_else(|| self.base.get(key), Option::as_ref)
    }

    fn has_timer(&self, key: &str) -> bool {
        let known = || STORE.with_borrow(|state| state.timers.contains_key(key));
        self.timers.get(key).map_or_else(known, Option::is_some)
    }
}

fn entry(key: &[u8], (value, version): &(Vec<u8>, u64)) -> Entry {
    Entry { key: key.to_vec(), value: value.clone(), version: *version }
}

fn one(key: &[u8], found: Option<&(Vec<u8>, u64)>) -> Result<Option<Entry>, StoreError> {
    check_key(key)?;
    let found = found.map(|value| entry(key, value));
    charge(found.as_ref().map_or(0, |entry| entry.key.len() + entry.value.len()));
    Ok(found)
}

/// From which key to which.
type KeyBounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

fn bounds(range: &Range) -> Option<KeyBounds<'_>> {
    let end = range.end.as_deref();
    let is_empty = end.is_some_and(|end| end <= &*range.start);
    (!is_empty).then_some((Bound::Included(&*range.start), end.map_or(Bound::Unbounded, Bound::Excluded)))
}

/// The first of `found` that make a page.
fn page<'a>(found: impl Iterator<Item = (&'a [u8], &'a (Vec<u8>, u64))>, limit: u32) -> Page {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_PAGE_ENTRIES);
    let (mut page, mut bytes) = (Page::default(), 0);
    for (key, value) in found {
        let more = key.len() + value.0.len();
        if page.entries.len() == limit || (bytes + more > MAX_PAGE_BYTES && !page.entries.is_empty()) {
            page.more = limit > 0;
            break;
        }
        bytes += more;
        page.entries.push(entry(key, value));
    }
    charge(bytes);
    page
}

impl Source<'_> {
    /// The transaction's writes; an error if this is a snapshot, which nothing writes to.
    fn overlay(&self) -> Result<std::cell::RefMut<'_, Overlay>, StoreError> {
        match self {
            Self::Own(overlay) => Ok(overlay.borrow_mut()),
            Self::Snapshot(..) => Err(StoreError::Unavailable),
        }
    }

    pub(super) fn commit(self) -> Result<(), StoreError> {
        called();
        match self {
            Self::Own(overlay) => match failures::next() {
                None => overlay.into_inner().commit(),
                Some(Failure::Lost(error)) => Err(error),
                Some(Failure::Unheard) => overlay.into_inner().commit().and(Err(StoreError::OutcomeUnknown)),
            },
            Self::Snapshot(..) => Ok(()),
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        called();
        match self {
            Self::Own(overlay) => one(key, overlay.borrow().find(key)),
            Self::Snapshot(entries, ..) => one(key, entries.get(key)),
        }
    }

    pub(super) fn scan(&self, range: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        called();
        let Some(bounds) = bounds(range) else { return Ok(page(std::iter::empty(), limit)) };
        let is_ascending = order == Order::Ascending;
        Ok(match self {
            Self::Own(overlay) => {
                let overlay = overlay.borrow();
                let written = overlay.writes.range::<[u8], _>(bounds).map(|(key, value)| (&**key, value.as_ref()));
                let stored = overlay.base.range::<[u8], _>(bounds).map(|(key, value)| (&**key, Some(value)));
                match order {
                    Order::Ascending => page(merged(written, stored, |written, stored| written <= stored), limit),
                    Order::Descending => {
                        page(merged(written.rev(), stored.rev(), |written, stored| written >= stored), limit)
                    }
                }
            }
            Self::Snapshot(entries, ..) => {
                let found = entries.range::<[u8], _>(bounds).map(|(key, value)| (&**key, value));
                if is_ascending { page(found, limit) } else { page(found.rev(), limit) }
            }
        })
    }

    pub(super) fn take(&self, range: &Range, limit: u32) -> Result<Vec<Entry>, StoreError> {
        Ok(self.scan(range, limit, Order::Ascending)?.entries)
    }

    pub(super) fn is_transaction(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    pub(super) fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Entry>>, StoreError> {
        called();
        let overlay = self.overlay()?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for key in keys.iter().take(MAX_PAGE_ENTRIES) {
            let entry = one(key, overlay.find(key))?;
            bytes += entry.as_ref().map_or(0, |entry| entry.key.len() + entry.value.len());
            if bytes > MAX_PAGE_BYTES && !found.is_empty() {
                break;
            }
            found.push(entry);
        }
        Ok(found)
    }

    pub(super) fn write_many(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        called();
        let mut overlay = self.overlay()?;
        changes.into_iter().try_for_each(|(key, value)| match value {
            Some(value) => overlay.set(key, value),
            None => overlay.delete(&key),
        })
    }

    pub(super) fn emit_many(&self, messages: Vec<Message>) -> Result<(), StoreError> {
        called();
        let mut overlay = self.overlay()?;
        messages.iter().try_for_each(|Message { topic, key, payload }| overlay.emit(topic, key, payload).map(drop))
    }

    pub(super) fn emit(&self, topic: &str, key: &str, payload: &[u8]) -> Result<String, StoreError> {
        called();
        self.overlay()?.emit(topic, key, payload)
    }

    pub(super) fn wake_at(&self, key: &str, at_ms: u64, payload: &[u8]) -> Result<(), StoreError> {
        called();
        self.overlay()?.wake_at(key, at_ms, payload)
    }

    pub(super) fn cancel_wake(&self, key: &str) -> Result<bool, StoreError> {
        called();
        self.overlay()?.cancel_wake(key)
    }
}

type Found<'a> = (&'a [u8], &'a (Vec<u8>, u64));
type Written<'a> = (&'a [u8], Option<&'a (Vec<u8>, u64)>);

/// The written entries and the stored ones, in one order. A written entry hides the stored one.
fn merged<'a>(
    written: impl Iterator<Item = Written<'a>>,
    stored: impl Iterator<Item = Written<'a>>,
    is_first: impl Fn(&[u8], &[u8]) -> bool,
) -> impl Iterator<Item = Found<'a>> {
    let (mut written, mut stored) = (written.peekable(), stored.peekable());
    let next = std::iter::from_fn(move || match (written.peek(), stored.peek()) {
        (Some((new, _)), Some((old, _))) => {
            let (both, first) = (new == old, is_first(new, old));
            if both {
                stored.next();
            }
            if first { written.next() } else { stored.next() }
        }
        (Some(_), None) => written.next(),
        (None, _) => stored.next(),
    });
    next.filter_map(|(key, value)| Some((key, value?)))
}

impl Overlay {
    fn set(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        check_key(&key)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(StoreError::ValueTooLarge);
        }
        self.count_write(key.len() + value.len())?;
        self.resize(&key, Some(&value))?;
        self.writes.insert(key, Some((value, self.version)));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        check_key(key)?;
        if self.find(key).is_none() {
            charge(key.len());
            return Ok(());
        }
        self.count_write(key.len())?;
        self.resize(key, None)?;
        self.writes.insert(key.to_vec(), None);
        Ok(())
    }

    fn emit(&mut self, topic: &str, key: &str, payload: &[u8]) -> Result<String, StoreError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(StoreError::PayloadTooLarge);
        }
        self.count_write(RECORD_BYTES + payload.len())?;
        let number = STORE.with_borrow(|state| state.emitted.len()) + self.emitted.len();
        let id = format!("memory/{}-{number}", self.version);
        let (topic, key) = (topic.to_owned(), key.to_owned());
        self.emitted.push(Emitted { id: id.clone(), topic, key, payload: payload.to_vec() });
        Ok(id)
    }

    fn wake_at(&mut self, key: &str, at_ms: u64, payload: &[u8]) -> Result<(), StoreError> {
        self.count_write(RECORD_BYTES + payload.len())?;
        self.timers.insert(key.to_owned(), Some(Timer { at_ms, payload: payload.to_vec() }));
        Ok(())
    }

    fn cancel_wake(&mut self, key: &str) -> Result<bool, StoreError> {
        let was_set = self.has_timer(key);
        self.count_write(key.len())?;
        self.timers.insert(key.to_owned(), None);
        Ok(was_set)
    }
}
