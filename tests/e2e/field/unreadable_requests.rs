//! Servers read the outside of a request and not its inside: no answer, or one without the request's id, and the client waits (modelcontextprotocol/python-sdk#820,
//! helidon-io/helidon-mcp#65).

use serde_json::{Value, json};

use super::Pipe;
use crate::support::{TestHost, add, answer};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_read_gets_an_error_with_its_id_over_http_and_stdio() {
    let host = TestHost::start(&[("add", &add())]).await;
    let session = host.initialize().await;
    let with =
        |id: &str, params: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#);
    let call = r#"{"name":"add","arguments":{"a":1,"b":2}}"#;
    let rows = [
        with("1", r#"{"name":"add","arguments":{"a":"cut \ud83d"}}"#),
        with("1", r#"{"name":"add","arguments":{"a":1e999}}"#),
        with("9223372036854775808", call),
        with("18446744073709551615", call),
        with("1", r#"{"name":"add","_meta":"s"}"#),
        with("\"a\"", r#"{"name":"add","_meta":7}"#),
    ];
    for initialized in [false, true] {
        let mut pipe = Pipe::open(&host);
        if initialized {
            pipe.initialize().await;
        }
        for row in &rows {
            let id: Value = serde_json::from_str(row.split([':', ',']).nth(3).expect("an id")).expect("JSON");
            pipe.send(row).await;
            let stdio = pipe.receive().await;
            assert_eq!((&stdio["id"], &stdio["error"]["code"]), (&id, &json!(-32602)), "{row}: {stdio}");
            let http = host.post(row.clone()).header("mcp-session-id", &session).send().await.expect("an answer");
            let http = answer(http).await;
            assert_eq!((&http["id"], &http["error"]["code"]), (&id, &json!(-32602)), "{row}: {http}");
        }
        pipe.leave().await;
    }
}
