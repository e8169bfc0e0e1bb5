//! The WebSocket door: both eras, its bounds, and its ends.

use futures::{SinkExt as _, StreamExt as _};
use mcpp::{auth::tokens::TokenFile, memory::MemoryUse, tenant::home::Homes};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Bytes, Error, Message,
        client::IntoClientRequest as _,
        handshake::client::Response,
        protocol::frame::{Frame, coding::CloseCode, coding::Data, coding::OpCode},
    },
};

use crate::{
    doors::text,
    support::{
        PATIENCE, TestHost, add, folder, grant, guest, http_client, initialize_message, modern_message, text_of,
    },
    tenants::team,
};

/// A client of the door.
pub(crate) struct Client(pub(crate) WebSocketStream<TcpStream>);

/// A request of a client that knows tasks.
pub(crate) fn knows_tasks(mut message: Value) -> Value {
    let capabilities = json!({ "elicitation": { "form": {} }, "extensions": { "io.modelcontextprotocol/tasks": {} } });
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
    message
}

/// Asks for a WebSocket with these headers beside the usual ones.
pub(crate) async fn open(host: &TestHost, headers: &[(&'static str, &str)]) -> Result<(Client, Response), StatusCode> {
    let mut request = host.host.url().replace("http://", "ws://").into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    let stream = TcpStream::connect(host.host.address()).await.expect("connected");
    match tokio::time::timeout(PATIENCE, client_async(request, stream)).await.expect("in time") {
        Ok((socket, response)) => Ok((Client(socket), response)),
        Err(Error::Http(refused)) => Err(StatusCode::from_u16(refused.status().as_u16()).expect("a status")),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

impl Client {
    pub(crate) async fn to(host: &TestHost) -> Self {
        open(host, &[]).await.expect("open").0
    }

    pub(crate) async fn send(&mut self, message: impl Into<String>) {
        self.0.send(Message::text(message.into())).await.expect("sent");
    }

    /// The next message, or why the host closed.
    pub(crate) async fn next(&mut self) -> Result<Value, (CloseCode, String)> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("in time");
            match next.expect("no end without a reason").expect("no error") {
                Message::Text(text) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Message::Close(frame) => {
                    let frame = frame.expect("a reason");
                    return Err((frame.code, frame.reason.to_string()));
                }
                _ => {}
            }
        }
    }

    pub(crate) async fn ask(&mut self, message: &Value) -> Value {
        self.send(message.to_string()).await;
        self.next().await.expect("an answer")
    }

    async fn end(&mut self) -> (CloseCode, String) {
        loop {
            if let Err(end) = self.next().await {
                return end;
            }
        }
    }
}

pub(crate) fn call(tool: &str, arguments: Value) -> Value {
    modern_message("tools/call", json!({ "name": tool, "arguments": arguments }))
}

async fn probe() -> TestHost {
    TestHost::start(&[("probe", &guest("probe"))]).await
}

pub(crate) fn used(host: &TestHost) -> u64 {
    host.host.registry().memory().used(MemoryUse::Messages)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_eras_and_malformed_messages() {
    let host = probe().await;
    let mut client = Client::to(&host).await;
    let discovered = client.ask(&modern_message("server/discover", json!({}))).await;
    assert!(discovered["result"]["supportedVersions"].as_array().expect("versions").contains(&json!("2026-07-28")));
    for (text, code) in [("{", -32700), ("[]", -32600), ("7", -32600), (r#"{"jsonrpc":"2.0","id":1}"#, -32600)] {
        client.send(text).await;
        assert_eq!(client.next().await.expect("an answer")["error"]["code"], code, "{text}");
    }
    assert_eq!(text_of(&client.ask(&call("probe_add", json!({ "a": 40, "b": 2 }))).await), r#"{"result":42}"#);
    // Many at the same time, and each answer once.
    for id in 100..120 {
        let mut message = call("probe_add", json!({ "a": id, "b": 0 }));
        message["id"] = json!(id);
        client.send(message.to_string()).await;
    }
    let mut answered = Vec::new();
    for _ in 100..120 {
        let answer = client.next().await.expect("an answer");
        let id = answer["id"].as_i64().expect("an id");
        assert_eq!(text_of(&answer), format!(r#"{{"result":{id}}}"#));
        answered.push(id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (100..120).collect::<Vec<_>>());
    let opened = client.ask(&initialize_message()).await;
    assert_eq!(opened["result"]["protocolVersion"], initialize_message()["params"]["protocolVersion"], "{opened}");
    client.send(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string()).await;
    let legacy = json!({ "jsonrpc": "2.0", "id": 9, "method": "tools/call",
        "params": { "name": "probe_add", "arguments": { "a": 1, "b": 2 } } });
    let answer = client.ask(&legacy).await;
    assert_eq!((answer["id"].clone(), text_of(&answer)), (json!(9), r#"{"result":3}"#.to_owned()));
    client.0.close(None).await.expect("closed");
    host.until("its memory is free", async |host| used(host) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_come_in_gets_one_and_says_it_rightly() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let own = team(&data, "a", &[("add", &add())]);
    let host = TestHost::start_with(files, |_| {}).await;
    let mine = bearer(&own);
    let (_, opened) =
        open(&host, &[("authorization", &mine), ("sec-websocket-protocol", "x, mcp")]).await.expect("open");
    assert_eq!(opened.headers()["sec-websocket-protocol"], "mcp");
    let (_, opened) = open(&host, &[("authorization", &mine)]).await.expect("open");
    assert!(!opened.headers().contains_key("sec-websocket-protocol"), "nobody asked for it");
    for (headers, status) in [
        (vec![], StatusCode::UNAUTHORIZED),
        (vec![("authorization", "Bearer mcpp_nobody")], StatusCode::UNAUTHORIZED),
        (vec![("authorization", mine.as_str()), ("origin", "https://evil.example")], StatusCode::FORBIDDEN),
        (vec![("authorization", mine.as_str()), ("host", "evil.example")], StatusCode::FORBIDDEN),
        (vec![("authorization", mine.as_str()), ("sec-websocket-version", "8")], StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(open(&host, &headers).await.err(), Some(status), "{headers:?}");
    }
    let no_key = http_client().get(host.host.url()).bearer_auth(&own).header("upgrade", "websocket");
    let refused = no_key.header("connection", "upgrade").send().await.expect("an answer");
    assert_eq!(
        (refused.status(), &refused.headers()["sec-websocket-version"]),
        (StatusCode::BAD_REQUEST, &"13".parse().expect("text"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_one_of_its_tenants_streams() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let (a, b) = (team(&data, "a", &[("add", &add())]), team(&data, "b", &[("add", &add())]));
    let host = TestHost::start_with(files, |config| {
        config.tenant_limits = toml::from_str("streams = 2").expect("valid");
    })
    .await;
    let (a, b) = (bearer(&a), bearer(&b));
    let mut two = Vec::new();
    for _ in 0..2 {
        two.push(open(&host, &[("authorization", &a)]).await.expect("open").0);
    }
    assert_eq!(open(&host, &[("authorization", &a)]).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    let (mut other, _) = open(&host, &[("authorization", &b)]).await.expect("another tenant has its own");
    assert_eq!(text_of(&other.ask(&call("add", json!({ "a": 1, "b": 2 }))).await), r#"{"result":3}"#);
    drop(two);
    host.until("they are free again", async |host| open(host, &[("authorization", &a)]).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_its_websockets() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let (kept, taken) =
        (team(&data, "kept", &[("add", &add())]), team(&data, "taken", &[("conformance", &guest("conformance"))]));
    let host = TestHost::start_with(files, |_| {}).await;
    let (mut stays, _) = open(&host, &[("authorization", &bearer(&kept))]).await.expect("open");
    let (mut ends, _) = open(&host, &[("authorization", &bearer(&taken))]).await.expect("open");
    let ask = call("confirm_delete", json!({ "filename": "f" }));
    let made = ends.ask(&knows_tasks(ask)).await;
    assert_eq!(made["result"]["resultType"], "task", "{made}");
    host.until("it waits for a person", async |host| host.host.registry().calls() == 1).await;
    let file = TokenFile::new(Homes::new(data).tokens());
    let id = file.read().expect("read").expect("there").into_iter().find(|token| token.tenant.to_string() == "taken");
    file.revoke(&id.expect("its token").id).expect("revoked");
    assert_eq!(ends.end().await.0, CloseCode::Policy);
    host.until("its task has stopped", async |host| host.host.registry().calls() == 0).await;
    assert_eq!(text_of(&stays.ask(&call("add", json!({ "a": 1, "b": 2 }))).await), r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_a_websocket_that_waits_for_its_tenants_rate() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let token = team(&data, "a", &[("add", &add())]);
    let host = TestHost::start_with(files, |config| {
        config.tenant_limits = toml::from_str("traffic_bytes_per_second = 65536").expect("valid");
    })
    .await;
    let (mut client, _) = open(&host, &[("authorization", &bearer(&token))]).await.expect("open");
    // Its bytes are those of more than half a minute.
    let mut large = call("add", json!({ "a": 1, "b": 2 }));
    large["params"]["_meta"]["padding"] = json!("x".repeat(3_000_000));
    assert_eq!(text_of(&client.ask(&large).await), r#"{"result":3}"#);
    let file = TokenFile::new(Homes::new(data).tokens());
    let id = file.read().expect("read").expect("there").into_iter().next().expect("a token").id;
    file.revoke(&id).expect("revoked");
    assert_eq!(client.end().await.0, CloseCode::Policy);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_text_message_of_the_right_size_ends_it() {
    let host = probe().await;
    let mut client = Client::to(&host).await;
    client.0.send(Message::binary(vec![1, 2, 3])).await.expect("sent");
    assert_eq!(client.end().await.0, CloseCode::Unsupported);
    let mut client = Client::to(&host).await;
    // The client learns it from the length that it announces, while it still sends.
    let stream = client.0.get_mut();
    stream.write_all(&head((4 << 20) + 1)).await.expect("sent");
    stream.write_all(&vec![b' '; 512 << 10]).await.expect("sent");
    assert_eq!(client.end().await.0, CloseCode::Size);
    let mut client = Client::to(&host).await;
    let not_utf8 = Frame::message(Bytes::from_static(&[0xff, 0xfe]), OpCode::Data(Data::Text), true);
    client.0.send(Message::Frame(not_utf8)).await.expect("sent");
    assert_eq!(client.end().await.0, CloseCode::Invalid);
    host.until("all memory is free", async |host| used(host) == 0).await;
}

/// The head of a masked text frame of this length.
fn head(length: u64) -> Vec<u8> {
    [&[0x81, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_a_message_that_does_not_end_are_the_tenants() {
    let files = folder(&[("probe", &guest("probe"))]);
    let host = TestHost::start_with(files, |config| {
        config.tenant_limits = toml::from_str("message_bytes = 3000000").expect("valid");
    })
    .await;
    let mut slow = Client::to(&host).await.0;
    let stream = slow.get_mut();
    stream.write_all(&head(3 << 20)).await.expect("sent");
    assert!(used(&host) < 200_000, "what is only announced costs nothing: {}", used(&host));
    stream.write_all(&vec![b' '; 2 << 20]).await.expect("sent");
    host.until("two megabytes are held", async |host| used(host) >= 2 << 20).await;
    // Another connection of the tenant has what is left, and no more.
    let mut second = Client::to(&host).await;
    assert_eq!(text_of(&second.ask(&call("probe_add", json!({ "a": 1, "b": 2 }))).await), r#"{"result":3}"#);
    second.0.get_mut().write_all(&head(3 << 20)).await.expect("sent");
    let _it_may_be_cut_before = second.0.get_mut().write_all(&vec![b' '; 2 << 20]).await;
    assert_eq!(second.end().await.0, CloseCode::Again);
    drop((slow, second));
    host.until("all is free", async |host| used(host) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_the_tenants_bytes() {
    let host = TestHost::start_with(folder(&[("text", &text())]), |config| {
        config.tenant_limits = toml::from_str("message_bytes = 12000000").expect("valid");
        config.server.write_timeout_ms = 2_000;
    })
    .await;
    let mut client = Client::to(&host).await;
    for id in 0..60 {
        let mut message = call("text", json!({ "bytes": 1_000_000 }));
        message["id"] = json!(id);
        if client.0.send(Message::text(message.to_string())).await.is_err() {
            break;
        }
    }
    let mut most = 0;
    host.until("it is cut off", async |host| {
        most = most.max(used(host));
        most > 0 && used(host) == 0 && host.host.registry().calls() == 0
    })
    .await;
    assert!((1_000_000..=12_000_000).contains(&most), "{most}");
    let mut read = 0_usize;
    while let Some(Ok(message)) = tokio::time::timeout(PATIENCE, client.0.next()).await.expect("in time") {
        read += message.len();
    }
    assert!(read < 60_000_000, "not all was answered: {read}");
    let sum = Client::to(&host).await.ask(&modern_message("tools/list", json!({}))).await;
    assert_eq!(sum["result"]["tools"][0]["name"], "text");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_bound_are_refused_and_have_not_run() {
    let host = probe().await;
    let mut client = Client::to(&host).await;
    for id in 0..66 {
        let mut message = call("probe_sleep", json!({ "ms": 1_000 }));
        message["id"] = json!(id);
        client.send(message.to_string()).await;
    }
    let mut refused = 0;
    for _ in 0..66 {
        let answer = client.next().await.expect("an answer");
        refused += usize::from(answer.to_string().contains("requests of this connection are in flight"));
    }
    assert_eq!(refused, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asked_for_stops_when_it_leaves() {
    let host = probe().await;
    let mut client = Client::to(&host).await;
    client.send(call("probe_sleep", json!({ "ms": 60_000 })).to_string()).await;
    host.until("it runs", async |host| host.host.registry().calls() == 1).await;
    drop(client);
    host.until("it was stopped", async |host| host.host.registry().calls() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_answers_what_was_asked_and_says_goodbye() {
    let host = probe().await;
    let mut client = Client::to(&host).await;
    client.send(call("probe_sleep", json!({ "ms": 700 })).to_string()).await;
    host.until("it runs", async |host| host.host.registry().calls() == 1).await;
    let stopping = tokio::spawn(async move { host.stop().await });
    let answer = client.next().await.expect("the answer comes first");
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    assert_eq!(client.end().await, (CloseCode::Away, "the host stops".to_owned()));
    stopping.await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_told_of_new_tools() {
    let host = probe().await;
    let mut client = Client::to(&host).await;
    let listen = modern_message("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let acknowledged = client.ask(&listen).await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged", "{acknowledged}");
    host.write("add", &add());
    assert_eq!(client.next().await.expect("a notification")["method"], "notifications/tools/list_changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_told_of_its_tasks() {
    let files = folder(&[("conformance", &guest("conformance"))]);
    grant(&files, "[components.conformance.limits]\ntask_after_ms = 0\n");
    let host = TestHost::start_with(files, |_| {}).await;
    let mut client = Client::to(&host).await;
    let slow = call("slow_compute", json!({ "seconds": 1, "label": "a" }));
    let made = client.ask(&knows_tasks(slow)).await;
    let task = made["result"]["taskId"].as_str().expect("a task").to_owned();
    let listen = modern_message("subscriptions/listen", json!({ "notifications": { "taskIds": [task] } }));
    let acknowledged = client.ask(&knows_tasks(listen)).await;
    assert_eq!(acknowledged["params"]["notifications"]["taskIds"], json!([task]), "{acknowledged}");
    loop {
        let told = client.next().await.expect("a notification");
        assert_eq!(
            (&told["method"], &told["params"]["taskId"]),
            (&json!("notifications/tasks"), &json!(task)),
            "{told}"
        );
        if told["params"]["status"] == "completed" {
            break;
        }
    }
}
