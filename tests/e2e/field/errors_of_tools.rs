//! Tools that fail and have an output schema: the server or the client holds the error to the schema, and what is seen is the mismatch (HexSleeves/tailscale-mcp#101,
//! IBM/mcp-context-forge#4135, ArcadeAI/arcade-mcp#817). And errors that are not marked as such (github/github-mcp-server#1952).

use serde_json::json;

use super::{Pipe, call};
use crate::support::{TestHost, guest};

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_text_and_nothing_that_a_schema_is_held_to() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let mut pipe = Pipe::open(&host);
    pipe.initialize().await;
    let listed = pipe.ask(&super::request(1, "tools/list", json!({}))).await;
    let tools = listed["result"]["tools"].as_array().expect("tools").clone();
    let add = tools.iter().find(|tool| tool["name"] == "probe_add").expect("the tool");
    assert_eq!(add["outputSchema"]["type"], "object", "{add}");
    for arguments in [json!({}), json!({ "a": 1 }), json!({ "a": 1, "b": "x" }), json!({ "a": i64::MAX, "b": 1 })] {
        for answer in
            [pipe.ask(&call(2, "probe_add", arguments.clone())).await, host.call("probe_add", arguments).await]
        {
            let result = &answer["result"];
            assert_eq!(result["isError"], true, "{answer}");
            assert!(result.get("structuredContent").is_none(), "{answer}");
            assert!(result["content"][0]["text"].as_str().is_some_and(|text| text.len() > 10), "{answer}");
        }
    }
}
