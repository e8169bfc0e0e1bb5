//! Peers of before MCP++'s bindings, at the mesh's door: the trace of their client, operation by operation, with a grant, with a token, and with neither.

use std::collections::BTreeSet;

use mcpp::{
    auth::tokens::{NewToken, TokenFile},
    names::TenantId,
    tenant::{SCOPE_TOOLS, home::Homes},
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::{
    mesh_peers::{FramePeer, MeshHost, peer},
    support::{TestHost, folder, modern_message},
};

async fn host(legacy_lines: bool) -> MeshHost {
    let test = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    MeshHost::start_with(test, |config| config.legacy_lines = legacy_lines)
}

fn initialize() -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "clientInfo": { "name": "ipfs-accelerate-taskqueue-client", "version": "1.0.0" },
        "profiles": ["mcp++/p2p-transport"],
    } })
}

fn rpc(arguments: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "task_queue.rpc", "arguments": arguments } })
}

/// One request as their client makes it: a stream, `initialize`, the request under the same id.
async fn ask(host: &MeshHost, arguments: Value) -> Value {
    let mut stream = host.open(&peer(0));
    let greeted = stream.ask(&initialize()).await;
    assert_eq!((&greeted["result"]["ok"], &greeted["id"]), (&json!(true), &json!(1)), "{greeted}");
    assert!(greeted["result"]["limits"]["max_frame_bytes"].is_u64());
    let answer = stream.ask(&rpc(arguments)).await;
    answer["result"]["content"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trace_of_the_old_client_is_answered_operation_by_operation() {
    let host = host(false).await;
    host.grant(&peer(0), "*");
    let me = peer(23);
    let status = ask(&host, json!({ "op": "status", "timeout_s": 10.0, "detail": false })).await;
    assert_eq!((&status["ok"], status["peer_id"].as_str()), (&json!(true), Some(me.as_str())), "{status}");
    let submit =
        json!({ "op": "submit", "task_type": "text-generation", "model_name": "gpt2", "payload": { "prompt": "hi" } });
    let submitted = ask(&host, submit).await;
    let task = submitted["task_id"].as_str().expect("an id").to_owned();
    let claimed =
        ask(&host, json!({ "op": "claim", "worker_id": "w", "supported_task_types": ["text-generation"] })).await;
    assert_eq!(claimed["task"]["task_id"], task.as_str(), "{claimed}");
    let completed =
        ask(&host, json!({ "op": "complete", "task_id": task, "status": "completed", "result": { "text": "x" } }))
            .await;
    assert_eq!(completed["ok"], true, "{completed}");
    let waited = ask(&host, json!({ "op": "wait", "task_id": task, "timeout_s": 5.0 })).await;
    assert_eq!(waited["task"]["status"], "completed", "{waited}");
    assert_eq!(ask(&host, json!({ "op": "nonsense" })).await["error"], "unknown_op");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn such_a_peer_reaches_one_tool_and_nothing_else() {
    let host = host(false).await;
    host.grant(&peer(0), "*");
    let mut stream = host.open(&peer(0));
    stream.ask(&initialize()).await;
    let other = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "task_submit", "arguments": {} } });
    let refused = stream.ask(&other).await;
    assert_eq!(refused["error"]["code"], -32002, "{refused}");
    for method in ["tools/list", "ping", "server/discover"] {
        let refused = stream.ask(&json!({ "jsonrpc": "2.0", "id": 3, "method": method })).await;
        assert_eq!(refused["error"]["code"], -32601, "{refused}");
    }
    // The shape is for this stream and this tool: an ordinary call has an ordinary result.
    let ordinary = modern_message("tools/call", json!({ "name": "task_queue.rpc", "arguments": { "op": "status" } }));
    let answer = host.open(&peer(0)).ask(&ordinary).await;
    assert!(answer["result"]["content"].is_array(), "{answer}");
}

async fn refused(mut stream: FramePeer, arguments: Value) -> Value {
    stream.ask(&initialize()).await;
    let refused = stream.ask(&rpc(arguments)).await;
    stream.closes().await;
    refused["error"]["code"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_the_queue_of_its_tenant_and_no_other_does() {
    let host = host(true).await;
    let homes = Homes::new(host.test.folder.path().join("data"));
    let status = json!({ "op": "status" });
    assert_eq!(refused(host.open(&peer(0)), status.clone()).await, -32001, "neither grant nor token");
    assert_eq!(refused(host.open(&peer(0)), json!({ "op": "status", "token": "secret" })).await, -32001);
    let new = |tools: &[&str]| NewToken {
        tenant: TenantId::local(),
        subject: "old".to_owned(),
        scopes: BTreeSet::from([SCOPE_TOOLS.to_owned()]),
        tools: tools.iter().map(|tool| tool.parse().expect("a pattern")).collect(),
        good_for: None,
    };
    let tokens = TokenFile::new(homes.tokens());
    let (kept, token) = tokens.create(new(&[])).expect("made");
    let with_token = json!({ "op": "status", "token": token, "ucan": "ignored" });
    host.test
        .until("the token is known", async |_| {
            let mut stream = host.open(&peer(0));
            stream.ask(&initialize()).await;
            stream.ask(&rpc(with_token.clone())).await["result"]["content"]["ok"] == true
        })
        .await;
    assert_eq!(refused(host.open(&peer(0)), json!({ "op": "status", "token": format!("{token}x") })).await, -32001);
    let line = lines(&host, &with_token).await;
    assert_eq!((&line["ok"], line["peer_id"].as_str()), (&json!(true), Some(peer(23).as_str())), "{line}");
    assert_eq!(lines(&host, &status).await["error"], "unauthorized");
    assert_eq!(line_of(&host, b"{\n").await["error"], "invalid_json");
    assert_eq!(line_of(&host, b"7\n").await["error"], "invalid_message");
    tokens.revoke(&kept.id).expect("revoked");
    host.test.until("the token is gone", async |_| lines(&host, &with_token).await["error"] == "unauthorized").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_served_only_where_the_operator_says_so() {
    let host = host(false).await;
    host.grant(&peer(0), "*");
    let stream = host.open_protocol(&peer(0), mcpp::mcp::mesh::LEGACY_PROTOCOL);
    stream.closes().await;
}

async fn lines(host: &MeshHost, request: &Value) -> Value {
    line_of(host, format!("{request}\n").as_bytes()).await
}

async fn line_of(host: &MeshHost, line: &[u8]) -> Value {
    let mut stream = host.open_protocol(&peer(0), mcpp::mcp::mesh::LEGACY_PROTOCOL).stream;
    stream.write_all(line).await.expect("sent");
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).await.expect("read");
    serde_json::from_str(&reply).expect("JSON")
}
