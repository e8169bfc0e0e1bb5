//! Connections: slow, idle, many, pipelined, left unread.

use std::{io, net::SocketAddr, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::{Attack, Target};

pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "1,000 connections of one byte a second", clients: 1_000, run: |to, _| slow(to) },
    Attack { name: "1,100 connections that stay idle", clients: 1_100, run: |to, _| idle(to) },
    Attack { name: "16 clients that connect and leave", clients: 16, run: |to, _| leave(to) },
    Attack { name: "16 clients with 500 headers", clients: 16, run: |to, number| headers(to, number) },
    Attack { name: "4 connections that pipeline GET /live", clients: 4, run: |to, _| pipeline(to, true) },
    Attack { name: "1,100 connections that pipeline and never read", clients: 1_100, run: |to, _| pipeline(to, false) },
    Attack { name: "1,100 streams of one token", clients: 1_100, run: |to, _| streams(to) },
    Attack { name: "300 legacy streams of one token", clients: 300, run: |to, _| legacy_streams(to) },
];

/// The most that one system call of an attacker sends, in bytes; the kernel doubles it. A system call keeps its processor whatever the caller's priority, and an attacker
/// on another machine would keep none of the host's.
const SENT_AT_ONCE: u32 = 32 << 10;

pub(crate) async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_send_buffer_size(SENT_AT_ONCE)?;
    socket.connect(address).await
}

/// Connects; a little later again where it is not let in.
pub(super) async fn connect(target: &Target) -> TcpStream {
    loop {
        if let Ok(stream) = connect_to(target.address).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a request on a connection of its own, and reads whatever comes until the host closes it.
pub(super) async fn send_and_read(target: &Target, message: &[u8]) {
    let mut stream = connect(target).await;
    if stream.write_all(message).await.is_ok() {
        let mut answer = vec![0; 64 << 10];
        while stream.read(&mut answer).await.is_ok_and(|bytes| bytes > 0) {}
    }
}

fn slow(target: Target) -> BoxFuture<'static, ()> {
    async move {
        loop {
            let mut stream = connect(&target).await;
            for byte in "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n{\"jsonrpc\"".bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    .boxed()
}

fn idle(target: Target) -> BoxFuture<'static, ()> {
    async move {
        loop {
            let mut stream = connect(&target).await;
            let _closed = stream.read(&mut [0]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    .boxed()
}

fn leave(target: Target) -> BoxFuture<'static, ()> {
    async move {
        loop {
            drop(TcpStream::connect(target.address).await);
        }
    }
    .boxed()
}

fn headers(target: Target, number: usize) -> BoxFuture<'static, ()> {
    async move {
        let client = reqwest::Client::new();
        loop {
            let request = (0..500).fold(client.post(&target.url), |request, header| {
                request.header(format!("x-{number}-{header}"), "a".repeat(100))
            });
            let _refused = request.body("{}").send().await;
        }
    }
    .boxed()
}

fn pipeline(target: Target, reads: bool) -> BoxFuture<'static, ()> {
    async move {
        let requests = "GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(100);
        loop {
            let (mut from, mut to) = connect(&target).await.into_split();
            let write = async { while to.write_all(requests.as_bytes()).await.is_ok() {} };
            let read = async {
                let mut answers = vec![0; 64 << 10];
                while reads && from.read(&mut answers).await.is_ok_and(|bytes| bytes > 0) {}
                if !reads {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = write => {}
                () = read => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    .boxed()
}

/// A request's bytes, with the greedy tenant's token.
pub(super) fn request(target: &Target, headers: &str, message: &Value) -> Vec<u8> {
    let body = message.to_string();
    format!(
        "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        target.greedy.token,
        body.len()
    )
    .into_bytes()
}

/// A message of the modern era.
pub(super) fn modern(method: &str, mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

fn streams(target: Target) -> BoxFuture<'static, ()> {
    async move {
        let params = json!({ "notifications": { "toolsListChanged": true } });
        let headers = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n";
        let message = request(&target, headers, &modern("subscriptions/listen", params));
        loop {
            let mut stream = connect(&target).await;
            if stream.write_all(&message).await.is_ok() {
                let mut events = vec![0; 4 << 10];
                while stream.read(&mut events).await.is_ok_and(|bytes| bytes > 0) {}
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    .boxed()
}

fn legacy_streams(target: Target) -> BoxFuture<'static, ()> {
    async move {
        let http = reqwest::Client::new();
        loop {
            let message = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
                "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "bench", "version": "0" } } });
            let opened = http.post(&target.url).bearer_auth(&target.greedy.token).json(&message);
            let opened = opened.header("accept", "application/json, text/event-stream").send().await;
            if let Some(session) = opened.ok().and_then(|opened| opened.headers().get("mcp-session-id").cloned()) {
                let stream = http.get(&target.url).bearer_auth(&target.greedy.token).header("mcp-session-id", session);
                let _until_it_ends = match stream.header("accept", "text/event-stream").send().await {
                    Ok(stream) => stream.bytes().await.map(drop),
                    Err(error) => Err(error),
                };
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    .boxed()
}
