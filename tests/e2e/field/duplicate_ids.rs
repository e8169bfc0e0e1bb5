//! Connectors send every request with id 1: the second caller gets the first one's answer, and the first waits for ever (modelcontextprotocol/typescript-sdk#2433,
//! modelcontextprotocol/python-sdk#3060, anthropics/claude-ai-mcp#539).

use serde_json::json;

use super::{Pipe, call, request};
use crate::support::{TestHost, answer, guest, modern_message, modern_request, text_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_under_an_id_in_flight_is_refused_and_the_first_unharmed() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let session = host.initialize().await;
    let first = tokio::spawn(host.legacy(&session, &call(1, "probe_sleep", json!({ "ms": 1_500 }))).send());
    host.until("the first runs", async |host| host.host.registry().calls() == 1).await;
    for again in [request(1, "ping", json!({})), call(1, "probe_add", json!({ "a": 1, "b": 2 }))] {
        let second = host.legacy(&session, &again).send().await.expect("an answer");
        assert_eq!(second.status(), 400);
        let second = answer(second).await;
        assert_eq!((&second["id"], &second["error"]["code"]), (&json!(1), &json!(-32600)), "{second}");
    }
    let other = host.legacy(&session, &request("1", "ping", json!({}))).send().await.expect("an answer");
    assert_eq!(answer(other).await["result"], json!({}), "another type of id is another id");
    let another = host.initialize().await;
    let other = host.legacy(&another, &request(1, "ping", json!({}))).send().await.expect("an answer");
    assert_eq!(answer(other).await["result"], json!({}), "each session has its own ids");
    let first = answer(first.await.expect("ran").expect("an answer")).await;
    assert_eq!(text_of(&first), "slept 1500 ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_uses_one_id_for_all_its_requests_one_after_the_other_is_served() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let session = host.initialize().await;
    let mut pipe = Pipe::open(&host);
    pipe.initialize().await;
    for n in 0..100 {
        let message = call(1, "probe_add", json!({ "a": n, "b": 1 }));
        let http = answer(host.legacy(&session, &message).send().await.expect("an answer")).await;
        let stdio = pipe.ask(&message).await;
        for answer in [http, stdio] {
            assert_eq!(text_of(&answer), format!(r#"{{"result":{}}}"#, n + 1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_free_again_when_its_call_was_cancelled() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let session = host.initialize().await;
    let _stream = host.legacy(&session, &call(5, "probe_spin", json!({}))).send().await.expect("a stream");
    host.until("it runs", async |host| host.host.registry().calls() == 1).await;
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 5 } });
    assert_eq!(host.legacy(&session, &cancel).send().await.expect("an answer").status(), 202);
    host.until("it has ended", async |host| {
        host.host.registry().calls() == 0
            && answer(host.legacy(&session, &request(5, "ping", json!({}))).send().await.expect("an answer")).await["result"] == json!({})
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_stdio_a_second_request_under_an_id_in_flight_is_refused_in_both_eras() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let sleep = json!({ "name": "probe_sleep", "arguments": { "ms": 1_500 } });
    for modern in [true, false] {
        let mut pipe = Pipe::open(&host);
        let (first, second) = if modern {
            (modern_message("tools/call", sleep.clone()), modern_message("tools/list", json!({})))
        } else {
            pipe.initialize().await;
            (request(1, "tools/call", sleep.clone()), request(1, "tools/list", json!({})))
        };
        pipe.send(&first.to_string()).await;
        host.until("the first runs", async |host| host.host.registry().calls() == 1).await;
        let refused = pipe.ask(&second).await;
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(1), &json!(-32600)), "{refused}");
        assert_eq!(text_of(&pipe.receive().await), "slept 1500 ms");
        let again = pipe.ask(&second).await;
        assert!(again["result"]["tools"].is_array(), "the id is free again: {again}");
        pipe.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_requests_over_http_are_each_alone_and_share_no_ids() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let sleep = json!({ "name": "probe_sleep", "arguments": { "ms": 500 } });
    let calls = (0..4).map(|_| modern_request(&host.http, &host.host.url(), "tools/call", sleep.clone()).send());
    for response in futures::future::join_all(calls).await {
        assert_eq!(text_of(&answer(response.expect("an answer")).await), "slept 500 ms");
    }
}
