//! A guest's own time: the processor time that it uses, and the time in which it waits. It excludes the time in which the host or the system lets others run
//! instead.
//!
//! This clock measures the bounds on delays that a guest causes, so that they mean the same on a busy machine. One thread at a time polls its owner;
//! any thread may read it.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{EPOCH, SLICE, admission::Slot, turns::Turn};
use crate::store::Clock;

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
    /// Processor time of the polling thread at the start of the poll.
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
        let running = match self.polled_since.load(Ordering::Relaxed) {
            0 => 0,
            _ => thread_time().saturating_sub(self.thread_time.load(Ordering::Relaxed)),
        };
        Duration::from_nanos(self.computed.load(Ordering::Relaxed).saturating_add(running))
    }

    /// Counts processor time that the host used elsewhere in the guest's place.
    pub fn charge(&self, time: Duration) {
        self.counted.fetch_add(nanoseconds(time), Ordering::Relaxed);
        self.computed.fetch_add(nanoseconds(time), Ordering::Relaxed);
    }

    fn enter(&self, thread_time: u64) {
        self.thread_time.store(thread_time, Ordering::Relaxed);
        let waited = self.since(&self.waits_since);
        self.waits_since.store(0, Ordering::Relaxed);
        self.counted.fetch_add(waited, Ordering::Relaxed);
        self.polled_since.store(self.now(), Ordering::Relaxed);
    }

    fn leave(&self, used: u64) {
        self.counted.fetch_add(used, Ordering::Relaxed);
        self.computed.fetch_add(used, Ordering::Relaxed);
        self.polled_since.store(0, Ordering::Relaxed);
        // A guest that waits needs no turn for that.
        self.end_turn();
        if !self.yields.swap(false, Ordering::Relaxed) {
            self.waits_since.store(self.now(), Ordering::Relaxed);
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
pub(super) struct Paced<F> {
    pub(super) future: Pin<Box<F>>,
    pub(super) pace: Arc<Pace>,
}

impl<F: Future> Future for Paced<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = thread_time();
        self.pace.enter(before);
        let polled = self.future.as_mut().poll(context);
        self.pace.leave(thread_time().saturating_sub(before));
        polled
    }
}

/// Processor time of this thread, in nanoseconds.
pub(super) fn thread_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, rest) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or_default().saturating_mul(1_000_000_000).saturating_add(rest.unwrap_or_default())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::wasm::{
        EngineConfig,
        admission::{Admission, Share},
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
