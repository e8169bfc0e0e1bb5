//! Bytes on one stream: what the network's library gives, with an end that the host can make at once.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures::{
    io::{AsyncRead as _, AsyncWrite as _},
    task::AtomicWaker,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Link;

/// How a stream is ended from outside.
#[derive(Debug, Default)]
pub(super) struct Cut {
    done: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Cut {
    /// Ends the stream: whoever reads or writes gets an error, also one who waits.
    pub(super) fn cut(&self) {
        self.done.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    fn check(&self) -> io::Result<()> {
        if self.done.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "this host has disconnected the peer"));
        }
        Ok(())
    }
}

/// Which side opened a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opener {
    Here,
    There,
}

/// One stream. It counts as open until it is dropped.
pub(super) struct LinkStream {
    inner: libp2p::Stream,
    cut: Arc<Cut>,
    link: Arc<Link>,
    opener: Opener,
}

impl LinkStream {
    /// A stream for which the link has counted already.
    pub(super) fn new(inner: libp2p::Stream, link: Arc<Link>, opener: Opener) -> Self {
        let cut = Arc::new(Cut::default());
        link.add(&cut);
        Self { inner, cut, link, opener }
    }

    /// Gives `outcome` back, unless it waits and the stream was cut. The waker is left behind before that is asked, so that no cut is missed.
    fn unless_cut<T>(
        cut: &Cut,
        waker: &AtomicWaker,
        cx: &Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_pending() {
            waker.register(cx.waker());
            cut.check()?;
        }
        outcome
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        self.link.closed(self.opener);
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer.initialize_unfilled());
        let read = read.map_ok(|bytes| buffer.advance(bytes));
        Self::unless_cut(&self.cut, &self.cut.reader, cx, read)
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.cut.check()?;
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        Self::unless_cut(&self.cut, &self.cut.writer, cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        Self::unless_cut(&self.cut, &self.cut.writer, cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        let closed = Pin::new(&mut self.inner).poll_close(cx);
        Self::unless_cut(&self.cut, &self.cut.writer, cx, closed)
    }
}
