//! The routes of older MCP++ servers: the same tools, the same tenants, the same bounds.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    doors::text,
    support::{TestHost, add, folder, guest, http_client, wat},
    tenants::team,
};

async fn ask(
    host: &TestHost,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let mut request = http_client().request(method, format!("http://{}{path}", host.host.address()));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.body(body.to_string());
    }
    let response = request.send().await.expect("an answer");
    (response.status(), response.json().await.expect("JSON"))
}

fn names(list: &Value) -> Vec<String> {
    let tools = list["tools"].as_array().expect("tools");
    tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_listed_and_called_without_json_rpc() {
    let files = folder(&[("probe", &guest("probe")), ("add", &add())]);
    let host = TestHost::start_with(files, |config| config.server.page_size = 2).await;
    for path in ["/tools", "/tools/list", "/mcp/tools", "/api/mcp/tools"] {
        let (status, list) = ask(&host, Method::GET, path, None, None).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        let names = names(&list);
        assert!(
            names.contains(&"add".to_owned()) && names.contains(&"probe_add".to_owned()) && names.len() > 4,
            "{path}: {list}"
        );
        assert!(list["tools"][0]["inputSchema"].is_object(), "{list}");
    }
    for (path, body) in [
        ("/tools/call", json!({ "tool": "add", "arguments": { "a": 40, "b": 2 } })),
        ("/mcp/execute", json!({ "name": "add", "params": { "a": 40, "b": 2 } })),
    ] {
        let (status, result) = ask(&host, Method::POST, path, None, Some(body)).await;
        assert_eq!((status, &result["content"][0]["text"]), (StatusCode::OK, &json!(r#"{"result":42}"#)), "{result}");
        assert_eq!(result["structuredContent"], json!({ "result": 42 }));
    }
    let (status, result) = ask(&host, Method::POST, "/tools/call", None, Some(json!({ "tool": "probe_panic" }))).await;
    assert_eq!(
        (status, &result["isError"]),
        (StatusCode::OK, &json!(true)),
        "a tool that fails has a result: {result}"
    );
    for (body, says) in [
        (json!({ "tool": "nobody_has_it" }), "nobody_has_it"),
        (json!({ "tool": "not\na name" }), "name"),
        (json!({ "arguments": {} }), "tool"),
        (json!([]), "the body must be"),
    ] {
        let (status, refused) = ask(&host, Method::POST, "/tools/call", None, Some(body.clone())).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {refused}");
        assert!(refused["error"].as_str().expect("text").contains(says), "{body}: {refused}");
    }
    let (status, index) = ask(&host, Method::GET, "/", None, None).await;
    assert_eq!((status, &index["mcp"]), (StatusCode::OK, &json!("/mcp")));
    let page = http_client()
        .post(format!("http://{}/tools/call", host.host.address()))
        .header("origin", "https://evil.example");
    assert_eq!(page.send().await.expect("an answer").status(), StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_its_own_tenant_there_too() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let (a, b) = (team(&data, "a", &[("add", &add())]), team(&data, "b", &[("probe", &guest("probe"))]));
    let host = TestHost::start_with(files, |config| {
        config.tenant_limits = toml::from_str("calls_per_minute = 3").expect("valid");
    })
    .await;
    for (method, path) in [(Method::GET, "/"), (Method::GET, "/tools"), (Method::POST, "/tools/call")] {
        let (status, refused) = ask(&host, method.clone(), path, None, None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {refused}");
    }
    let (_, list) = ask(&host, Method::GET, "/tools", Some(&a), None).await;
    assert_eq!(names(&list), ["add"]);
    let (_, list) = ask(&host, Method::GET, "/tools", Some(&b), None).await;
    assert!(!names(&list).contains(&"add".to_owned()), "{list}");
    let call = json!({ "tool": "add", "arguments": { "a": 1, "b": 2 } });
    let (status, refused) = ask(&host, Method::POST, "/tools/call", Some(&b), Some(call.clone())).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(&host, Method::POST, "/tools/call", Some(&a), Some(call.clone())).await.0);
    }
    assert_eq!(statuses, [StatusCode::OK, StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_has_no_room_is_never_said_not_to_have_run() {
    let mut lost = 0;
    for kib in (1_000..6_000).step_by(500) {
        let host = TestHost::start_with(folder(&[("text", &text())]), |config| {
            config.tenant_limits = toml::from_str(&format!("message_bytes = {}", kib << 10)).expect("valid");
        })
        .await;
        let body = json!({ "tool": "text", "arguments": { "bytes": 700_000 } });
        let ran = async || host.metric("mcpp_calls_total").await.iter().any(|line| line.contains(r#"tool="text""#));
        let before = host.metric("mcpp_calls_total").await.len();
        let (status, answer) = ask(&host, Method::POST, "/tools/call", None, Some(body)).await;
        lost += usize::from(answer.to_string().contains("has run, but its"));
        if status == StatusCode::OK {
            let text = answer["structuredContent"]["result"].as_str();
            assert!(answer["isError"] == true || text.map(str::len) == Some(700_000), "{kib} KiB");
            continue;
        }
        assert!(!(status == StatusCode::SERVICE_UNAVAILABLE && before == 0 && ran().await), "{kib} KiB: {answer}");
        host.stop().await;
    }
    assert!(lost > 0, "none was short of room for its last copy");
}

/// So many tools, each of which has some 2 KB in a list.
fn many_tools(count: usize) -> Vec<u8> {
    let parameters: String = (0..16).map(|n| format!(r#"(param "p{n}-{}" u32)"#, "x".repeat(60))).collect();
    let tool =
        |n: usize| format!(r#"(func (export "tool-{n}") {parameters} (result u32) (canon lift (core func $i "f")))"#);
    let tools: String = (0..count).map(tool).collect();
    let core = format!("(func (export \"f\") {} (result i32) (i32.const 1))", "(param i32)".repeat(16));
    wat(&format!("(component (core module $m {core}) (core instance $i (instantiate $m)) {tools})"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_all_pages_is_its_tenants_and_has_a_bound() {
    let host = TestHost::start_with(folder(&[("many", &many_tools(200))]), |config| {
        config.tenant_limits = toml::from_str("message_bytes = 300000").expect("valid");
        config.server.page_size = 10;
    })
    .await;
    let (status, refused) = ask(&host, Method::GET, "/tools", None, None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{}", &refused.to_string()[..100]);
    assert!(refused.to_string().contains("message_bytes of this tenant are used up"), "{refused}");
    let memory = host.host.registry().memory();
    // Pages of the list are kept, in little.
    assert!(memory.used(mcpp::memory::MemoryUse::Messages) < 150_000, "it is given back");
    host.stop().await;
}
