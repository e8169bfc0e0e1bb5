//! Work on large messages, done so that the door's other connections are served meanwhile.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::{Handle, RuntimeFlavor};

/// Messages beyond this are worked on aside: reading one takes longer than it takes another thread to take over the door.
pub(super) const LARGE_MESSAGE_BYTES: usize = 64 << 10;

/// Works while another thread takes over what this one had to do.
pub(super) fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // A runtime of one thread has nobody who could take over.
        _ => work(),
    }
}

/// As [`aside`], if a message of `bytes` is large.
pub(super) fn aside_if_large<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > LARGE_MESSAGE_BYTES { aside(work) } else { work() }
}

/// A future whose steps take long where the message is large.
pub(super) struct Aside<F> {
    inner: Pin<Box<F>>,
    bytes: usize,
}

impl<F> Aside<F> {
    /// Takes the steps of `future` aside if the message of `bytes` is large.
    pub(super) fn new(bytes: usize, future: F) -> Self {
        Self { inner: Box::pin(future), bytes }
    }
}

impl<F: Future> Future for Aside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let bytes = self.bytes;
        aside_if_large(bytes, || self.inner.as_mut().poll(context))
    }
}
