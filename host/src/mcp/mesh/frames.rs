//! The frames of one stream, read within their peer's share: bounded before they are read, in time while they are read, and in their rate.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::io::AsyncRead;

use super::share::{FrameBytes, PeerShare, PeerStanding};
use crate::{
    config::MeshDoorConfig,
    mcp::envelope::{self, PARSE_ERROR},
    mesh::frame::{self, Announced, FrameError},
};

/// JSON-RPC code of a frame that breaks the rules of frames.
const BAD_FRAME: i64 = -32003;
/// JSON-RPC code for a peer whose frames wait for too long.
const RATE_LIMITED: i64 = -32010;

/// The largest frame of a peer without a grant, in bytes: what a task-queue client of before MCP++ sends.
const STRANGERS_FRAME_BYTES: usize = 1 << 20;

/// A frame, and what it takes of its peer's share.
#[derive(Debug)]
pub(in crate::mcp) struct Frame {
    body: Vec<u8>,
    held: FrameBytes,
}

impl Frame {
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(super) fn into_parts(self) -> (Vec<u8>, FrameBytes) {
        (self.body, self.held)
    }
}

/// Why a stream ends.
#[derive(Debug)]
pub(in crate::mcp) enum StreamEnd {
    /// The peer closed its end, or went away.
    Closed,
    /// The host stops.
    Stopped,
    /// Nobody used it.
    Idle,
    /// A frame broke a rule.
    Frame(FrameError),
    /// A frame took too long.
    Slow,
    /// The peer's frames wait for memory that earlier ones hold.
    NoRoom,
    /// A message cannot be read.
    Unreadable { code: i64, reason: String },
    /// The peer may do nothing. With the request that was refused for it, which has not run.
    Unauthorized { reason: String, id: Option<Value> },
}

impl StreamEnd {
    /// The same, with the request in `message` that is refused for it.
    pub(super) fn of_request(self, message: &[u8]) -> Self {
        match self {
            Self::Unauthorized { reason, id: None } => Self::Unauthorized {
                reason,
                id: envelope::read(message, super::MAX_DEPTH).ok().and_then(|read| read.id),
            },
            other => other,
        }
    }

    /// A name for metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Stopped => "stopped",
            Self::Idle => "idle",
            Self::Frame(FrameError::Io(_)) => "broken",
            Self::Frame(FrameError::IncompletePrefix) => "incomplete_prefix",
            Self::Frame(FrameError::IncompleteBody) => "incomplete_body",
            Self::Frame(FrameError::TooLarge { .. }) => "frame_too_large",
            Self::Slow => "slow",
            Self::NoRoom => "no_room",
            Self::Unreadable { .. } => "unreadable",
            Self::Unauthorized { .. } => "unauthorized",
        }
    }

    /// Whether the answers to what was asked still go out.
    pub(super) fn lets_answers_out(&self) -> bool {
        matches!(self, Self::Closed | Self::Idle)
    }

    /// The error that the peer is told; none where nobody listens, or nothing is wrong.
    pub(super) fn told(&self) -> Option<Value> {
        let with = |code: i64, message: &str, data: Value| {
            let mut error = envelope::error(None, code, message);
            if let Some(error) = error.get_mut("error").and_then(Value::as_object_mut) {
                error.insert("data".into(), data);
            }
            Some(error)
        };
        match self {
            Self::Closed | Self::Stopped | Self::Idle => None,
            Self::Frame(FrameError::Io(_) | FrameError::IncompletePrefix | FrameError::IncompleteBody) => None,
            Self::Frame(error @ FrameError::TooLarge { bytes, most }) => {
                let data = json!({ "reason": "frame_too_large", "frameLen": bytes, "maxFrameBytes": most });
                with(BAD_FRAME, &error.to_string(), data)
            }
            Self::Slow => with(BAD_FRAME, "timeout: the frame took too long", json!({ "reason": "timeout" })),
            Self::NoRoom => {
                let message = "rate_limited: too many bytes of this peer wait for their answers";
                with(RATE_LIMITED, message, json!({ "reason": "rate_limited" }))
            }
            Self::Unreadable { code, reason } => {
                let name = match *code {
                    PARSE_ERROR if reason.contains("not UTF-8") => "invalid_utf8",
                    PARSE_ERROR => "invalid_json",
                    _ if reason.contains("object") || reason.contains("batches") => "payload_not_object",
                    _ => "invalid_message",
                };
                with(*code, &format!("{name}: {reason}"), json!({ "reason": name }))
            }
            Self::Unauthorized { reason, id } => Some(super::unauthorized(id.as_ref(), reason)),
        }
    }
}

/// Reads the frames of one stream.
pub(in crate::mcp) struct FrameReader<R> {
    input: R,
    /// A frame that was read and put back.
    put_back: Option<Frame>,
    share: Arc<PeerShare>,
    standing: PeerStanding,
    most: usize,
    idle: Duration,
    patience: Duration,
}

impl<R: AsyncRead + Unpin + Send> FrameReader<R> {
    pub(super) fn new(input: R, config: &MeshDoorConfig, share: &Arc<PeerShare>, standing: PeerStanding) -> Self {
        let most = match standing {
            PeerStanding::Granted => config.max_frame_bytes,
            PeerStanding::Stranger => config.max_frame_bytes.min(STRANGERS_FRAME_BYTES),
        };
        Self {
            input,
            put_back: None,
            share: Arc::clone(share),
            standing,
            most,
            idle: Duration::from_millis(config.idle_timeout_ms),
            patience: Duration::from_millis(config.frame_timeout_ms),
        }
    }

    /// Gives a frame back: it is the next one again.
    pub(super) fn put_back(&mut self, frame: Frame) {
        self.put_back = Some(frame);
    }

    /// The next frame. Ends where none comes for too long and `is_idle` says that nothing is in flight.
    pub(super) async fn next(&mut self, is_idle: impl Fn() -> bool + Send) -> Result<Frame, StreamEnd> {
        if let Some(frame) = self.put_back.take() {
            return Ok(frame);
        }
        let bytes = {
            let mut announced = std::pin::pin!(frame::announced(&mut self.input, self.most));
            let announced = loop {
                match tokio::time::timeout(self.idle, &mut announced).await {
                    Ok(announced) => break announced,
                    Err(_) if is_idle() => return Err(StreamEnd::Idle),
                    Err(_) => {}
                }
            };
            match announced.map_err(StreamEnd::Frame)? {
                Announced::End => return Err(StreamEnd::Closed),
                Announced::Bytes(bytes) => bytes,
            }
        };
        // The room first: what is announced beyond it stays with the peer.
        let held = tokio::time::timeout(self.patience, self.share.hold(bytes, self.standing)).await;
        let held = held.map_err(|_| StreamEnd::NoRoom)?;
        let mut body = Vec::new();
        let reading = frame::body(&mut self.input, bytes, &mut body);
        tokio::time::timeout(self.patience, reading).await.map_err(|_| StreamEnd::Slow)?.map_err(StreamEnd::Frame)?;
        self.share.pace().await;
        Ok(Frame { body, held })
    }
}
