//! The lanes of connections: which threads the kernel wakes for whom, and how fast large messages move.
#![cfg(target_os = "linux")]

use std::time::Duration;

use serde_json::json;

use crate::{
    doors::text,
    support::{TestHost, add, answer, folder, http_client, modern_request},
};

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

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_move_at_their_tenants_rate_and_come_whole() {
    const BYTES: usize = 1_000_000;
    let host = TestHost::start_with(folder(&[("text", &text()), ("add", &add())]), |config| {
        config.tenant_limits = toml::from_str("traffic_bytes_per_second = 2000000").expect("valid");
    })
    .await;
    let large = || {
        let (http, url) = (http_client(), host.host.url());
        // As much comes in as goes out.
        let meta = json!({ "padding": "x".repeat(2 * BYTES) });
        let params = json!({ "name": "text", "arguments": { "bytes": BYTES }, "_meta": meta });
        tokio::spawn(async move {
            answer(modern_request(&http, &url, "tools/call", params).send().await.expect("sent")).await
        })
    };
    let large: Vec<_> = (0..3).map(|_| large()).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..20 {
        assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#, "small ones wait for nothing");
    }
    assert!(large.iter().any(|call| !call.is_finished()), "12 MB in half a second");
    for call in large {
        let answer = call.await.expect("no panic");
        let text = answer["result"]["structuredContent"]["result"].as_str();
        assert_eq!(text.map(str::len), Some(BYTES), "{}", &answer.to_string()[..200]);
    }
    host.stop().await;
}
