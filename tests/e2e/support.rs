//! A host to test, and ways to talk to it.

use std::{path::PathBuf, time::Duration};

use mcpp::{config::Config, host::Host, reload::Report};
use reqwest::{
    RequestBuilder,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::precompiled;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running host with folders of its own.
pub struct TestHost {
    pub host: Host,
    pub report: Report,
    pub folder: TempDir,
    pub http: reqwest::Client,
}

/// A small host without tools, for a test to change.
pub fn config(folder: &TempDir) -> Config {
    let mut config = Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.drain_ms = 200;
    config.mesh.listen = vec!["127.0.0.1:0".into()];
    config.data.dir = Some(folder.path().join("data"));
    config.tools.folders = vec![folder.path().join("tools")];
    config.tools.builtin = false;
    // A slow machine is no reason for a test to fail.
    config.tools.reload_wait_ms = 60_000;
    config.engine.max_running = 8;
    config.engine.max_waiting = 16;
    // This program has a host within it; the one that compiles is the program itself.
    config.compile.program = Some(crate::command_line::mcpp());
    config
}

/// A folder with components in it, by name.
pub fn folder(components: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(folder.path().join("tools")).expect("a tools folder");
    for (name, wasm) in components {
        std::fs::write(folder.path().join(format!("tools/{name}.wasm")), wasm).expect("a component file");
    }
    folder
}

/// Gives the components of `folder` grants: tables `[components.NAME]`, each of which becomes a file.
pub fn grant(folder: &TempDir, grants: &str) {
    let data = folder.path().join("data/grants");
    std::fs::create_dir_all(&data).expect("a folder of grants");
    let table: toml::Table = toml::from_str(grants).expect("TOML");
    for (component, grant) in table["components"].as_table().expect("by component") {
        let mut file = toml::Table::from_iter([("version".to_owned(), toml::Value::Integer(1))]);
        file.extend(grant.as_table().expect("a table").clone());
        std::fs::write(data.join(format!("{component}.toml")), toml::to_string(&file).expect("TOML")).expect("written");
    }
}

impl TestHost {
    /// A host with these components.
    pub async fn start(components: &[(&str, &[u8])]) -> Self {
        Self::start_with(folder(components), |_| {}).await
    }

    /// A host on `folder`, its configuration changed.
    pub async fn start_with(folder: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let http = http_client();
        let mut config = config(&folder);
        change(&mut config);
        let data = config.data.dir.clone().filter(|_| config.tools.builtin);
        data.as_deref().inspect(|data| precompiled::give(data));
        let host = Host::start(config, std::sync::Arc::new(|| {})).await.expect("the host starts");
        let report = host.loaded().await;
        data.as_deref().inspect(|data| precompiled::keep(data));
        Self { host, report, folder, http }
    }

    /// Stops the host; its folders, for another one.
    pub async fn stop(self) -> TempDir {
        self.host.stop().await;
        self.folder
    }

    pub fn tools_folder(&self) -> PathBuf {
        self.folder.path().join("tools")
    }

    pub fn write(&self, name: &str, wasm: &[u8]) {
        // As careful installers do: the file appears whole.
        let hidden = self.tools_folder().join(format!(".{name}.new"));
        std::fs::write(&hidden, wasm).expect("written");
        std::fs::rename(&hidden, self.tools_folder().join(format!("{name}.wasm"))).expect("moved into place");
    }

    /// A POST to the endpoint with the usual headers.
    pub fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        post(&self.http, &self.host.url(), body)
    }

    /// A request of the modern era.
    pub fn modern(&self, method: &str, params: Value) -> RequestBuilder {
        modern_request(&self.http, &self.host.url(), method, params)
    }

    /// Calls a tool in the modern era; the JSON-RPC answer.
    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        let response =
            self.modern("tools/call", json!({ "name": tool, "arguments": arguments })).send().await.expect("an answer");
        answer(response).await
    }

    /// The text of a tool's answer, with `error: ` before it if it is one.
    pub async fn text(&self, tool: &str, arguments: Value) -> String {
        text_of(&self.call(tool, arguments).await)
    }

    /// The names of the tools.
    pub async fn tools(&self) -> Vec<String> {
        let response = self.modern("tools/list", json!({})).send().await.expect("an answer");
        let tools = answer(response).await["result"]["tools"].as_array().cloned().unwrap_or_default();
        tools.iter().filter_map(|tool| Some(tool["name"].as_str()?.to_owned())).collect()
    }

    /// Why components are not live, as one text.
    pub fn problems(&self) -> String {
        let catalog = self.host.registry().catalog(&mcpp::names::TenantId::local());
        catalog
            .problems()
            .map(|problem| format!("{}: {}", problem.component, problem.error))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// A metric's lines.
    pub async fn metric(&self, name: &str) -> Vec<String> {
        let url = format!("http://{}/metrics", self.host.address());
        let text = self.http.get(url).send().await.expect("an answer").text().await.expect("text");
        text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    }

    /// Opens a legacy session; its id.
    pub async fn initialize(&self) -> String {
        let response = self.post(initialize_message().to_string()).send().await.expect("an answer");
        let session = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        response.text().await.expect("the whole answer");
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let accepted = self.legacy(&session, &initialized).send().await.expect("an answer");
        assert_eq!(accepted.status(), 202);
        session
    }

    /// A POST in a legacy session.
    pub fn legacy(&self, session: &str, message: &Value) -> RequestBuilder {
        self.post(message.to_string()).header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25")
    }

    /// A GET for the stream of a legacy session.
    pub fn stream(&self, session: &str) -> RequestBuilder {
        self.http.get(self.host.url()).header("accept", "text/event-stream").header("mcp-session-id", session)
    }

    /// Waits until `condition` holds.
    pub async fn until(&self, what: &str, mut condition: impl AsyncFnMut(&Self) -> bool) {
        let waiting = async {
            while !condition(self).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited too long until {what}");
    }
}

/// A client that speaks HTTP.
pub fn http_client() -> reqwest::Client {
    let _first = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

fn post(http: &reqwest::Client, url: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    http.post(url)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(body)
}

/// A request of the modern era to any endpoint.
pub fn modern_request(http: &reqwest::Client, url: &str, method: &str, params: Value) -> RequestBuilder {
    let message = modern_message(method, params);
    let mut headers = HeaderMap::new();
    let mut insert = |name: &'static str, value: &str| {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).expect("legal"));
    };
    let version = &message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
    insert("mcp-protocol-version", version.as_str().unwrap_or_default());
    insert("mcp-method", method);
    let named = message.pointer("/params/name").or_else(|| message.pointer("/params/taskId"));
    if let Some(name) = named.and_then(Value::as_str) {
        insert("mcp-name", name);
    }
    post(http, url, message.to_string()).headers(headers)
}

pub fn initialize_message() -> Value {
    json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": { "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "0" } }
    })
}

/// A message of the modern era.
pub fn modern_message(method: &str, mut params: Value) -> Value {
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    match params.get_mut("_meta").and_then(Value::as_object_mut) {
        Some(given) => {
            for (key, value) in meta.as_object().cloned().unwrap_or_default() {
                given.entry(key).or_insert(value);
            }
        }
        None => params["_meta"] = meta,
    }
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

/// The last message of a response, whether it is JSON or a stream of events.
pub async fn answer(response: reqwest::Response) -> Value {
    messages(response).await.pop().expect("an answer")
}

/// All messages of a response.
pub async fn messages(response: reqwest::Response) -> Vec<Value> {
    parse_messages(&response.text().await.expect("the whole answer"))
        .unwrap_or_else(|text| panic!("neither JSON nor events: {text:?}"))
}

/// All messages of a body; the body itself if it has none.
pub fn parse_messages(text: &str) -> Result<Vec<Value>, &str> {
    let events =
        text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).filter(|data| !data.is_empty());
    let parsed: Vec<Value> = events.map(|data| serde_json::from_str(data).expect("JSON")).collect();
    match serde_json::from_str(text) {
        Ok(message) if parsed.is_empty() => Ok(vec![message]),
        Err(_) if parsed.is_empty() => Err(text),
        _ => Ok(parsed),
    }
}

/// A tool's answer, in one line.
pub fn text_of(answer: &Value) -> String {
    if let Some(error) = answer.get("error") {
        return format!("JSON-RPC error {}: {}", error["code"], error["message"].as_str().unwrap_or_default());
    }
    let result = &answer["result"];
    let text = result["content"][0]["text"].as_str().unwrap_or_default();
    if result["isError"] == json!(true) { format!("error: {text}") } else { text.to_owned() }
}

/// A component from its text.
pub fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A plain component with one function, `NAME: func(a: s32, b: s32) -> s32`, whose core body is given.
pub fn binary(name: &str, body: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (core module $m (func (export "f") (param i32 i32) (result i32) {body}))
            (core instance $i (instantiate $m))
            (func (export "{name}") (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "f"))))"#
    ))
}

/// A plain component that adds.
pub fn add() -> Vec<u8> {
    binary("add", "local.get 0 local.get 1 i32.add")
}

/// A plain component with one function without parameters that gives a number.
pub fn number(name: &str, body: &str) -> Vec<u8> {
    with_module(name, &format!(r#"(func (export "f") (result i32) {body})"#))
}

/// The same, with a whole core module.
pub fn with_module(name: &str, module: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (core module $m {module})
            (core instance $i (instantiate $m))
            (func (export "{name}") (result u32) (canon lift (core func $i "f"))))"#
    ))
}

/// The same, with another module beside it that has a memory of so many pages.
pub fn two_modules(pages: u32, module: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (core module $other (memory {pages}))
            (core instance (instantiate $other))
            (core module $m {module})
            (core instance $i (instantiate $m))
            (func (export "run") (result u32) (canon lift (core func $i "f"))))"#
    ))
}

/// A guest built from `tests/guests`.
pub fn guest(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("MCPP_TEST_GUESTS")).join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
