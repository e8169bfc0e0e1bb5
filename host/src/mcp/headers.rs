//! Headers of MCP over HTTP, and that of a trace.

use axum::http::{HeaderMap, HeaderName};

pub(super) static SESSION_HEADER: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) static VERSION_HEADER: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) static METHOD_HEADER: HeaderName = HeaderName::from_static("mcp-method");
pub(super) static NAME_HEADER: HeaderName = HeaderName::from_static("mcp-name");
pub(super) static TRACE_HEADER: HeaderName = HeaderName::from_static("traceparent");

/// The first value of a header, if it is text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
