//! A connection's bytes. A client that does not read what is written for it, or reads more slowly than the least rate, loses its connection: the answer, the
//! memory and the place that it holds are somebody else's too.

mod busy_poll;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

pub(super) use self::busy_poll::{BusyPoll, LastAsked};
use super::{linger::Linger, pace::Patience};
use crate::{
    mcp::lane::{Lane, LaneSwitch},
    tenant::rates::{ByteRate, PART_BYTES},
};

/// Bytes that are written before others are served: the kernel takes megabytes of an answer at once, and everybody waits for the copy.
const WRITTEN_AT_ONCE: usize = 128 << 10;

/// The present state of a connection, for others to see.
#[derive(Debug, Default)]
pub(super) struct WireState {
    /// What counts the bytes of large messages: the tenant's whose connection it is.
    traffic: ArcSwapOption<ByteRate>,
    /// The client has not read what was written.
    blocked: AtomicBool,
    /// The client was waited for since this was asked last.
    awaited: AtomicBool,
}

impl WireState {
    /// Has the bytes of large messages counted by `traffic` from now on.
    pub(super) fn count_by(&self, traffic: &Arc<ByteRate>) {
        let is_known = self.traffic.load().as_ref().is_some_and(|known| Arc::ptr_eq(known, traffic));
        if !is_known {
            self.traffic.store(Some(Arc::clone(traffic)));
        }
    }

    /// Whether something waits to be written.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Whether the client was waited for since this was asked last. If not, its next request was there before the answer.
    pub(super) fn take_awaited(&self) -> bool {
        self.awaited.swap(false, Ordering::Relaxed)
    }
}

/// A TCP stream whose writes have an end.
#[derive(Debug)]
pub(super) struct TimedStream {
    /// There, unless moving it to another lane has failed.
    stream: Option<TcpStream>,
    switch: Arc<LaneSwitch>,
    /// The lane whose threads the kernel wakes for this connection.
    woken: Lane,
    state: Arc<WireState>,
    patience: Patience,
    blocked_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// The rate of what clients send after their last answer, and the end of this connection once nothing is written any more.
    lingering: Arc<ByteRate>,
    linger: Option<Linger>,
    busy_poll: BusyPoll,
    /// Bytes that were written since others were served.
    since: usize,
    /// Bytes of large messages that are not counted yet, and until when nothing moves because of those that are.
    uncounted: usize,
    traffic_pause: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    /// Wraps `stream`, which is of the lane that `switch` says now; its client may stand still for `patience`.
    pub(super) fn new(
        stream: TcpStream,
        patience: Duration,
        state: Arc<WireState>,
        switch: Arc<LaneSwitch>,
        lingering: Arc<ByteRate>,
        busy_poll: BusyPoll,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self {
            stream: Some(stream),
            woken: switch.now(),
            switch,
            state,
            patience: Patience::new(patience),
            blocked_since: None,
            timer,
            lingering,
            linger: None,
            busy_poll,
            since: 0,
            uncounted: 0,
            traffic_pause: None,
        }
    }

    /// The stream, in the lane where its connection is served now. Where it stayed in another, that lane's threads would have to wake this one's for every request.
    fn here(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let lane = self.switch.now();
        if lane != self.woken
            && let Some(stream) = self.stream.take()
        {
            self.stream = Some(TcpStream::from_std(stream.into_std()?)?);
            self.woken = lane;
        }
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn written(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Poll::Ready(written) = written else {
            if self.blocked_since.is_none() {
                let now = Instant::now();
                self.blocked_since = Some(now);
                self.state.blocked.store(true, Ordering::Relaxed);
                self.timer.as_mut().reset(now + self.patience.left());
            }
            ready!(self.timer.as_mut().poll(context));
            metrics::counter!("mcpp_connections_cut_total", "reason" => "unread").increment(1);
            // Bytes that the client did not read are not worth more memory of the kernel.
            let _it_is_over = self.stream.as_ref().map(TcpStream::set_zero_linger);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answers")));
        };
        let bytes = written.as_ref().copied().unwrap_or_default();
        let waited = self.blocked_since.take().map(|since| since.elapsed()).unwrap_or_default();
        self.state.blocked.store(false, Ordering::Relaxed);
        self.busy_poll.wrote();
        self.patience.moved(bytes, waited);
        self.since = self.since.saturating_add(bytes);
        self.uncounted = self.uncounted.saturating_add(bytes);
        Poll::Ready(written)
    }

    /// Waits where the tenant's large messages come faster than they may.
    fn poll_traffic(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.switch.now() != Lane::Bulk {
            // Small messages go on, whatever moves on other connections.
            (self.uncounted, self.traffic_pause) = (0, None);
            return Poll::Ready(());
        }
        loop {
            if let Some(pause) = &mut self.traffic_pause {
                ready!(pause.as_mut().poll(context));
                self.traffic_pause = None;
            }
            if self.uncounted < PART_BYTES {
                return Poll::Ready(());
            }
            let counted = self.state.traffic.load().as_ref().map_or(Ok(()), |traffic| traffic.count(self.uncounted));
            match counted {
                Ok(()) => self.uncounted = 0,
                Err(wait) => self.traffic_pause = Some(Box::pin(tokio::time::sleep(wait))),
            }
        }
    }

    /// Lets others be served, once, if much was written since they were.
    fn poll_give_way(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.since < WRITTEN_AT_ONCE {
            return Poll::Ready(());
        }
        self.since = 0;
        // It is woken when the thread has done what waits. A wake at once would be taken for one's own word and be followed at once.
        std::pin::pin!(tokio::task::yield_now()).poll(context)
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_traffic(context));
        let before = buffer.filled().len();
        let mut read = self.here()?.poll_read(context, buffer);
        let this = &mut *self;
        if read.is_ready() {
            this.busy_poll.read();
        } else {
            this.state.awaited.store(true, Ordering::Relaxed);
            if let Some(stream) = this.stream.as_ref().filter(|_| this.switch.now() == Lane::Door) {
                read = this.busy_poll.look(stream, buffer);
            }
        }
        self.uncounted = self.uncounted.saturating_add(buffer.filled().len().saturating_sub(before));
        read
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_give_way(context));
        ready!(self.poll_traffic(context));
        let written = self.here()?.poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_give_way(context));
        ready!(self.poll_traffic(context));
        let written = self.here()?.poll_write_vectored(context, bytes);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(self.here()?.poll_shutdown(context))?;
            self.linger = Some(Linger::begin(Arc::clone(&self.lingering)));
        }
        self.here()?;
        let this = &mut *self;
        let (Some(linger), Some(stream)) = (&mut this.linger, &mut this.stream) else { return Poll::Ready(Ok(())) };
        linger.poll(Pin::new(stream), context).map(Ok)
    }
}
