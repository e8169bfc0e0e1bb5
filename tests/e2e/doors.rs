//! The limits of strangers and tenants at the HTTP door: connections, streams, and memory for requests and answers. Another tenant and the probes still get in.

use std::{collections::BTreeSet, path::Path, time::Duration};

use futures::future::join_all;
use mcpp::{
    auth::tokens::{NewToken, TokenFile},
    memory::MemoryUse,
    names::TenantId,
    tenant::{SCOPE_TOOLS, home::Homes},
};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::support::{
    PATIENCE, TestHost, add, answer, folder, http_client, initialize_message, modern_message, modern_request, text_of,
    wat,
};

/// The answer of `add` to 1 and 2.
const SUM: &str = r#"{"result":3}"#;

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("legal")
}

/// A tenant with these components, and a token for it.
pub fn team(data: &Path, name: &str, components: &[(&str, &[u8])]) -> String {
    let homes = Homes::new(data.to_owned());
    let home = homes.add(&tenant(name), toml::from_str("version = 1\npinned = false").expect("valid")).expect("made");
    for (component, wasm) in components {
        std::fs::write(home.tools().join(format!("{component}.wasm")), wasm).expect("written");
    }
    let new = NewToken {
        tenant: tenant(name),
        subject: format!("user-of-{name}").as_str().into(),
        scopes: BTreeSet::from([SCOPE_TOOLS.to_owned()]),
        tools: Vec::new(),
        good_for: None,
    };
    TokenFile::new(homes.tokens()).create(new).expect("made").1
}

/// A tool `text` that answers so many quotation marks, each of which is two bytes of JSON.
pub fn text() -> Vec<u8> {
    wat(r#"(component
        (core module $m (memory (export "memory") 128)
            (func (export "f") (param i32) (result i32)
                (memory.fill (i32.const 1024) (i32.const 34) (local.get 0))
                (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (local.get 0)) (i32.const 16)))
        (core instance $i (instantiate $m))
        (func (export "text") (param "bytes" u32) (result string)
            (canon lift (core func $i "f") (memory (core memory $i "memory")))))"#)
}

fn as_user(host: &TestHost, token: &str, method: &str, params: Value) -> RequestBuilder {
    // A client of its own: a connection of its own.
    modern_request(&http_client(), &host.host.url(), method, params).bearer_auth(token)
}

async fn adds(host: &TestHost, token: &str) -> String {
    let call = json!({ "name": "add", "arguments": { "a": 1, "b": 2 } });
    let sent = as_user(host, token, "tools/call", call).timeout(PATIENCE).send().await.expect("an answer");
    text_of(&answer(sent).await)
}

async fn lives(host: &TestHost) -> StatusCode {
    let live = format!("http://{}/live", host.host.address());
    http_client().get(live).timeout(PATIENCE).send().await.expect("an answer").status()
}

fn used(host: &TestHost) -> u64 {
    host.host.registry().memory().used(MemoryUse::Messages)
}

/// Bytes of a request on a connection of its own.
fn raw(host: &TestHost, token: &str, method: &str, params: Value) -> Vec<u8> {
    let name = params["name"].as_str().map(|name| format!("mcp-name: {name}\r\n")).unwrap_or_default();
    let body = modern_message(method, params).to_string();
    format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\naccept: */*\r\n\
         mcp-protocol-version: 2026-07-28\r\nmcp-method: {method}\r\n{name}content-length: {}\r\n\r\n{body}",
        host.host.address(),
        body.len()
    )
    .into_bytes()
}

async fn connect(host: &TestHost) -> TcpStream {
    TcpStream::connect(host.host.address()).await.expect("connected")
}

/// Whether the host has closed a connection from which nothing is expected.
async fn is_closed(connection: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_strangers_keep_nobody_out() {
    let folder = folder(&[]);
    let token = team(&folder.path().join("data"), "a", &[("add", &add())]);
    let host = TestHost::start_with(folder, |config| config.server.max_connections = 8).await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(connect(&host).await);
    }
    assert_eq!((lives(&host).await, adds(&host, &token).await), (StatusCode::OK, SUM.to_owned()));
    assert!(is_closed(&mut idle[0]).await, "the one that is idle for longest made room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_has_seconds_and_a_tenant_has_not() {
    let folder = folder(&[]);
    let token = team(&folder.path().join("data"), "a", &[("add", &add())]);
    let host = TestHost::start_with(folder, |config| config.server.stranger_timeout_ms = 200).await;
    let (mut silent, mut probing, mut known) = (connect(&host).await, connect(&host).await, connect(&host).await);
    probing.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let ping = raw(&host, &token, "tools/list", json!({}));
    known.write_all(&ping).await.expect("sent");
    assert!(is_closed(&mut silent).await && is_closed(&mut probing).await);
    // The third began before both were closed, and is still served.
    let mut first = [0; 15];
    known.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    tokio::time::sleep(Duration::from_millis(300)).await;
    known.write_all(&ping).await.expect("still open");
    host.until("the second request is answered", async |_| {
        let mut more = [0; 4096];
        known.read(&mut more).await.is_ok_and(|read| {
            assert!(read > 0, "closed");
            String::from_utf8_lossy(&more[..read]).contains("200 OK")
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_ask_without_pause_make_room_and_leave_the_reserve_to_probes() {
    let folder = folder(&[]);
    let token = team(&folder.path().join("data"), "a", &[("add", &add())]);
    let host = TestHost::start_with(folder, |config| {
        config.server.max_connections = 4;
        config.server.stranger_timeout_ms = 60_000;
    })
    .await;
    let mut greedy = connect(&host).await;
    greedy.write_all(&b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2_000)).await.expect("sent");
    assert_eq!(greedy.read(&mut [0; 100]).await.expect("an answer"), 100);
    // It has the one place of strangers. Its requests are paced, and one that waits for its turn is no work.
    host.until("somebody with a token gets in", async |host| {
        let Ok(answer) = as_user(host, &token, "tools/list", json!({})).send().await else { return false };
        answer.status() == StatusCode::OK
    })
    .await;
    for _ in 0..40 {
        assert_eq!(lives(&host).await, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_connections_and_streams_are_its_own() {
    let folder = folder(&[]);
    let tools: &[(&str, &[u8])] = &[("add", &add())];
    let tokens = ["a", "b"].map(|name| team(&folder.path().join("data"), name, tools));
    let host = TestHost::start_with(folder, |config| {
        config.server.max_connections = 64;
        config.tenant_limits = toml::from_str("connections = 4\nstreams = 3").expect("valid");
    })
    .await;
    let listen =
        || as_user(&host, &tokens[0], "subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut streams = Vec::new();
    for _ in 0..3 {
        let stream = listen().send().await.expect("an answer");
        assert_eq!(stream.status(), StatusCode::OK);
        streams.push(stream);
    }
    let refused = listen().send().await.expect("an answer");
    assert_eq!(
        (refused.status(), refused.headers().contains_key("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, true)
    );
    assert_eq!(
        text_of(&answer(refused).await),
        "JSON-RPC error -32000: streams of this tenant are used up: it may have 3"
    );
    assert_eq!(adds(&host, &tokens[0]).await, SUM, "a call is no stream");
    // Three streams and a body that does not come: all of its connections.
    let mut slow = connect(&host).await;
    let call = raw(&host, &tokens[0], "tools/list", json!({}));
    slow.write_all(&call[..call.len() - 1]).await.expect("sent");
    host.until("all connections are used", async |host| {
        let refused = as_user(host, &tokens[0], "tools/list", json!({})).send().await.expect("an answer");
        refused.status() == StatusCode::SERVICE_UNAVAILABLE
            && text_of(&answer(refused).await)
                == "JSON-RPC error -32000: connections of this tenant are used up: it may have 4"
    })
    .await;
    assert_eq!((adds(&host, &tokens[1]).await, lives(&host).await), (SUM.to_owned(), StatusCode::OK));
    streams.pop();
    host.until("a stream that ended makes room", async |host| adds(host, &tokens[0]).await == SUM).await;
    drop((streams, slow));
    host.until("everything is given back", async |host| used(host) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_its_answers_is_cut_off() {
    let folder = folder(&[]);
    let tools: &[(&str, &[u8])] = &[("text", &text()), ("add", &add())];
    let tokens = ["a", "b"].map(|name| team(&folder.path().join("data"), name, tools));
    let host = TestHost::start_with(folder, |config| config.server.write_timeout_ms = 300).await;
    let call = raw(&host, &tokens[0], "tools/call", json!({ "name": "text", "arguments": { "bytes": 1_000_000 } }));
    let deaf = join_all((0..4).map(async |_| {
        let mut deaf = connect(&host).await;
        deaf.write_all(&call.repeat(4)).await.expect("sent");
        deaf
    }))
    .await;
    host.until("answers wait to be read", async |host| used(host) > 3_000_000).await;
    assert_eq!((adds(&host, &tokens[1]).await, lives(&host).await), (SUM.to_owned(), StatusCode::OK));
    host.until("they are cut off and give all back", async |host| used(host) == 0).await;
    // A byte now and then is less than the least rate.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("small");
    let mut dripping = socket.connect(host.host.address()).await.expect("connected");
    dripping.write_all(&call).await.expect("sent");
    host.until("its answer waits to be read", async |host| used(host) > 500_000).await;
    let mut byte = [0];
    host.until("a client that drips is cut off", async |host| {
        let read = tokio::time::timeout(PATIENCE, dripping.read(&mut byte)).await.expect("in time");
        tokio::time::sleep(Duration::from_millis(1)).await;
        !matches!(read, Ok(1)) || used(host) == 0
    })
    .await;
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_counted_as_they_come_and_refused_by_name() {
    let folder = folder(&[]);
    let tools: &[(&str, &[u8])] = &[("add", &add())];
    let tokens = ["a", "b"].map(|name| team(&folder.path().join("data"), name, tools));
    let host = TestHost::start_with(folder, |config| {
        config.tenant_limits = toml::from_str("message_bytes = 3000000").expect("valid");
    })
    .await;
    // Four bodies of 600 kB that stop one byte short: more than the tenant may have.
    let params = json!({ "name": "add", "arguments": { "a": 1, "b": 2 }, "_meta": { "padding": "x".repeat(600_000) } });
    let call = raw(&host, &tokens[0], "tools/call", params.clone());
    let mut short = Vec::new();
    for _ in 0..4 {
        let mut connection = connect(&host).await;
        connection.write_all(&call[..call.len() - 1]).await.expect("sent");
        short.push(connection);
    }
    host.until("they wait", async |host| used(host) > 2_400_000).await;
    let refused = as_user(&host, &tokens[0], "tools/call", params).send().await.expect("an answer");
    assert_eq!(
        (refused.status(), refused.headers().contains_key("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, true)
    );
    let text = text_of(&answer(refused).await);
    assert_eq!(text, "JSON-RPC error -32000: message_bytes of this tenant are used up: it may have 3000000");
    assert_eq!(adds(&host, &tokens[1]).await, SUM);
    // Small in bytes and large when it is read: a value costs more than its comma.
    let values = json!({ "name": "add", "arguments": { "a": vec![0; 20_000], "b": 2 } });
    let refused = as_user(&host, &tokens[1], "tools/call", values).send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(short);
    host.until("everything is given back", async |host| used(host) == 0).await;
    assert_eq!(adds(&host, &tokens[0]).await, SUM);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_arrive_whole_in_both_eras() {
    let host = TestHost::start(&[("text", &text())]).await;
    let call = |bytes: u32| json!({ "name": "text", "arguments": { "bytes": bytes } });
    let is_whole = |answer: &Value, bytes: usize| {
        assert_eq!(answer["id"], 1, "{}", answer.to_string().chars().take(300).collect::<String>());
        let text = text_of(answer);
        assert!(text.len() == bytes && text.bytes().all(|byte| byte == b'"'), "{} bytes", text.len());
    };
    for bytes in [10, 32_000, 32_700, 32_768, 65_536, 65_537, 200_000, 1_000_000] {
        let sent = host.modern("tools/call", call(bytes)).send().await.expect("an answer");
        assert!(sent.headers().contains_key("content-length"), "its length is known");
        is_whole(&answer(sent).await, bytes as usize);
    }
    host.until("everything is given back", async |host| used(host) == 0).await;
    let session = host.initialize().await;
    let message = |bytes| json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call(bytes) });
    for bytes in [10, 65_537, 1_000_000] {
        let sent = host.legacy(&session, &message(bytes)).send().await.expect("an answer");
        is_whole(&answer(sent).await, bytes as usize);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_room_says_that_the_call_has_run() {
    let folder = folder(&[("text", &text())]);
    let host = TestHost::start_with(folder, |config| {
        config.tenant_limits = toml::from_str("message_bytes = 2000000").expect("valid");
    })
    .await;
    // A text is there twice, as a block and as a value, before it is written and after.
    assert_eq!(host.text("text", json!({ "bytes": 200_000 })).await.len(), 200_000);
    let lost = host.modern("tools/call", json!({ "name": "text", "arguments": { "bytes": 400_000 } }));
    let lost = lost.send().await.expect("an answer");
    assert_eq!((lost.status(), lost.headers().contains_key("retry-after")), (StatusCode::OK, false));
    let text = text_of(&answer(lost).await);
    assert!(
        text.starts_with("error: the call was stopped in the middle: no room for its result: message_bytes"),
        "{text}"
    );
    host.until("everything is given back", async |host| used(host) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_connections_are_measured() {
    let host = TestHost::start(&[("add", &add())]).await;
    let listening =
        host.modern("subscriptions/listen", json!({ "notifications": {} })).send().await.expect("an answer");
    assert_eq!(listening.status(), StatusCode::OK);
    let bound = host.host.registry().memory().bound(MemoryUse::Messages);
    for line in [
        &format!("mcpp_memory_bound_bytes{{pool=\"message_bytes\"}} {bound}"),
        "mcpp_memory_bytes{tenant=\"local\",pool=\"message_bytes\"} 65536",
        "mcpp_tenant_streams{tenant=\"local\"} 1",
        "mcpp_tenant_held_back_total{tenant=\"local\",rate=\"traffic\"} 0",
    ] {
        let name = line.split('{').next().expect("a name");
        assert!(
            host.metric(name).await.iter().any(|measured| measured == line),
            "{line}: {:?}",
            host.metric(name).await
        );
    }
    assert!(host.metric("mcpp_connections{kind=\"tenant\"}").await[0].ends_with(|digit: char| digit >= '1'));
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_whatever_they_say() {
    let host = TestHost::start(&[]).await;
    for (head, answered) in [
        ("GET /live HTTP/1.1\r\nHost: 10.1.2.3:8000\r\n", true),
        ("GET /ready HTTP/1.0\r\n", true),
        ("GET /health HTTP/1.1\r\nHost: kube\r\nOrigin: http://kube\r\n", true),
        ("GET /metrics HTTP/1.1\r\nHost: 10.1.2.3:8000\r\n", false),
        ("GET /mcp HTTP/1.0\r\n", false),
        ("GET /mcp/../live HTTP/1.0\r\n", false),
    ] {
        let mut connection = connect(&host).await;
        connection.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.expect("sent");
        let mut text = String::new();
        connection.read_to_string(&mut text).await.expect("an answer");
        let status = text.split(' ').nth(1).expect("a status");
        assert_eq!(status, if answered { "200" } else { "403" }, "{head}: {text}");
        assert!(!text.contains("version"), "{text}");
    }
    let health = format!("http://{}/health", host.host.address());
    assert!(host.http.get(health).send().await.expect("an answer").text().await.expect("text").contains("version"));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_token_was_made_the_authorization_header_is_not_read() {
    let folder = folder(&[("add", &add())]);
    let host = TestHost::start_with(folder, |_| {}).await;
    for header in ["Basic dXNlcjpwYXNz", "Bearer ", "Bearer", "nonsense"] {
        let sent =
            host.modern("tools/list", json!({})).header("authorization", header).send().await.expect("an answer");
        assert_eq!(sent.status(), StatusCode::OK, "{header:?}");
    }
    let token = team(&host.folder.path().join("data"), "a", &[]);
    host.until("a token is needed", async |host| {
        let sent = host.modern("tools/list", json!({})).header("authorization", "Basic dXNlcjpwYXNz").send().await;
        sent.expect("an answer").status() == StatusCode::BAD_REQUEST
    })
    .await;
    drop(token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_takes_what_its_ranges_say() {
    let host = TestHost::start(&[("add", &add())]).await;
    let session = host.initialize().await;
    for (accept, post, get) in [
        (Some("application/*, text/*"), 200, 200),
        (Some("*/*"), 200, 200),
        (None, 200, 200),
        (Some("text/event-stream;q=0.5, application/json"), 200, 200),
        (Some("*/*, text/event-stream;q=0"), 406, 406),
        (Some("text/html"), 406, 406),
    ] {
        let with = |request: RequestBuilder| {
            let (client, request) = request.build_split();
            let mut request = request.expect("a request");
            request.headers_mut().remove("accept");
            if let Some(accept) = accept {
                request.headers_mut().insert("accept", accept.parse().expect("legal"));
            }
            client.execute(request)
        };
        // `reqwest` asks for anything if it is told nothing, which says the same.
        let posted = with(host.modern("tools/list", json!({}))).await.expect("an answer");
        assert_eq!(posted.status(), post, "POST {accept:?}");
        let got = with(host.stream(&session)).await.expect("an answer");
        assert_eq!(got.status(), get, "GET {accept:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_are_refused_and_a_slash_more_is_not() {
    let host = TestHost::start(&[("add", &add())]).await;
    let doubled = host.modern("tools/list", json!({})).header("mcp-protocol-version", "2025-11-25");
    let refused = doubled.send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let refused = answer(refused).await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(1), &json!(-32020)), "{refused}");
    let session = host.initialize().await;
    let streams =
        host.stream(&session).header("mcp-protocol-version", "2025-11-25").header("mcp-protocol-version", "2026-07-28");
    assert_eq!(streams.send().await.expect("an answer").status(), StatusCode::BAD_REQUEST);
    let url = format!("{}/", host.host.url());
    let listed = modern_request(&host.http, &url, "tools/list", json!({})).send().await.expect("an answer");
    assert_eq!(listed.status(), StatusCode::OK);
    let opened = host.http.post(&url).header("content-type", "application/json").body(initialize_message().to_string());
    assert_eq!(opened.send().await.expect("an answer").status(), StatusCode::OK);
}
