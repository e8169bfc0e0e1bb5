//! The lanes of connections: which threads the kernel wakes for whom.
#![cfg(target_os = "linux")]

use serde_json::json;

use crate::support::{TestHost, add};

/// How often threads of a name were put to sleep because they had nothing to do.
fn sleeps(name: &str) -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("this process's threads");
    let read = |file: std::path::PathBuf| std::fs::read_to_string(file).unwrap_or_default();
    let of_name = threads
        .map(|thread| thread.expect("a thread").path())
        .filter(|thread| read(thread.join("comm")).trim() == name);
    of_name
        .filter_map(|thread| {
            let status = read(thread.join("status"));
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_let_in_wakes_nobody_in_the_lobby() {
    const CALLS: u64 = 300;
    let host = TestHost::start(&[("add", &add())]).await;
    let call = async || assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
    // The first takes the connection to the doors.
    call().await;
    let before = sleeps("mcpp-lobby");
    assert!(before > 0, "there is no lobby");
    for _ in 0..CALLS {
        call().await;
    }
    let woken = sleeps("mcpp-lobby") - before;
    assert!(woken < CALLS / 3, "{CALLS} calls of a connection at the doors woke the lobby {woken} times");
    host.stop().await;
}
