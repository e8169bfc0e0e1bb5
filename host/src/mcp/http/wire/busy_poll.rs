//! A look for the next request before the thread sleeps. Where a client asks again as soon as it has its answer, waking a thread that sleeps takes longer than the call.
//!
//! A thread looks only for the client that had the door for itself for a while, and each time no longer than a few times what the answer took. So at most one thread of a door does this, and it
//! stops as soon as another client has asked for something.
//!
//! It takes what comes from the socket itself: until the runtime had asked the kernel what has come, had woken the connection and had read, a part of the call's time would be over.

use std::{
    io,
    mem::MaybeUninit,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use tokio::{io::ReadBuf, net::TcpStream, task::coop::has_budget_remaining};

/// How long a thread looks, counted from the answer, in multiples of the time that the answer took. A client for which it does asks again as soon as that.
const TIMES: u32 = 3;
/// The longest look.
const MOST: Duration = Duration::from_micros(200);
/// Requests that a client had one after another before a thread looks for its next one.
const ALONE: u32 = 8;
/// Requests that are taken one after another. Then the runtime reads one, and sees what else has come for the thread.
const TAKEN_AT_ONCE: u32 = 16;
/// The most that is taken at once, in bytes: a request is shorter.
const PART_BYTES: usize = 4 << 10;

/// The connection of a door that had the last request.
#[derive(Debug, Default)]
pub(in crate::mcp::http) struct LastAsked {
    number: AtomicU64,
    /// How many connections have a number.
    numbers: AtomicU64,
}

/// The looks for the requests of one connection.
#[derive(Debug)]
pub(in crate::mcp::http) struct BusyPoll {
    number: u64,
    last: Arc<LastAsked>,
    /// When a request began to come, or when an answer was last written.
    since: Instant,
    /// How long a look for the next request may take; none before the answer to the last one.
    look: Option<Duration>,
    /// Requests that came soon after their answers, with none of another connection between.
    streak: u32,
    /// Requests that were taken since the runtime has read one.
    taken: u32,
}

impl BusyPoll {
    /// The looks for a new connection of the door.
    pub(in crate::mcp::http) fn new(last: &Arc<LastAsked>) -> Self {
        let number = last.numbers.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        Self { number, last: Arc::clone(last), since: Instant::now(), look: None, streak: 0, taken: 0 }
    }

    /// Something was written.
    pub(super) fn wrote(&mut self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.since);
        self.look.get_or_insert(took.saturating_mul(TIMES).min(MOST));
        self.since = now;
    }

    /// The runtime has read something.
    pub(super) fn read(&mut self) {
        self.taken = 0;
        self.came();
    }

    fn came(&mut self) {
        let Some(look) = self.look.take() else { return };
        let is_alone = self.last.number.swap(self.number, Ordering::Relaxed) == self.number;
        let now = Instant::now();
        let is_quick = now.saturating_duration_since(self.since) < look;
        self.streak = if is_alone && is_quick { self.streak.saturating_add(1) } else { 0 };
        self.since = now;
    }

    /// Whether a look is worth its time.
    fn is_worth_it(&self) -> bool {
        self.streak >= ALONE && self.last.number.load(Ordering::Relaxed) == self.number
    }

    /// Looks, if that is worth its time, until something has come or the time is over. Takes what has come into `buffer`; if it is the runtime's turn, the runtime learns of it by itself.
    pub(super) fn look(&mut self, stream: &TcpStream, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(look) = self.look.filter(|_| self.is_worth_it() && has_budget_remaining()) else {
            return Poll::Pending;
        };
        let is_ours = self.taken < TAKEN_AT_ONCE;
        let flags = if is_ours { RecvFlags::DONTWAIT } else { RecvFlags::DONTWAIT | RecvFlags::PEEK };
        let mut part = [MaybeUninit::uninit(); PART_BYTES];
        let Some(part) = part.get_mut(..buffer.remaining().min(PART_BYTES)) else { return Poll::Pending };
        while self.since.elapsed() < look && self.is_worth_it() {
            match recv(stream, &mut *part, flags) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                _ if !is_ours => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error.into())),
                Ok(((read, _), _)) => {
                    buffer.put_slice(read);
                    self.taken = self.taken.saturating_add(1);
                    self.came();
                    return Poll::Ready(Ok(()));
                }
            }
        }
        self.streak = 0;
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// However slow the machine is, this has not passed.
    const LONG: Duration = Duration::from_secs(600);

    /// A connection that was answered `requests` times, each time right before its next request.
    fn answered(last: &Arc<LastAsked>, requests: u32) -> BusyPoll {
        let mut poll = BusyPoll::new(last);
        // The first request ends the streak of whoever was before.
        for _ in 0..=requests {
            (poll.look, poll.since) = (Some(LONG), Instant::now());
            poll.read();
        }
        (poll.look, poll.since) = (Some(LONG), Instant::now());
        poll
    }

    /// What a look takes from the socket; none if it takes nothing.
    fn taken(poll: &mut BusyPoll, stream: &TcpStream) -> Option<Vec<u8>> {
        let mut bytes = [0; 8];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll.look(stream, &mut buffer).is_ready().then(|| buffer.filled().to_vec())
    }

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        (client, listener.accept().await.expect("accepted").0)
    }

    #[tokio::test]
    async fn a_thread_looks_for_a_client_that_is_alone_and_quick() {
        let (mut client, stream) = connected().await;
        let last = Arc::<LastAsked>::default();
        let mut in_vain = answered(&last, ALONE);
        in_vain.look = Some(MOST);
        assert_eq!(taken(&mut in_vain, &stream), None);
        assert_eq!(in_vain.streak, 0, "a look in vain is the last one for a while");

        client.write_all(b"GET").await.expect("written");
        stream.readable().await.expect("it has come");
        assert_eq!(taken(&mut answered(&last, ALONE - 1), &stream), None, "it was not alone for long");
        let mut slow = answered(&last, ALONE);
        slow.look = Some(Duration::ZERO);
        slow.read();
        slow.look = Some(LONG);
        assert_eq!(taken(&mut slow, &stream), None, "its last request came late");
        let mut first = answered(&last, ALONE);
        let mut second = answered(&last, 0);
        let both = [taken(&mut first, &stream), taken(&mut second, &stream)];
        assert_eq!(both, [None, None], "another client has asked for something");
        assert_eq!(taken(&mut answered(&last, ALONE), &stream).as_deref(), Some(&b"GET"[..]), "its request is there");
    }

    /// Whatever else there is for the thread is the runtime's to find.
    #[tokio::test]
    async fn the_runtime_reads_every_so_often() {
        let (mut client, mut stream) = connected().await;
        client.write_all(&[b'x'; 100]).await.expect("written");
        stream.readable().await.expect("they have come");
        let mut poll = answered(&Arc::default(), ALONE);
        let answer = |poll: &mut BusyPoll| (poll.look, poll.since) = (Some(LONG), Instant::now());
        let mut left: usize = 100;
        for _ in 0..TAKEN_AT_ONCE {
            left -= 3;
            let mut bytes = [0; 3];
            assert!(poll.look(&stream, &mut ReadBuf::new(&mut bytes)).is_ready(), "{left}");
            assert_eq!(bytes, [b'x'; 3]);
            answer(&mut poll);
        }
        assert_eq!(taken(&mut poll, &stream), None, "it is the runtime's turn");
        let mut rest = [0; 100];
        assert_eq!(stream.read(&mut rest).await.expect("the rest"), left, "and nothing is lost");
        poll.read();
        answer(&mut poll);
        client.write_all(b"y").await.expect("written");
        stream.readable().await.expect("it has come");
        assert_eq!(taken(&mut poll, &stream).as_deref(), Some(&b"y"[..]));
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_seen() {
        let (client, stream) = connected().await;
        drop(client);
        stream.readable().await.expect("it has come");
        assert_eq!(taken(&mut answered(&Arc::default(), ALONE), &stream).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_look_is_a_few_times_as_long_as_the_answer_took_and_never_long() {
        let mut poll = BusyPoll::new(&Arc::default());
        poll.since = Instant::now().checked_sub(MOST).expect("a machine that was not started just now");
        poll.wrote();
        assert_eq!(poll.look, Some(MOST));
        poll.read();
        assert_eq!(poll.look, None, "nobody looks before the answer");
        poll.since = Instant::now() + LONG;
        poll.wrote();
        poll.since = Instant::now() - MOST;
        poll.wrote();
        assert_eq!(poll.look, Some(Duration::ZERO), "the end of an answer is none of its own");
    }
}
