//! One component for each released WIT package, built once and never again: what they were promised is kept.

use serde_json::json;

use crate::support::TestHost;

const TOOL_0_1_0: &[u8] = include_bytes!("../guests/frozen/tool-0.1.0.wasm");
const ENDPOINT_0_1_0: &[u8] = include_bytes!("../guests/frozen/endpoint-0.1.0.wasm");

#[tokio::test]
async fn mcpp_tool_0_1_0() {
    let host = TestHost::start(&[("frozen", TOOL_0_1_0)]).await;
    assert_eq!(host.problems(), "");
    let wrong = host.text("text_replace", json!({ "text": "a", "find": "", "replace": "" })).await;
    assert_eq!(wrong, "error: invalid argument at `/find`: must not be empty");
    let hash = host.call("text_hash", json!({ "text": "abc" })).await;
    assert!(
        hash["result"]["structuredContent"]["digest"].as_str().expect("a digest").starts_with("ba7816bf"),
        "{hash}"
    );
}

#[tokio::test]
async fn mcpp_endpoint_0_1_0() {
    let files = crate::support::folder(&[("frozen", ENDPOINT_0_1_0)]);
    crate::support::grant(&files, "[components.frozen]\ncall = ['*']\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.text("frozen_recurse", json!({ "depth": 0 })).await, r#"{"result":8}"#);
    let seen = host.text("frozen_look", json!({})).await;
    assert!(seen.contains("local") && seen.contains("local-user") && seen.contains("00-"), "{seen}");
}
