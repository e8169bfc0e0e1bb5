//! The quota of the store in memory, and the size that it bounds, counted as the host counts them. Events and timers do not count here: no subscriber keeps them
//! waiting.

use std::cell::Cell;

use super::{Overlay, Source, StoreError, Usage, called, charge};

thread_local! {
    static QUOTA: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Sets how large the store on this thread may grow, counted as the host counts it: a grant's `quota_bytes`. Until then, and after
/// [`clear`](super::clear), the quota is [`u64::MAX`].
pub fn set_quota(bytes: u64) {
    QUOTA.set(bytes);
}

/// Takes the quota away.
pub(super) fn lift() {
    QUOTA.set(u64::MAX);
}

/// What an entry counts beside its key and its value: the host puts one byte before each key, and counts 65 for its place in a file. It counts the component's name too, which
/// has no bytes here.
const ENTRY_COST: usize = 66;

/// Bytes that an entry counts.
fn bytes_of(key: &[u8], value: &[u8]) -> u64 {
    let bytes = key.len().saturating_add(value.len()).saturating_add(ENTRY_COST);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Overlay {
    /// Counts an entry's new value, or its removal. Refuses one that makes the store larger, and larger than its quota.
    pub(super) fn resize(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        let old_bytes = self.find(key).map_or(0, |(value, _)| bytes_of(key, value));
        let new_bytes = value.map_or(0, |value| bytes_of(key, value));
        let used_bytes = self.used_bytes.saturating_sub(old_bytes).saturating_add(new_bytes);
        if new_bytes > old_bytes && used_bytes > QUOTA.get() {
            return Err(StoreError::QuotaExceeded);
        }
        self.used_bytes = used_bytes;
        Ok(())
    }
}

impl Source<'_> {
    pub(in crate::store) fn usage(&self) -> Result<Usage, StoreError> {
        called();
        charge(0);
        let used_bytes = match self {
            Self::Own(overlay) => overlay.borrow().used_bytes,
            Self::Snapshot(_, used_bytes, _) => *used_bytes,
        };
        Ok(Usage { used_bytes, quota_bytes: QUOTA.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::clear, *};
    use crate::store::{Counts, Map, snapshot, transact};

    const VALUES: Map<u8, String> = Map::new("v");
    const COUNT: Counts<()> = Counts::new("c");

    fn set(number: u8, bytes: usize) -> Result<u64, StoreError> {
        transact(|t| {
            VALUES.set(t, &number, &"x".repeat(bytes))?;
            COUNT.add(t, &(), 1);
            Ok(t.usage()?.used_bytes)
        })
    }

    #[test]
    fn the_quota_and_the_size_are_what_the_store_compares() {
        clear();
        assert_eq!(snapshot().expect("a snapshot").usage(), Ok(Usage { used_bytes: 0, quota_bytes: u64::MAX }));
        let one = set(1, 100).expect("written");
        let known: u64 = super::super::entries().iter().map(|(key, value)| bytes_of(key, value)).sum();
        assert_eq!(one, known, "with the counts, which are written last");
        let two = set(2, 100).expect("written");
        set_quota(two);
        let before = snapshot().expect("a snapshot");
        assert_eq!(before.usage(), Ok(Usage { used_bytes: two, quota_bytes: two }));
        assert_eq!(set(3, 1), Err(StoreError::QuotaExceeded));
        assert_eq!(set(2, 101), Err(StoreError::QuotaExceeded));
        assert_eq!(set(2, 99), Ok(two - 1), "smaller");
        assert_eq!(set(2, 100), Ok(two), "to the byte");
        transact(|t| VALUES.remove(t, &1)).expect("removed");
        assert!(set(3, 50).is_ok(), "there is room again");
        assert_eq!(before.usage().map(|usage| usage.used_bytes), Ok(two), "as it was when it was opened");
        set_quota(10);
        assert_eq!(set(3, 49).map(|used| used > 10), Ok(true), "a smaller value, though there is more than the quota");
        clear();
        assert!(set(1, 1_000).is_ok(), "a clear store has no quota");
    }
}
