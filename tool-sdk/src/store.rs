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

mod ahead;
mod alarm;
mod bites;
mod codec;
mod collections;
#[cfg(not(target_arch = "wasm32"))]
pub mod memory;
mod rows;
mod span;
mod table;
mod view;

use std::time::Duration;

use crate::changed::Held;

pub use self::{
    alarm::Alarm,
    bites::{Bitten, Budget, bites},
    codec::{Key, KeyOf, Prefix},
    collections::{Counter, Index, Map, Place, Queue, remove_collection},
    span::{Cursor, Span, Walk},
    table::{Counts, Places, Prepared, Table},
    view::{Snapshot, Spent, Transaction, View},
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
    /// The snapshot is too old: older than 60 s, or the host has written much since, more than 64 MiB and four times the tenant's keys and values.
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
            Self::Expired => "the snapshot is too old, or too much was written since",
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

/// How large the space is, and how large it may grow. The store keeps both numbers, so asking reads no entry. See [`View::usage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all keys and values, one byte more for each key. On the host, entries of `wasi:keyvalue` and events and timers that wait count too.
    pub used_bytes: u64,
    /// The quota: the most bytes that the space may grow to. After the operator has lowered it, `used_bytes` may be larger.
    pub quota_bytes: u64,
}

impl Usage {
    /// Bytes by which the space may still grow.
    pub fn free_bytes(self) -> u64 {
        self.quota_bytes.saturating_sub(self.used_bytes)
    }
}

#[cfg(not(target_arch = "wasm32"))]
use memory as backend;

#[cfg(target_arch = "wasm32")]
#[path = "store/host.rs"]
pub(crate) mod backend;

/// Runs `work` in a transaction and commits it, if `work` succeeds; durable when this returns. Where the transaction conflicts with another one, `work` is run
/// again from its beginning, at most [`MAX_RUNS`] times, and once where it was open for too long, so it must do nothing that cannot be done twice besides what it
/// does with the transaction.
///
/// # Errors
/// Those of `work`, and those of the store as such ones.
pub fn transact<T, E: From<StoreError>>(mut work: impl FnMut(&Transaction<'static>) -> Result<T, E>) -> Result<T, E> {
    let (mut runs, mut overruns) = (1, 0);
    loop {
        let (result, store_error) = attempt(&mut work);
        overruns += u32::from(store_error == Some(StoreError::TooLong));
        let again = match store_error {
            Some(StoreError::Conflict) => true,
            Some(StoreError::TooLong) => overruns <= MAX_OVERRUNS,
            _ => false,
        };
        if result.is_ok() || !again || runs >= MAX_RUNS {
            return result;
        }
        runs += 1;
    }
}

/// Runs `work` in one transaction, and commits it if `work` succeeds; and the last error that the store gave.
fn attempt<T, E: From<StoreError>>(
    work: &mut impl FnMut(&Transaction<'static>) -> Result<T, E>,
) -> (Result<T, E>, Option<StoreError>) {
    let transaction = match Transaction::begin() {
        Ok(transaction) => transaction,
        Err(error) => return (Err(error.into()), Some(error)),
    };
    let said = Held::begin();
    match work(&transaction) {
        Err(error) => (Err(error), transaction.last_error()),
        Ok(value) => {
            let committed = transaction.commit();
            // One change too many does no harm.
            if matches!(committed, Ok(()) | Err(StoreError::OutcomeUnknown)) {
                said.tell();
            }
            (committed.map(|()| value).map_err(E::from), committed.err())
        }
    }
}

/// Opens a snapshot.
///
/// # Errors
/// See [`StoreError`].
pub fn snapshot() -> Result<Snapshot, StoreError> {
    view::snapshot()
}

/// Waits until the version of an entry is not `since` any more (0: until it exists); the version then, or still `since` when `timeout` went by first. In a native
/// test nobody else changes anything, so it returns at once.
///
/// # Errors
/// See [`StoreError`].
pub fn wait(key: &[u8], since: u64, timeout: Duration) -> Result<u64, StoreError> {
    backend::wait(key, since, timeout)
}
