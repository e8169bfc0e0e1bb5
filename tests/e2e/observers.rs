//! Log records and progress: to who asked, in order, and standard output among them.

use serde_json::{Value, json};

use crate::support::{TestHost, guest, messages};

fn logs(messages: &[Value]) -> Vec<String> {
    let logs = messages.iter().filter(|message| message["method"] == "notifications/message");
    logs.map(|log| format!("{} {} {}", log["params"]["level"], log["params"]["logger"], log["params"]["data"]))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_rises_and_ends_before_the_answer() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let params = json!({ "name": "probe_sleep", "arguments": { "ms": 10 }, "_meta": { "progressToken": 7 } });
    let messages = messages(host.modern("tools/call", params).send().await.expect("an answer")).await;
    let progress: Vec<_> =
        messages.iter().filter(|m| m["method"] == "notifications/progress").map(|m| m["params"].clone()).collect();
    assert_eq!(
        progress,
        [
            json!({ "progressToken": 7, "progress": 1.0, "total": 2.0, "message": "asleep" }),
            json!({ "progressToken": 7, "progress": 2.0, "total": 2.0 }),
        ]
    );
    assert_eq!(messages.last().expect("an answer")["id"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_output_and_error_are_records_for_who_asked() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let call = |meta: Value| {
        let params = json!({ "name": "probe_print", "arguments": { "text": "a\nb" }, "_meta": meta });
        let request = host.modern("tools/call", params);
        async move { messages(request.send().await.expect("an answer")).await }
    };
    assert_eq!(logs(&call(json!({})).await), Vec::<String>::new(), "nobody asked");
    let asked = call(json!({ "io.modelcontextprotocol/logLevel": "info" })).await;
    assert_eq!(
        logs(&asked),
        [r#""info" "probe" "a""#, r#""info" "probe" "b""#, r#""warning" "probe" "a""#, r#""warning" "probe" "b""#]
    );
    let grave = call(json!({ "io.modelcontextprotocol/logLevel": "warning" })).await;
    assert_eq!(logs(&grave), [r#""warning" "probe" "a""#, r#""warning" "probe" "b""#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_client_sets_its_level_and_keeps_it_while_parked() {
    let host = TestHost::start_with(crate::support::folder(&[("probe", &guest("probe"))]), |config| {
        config.sessions.park_ms = 30
    })
    .await;
    let session = host.initialize().await;
    let set = json!({ "jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": { "level": "error" } });
    let answer = crate::support::answer(host.legacy(&session, &set).send().await.expect("an answer")).await;
    assert_eq!(answer["result"], json!({}));
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    let stream = host.stream(&session);
    let mut stream = stream.send().await.expect("a stream");
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "probe_print", "arguments": { "text": "x" } } });
    crate::support::answer(host.legacy(&session, &call).send().await.expect("an answer")).await;
    let quiet = tokio::time::timeout(std::time::Duration::from_millis(300), async {
        while let Ok(Some(chunk)) = stream.chunk().await {
            assert!(!String::from_utf8_lossy(&chunk).contains("notifications/message"), "{chunk:?}");
        }
    });
    assert!(quiet.await.is_err(), "the stream stays open");
}
