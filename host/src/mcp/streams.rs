//! The requests and streams that are open, by principal: they end when their principal may not come in any more.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{names::TenantId, tenant::Principal};

/// Open requests of one door. As many as connections.
#[derive(Debug, Default)]
pub(super) struct OpenStreams(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    open: HashMap<u64, (Principal, CancellationToken)>,
    next: u64,
}

impl OpenStreams {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request of `principal`.
    pub(super) fn open(self: &Arc<Self>, principal: &Principal) -> OpenStream {
        let end = CancellationToken::new();
        let mut entries = self.entries();
        let number = entries.next;
        entries.next = entries.next.wrapping_add(1);
        entries.open.insert(number, (principal.clone(), end.clone()));
        OpenStream { streams: Arc::clone(self), number, end }
    }

    /// The principals that have a stream open.
    pub(super) fn principals(&self) -> Vec<Principal> {
        distinct(self.entries().open.values().map(|(principal, _)| principal))
    }

    /// Ends all that `principal` has open.
    pub(super) fn end(&self, principal: &Principal) {
        for (_, end) in self.entries().open.values().filter(|(of, _)| of == principal) {
            end.cancel();
        }
    }
}

/// Each of the principals once.
pub(super) fn distinct<'a>(principals: impl Iterator<Item = &'a Principal>) -> Vec<Principal> {
    let mut found: HashMap<(&TenantId, &str), Vec<&Principal>> = HashMap::new();
    for principal in principals {
        let same_name = found.entry((&principal.tenant, &*principal.subject)).or_default();
        if !same_name.contains(&principal) {
            same_name.push(principal);
        }
    }
    found.into_values().flatten().cloned().collect()
}

/// One open request; forgotten when it is dropped.
#[derive(Debug)]
pub(super) struct OpenStream {
    streams: Arc<OpenStreams>,
    number: u64,
    end: CancellationToken,
}

impl OpenStream {
    /// Returns when the principal may not come in any more.
    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// The same response, whose body ends when the principal may not come in any more. An answer that is there as a whole was made while the principal still might.
    pub(super) fn until_ended(self, response: Response) -> Response {
        if response.body().size_hint().exact().is_some() {
            return response;
        }
        let ended = Box::pin(self.end.clone().cancelled_owned());
        response.map(|body| Body::new(EndingBody { body, ended, _open: self }))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.streams.entries().open.remove(&self.number);
    }
}

struct EndingBody {
    body: Body,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: OpenStream,
}

impl HttpBody for EndingBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended.as_mut().poll(context).is_ready() {
            // The engine stops the work for a body that is dropped.
            self.body = Body::empty();
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
