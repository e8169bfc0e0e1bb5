//! The embedded backend: the suite, and what only a file can suffer.

use std::{fs, sync::Arc};

use mcpp::{
    names::TenantId,
    store::{
        ENTRY_COST, Store as _, StoreError, Unavailable,
        embedded::{EmbeddedConfig, EmbeddedStore, disk::FileSystem},
    },
};
use tempfile::TempDir;

use super::{
    disk::FaultyDisk,
    suite::{Shared, begin, durable, key, put, space},
};

fn open(folder: &TempDir) -> EmbeddedStore {
    open_with(folder, EmbeddedConfig::default())
}

fn open_with(folder: &TempDir, config: EmbeddedConfig) -> EmbeddedStore {
    EmbeddedStore::new(folder.path().join("store"), config, Arc::new(FileSystem)).expect("a directory")
}

fn on(disk: &FaultyDisk) -> EmbeddedStore {
    EmbeddedStore::new(std::env::temp_dir(), EmbeddedConfig::default(), Arc::new(disk.clone())).expect("a directory")
}

/// A file belongs to one host, so both are the same store.
async fn two_stores() -> (Shared, Shared, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let store: Shared = Arc::new(open(&folder));
    (Arc::clone(&store), store, folder)
}

crate::backend_suite!(two_stores);

async fn why(store: &EmbeddedStore) -> Arc<Unavailable> {
    match store.snapshot(&space("a")).await {
        Err(StoreError::Unavailable(why)) => why,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it is available"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_ours_is_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store/local.redb");
    // A store, to be damaged.
    let store = open(&folder);
    put(&(Arc::new(store.clone()) as Shared), &space("a"), &[("k", "v")]).await;
    store.close().await;
    let good = fs::read(&file).expect("a file");
    let mut no_magic = good.clone();
    no_magic[..16].fill(b'x');
    let mut torn_header = good.clone();
    torn_header[64..320].fill(0xff);
    for (what, contents) in [
        ("text", b"this is not a database, it is a letter".repeat(200)),
        ("no magic", no_magic),
        ("header", torn_header),
        ("cut short", good[..4096].to_vec()),
        ("a few bytes", good[..100].to_vec()),
    ] {
        fs::write(&file, &contents).expect("written");
        let why = why(&open(&folder)).await;
        assert!(matches!(*why, Unavailable::Corrupt { .. } | Unavailable::Io { .. }), "{what}: {why:?}");
        assert!(why.to_string().contains("local.redb"), "{what}: {why}");
        assert_eq!(fs::read(&file).expect("a file"), contents, "{what}: it was overwritten");
    }
    fs::write(&file, &good).expect("written");
    assert_eq!(durable(&(Arc::new(open(&folder)) as Shared), &space("a")).await["k"], "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_a_newer_host_and_another_programs_database_are_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store/local.redb");
    let store = open(&folder);
    put(&(Arc::new(store.clone()) as Shared), &space("a"), &[("k", "v")]).await;
    store.close().await;
    let about = redb::TableDefinition::<&str, u64>::new("about");
    let database = redb::Database::open(&file).expect("a database");
    let write = database.begin_write().expect("a transaction");
    write.open_table(about).expect("a table").insert("format", 3).expect("written");
    write.commit().expect("committed");
    drop(database);
    let newer = why(&open(&folder)).await;
    assert!(matches!(*newer, Unavailable::Newer { found: 3, known: 2, .. }), "{newer:?}");
    fs::remove_file(&file).expect("removed");
    let database = redb::Database::create(&file).expect("a database");
    let write = database.begin_write().expect("a transaction");
    write.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).expect("a table");
    write.commit().expect("committed");
    drop(database);
    let foreign = why(&open(&folder)).await;
    assert!(matches!(*foreign, Unavailable::Corrupt { .. }), "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_has_one_host() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = open(&folder);
    put(&(Arc::new(first.clone()) as Shared), &space("a"), &[("k", "v")]).await;
    let second = why(&open(&folder)).await;
    assert!(matches!(*second, Unavailable::InUse { .. }), "{second:?}");
    first.close().await;
    assert_eq!(durable(&(Arc::new(open(&folder)) as Shared), &space("a")).await["k"], "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_or_read_only_disk_fails_clearly_and_loses_nothing() {
    for kind in [std::io::ErrorKind::StorageFull, std::io::ErrorKind::ReadOnlyFilesystem] {
        let disk = FaultyDisk::default();
        let store = on(&disk);
        let shared: Shared = Arc::new(store.clone());
        put(&shared, &space("a"), &[("k", "kept")]).await;
        disk.refuse_writes(Some(kind));
        let mut t = begin(&shared, &space("a")).await;
        t.set(key("k"), "lost".into()).await.expect("set");
        let failed = t.commit().await.expect_err("the disk refuses");
        // With the disk still refusing, the file cannot be looked at again: nobody knows.
        assert!(matches!(failed, StoreError::Unavailable(_) | StoreError::OutcomeUnknown), "{failed:?}");
        let refused = store.snapshot(&space("a")).await;
        if let Err(error) = refused {
            assert!(matches!(&error, StoreError::Unavailable(_)), "{error:?}");
        }
        disk.refuse_writes(None);
        assert_eq!(durable(&shared, &space("a")).await["k"], "kept", "{kind:?}");
        put(&shared, &space("a"), &[("k", "again")]).await;
        assert_eq!(durable(&shared, &space("a")).await["k"], "again", "it works again without a restart");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_closed_when_idle_and_few_are_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = EmbeddedConfig { max_open_files: 3, idle_ms: 50, ..EmbeddedConfig::default() };
    let store = open_with(&folder, config);
    let shared: Shared = Arc::new(store.clone());
    let tenants: Vec<TenantId> = (0..10).map(|number| TenantId::new(&format!("t{number}")).expect("legal")).collect();
    for tenant in &tenants {
        put(&shared, &mcpp::store::Space { tenant: tenant.clone(), ..space("a") }, &[("k", tenant.as_str())]).await;
        assert!(store.open_files() <= 3);
    }
    let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while store.open_files() > 0 {
        assert!(tokio::time::Instant::now() < patience, "the files stay open");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(store.tenants().await.expect("listed"), tenants);
    for tenant in &tenants {
        let space = mcpp::store::Space { tenant: tenant.clone(), ..space("a") };
        assert_eq!(durable(&shared, &space).await["k"], tenant.as_str());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_live_store_is_a_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let shared: Shared = Arc::new(store.clone());
    put(&shared, &space("a"), &[("k", "of before"), ("l", "w")]).await;
    // Only the log has this one.
    put(&shared, &space("a"), &[("k", "v")]).await;
    let copy = folder.path().join("copy.redb");
    let entries = store.backup(&TenantId::local(), &copy, Box::new(|_| {})).await.expect("copied");
    assert_eq!(entries, 2);
    put(&shared, &space("a"), &[("k", "after")]).await;
    assert!(store.backup(&TenantId::local(), &copy, Box::new(|_| {})).await.is_err(), "nothing is overwritten");
    store.close().await;
    fs::rename(&copy, folder.path().join("store/local.redb")).expect("put in its place");
    let restored: Shared = Arc::new(open(&folder));
    assert_eq!(durable(&restored, &space("a")).await["k"], "v");
    assert_eq!(
        restored.used_bytes(&space("a")).await.expect("known"),
        6 + 2 * u64::try_from(ENTRY_COST + "a".len()).expect("small")
    );
}
