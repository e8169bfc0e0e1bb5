//! Shells of Windows put a byte order mark before what they send: the message is dropped, and the client waits for its answer (modelcontextprotocol/typescript-sdk#2790).
//! They also end lines with CR LF, at which a server ended (stackql/stackql#668).

use serde_json::json;

use super::{Pipe, request};
use crate::support::{TestHost, answer, initialize_message};

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_before_a_message_means_nothing() {
    let host = TestHost::start(&[]).await;
    let mut pipe = Pipe::open(&host);
    pipe.send(&format!("\u{feff}{}\r", initialize_message())).await;
    assert_eq!(pipe.receive().await["result"]["protocolVersion"], "2025-11-25");
    pipe.send("\r").await;
    pipe.send("\u{feff}").await;
    pipe.send(&format!("\u{feff}{}\r", request(2, "ping", json!({})))).await;
    assert_eq!(pipe.receive().await, json!({ "jsonrpc": "2.0", "id": 2, "result": {} }));
    let opened = host.post(format!("\u{feff}{}", initialize_message())).send().await.expect("an answer");
    assert_eq!(answer(opened).await["result"]["protocolVersion"], "2025-11-25");
    // Anywhere else it is a letter like others.
    let inside = host.post(r#"{"jsonrpc":"2.0",\u{feff}"id":1,"method":"ping"}"#).send().await.expect("an answer");
    assert_eq!(answer(inside).await["error"]["code"], -32700);
}
