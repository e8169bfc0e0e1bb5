//! `POST /hooks/TOKEN`: the one call without a token of the tenant, for those who have a component's token for one of its tools.
//!
//! A token that this host did not make costs the tenant nothing: the host refuses it as it refuses strangers. With one of its own the request is the tenant's, like any other. Who
//! asks learns only whether the tool took it: a token that was never made and one that is used up get the same answer.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::{
    App, Connection, body,
    refusals::{TRANSPORT_ERROR, failure, no_connection, no_memory},
};
use crate::{
    call::{self, Call, CallError, ToolResult, authorize},
    config::ServerConfig,
    control::admission::Share,
    mcp::headers::text,
    registry::hooks::Hook,
};

/// Largest body.
const MAX_BODY_BYTES: usize = 256 << 10;

pub(super) async fn post(State(app): State<Arc<App>>, Path(token): Path<String>, request: Request) -> Response {
    let registry = app.endpoint.registry();
    let found = registry.hook(&token).and_then(|hook| Some((registry.share(&hook.principal.tenant)?, hook)));
    let Some((share, hook)) = found else {
        app.strangers.hold_back().await;
        return no_hook();
    };
    let (head, body) = request.into_parts();
    let Some(connection) = head.extensions.get::<Arc<Connection>>().cloned() else {
        return no_connection("the request came over no connection");
    };
    if let Err(full) = connection.assign(&share, app.authenticator.is_on()) {
        metrics::counter!("mcpp_refused_total", "reason" => "connections").increment(1);
        return no_connection(&full.to_string());
    }
    let response = deliver(&app, (&share, &connection), hook, (token, &head.headers, body)).await;
    if !response.status().is_success() {
        share.door.refusals.hold_back().await;
    }
    response
}

async fn deliver(
    app: &App,
    (share, connection): (&Arc<Share>, &Arc<Connection>),
    Hook { principal, tool }: Hook,
    (token, headers, body): (String, &HeaderMap, Body),
) -> Response {
    let config = ServerConfig { max_body_bytes: MAX_BODY_BYTES.min(app.config.max_body_bytes), ..app.config.clone() };
    let read = body::read(&config, &share.memory, &share.door.readers, &connection.lane, body).await;
    let body = match read {
        Ok(body) => body,
        Err(body::NoBody::NoMemory(full)) => return no_memory(None, &full),
        Err(error) => return failure(error.status(), None, TRANSPORT_ERROR, &error.to_string()),
    };
    let Some(payload) = payload(headers, &body.bytes) else {
        return failure(StatusCode::BAD_REQUEST, None, TRANSPORT_ERROR, "the body is neither JSON nor a text");
    };
    let arguments = json!({ "token": token, "payload": payload });
    let Ok(call) = authorize(Call::new(call::Request::of(principal), tool, arguments)) else {
        return no_hook();
    };
    let registry = app.endpoint.registry().clone();
    // On a task of its own: a sender that goes away does not break the guest off.
    let called = tokio::spawn(async move { registry.call(call).await }).await;
    drop(body);
    match called {
        Ok(Ok(result)) if has_taken_it(&result) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error)) if error.retry_after().is_some() => later(&error),
        Ok(_) => no_hook(),
        Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, None, TRANSPORT_ERROR, "the host failed"),
    }
}

/// The body as the tool sees it: JSON if it is said to be, else a text; none if it is neither.
fn payload(headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    let kind = text(headers, &header::CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match body {
        [] => Some(Value::Null),
        body if essence == "application/json" || essence.ends_with("+json") => serde_json::from_slice(body).ok(),
        body => std::str::from_utf8(body).ok().map(Value::from),
    }
}

/// Whether a tool did what it was asked. Our own say in a flag that they did not.
fn has_taken_it(result: &ToolResult) -> bool {
    let flag = result.structured.as_ref().and_then(|structured| structured.get("success"));
    !result.is_error && flag != Some(&Value::Bool(false))
}

fn no_hook() -> Response {
    metrics::counter!("mcpp_refused_total", "reason" => "hook").increment(1);
    failure(StatusCode::NOT_FOUND, None, TRANSPORT_ERROR, "there is no such hook")
}

fn later(error: &CallError) -> Response {
    let seconds = error.retry_after().unwrap_or_default().as_secs().max(1);
    let mut response = failure(StatusCode::SERVICE_UNAVAILABLE, None, TRANSPORT_ERROR, "busy; try again later");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}
