//! Stopping: what runs may end, what does not end is stopped, and nothing hangs.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{PATIENCE, TestHost, answer, folder, guest, text_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_calls_end_before_the_host_does() {
    let host =
        TestHost::start_with(folder(&[("probe", &guest("probe"))]), |config| config.server.drain_ms = 10_000).await;
    let call =
        tokio::spawn(host.modern("tools/call", json!({ "name": "probe_sleep", "arguments": { "ms": 500 } })).send());
    host.until("it sleeps", async |host| host.host.registry().admission().waiting() == 1).await;
    tokio::time::timeout(PATIENCE, host.host.stop()).await.expect("stopped");
    assert_eq!(text_of(&answer(call.await.expect("joined").expect("an answer")).await), "slept 500 ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_do_not_end_are_stopped() {
    let host = TestHost::start_with(folder(&[("probe", &guest("probe"))]), |config| config.server.drain_ms = 100).await;
    let session = host.initialize().await;
    let call = json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": { "name": "probe_spin" } });
    let _stream = host.legacy(&session, &call).send().await.expect("a stream");
    let listen = host.modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let _listening = listen.send().await.expect("a stream");
    host.until("it spins", async |host| host.host.registry().admission().running() == 1).await;
    let started = Instant::now();
    tokio::time::timeout(PATIENCE, host.host.stop()).await.expect("stopped");
    assert!(started.elapsed() < Duration::from_secs(10));
}
