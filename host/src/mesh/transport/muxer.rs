//! Many streams on one encrypted TCP connection: yamux, with bounds on what the other side can make the host hold.
//!
//! The library's own adapter leaves the window of a connection at 1 GiB, and keeps 256 streams that nobody has looked at.

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    io, iter,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::{
    UpgradeInfo,
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
};
use yamux::{Connection, ConnectionError, Mode};

/// Streams of one connection, all protocols together. A peer that opens more loses the connection.
pub(super) const MAX_STREAMS: usize = 64;
/// Bytes that the host holds for one connection because nobody has read them: the least that yamux allows for so many streams.
pub(super) const WINDOW_BYTES: usize = MAX_STREAMS * yamux::DEFAULT_CREDIT as usize;
/// Streams that the peer has opened and nobody has looked at. One more is reset.
const MAX_WAITING: usize = 16;
/// Streams taken in at one look, before other connections have their turn.
const MAX_AT_ONCE: usize = 64;

/// How a connection becomes many streams.
#[derive(Debug, Clone)]
pub(super) struct YamuxUpgrade(yamux::Config);

impl Default for YamuxUpgrade {
    fn default() -> Self {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(WINDOW_BYTES));
        Self(config)
    }
}

impl UpgradeInfo for YamuxUpgrade {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for YamuxUpgrade {
    type Output = YamuxMuxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<YamuxMuxer<C>>>;

    fn upgrade_inbound(self, connection: C, _: &'static str) -> Self::Future {
        ready(Ok(YamuxMuxer::new(connection, self.0, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for YamuxUpgrade {
    type Output = YamuxMuxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<YamuxMuxer<C>>>;

    fn upgrade_outbound(self, connection: C, _: &'static str) -> Self::Future {
        ready(Ok(YamuxMuxer::new(connection, self.0, Mode::Client)))
    }
}

/// The streams of one connection.
#[derive(Debug)]
pub(super) struct YamuxMuxer<C> {
    connection: Connection<C>,
    waiting: VecDeque<yamux::Stream>,
    waker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> YamuxMuxer<C> {
    fn new(connection: C, config: yamux::Config, mode: Mode) -> Self {
        Self { connection: Connection::new(connection, config, mode), waiting: VecDeque::new(), waker: None }
    }

    /// Reads and writes the connection, which yamux does only while it is asked for new streams.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, ConnectionError>> {
        self.connection.poll_next_inbound(cx).map(|next| next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for YamuxMuxer<C> {
    type Substream = yamux::Stream;
    type Error = ConnectionError;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, ConnectionError>> {
        let this = self.get_mut();
        if let Some(stream) = this.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = this.next(cx);
        if next.is_pending() {
            this.waker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, ConnectionError>> {
        self.get_mut().connection.poll_new_outbound(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.get_mut().connection.poll_close(cx)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        let this = self.get_mut();
        for _ in 0..MAX_AT_ONCE {
            let Poll::Ready(stream) = this.next(cx)? else { return Poll::Pending };
            if this.waiting.len() < MAX_WAITING {
                this.waiting.push_back(stream);
            }
            if let Some(waker) = this.waker.take() {
                waker.wake();
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
