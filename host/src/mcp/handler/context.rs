//! What a request says beside its parameters: its version, its session, its trace, and the way that it has come.

use axum::http::request::Parts;
use rmcp::{
    RoleServer,
    model::{ErrorCode, ErrorData, Extensions, PaginatedRequestParams, ProtocolVersion},
    service::RequestContext,
};
use serde_json::Value;

use crate::{
    call::TraceContext,
    mcp::{
        headers::{SESSION_HEADER, TRACE_HEADER, text},
        tools::{CHAIN, DEADLINE, EFFECT, HOPS, WayHere},
    },
};

/// A value that the door gave along with a request: with its message, or with its HTTP request.
pub(in crate::mcp) fn extension<T: Send + Sync + 'static>(extensions: &Extensions) -> Option<&T> {
    extensions.get::<T>().or_else(|| extensions.get::<Parts>()?.extensions.get::<T>())
}

pub(super) fn is_modern(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

pub(super) fn unknown_method(method: &str) -> ErrorData {
    ErrorData::new(ErrorCode::METHOD_NOT_FOUND, format!("unknown method `{method}`"), None)
}

/// The session that the HTTP request of a message names.
pub(super) fn session_id(extensions: &Extensions) -> Option<String> {
    let parts = extensions.get::<Parts>()?;
    text(&parts.headers, &SESSION_HEADER).map(str::to_owned)
}

/// The trace that the client is in: of the message, else of the HTTP request.
pub(super) fn trace(context: &RequestContext<RoleServer>) -> TraceContext {
    let from_meta = context.meta.get("traceparent").and_then(Value::as_str);
    let from_header = || text(&context.extensions.get::<Parts>()?.headers, &TRACE_HEADER);
    TraceContext::from_traceparent(from_meta.or_else(from_header))
}

/// The way that the request has come, where another host sends it.
pub(super) fn way_here(context: &RequestContext<RoleServer>) -> WayHere {
    WayHere::read([DEADLINE, HOPS, CHAIN, EFFECT].map(|name| context.meta.get(name)))
}

pub(super) fn cursor(request: Option<&PaginatedRequestParams>) -> Option<&str> {
    request.and_then(|request| request.cursor.as_deref())
}
