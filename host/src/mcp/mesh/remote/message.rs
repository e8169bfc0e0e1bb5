//! The messages of a call to a peer: its parameters, and its answer in our words.

use std::time::Duration;

use rmcp::model::{CallToolResult, ErrorData};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use tokio::time::Instant;

use crate::{
    call::{CallError, Receipt, Request, ToolResult, interface::InterfaceDigest},
    engine::Engine,
    limits::millis,
    mcp::{
        apart::read_apart,
        convert::{self, BUSY, OTHER_INTERFACE},
        mesh::UNAUTHORIZED,
        straight::MODERN,
        tools::{CHAIN, DEADLINE, EFFECT, HOPS, INTERFACE, RECEIPT},
    },
    mesh::PeerId,
    names::ToolName,
};

/// How much longer the peer may take than the caller waits: this host ends a call at its deadline, and cancels it at the peer. If the peer's clock ended it first, the caller would
/// get the peer's error and not learn that its own time is over.
const DEADLINE_GRACE: Duration = Duration::from_millis(100);

/// What a request of the current binding has in `_meta`.
pub(super) fn meta() -> Map<String, Value> {
    Map::from_iter([
        ("io.modelcontextprotocol/protocolVersion".to_owned(), MODERN.into()),
        ("io.modelcontextprotocol/clientCapabilities".to_owned(), json!({})),
    ])
}

/// The parameters of a call as JSON, by the id of its request; and the memory that they take.
pub(super) fn params(
    request: &Request,
    tool: &ToolName,
    (arguments, interface): (&Value, Option<InterfaceDigest>),
    deadline: Instant,
) -> (impl Fn(u64) -> String + use<>, u64) {
    let (log_level, wants_progress) = request.observer.wants();
    let mut meta = meta();
    meta.insert(RECEIPT.to_owned(), true.into());
    meta.insert(HOPS.to_owned(), request.hops.saturating_add(1).into());
    if request.chain > 0 {
        meta.insert(CHAIN.to_owned(), request.chain.into());
    }
    if let Some(effect) = request.effect {
        meta.insert(EFFECT.to_owned(), effect.to_string().into());
    }
    if let Some(interface) = interface {
        meta.insert(INTERFACE.to_owned(), interface.to_string().into());
    }
    meta.insert("traceparent".to_owned(), request.trace.child().traceparent().into());
    if let Some(level) = log_level {
        meta.insert("io.modelcontextprotocol/logLevel".to_owned(), level.as_str().into());
    }
    // A tool's name needs no escapes.
    let call = format!(r#"{{"name":"{tool}","arguments":{arguments},"_meta":"#);
    // As text it is there twice, in the frame and before it.
    let bytes = u64::try_from(call.len()).unwrap_or(u64::MAX).saturating_mul(2);
    let params = move |id: u64| {
        let mut meta = meta.clone();
        // What is left when the frame is made: waiting for a place took some of it.
        let left = deadline.saturating_duration_since(Instant::now()).saturating_add(DEADLINE_GRACE);
        meta.insert(DEADLINE.to_owned(), millis(left).into());
        if wants_progress {
            meta.insert("progressToken".to_owned(), id.into());
        }
        format!("{call}{}}}", Value::Object(meta))
    };
    (params, bytes)
}

#[derive(Deserialize)]
struct AnswerParts<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<ErrorData>,
}

/// A result of the type that was asked for.
pub(super) fn read_result<T: serde::de::DeserializeOwned>(peer: &PeerId, answer: &[u8]) -> Result<T, CallError> {
    let invalid = |reason: String| CallError::InvalidResult { path: String::new(), reason };
    let parts: AnswerParts<'_> = serde_json::from_slice(answer).map_err(|error| invalid(error.to_string()))?;
    match (parts.result, parts.error) {
        (Some(result), None) => serde_json::from_str(result.get()).map_err(|error| invalid(error.to_string())),
        (_, Some(error)) => Err(refused(peer, error)),
        (None, None) => Err(invalid("the peer's answer has neither result nor error".to_owned())),
    }
}

/// The host stops before it has read an answer.
pub(super) fn not_read() -> CallError {
    CallError::Interrupted { reason: "its result was not read".to_owned() }
}

/// The result of a call and its receipt; an error of this host's own if there is none.
pub(super) async fn read_answer(
    engine: &Engine,
    peer: &PeerId,
    tool: &ToolName,
    answer: Vec<u8>,
) -> Result<(Result<ToolResult, CallError>, Receipt), CallError> {
    let (peer, tool) = (peer.clone(), tool.clone());
    read_apart(engine, answer.len(), move || result_of(&peer, &tool, &answer)).await.ok_or_else(not_read)
}

fn result_of(peer: &PeerId, tool: &ToolName, answer: &[u8]) -> (Result<ToolResult, CallError>, Receipt) {
    let read = read_result::<CallToolResult>(peer, answer).map_err(|error| match error {
        // So a host says that it has no such tool for the caller.
        CallError::InvalidArguments { reason, .. } if reason == CallError::UnknownTool(tool.clone()).to_string() => {
            CallError::UnknownTool(tool.clone())
        }
        other => other,
    });
    match read {
        Ok(result) => {
            let cost = result.meta.as_ref().and_then(|meta| meta.get(RECEIPT));
            let receipt = cost.map(Receipt::from_json).unwrap_or_default();
            (Ok(convert::from_result(result)), receipt)
        }
        Err(error) => (Err(error), Receipt::default()),
    }
}

/// A peer's refusal in our words.
fn refused(peer: &PeerId, error: ErrorData) -> CallError {
    let says = |key: &str| error.data.as_ref().and_then(|data| data.get(key));
    let reason: String = error.message.chars().take(400).collect();
    let retry_after = says("retryAfterMs").and_then(Value::as_u64).map(Duration::from_millis);
    match (i64::from(error.code.0), says("error").and_then(Value::as_str), retry_after) {
        (code, Some("busy" | "too_many"), Some(retry_after)) if code == i64::from(BUSY.0) => {
            CallError::PeerBusy { reason, retry_after }
        }
        (-32602, Some(OTHER_INTERFACE), _) => CallError::OtherInterface,
        (UNAUTHORIZED, _, _) => CallError::Unreachable { peer: peer.to_string(), reason },
        (-32602, _, _) => CallError::InvalidArguments { path: String::new(), reason },
        _ => CallError::Interrupted { reason: format!("the peer {peer} refuses ({}): {reason}", error.code.0) },
    }
}
