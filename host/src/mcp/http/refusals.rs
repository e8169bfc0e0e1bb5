//! The answers by which the door refuses a request.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::Value;

use crate::{control::admission::Share, mcp::envelope, memory::NoMemory};

/// JSON-RPC code of transport errors that have none of their own.
pub(super) const TRANSPORT_ERROR: i64 = -32000;
/// JSON-RPC code by which clients know that they need a new session.
pub(super) const SESSION_NOT_FOUND: i64 = -32001;
/// JSON-RPC code of what is the host's own fault or lack.
pub(super) const INTERNAL_ERROR: i64 = -32603;
/// JSON-RPC code by which MCP refuses headers that contradict the message, or each other.
const HEADER_MISMATCH: i64 = -32020;

/// An answer that is no success: a JSON-RPC error that says what is wrong.
pub(super) fn failure(status: StatusCode, id: Option<&Value>, code: i64, message: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], envelope::error(id, code, message).to_string())
        .into_response()
}

/// The refusal of a connection, which ends it.
pub(super) fn no_connection(reason: &str) -> Response {
    let mut response = failure(StatusCode::SERVICE_UNAVAILABLE, None, TRANSPORT_ERROR, reason);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

pub(super) fn no_session(id: Option<&Value>) -> Response {
    let reason = "there is no such session; open a new one with `initialize`";
    failure(StatusCode::NOT_FOUND, id, SESSION_NOT_FOUND, reason)
}

pub(super) fn two_versions(id: Option<&Value>) -> Response {
    failure(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, "the request has different MCP-Protocol-Version headers")
}

pub(super) fn encoded_body() -> Response {
    let reason = "the body must not be compressed: it has a Content-Encoding";
    let mut response = failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, TRANSPORT_ERROR, reason);
    response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    response
}

/// A refusal for lack of `what`. Nothing has run.
pub(super) fn busy(id: Option<&Value>, what: &'static str, reason: &str) -> Response {
    metrics::counter!("mcpp_refused_total", "reason" => what).increment(1);
    let mut response = failure(StatusCode::SERVICE_UNAVAILABLE, id, TRANSPORT_ERROR, reason);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    response
}

pub(super) fn no_memory(id: Option<&Value>, full: &NoMemory) -> Response {
    busy(id, "memory", &full.to_string())
}

pub(super) fn no_stream(id: Option<&Value>, share: &Share) -> Response {
    busy(id, "streams", &format!("streams of this tenant are used up: it may have {}", share.limits.streams))
}
