//! A file's log: what a kill leaves, what is refused without it, and checkpoints that fail.

use std::{path::PathBuf, sync::Arc};

use mcpp::{
    names::ComponentName,
    store::{
        Bounds, Space, Store as _, StoreError,
        embedded::{EmbeddedConfig, EmbeddedStore, disk::Disk as _},
    },
};
use redb::{Database, ReadableDatabase as _, StorageBackend as _, TableDefinition};

use super::{
    disk::{Fate, FaultyDisk},
    suite::{Shared, begin, durable, key, put, space},
};

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// A log of which each half has room for 16 small transactions.
fn open(disk: &FaultyDisk) -> EmbeddedStore {
    let config = EmbeddedConfig { wal_bytes: 16 << 10, ..EmbeddedConfig::default() };
    EmbeddedStore::new(std::env::temp_dir(), config, Arc::new(disk.clone())).expect("a directory")
}

/// The disk as a kill leaves it.
fn after_kill(disk: &FaultyDisk) -> FaultyDisk {
    disk.after_power_loss(|| Fate::Arrived)
}

async fn refusal(disk: &FaultyDisk) -> String {
    match open(disk).snapshot(&space("a")).await {
        Err(StoreError::Unavailable(why)) => mcpp::error::chain(&*why),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it is available"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_a_killed_host_is_whole_with_its_log_and_refused_without() {
    let disk = FaultyDisk::default();
    let store = open(&disk);
    let shared: Shared = Arc::new(store.clone());
    // Enough for the log's halves to take turns several times.
    for number in 0..100 {
        put(&shared, &space("a"), &[("k", &number.to_string()), (&format!("n{}", number % 7), "x")]).await;
        let mut t = begin(&shared, &space("b")).await;
        t.delete(&key(&format!("n{}", number % 3))).await.expect("deleted");
        t.set(key(&format!("n{}", number % 2)), "y".into()).await.expect("set");
        t.commit().await.expect("committed");
    }
    let own = [ComponentName::of_host(), ComponentName::of_tasks()];
    let own = own.map(|component| Space { component, ..space("a") });
    for space in &own {
        put(&shared, space, &[("k", "the host's")]).await;
    }
    let (a, b) = (durable(&shared, &space("a")).await, durable(&shared, &space("b")).await);
    let used = [store.used_bytes(&space("a")).await, store.used_bytes(&space("b")).await];
    let used = used.map(|used| used.expect("known"));
    assert_eq!(a["k"], "99");
    let without = after_kill(&disk);
    without.publish(&file("local.wal"), &file("elsewhere")).expect("moved");
    assert!(refusal(&without).await.contains("local.wal is missing"), "{}", refusal(&without).await);
    without.create(&file("local.wal")).expect("made").write(0, &[0; 17 << 10]).expect("written");
    assert!(refusal(&without).await.contains("is not the log of"), "{}", refusal(&without).await);
    let left = after_kill(&disk);
    for round in ["after the kill", "after it was closed"] {
        let again = open(&left);
        let shared: Shared = Arc::new(again.clone());
        assert_eq!(durable(&shared, &space("a")).await, a, "{round}");
        assert_eq!(durable(&shared, &space("b")).await, b, "{round}");
        for space in &own {
            assert_eq!(durable(&shared, space).await["k"], "the host's", "{round}");
        }
        let found = [again.used_bytes(&space("a")).await, again.used_bytes(&space("b")).await];
        assert_eq!(found.map(|used| used.expect("known")), used, "{round}");
        again.close().await;
        // What was closed in order needs no log.
        left.create(&file("local.wal")).expect("made").write(0, b"of another file").expect("written");
    }
    store.close().await;
    let backend = disk.open(&file("local.redb")).expect("opened");
    let database = Database::builder().create_with_backend(backend).expect("a database");
    let about = database.begin_read().expect("begun").open_table(TableDefinition::<&str, u64>::new("about"));
    let format = about.expect("a table").get("format").expect("read").expect("there").value();
    assert_eq!(format, 1, "an older host reads it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_fails_loses_nothing() {
    let disk = FaultyDisk::default();
    let store = open(&disk);
    let shared: Shared = Arc::new(store.clone());
    put(&shared, &space("a"), &[("k", "first")]).await;
    disk.break_files(Some(".redb"));
    let mut acknowledged = 0;
    let failed = loop {
        let mut t = match shared.begin(&space("a"), Bounds::host()).await {
            Ok(t) => t,
            Err(error) => break error,
        };
        t.set(key("k"), (acknowledged + 1).to_string().into()).await.expect("set");
        match t.commit().await {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 100, "a checkpoint must fail");
    };
    assert!(acknowledged >= 15, "the log had room for more than {acknowledged}: {failed:?}");
    assert!(
        matches!(failed, StoreError::Unavailable(_) | StoreError::Conflict | StoreError::OutcomeUnknown),
        "{failed:?}"
    );
    // Nobody gets less than what was acknowledged, however long the file stays broken.
    assert!(store.snapshot(&space("a")).await.is_err(), "what the log has cannot be put into the file");
    disk.break_files(None);
    let found: u32 = durable(&shared, &space("a")).await["k"].parse().expect("a number");
    assert!((acknowledged..=acknowledged + 1).contains(&found), "{found} of {acknowledged}");
    put(&shared, &space("a"), &[("k", "again")]).await;
    assert_eq!(durable(&shared, &space("a")).await["k"], "again", "it works again without a restart");
}

/// Writes a number that grows, until the store fails; the last one that was acknowledged.
async fn count_up(store: Shared, name: String) -> u32 {
    let mut acknowledged = 0;
    loop {
        let Ok(mut t) = store.begin(&space("a"), Bounds::host()).await else { return acknowledged };
        if t.set(key(&name), (acknowledged + 1).to_string().into()).await.is_err() || t.commit().await.is_err() {
            return acknowledged;
        }
        acknowledged += 1;
        assert!(acknowledged < 10_000, "a checkpoint must fail");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_that_fail_while_many_write_lose_nothing() {
    for round in 0..30 {
        let disk = FaultyDisk::default();
        let store = open(&disk);
        let shared: Shared = Arc::new(store.clone());
        put(&shared, &space("a"), &[("k", "first")]).await;
        disk.break_files(Some(".redb"));
        let writer = |number: usize| tokio::spawn(count_up(Arc::clone(&shared), format!("w{number}")));
        let mut acknowledged = Vec::new();
        for writer in (0..4).map(writer).collect::<Vec<_>>() {
            acknowledged.push(writer.await.expect("no panic"));
        }
        disk.break_files(None);
        let found = durable(&shared, &space("a")).await;
        for (number, acknowledged) in acknowledged.into_iter().enumerate() {
            let found = found.get(&format!("w{number}")).map_or(0, |found| found.parse().expect("a number"));
            assert!((acknowledged..=acknowledged + 1).contains(&found), "round {round}: {found} of {acknowledged}");
        }
    }
}
