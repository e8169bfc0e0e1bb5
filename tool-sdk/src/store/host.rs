//! The store as the host has it.

use std::time::Duration;

use super::{Entry, Order, Page, Range, StoreError};
use crate::bindings::mcpp::{
    events::outbox,
    store::{changes, snapshots, transactions, types},
};

/// A snapshot, a transaction, or a transaction that another one owns and commits.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    Own(transactions::Transaction),
    Lent(&'a transactions::Transaction),
    Snapshot(snapshots::Snapshot),
}

pub(super) fn begin() -> Result<Source<'static>, StoreError> {
    Ok(Source::Own(transactions::begin()?))
}

pub(super) fn snapshot() -> Result<Source<'static>, StoreError> {
    Ok(Source::Snapshot(snapshots::open()?))
}

pub(super) fn wait(key: &[u8], since: u64, timeout: Duration) -> Result<u64, StoreError> {
    Ok(changes::wait(key, since, u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))?)
}

fn range(range: &Range) -> types::Range {
    types::Range { start: range.start.clone(), end: range.end.clone() }
}

impl From<types::Entry> for Entry {
    fn from(entry: types::Entry) -> Self {
        Self { key: entry.key, value: entry.value, version: entry.version }
    }
}

impl From<types::Page> for Page {
    fn from(page: types::Page) -> Self {
        Self { entries: page.entries.into_iter().map(Entry::from).collect(), more: page.more }
    }
}

impl Source<'_> {
    /// The transaction; an error if this is a snapshot, which nothing writes to.
    fn transaction(&self) -> Result<&transactions::Transaction, StoreError> {
        match self {
            Self::Own(transaction) => Ok(transaction),
            Self::Lent(transaction) => Ok(transaction),
            Self::Snapshot(_) => Err(StoreError::Unavailable),
        }
    }

    pub(super) fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Own(transaction) => Ok(transactions::Transaction::commit(transaction)?),
            Self::Lent(_) | Self::Snapshot(_) => Ok(()),
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let found = match self {
            Self::Snapshot(snapshot) => snapshot.get(key),
            _ => self.transaction()?.get(key),
        };
        Ok(found?.map(Entry::from))
    }

    pub(super) fn scan(&self, keys: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        let is_reverse = order == Order::Descending;
        let page = match self {
            Self::Snapshot(snapshot) => snapshot.scan(&range(keys), limit, is_reverse),
            _ => self.transaction()?.scan(&range(keys), limit, is_reverse),
        };
        Ok(page?.into())
    }

    pub(super) fn take(&self, keys: &Range, limit: u32) -> Result<Vec<Entry>, StoreError> {
        Ok(self.transaction()?.take(&range(keys), limit)?.into_iter().map(Entry::from).collect())
    }

    pub(super) fn set(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        Ok(self.transaction()?.set(key, value)?)
    }

    pub(super) fn delete(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.transaction()?.delete(key)?)
    }

    pub(super) fn emit(&self, topic: &str, key: &str, payload: &[u8]) -> Result<String, StoreError> {
        Ok(outbox::emit(self.transaction()?, topic, key, payload)?)
    }

    pub(super) fn wake_at(&self, key: &str, at_ms: u64, payload: &[u8]) -> Result<(), StoreError> {
        Ok(outbox::wake_at(self.transaction()?, key, at_ms, payload)?)
    }

    pub(super) fn cancel_wake(&self, key: &str) -> Result<bool, StoreError> {
        Ok(outbox::cancel_wake(self.transaction()?, key)?)
    }
}

impl From<types::StoreError> for StoreError {
    fn from(error: types::StoreError) -> Self {
        match error {
            types::StoreError::InvalidKey => Self::InvalidKey,
            types::StoreError::ValueTooLarge => Self::ValueTooLarge,
            types::StoreError::TransactionTooLarge => Self::TransactionTooLarge,
            types::StoreError::QuotaExceeded => Self::QuotaExceeded,
            types::StoreError::TooLong => Self::TooLong,
            types::StoreError::TransactionOpen => Self::TransactionOpen,
            types::StoreError::Conflict => Self::Conflict,
            types::StoreError::OutcomeUnknown => Self::OutcomeUnknown,
            types::StoreError::Expired => Self::Expired,
            types::StoreError::TooManySnapshots => Self::TooManySnapshots,
            types::StoreError::Unavailable => Self::Unavailable,
        }
    }
}

impl From<outbox::OutboxError> for StoreError {
    fn from(error: outbox::OutboxError) -> Self {
        match error {
            outbox::OutboxError::InvalidTopic => Self::InvalidTopic,
            outbox::OutboxError::InvalidKey => Self::InvalidKey,
            outbox::OutboxError::PayloadTooLarge => Self::PayloadTooLarge,
            outbox::OutboxError::TransactionTooLarge => Self::TransactionTooLarge,
            outbox::OutboxError::QuotaExceeded => Self::QuotaExceeded,
            outbox::OutboxError::TooLong => Self::TooLong,
            outbox::OutboxError::Conflict => Self::Conflict,
            outbox::OutboxError::Unavailable => Self::Unavailable,
        }
    }
}
