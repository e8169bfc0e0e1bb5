//! What a transaction keeps to itself so that it asks the host seldom: writes that the host has not got yet, and entries and empty ranges that it has read.
//!
//! A transaction is serializable, so what it has read stays true until it writes there itself.

use std::{collections::BTreeMap, ops::Bound};

use super::{Entry, Range, StoreError};

/// Bytes of a key.
const MAX_KEY_BYTES: usize = 1_024;
/// Bytes of a value.
const MAX_VALUE_BYTES: usize = 1 << 20;
/// Bytes of writes with which they go to the host: a small part of what a call may hand over.
const FULL_BYTES: usize = 256 << 10;
/// Writes and events with which they go to the host.
const FULL_ENTRIES: usize = 2_000;
/// Bytes of entries that were read and are kept. With more, all are forgotten.
const MAX_KNOWN_BYTES: usize = 2 << 20;
/// Ranges that are kept as empty.
const MAX_EMPTY: usize = 32;

/// One write: the key, and the value if it is no deletion.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// An event on its way to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) key: String,
    pub(super) payload: Vec<u8>,
}

/// What a transaction, or a snapshot, knows without the host.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    events: Vec<Message>,
    bytes: usize,
    known: BTreeMap<Vec<u8>, Option<Entry>>,
    known_bytes: usize,
    empty: Vec<Range>,
}

/// What is known of an entry.
#[derive(Debug)]
pub(super) enum Known {
    /// It will be written, or removed.
    Written,
    /// It was read.
    Read(Option<Entry>),
    /// Nothing.
    Nothing,
}

pub(super) fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES { Err(StoreError::InvalidKey) } else { Ok(()) }
}

impl Ahead {
    /// Notes a write, or without a value a deletion.
    pub(super) fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        check_key(&key)?;
        let bytes = value.as_ref().map_or(0, Vec::len);
        if bytes > MAX_VALUE_BYTES {
            return Err(StoreError::ValueTooLarge);
        }
        self.bytes = self.bytes.saturating_add(key.len()).saturating_add(bytes);
        self.writes.insert(key, value);
        Ok(())
    }

    /// Notes an event.
    pub(super) fn tell(&mut self, topic: &str, key: &str, payload: Vec<u8>) {
        self.bytes = self.bytes.saturating_add(key.len()).saturating_add(payload.len());
        self.events.push(Message { topic: topic.to_owned(), key: key.to_owned(), payload });
    }

    /// Whether it is time to hand over what is noted.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= FULL_BYTES || self.writes.len().max(self.events.len()) >= FULL_ENTRIES
    }

    /// What the host is to get; then nothing is noted any more.
    pub(super) fn take(&mut self) -> (Vec<Change>, Vec<Message>) {
        self.bytes = 0;
        let writes = std::mem::take(&mut self.writes);
        // A noted write hid what was read before it.
        self.known.retain(|key, _| !writes.contains_key(key));
        let is_filled = |range: &Range| in_range(&writes, range).any(|(_, value)| value.is_some());
        self.empty.retain(|range| !is_filled(range));
        (writes.into_iter().collect(), std::mem::take(&mut self.events))
    }

    /// Whether a write is noted in a range.
    pub(super) fn writes_in(&self, range: &Range) -> bool {
        in_range(&self.writes, range).next().is_some()
    }

    /// The writes that are noted in a range, in the order of their keys; none if there are more than `most`.
    pub(super) fn few_in(&self, range: &Range, most: usize) -> Option<Vec<Change>> {
        let mut writes = in_range(&self.writes, range);
        let few = writes.by_ref().take(most).map(|(key, value)| (key.clone(), value.clone())).collect();
        writes.next().is_none().then_some(few)
    }

    pub(super) fn find(&self, key: &[u8]) -> Known {
        match (self.writes.get(key), self.known.get(key)) {
            (Some(_), _) => Known::Written,
            (None, Some(entry)) => Known::Read(entry.clone()),
            (None, None) => Known::Nothing,
        }
    }

    /// The value of an entry that will be written or was read; none where nothing is known.
    pub(super) fn value(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        match self.writes.get(key) {
            Some(written) => Some(written.as_deref()),
            None => Some(self.known.get(key)?.as_ref().map(|entry| &*entry.value)),
        }
    }

    pub(super) fn is_known(&self, key: &[u8]) -> bool {
        self.writes.contains_key(key) || self.known.contains_key(key)
    }

    /// Keeps what was read.
    pub(super) fn learn(&mut self, key: Vec<u8>, entry: Option<Entry>) {
        let bytes = key.len().saturating_add(entry.as_ref().map_or(0, |entry| entry.value.len()));
        if self.known_bytes.saturating_add(bytes) > MAX_KNOWN_BYTES {
            self.known.clear();
            self.known_bytes = 0;
        }
        self.known_bytes = self.known_bytes.saturating_add(bytes);
        self.known.insert(key, entry);
    }

    /// Keeps that a range was found to be empty.
    pub(super) fn learn_empty(&mut self, range: &Range) {
        if self.empty.len() < MAX_EMPTY {
            self.empty.push(range.clone());
        }
    }

    /// Whether a range is known to be empty, but for what is noted.
    pub(super) fn is_empty(&self, range: &Range) -> bool {
        self.empty.iter().any(|empty| {
            let ends_within = match (&empty.end, &range.end) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(end), Some(inner)) => inner <= end,
            };
            empty.start <= range.start && ends_within
        })
    }
}

/// The writes in a range, which may end before it begins.
fn in_range<'a>(
    writes: &'a BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    range: &'a Range,
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)> {
    let from = (Bound::Included(&*range.start), Bound::Unbounded);
    writes.range::<[u8], _>(from).take_while(|(key, _)| range.end.as_ref().is_none_or(|end| *key < end))
}
