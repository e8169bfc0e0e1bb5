//! A store's conduct with files that are closed slowly, that panic, or whose tenant is removed.

use std::{
    io,
    ops::Bound,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mcpp::{
    names::TenantId,
    store::{
        Space, Store as _, StoreError,
        embedded::{
            EmbeddedConfig, EmbeddedStore,
            disk::{AnyBackend, Disk, FileSystem},
        },
    },
};
use redb::{BackendError, StorageBackend};
use tempfile::TempDir;

use super::suite::{Shared, begin, durable, key, put, space};

const PATIENCE: Duration = Duration::from_secs(20);

/// A disk that stops at the next sync of one file until it may go on, or that panics at the next write.
#[derive(Debug, Clone, Default)]
struct Trap(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The name of the file that stops, and whether it has.
    stop: Mutex<(Option<String>, bool)>,
    changed: Condvar,
    panics: AtomicBool,
}

impl Trap {
    fn stop(&self, file: Option<&str>) {
        *self.0.stop.lock().expect("whole") = (file.map(str::to_owned), false);
        self.0.changed.notify_all();
    }

    fn has_stopped(&self) -> bool {
        self.0.stop.lock().expect("whole").1
    }
}

impl Disk for Trap {
    fn exists(&self, path: &Path) -> bool {
        FileSystem.exists(path)
    }

    fn create(&self, path: &Path) -> io::Result<AnyBackend> {
        FileSystem.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<AnyBackend> {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let backend = FileSystem.open(path)?;
        Ok(AnyBackend(Box::new(TrapFile { trap: self.clone(), name, backend })))
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        FileSystem.publish(from, to)
    }
}

#[derive(Debug)]
struct TrapFile {
    trap: Trap,
    name: String,
    backend: AnyBackend,
}

impl StorageBackend for TrapFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.backend.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut stop = self.trap.0.stop.lock().expect("whole");
        while stop.0.as_ref() == Some(&self.name) {
            stop.1 = true;
            stop = self.trap.0.changed.wait(stop).expect("whole");
        }
        drop(stop);
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        assert!(!self.trap.0.panics.swap(false, Ordering::SeqCst), "the disk's driver panics");
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }
}

fn on(trap: &Trap, folder: &TempDir, idle_ms: u64) -> EmbeddedStore {
    let config = EmbeddedConfig { idle_ms, max_open_files: 2, ..EmbeddedConfig::default() };
    EmbeddedStore::new(folder.path().join("store"), config, Arc::new(trap.clone())).expect("a directory")
}

fn of(tenant: &str) -> Space {
    Space { tenant: TenantId::new(tenant).expect("legal"), ..space("a") }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited too long until {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_closed_slowly_keeps_nobody_from_another_tenants() {
    for by_idleness in [true, false] {
        let (trap, folder) = (Trap::default(), tempfile::tempdir().expect("a folder"));
        let store = on(&trap, &folder, if by_idleness { 50 } else { 3_600_000 });
        let shared: Shared = Arc::new(store.clone());
        put(&shared, &of("slow"), &[("k", "slow")]).await;
        put(&shared, &of("other"), &[("k", "other")]).await;
        // Somebody has it, so that it stays open.
        let held = store.snapshot(&of("other")).await.expect("a snapshot");
        // On a busy machine the file was idle for long enough already.
        let held_slow = store.snapshot(&of("slow")).await.expect("a snapshot");
        trap.stop(Some("slow.redb"));
        drop(held_slow);
        let third = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move { put(&shared, &of("third"), &[("k", "third")]).await }
        });
        until("the file is being closed", || trap.has_stopped()).await;
        let others = async {
            assert!(store.open_files() >= 1);
            assert_eq!(durable(&shared, &of("other")).await["k"], "other");
            put(&shared, &of("other"), &[("k", "again")]).await;
        };
        tokio::time::timeout(PATIENCE, others).await.expect("the other tenant waits for nobody");
        let slow = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move { durable(&shared, &of("slow")).await["k"].clone() }
        });
        trap.stop(None);
        drop(held);
        // A reader of the file itself waits until it is closed, and then finds it whole.
        assert_eq!(tokio::time::timeout(PATIENCE, slow).await.expect("opened").expect("read"), "slow");
        tokio::time::timeout(PATIENCE, third).await.expect("opened").expect("written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_commit_is_an_error_for_its_tenant_and_the_file_is_opened_anew() {
    let (trap, folder) = (Trap::default(), tempfile::tempdir().expect("a folder"));
    let store = on(&trap, &folder, 3_600_000);
    let shared: Shared = Arc::new(store.clone());
    for round in 0..3 {
        put(&shared, &of("a"), &[("k", "kept"), ("round", &round.to_string())]).await;
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.wait(&of("a"), &key("never"), 0).await }
        });
        trap.0.panics.store(true, Ordering::SeqCst);
        let mut t = begin(&shared, &of("a")).await;
        t.set(key("k"), "lost".into()).await.expect("set");
        let failed = tokio::time::timeout(PATIENCE, t.commit()).await.expect("it ends").expect_err("it panicked");
        assert!(matches!(failed, StoreError::OutcomeUnknown | StoreError::Unavailable(_)), "{failed:?}");
        let waited = tokio::time::timeout(PATIENCE, waiting).await.expect("it ends").expect("no panic");
        assert!(waited.is_err(), "{waited:?}");
        let again = async {
            put(&shared, &of("a"), &[("l", "after")]).await;
            durable(&shared, &of("a")).await
        };
        let after = tokio::time::timeout(PATIENCE, again).await.expect("it works again");
        assert_eq!((after["k"].as_str(), after["l"].as_str()), ("kept", "after"));
    }
    tokio::time::timeout(PATIENCE, store.close()).await.expect("it closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_tenants_file_does_not_come_back_until_there_is_such_a_tenant_again() {
    let (trap, folder) = (Trap::default(), tempfile::tempdir().expect("a folder"));
    let store = on(&trap, &folder, 3_600_000);
    let shared: Shared = Arc::new(store.clone());
    put(&shared, &of("gone"), &[("k", "v")]).await;
    // One transaction is open, as that of a delivery in flight.
    let mut open = begin(&shared, &of("gone")).await;
    open.set(key("k"), "late".into()).await.expect("set");
    store.remove(&of("gone").tenant).await.expect("removed");
    assert!(open.commit().await.is_err(), "what was open writes into nothing");
    let refused = match store.snapshot(&of("gone")).await {
        Err(refused) => refused,
        Ok(_) => panic!("it is there again"),
    };
    assert!(refused.is_removed(), "{refused:?}");
    assert!(store.begin(&of("gone"), mcpp::store::Bounds::host()).await.is_err_and(|error| error.is_removed()));
    assert!(!folder.path().join("store/gone.redb").exists());
    store.readmit(&of("gone").tenant);
    assert!(durable(&shared, &of("gone")).await.is_empty(), "it begins anew");
    put(&shared, &of("gone"), &[("k", "new")]).await;
    assert_eq!(durable(&shared, &of("gone")).await["k"], "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_what_is_not_durable_yet_is_answered_when_it_is() {
    let (trap, folder) = (Trap::default(), tempfile::tempdir().expect("a folder"));
    let store = on(&trap, &folder, 3_600_000);
    let shared: Shared = Arc::new(store.clone());
    put(&shared, &of("a"), &[("k", "old")]).await;
    trap.stop(Some("a.wal"));
    let writing = tokio::spawn({
        let shared = Arc::clone(&shared);
        async move { put(&shared, &of("a"), &[("k", "new")]).await }
    });
    until("the log is being flushed", || trap.has_stopped()).await;
    let mut t = begin(&shared, &of("a")).await;
    assert_eq!(t.get(&key("k")).await.expect("read").expect("there").value, "new");
    let mut reading = tokio::spawn(t.commit());
    let early = tokio::time::timeout(Duration::from_millis(200), &mut reading).await;
    assert!(early.is_err(), "it was answered before what it read was durable: {early:?}");
    assert_eq!(durable(&shared, &of("a")).await["k"], "old");
    trap.stop(None);
    tokio::time::timeout(PATIENCE, reading).await.expect("it ends").expect("no panic").expect("committed");
    tokio::time::timeout(PATIENCE, writing).await.expect("it ends").expect("written");
    assert_eq!(durable(&shared, &of("a")).await["k"], "new");
}
