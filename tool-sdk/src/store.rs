//! The component's own data: typed collections in serializable transactions that are on disk when they commit. Needs a grant: `store = {}`.
//!
//! ```
//! use mcpp_tool::{Error, store::{Counter, Map, transact}, tool};
//!
//! const NOTES: Map<u64, String> = Map::new("notes");
//! const LAST: Counter = Counter::new("last");
//!
//! /// Keeps a note; its number.
//! #[tool]
//! fn keep(text: String) -> Result<u64, Error> {
//!     transact(|t| {
//!         let number = LAST.add(t, 1)? as u64;
//!         NOTES.set(t, &number, &text)?;
//!         Ok(number)
//!     })
//! }
//! # mcpp_tool::export!(keep);
//! # fn main() {
//! #     assert_eq!(keep("hello".into()), Ok(1));
//! # }
//! ```
//!
//! In a native test the data is in [`memory`], one store for each thread, so a tool's rules are tested as plain functions.

mod codec;
mod collections;
#[cfg(not(target_arch = "wasm32"))]
pub mod memory;

use std::time::Duration;

pub use self::{
    codec::Key,
    collections::{Counter, Index, Map, Place, Queue},
};

/// How often [`transact`] runs its closure at most.
pub const MAX_RUNS: u32 = 10;
/// How often it does so because a run took too long. A machine that stood still meanwhile is to blame for one; whatever computes for too long does so again.
const MAX_OVERRUNS: u32 = 1;

/// Why the store did not do what was asked. See the WIT package `mcpp:store` for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// A key is empty or longer than 1,024 bytes.
    InvalidKey,
    /// A value is longer than 1 MiB.
    ValueTooLarge,
    /// The transaction has more than 10,000 writes or 4 MiB of them.
    TransactionTooLarge,
    /// The space would outgrow its quota.
    QuotaExceeded,
    /// The transaction was open for more than 50 ms of this component's time.
    TooLong,
    /// Not while a transaction is open.
    TransactionOpen,
    /// The values that the transaction had read did not last, as often as it was run.
    Conflict,
    /// The transaction has committed or not.
    OutcomeUnknown,
    /// The snapshot is too old.
    Expired,
    /// Too many snapshots are open.
    TooManySnapshots,
    /// The store cannot be read or written now.
    Unavailable,
    /// A topic's name is not legal.
    InvalidTopic,
    /// An event's payload is longer than 64 KiB.
    PayloadTooLarge,
    /// A stored entry is not what its collection says: the data's format has changed, or two collections share a name.
    Unreadable,
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::InvalidKey => "a key is empty or too long",
            Self::ValueTooLarge => "a value is larger than 1 MiB",
            Self::TransactionTooLarge => "the transaction writes too much",
            Self::QuotaExceeded => "the store's quota is used up",
            Self::TooLong => "the transaction was open for too long",
            Self::TransactionOpen => "a transaction is open",
            Self::Conflict => "the transaction conflicts with others again and again",
            Self::OutcomeUnknown => "the store broke during the commit",
            Self::Expired => "the snapshot is too old",
            Self::TooManySnapshots => "too many snapshots are open",
            Self::Unavailable => "the store is not available now",
            Self::InvalidTopic => "a topic's name is not legal",
            Self::PayloadTooLarge => "an event's payload is larger than 64 KiB",
            Self::Unreadable => "a stored entry cannot be read",
        })
    }
}

impl std::error::Error for StoreError {}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Another one after every write; never 0.
    pub version: u64,
}

/// Keys from `start` to below `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The least key in the range.
    pub start: Vec<u8>,
    /// The least key above it; none for the end of the space.
    pub end: Option<Vec<u8>>,
}

/// Which end of a range is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The least key.
    Ascending,
    /// The greatest key.
    Descending,
}

/// Part of a range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order of the scan.
    pub entries: Vec<Entry>,
    /// Whether the range has more.
    pub more: bool,
}

/// A source to read from: a [`Snapshot`] or a [`Transaction`].
pub trait Read {
    /// One entry.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, StoreError>;

    /// Part of a range: at most `limit` entries, 1,000, and 1 MiB.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn scan(&mut self, range: &Range, limit: u32, order: Order) -> Result<Page, StoreError>;
}

/// A target to write to: a [`Transaction`].
pub trait Write: Read {
    /// The first entries of a range that no other open transaction has taken.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn take(&mut self, range: &Range, limit: u32) -> Result<Vec<Entry>, StoreError>;

    /// Writes an entry.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Removes an entry; whether there was one.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn delete(&mut self, key: &[u8]) -> Result<bool, StoreError>;

    /// Emits an event on this component's topic `topic`; its id.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn emit(&mut self, topic: &str, key: &str, payload: &[u8]) -> Result<String, StoreError>;

    /// Has the host wake this component at a time, in milliseconds since 1970-01-01 UTC. The same key replaces.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn wake_at(&mut self, key: &str, at_ms: u64, payload: &[u8]) -> Result<(), StoreError>;

    /// Cancels the timer of a key; whether there was one.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn cancel_wake(&mut self, key: &str) -> Result<bool, StoreError>;
}

#[cfg(not(target_arch = "wasm32"))]
use memory as backend;

#[cfg(target_arch = "wasm32")]
#[path = "store/host.rs"]
mod backend;

/// An open transaction.
#[derive(Debug)]
pub struct Transaction {
    inner: backend::Transaction,
    conflicted: bool,
    overran: bool,
}

impl Transaction {
    fn note<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.conflicted |= matches!(result, Err(StoreError::Conflict));
        self.overran |= matches!(result, Err(StoreError::TooLong));
        result
    }
}

impl Read for Transaction {
    fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let result = self.inner.get(key);
        self.note(result)
    }

    fn scan(&mut self, range: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        let result = self.inner.scan(range, limit, order);
        self.note(result)
    }
}

impl Write for Transaction {
    fn take(&mut self, range: &Range, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let result = self.inner.take(range, limit);
        self.note(result)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let result = self.inner.set(key, value);
        self.note(result)
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        let result = self.inner.delete(key);
        self.note(result)
    }

    fn emit(&mut self, topic: &str, key: &str, payload: &[u8]) -> Result<String, StoreError> {
        let result = self.inner.emit(topic, key, payload);
        self.note(result)
    }

    fn wake_at(&mut self, key: &str, at_ms: u64, payload: &[u8]) -> Result<(), StoreError> {
        let result = self.inner.wake_at(key, at_ms, payload);
        self.note(result)
    }

    fn cancel_wake(&mut self, key: &str) -> Result<bool, StoreError> {
        let result = self.inner.cancel_wake(key);
        self.note(result)
    }
}

/// Runs `work` in a transaction and commits it, if `work` succeeds; durable when this returns. Where the transaction conflicts with another one, `work` is run
/// again from its beginning, at most [`MAX_RUNS`] times, and once where it was open for too long, so it must do nothing that cannot be done twice besides what it
/// does with the transaction.
///
/// # Errors
/// Those of `work`, and those of the store as such ones.
pub fn transact<T, E: From<StoreError>>(mut work: impl FnMut(&mut Transaction) -> Result<T, E>) -> Result<T, E> {
    let (mut runs, mut overruns) = (1, 0);
    loop {
        let mut transaction = Transaction { inner: backend::begin()?, conflicted: false, overran: false };
        let result = work(&mut transaction);
        let (conflicted, overran) = (transaction.conflicted, transaction.overran);
        let mut again = |conflicted: bool, overran: bool| {
            overruns += u32::from(overran);
            runs < MAX_RUNS && (conflicted || overran && overruns <= MAX_OVERRUNS)
        };
        match result {
            Err(_) if again(conflicted, overran) => {}
            Err(error) => return Err(error),
            Ok(value) => match transaction.inner.commit() {
                Ok(()) => return Ok(value),
                Err(error) if again(error == StoreError::Conflict, error == StoreError::TooLong) => {}
                Err(error) => return Err(error.into()),
            },
        }
        runs += 1;
    }
}

/// The data as it is now, durably. Closed when dropped.
#[derive(Debug)]
pub struct Snapshot(backend::Snapshot);

/// Opens a snapshot.
///
/// # Errors
/// See [`StoreError`].
pub fn snapshot() -> Result<Snapshot, StoreError> {
    backend::snapshot().map(Snapshot)
}

impl Read for Snapshot {
    fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.0.get(key)
    }

    fn scan(&mut self, range: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        self.0.scan(range, limit, order)
    }
}

/// Waits until the version of an entry is not `since` any more (0: until it exists); the version then, or still `since` when `timeout` went by first. In a native
/// test nobody else changes anything, so it returns at once.
///
/// # Errors
/// See [`StoreError`].
pub fn wait(key: &[u8], since: u64, timeout: Duration) -> Result<u64, StoreError> {
    backend::wait(key, since, timeout)
}
