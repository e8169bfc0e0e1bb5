//! Requests of a guest in the store's terms, within their bounds, and the store's answers in the guest's.

use bytes::Bytes;

use super::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::{
    capability::bindings::mcpp::store::types,
    store::{Entry, KeyRange, MAX_PAGE_ENTRIES, Order, Page, Scan, Section, SpaceUsage, StoreError},
};

impl From<StoreError> for types::StoreError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::QuotaExceeded { .. } => Self::QuotaExceeded,
            StoreError::TransactionTooLarge => Self::TransactionTooLarge,
            StoreError::TooLong => Self::TooLong,
            StoreError::Conflict => Self::Conflict,
            StoreError::OutcomeUnknown => Self::OutcomeUnknown,
            StoreError::Unavailable(_) if error.is_expired() => Self::Expired,
            StoreError::Unavailable(reason) => {
                // The guest learns that the store is unavailable, the operator why.
                tracing::error!(error = crate::error::chain(&*reason), "a component finds the store unavailable");
                Self::Unavailable
            }
        }
    }
}

impl From<Entry> for types::Entry {
    fn from(entry: Entry) -> Self {
        let key = entry.key.get(1..).unwrap_or_default().to_vec();
        Self { key, value: entry.value.into(), version: entry.version }
    }
}

impl From<Page> for types::Page {
    fn from(page: Page) -> Self {
        Self { entries: page.entries.into_iter().map(types::Entry::from).collect(), more: page.more }
    }
}

impl From<SpaceUsage> for types::Usage {
    fn from(SpaceUsage { used_bytes, quota_bytes }: SpaceUsage) -> Self {
        Self { used_bytes, quota_bytes }
    }
}

/// The store's own key of a guest's entry, if it is one.
pub(crate) fn store_key(guest_key: &[u8]) -> Option<Bytes> {
    key(guest_key).ok()
}

pub(super) fn key(key: &[u8]) -> Result<Bytes, types::StoreError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(types::StoreError::InvalidKey);
    }
    Ok(Section::Data.key(key))
}

pub(super) fn value(value: Vec<u8>) -> Result<Bytes, types::StoreError> {
    if value.len() > MAX_VALUE_BYTES { Err(types::StoreError::ValueTooLarge) } else { Ok(value.into()) }
}

pub(super) fn change(change: types::Change) -> Result<(Bytes, Option<Bytes>), types::StoreError> {
    Ok((key(&change.key)?, change.value.map(value).transpose()?))
}

pub(super) fn range(range: &types::Range) -> Result<KeyRange, types::StoreError> {
    let bounds = [Some(&range.start), range.end.as_ref()];
    if bounds.into_iter().flatten().any(|bound| bound.len() > MAX_KEY_BYTES) {
        return Err(types::StoreError::InvalidKey);
    }
    let all = Section::Data.prefix(b"");
    let end = range.end.as_ref().map_or(all.end, |end| Section::Data.key(end));
    Ok(KeyRange { start: Section::Data.key(&range.start), end })
}

/// Bytes that the host charges for reading entries.
pub(in crate::capability) fn bytes_of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> usize {
    entries.into_iter().map(Entry::bytes).sum()
}

/// Bytes that the host charges for reading a page.
pub(in crate::capability) fn cost_of(page: &Page) -> usize {
    bytes_of(&page.entries).saturating_add(page.passed_bytes)
}

pub(super) fn scan(limit: u32, reverse: bool) -> Scan {
    let order = if reverse { Order::Descending } else { Order::Ascending };
    Scan { limit: usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_PAGE_ENTRIES), order }
}
