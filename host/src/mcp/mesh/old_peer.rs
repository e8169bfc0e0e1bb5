//! Peers of before MCP++'s bindings: `initialize` without a version, then calls of the task queue's one tool, whose result object is the `content` itself. The same requests as lines.
//!
//! Such a peer has a grant, or shows a bearer token in the `token` of its request. It reaches `task_queue.rpc` and nothing else.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::{
    MAX_DEPTH, MeshApp, PROTOCOL, StreamEnd, StreamPlace, UNAUTHORIZED, count,
    frames::FrameReader,
    share::{FrameAdmission, FrameBytes},
    unauthorized,
};
use crate::{
    call::{CallError, TraceContext, inputs::Abilities},
    control::admission::Share,
    mcp::{
        binding::{LEGACY, LEGACY_VERSION, PROFILE},
        conversation::{Admit as _, MessageOutput, no_room},
        envelope::{self, Envelope, INVALID_PARAMS, reading_takes},
        in_flight::Held,
        lane::Lane,
        tasks::plan::TaskWish,
        tools::{CallRequest, WayHere},
        written::WrittenResults,
    },
    mesh::{PeerId, PeerStream},
    names::ToolName,
    tenant::Principal,
};

/// The one tool.
const TOOL: &str = "task_queue.rpc";
/// JSON-RPC code for another tool, and for a tool that gives no result.
const TOOL_ERROR: i64 = -32002;
/// JSON-RPC code of a method that is not there.
const NO_METHOD: i64 = -32601;
/// The longest line, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "protocolVersion")]
    version: Option<Value>,
    capabilities: Option<Value>,
    #[serde(default)]
    profiles: Vec<Value>,
}

/// Whether a message is the `initialize` of such a peer: no version, no capabilities, and the transport among its profiles.
pub(super) fn greets(message: &[u8]) -> bool {
    envelope::read(message, MAX_DEPTH).is_ok_and(|envelope| is_greeting(&envelope))
}

fn is_greeting(envelope: &Envelope<'_>) -> bool {
    let params = envelope.params.and_then(|params| serde_json::from_str::<Greeting>(params.get()).ok());
    envelope.id.is_some()
        && envelope.method.as_deref() == Some("initialize")
        && params.is_some_and(|greeting| {
            greeting.version.is_none()
                && greeting.capabilities.is_none()
                && greeting.profiles.iter().any(|name| name == PROFILE)
        })
}

/// Whose a reply is, and what its request holds until the reply is written.
struct ReplyFrom {
    /// None for the host's own words.
    share: Option<Arc<Share>>,
    held: Held,
}

impl ReplyFrom {
    fn host() -> Self {
        Self { share: None, held: Held::nothing() }
    }

    /// The output of a reply, which takes memory of its tenant until it is written.
    fn output(&self, output: &MessageOutput, results: &WrittenResults) -> MessageOutput {
        match &self.share {
            Some(share) => output.clone().of(Arc::clone(share), results.clone(), None),
            None => output.clone(),
        }
    }
}

/// Why a request has no answer of the tool's.
enum NoAnswer {
    Unauthorized(String),
    Full(CallError),
    Tool(String),
}

impl MeshApp {
    /// Serves such a peer, one request after the other.
    pub(super) async fn serve_old_peer(
        &self,
        peer: &PeerId,
        reader: &mut FrameReader<impl AsyncRead + Unpin + Send>,
        output: &MessageOutput,
        (permit, lane): StreamPlace<'_>,
    ) -> StreamEnd {
        loop {
            let frame = match reader.next(|| true).await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            let (body, held) = frame.into_parts();
            lane.change_to(self.lane_for(peer, body.len())).await;
            let envelope = match envelope::read(&body, MAX_DEPTH) {
                Ok(envelope) => envelope,
                Err(malformed) => return StreamEnd::Unreadable { code: malformed.code, reason: malformed.reason },
            };
            let (Some(id), Some(method)) = (&envelope.id, envelope.method.as_deref()) else { continue };
            let answer = match method {
                "initialize" if is_greeting(&envelope) => {
                    json!({ "jsonrpc": "2.0", "id": id, "result": self.greeting() })
                }
                "tools/call" => match self.call_tool(peer, &envelope, held, (permit, lane)).await {
                    Ok((answer, from)) => {
                        // Its values are not kept while it waits for the peer.
                        let text = answer.to_string().into_bytes();
                        drop(answer);
                        if let Err(error) = from.output(output, &self.results).write(text, from.held).await {
                            tracing::debug!(%error, "an answer could not be written");
                        }
                        continue;
                    }
                    Err(end) => {
                        output.tell(&unauthorized(Some(id), &end)).await;
                        return StreamEnd::Closed;
                    }
                },
                _ => envelope::error(
                    Some(id),
                    NO_METHOD,
                    &format!("method_not_found: `{method}` is not served to a peer that names no protocol version"),
                ),
            };
            output.tell(&answer).await;
        }
    }

    /// The answer to `initialize`.
    fn greeting(&self) -> Value {
        json!({
            "ok": true,
            "protocolVersion": LEGACY_VERSION,
            "serverInfo": { "name": "mcpp", "version": env!("CARGO_PKG_VERSION") },
            "capabilities": {
                "tools": { "listChanged": false },
                "mcp++": { "bindingId": LEGACY, "profiles": [PROFILE] },
                "mcpPlusPlusProfiles": [PROFILE],
            },
            "transport": PROTOCOL,
            "server": { "peer_id": self.id },
            "limits": *self.limits,
        })
    }

    /// The answer to `tools/call`; fails with a reason if the peer has no right.
    async fn call_tool(
        &self,
        peer: &PeerId,
        envelope: &Envelope<'_>,
        held: FrameBytes,
        place: StreamPlace<'_>,
    ) -> Result<(Value, ReplyFrom), String> {
        #[derive(Deserialize)]
        struct OldCallParams {
            name: String,
            #[serde(default)]
            arguments: Map<String, Value>,
        }
        let id = envelope.id.as_ref();
        let own = |answer: Value| Ok((answer, ReplyFrom::host()));
        let params = envelope.params.and_then(|params| serde_json::from_str::<OldCallParams>(params.get()).ok());
        let Some(OldCallParams { name, arguments }) = params else {
            return own(envelope::error(
                id,
                INVALID_PARAMS,
                "invalid_params: `tools/call` takes `name` and an object `arguments`",
            ));
        };
        if name != TOOL {
            let reason = format!("unknown_tool: a peer that names no protocol version may call `{TOOL}` only");
            return own(envelope::error(id, TOOL_ERROR, &reason));
        }
        match self.ask_queue(peer, arguments, (held, envelope.text), place).await {
            Ok((reply, from)) => Ok((json!({ "jsonrpc": "2.0", "id": id, "result": { "content": reply } }), from)),
            Err(NoAnswer::Unauthorized(reason)) => Err(reason),
            Err(NoAnswer::Full(full)) => own(no_room(id.unwrap_or(&Value::Null), full)),
            Err(NoAnswer::Tool(reason)) => own(envelope::error(id, TOOL_ERROR, &format!("tool_error: {reason}"))),
        }
    }

    /// The caller that the peer is, by the token in its request or by its grant. The token goes no further.
    fn caller(&self, peer: &PeerId, request: &mut Map<String, Value>) -> Result<Principal, String> {
        match request.remove("token") {
            Some(Value::String(token)) => self.tokens.find(&token).map_err(|stranger| stranger.to_string()),
            Some(_) => Err("`token` must be a string".into()),
            None => self.peers.grant(peer).map(|grant| grant.principal()).map_err(|outsider| outsider.to_string()),
        }
    }

    /// Asks the queue of the caller's tenant. Its reply bears the id of this host.
    async fn ask_queue(
        &self,
        peer: &PeerId,
        mut request: Map<String, Value>,
        (held, text): (FrameBytes, &str),
        (permit, lane): StreamPlace<'_>,
    ) -> Result<(Value, ReplyFrom), NoAnswer> {
        let principal = self.caller(peer, &mut request).map_err(NoAnswer::Unauthorized)?;
        let registry = self.endpoint.registry();
        if !registry.admits(&principal) {
            return Err(NoAnswer::Unauthorized("the tenant of this peer is not open".into()));
        }
        let share = registry.share(&principal.tenant);
        lane.change_to(Lane::for_message(text.len())).await;
        count(share.as_deref(), lane, text.len()).await;
        let account = share.as_ref().map(|share| Arc::clone(&share.memory));
        let takes = usize::try_from(reading_takes(&[text])).unwrap_or(usize::MAX);
        let closing = self.closing.is_cancelled();
        let admitted = FrameAdmission::new(permit.share(), held, account, takes, closing).admit();
        let held = admitted.map_err(NoAnswer::Full)?;
        let tool = ToolName::new(TOOL).map_err(|error| NoAnswer::Tool(error.to_string()))?;
        let call = CallRequest {
            tool,
            arguments: Value::Object(request),
            log_level: None,
            wants_progress: false,
            wants_receipt: false,
            trace: TraceContext::root(),
            session: None,
            interface: None,
            abilities: Abilities::default(),
            tasks: TaskWish::Waits,
            way: WayHere::default(),
        };
        let running = self.endpoint.begin_call(&principal, call, None);
        let mut running = running.map_err(|denied| NoAnswer::Unauthorized(denied.message.into_owned()))?;
        // A peer that goes away, or loses its right, takes its call with it.
        let _stopped = running.cancel_token().clone().drop_guard();
        let (result, _) = running.end_in_silence(None).await.ok_or_else(|| NoAnswer::Tool("it spoke".into()))?;
        let result = result.map_err(|error| match error.retry_after() {
            Some(_) => NoAnswer::Full(error),
            None => NoAnswer::Tool(error.to_string()),
        })?;
        match result.structured {
            Some(Value::Object(mut reply)) => {
                // The queue does not know under which id its host is on the mesh.
                reply.insert("peer_id".into(), self.id.as_str().into());
                Ok((Value::Object(reply), ReplyFrom { share, held }))
            }
            _ => Err(NoAnswer::Tool("the queue gave no object".into())),
        }
    }

    /// Serves one request that comes as a line, and its reply.
    pub(super) async fn serve_line(&self, peer: PeerId, stream: PeerStream, place: StreamPlace<'_>) {
        let exchange = async {
            let (input, mut output) = tokio::io::split(stream);
            let most = MAX_LINE_BYTES.min(self.config.max_frame_bytes);
            let (permit, lane) = place;
            let held = permit.share().hold(most, self.standing(&peer)).await;
            let mut line = Vec::new();
            let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
            let read = BufReader::new(input).take(limit).read_until(b'\n', &mut line).await?;
            if read == 0 {
                return Ok(());
            }
            let mut in_flight = Held::nothing();
            let refused = |error: &str| json!({ "ok": false, "error": error, "peer_id": self.id });
            let reply = if read > most {
                refused("frame_too_large")
            } else {
                lane.change_to(self.lane_for(&peer, line.len())).await;
                let text = std::str::from_utf8(&line).unwrap_or_default();
                match serde_json::from_str(text) {
                    Err(_) => refused("invalid_json"),
                    Ok(Value::Object(request)) => match self.ask_queue(&peer, request, (held, text), place).await {
                        Ok((reply, from)) => {
                            in_flight = from.held;
                            reply
                        }
                        Err(NoAnswer::Unauthorized(_)) => refused("unauthorized"),
                        Err(NoAnswer::Full(_)) => refused("rate_limited"),
                        Err(NoAnswer::Tool(reason)) => {
                            json!({ "ok": false, "error": "internal_error", "detail": reason, "peer_id": self.id })
                        }
                    },
                    Ok(_) => refused("invalid_message"),
                }
            };
            let text = format!("{reply}\n");
            drop(reply);
            output.write_all(text.as_bytes()).await?;
            drop(in_flight);
            output.shutdown().await
        };
        let patience = std::time::Duration::from_millis(self.config.frame_timeout_ms);
        let exchanged = tokio::select! {
            exchanged = exchange => exchanged,
            () = tokio::time::sleep(patience.saturating_mul(4)) => Err(std::io::ErrorKind::TimedOut.into()),
            () = self.stop.cancelled() => Ok(()),
        };
        if let Err(error) = exchanged {
            tracing::debug!(%peer, %error, code = UNAUTHORIZED, "a line was not answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shape_of_the_old_client_is_taken_for_one() {
        let initialize =
            |params: Value| json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params }).to_string();
        let info = json!({ "name": "ipfs-accelerate-taskqueue-client", "version": "1.0.0" });
        for (message, is_one) in [
            (initialize(json!({ "clientInfo": info, "profiles": [PROFILE] })), true),
            (initialize(json!({ "profiles": ["mcp++/other"] })), false),
            (initialize(json!({ "profiles": [PROFILE], "protocolVersion": "2024-11-05" })), false),
            (initialize(json!({ "profiles": [PROFILE], "capabilities": {} })), false),
            (initialize(json!({})), false),
            ("{".to_owned(), false),
            (
                json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "profiles": [PROFILE] } })
                    .to_string(),
                false,
            ),
        ] {
            assert_eq!(greets(message.as_bytes()), is_one, "{message}");
        }
    }
}
