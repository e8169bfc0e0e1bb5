//! The store as the host has it.

use std::time::Duration;

use super::{Entry, Order, Page, Range, Read, StoreError, Write};
use crate::bindings::mcpp::{
    events::outbox,
    store::{changes, snapshots, transactions, types},
};

#[derive(Debug)]
pub(super) struct Transaction(transactions::Transaction);

#[derive(Debug)]
pub(super) struct Snapshot(snapshots::Snapshot);

pub(super) fn begin() -> Result<Transaction, StoreError> {
    Ok(Transaction(transactions::begin()?))
}

impl Transaction {
    pub(super) fn commit(self) -> Result<(), StoreError> {
        Ok(transactions::Transaction::commit(self.0)?)
    }
}

pub(super) fn snapshot() -> Result<Snapshot, StoreError> {
    Ok(Snapshot(snapshots::open()?))
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

/// A transaction that somebody else owns.
impl Read for &transactions::Transaction {
    fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        Ok(transactions::Transaction::get(self, key)?.map(Entry::from))
    }

    fn scan(&mut self, keys: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        Ok(transactions::Transaction::scan(self, &range(keys), limit, order == Order::Descending)?.into())
    }
}

impl Read for Transaction {
    fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        Read::get(&mut &self.0, key)
    }

    fn scan(&mut self, keys: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        Read::scan(&mut &self.0, keys, limit, order)
    }
}

impl Read for Snapshot {
    fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        Ok(self.0.get(key)?.map(Entry::from))
    }

    fn scan(&mut self, keys: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        Ok(self.0.scan(&range(keys), limit, order == Order::Descending)?.into())
    }
}

impl Write for &transactions::Transaction {
    fn take(&mut self, keys: &Range, limit: u32) -> Result<Vec<Entry>, StoreError> {
        Ok(transactions::Transaction::take(self, &range(keys), limit)?.into_iter().map(Entry::from).collect())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        Ok(transactions::Transaction::set(self, key, value)?)
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(transactions::Transaction::delete(self, key)?)
    }

    fn emit(&mut self, topic: &str, key: &str, payload: &[u8]) -> Result<String, StoreError> {
        Ok(outbox::emit(self, topic, key, payload)?)
    }

    fn wake_at(&mut self, key: &str, at_ms: u64, payload: &[u8]) -> Result<(), StoreError> {
        Ok(outbox::wake_at(self, key, at_ms, payload)?)
    }

    fn cancel_wake(&mut self, key: &str) -> Result<bool, StoreError> {
        Ok(outbox::cancel_wake(self, key)?)
    }
}

impl Write for Transaction {
    fn take(&mut self, keys: &Range, limit: u32) -> Result<Vec<Entry>, StoreError> {
        Write::take(&mut &self.0, keys, limit)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        Write::set(&mut &self.0, key, value)
    }

    fn delete(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        Write::delete(&mut &self.0, key)
    }

    fn emit(&mut self, topic: &str, key: &str, payload: &[u8]) -> Result<String, StoreError> {
        (&self.0).emit(topic, key, payload)
    }

    fn wake_at(&mut self, key: &str, at_ms: u64, payload: &[u8]) -> Result<(), StoreError> {
        (&self.0).wake_at(key, at_ms, payload)
    }

    fn cancel_wake(&mut self, key: &str) -> Result<bool, StoreError> {
        (&self.0).cancel_wake(key)
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
