//! The engine's side of HTTP.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) body: Value,
}

pub(super) async fn head(stream: &mut UnixStream, status: u16) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nApi-Version: 1.53\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.ok()
}

pub(super) async fn respond(stream: &mut UnixStream, status: u16, body: &str) -> Option<()> {
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\n{length}Connection: close\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await.ok()
}

pub(super) async fn refuse(stream: &mut UnixStream, status: u16, message: &str) -> Option<()> {
    respond(stream, status, &json!({ "message": message }).to_string()).await
}

pub(super) async fn read_request(stream: &mut UnixStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        let mut more = [0; 4096];
        match tokio::time::timeout(Duration::from_secs(30), stream.read(&mut more)).await.ok()?.ok()? {
            0 => return None,
            read => bytes.extend_from_slice(&more[..read]),
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let length =
        lines.filter_map(|line| line.split_once(": ")).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = bytes[end + 4..].to_vec();
    while body.len() < length {
        let mut more = [0; 4096];
        match stream.read(&mut more).await.ok()? {
            0 => return None,
            read => body.extend_from_slice(&more[..read]),
        }
    }
    let url = reqwest::Url::parse(&format!("http://engine{target}")).ok()?;
    let query = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).ok()? };
    Some(Request { method, path: url.path().to_owned(), query, body })
}
