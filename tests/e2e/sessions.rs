//! Legacy sessions: bounded, parked, restored, ended; an abandoned one costs little and goes away.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{TestHost, add, answer, folder, initialize_message};

fn ping(id: u32) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "ping" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_session_goes_on_as_if_nothing_was() {
    let host = TestHost::start_with(folder(&[("add", &add())]), |config| config.sessions.park_ms = 20).await;
    let session = host.initialize().await;
    for id in 1..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let call = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "add", "arguments": { "a": id, "b": 1 } } });
        let reply = answer(host.legacy(&session, &call).send().await.expect("an answer")).await;
        assert_eq!(reply["result"]["structuredContent"]["result"], id + 1, "{reply}");
        assert!(reply["result"].get("resultType").is_none(), "a legacy result has no resultType: {reply}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_parked_session_at_the_same_time_all_succeed() {
    let host = TestHost::start_with(folder(&[]), |config| config.sessions.park_ms = 20).await;
    for _ in 0..10 {
        let session = host.initialize().await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        let requests = (1..9).map(|id| host.legacy(&session, &ping(id)).send());
        for response in futures::future::join_all(requests).await {
            let answer = answer(response.expect("an answer")).await;
            assert_eq!(answer["result"], json!({}), "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_once() {
    let host = TestHost::start(&[]).await;
    let session = host.initialize().await;
    let delete = || host.http.delete(host.host.url()).header("mcp-session-id", &session).send();
    assert_eq!(delete().await.expect("an answer").status(), 204);
    assert_eq!(delete().await.expect("an answer").status(), 404);
    let late = host.legacy(&session, &ping(1)).send().await.expect("an answer");
    assert_eq!(late.status(), 404);
    assert_eq!(answer(late).await["error"]["code"], -32001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_only_so_many_sessions() {
    let host = TestHost::start_with(folder(&[]), |config| config.sessions.max = 3).await;
    for _ in 0..3 {
        host.initialize().await;
    }
    let refused = host.post(initialize_message().to_string()).send().await.expect("an answer");
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "10");
    assert_eq!(answer(refused).await["error"]["message"], "this host has no room for more sessions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_principal_has_only_so_many_sessions() {
    let host = TestHost::start_with(folder(&[]), |config| config.sessions.max_per_principal = 2).await;
    for _ in 0..2 {
        host.initialize().await;
    }
    let refused = host.post(initialize_message().to_string()).send().await.expect("an answer");
    assert_eq!(refused.status(), 503);
    assert_eq!(answer(refused).await["error"]["message"], "you have 2 sessions already; end some with DELETE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_session_is_forgotten() {
    let host = TestHost::start_with(folder(&[]), |config| {
        config.sessions.park_ms = 20;
        config.sessions.expire_ms = 100;
    })
    .await;
    let session = host.initialize().await;
    host.until("it is forgotten", async |host| {
        host.metric("mcpp_sessions").await.iter().any(|line| line.ends_with(" 0"))
    })
    .await;
    assert_eq!(host.legacy(&session, &ping(1)).send().await.expect("an answer").status(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_an_open_stream_is_kept() {
    let host = TestHost::start_with(folder(&[]), |config| {
        config.sessions.park_ms = 20;
        config.sessions.expire_ms = 50;
    })
    .await;
    let session = host.initialize().await;
    let get = host.stream(&session);
    let _stream = get.send().await.expect("a stream");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(answer(host.legacy(&session, &ping(1)).send().await.expect("an answer")).await["result"], json!({}));
}
