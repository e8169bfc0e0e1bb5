//! A store with 10,000,000 keys, and one with the files of 100 tenants.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use bytes::Bytes;
use mcpp::{
    names::TenantId,
    store::{Bounds, KeyRange, Scan, Section, Space, Store, embedded::EmbeddedConfig},
};

use crate::{
    Row,
    engines::{open, space},
    row,
};

const KEYS: u64 = 10_000_000;
const BATCH: u64 = 10_000;
const VALUE_BYTES: usize = 100;
const READS: u64 = 20_000;
const SCAN: usize = 100;
const TENANTS: usize = 100;

fn key(number: u64) -> String {
    format!("key-{number:010}")
}

/// Numbers all over the keys.
fn somewhere(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS
}

pub(crate) async fn ten_million_keys() -> Vec<Row> {
    let mut rows = embedded().await;
    rows.extend(sqlite());
    rows
}

/// p50 and p99 of what is done for many numbers.
fn times(rows: &mut Vec<Row>, what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let at = ((times.len() - 1) as f64 * quantile).round() as usize;
        rows.push(row(format!("10,000,000 keys, {what}: {name}"), times[at] * 1e6, "µs"));
    }
}

async fn embedded() -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, space, mut rows) = (open(folder.path(), EmbeddedConfig::default()), space(), Vec::new());
    let started = Instant::now();
    for batch in 0..KEYS / BATCH {
        let mut t = store.begin(&space, Bounds::host()).await.expect("begun");
        for number in batch * BATCH..(batch + 1) * BATCH {
            let value = Bytes::from_static(&[7; VALUE_BYTES]);
            t.set(Section::Data.key(key(number).as_bytes()), value).await.expect("set");
        }
        t.commit().await.expect("committed");
    }
    rows.push(row(
        "10,000,000 keys, mcpp: written in durable transactions of 10,000, in",
        started.elapsed().as_secs_f64(),
        "s",
    ));
    let (mut reads, mut scans) = (Vec::new(), Vec::new());
    for number in 0..READS {
        let at = Section::Data.key(key(somewhere(number)).as_bytes());
        let started = Instant::now();
        let found = store.snapshot(&space).await.expect("a snapshot").get(&at).await.expect("read");
        reads.push(started.elapsed().as_secs_f64());
        assert!(found.is_some());
        let range = KeyRange { start: at, end: Section::Data.prefix(b"").end };
        let started = Instant::now();
        let snapshot = store.snapshot(&space).await.expect("a snapshot");
        let page = snapshot.scan(&range, Scan::first(SCAN)).await.expect("read");
        scans.push(started.elapsed().as_secs_f64());
        assert!(!page.entries.is_empty());
    }
    times(&mut rows, "mcpp, snapshot and read of one", reads);
    times(&mut rows, "mcpp, snapshot and scan of 100", scans);
    store.close().await;
    rows
}

fn sqlite() -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut connection = rusqlite::Connection::open(folder.path().join("sqlite")).expect("opened");
    // The same memory for pages.
    let set_up = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -131072; CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID";
    connection.execute_batch(set_up).expect("set up");
    let (mut rows, started) = (Vec::new(), Instant::now());
    for batch in 0..KEYS / BATCH {
        let t = connection.transaction().expect("begun");
        {
            let mut insert = t.prepare_cached("INSERT INTO entries VALUES (?1, ?2)").expect("prepared");
            for number in batch * BATCH..(batch + 1) * BATCH {
                insert.execute((key(number).as_bytes(), &[7_u8; VALUE_BYTES][..])).expect("set");
            }
        }
        t.commit().expect("committed");
    }
    rows.push(row("10,000,000 keys, SQLite: the same, in", started.elapsed().as_secs_f64(), "s"));
    let (mut reads, mut scans) = (Vec::new(), Vec::new());
    for number in 0..READS {
        let at = key(somewhere(number));
        let started = Instant::now();
        let mut select = connection.prepare_cached("SELECT value FROM entries WHERE key = ?1").expect("prepared");
        let found: Vec<u8> = select.query_row([at.as_bytes()], |row| row.get(0)).expect("read");
        reads.push(started.elapsed().as_secs_f64());
        assert_eq!(found.len(), VALUE_BYTES);
        let started = Instant::now();
        let mut select = connection
            .prepare_cached("SELECT key, value FROM entries WHERE key >= ?1 ORDER BY key LIMIT 100")
            .expect("prepared");
        let entry = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?));
        let page: Vec<_> = select.query_map([at.as_bytes()], entry).expect("read").collect();
        scans.push(started.elapsed().as_secs_f64());
        assert!(!page.is_empty());
    }
    times(&mut rows, "SQLite, read of one", reads);
    times(&mut rows, "SQLite, scan of 100", scans);
    rows
}

/// Opens the files of some tenants, works in each, says so, and waits to be asked no more.
pub(crate) async fn hold_tenants(folder: &Path, tenants: usize) {
    let store = open(folder, EmbeddedConfig { max_open_files: tenants, ..EmbeddedConfig::default() });
    for tenant in 0..tenants {
        let space = Space { tenant: TenantId::new(&format!("team-{tenant}")).expect("legal"), ..space() };
        for batch in 0..5 {
            let mut t = store.begin(&space, Bounds::host()).await.expect("begun");
            for number in 0..1_000 {
                let key = Section::Data.key(key(batch * 1_000 + number).as_bytes());
                t.set(key, Bytes::from_static(&[7; VALUE_BYTES])).await.expect("set");
            }
            t.commit().await.expect("committed");
        }
        let snapshot = store.snapshot(&space).await.expect("a snapshot");
        snapshot.scan(&Section::Data.prefix(b""), Scan::first(1_000)).await.expect("read");
    }
    assert_eq!(store.open_files(), tenants);
    println!("held");
    std::io::stdout().flush().expect("flushed");
    std::io::stdin().lines().for_each(drop);
}

pub(crate) fn tenants() -> Vec<Row> {
    let (one, many) = (resident(1), resident(TENANTS));
    vec![
        row("1 tenant's open file with 5,000 entries: the process holds", one / 1e6, "MB"),
        row("100 tenants' open files with 5,000 entries each: the process holds", many / 1e6, "MB"),
        row("each further open file", (many - one) / (TENANTS - 1) as f64 / 1e6, "MB"),
    ]
}

/// The memory of a process that holds the files of so many tenants open, in bytes.
fn resident(tenants: usize) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let mut holder = Command::new(std::env::current_exe().expect("a program"))
        .arg("hold-tenants")
        .arg(folder.path())
        .arg(tenants.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line).expect("it says so");
    let status = std::fs::read_to_string(format!("/proc/{}/status", holder.id())).expect("the kernel knows");
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    drop(holder.stdin.take());
    holder.wait().expect("gone");
    kib.expect("a number") * 1024.0
}
