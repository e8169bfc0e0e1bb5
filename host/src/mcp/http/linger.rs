//! What a client still sends after the last answer.
//!
//! A connection that is closed on unread bytes is reset, and the reset takes the answer with it: the client of a refused body would not learn why. So the bytes are read and
//! thrown away for a while. A thousand clients that send without end are no work: all connections of the door together have one rate.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, Sleep},
};

use crate::tenant::rates::ByteRate;

/// How long, and how many bytes of, what one client still sends is thrown away.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;
/// Bytes of all clients together each second. The kernel's copies of them are most of the cost.
const ALL_BYTES_PER_SECOND: u64 = 16 << 20;
/// How much is read before it is counted, and how long others are served then.
const PART_BYTES: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(5);
/// The pause where all clients together send too much: so many wait that each of them looks rarely.
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// The rate of all connections of a door.
pub(super) fn rate() -> Arc<ByteRate> {
    Arc::new(ByteRate::new(ALL_BYTES_PER_SECOND))
}

/// The end of one connection.
#[derive(Debug)]
pub(super) struct Linger {
    rate: Arc<ByteRate>,
    /// Bytes that may still be thrown away.
    left: usize,
    uncounted: usize,
    pause: Option<Pin<Box<Sleep>>>,
    end: Pin<Box<Sleep>>,
}

impl Linger {
    /// Begins now.
    pub(super) fn begin(rate: Arc<ByteRate>) -> Self {
        let end = Box::pin(tokio::time::sleep_until(Instant::now() + LINGER));
        Self { rate, left: LINGER_BYTES, uncounted: 0, pause: None, end }
    }

    /// Throws away what comes; ready when the client has ended its side, or its time is over.
    pub(super) fn poll(&mut self, mut stream: Pin<&mut impl AsyncRead>, context: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; PART_BYTES];
        // Beyond the bytes it is only waited: the client may read its answer meanwhile.
        while self.left > 0 && self.poll_turn(context).is_ready() {
            match read(stream.as_mut(), &mut scratch, context) {
                Poll::Ready(Ok(bytes)) if bytes > 0 => {
                    self.left = self.left.saturating_sub(bytes);
                    self.uncounted = self.uncounted.saturating_add(bytes);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        self.end.as_mut().poll(context)
    }

    /// Waits until more may be read.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if self.uncounted < PART_BYTES {
                return Poll::Ready(());
            }
            let pause = match self.rate.count(self.uncounted) {
                Ok(()) => {
                    self.uncounted = 0;
                    PAUSE
                }
                Err(wait) => wait.max(LONG_PAUSE),
            };
            self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        }
    }
}

fn read(stream: Pin<&mut impl AsyncRead>, scratch: &mut [u8], context: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(scratch);
    stream.poll_read(context, &mut buffer).map_ok(|()| buffer.filled().len())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt as _;

    use super::*;

    /// Lingers for a client that sends without end; the bytes that were thrown away.
    async fn thrown_away(rate: Arc<ByteRate>) -> usize {
        let (mut linger, mut client) = (Linger::begin(rate), tokio::io::repeat(b'x'));
        poll_fn(|context| linger.poll(Pin::new(&mut client), context)).await;
        LINGER_BYTES.saturating_sub(linger.left)
    }

    #[tokio::test]
    async fn one_client_may_send_on_and_a_thousand_share_a_rate() {
        let alone = thrown_away(rate()).await;
        assert!(alone > 4 * PART_BYTES, "{alone}");
        // What may move at once is used up: nobody has more than its first part, and one another one.
        let (rate, clients) = (Arc::new(ByteRate::new(1 << 10)), 1_000);
        let all: Vec<usize> = futures::future::join_all((0..clients).map(|_| thrown_away(Arc::clone(&rate)))).await;
        assert!(all.iter().all(|bytes| *bytes <= 2 * PART_BYTES), "{:?}", all.iter().max());
    }

    #[tokio::test]
    async fn a_client_that_ends_is_not_waited_for() {
        let (mut linger, mut client) = (Linger::begin(rate()), tokio::io::empty());
        let ended = poll_fn(|context| linger.poll(Pin::new(&mut client), context));
        assert!(ended.now_or_never().is_some());
    }
}
