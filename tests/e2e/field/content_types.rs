//! Legal spellings of a body's type that servers refuse, as clients in Java and .NET send them (hoophq/hoop#1764, mark3labs/mcp-go#501, modelcontextprotocol/kotlin-sdk#450);
//! and compressed bodies, which are read as broken JSON where 415 would say what is wrong (HarperFast/harper#1438).

use serde_json::json;

use crate::support::{TestHost, answer, initialize_message};

#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_of_json_is_taken() {
    let host = TestHost::start(&[]).await;
    for (spelling, status) in [
        ("application/json; charset=utf-8", 200),
        ("application/json;charset=UTF-8", 200),
        ("Application/JSON", 200),
        ("application/json-rpc", 415),
        ("text/json", 415),
    ] {
        let sent = host.http.post(host.host.url()).header("content-type", spelling);
        let sent = sent.body(initialize_message().to_string()).send().await.expect("an answer");
        assert_eq!(sent.status(), status, "{spelling}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_refused_by_name() {
    let host = TestHost::start(&[]).await;
    let message = initialize_message().to_string();
    for coding in ["gzip", "br", "identity, gzip"] {
        let sent = host.post(message.clone()).header("content-encoding", coding).send().await.expect("an answer");
        assert_eq!(sent.status(), 415, "{coding}");
        // By RFC 9110 §15.5.16 this says that the coding is the matter.
        assert_eq!(sent.headers()["accept-encoding"], "identity", "{coding}");
        let refused = answer(sent).await;
        assert_eq!(refused["error"]["code"], -32000);
        assert_eq!(refused["error"]["message"], "the body must not be compressed: it has a Content-Encoding");
    }
    for coding in ["identity", "Identity", ""] {
        let sent = host.post(message.clone()).header("content-encoding", coding).send().await.expect("an answer");
        assert_eq!(answer(sent).await["result"]["protocolVersion"], json!("2025-11-25"), "{coding}");
    }
}
