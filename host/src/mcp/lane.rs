//! Lanes: the threads on which a connection, or a peer's stream, is served, by what it does.
//!
//! A new connection begins in the lobby. Once a client is let in, its connection goes to the doors. A message of more than [`LARGE_MESSAGE_BYTES`] takes it to threads of a
//! lower priority, and its next small message takes it back. So neither a stranger nor a megabyte is ever in the way of another client's request: the kernel shares the processors between lanes,
//! and no lane's queue is long because of another.

mod own_wakes;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use tokio::runtime::Handle;
use tokio_util::task::{AbortOnDropHandle, task_tracker::TaskTrackerToken};

use self::own_wakes::OwnWakes;
use super::headers::text;
use crate::threads::{LOW_NICE, Promptness, Threads, be_prompt, give_way, processors};

/// A message beyond this is large.
pub(in crate::mcp) const LARGE_MESSAGE_BYTES: usize = 64 << 10;

/// Where a connection is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::mcp) enum Lane {
    /// Its client was not let in yet.
    Lobby,
    /// It has ordinary requests.
    Door,
    /// It has a large message to read or to write.
    Bulk,
}

impl Lane {
    fn of(number: u8) -> Self {
        match number {
            number if number == Self::Lobby as u8 => Self::Lobby,
            number if number == Self::Bulk as u8 => Self::Bulk,
            _ => Self::Door,
        }
    }

    /// The lane for a request whose body has the announced length.
    pub(in crate::mcp) fn for_request(headers: &HeaderMap) -> Self {
        let length = text(headers, &header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        match length {
            Some(length) if length > LARGE_MESSAGE_BYTES as u64 => Self::Bulk,
            // A body without a length shows itself to be long.
            _ => Self::Door,
        }
    }

    /// The lane for a message of so many bytes of somebody who was let in.
    pub(in crate::mcp) fn for_message(bytes: usize) -> Self {
        if bytes > LARGE_MESSAGE_BYTES { Self::Bulk } else { Self::Door }
    }
}

/// The threads of all lanes.
#[derive(Debug)]
pub(in crate::mcp) struct Lanes {
    lobby: Threads,
    door: Handle,
    bulk: Threads,
}

impl Lanes {
    /// Starts the threads. The doors are where this is called.
    pub(in crate::mcp) fn start() -> std::io::Result<Arc<Self>> {
        let lobby = Threads::start("mcpp-lobby", 1, || {
            give_way(LOW_NICE);
            be_prompt(Promptness::Second);
        })?;
        let bulk = Threads::start("mcpp-bulk", processors(), || give_way(LOW_NICE))?;
        Ok(Arc::new(Self { lobby, door: Handle::current(), bulk }))
    }

    /// Does the lobby's own work there.
    pub(in crate::mcp) fn in_lobby<F: Future<Output = ()> + Send + 'static>(&self, work: F) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(self.lobby.handle().spawn(work))
    }

    /// Serves a connection, in whatever lane `switch` says, until it ends. `open` is held as long.
    pub(in crate::mcp) fn serve<F>(self: Arc<Self>, switch: Arc<LaneSwitch>, open: TaskTrackerToken, connection: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let connection = async move {
            let _open = open;
            connection.await;
        };
        self.go_on(switch, Box::pin(connection));
    }

    fn go_on<F>(self: Arc<Self>, switch: Arc<LaneSwitch>, connection: Pin<Box<F>>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let lane = switch.wanted.load(Ordering::Acquire);
        switch.now.store(lane, Ordering::Release);
        let threads = match Lane::of(lane) {
            Lane::Lobby => self.lobby.handle().clone(),
            Lane::Bulk => self.bulk.handle().clone(),
            Lane::Door => self.door.clone(),
        };
        threads.spawn(async move {
            let stay = StayInLane { connection: Some(OwnWakes::new(connection)), switch: &switch };
            if let Some(connection) = stay.await {
                self.go_on(switch, connection);
            }
        });
    }
}

/// The lane of one connection, now and next.
#[derive(Debug)]
pub(in crate::mcp) struct LaneSwitch {
    now: AtomicU8,
    wanted: AtomicU8,
}

impl Default for LaneSwitch {
    fn default() -> Self {
        Self::new(Lane::Lobby)
    }
}

impl LaneSwitch {
    /// The switch of what begins in `lane`.
    pub(in crate::mcp) fn new(lane: Lane) -> Self {
        Self { now: AtomicU8::new(lane as u8), wanted: AtomicU8::new(lane as u8) }
    }

    /// The lane where the connection is served.
    pub(in crate::mcp) fn now(&self) -> Lane {
        Lane::of(self.now.load(Ordering::Acquire))
    }

    /// Goes on in `lane`. Only the connection's own task may ask.
    pub(in crate::mcp) async fn change_to(&self, lane: Lane) {
        self.wanted.store(lane as u8, Ordering::Release);
        // The connection's task goes on there as soon as this poll is over.
        std::future::poll_fn(|_| {
            if self.now.load(Ordering::Acquire) == lane as u8 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// The clock of one connection. A timer is of the lane that made it: in another lane a new one takes its place.
#[derive(Debug)]
pub(in crate::mcp) struct LaneTimer {
    switch: Arc<LaneSwitch>,
    /// The lane of the last timer.
    made_in: AtomicU8,
}

impl LaneTimer {
    /// The clock of the connection that `switch` moves.
    pub(in crate::mcp) fn new(switch: Arc<LaneSwitch>) -> Self {
        let made_in = AtomicU8::new(switch.now() as u8);
        Self { switch, made_in }
    }
}

impl Timer for LaneTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep_until(deadline)
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        let now = self.switch.now() as u8;
        if self.made_in.swap(now, Ordering::Relaxed) == now {
            TokioTimer::new().reset(sleep, deadline);
        } else {
            *sleep = self.sleep_until(deadline);
        }
    }
}

/// Polls a connection until it ends, or wants another lane; then it gives the connection back.
struct StayInLane<'a, F> {
    connection: Option<OwnWakes<F>>,
    switch: &'a LaneSwitch,
}

impl<F: Future<Output = ()>> Future for StayInLane<'_, F> {
    type Output = Option<Pin<Box<F>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        if Pin::new(connection).poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let LaneSwitch { now, wanted } = self.switch;
        if now.load(Ordering::Acquire) == wanted.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        Poll::Ready(self.connection.take().map(OwnWakes::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;

    fn thread() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_connection_goes_on_in_the_lane_that_it_asks_for() {
        let (switch, tracker) = (Arc::new(LaneSwitch::default()), TaskTracker::new());
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let own = Arc::clone(&switch);
        let here = thread();
        let connection = async move {
            let mut seen = vec![thread()];
            for lane in [Lane::Door, Lane::Door, Lane::Bulk, Lane::Lobby, Lane::Door] {
                own.change_to(lane).await;
                // What waits is woken where the connection is by then.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                seen.push(thread());
            }
            let _heard = tell.send(seen).await;
        };
        Lanes::start().expect("threads").serve(switch, tracker.token(), connection);
        let seen = told.recv().await.expect("an end");
        assert_eq!(seen, ["mcpp-lobby", &here, &here, "mcpp-bulk", "mcpp-lobby", &here]);
        tracker.close();
        tracker.wait().await;
    }

    #[test]
    fn an_announced_length_chooses_the_lane() {
        for (length, lane) in
            [(None, Lane::Door), (Some("65536"), Lane::Door), (Some("65537"), Lane::Bulk), (Some("x"), Lane::Door)]
        {
            let mut headers = HeaderMap::new();
            if let Some(length) = length {
                headers.insert(header::CONTENT_LENGTH, length.parse().expect("a value"));
            }
            assert_eq!(Lane::for_request(&headers), lane, "{length:?}");
        }
    }
}
