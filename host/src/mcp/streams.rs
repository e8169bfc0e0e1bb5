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

/// What is open at one door: as many as connections.
#[derive(Debug, Default)]
pub(super) struct OpenStreams(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    open: HashMap<u64, Noted>,
    next: u64,
}

/// Whose something is, and what ends it.
#[derive(Debug, Clone)]
struct Noted {
    principal: Principal,
    end: CancellationToken,
}

impl OpenStreams {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `principal` has something open.
    pub(super) fn open(self: &Arc<Self>, principal: &Principal) -> OpenStream {
        let noted = Noted { principal: principal.clone(), end: CancellationToken::new() };
        let mut entries = self.entries();
        let number = entries.next;
        entries.next = entries.next.wrapping_add(1);
        entries.open.insert(number, noted.clone());
        OpenStream { streams: Arc::clone(self), number, noted }
    }

    /// The principals that have a stream open.
    pub(super) fn principals(&self) -> Vec<Principal> {
        distinct(self.entries().open.values().map(|noted| &noted.principal))
    }

    /// Ends all that `principal` has open.
    pub(super) fn end(&self, principal: &Principal) {
        for noted in self.entries().open.values().filter(|noted| noted.principal == *principal) {
            noted.end.cancel();
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

/// One note of something open; forgotten when it is dropped.
#[derive(Debug)]
pub(super) struct OpenStream {
    streams: Arc<OpenStreams>,
    number: u64,
    noted: Noted,
}

impl OpenStream {
    /// Whether it stands for this principal, who may still come in.
    pub(super) fn is_open_for(&self, principal: &Principal) -> bool {
        self.noted.principal == *principal && !self.noted.end.is_cancelled()
    }

    /// Returns when the principal may not come in any more.
    pub(super) async fn ended(&self) {
        self.noted.end.cancelled().await;
    }

    /// The same response, whose body ends when the principal may not come in any more. An answer that is there as a whole was made while the principal still might.
    pub(super) fn until_ended(self: Arc<Self>, response: Response) -> Response {
        if response.body().size_hint().exact().is_some() {
            return response;
        }
        let ended = Box::pin(self.noted.end.clone().cancelled_owned());
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
    _open: Arc<OpenStream>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_stands_for_its_principal_as_long_as_that_may_come_in() {
        let (streams, me) = (Arc::<OpenStreams>::default(), Principal::local_user());
        let other = Principal { subject: "other".into(), ..me.clone() };
        let (note, others) = (streams.open(&me), streams.open(&other));
        assert!(note.is_open_for(&me) && !note.is_open_for(&other));
        streams.end(&me);
        assert!(!note.is_open_for(&me), "it was ended");
        assert!(others.is_open_for(&other) && streams.open(&me).is_open_for(&me));
        drop((note, others));
        assert_eq!(streams.principals(), []);
    }
}
