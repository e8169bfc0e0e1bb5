//! Durable transactions in a second, by number of clients: the embedded store, SQLite (WAL, full sync) doing the same, and tools called over HTTP.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use mcpp::{
    names::{ComponentName, TenantId},
    store::{
        Bounds, Section, Space, Store,
        embedded::{EmbeddedConfig, EmbeddedStore, disk::FileSystem},
    },
};
use serde_json::json;

use crate::{
    MEASURE, Row,
    client::{Client, Era},
    row,
    server::Server,
};

/// A transaction reads one entry, and writes that and another one of this size, as a queue's would.
const VALUE_BYTES: usize = 200;

pub(crate) fn open(folder: &Path, config: EmbeddedConfig) -> EmbeddedStore {
    EmbeddedStore::new(folder.join("store"), config, Arc::new(FileSystem)).expect("a directory")
}

pub(crate) fn space() -> Space {
    Space { tenant: TenantId::local(), component: ComponentName::new("bench").expect("legal") }
}

pub(crate) async fn commits(clients: usize) -> Vec<Row> {
    let (ours, sqlite) = (embedded(clients).await, sqlite(clients));
    vec![
        row(format!("{clients} clients: durable transactions, mcpp"), ours, "1/s"),
        row(format!("{clients} clients: durable transactions, SQLite (WAL, synchronous = FULL)"), sqlite, "1/s"),
        row(format!("{clients} clients: mcpp / SQLite"), ours / sqlite, "×"),
    ]
}

async fn embedded(clients: usize) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path(), EmbeddedConfig::default());
    let (space, until, done) = (space(), Instant::now() + MEASURE, Arc::new(AtomicU64::new(0)));
    let client = |client: usize| {
        let (store, space, done) = (store.clone(), space.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let own = Section::Data.key(format!("client-{client}").as_bytes());
            let mut number = 0_u64;
            while Instant::now() < until {
                let mut t = store.begin(&space, Bounds::host()).await.expect("begun");
                t.get(&own).await.expect("read");
                t.set(own.clone(), number.to_string().into()).await.expect("set");
                let key = Section::Data.key(format!("task-{client}-{number:08}").as_bytes());
                t.set(key, Bytes::from_static(&[7; VALUE_BYTES])).await.expect("set");
                t.commit().await.expect("committed");
                number += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let running: Vec<_> = (0..clients).map(client).collect();
    for client in running {
        client.await.expect("no panic");
    }
    store.close().await;
    done.load(Ordering::Relaxed) as f64 / MEASURE.as_secs_f64()
}

fn sqlite(clients: usize) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sqlite");
    let connect = || {
        let connection = rusqlite::Connection::open(&path).expect("opened");
        connection.busy_timeout(Duration::from_secs(60)).expect("set");
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
            .expect("set up");
        connection
    };
    drop(connect());
    let (until, done) = (Instant::now() + MEASURE, AtomicU64::new(0));
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (connect, done) = (&connect, &done);
            scope.spawn(move || {
                let mut connection = connect();
                let own = format!("client-{client}");
                let mut number = 0_u64;
                while Instant::now() < until {
                    let t =
                        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).expect("begun");
                    let _read: Option<Vec<u8>> = t
                        .prepare_cached("SELECT value FROM entries WHERE key = ?1")
                        .and_then(|mut select| select.query_row([own.as_bytes()], |row| row.get(0)))
                        .ok();
                    {
                        let mut insert =
                            t.prepare_cached("INSERT OR REPLACE INTO entries VALUES (?1, ?2)").expect("prepared");
                        insert.execute((own.as_bytes(), number.to_string().into_bytes())).expect("set");
                        insert
                            .execute((format!("task-{client}-{number:08}").as_bytes(), &[7_u8; VALUE_BYTES][..]))
                            .expect("set");
                    }
                    t.commit().expect("committed");
                    number += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.load(Ordering::Relaxed) as f64 / MEASURE.as_secs_f64()
}

/// Calls of a tool that commits one transaction, by clients over HTTP.
pub(crate) async fn calls() -> Vec<Row> {
    let guest = Path::new(env!("MCPP_TEST_GUESTS")).join("store.wasm");
    let guest = std::fs::read(guest).expect("the guest is built");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("tools")).expect("made");
    std::fs::create_dir_all(folder.path().join("data/grants")).expect("made");
    std::fs::write(folder.path().join("tools/store.wasm"), guest).expect("written");
    let grants = "version = 1\ncall = ['x']\nsubscribe = ['other/*']\nstore = { quota_bytes = 4294967296 }\n[limits]\nconcurrency = 256\n";
    std::fs::write(folder.path().join("data/grants/store.toml"), grants).expect("written");
    let server = Server::mcpp_in(folder).await;
    let mut rows = Vec::new();
    for clients in [1, 32] {
        let (until, done) = (Instant::now() + MEASURE, Arc::new(AtomicU64::new(0)));
        let client = |client: usize| {
            let (done, url) = (Arc::clone(&done), server.url());
            tokio::spawn(async move {
                let connection = Client::connect(url, Era::Modern).await;
                let mut number = 0_u64;
                while Instant::now() < until {
                    let key = format!("{clients}-{client}-{number:08}");
                    connection.call("store_set", &json!({ "key": key, "value": "x".repeat(VALUE_BYTES) })).await;
                    number += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let running: Vec<_> = (0..clients).map(client).collect();
        for client in running {
            client.await.expect("no panic");
        }
        let rate = done.load(Ordering::Relaxed) as f64 / MEASURE.as_secs_f64();
        rows.push(row(
            format!("{clients} clients: tool calls over HTTP that commit one transaction each"),
            rate,
            "1/s",
        ));
    }
    rows
}
