//! A subscription of the modern era, on its way to the engine.

use axum::{
    body::Bytes,
    http::{HeaderValue, request::Parts},
};
use serde_json::Value;

use crate::mcp::{
    envelope::Envelope,
    headers::METHOD_HEADER,
    listening::{self, LISTEN, ListenPass},
};

/// The message of a subscription, as the engine takes it.
pub(super) fn message(id: &Value, envelope: &Envelope<'_>, parts: &mut Parts) -> Bytes {
    let (method, message) = listening::served_as(id, envelope.params);
    // A header that contradicts the message is refused as any other.
    if parts.headers.get(&METHOD_HEADER).is_some_and(|header| header == LISTEN) {
        parts.headers.insert(&METHOD_HEADER, HeaderValue::from_static(method));
    }
    parts.extensions.insert(ListenPass);
    message.into()
}
