//! Malformed and hostile messages and headers, each with its exact answer.

use std::fmt::Write as _;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{PATIENCE, TestHost, add, folder, initialize_message, modern_message};

/// One line an answer: status, and the error's code and text.
async fn line(response: reqwest::Response) -> String {
    let status = response.status().as_u16();
    let text = response.text().await.expect("the whole answer");
    let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else { return format!("{status} {text:?}") };
    let error = &json["error"];
    let id = if json.get("id").is_some() { format!(" id {}", json["id"]) } else { String::new() };
    let (code, message) = (&error["code"], error["message"].as_str().unwrap_or_default());
    if error.is_null() { format!("{status}{id} ok") } else { format!("{status}{id} {code} {message}") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_bodies() {
    let host = TestHost::start_with(folder(&[("add", &add())]), |config| config.server.max_body_bytes = 10_000).await;
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"a":{}{}}}}}"#,
        "[".repeat(70),
        "]".repeat(70)
    );
    let long = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "x".repeat(10_000));
    let bodies: Vec<(&str, &[u8])> = vec![
        ("empty", b""),
        ("white space", b"  \n"),
        ("not JSON", b"hello"),
        ("cut short", br#"{"jsonrpc":"2.0","id":1,"#),
        ("two messages", br#"{"jsonrpc":"2.0","id":1,"method":"ping"}{}"#),
        ("not UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":\"\xff\",\"method\":\"ping\"}"),
        ("number", b"7"),
        ("null", b"null"),
        ("batch", br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#),
        ("empty batch", b"[]"),
        ("no version", br#"{"id":1,"method":"ping"}"#),
        ("old version", br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#),
        ("no method", br#"{"jsonrpc":"2.0","id":1}"#),
        ("method of another type", br#"{"jsonrpc":"2.0","id":1,"method":{}}"#),
        ("null id", br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#),
        ("fractional id", br#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#),
        ("list of params", br#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}"#),
        ("result and error", br#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#),
        ("id twice", br#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#),
        ("too deep", deep.as_bytes()),
        ("too long", long.as_bytes()),
        ("request without a session", br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#),
        ("initialize without parameters", br#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#),
    ];
    let mut seen = String::new();
    for (name, body) in bodies {
        let response = host.post(body.to_vec()).send().await.expect("an answer");
        writeln!(seen, "{name}: {}", line(response).await).expect("written");
    }
    insta::assert_snapshot!(seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_headers() {
    let host = TestHost::start(&[("add", &add())]).await;
    let list = modern_message("tools/list", json!({})).to_string();
    let call = modern_message("tools/call", json!({ "name": "add", "arguments": { "a": 1, "b": 2 } })).to_string();
    let modern = ("mcp-protocol-version", "2026-07-28");
    let rows: Vec<(&str, &str, Vec<(&str, &str)>)> = vec![
        ("as it should be", &list, vec![modern, ("mcp-method", "tools/list")]),
        ("foreign host", &list, vec![("host", "evil.example.com")]),
        ("rebound host", &list, vec![("host", "127.0.0.1.evil.example.com")]),
        ("foreign origin, own host", &list, vec![("origin", "https://evil.example.com")]),
        ("no origin's origin", &list, vec![("origin", "null")]),
        ("form", &list, vec![("content-type", "application/x-www-form-urlencoded")]),
        ("text", &list, vec![("content-type", "text/plain")]),
        ("wants HTML", &list, vec![("accept", "text/html"), modern, ("mcp-method", "tools/list")]),
        ("wants anything", &list, vec![("accept", "*/*"), modern, ("mcp-method", "tools/list")]),
        ("no method header", &list, vec![modern]),
        ("another method", &list, vec![modern, ("mcp-method", "tools/call")]),
        ("method in capitals", &list, vec![modern, ("mcp-method", "TOOLS/LIST")]),
        ("no name header", &call, vec![modern, ("mcp-method", "tools/call")]),
        ("another name", &call, vec![modern, ("mcp-method", "tools/call"), ("mcp-name", "rm")]),
        ("bad base64 name", &call, vec![modern, ("mcp-method", "tools/call"), ("mcp-name", "=?base64?!?=")]),
        (
            "another version than the body's",
            &list,
            vec![("mcp-protocol-version", "2025-11-25"), ("mcp-method", "tools/list")],
        ),
        ("no version header", &list, vec![("mcp-method", "tools/list")]),
        ("unknown session", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, vec![("mcp-session-id", "nobody")]),
    ];
    let mut seen = String::new();
    for (name, body, headers) in rows {
        let mut map = reqwest::header::HeaderMap::new();
        for (name, value) in headers {
            let name = reqwest::header::HeaderName::from_bytes(name.as_bytes()).expect("legal");
            map.insert(name, value.parse().expect("legal"));
        }
        let response = host.post(body.to_owned()).headers(map).send().await.expect("an answer");
        writeln!(seen, "{name}: {}", line(response).await).expect("written");
    }
    insta::assert_snapshot!(seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests() {
    let host = TestHost::start(&[("add", &add())]).await;
    let rows = [
        ("unknown method", "tools/destroy", json!({})),
        ("removed method", "ping", json!({})),
        ("method of a capability that is not declared", "resources/list", json!({})),
        ("unknown tool", "tools/call", json!({ "name": "nothing" })),
        ("illegal tool name", "tools/call", json!({ "name": "../etc/passwd" })),
        ("no tool name", "tools/call", json!({ "arguments": {} })),
        ("arguments of another type", "tools/call", json!({ "name": "add", "arguments": [1, 2] })),
        ("foreign cursor", "tools/list", json!({ "cursor": "%%%" })),
        (
            "version of the future",
            "tools/list",
            json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": "2099-01-01" } }),
        ),
    ];
    let mut seen = String::new();
    for (name, method, params) in rows {
        let response = host.modern(method, params).send().await.expect("an answer");
        writeln!(seen, "{name}: {}", line(response).await).expect("written");
    }
    let url = host.host.url();
    for method in [reqwest::Method::PUT, reqwest::Method::PATCH, reqwest::Method::GET, reqwest::Method::DELETE] {
        let request = host.http.request(method.clone(), &url).header("mcp-protocol-version", "2026-07-28");
        let response = request.header("accept", "text/event-stream").send().await.expect("an answer");
        writeln!(seen, "modern {method}: {}", line(response).await).expect("written");
    }
    let response = host.http.get(format!("http://{}/nothing", host.host.address())).send().await.expect("an answer");
    writeln!(seen, "unknown path: {}", line(response).await).expect("written");
    insta::assert_snapshot!(seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_dawdles_is_cut_off() {
    let host = TestHost::start_with(folder(&[]), |config| {
        config.server.header_timeout_ms = 100;
        config.server.body_timeout_ms = 100;
    })
    .await;
    let head = b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    // Half a head: the connection is closed without an answer, or with 408.
    let mut slow = TcpStream::connect(host.host.address()).await.expect("connected");
    slow.write_all(head).await.expect("sent");
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, slow.read_to_end(&mut answer)).await.expect("closed in time").expect("read");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    // A whole head and half a body.
    let mut slow = TcpStream::connect(host.host.address()).await.expect("connected");
    slow.write_all(head).await.expect("sent");
    slow.write_all(b"content-length: 100\r\n\r\n{\"json").await.expect("sent");
    let mut answer = [0; 12];
    tokio::time::timeout(PATIENCE, slow.read_exact(&mut answer)).await.expect("answered in time").expect("read");
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_is_accepted_and_not_answered() {
    let host = TestHost::start(&[]).await;
    let session = host.initialize().await;
    let notification = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 99 } });
    let response = host.legacy(&session, &notification).send().await.expect("an answer");
    assert_eq!(response.status(), 202);
    assert_eq!(response.text().await.expect("text"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initialize_never_negotiates_the_modern_era() {
    let host = TestHost::start(&[]).await;
    for (asked, given) in [
        ("2026-07-28", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("1999-01-01", "2025-11-25"),
        ("2024-11-05", "2024-11-05"),
    ] {
        let mut message = initialize_message();
        message["params"]["protocolVersion"] = json!(asked);
        let answer = crate::support::answer(host.post(message.to_string()).send().await.expect("an answer")).await;
        assert_eq!(answer["result"]["protocolVersion"], given, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_read_up_to_its_bound() {
    let host = TestHost::start_with(folder(&[("add", &add())]), |config| config.server.max_body_bytes = 300_000).await;
    let call = |padding: usize| {
        let arguments = json!({ "a": 1, "b": 2 });
        let params = json!({ "name": "add", "arguments": arguments, "_meta": { "padding": "x".repeat(padding) } });
        modern_message("tools/call", params).to_string()
    };
    let send = async |body: reqwest::Body| {
        let request = host.modern("tools/call", json!({ "name": "add" })).body(body);
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("text"))
    };
    let in_pieces = |text: String| {
        let pieces: Vec<_> =
            text.as_bytes().chunks(10_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        reqwest::Body::wrap_stream(futures::stream::iter(pieces))
    };
    for (padding, status) in [(290_000, 200), (300_000, 413)] {
        for body in [call(padding).into(), in_pieces(call(padding))] {
            let (answered, text) = send(body).await;
            assert_eq!(answered, status, "{padding}: {text}");
            assert!(status == 200 || text.contains("the body has more than 300000 bytes"), "{text}");
        }
    }
}
