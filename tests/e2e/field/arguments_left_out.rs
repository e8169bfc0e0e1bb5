//! Calls of tools without parameters: clients leave `arguments` out or send null, and servers refuse (apify/apify-mcp-server#1360, KeeperHub/keeperhub#2108,
//! justrach/codedb#10). And schemas of such tools without `properties`, which providers of models refuse with all the tools beside them (inboxapi/cli#106,
//! xpzouying/xiaohongshu-mcp#677), as they do with `anyOf` at the top (anthropics/claude-code#5973).

use serde_json::{Value, json};

use super::{Pipe, request};
use crate::support::{TestHost, folder, guest, number, text_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_without_parameters_is_called_with_any_kind_of_none() {
    let host = TestHost::start(&[("v", &number("v", "i32.const 7")), ("probe", &guest("probe"))]).await;
    let mut pipe = Pipe::open(&host);
    pipe.initialize().await;
    for params in [
        json!({ "name": "v" }),
        json!({ "name": "v", "arguments": null }),
        json!({ "name": "v", "arguments": {} }),
        json!({ "name": "v", "_meta": null }),
        json!({ "name": "v", "_meta": { "of/somebody": [1, { "a": null }] }, "of the future": true }),
    ] {
        assert_eq!(text_of(&pipe.ask(&request(1, "tools/call", params.clone())).await), r#"{"result":7}"#, "{params}");
        let caller = json!({ "name": "probe_caller", "arguments": params["arguments"] });
        assert!(pipe.ask(&request(1, "tools/call", caller)).await["result"]["isError"] != true);
    }
    for arguments in [json!([]), json!(""), json!("{}"), json!(0)] {
        let refused = pipe.ask(&request(1, "tools/call", json!({ "name": "v", "arguments": arguments }))).await;
        assert_eq!(refused["error"]["code"], -32602, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_input_schema_is_of_the_shape_that_providers_take() {
    let tools = folder(&[("v", &number("v", "i32.const 7")), ("probe", &guest("probe"))]);
    let host = TestHost::start_with(tools, |config| config.tools.builtin = true).await;
    let mut pipe = Pipe::open(&host);
    pipe.initialize().await;
    let listed = pipe.ask(&request(1, "tools/list", json!({}))).await;
    let tools = listed["result"]["tools"].as_array().expect("tools").clone();
    assert!(tools.len() > 30, "{}", tools.len());
    for tool in &tools {
        let schema = tool["inputSchema"].as_object().expect("an object");
        assert_eq!(schema["type"], "object", "{tool}");
        assert!(schema.get("properties").is_some_and(Value::is_object), "{tool}");
        assert!(!schema.keys().any(|key| matches!(key.as_str(), "anyOf" | "oneOf" | "allOf")), "{tool}");
        if let Some(output) = tool.get("outputSchema") {
            assert_eq!(output["type"], "object", "{tool}");
        }
        let name = tool["name"].as_str().expect("text");
        // The name of this one is the task-queue protocol's.
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        assert!(name.len() <= 64 && (is_plain || name == "task_queue.rpc"), "{name}");
    }
    // The same order again and again: providers keep what they have read up to the first difference (pgEdge/pgedge-postgres-mcp#211).
    let again: Value = pipe.ask(&request(2, "tools/list", json!({}))).await;
    assert_eq!(again["result"], listed["result"]);
}
