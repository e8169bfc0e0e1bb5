//! Calls of task-queue services of before MCP++'s bindings: `initialize` without a version, then the request under the same id, on a stream of its own; or one line of JSON each way.
//!
//! Such a service has one tool, and its result object is the `content` itself. A peer is taken for one after it asks to be greeted, or does not know the current protocol.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    time::Instant,
};

use super::{DIAL_TIME, message::not_read};
use crate::{
    call::{CallError, ToolResult},
    engine::Engine,
    mcp::{
        apart::read_apart,
        binding::PROFILE,
        mesh::{LEGACY_PROTOCOL, PROTOCOL, UNAUTHORIZED},
    },
    mesh::{
        PeerId, PeerStream,
        dial::Dial,
        frame::{self, Announced},
    },
    names::ToolName,
};

/// The one tool of such a service.
const TOOL: &str = "task_queue.rpc";
/// The JSON-RPC code and the word with which it asks to be greeted first.
const NOT_GREETED: (i64, &str) = (-32000, "init_required");
/// The largest answer: a frame of such a service has at most 1 MiB, and so has a line.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// So long a peer is taken to speak as it did last: it may have been renewed since.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How such a service is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OldDialect {
    /// Frames, after a greeting.
    Frames,
    /// Lines.
    Lines,
}

/// How a peer was last spoken to, if it is such a service.
#[derive(Debug, Default)]
pub(super) struct SpokenDialect(Mutex<Option<(OldDialect, Instant)>>);

impl SpokenDialect {
    /// How to speak to the peer for a call of this tool; none for the current binding.
    pub(super) fn of(&self, tool: &ToolName) -> Option<OldDialect> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(_, since)| tool.as_str() == TOOL && since.elapsed() < REMEMBERED).map(|(dialect, _)| dialect)
    }

    /// Notes how the peer speaks.
    pub(super) fn note(&self, dialect: OldDialect) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((dialect, Instant::now()));
    }
}

#[derive(Deserialize)]
struct ServiceReply {
    result: Option<Value>,
    error: Option<ServiceError>,
}

#[derive(Deserialize)]
struct ServiceError {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

/// Whether an answer to a call of the tool only asks for a greeting: then the call has not run.
pub(super) fn wants_greeting(tool: &ToolName, answer: &[u8]) -> bool {
    tool.as_str() == TOOL
        && answer.len() <= 4_096
        && serde_json::from_slice::<ServiceReply>(answer).is_ok_and(|said| {
            said.error.is_some_and(|error| error.code == NOT_GREETED.0 && error.message.contains(NOT_GREETED.1))
        })
}

fn interrupted(peer: &PeerId, reason: impl std::fmt::Display) -> CallError {
    CallError::Interrupted { reason: format!("the task-queue service {peer} did not answer: {reason}") }
}

/// Makes one call. The caller bounds its time.
pub(super) async fn call(
    (dial, engine): (&dyn Dial, &Engine),
    peer: &PeerId,
    dialect: OldDialect,
    arguments: &Value,
) -> Result<ToolResult, CallError> {
    let protocol = if dialect == OldDialect::Frames { PROTOCOL } else { LEGACY_PROTOCOL };
    let unreachable = |reason: String| CallError::Unreachable { peer: peer.to_string(), reason };
    let stream = dial.dial(peer, protocol, DIAL_TIME).await.map_err(|error| unreachable(error.to_string()))?;
    let answer = match dialect {
        OldDialect::Frames => in_frames((peer, engine), stream, arguments).await?,
        OldDialect::Lines => in_a_line((peer, engine), stream, arguments).await?,
    };
    match answer {
        Value::Object(_) => {
            let structured = Some(answer);
            Ok(ToolResult { structured, ..ToolResult::default() })
        }
        _ => Err(CallError::InvalidResult { path: String::new(), reason: "the answer is no object".to_owned() }),
    }
}

async fn in_frames(
    (peer, engine): (&PeerId, &Engine),
    stream: PeerStream,
    arguments: &Value,
) -> Result<Value, CallError> {
    let mut stream = (BufReader::new(stream), engine);
    let greeting =
        json!({ "clientInfo": { "name": "mcpp", "version": env!("CARGO_PKG_VERSION") }, "profiles": [PROFILE] });
    let greeted = ask(&mut stream, "initialize", &greeting).await;
    // Nothing has run before the service has been greeted.
    let refused = |reason: String| CallError::Unreachable { peer: peer.to_string(), reason };
    let greeted = greeted.map_err(|error| refused(error.to_string()))?;
    if let Some(error) = greeted.error {
        return Err(refused(reason(&error)));
    }
    let called = ask(&mut stream, "tools/call", &json!({ "name": TOOL, "arguments": arguments })).await;
    let called = called.map_err(|error| interrupted(peer, error))?;
    match called.error {
        Some(error) if error.code == UNAUTHORIZED => Err(refused(reason(&error))),
        Some(error) => Err(interrupted(peer, reason(&error))),
        None => Ok(called.result.and_then(|mut result| result.get_mut("content").map(Value::take)).unwrap_or_default()),
    }
}

/// The first 400 characters of a refusal. One of the code [`UNAUTHORIZED`] begins with that word, as the protocol has it (contract, section 2.2): a service may
/// say no more, or something else.
fn reason(error: &ServiceError) -> String {
    let said: String = error.message.chars().take(400).collect();
    let has_word = said.strip_prefix("unauthorized").is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    match error.code {
        UNAUTHORIZED if said.is_empty() || said == "unauthorized" => {
            "unauthorized: it refuses the request's token".to_owned()
        }
        UNAUTHORIZED if !has_word => format!("unauthorized: {said}"),
        _ => said,
    }
}

/// Sends a request and reads its answer. Every request has the id 1, as the services' own client does it.
async fn ask(
    (stream, engine): &mut (BufReader<PeerStream>, &Engine),
    method: &str,
    params: &Value,
) -> Result<ServiceReply, frame::FrameError> {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
    frame::write(stream, request.as_bytes()).await?;
    stream.flush().await?;
    let mut body = Vec::new();
    match frame::announced(stream, MAX_ANSWER_BYTES).await? {
        Announced::Bytes(bytes) => frame::body(stream, bytes, &mut body).await?,
        Announced::End => return Err(frame::FrameError::IncompletePrefix),
    }
    let read = read_apart(engine, body.len(), move || serde_json::from_slice(&body)).await;
    let read = read.ok_or_else(|| std::io::Error::other("the host stops"))?;
    read.map_err(|error| std::io::Error::other(error).into())
}

async fn in_a_line(
    (peer, engine): (&PeerId, &Engine),
    stream: PeerStream,
    arguments: &Value,
) -> Result<Value, CallError> {
    let failed = |error: std::io::Error| interrupted(peer, error);
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{arguments}\n").as_bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut line = Vec::new();
    let most = u64::try_from(MAX_ANSWER_BYTES).unwrap_or(u64::MAX);
    stream.take(most).read_until(b'\n', &mut line).await.map_err(failed)?;
    let read = read_apart(engine, line.len(), move || serde_json::from_slice(&line)).await;
    read.ok_or_else(not_read)?.map_err(|error| interrupted(peer, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_want_of_a_right_begins_with_the_protocols_word() {
        for (code, message, told) in [
            (UNAUTHORIZED, "unauthorized", "unauthorized: it refuses the request's token"),
            (UNAUTHORIZED, "", "unauthorized: it refuses the request's token"),
            (UNAUTHORIZED, "unauthorized: no grant", "unauthorized: no grant"),
            (UNAUTHORIZED, "bad token", "unauthorized: bad token"),
            (-32000, "init_required", "init_required"),
        ] {
            let error = ServiceError { code, message: message.to_owned() };
            assert_eq!(reason(&error), told, "{code} {message:?}");
        }
        let long = ServiceError { code: -32000, message: "x".repeat(1_000) };
        assert_eq!(reason(&long).len(), 400);
    }
}
