//! Wrong arguments get a result that names the place; results are held to what the tool promised.

use std::fmt::Write as _;

use serde_json::json;

use crate::support::{TestHost, add, guest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_arguments_name_the_place() {
    let host = TestHost::start(&[("add", &add()), ("probe", &guest("probe"))]).await;
    let rows = [
        ("add", json!({ "a": 1, "b": 2 })),
        ("add", json!({ "a": 1 })),
        ("add", json!({ "a": 1, "b": "2" })),
        ("add", json!({ "a": 1, "b": 2.5 })),
        ("add", json!({ "a": 1, "b": 2_147_483_648_u32 })),
        ("add", json!({ "a": 1, "b": null })),
        ("add", json!({ "a": 1, "b": 2, "c": 3 })),
        ("add", json!({ "a": 1, "b": [2] })),
        ("add", json!({ "a": 2_147_483_647, "b": 1 })),
        ("probe_add", json!({ "a": 40, "b": 2 })),
        ("probe_add", json!({})),
        ("probe_add", json!({ "a": 1, "b": 1e30 })),
        ("probe_add", json!({ "a": 1, "b": 2, "extra": true })),
        ("probe_add", json!({ "a": 2_147_483_647, "b": 1 })),
        ("probe_sleep", json!({ "ms": -1 })),
    ];
    let mut seen = String::new();
    for (tool, arguments) in rows {
        writeln!(seen, "{tool} {arguments}: {}", host.text(tool, arguments.clone()).await).expect("written");
    }
    insta::assert_snapshot!(seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_breaks_its_schema_is_refused() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let text = host.text("probe_lie", json!({})).await;
    assert_eq!(text, "error: the tool's result is invalid at `/number`: the value is not of type \"integer\"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn structured_content_is_mirrored_as_text() {
    let host = TestHost::start(&[("add", &add()), ("probe", &guest("probe"))]).await;
    for tool in ["add", "probe_add"] {
        let answer = host.call(tool, json!({ "a": 40, "b": 2 })).await;
        assert_eq!(answer["result"]["structuredContent"], json!({ "result": 42 }), "{answer}");
        assert_eq!(answer["result"]["content"][0]["text"], r#"{"result":42}"#);
        assert_eq!(answer["result"]["resultType"], "complete");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_in_order() {
    let names: Vec<String> = (0..7).map(|n| format!("tool{n}")).collect();
    let components: Vec<(String, Vec<u8>)> =
        names.iter().map(|name| (name.clone(), crate::support::binary(name, "local.get 0"))).collect();
    let components: Vec<(&str, &[u8])> =
        components.iter().map(|(name, wasm)| (name.as_str(), wasm.as_slice())).collect();
    let host = TestHost::start_with(crate::support::folder(&components), |config| config.server.page_size = 3).await;
    let mut seen = Vec::new();
    let mut params = json!({});
    let mut pages = 0;
    loop {
        let response = host.modern("tools/list", params).send().await.expect("an answer");
        let answer = crate::support::answer(response).await;
        pages += 1;
        let tools = answer["result"]["tools"].as_array().expect("a list").clone();
        assert!(tools.len() <= 3);
        seen.extend(tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()));
        match answer["result"].get("nextCursor") {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => break,
        }
    }
    assert_eq!((seen, pages), (names, 3));
}
