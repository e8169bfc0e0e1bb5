//! A reader that counts what it reads: a sign of life, also in the middle of a long message.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

/// Counts the reads that gave something.
#[derive(Debug)]
pub(super) struct HeardInput<R> {
    pub(super) input: R,
    pub(super) heard: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> AsyncRead for HeardInput<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.input).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
        read
    }
}
