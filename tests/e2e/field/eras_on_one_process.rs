//! A client asks a modern question first and then initializes on the same process, as it may (github/copilot-cli#4809): `initialize` succeeds, and everything after it fails.

use serde_json::json;

use super::{Pipe, call, request};
use crate::support::{TestHost, add, modern_message, text_of};

#[tokio::test(flavor = "multi_thread")]
async fn initialize_selects_the_legacy_era_after_modern_requests() {
    let host = TestHost::start(&[("add", &add())]).await;
    let mut pipe = Pipe::open(&host);
    let listed = pipe.ask(&modern_message("tools/list", json!({}))).await;
    assert_eq!(listed["result"]["resultType"], "complete", "{listed}");
    let modern = modern_message("tools/call", json!({ "name": "add", "arguments": { "a": 1, "b": 2 } }));
    assert_eq!(text_of(&pipe.ask(&modern).await), r#"{"result":3}"#);
    pipe.initialize().await;
    let listed = pipe.ask(&request(2, "tools/list", json!({}))).await;
    assert_eq!(listed["result"]["tools"][0]["name"], "add", "{listed}");
    assert!(listed["result"].get("resultType").is_none(), "a legacy result has no resultType: {listed}");
    assert_eq!(pipe.ask(&request(3, "ping", json!({}))).await["result"], json!({}));
    assert_eq!(text_of(&pipe.ask(&call(4, "add", json!({ "a": 3, "b": 4 }))).await), r#"{"result":7}"#);
    let level = request(5, "logging/setLevel", json!({ "level": "error" }));
    assert_eq!(pipe.ask(&level).await["result"], json!({}));
    pipe.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_initialize_that_asks_for_the_modern_version_changes_no_era() {
    let host = TestHost::start(&[("add", &add())]).await;
    let mut pipe = Pipe::open(&host);
    pipe.initialize().await;
    let params = json!({ "protocolVersion": "2026-07-28", "capabilities": {}, "clientInfo": { "name": "test", "version": "0" } });
    let again = pipe.ask(&request(2, "initialize", params)).await;
    assert_eq!(again["result"]["protocolVersion"], "2025-11-25", "{again}");
    assert_eq!(pipe.ask(&request(3, "ping", json!({}))).await["result"], json!({}));
    let listed = pipe.ask(&request(4, "tools/list", json!({}))).await;
    assert!(listed["result"]["tools"].is_array() && listed["result"].get("resultType").is_none(), "{listed}");
    pipe.leave().await;
}
