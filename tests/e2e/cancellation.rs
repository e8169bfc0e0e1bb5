//! A client that gives up stops the guest, in the way of its protocol era; a legacy client that only loses its connection does not give up.

use std::time::Duration;

use serde_json::json;

use crate::support::{TestHost, guest};

async fn running(host: &TestHost, count: usize) {
    host.until("the instances are counted", async |host| {
        host.host.registry().admission().running() + host.host.registry().admission().waiting() == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_modern_client_that_leaves_stops_its_guest() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    for (tool, arguments) in [("probe_spin", json!({})), ("probe_sleep", json!({ "ms": 60_000 }))] {
        let call = tokio::spawn(host.modern("tools/call", json!({ "name": tool, "arguments": arguments })).send());
        running(&host, 1).await;
        call.abort();
        running(&host, 0).await;
    }
    assert!(host.metric("mcpp_calls_total").await.iter().all(|line| !line.contains("budget_exceeded")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_modern_client_that_leaves_its_stream_stops_its_guest() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    // With a progress token the answer is a stream, whose head is here at once.
    let params = json!({ "name": "probe_sleep", "arguments": { "ms": 60_000 }, "_meta": { "progressToken": "p" } });
    let mut response = host.modern("tools/call", params).send().await.expect("an answer");
    let first = response.chunk().await.expect("an event").expect("a chunk");
    assert!(String::from_utf8_lossy(&first).contains("notifications/progress"), "{first:?}");
    running(&host, 1).await;
    drop(response);
    running(&host, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_notification_stops_the_guest() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let session = host.initialize().await;
    let call = json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": { "name": "probe_spin" } });
    let _stream = host.legacy(&session, &call).send().await.expect("a stream");
    running(&host, 1).await;
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 5, "reason": "bored" } });
    assert_eq!(host.legacy(&session, &cancel).send().await.expect("an answer").status(), 202);
    running(&host, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_client_that_loses_its_connection_finds_the_answer_later() {
    let host = TestHost::start_with(crate::support::folder(&[("probe", &guest("probe"))]), |config| {
        config.sessions.park_ms = 50
    })
    .await;
    let session = host.initialize().await;
    let call = json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": { "name": "probe_sleep", "arguments": { "ms": 700 } } });
    let mut stream = host.legacy(&session, &call).send().await.expect("a stream");
    let first = String::from_utf8_lossy(&stream.chunk().await.expect("an event").expect("a chunk")).into_owned();
    let event_id =
        first.lines().find_map(|line| line.strip_prefix("id:")).expect("a first event with an id").trim().to_owned();
    drop(stream);
    // Longer than a session needs to be parked, shorter than the call.
    tokio::time::sleep(Duration::from_millis(300)).await;
    running(&host, 1).await;
    let resume = host.stream(&session).header("last-event-id", event_id);
    let messages = crate::support::messages(resume.send().await.expect("a stream")).await;
    let answer = messages.iter().find(|message| message["id"] == 5).expect("the answer");
    assert_eq!(crate::support::text_of(answer), "slept 700 ms");
}
