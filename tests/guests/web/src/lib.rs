//! A component that makes requests, as good tools and bad ones do.
#![allow(clippy::print_stdout, reason = "standard output is a log record")]

use std::{collections::BTreeMap, time::Duration};

use mcpp_tool::{
    Error,
    bindings::wasi::http::types::{Fields, Method, OutgoingRequest, Scheme},
    http::{self, Response},
    log, progress, store, tool,
};
use serde_json::{Value, json};

/// Makes one request and gives the answer.
#[tool]
fn web_fetch(
    method: String,
    url: String,
    #[serde(default)] headers: BTreeMap<String, String>,
    #[serde(default)] body: String,
    #[serde(default)] timeout_ms: u64,
) -> Result<Value, Error> {
    let mut request = http::request(&method, &url).body(body);
    for (name, value) in headers {
        request = request.header(&name, value);
    }
    if timeout_ms > 0 {
        request = request.timeout(Duration::from_millis(timeout_ms));
    }
    Ok(answer(request.send()?))
}

fn answer(response: Response) -> Value {
    let headers: BTreeMap<_, _> =
        response.headers.iter().map(|(name, value)| (name.clone(), String::from_utf8_lossy(value))).collect();
    json!({ "status": response.status, "headers": headers, "body": String::from_utf8_lossy(response.body()) })
}

/// Makes one request and follows where the answer leads.
#[tool]
fn web_follow(url: String) -> Result<Value, Error> {
    let first = http::get(&url).send()?;
    let to = first.header("location").ok_or_else(|| Error::failed("no redirect"))?;
    Ok(answer(http::get(to).send()?))
}

/// Makes many requests, one after the other; how many were answered.
#[tool]
fn web_many(url: String, count: u32) -> Result<u32, Error> {
    for _ in 0..count {
        http::get(&url).send()?;
    }
    Ok(count)
}

/// Posts a body of many bytes.
#[tool]
fn web_post(url: String, bytes: usize) -> Result<Value, Error> {
    Ok(answer(http::post(&url).json(&"x".repeat(bytes)).send()?))
}

/// Makes a request and tells everybody what came back.
#[tool]
fn web_gossip(url: String, authorization: String) -> Result<Value, Error> {
    let response = http::get(&url).header("authorization", authorization).send()?;
    let answer = answer(response);
    let text = answer.get("body").and_then(Value::as_str).unwrap_or_default();
    log::info(text);
    println!("{text}");
    eprintln!("{text}");
    progress::report(1.0, None, Some(text));
    if url.ends_with("/fail") { Err(Error::failed(text)) } else { Ok(answer) }
}

/// Makes a request and keeps what came back in memory, or says what it kept.
#[tool]
fn web_remember(#[serde(default)] url: String, #[serde(default)] authorization: String) -> Result<String, Error> {
    static KEPT: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
    let mut kept = KEPT.lock().map_err(|_| Error::failed("poisoned"))?;
    if !url.is_empty() {
        let response = http::get(&url).header("authorization", authorization).send()?;
        *kept = String::from_utf8_lossy(response.body()).into_owned();
        return Ok("kept".to_owned());
    }
    println!("{kept}");
    Ok(kept.clone())
}

/// Adds fields until the host has enough.
#[tool]
fn web_field_bomb(count: u32) -> Result<u32, Error> {
    let fields = Fields::new();
    for number in 0..count {
        fields.append(&format!("x-{number}"), b"").map_err(|error| Error::failed(error.to_string()))?;
    }
    Ok(count)
}

/// Tries to write what would be read as another request; what the host said to each try.
#[tool]
fn web_smuggle() -> Vec<String> {
    let mut said = Vec::new();
    let fields = Fields::new();
    for (name, value) in [
        ("x-a", "b\r\nhost: evil"),
        ("x-a", "b\nc: d"),
        ("x-a\r\nhost", "evil"),
        ("x a", "b"),
        ("host", "evil"),
        ("connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("content-length", "5, 6"),
        ("content-length", "+5"),
    ] {
        said.push(format!(
            "{:?} {:?}: {:?}",
            name,
            value,
            fields.append(name, value.as_bytes()).map_err(|e| e.to_string())
        ));
    }
    let twice = fields.append("content-length", b"5").and_then(|()| fields.append("content-length", b"6"));
    said.push(format!("content-length twice: {:?}", twice.map_err(|e| e.to_string())));
    let request = OutgoingRequest::new(Fields::new());
    for path in ["/a b", "/a\r\nhost: evil", "http://evil/", "evil"] {
        said.push(format!("path {path:?}: {:?}", request.set_path_with_query(Some(path))));
    }
    for authority in ["a b", "a\r\nhost: evil", "a/b"] {
        said.push(format!("host {authority:?}: {:?}", request.set_authority(Some(authority))));
    }
    said.push(format!("method: {:?}", request.set_method(&Method::Other("GET / HTTP/1.1\r\n".into()))));
    said.push(format!("scheme: {:?}", request.set_scheme(Some(&Scheme::Other("http://evil".into())))));
    said
}

/// Tries to keep long texts on the host's side; whether it took them.
#[tool]
fn web_hoard() -> Vec<bool> {
    let request = OutgoingRequest::new(Fields::new());
    let long = "a".repeat(1 << 20);
    vec![
        request.set_authority(Some(&long)).is_ok(),
        request.set_method(&Method::Other(long.clone())).is_ok(),
        request.set_path_with_query(Some(&format!("/{long}"))).is_ok(),
        request.set_authority(Some("a.example")).is_ok(),
        request.set_method(&Method::Other("PURGE".into())).is_ok(),
    ]
}

/// Makes a request while a transaction is open.
#[tool]
fn web_in_transaction(url: String) -> Result<String, Error> {
    store::transact(|_| match http::get(&url).send() {
        Ok(response) => Ok::<_, Error>(response.status.to_string()),
        Err(error) => Ok(error.to_string()),
    })
}

mcpp_tool::export!(
    web_fetch,
    web_follow,
    web_many,
    web_post,
    web_gossip,
    web_remember,
    web_field_bomb,
    web_smuggle,
    web_hoard,
    web_in_transaction
);
