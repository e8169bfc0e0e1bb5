//! A guest's own time: the processor time that it uses, and the time in which it waits. It excludes the time in which the host or the system lets others run
//! instead.
//!
//! This clock measures the bounds on delays that a guest causes, so that they mean the same on a busy machine. One thread at a time polls its owner;
//! any thread may read it.

use std::{
    cell::Cell,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{admission::Slot, turns::Turn};
use crate::{
    engine::{EPOCH, SLICE},
    store::Clock,
};

/// A thread's processor time, once asked for, serves for so long, in nanoseconds.
const FRESH: u64 = 250_000;

/// The own time of one guest.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    /// Own time up to the last change, in nanoseconds; and its part that was processor time.
    counted: AtomicU64,
    computed: AtomicU64,
    /// Times since which the guest is polled, or waits, in nanoseconds after `began`; 0 if neither.
    polled_since: AtomicU64,
    waits_since: AtomicU64,
    /// Processor time of the polling thread at the start of the poll, or up to [`FRESH`] less.
    thread_time: AtomicU64,
    /// Whether the guest stops to let others run.
    yields: AtomicBool,
    /// The turn in which the guest computes; none in its first slice, and while it waits.
    turn: Mutex<Option<Turn>>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            counted: AtomicU64::new(0),
            computed: AtomicU64::new(0),
            polled_since: AtomicU64::new(0),
            waits_since: AtomicU64::new(0),
            thread_time: AtomicU64::new(0),
            yields: AtomicBool::new(false),
            turn: Mutex::new(None),
        }
    }
}

impl Pace {
    fn now(&self) -> u64 {
        nanoseconds(self.began.elapsed()).max(1)
    }

    fn since(&self, time: &AtomicU64) -> u64 {
        match time.load(Ordering::Relaxed) {
            0 => 0,
            since => self.now().saturating_sub(since),
        }
    }

    /// Lets others run without counting that time: joins its tenant's line for a turn.
    pub async fn let_others_run(&self, slot: &Slot) {
        self.end_turn();
        self.yields.store(true, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let turn = match slot.try_turn() {
            Some(turn) => Some(turn),
            None => {
                self.yields.store(true, Ordering::Relaxed);
                slot.turn().await
            }
        };
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }

    fn end_turn(&self) {
        drop(self.turn.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Processor time that the guest has used. Ask for it on the guest's thread, or while the guest does not run.
    pub fn processor_time(&self) -> Duration {
        let running = self.used_in_poll(self.now(), recent_thread_time);
        Duration::from_nanos(self.computed.load(Ordering::Relaxed).saturating_add(running))
    }

    /// Processor time of the present poll up to `now`, at most [`FRESH`] too much. A short poll costs the system no question, and a long one asks by `thread_time`.
    fn used_in_poll(&self, now: u64, thread_time: fn() -> u64) -> u64 {
        let since = self.polled_since.load(Ordering::Relaxed);
        if since == 0 {
            return 0;
        }
        let took = now.saturating_sub(since);
        if took <= FRESH {
            return took;
        }
        took.min(thread_time().saturating_sub(self.thread_time.load(Ordering::Relaxed)))
    }

    /// Counts processor time that the host used elsewhere in the guest's place.
    pub fn charge(&self, time: Duration) {
        self.counted.fetch_add(nanoseconds(time), Ordering::Relaxed);
        self.computed.fetch_add(nanoseconds(time), Ordering::Relaxed);
    }

    fn enter(&self) {
        self.thread_time.store(fresh_thread_time(), Ordering::Relaxed);
        let now = self.now();
        let waited = match self.waits_since.swap(0, Ordering::Relaxed) {
            0 => 0,
            since => now.saturating_sub(since),
        };
        self.counted.fetch_add(waited, Ordering::Relaxed);
        self.polled_since.store(now, Ordering::Relaxed);
    }

    fn leave(&self) {
        let now = self.now();
        let used = self.used_in_poll(now, thread_time);
        self.counted.fetch_add(used, Ordering::Relaxed);
        self.computed.fetch_add(used, Ordering::Relaxed);
        self.polled_since.store(0, Ordering::Relaxed);
        // A guest that waits needs no turn for that.
        self.end_turn();
        if !self.yields.swap(false, Ordering::Relaxed) {
            self.waits_since.store(now, Ordering::Relaxed);
        }
    }
}

impl Clock for Pace {
    fn own_time(&self) -> Duration {
        // A poll lasts one slice at most, unless the system takes the processor away. Its real use is known when it ends.
        let slice = nanoseconds(EPOCH).saturating_mul(SLICE);
        let polled = self.since(&self.polled_since).min(slice);
        let counted = self.counted.load(Ordering::Relaxed);
        Duration::from_nanos(counted.saturating_add(polled).saturating_add(self.since(&self.waits_since)))
    }
}

/// A guest's future with a measured time.
pub(crate) struct Paced<F> {
    pub(crate) future: Pin<Box<F>>,
    pub(crate) pace: Arc<Pace>,
}

impl<F: Future> Future for Paced<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.pace.enter();
        let polled = self.future.as_mut().poll(context);
        self.pace.leave();
        polled
    }
}

thread_local! {
    /// When this thread last asked for its processor time, and the answer.
    static LAST_ASKED: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

/// Processor time of this thread, in nanoseconds: as it is, or as it was at most [`FRESH`] ago.
fn fresh_thread_time() -> u64 {
    match LAST_ASKED.get() {
        Some((asked, time)) if nanoseconds(asked.elapsed()) <= FRESH => time,
        _ => thread_time(),
    }
}

/// Processor time of this thread, in nanoseconds; for at most [`FRESH`] after the last question, as if the thread had computed all the while.
fn recent_thread_time() -> u64 {
    let Some((asked, time)) = LAST_ASKED.get() else { return thread_time() };
    let since = nanoseconds(asked.elapsed());
    if since <= FRESH { time.saturating_add(since) } else { thread_time() }
}

/// Processor time of this thread, in nanoseconds. The question is a system call, which takes longer than many calls compute.
pub(super) fn thread_time() -> u64 {
    let time = nanoseconds(crate::threads::thread_time());
    LAST_ASKED.set(Some((Instant::now(), time)));
    time
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        control::admission::{Admission, Share},
        engine::EngineConfig,
        limits::TenantLimits,
    };

    fn paced<F: Future>(future: impl FnOnce(Arc<Pace>) -> F) -> (Arc<Pace>, Paced<F>) {
        let pace = Arc::new(Pace::default());
        (Arc::clone(&pace), Paced { future: Box::pin(future(Arc::clone(&pace))), pace })
    }

    async fn slot() -> Slot {
        let (cancel, until) = (CancellationToken::new(), tokio::time::Instant::now() + Duration::from_secs(60));
        let share = Share::alone(TenantLimits::default());
        let admission = Admission::new(&EngineConfig::default());
        admission.admit(&share, &Arc::new(Semaphore::new(1)), 1, until, &cancel).await.expect("a place")
    }

    #[tokio::test]
    async fn waiting_counts_and_letting_others_run_does_not() {
        const LONG: Duration = Duration::from_millis(60);
        let (pace, waiting) = paced(|_| tokio::time::sleep(LONG));
        waiting.await;
        assert!(pace.own_time() >= LONG, "{:?}", pace.own_time());
        let slot = slot().await;
        let (pace, yielding) = paced(|pace| async move { pace.let_others_run(&slot).await });
        let mut yielding = Box::pin(yielding);
        assert!(futures::poll!(&mut yielding).is_pending());
        tokio::time::sleep(LONG).await;
        yielding.await;
        assert!(pace.own_time() < LONG, "{:?}", pace.own_time());
    }

    /// The time of a poll counts as used while the poll is short; a long poll in which the thread sleeps does not.
    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a thread that stands still is the point")]
    async fn a_thread_that_sleeps_in_a_poll_uses_nothing() {
        const LONG: Duration = Duration::from_millis(40);
        let (pace, sleeping) = paced(|_| async { std::thread::sleep(LONG) });
        sleeping.await;
        assert!(pace.processor_time() < LONG / 4, "{:?}", pace.processor_time());
        let (pace, short) = paced(|_| async {});
        short.await;
        assert!(pace.processor_time() > Duration::ZERO);
    }

    #[tokio::test]
    async fn computing_counts() {
        let (pace, computing) = paced(|_| async {
            let begun = Instant::now();
            while thread_time() < 1 || begun.elapsed() < Duration::from_millis(30) {}
        });
        let before = thread_time();
        computing.await;
        let used = Duration::from_nanos(thread_time() - before);
        assert!(pace.own_time() + Duration::from_millis(1) >= used, "{:?} {used:?}", pace.own_time());
    }
}
