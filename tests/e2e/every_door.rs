//! The same transcripts through every door: HTTP, WebSocket, standard input and the mesh, in both eras. Each client hears the same.

use futures::{SinkExt, StreamExt as _, future::BoxFuture};
use mcpp::{
    mcp::stdio::{self, LineLimits},
    tenant::Principal,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf},
    net::TcpStream,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

use crate::{
    mesh_peers::{FramePeer, MeshHost, peer},
    support::{PATIENCE, TestHost, guest, initialize_message, messages, modern_message},
};

/// A client at one door.
trait Door: Send {
    /// Sends a message, and gives all that comes until it is answered.
    fn tell<'a>(&'a mut self, message: &'a Value) -> BoxFuture<'a, Vec<Value>>;
}

struct Http<'a> {
    host: &'a TestHost,
    session: Option<String>,
}

impl Door for Http<'_> {
    fn tell<'a>(&'a mut self, message: &'a Value) -> BoxFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let method = message["method"].as_str().expect("a method");
            let request = match &self.session {
                _ if message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_string() => {
                    self.host.modern(method, message["params"].clone()).body(message.to_string())
                }
                Some(session) => self.host.legacy(session, message),
                None => self.host.post(message.to_string()),
            };
            let response = request.send().await.expect("an answer");
            if let Some(session) = response.headers().get("mcp-session-id") {
                self.session = Some(session.to_str().expect("text").to_owned());
            }
            if message["id"].is_null() { Vec::new() } else { messages(response).await }
        })
    }
}

/// A door to which a client has one connection.
struct Connected<C>(C);

/// The messages of one connection.
trait Connection: Send {
    fn send<'a>(&'a mut self, message: &'a Value) -> BoxFuture<'a, ()>;
    fn receive(&mut self) -> BoxFuture<'_, Value>;
}

impl<C: Connection> Door for Connected<C> {
    fn tell<'a>(&'a mut self, message: &'a Value) -> BoxFuture<'a, Vec<Value>> {
        Box::pin(async move {
            self.0.send(message).await;
            let mut told = Vec::new();
            while !message["id"].is_null() {
                let next = tokio::time::timeout(PATIENCE, self.0.receive()).await.expect("in time");
                told.push(next);
                if told.last().is_some_and(|next| next["id"] == message["id"]) {
                    break;
                }
            }
            told
        })
    }
}

impl Connection for WebSocketStream<TcpStream> {
    fn send<'a>(&'a mut self, message: &'a Value) -> BoxFuture<'a, ()> {
        let text = Message::text(message.to_string());
        Box::pin(async move { SinkExt::send(self, text).await.expect("sent") })
    }

    fn receive(&mut self) -> BoxFuture<'_, Value> {
        Box::pin(async move {
            let next = self.next().await.expect("a message").expect("no error");
            serde_json::from_str(next.to_text().expect("text")).expect("JSON")
        })
    }
}

struct StandardInput {
    requests: WriteHalf<DuplexStream>,
    answers: Lines<BufReader<ReadHalf<DuplexStream>>>,
}

impl Connection for StandardInput {
    fn send<'a>(&'a mut self, message: &'a Value) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.requests.write_all(format!("{message}\n").as_bytes()).await.expect("sent") })
    }

    fn receive(&mut self) -> BoxFuture<'_, Value> {
        Box::pin(async move {
            let line = self.answers.next_line().await.expect("read").expect("a line");
            serde_json::from_str(&line).expect("JSON")
        })
    }
}

impl Connection for FramePeer {
    fn send<'a>(&'a mut self, message: &'a Value) -> BoxFuture<'a, ()> {
        Box::pin(self.send(message))
    }

    fn receive(&mut self) -> BoxFuture<'_, Value> {
        Box::pin(async move { self.receive().await.expect("a message") })
    }
}

async fn websocket(host: &TestHost) -> Connected<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(host.host.address()).await.expect("connected");
    let (socket, _) = client_async(host.host.url().replace("http://", "ws://"), stream).await.expect("open");
    Connected(socket)
}

fn standard_input(host: &TestHost) -> Connected<StandardInput> {
    let (client, door) = tokio::io::duplex(1 << 20);
    let (input, output) = tokio::io::split(door);
    let endpoint = host.host.endpoint().clone();
    let limits = LineLimits { max_bytes: 1 << 20, max_depth: 64 };
    tokio::spawn(async move {
        stdio::serve(&endpoint, Principal::local_user(), limits, input, output, CancellationToken::new()).await
    });
    let (answers, requests) = tokio::io::split(client);
    Connected(StandardInput { requests, answers: BufReader::new(answers).lines() })
}

/// The part of a message that is the same at every door: not the request that a notification names where many share a stream, nor what only peers want to know.
fn shared(mut message: Value) -> Value {
    if let Some(params) = message.get_mut("params").and_then(Value::as_object_mut)
        && let Some(meta) = params.get_mut("_meta").and_then(Value::as_object_mut)
    {
        meta.remove("mcpp/request");
        if meta.is_empty() {
            params.remove("_meta");
        }
    }
    for greeting in ["protocolVersion", "supportedVersions"] {
        if let Some(value) = message["result"].get(greeting) {
            return json!({ "id": message["id"], greeting: value, "serverInfo": message["result"]["serverInfo"] });
        }
    }
    message
}

async fn heard(door: &mut dyn Door, transcript: &[Value]) -> Vec<Vec<Value>> {
    let mut heard = Vec::new();
    for message in transcript {
        let told = tokio::time::timeout(PATIENCE, door.tell(message)).await;
        let told = told.unwrap_or_else(|_| panic!("no answer to {message}"));
        // A legacy session's records belong to no request: over HTTP they come on the session's own stream.
        let is_legacy = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_null();
        let of_session = |told: &Value| is_legacy && told["method"] == "notifications/message";
        heard.push(told.into_iter().filter(|told| !of_session(told)).map(shared).collect());
    }
    heard
}

/// Requests that mean the same in both eras: a method and its parameters.
fn requests() -> Vec<(&'static str, Value)> {
    let call = |name: &str, arguments: Value| json!({ "name": name, "arguments": arguments });
    let mut with_progress = call("probe_sleep", json!({ "ms": 10 }));
    with_progress["_meta"] = json!({ "progressToken": "p" });
    vec![
        ("tools/list", json!({})),
        ("tools/list", json!({ "cursor": "?" })),
        ("tools/call", call("probe_add", json!({ "a": 40, "b": 2 }))),
        ("tools/call", call("probe_add", json!({ "a": "x", "b": 2 }))),
        ("tools/call", call("probe_add", json!([1]))),
        ("tools/call", call("probe_panic", json!({}))),
        ("tools/call", call("nobody_has_it", json!({}))),
        ("tools/call", call("test_multiple_content_types", json!({}))),
        ("tools/call", call("test_error_handling", json!({}))),
        ("tools/call", call("test_tool_with_progress", json!({}))),
        ("tools/call", with_progress),
        ("tools/call", json!({})),
        ("no/such/method", json!({})),
        (
            "completion/complete",
            json!({ "ref": { "type": "ref/prompt", "name": "x" }, "argument": { "name": "a", "value": "" } }),
        ),
    ]
}

fn modern() -> Vec<Value> {
    let mut transcript = vec![("server/discover", json!({}))];
    transcript.extend(requests());
    let mut with_log = json!({ "name": "test_tool_with_logging", "arguments": {} });
    with_log["_meta"] = json!({ "io.modelcontextprotocol/logLevel": "debug" });
    transcript.push(("tools/call", with_log));
    let numbered = transcript.into_iter().enumerate().map(|(id, (method, params))| {
        let meta = params["_meta"].clone();
        let mut message = modern_message(method, params);
        for (key, value) in meta.as_object().into_iter().flatten() {
            message["params"]["_meta"][key] = value.clone();
        }
        message["id"] = json!(id);
        message
    });
    numbered.collect()
}

fn legacy() -> Vec<Value> {
    let mut transcript = vec![initialize_message(), json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })];
    let more = [("ping", json!({})), ("logging/setLevel", json!({ "level": "debug" }))];
    let log = ("tools/call", json!({ "name": "test_tool_with_logging", "arguments": {} }));
    let requests = more.into_iter().chain(requests()).chain([log]).enumerate();
    transcript.extend(requests.map(|(id, (method, params))| {
        json!({ "jsonrpc": "2.0", "id": format!("n{id}"), "method": method, "params": params })
    }));
    transcript
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_says_the_same_in_both_eras() {
    let host = MeshHost::start(&[("probe", &guest("probe")), ("conformance", &guest("conformance"))]).await;
    let friend = peer(1);
    host.grant(&friend, "*");
    for (era, transcript) in [("modern", modern()), ("legacy", legacy())] {
        let mut http = Http { host: &host.test, session: None };
        let expected = heard(&mut http, &transcript).await;
        let answers = expected.iter().flatten().count();
        assert!(answers > transcript.len(), "{era}: with notifications there are more: {expected:?}");
        let mut websocket = websocket(&host.test).await;
        let mut input = standard_input(&host.test);
        let mut mesh = Connected(host.open(&friend));
        let doors: [(&str, &mut dyn Door); 3] =
            [("WebSocket", &mut websocket), ("stdio", &mut input), ("mesh", &mut mesh)];
        for (name, door) in doors {
            for ((message, expected), told) in transcript.iter().zip(&expected).zip(heard(door, &transcript).await) {
                assert_eq!(&told, expected, "{era}, {name}: {message}");
            }
        }
    }
}
