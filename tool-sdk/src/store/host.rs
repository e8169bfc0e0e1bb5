//! The store as the host has it.

use std::time::Duration;

use super::{
    Entry, Order, Page, Range, StoreError, Usage,
    ahead::{Change, Message},
};
use crate::{
    bindings::mcpp::{
        events::outbox,
        store::{changes, snapshots, transactions, types},
    },
    environment::millis,
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
    Ok(changes::wait(key, since, millis(timeout))?)
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

    pub(super) fn usage(&self) -> Result<Usage, StoreError> {
        let usage = match self {
            Self::Snapshot(snapshot) => snapshot.usage(),
            _ => self.transaction()?.usage(),
        };
        let types::Usage { used_bytes, quota_bytes } = usage?;
        Ok(Usage { used_bytes, quota_bytes })
    }

    pub(super) fn is_transaction(&self) -> bool {
        !matches!(self, Self::Snapshot(_))
    }

    pub(super) fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Entry>>, StoreError> {
        let found = self.transaction()?.get_many(keys)?;
        Ok(found.into_iter().map(|entry| entry.map(Entry::from)).collect())
    }

    pub(super) fn write_many(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let changes: Vec<_> = changes.into_iter().map(|(key, value)| types::Change { key, value }).collect();
        Ok(self.transaction()?.write_many(&changes)?)
    }

    pub(super) fn emit_many(&self, messages: Vec<Message>) -> Result<(), StoreError> {
        let message = |Message { topic, key, payload }| outbox::Message { topic, key, payload };
        let messages: Vec<_> = messages.into_iter().map(message).collect();
        Ok(outbox::emit_many(self.transaction()?, &messages)?)
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
