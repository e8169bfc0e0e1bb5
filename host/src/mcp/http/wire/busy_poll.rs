//! A look for the next request before the thread sleeps. Where a client asks again as soon as it has its answer, waking a thread that sleeps takes longer than the call.
//!
//! A thread looks only for the client that had the door for itself for a while, and each time no longer than a few times what the answer took. So at most one thread of a door does this, and it
//! stops as soon as another client has asked for something.

use std::{
    io::ErrorKind,
    mem::MaybeUninit,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::net::TcpStream;

/// How long a thread looks, counted from the answer, in multiples of the time that the answer took. A client for which it does asks again as soon as that.
const TIMES: u32 = 3;
/// The longest look.
const MOST: Duration = Duration::from_micros(200);
/// Requests that a client had one after another before a thread looks for its next one.
const ALONE: u32 = 8;

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
}

impl BusyPoll {
    /// The looks for a new connection of the door.
    pub(in crate::mcp::http) fn new(last: &Arc<LastAsked>) -> Self {
        let number = last.numbers.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        Self { number, last: Arc::clone(last), since: Instant::now(), look: None, streak: 0 }
    }

    /// Something was written.
    pub(super) fn wrote(&mut self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.since);
        self.look.get_or_insert(took.saturating_mul(TIMES).min(MOST));
        self.since = now;
    }

    /// Something was read.
    pub(super) fn read(&mut self) {
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

    /// Looks, if that is worth its time, until something has come or the time is over; whether something has come. The runtime learns of it by itself.
    pub(super) fn look(&mut self, stream: &TcpStream) -> bool {
        let Some(look) = self.look.filter(|_| self.is_worth_it()) else { return false };
        let socket = SockRef::from(stream);
        while self.since.elapsed() < look && self.is_worth_it() {
            match socket.peek(&mut [MaybeUninit::uninit()]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => return true,
            }
        }
        self.streak = 0;
        false
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

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

    #[tokio::test]
    async fn a_thread_looks_for_a_client_that_is_alone_and_quick() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        let last = Arc::<LastAsked>::default();
        let mut in_vain = answered(&last, ALONE);
        in_vain.look = Some(MOST);
        assert!(!in_vain.look(&stream) && in_vain.streak == 0, "a look in vain is the last one for a while");

        client.write_all(b"GET").await.expect("written");
        stream.readable().await.expect("it has come");
        assert!(answered(&last, ALONE).look(&stream), "its request is there");
        assert!(!answered(&last, ALONE - 1).look(&stream), "it was not alone for long");
        let mut slow = answered(&last, ALONE);
        slow.look = Some(Duration::ZERO);
        slow.read();
        slow.look = Some(LONG);
        assert!(!slow.look(&stream), "its last request came late");
        let mut first = answered(&last, ALONE);
        let mut second = answered(&last, 0);
        assert!(!first.look(&stream) && !second.look(&stream), "another client has asked for something");
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
