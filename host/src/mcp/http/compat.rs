//! Routes of the older MCP++ servers, for their clients: a list of tools and a call without JSON-RPC.
//!
//! Each becomes a request of the modern era to the endpoint, with the same token over the same connection: there is no second path to a tool.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get, post},
};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{
    App, Connection, answer, body,
    credentials::authenticate,
    exchange, media,
    refusals::{no_connection, no_memory},
};
use crate::{
    control::admission::Share,
    mcp::{
        headers::{METHOD_HEADER, NAME_HEADER, VERSION_HEADER},
        straight::MODERN,
    },
    memory::{MemoryUse, NoMemory, Reservation},
};

/// Paths under which older servers list their tools.
const LISTS: [&str; 4] = ["/tools", "/tools/list", "/mcp/tools", "/api/mcp/tools"];
/// Paths under which they are called.
const CALLS: [&str; 2] = ["/tools/call", "/mcp/execute"];
/// The most pages of a list, and the most bytes.
const MAX_PAGES: usize = 1_000;
const MAX_LIST_BYTES: usize = 8 << 20;

/// The routes.
pub(super) fn routes() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    let lists = LISTS.into_iter().map(|path| (path, get(list)));
    let calls = CALLS.into_iter().map(|path| (path, post(call)));
    lists.chain(calls).chain([("/", get(index))]).collect()
}

/// The body of a call.
#[derive(Deserialize)]
struct OldCall<'a> {
    #[serde(borrow, alias = "name")]
    tool: Cow<'a, str>,
    #[serde(borrow, alias = "params")]
    arguments: Option<&'a RawValue>,
}

/// A request of the modern era.
#[derive(Serialize)]
struct ModernRequest<'a> {
    jsonrpc: &'static str,
    id: u64,
    method: &'static str,
    params: ModernParams<'a>,
}

#[derive(Serialize, Default)]
struct ModernParams<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a str>,
    #[serde(rename = "_meta")]
    meta: ModernMeta,
}

#[derive(Serialize)]
struct ModernMeta {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    version: &'static str,
    #[serde(rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: serde_json::Map<String, serde_json::Value>,
}

impl Default for ModernMeta {
    fn default() -> Self {
        Self { version: MODERN, capabilities: serde_json::Map::new() }
    }
}

/// The endpoint's answer.
#[derive(Deserialize)]
struct EndpointAnswer<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<EndpointError<'a>>,
}

#[derive(Deserialize)]
struct EndpointError<'a> {
    code: i64,
    #[serde(borrow)]
    message: Cow<'a, str>,
}

#[derive(Deserialize)]
struct ToolsPage<'a> {
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
    #[serde(borrow, rename = "nextCursor")]
    next_cursor: Option<Cow<'a, str>>,
}

/// Who asks, over what.
struct Asker {
    share: Arc<Share>,
    connection: Arc<Connection>,
    /// The headers that say who asks, and for which host.
    shown: HeaderMap,
}

impl Asker {
    /// The one who sent a request with this head, or the answer that refuses it.
    async fn of(app: &App, head: &Parts) -> Result<Self, Box<Response>> {
        let headers = &head.headers;
        let (_, share) = match authenticate(app, headers) {
            Ok(known) => known,
            Err(refused) => {
                app.strangers.hold_back().await;
                return Err(refused);
            }
        };
        let connection = head.extensions.get::<Arc<Connection>>().cloned();
        let connection = connection.ok_or_else(|| Box::new(no_connection("the request came over no connection")))?;
        let mut shown = HeaderMap::new();
        for name in [header::AUTHORIZATION, header::HOST] {
            for value in headers.get_all(&name) {
                shown.append(&name, value.clone());
            }
        }
        Ok(Self { share, connection, shown })
    }

    /// Asks the endpoint.
    async fn ask(&self, app: &Arc<App>, method: &'static str, params: ModernParams<'_>) -> Result<Asked, NoMemory> {
        let name = params.name.map(str::to_owned);
        let message = ModernRequest { jsonrpc: "2.0", id: 1, method, params };
        let mut request = Request::new(Body::from(serde_json::to_vec(&message).unwrap_or_default()));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.clone_from(&self.shown);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static(media::BOTH));
        headers.insert(&VERSION_HEADER, HeaderValue::from_static(MODERN));
        headers.insert(&METHOD_HEADER, HeaderValue::from_static(method));
        if let Some(name) = name.and_then(|name| HeaderValue::try_from(name).ok()) {
            headers.insert(&NAME_HEADER, name);
        }
        request.extensions_mut().insert(Arc::clone(&self.connection));
        let (parts, body) = Box::pin(exchange::mcp(State(Arc::clone(app)), request)).await.into_parts();
        // Its pieces come together.
        let bytes = body.size_hint().exact().unwrap_or_default();
        let mut held = self.share.memory.reserve(MemoryUse::Messages, bytes)?;
        let text = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        held.grow(u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_sub(bytes))?;
        Ok(Asked { status: parts.status, headers: parts.headers, text, held })
    }
}

/// What the endpoint says: beside its text, if it refuses, and the text.
struct Asked {
    status: StatusCode,
    headers: HeaderMap,
    text: Bytes,
    /// The text's part of the tenant's memory.
    held: Reservation,
}

/// An answer that is its tenant's until it is written.
fn json_answer(held: Reservation, text: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], answer::held_by(held, text)).into_response()
}

/// Says who this is and where to go on.
async fn index(State(app): State<Arc<App>>, request: Request) -> Response {
    if let Err(refused) = Asker::of(&app, &request.into_parts().0).await {
        return *refused;
    }
    axum::Json(json!({
        "name": app.config.name,
        "version": env!("CARGO_PKG_VERSION"),
        "mcp": app.config.mount_path,
        "tools": LISTS[0],
        "call": CALLS[0],
    }))
    .into_response()
}

/// All tools, as `tools/list` has them.
async fn list(State(app): State<Arc<App>>, request: Request) -> Response {
    let asker = match Asker::of(&app, &request.into_parts().0).await {
        Ok(asker) => asker,
        Err(refused) => return *refused,
    };
    // A list is many pages in one, so one of a tenant is made at a time. The semaphore is never closed.
    let _one_at_a_time = asker.share.door.lists.acquire().await;
    match whole_list(&app, &asker).await {
        Ok(answer) => answer,
        Err(NoList::Refused(refused)) => *refused,
        Err(NoList::NoMemory(full)) => no_memory(None, &full),
        Err(NoList::TooLong) => {
            let reason = format!("the list has more than {MAX_LIST_BYTES} bytes; `tools/list` gives it in pages");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, &reason)
        }
    }
}

/// Why there is no list.
enum NoList {
    Refused(Box<Response>),
    NoMemory(NoMemory),
    TooLong,
}

impl From<NoMemory> for NoList {
    fn from(full: NoMemory) -> Self {
        Self::NoMemory(full)
    }
}

async fn whole_list(app: &Arc<App>, asker: &Asker) -> Result<Response, NoList> {
    let (mut text, mut cursor) = (br#"{"tools":["#.to_vec(), None::<String>);
    let mut held = asker.share.memory.reserve(MemoryUse::Messages, 0)?;
    for _ in 0..MAX_PAGES {
        let params = ModernParams { cursor: cursor.as_deref(), ..ModernParams::default() };
        let page = asker.ask(app, "tools/list", params).await?;
        let result = read(&page).map_err(NoList::Refused)?;
        let Ok(ToolsPage { tools, next_cursor }) = serde_json::from_str(result.get()) else { break };
        // No less than its tools have, and room for the text to grow.
        held.grow(u64::try_from(page.text.len()).unwrap_or(u64::MAX).saturating_mul(2))?;
        for tool in tools {
            if !text.ends_with(b"[") {
                text.push(b',');
            }
            text.extend_from_slice(tool.get().as_bytes());
        }
        if text.len() > MAX_LIST_BYTES {
            return Err(NoList::TooLong);
        }
        cursor = next_cursor.map(Cow::into_owned);
        if cursor.is_none() {
            break;
        }
    }
    text.extend_from_slice(b"]}");
    Ok(json_answer(held, Bytes::from(text)))
}

/// Calls a tool; the answer is the result of `tools/call`.
async fn call(State(app): State<Arc<App>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let asker = match Asker::of(&app, &head).await {
        Ok(asker) => asker,
        Err(refused) => return *refused,
    };
    let (share, lane) = (&asker.share, &asker.connection.lane);
    let read_body = body::read(&app.config, &share.memory, &share.door.readers, lane, body).await;
    let body = match read_body {
        Ok(body) => body,
        Err(body::NoBody::NoMemory(full)) => return no_memory(None, &full),
        Err(error) => return refusal(error.status(), &error.to_string()),
    };
    let OldCall { tool, arguments } = match serde_json::from_slice(&body.bytes) {
        Ok(call) => call,
        Err(error) => {
            share.door.refusals.hold_back().await;
            let reason = format!(r#"the body must be {{"tool": "NAME", "arguments": {{...}}}}: {error}"#);
            return refusal(StatusCode::BAD_REQUEST, &reason);
        }
    };
    if HeaderValue::try_from(&*tool).is_err() {
        share.door.refusals.hold_back().await;
        return refusal(StatusCode::BAD_REQUEST, "`tool` is the name of no tool");
    }
    let params = ModernParams { name: Some(&tool), arguments, ..ModernParams::default() };
    let asked = match asker.ask(&app, "tools/call", params).await {
        Ok(asked) => asked,
        // An effect may have happened: nothing here may tell a client to try again.
        Err(full) => {
            let reason = format!("the call has run, but its answer was lost: {full}");
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, &reason);
        }
    };
    match read(&asked) {
        Ok(result) => {
            let result = asked.text.slice_ref(result.get().as_bytes());
            json_answer(asked.held, result)
        }
        Err(refused) => *refused,
    }
}

/// The result in the endpoint's answer. A refusal keeps its status, and when to try again.
fn read(asked: &Asked) -> Result<&RawValue, Box<Response>> {
    let Asked { status, headers, text, .. } = asked;
    let (status, answer) = (*status, serde_json::from_slice::<EndpointAnswer<'_>>(text));
    let (status, reason) = match answer {
        Ok(EndpointAnswer { result: Some(result), error: None }) if status.is_success() => return Ok(result),
        Ok(EndpointAnswer { error: Some(error), .. }) => {
            let of_code = match error.code {
                -32602 => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (if status.is_success() { of_code } else { status }, error.message.into_owned())
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the endpoint's answer cannot be read".to_owned()),
    };
    let mut refused = refusal(status, &reason);
    for name in [header::RETRY_AFTER, header::WWW_AUTHENTICATE] {
        if let Some(value) = headers.get(&name) {
            refused.headers_mut().insert(name, value.clone());
        }
    }
    Err(Box::new(refused))
}

fn refusal(status: StatusCode, reason: &str) -> Response {
    (status, axum::Json(json!({ "error": reason }))).into_response()
}
