//! How soon the data is there again after a kill with 1,000,000 tasks' worth of it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use bytes::Bytes;
use mcpp::store::{Bounds, Section, Store, embedded::EmbeddedConfig};

use crate::{
    Row,
    engines::{open, space},
    row,
    server::Server,
};

const TASKS: u64 = 1_000_000;
/// A task's record, and the entries of three indexes.
const RECORD_BYTES: usize = 400;
const BATCH: u64 = 1_000;

/// Writes tasks, says that it has, and goes on writing until it is killed.
pub(crate) async fn fill_and_wait(folder: &Path) {
    let (store, space) = (open(folder, EmbeddedConfig::default()), space());
    for batch in 0.. {
        let mut t = store.begin(&space, Bounds::host()).await.expect("begun");
        for number in batch * BATCH..(batch + 1) * BATCH {
            // As ids are: not in order.
            let id = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let set = |key: String, bytes: usize| (Section::Data.key(key.as_bytes()), Bytes::from(vec![7; bytes]));
            let entries = [
                set(format!("task-{id:016x}"), RECORD_BYTES),
                set(format!("by-state-queued-{number:016x}"), 16),
                set(format!("by-type-{}-{number:016x}", number % 10), 16),
                set(format!("by-time-{number:016x}-{id:016x}"), 0),
            ];
            for (key, value) in entries {
                t.set(key, value).await.expect("set");
            }
        }
        t.commit().await.expect("committed");
        if (batch + 1) * BATCH == TASKS {
            println!("filled");
            std::io::stdout().flush().expect("flushed");
        }
    }
}

pub(crate) async fn after_a_kill() -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir_all(&data).expect("made");
    std::fs::create_dir_all(folder.path().join("tools")).expect("made");
    let mut filler = Command::new(std::env::current_exe().expect("a program"))
        .arg("fill-and-wait")
        .arg(&data)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let started = Instant::now();
    let mut line = String::new();
    BufReader::new(filler.stdout.take().expect("piped")).read_line(&mut line).expect("it says so");
    let filled = started.elapsed();
    tokio::time::sleep(std::time::Duration::from_millis(37)).await;
    filler.kill().expect("killed");
    filler.wait().expect("gone");
    let bytes = std::fs::metadata(data.join("store/local.redb")).expect("a file").len();
    let store = open(&data, EmbeddedConfig::default());
    let started = Instant::now();
    let snapshot = store.snapshot(&space()).await.expect("a snapshot");
    let first = snapshot.get(&Section::Data.key(b"task-0000000000000000")).await.expect("read");
    let opened = started.elapsed();
    assert!(first.is_some(), "the first task is there");
    drop(snapshot);
    store.close().await;
    // The whole program on the same data, first with nothing compiled, then as it usually starts.
    let server = Server::mcpp_in(folder).await;
    let folder = server.stop();
    let server = Server::mcpp_in(folder).await;
    vec![
        row("1,000,000 tasks (4 entries each): written in", filled.as_secs_f64(), "s"),
        row("1,000,000 tasks: the file", bytes as f64 / 1e6, "MB"),
        row("1,000,000 tasks, killed under load: opened and read after", opened.as_secs_f64() * 1e3, "ms"),
        row("1,000,000 tasks: the program's start to its first answer", server.started_in().as_secs_f64() * 1e3, "ms"),
    ]
}
