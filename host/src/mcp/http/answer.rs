//! An answer on its way to the client: its part of the tenant's memory lives exactly as long as its bytes do.
//!
//! Answers go out in frames, so that a connection gives way between them. Each frame owns its part of the memory, or the answer as a whole does until its last frame is written.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    body::LEAST_BYTES,
    refusals::{INTERNAL_ERROR, failure, no_memory},
};
use crate::{
    mcp::{
        envelope::Envelope,
        lane::{LARGE_MESSAGE_BYTES, Lane, LaneSwitch},
        refusal::RefusalSignal,
        written::{ResultWriter, WrittenResults},
    },
    memory::{Account, MemoryUse, NoMemory, Reservation},
    names::TenantId,
    tenant::door::StreamPermit,
};

/// The largest frame.
const FRAME_BYTES: usize = 64 << 10;

/// The bytes that the protocol engine writes on a stream on which nothing has happened for a while: a comment, and an empty line.
const KEEP_ALIVE: &[u8] = b":\n\n";
/// The bytes that the host sends instead: the comment alone. An empty line ends an event, and some clients take the end of no event for an empty message.
const KEEP_ALIVE_SENT: &[u8] = b":\n";

/// An answer's holdings while the host sends it.
#[derive(Debug)]
pub(super) struct AnswerHold {
    /// The tenant whose answer it is.
    pub(super) tenant: TenantId,
    /// The tenant's account of the host's memory.
    pub(super) account: Arc<Account>,
    /// The request's memory, which is also the memory that the answer may take without asking.
    pub(super) held: Reservation,
    /// Large results that belong into it.
    pub(super) results: WrittenResults,
    /// They stay as long as this does.
    pub(super) writer: ResultWriter,
    /// Being one of the tenant's streams.
    pub(super) _stream: Option<StreamPermit>,
    /// Being waited for by a host that stops; a standing stream is not.
    pub(super) _answer: Option<TaskTrackerToken>,
}

fn say_when_to_try_again(response: &mut Response, signal: &RefusalSignal) {
    let Some((retry_after, too_many)) = signal.retry() else { return };
    let (status, reason) =
        if too_many { (StatusCode::TOO_MANY_REQUESTS, "rate") } else { (StatusCode::SERVICE_UNAVAILABLE, "busy") };
    metrics::counter!("mcpp_refused_total", "reason" => reason).increment(1);
    *response.status_mut() = status;
    let seconds = retry_after.as_millis().div_ceil(1_000).max(1);
    let seconds = HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX));
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
}

/// The answer on its way, which holds what it takes of memory: its status says whether to try again.
pub(super) async fn finish(
    held: Result<Response, NoMemory>,
    signal: &RefusalSignal,
    lane: &LaneSwitch,
    envelope: &Envelope<'_>,
) -> Response {
    match held {
        Ok(mut response) => {
            say_when_to_try_again(&mut response, signal);
            if response.size_hint().exact().is_some_and(|bytes| bytes > LARGE_MESSAGE_BYTES as u64) {
                lane.change_to(Lane::Bulk).await;
            }
            response
        }
        // An effect may have happened: nothing here may tell a client to try again.
        Err(full) if envelope.method.as_deref() == Some("tools/call") => {
            let reason = format!("the call has run, but its answer was lost: {full}");
            failure(StatusCode::INTERNAL_SERVER_ERROR, envelope.id.as_ref(), INTERNAL_ERROR, &reason)
        }
        Err(full) => no_memory(envelope.id.as_ref(), &full),
    }
}

/// Makes `response` hold what it takes.
pub(super) async fn hold(response: Response, mut hold: AnswerHold) -> Result<Response, NoMemory> {
    let (parts, body) = response.into_parts();
    if body.size_hint().exact().is_none() {
        // A standing stream has no arguments that it would keep.
        if hold._stream.is_some() {
            hold.held.shrink_to(LEAST_BYTES);
        }
        let body = CountedBody { inner: Some(body), frames: VecDeque::new(), hold: Some(hold) };
        return Ok(Response::from_parts(parts, Body::new(body)));
    }
    // The engine's answers are in memory already.
    let text = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    hold_whole(Response::from_parts(parts, text), hold)
}

/// The same for a response that is there as a whole.
pub(super) fn hold_whole(response: Response<Bytes>, mut hold: AnswerHold) -> Result<Response, NoMemory> {
    let (parts, text) = response.into_parts();
    hold.held.shrink_to(LEAST_BYTES);
    let frames = hold.frames(text)?;
    // The frames hold themselves.
    let body = CountedBody { inner: None, frames, hold: Some(hold) };
    Ok(Response::from_parts(parts, Body::new(body)))
}

impl AnswerHold {
    /// The frames to send for `text`.
    fn frames(&mut self, text: Bytes) -> Result<VecDeque<Bytes>, NoMemory> {
        let parts = self.results.put_in(&self.tenant, text);
        // A small one is within what the request took for its answer.
        if parts.iter().all(|part| (1..=FRAME_BYTES).contains(&part.len())) {
            return Ok(parts.into());
        }
        let mut frames = VecDeque::new();
        for mut part in parts {
            if part.len() > FRAME_BYTES {
                part = held(&self.account, part)?;
            }
            while part.len() > FRAME_BYTES {
                frames.push_back(part.split_to(FRAME_BYTES));
            }
            if !part.is_empty() {
                frames.push_back(part);
            }
        }
        Ok(frames)
    }
}

/// Bytes that are on `account` for as long as they are there.
pub(super) fn held(account: &Arc<Account>, bytes: Bytes) -> Result<Bytes, NoMemory> {
    let held = account.reserve(MemoryUse::Messages, u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
    Ok(held_by(held, bytes))
}

/// Bytes that hold what they take already.
pub(super) fn held_by(held: Reservation, bytes: Bytes) -> Bytes {
    Bytes::from_owner(HeldAnswer { bytes, _held: held })
}

struct HeldAnswer {
    bytes: Bytes,
    _held: Reservation,
}

impl AsRef<[u8]> for HeldAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

struct CountedBody {
    inner: Option<Body>,
    frames: VecDeque<Bytes>,
    hold: Option<AnswerHold>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        loop {
            if let Some(frame) = this.frames.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
            let frame = match std::task::ready!(Pin::new(inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => {
                    this.inner = None;
                    return Poll::Ready(end);
                }
            };
            let Some(hold) = &mut this.hold else { return Poll::Ready(None) };
            match frame.into_data() {
                Ok(text) if *text == *KEEP_ALIVE => this.frames.push_back(Bytes::from_static(KEEP_ALIVE_SENT)),
                Ok(text) => match hold.frames(text) {
                    Ok(frames) => this.frames = frames,
                    // The message is lost and the stream with it: a client sees that it did not end well.
                    Err(refused) => return Poll::Ready(Some(Err(axum::Error::new(refused)))),
                },
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none() && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.inner.is_some() {
            return SizeHint::default();
        }
        let bytes = self.frames.iter().map(Bytes::len).fold(0_usize, usize::saturating_add);
        SizeHint::with_exact(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{AccountLimits, HostMemory, MemoryConfig};

    #[tokio::test]
    async fn a_comment_that_keeps_a_stream_alive_ends_no_event() {
        let config = MemoryConfig { guest_bytes: 1, code_bytes: 1, message_bytes: 1 << 30 };
        let account = HostMemory::new(&config).account(AccountLimits::default());
        let results = WrittenResults::new(None);
        let answer = AnswerHold {
            tenant: TenantId::local(),
            held: account.reserve(MemoryUse::Messages, LEAST_BYTES).expect("room"),
            account,
            writer: results.writer(true),
            results,
            _stream: None,
            _answer: None,
        };
        let written = ["data: 1\nid: 0\n\n", ":\n\n", ":\n\n", "data: :\n\n"];
        let written = written.map(|part| Ok::<_, std::convert::Infallible>(Bytes::from_static(part.as_bytes())));
        let response = Response::new(Body::from_stream(futures::stream::iter(written)));
        let sent = hold(response, answer).await.expect("room").into_body().collect().await.expect("whole");
        assert_eq!(sent.to_bytes(), "data: 1\nid: 0\n\n:\n:\ndata: :\n\n");
    }
}
