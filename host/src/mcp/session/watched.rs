//! Streams of a session: while one is open, or a call runs, the session is not parked.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId};
use tokio::time::Instant;

use super::{Sessions, visit::VISIT};
use crate::mcp::in_flight::{IdClaim, answered};

/// When a client comes back to a stream that broke.
const RETRY: Duration = Duration::from_secs(3);

/// Something that goes on in a session.
#[derive(Debug)]
pub(in crate::mcp) struct Busy(Arc<AtomicUsize>);

impl Busy {
    pub(super) fn new(activity: &Arc<AtomicUsize>) -> Self {
        activity.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Events = Pin<Box<dyn Stream<Item = ServerSseMessage> + Send>>;

/// The stream of a session that answers no request, as one connection has it. Where a client opens it again, the connection before may be dead without the host knowing:
/// it stays open, and everything goes to the new one.
pub(super) struct Standing(Arc<Mutex<Option<Events>>>);

/// The connection that has a session's standing stream.
#[derive(Default)]
pub(super) struct StandingHolder(Weak<Mutex<Option<Events>>>);

impl std::fmt::Debug for StandingHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StandingHolder").finish_non_exhaustive()
    }
}

impl StandingHolder {
    /// Takes the stream away.
    pub(super) fn leave(&self) {
        if let Some(held) = self.0.upgrade() {
            drop(held.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// Another connection has it now.
    pub(super) fn take_over(&mut self, stream: impl Stream<Item = ServerSseMessage> + Send + 'static) -> Standing {
        let standing = Standing::new(stream);
        self.0 = Arc::downgrade(&standing.0);
        standing
    }
}

impl Standing {
    pub(super) fn new(stream: impl Stream<Item = ServerSseMessage> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(stream)))))
    }
}

impl Stream for Standing {
    type Item = ServerSseMessage;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ServerSseMessage>> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(stream) => stream.as_mut().poll_next(context),
            None => Poll::Pending,
        }
    }
}

/// A stream to the client.
pub(super) struct Watched<S> {
    stream: Pin<Box<S>>,
    sessions: Arc<Sessions>,
    id: SessionId,
    /// Events that only say where to resume are for clients of the version that introduced them: older ones take an empty event for a broken message.
    takes_priming: bool,
    first: Option<ServerSseMessage>,
    /// The id of the request that the stream answers.
    claim: Option<IdClaim>,
    ended: bool,
    _busy: Option<Busy>,
}

impl<S: Stream<Item = ServerSseMessage>> Watched<S> {
    /// The stream that answers the request that is being handled, or resumes such a one.
    pub(super) fn new(sessions: &Arc<Sessions>, id: &SessionId, stream: S) -> Self {
        let watched = sessions.own(id, |record| (record.takes_priming, Busy::new(&record.activity)));
        let (takes_priming, busy) = watched.map_or((false, None), |(primes, busy)| (primes, Some(busy)));
        Self {
            stream: Box::pin(stream),
            sessions: Arc::clone(sessions),
            id: id.clone(),
            takes_priming,
            first: None,
            claim: VISIT.try_with(super::visit::Visit::take_claim).ok().flatten(),
            ended: false,
            _busy: busy,
        }
    }

    /// The same, which first says where to resume.
    pub(super) fn primed(mut self) -> Self {
        self.first = self.takes_priming.then(|| ServerSseMessage::priming("0", RETRY));
        self
    }
}

impl<S: Stream<Item = ServerSseMessage>> Stream for Watched<S> {
    type Item = ServerSseMessage;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ServerSseMessage>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        loop {
            let item = self.stream.as_mut().poll_next(context);
            match &item {
                Poll::Ready(None) => self.ended = true,
                Poll::Ready(Some(event)) if event.message.is_none() && !self.takes_priming => continue,
                Poll::Ready(Some(event)) => {
                    if event.message.as_deref().and_then(answered).is_some()
                        && let Some(claim) = self.claim.take()
                    {
                        drop(claim.release());
                    }
                }
                Poll::Pending => {}
            }
            return item;
        }
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        if let Some(record) = self.sessions.records().get_mut(&self.id) {
            record.last_seen = Instant::now();
            record.unread |= !self.ended;
        }
    }
}
