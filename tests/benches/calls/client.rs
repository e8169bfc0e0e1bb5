//! An ordinary HTTP client: keep-alive, no tuning.

use serde_json::{Value, json};

/// A protocol era.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Era {
    Modern,
    Legacy,
}

pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    session: Option<String>,
    token: Option<String>,
}

impl Client {
    pub(crate) async fn connect(url: String, era: Era) -> Self {
        let mut client = Self { http: reqwest::Client::new(), url, session: None, token: None };
        if era == Era::Legacy {
            client.session = Some(initialize(&client.http, &client.url).await);
        }
        client
    }

    /// As the holder of a token.
    #[allow(dead_code, reason = "one bench has tenants")]
    pub(crate) async fn connect_as(url: String, era: Era, token: &str) -> Self {
        let client = Self::connect(url, era).await;
        Self { token: Some(token.to_owned()), ..client }
    }

    pub(crate) async fn connect_and_call(url: String, tool: &'static str) -> Value {
        Self::connect(url, Era::Modern).await.call(tool, &json!({})).await
    }

    /// Calls a tool; the JSON-RPC answer.
    pub(crate) async fn call(&self, tool: &str, arguments: &Value) -> Value {
        self.ask("tools/call", Some(tool), json!({ "name": tool, "arguments": arguments }), json!({})).await
    }

    /// Calls a tool. Gives the cost, as the host tells.
    #[allow(dead_code, reason = "one bench asks for it")]
    pub(crate) async fn cost(&self, tool: &str, arguments: &Value) -> Value {
        let params = json!({ "name": tool, "arguments": arguments });
        let answer = self.ask("tools/call", Some(tool), params, json!({ "mcpp/cost": true })).await;
        answer["result"]["_meta"]["mcpp/cost"].clone()
    }

    /// The tools; the JSON-RPC answer.
    #[allow(dead_code, reason = "one bench asks for it")]
    pub(crate) async fn list(&self) -> Value {
        self.ask("tools/list", None, json!({}), json!({})).await
    }

    /// Calls a tool; none where there is no answer, or none that is JSON.
    #[allow(dead_code, reason = "one bench attacks")]
    pub(crate) async fn try_call(&self, tool: &str, arguments: &Value) -> Option<Value> {
        let params = json!({ "name": tool, "arguments": arguments });
        let request = self.request("tools/call", Some(tool), params, json!({}));
        parse(&request.send().await.ok()?.text().await.ok()?)
    }

    async fn ask(&self, method: &str, tool: Option<&str>, params: Value, meta: Value) -> Value {
        let request = self.request(method, tool, params, meta);
        let text = request.send().await.expect("an answer").text().await.expect("text");
        parse(&text).unwrap_or_else(|| panic!("no answer: {text:?}"))
    }

    fn request(&self, method: &str, tool: Option<&str>, mut params: Value, mut meta: Value) -> reqwest::RequestBuilder {
        let mut request = post(&self.http, &self.url);
        match &self.session {
            Some(session) => {
                request = request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25")
            }
            None => {
                meta["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
                meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
                params["_meta"] = meta;
                request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
                if let Some(tool) = tool {
                    request = request.header("mcp-name", tool);
                }
            }
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        request.body(message.to_string())
    }

    /// Opens sessions and never comes back.
    pub(crate) async fn abandon_sessions(url: String, count: usize) {
        let http = reqwest::Client::new();
        for _ in 0..count {
            initialize(&http, &url).await;
        }
    }
}

/// The message of an answer: its body, or the last event of its stream.
fn parse(text: &str) -> Option<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).rfind(|data| !data.is_empty());
    serde_json::from_str(data.unwrap_or(text)).ok()
}

fn post(http: &reqwest::Client, url: &str) -> reqwest::RequestBuilder {
    http.post(url).header("content-type", "application/json").header("accept", "application/json, text/event-stream")
}

async fn initialize(http: &reqwest::Client, url: &str) -> String {
    let message = json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": { "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "bench", "version": "0" } }
    });
    let response = post(http, url).body(message.to_string()).send().await.expect("an answer");
    let session = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
    response.text().await.expect("the whole answer");
    let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let request = post(http, url).header("mcp-session-id", &session).header("mcp-protocol-version", "2025-11-25");
    request.body(initialized.to_string()).send().await.expect("an answer");
    session
}
