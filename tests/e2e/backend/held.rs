//! What callers hold of the embedded store and do not use: snapshots, transactions and waits. None of it makes a file or the memory grow without a bound.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mcpp::store::{
    Bounds, KeyRange, Order, Scan, Section, StoreError,
    embedded::{EmbeddedConfig, EmbeddedStore, disk::FileSystem},
};
use tempfile::TempDir;
use tokio::time::Instant;

use super::suite::{Shared, all, begin, key, put, space};

/// Overwritings of one value of 1 MiB: several times as many as fill a file to its bound.
const ROUNDS: u8 = 200;
/// The most bytes of a file whose data are 2 MiB. It doubles when it is full.
const MOST: u64 = 192 << 20;

fn open(folder: &TempDir) -> Shared {
    let store = EmbeddedStore::new(folder.path().join("store"), EmbeddedConfig::default(), Arc::new(FileSystem));
    Arc::new(store.expect("a directory"))
}

fn length(folder: &TempDir) -> u64 {
    std::fs::metadata(folder.path().join("store/local.redb")).expect("a file").len()
}

async fn overwrite(store: &Shared, round: u8) {
    let mut t = begin(store, &space("a")).await;
    t.set(key("k"), Bytes::from(vec![round; 1 << 20])).await.expect("set");
    t.commit().await.expect("committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_snapshots_do_not_make_a_file_grow_without_a_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let mut held = Vec::new();
    for round in 0..ROUNDS {
        overwrite(&store, round).await;
        held.push(store.snapshot(&space("a")).await.expect("a snapshot"));
        assert!(length(&folder) <= MOST, "{} bytes after {round} rounds", length(&folder));
    }
    let mut expired = 0;
    for (round, snapshot) in (0..ROUNDS).zip(&held) {
        match snapshot.get(&key("k")).await {
            Ok(found) => assert_eq!(found.expect("there").value[0], round, "a snapshot does not move"),
            Err(error) => {
                assert!(error.is_expired(), "{error:?}");
                let scanned = snapshot.scan(&all(), Scan::first(1)).await;
                assert!(scanned.is_err_and(|error| error.is_expired()));
                assert_eq!(expired, round, "the oldest ones end first");
                expired += 1;
            }
        }
    }
    assert!((1..ROUNDS - 10).contains(&expired), "{expired}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_transaction_and_a_wait_do_not_make_a_file_grow_without_a_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    overwrite(&store, 0).await;
    // Nobody else wants the turn of this space.
    let short = Bounds { own: Duration::from_millis(50), ..Bounds::host() };
    let mut t = store.begin(&space("b"), short).await.expect("a transaction");
    t.set(key("k"), "never".into()).await.expect("set");
    let waiting = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.wait(&space("a"), &key("another"), 0).await })
    };
    for round in 1..ROUNDS {
        overwrite(&store, round).await;
        assert!(length(&folder) <= MOST, "{} bytes after {round} rounds", length(&folder));
    }
    assert!(matches!(t.get(&key("k")).await, Err(StoreError::TooLong)));
    assert!(!waiting.is_finished());
    put(&store, &space("a"), &[("another", "x")]).await;
    assert_ne!(waiting.await.expect("it ends").expect("woken"), 0);
}

/// A value that tells when the store lets go of it.
struct Told(Arc<AtomicUsize>);

impl AsRef<[u8]> for Told {
    fn as_ref(&self) -> &[u8] {
        b"value"
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writes_of_a_turn_that_is_over_are_dropped_though_its_handle_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let let_go = Arc::new(AtomicUsize::new(0));
    let short = Bounds { own: Duration::from_millis(50), ..Bounds::host() };
    let mut open = Vec::new();
    for number in 0..10 {
        let mut t = store.begin(&space("a"), short.clone()).await.expect("a transaction");
        assert_eq!(let_go.load(Ordering::SeqCst), number, "the turn of the one before was taken away");
        t.set(key("k"), Bytes::from_owner(Told(Arc::clone(&let_go)))).await.expect("set");
        open.push(t);
    }
    // Nobody waits for the last one: the host ends it all the same.
    let patience = Instant::now() + Duration::from_secs(30);
    while let_go.load(Ordering::SeqCst) < open.len() {
        assert!(Instant::now() < patience, "the writes of the last one stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for mut t in open {
        assert!(matches!(t.set(key("k"), Bytes::new()).await, Err(StoreError::TooLong)));
        assert!(matches!(t.commit().await, Err(StoreError::TooLong)));
    }
    let snapshot = store.snapshot(&space("a")).await.expect("a snapshot");
    assert!(snapshot.get(&key("k")).await.expect("read").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_lets_others_run_while_it_passes_over_large_values_and_says_what_they_cost() {
    const VALUES: usize = 20;
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let large = Bytes::from(vec![7; 1 << 20]);
    let name = |number: usize| key(&format!("k{number:02}"));
    for number in 0..VALUES {
        let mut t = begin(&store, &space("a")).await;
        t.set(name(number), large.clone()).await.expect("set");
        t.commit().await.expect("committed");
    }
    put(&store, &space("a"), &[("z", "last")]).await;
    // The log keeps these deletions, over values in the database.
    for number in 0..VALUES / 2 {
        let mut t = begin(&store, &space("a")).await;
        assert!(t.delete(&name(number)).await.expect("deleted"));
        t.commit().await.expect("committed");
    }
    let half = KeyRange { start: name(0), end: name(VALUES / 2) };
    let snapshot = store.snapshot(&space("a")).await.expect("a snapshot");
    let mut scan = snapshot.scan(&half, Scan::first(1));
    assert!(futures::poll!(&mut scan).is_pending(), "it passes over all of them at once");
    let page = scan.await.expect("a page");
    assert_eq!((page.entries.len(), page.more), (0, false));
    assert!(page.passed_bytes >= ((VALUES / 2) << 20) / 16, "{}", page.passed_bytes);
    // A transaction that deletes the rest itself.
    let mut t = begin(&store, &space("a")).await;
    for number in VALUES / 2..VALUES {
        assert!(t.delete(&name(number)).await.expect("deleted"));
    }
    for order in [Order::Ascending, Order::Descending] {
        let range = all();
        let mut scan = t.scan(&range, Scan { limit: 1, order });
        let at_once = futures::poll!(&mut scan).is_ready();
        assert!(!at_once, "{order:?}: it passes over all of them at once");
        let page = scan.await.expect("a page");
        assert_eq!((page.entries.len(), &*page.entries[0].value, page.more), (1, &b"last"[..], false), "{order:?}");
        assert!(page.passed_bytes >= (VALUES << 20) / 16, "{order:?}: {}", page.passed_bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_in_steps_finds_what_one_without_would() {
    const ENTRIES: usize = 9_500;
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let name = |number: usize| Section::Data.key(format!("{number:04}").as_bytes());
    let patient = Duration::from_secs(100);
    let bounds = Bounds { own: patient, wall: patient, ..Bounds::host() };
    let mut t = store.begin(&space("a"), bounds.clone()).await.expect("a transaction");
    t.write_many((0..ENTRIES).map(|number| (name(number), Some("x".into()))).collect()).await.expect("written");
    t.commit().await.expect("committed");
    let mut t = store.begin(&space("a"), bounds).await.expect("a transaction");
    let kept = |number: &usize| number % 2_500 == 13;
    let deleted = (0..ENTRIES).filter(|number| !kept(number)).map(|number| (name(number), None));
    t.write_many(deleted.collect()).await.expect("deleted");
    let left: Vec<Bytes> = (0..ENTRIES).filter(kept).map(name).collect();
    for (order, limit) in [Order::Ascending, Order::Descending].into_iter().flat_map(|o| [(o, 2), (o, 4), (o, 9)]) {
        let page = t.scan(&all(), Scan { limit, order }).await.expect("a page");
        let found: Vec<Bytes> = page.entries.into_iter().map(|entry| entry.key).collect();
        let mut expected = left.clone();
        if order == Order::Descending {
            expected.reverse();
        }
        expected.truncate(limit);
        assert_eq!((found, page.more), (expected, limit < left.len()), "{order:?} {limit}");
    }
}
