//! The bytes of a WebSocket: counted as they come in, and whole messages out.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::body::Bytes;
use futures::{Sink, stream::SplitSink};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{
            CloseFrame,
            frame::{
                Frame,
                coding::{CloseCode, Data, OpCode},
            },
        },
    },
};

use crate::memory::{Account, MemoryUse, Reservation};

/// Memory is taken in steps of this size. The first is for the buffers of a connection, and for small messages.
const STEP_BYTES: u64 = 64 << 10;
/// The longest head of a frame.
const HEAD_BYTES: u64 = 14;
/// A reason of a close frame is no longer.
const MAX_REASON_BYTES: usize = 120;

/// The bytes of the message that a connection is reading, on its tenant's account. A client that stops one byte short of a large message holds what it has sent, and no more.
#[derive(Debug)]
pub(super) struct Unparsed(Mutex<Reading>);

#[derive(Debug)]
struct Reading {
    account: Arc<Account>,
    bytes: u64,
    held: Option<Reservation>,
}

impl Unparsed {
    pub(super) fn new(account: &Arc<Account>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Reading { account: Arc::clone(account), bytes: 0, held: None })))
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes that came. Fails if there is no memory for them.
    fn came(&self, bytes: usize) -> io::Result<()> {
        let mut reading = self.reading();
        reading.bytes = reading.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let wanted = reading.bytes.div_ceil(STEP_BYTES).max(1).saturating_mul(STEP_BYTES);
        let held = reading.held.as_ref().map_or(0, Reservation::bytes);
        let more = wanted.saturating_sub(held);
        let grown = match &mut reading.held {
            _ if more == 0 => return Ok(()),
            Some(held) => held.grow(more),
            None => {
                let reserved = reading.account.reserve(MemoryUse::Messages, more);
                reserved.map(|reserved| reading.held = Some(reserved))
            }
        };
        grown.map_err(|full| io::Error::new(io::ErrorKind::OutOfMemory, full.to_string()))
    }

    /// Forgets a frame that belongs to no message.
    pub(super) fn control(&self, payload: usize) {
        let frame = u64::try_from(payload).unwrap_or(u64::MAX).saturating_add(HEAD_BYTES);
        let mut reading = self.reading();
        reading.bytes = reading.bytes.saturating_sub(frame);
    }

    /// The message was read.
    pub(super) fn parsed(&self) {
        let mut reading = self.reading();
        reading.bytes = 0;
        if let Some(held) = &mut reading.held {
            held.shrink_to(STEP_BYTES);
        }
    }
}

/// A stream whose incoming bytes are counted. Clones are the same stream: one of them ends it when the other has failed.
#[derive(Debug)]
pub(super) struct CountedStream<S> {
    stream: Arc<Mutex<S>>,
    unparsed: Arc<Unparsed>,
}

impl<S> Clone for CountedStream<S> {
    fn clone(&self) -> Self {
        Self { stream: Arc::clone(&self.stream), unparsed: Arc::clone(&self.unparsed) }
    }
}

impl<S> CountedStream<S> {
    pub(super) fn new(stream: S, unparsed: Arc<Unparsed>) -> Self {
        Self { stream: Arc::new(Mutex::new(stream)), unparsed }
    }

    fn stream(&self) -> MutexGuard<'_, S> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.stream()).poll_read(context, buffer))?;
        Poll::Ready(self.unparsed.came(buffer.filled().len().saturating_sub(before)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(context)
    }
}

/// Why the host ends a connection.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    code: CloseCode,
    reason: String,
}

impl Closing {
    pub(super) fn new(code: CloseCode, reason: &str) -> Self {
        let end = reason.floor_char_boundary(MAX_REASON_BYTES);
        Self { code, reason: reason.get(..end).unwrap_or_default().to_owned() }
    }

    /// Whether what was asked before is still answered.
    pub(super) fn lets_answers_out(&self) -> bool {
        self.code == CloseCode::Away
    }
}

/// Words of the host's own between messages: a ping, and the last one.
#[derive(Debug, Clone, Default)]
pub(super) struct Signals(Arc<(AtomicBool, Mutex<Option<Closing>>)>);

impl Signals {
    /// Sends a ping with the next flush.
    pub(super) fn ping(&self) {
        self.0.0.store(true, Ordering::Release);
    }

    /// Says why when the output is closed.
    pub(super) fn close(&self, why: Closing) {
        *self.0.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    fn closing(&self) -> Option<Closing> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The output of a WebSocket: a text message up to each flush, and a frame of it for each write.
pub(super) struct MessageWriter<S> {
    to: SplitSink<WebSocketStream<S>, Message>,
    signals: Signals,
    /// The last write, whose frame may be the message's last.
    next: Option<Bytes>,
    /// Whether a frame of the message is out.
    has_begun: bool,
}

/// Wraps the outgoing half; the host's own words are said by the signals.
pub(super) fn messages_out<S>(to: SplitSink<WebSocketStream<S>, Message>) -> (MessageWriter<S>, Signals) {
    let signals = Signals::default();
    (MessageWriter { to, signals: signals.clone(), next: None, has_begun: false }, signals)
}

impl<S: AsyncRead + AsyncWrite + Unpin> MessageWriter<S> {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        message: impl FnOnce(&mut Self) -> Message,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.to).poll_ready(context)).map_err(broken)?;
        let message = message(self);
        Poll::Ready(Pin::new(&mut self.to).start_send(message).map_err(broken))
    }

    /// Sends the frame of the last write, if there is one.
    fn poll_frame(&mut self, context: &mut Context<'_>, is_last: bool) -> Poll<io::Result<()>> {
        if self.next.is_none() {
            return Poll::Ready(Ok(()));
        }
        self.poll_send(context, |writer| {
            let data = if writer.has_begun { Data::Continue } else { Data::Text };
            writer.has_begun = !is_last;
            Message::Frame(Frame::message(writer.next.take().unwrap_or_default(), OpCode::Data(data), is_last))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MessageWriter<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, part: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_frame(context, false))?;
        self.next = Some(Bytes::copy_from_slice(part));
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_frame(context, true))?;
        if self.signals.0.0.load(Ordering::Acquire) {
            ready!(self.poll_send(context, |_| Message::Ping(Bytes::new())))?;
            self.signals.0.0.store(false, Ordering::Release);
        }
        Pin::new(&mut self.to).poll_flush(context).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // No message is being written: the close frame goes behind the last one.
        ready!(Pin::new(&mut self.to).poll_ready(context)).map_err(broken)?;
        if let Some(Closing { code, reason }) = self.signals.closing() {
            let frame = CloseFrame { code, reason: reason.into() };
            Pin::new(&mut self.to).start_send(Message::Close(Some(frame))).map_err(broken)?;
        }
        Pin::new(&mut self.to).poll_flush(context).map_err(broken)
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::BrokenPipe, error),
    }
}
