//! An official SDK probes, times out, cancels, and only then initializes: the server ends at the first notification, with nothing said
//! (modelcontextprotocol/go-sdk#1177, modelcontextprotocol/typescript-sdk#1932, modelcontextprotocol/rust-sdk#783).

use serde_json::json;

use super::{Pipe, request};
use crate::support::{TestHost, add, modern_message, text_of};

#[tokio::test(flavor = "multi_thread")]
async fn notifications_and_responses_before_initialize_are_ignored_and_the_host_lives() {
    let host = TestHost::start(&[("add", &add())]).await;
    let quiet = [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"timeout"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/of/somebody","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":5,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":5,"error":{"code":-1,"message":"no"}}"#,
    ];
    let first = [
        None,
        Some((request(7, "ping", json!({})), "result")),
        Some((modern_message("server/discover", json!({})), "result")),
        Some((request(7, "tools/list", json!({})), "error")),
    ];
    for first in &first {
        for line in quiet {
            let mut pipe = Pipe::open(&host);
            if let Some((first, kind)) = first {
                let answer = pipe.ask(first).await;
                assert!(answer.get(kind).is_some(), "{answer}");
            }
            pipe.send(line).await;
            pipe.initialize().await;
            let call = request(2, "tools/call", json!({ "name": "add", "arguments": { "a": 1, "b": 2 } }));
            assert_eq!(text_of(&pipe.ask(&call).await), r#"{"result":3}"#, "{first:?} {line}");
            pipe.leave().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_no_era_is_told_what_it_lacks() {
    let host = TestHost::start(&[]).await;
    let mut pipe = Pipe::open(&host);
    let refused = pipe.ask(&request("a", "tools/list", json!({}))).await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("a"), &json!(-32602)), "{refused}");
    assert!(refused["error"]["message"].as_str().expect("text").contains("_meta"), "{refused}");
    pipe.leave().await;
}
