//! Snapshots of an open file. As long as one is held, the file cannot reuse the pages that it sees, so the host bounds how long it holds one.
//!
//! A snapshot is let go when it is [`MAX_SNAPSHOT_AGE`] old. It is let go earlier when the host has written so many bytes into the file since then that the file
//! would outgrow its data: every page that was written since the oldest snapshot is one that the file could not reuse.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;

use super::{base::Pending, file::DataFile, scan::RangeWalk, space::Durable};
use crate::{
    names::ComponentName,
    store::{Entry, KeyRange, MAX_SNAPSHOT_AGE, Page, Scan, Snapshot, StoreError, Unavailable},
};

/// Bytes that the host writes into any file while a snapshot of it is held.
const HELD_BACK_BYTES: u64 = 64 << 20;
/// The same for a large file, in multiples of the bytes of its keys and values.
const HELD_BACK_TIMES: u64 = 4;

/// What a snapshot sees; none once it is let go.
type Seen = Arc<ArcSwapOption<Durable>>;

/// The snapshots of a file that are held, from the oldest to the newest.
#[derive(Debug, Default)]
pub(super) struct HeldSnapshots(Mutex<SnapshotsByNumber>);

#[derive(Debug, Default)]
struct SnapshotsByNumber {
    last: u64,
    by_number: BTreeMap<u64, HeldSnapshot>,
}

#[derive(Debug)]
struct HeldSnapshot {
    seen: Seen,
    opened: Instant,
    /// Bytes written into the file until then.
    written: u64,
}

impl HeldSnapshots {
    fn lock(&self) -> std::sync::MutexGuard<'_, SnapshotsByNumber> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of those that are too old at `now`, and of those since which too much of the `written` bytes was written into a file with `used_bytes`.
    pub(super) fn let_go(&self, now: Instant, written: u64, used_bytes: u64) {
        let most = HELD_BACK_BYTES.max(used_bytes.saturating_mul(HELD_BACK_TIMES));
        let is_over = |held: &HeldSnapshot| {
            now.saturating_duration_since(held.opened) > MAX_SNAPSHOT_AGE || written.saturating_sub(held.written) > most
        };
        loop {
            let oldest = {
                let mut held = self.lock();
                let oldest = held.by_number.first_entry().filter(|oldest| is_over(oldest.get()));
                oldest.map(|oldest| oldest.remove())
            };
            // Outside the lock: this may end a read of the file, and free many entries.
            let Some(oldest) = oldest else { return };
            oldest.seen.store(None);
        }
    }
}

impl StoreError {
    /// Whether the snapshot was held for too long, so that another one can be read.
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Unavailable(why) if matches!(**why, Unavailable::Expired { .. }))
    }
}

/// A snapshot for a guest or the host.
#[derive(Debug)]
pub(super) struct DurableSnapshot {
    // The file stays open as long as the snapshot.
    file: Arc<DataFile>,
    component: ComponentName,
    seen: Seen,
    number: u64,
}

impl DurableSnapshot {
    pub(super) fn new(file: Arc<DataFile>, component: &ComponentName) -> Self {
        // Before the look, so that a checkpoint between the two counts.
        let (opened, written) = (Instant::now(), file.written_bytes());
        let seen: Seen = Arc::new(ArcSwapOption::from_pointee(file.durable(component)));
        let mut held = file.snapshots.lock();
        held.last = held.last.saturating_add(1);
        let number = held.last;
        held.by_number.insert(number, HeldSnapshot { seen: Arc::clone(&seen), opened, written });
        drop(held);
        Self { file, component: component.clone(), seen, number }
    }

    fn seen(&self) -> Result<Arc<Durable>, StoreError> {
        self.seen.load_full().ok_or_else(|| Unavailable::Expired { path: self.file.path.clone() }.into())
    }

    fn read(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let seen = self.seen()?;
        match seen.logged.get_key_value(key) {
            Some((key, Pending { version, value })) => {
                let entry = |value: &bytes::Bytes| Entry { key: key.clone(), value: value.clone(), version: *version };
                Ok(value.as_ref().map(entry))
            }
            None => seen.base.get(&self.component, key),
        }
    }

    /// Goes through a range in steps, between which others run and the host may let go of the snapshot.
    async fn walk(&self, range: &KeyRange, scan: Scan) -> Result<Page, StoreError> {
        let mut walk = RangeWalk::new(range, scan);
        loop {
            let seen = self.seen()?;
            if seen.base.walk(&self.component, &seen.logged, None, &mut walk)? {
                return Ok(walk.into_page());
            }
            drop(seen);
            tokio::task::yield_now().await;
        }
    }
}

impl Snapshot for DurableSnapshot {
    fn get<'a>(&'a self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(std::future::ready(self.read(key)))
    }

    fn scan<'a>(&'a self, range: &'a KeyRange, scan: Scan) -> BoxFuture<'a, Result<Page, StoreError>> {
        Box::pin(self.walk(range, scan))
    }

    fn used_bytes(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        let used_bytes = self.seen().and_then(|seen| seen.used_bytes(&self.component));
        Box::pin(std::future::ready(used_bytes))
    }
}

impl Drop for DurableSnapshot {
    fn drop(&mut self) {
        let held = self.file.snapshots.lock().by_number.remove(&self.number);
        drop(held);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        names::TenantId,
        store::embedded::{EmbeddedConfig, EmbeddedStore, disk::FileSystem},
    };

    const WRITTEN: u64 = 7;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_snapshot_ends_by_its_age_and_by_what_was_written_since() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = EmbeddedStore::new(folder.path().join("store"), EmbeddedConfig::default(), Arc::new(FileSystem));
        let file = store.expect("a directory").file(&TenantId::local()).await.expect("a file");
        let component = ComponentName::new("a").expect("legal");
        let (second, past) = (Duration::from_secs(1), file.written_bytes());
        let large = HELD_BACK_BYTES;
        for (age, written, used, ends) in [
            (MAX_SNAPSHOT_AGE - second, WRITTEN, 0, false),
            (MAX_SNAPSHOT_AGE + second, 0, 0, true),
            (second, HELD_BACK_BYTES, 0, false),
            (second, HELD_BACK_BYTES + 1, 0, true),
            (second, HELD_BACK_TIMES * large, large, false),
            (second, HELD_BACK_TIMES * large + 1, large, true),
        ] {
            let snapshot = DurableSnapshot::new(Arc::clone(&file), &component);
            let seen = Arc::downgrade(&snapshot.seen().expect("new"));
            file.snapshots.let_go(Instant::now() + age, past + written, used);
            assert_eq!(snapshot.read(b"k").is_err_and(|error| error.is_expired()), ends, "{age:?} {written} {used}");
            assert_eq!(seen.upgrade().is_none(), ends, "nothing that it saw is held: {age:?} {written} {used}");
        }
        assert!(file.snapshots.lock().by_number.is_empty(), "a snapshot that is dropped is not held");
    }
}
