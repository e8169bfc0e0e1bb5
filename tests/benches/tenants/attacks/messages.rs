//! Messages: large bodies, answers and events, read slowly or never.

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Attack, Target,
    connections::{connect, modern, request, send_and_read},
};
use crate::client::{Client, Era};

/// The largest body that is taken by default.
const LARGEST: usize = 4 << 20;

pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "16 clients with bodies of 32 MB", clients: 16, run: |to, _| oversized(to) },
    Attack { name: "400 bodies of 4 MB that stop one byte short", clients: 400, run: |to, _| one_byte_short(to) },
    Attack { name: "400 answers of 4 MB that nobody reads", clients: 400, run: |to, _| unread(to, false) },
    Attack { name: "400 pictures of 3 MB that nobody reads", clients: 400, run: |to, _| unread(to, true) },
    Attack { name: "16 clients with answers of 4 MB", clients: 16, run: |to, _| read(to) },
    Attack { name: "64 calls with progress of 4 MB that nobody reads", clients: 64, run: |to, _| progress(to) },
    Attack { name: "8 clients that initialize with 4 MB and leave", clients: 8, run: |to, _| initialize(to) },
    Attack { name: "8 clients with JSON of 300,000 keys", clients: 8, run: |to, _| keys(to) },
    Attack { name: "16 clients listing tools", clients: 16, run: |to, _| lists(to) },
];

fn oversized(target: Target) -> BoxFuture<'static, ()> {
    async move {
        let head =
            format!("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\n", target.greedy.token);
        let head = format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", 32 << 20);
        let message = [head.into_bytes(), vec![b'['; 32 << 20]].concat();
        loop {
            send_and_read(&target, &message).await;
        }
    }
    .boxed()
}

const CLOSE: &str = "Connection: close\r\n";
const CALL: &str = "Connection: close\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n";

fn call(target: &Target, tool: &str, arguments: Value) -> Vec<u8> {
    let message = modern("tools/call", json!({ "name": tool, "arguments": arguments }));
    request(target, &format!("{CALL}Mcp-Name: {tool}\r\n"), &message)
}

fn one_byte_short(target: Target) -> BoxFuture<'static, ()> {
    async move {
        let padding = "x".repeat(LARGEST - 1_000);
        let message = call(&target, "hostile_checked", json!({ "padding": padding }));
        loop {
            let mut stream = connect(&target).await;
            if stream.write_all(message.split_last().map_or(&[], |(_, rest)| rest)).await.is_ok() {
                let _until_it_is_cut_off = stream.read(&mut [0]).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    .boxed()
}

/// Sends a request and never reads the answer.
async fn send_and_wait(target: &Target, message: &[u8]) {
    let mut stream = connect(target).await;
    if stream.write_all(message).await.is_ok() {
        // Reading would make room; whether the other side has gone is seen by writing.
        for _ in 0..120 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if stream.write_all(b"\r\n").await.is_err() {
                return;
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn unread(target: Target, picture: bool) -> BoxFuture<'static, ()> {
    async move {
        let bytes = if picture { 3_000_000 } else { LARGEST - 1_000 };
        let message = call(&target, "hostile_answer", json!({ "bytes": bytes, "picture": picture }));
        loop {
            send_and_wait(&target, &message).await;
        }
    }
    .boxed()
}

fn read(target: Target) -> BoxFuture<'static, ()> {
    async move {
        let client = Client::connect_as(target.url, Era::Modern, &target.greedy.token).await;
        loop {
            client.try_call("hostile_answer", &json!({ "bytes": LARGEST - 1_000 })).await;
        }
    }
    .boxed()
}

fn progress(target: Target) -> BoxFuture<'static, ()> {
    async move {
        let arguments = json!({ "bytes": 4_000_000, "times": 64 });
        let mut message = modern("tools/call", json!({ "name": "hostile_progress", "arguments": arguments }));
        message["params"]["_meta"]["progressToken"] = 1.into();
        let message = request(&target, &format!("{CALL}Mcp-Name: hostile_progress\r\n"), &message);
        loop {
            send_and_wait(&target, &message).await;
        }
    }
    .boxed()
}

fn initialize(target: Target) -> BoxFuture<'static, ()> {
    async move {
        let message = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": { "experimental": { "x": { "y": "z".repeat(LARGEST - 1_000) } } },
            "clientInfo": { "name": "bench", "version": "0" } } });
        let message = request(&target, CLOSE, &message);
        loop {
            send_and_read(&target, &message).await;
        }
    }
    .boxed()
}

fn keys(target: Target) -> BoxFuture<'static, ()> {
    async move {
        let keys: serde_json::Map<_, _> = (0..300_000).map(|n| (format!("k{n}"), n.into())).collect();
        let message = call(&target, "hostile_checked", Value::Object(keys));
        loop {
            send_and_read(&target, &message).await;
        }
    }
    .boxed()
}

fn lists(target: Target) -> BoxFuture<'static, ()> {
    async move {
        let client = Client::connect_as(target.url, Era::Modern, &target.greedy.token).await;
        loop {
            client.list().await;
        }
    }
    .boxed()
}
