//! The lanes of connections: which threads the kernel wakes for whom, and how fast large messages move.
#![cfg(target_os = "linux")]

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    doors::text,
    support::{TestHost, add, answer, folder, http_client, modern_request, text_of},
    tenants::team,
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
    let files = folder(&[]);
    let token = team(&files.path().join("data"), "a", &[("text", &text()), ("add", &add())]);
    let host = TestHost::start_with(files, |config| {
        config.tenant_limits = toml::from_str("traffic_bytes_per_second = 2000000").expect("valid");
    })
    .await;
    let http = http_client();
    let ask = |params: Value| {
        let request = modern_request(&http, &host.host.url(), "tools/call", params).bearer_auth(&token);
        tokio::spawn(async move { answer(request.send().await.expect("sent")).await })
    };
    let sum = json!({ "name": "add", "arguments": { "a": 1, "b": 2 } });
    host.until("the tools are there", async |_| text_of(&ask(sum.clone()).await.expect("no panic")).contains('3'))
        .await;
    // As much comes in as goes out.
    let meta = json!({ "padding": "x".repeat(2 * BYTES) });
    let large = json!({ "name": "text", "arguments": { "bytes": BYTES }, "_meta": meta });
    let large: Vec<_> = (0..3).map(|_| ask(large.clone())).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..20 {
        let small = ask(sum.clone()).await.expect("no panic");
        assert_eq!(text_of(&small), r#"{"result":3}"#, "small ones wait for nothing");
    }
    assert!(large.iter().any(|call| !call.is_finished()), "12 MB in half a second");
    for call in large {
        let answer = call.await.expect("no panic");
        let text = answer["result"]["structuredContent"]["result"].as_str();
        assert_eq!(text.map(str::len), Some(BYTES), "{}", &answer.to_string()[..200]);
    }
    host.stop().await;
}
