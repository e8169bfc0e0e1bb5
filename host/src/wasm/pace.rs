//! The guest's own time: time on the wall, without the time in which the host let others run instead.
//!
//! What a guest waits for is its own time; being preempted is not its fault. Bounds on what a guest may hold up are measured by this clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::store::Clock;

/// The own time of one guest.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    /// Time preempted, in nanoseconds, up to the last time that it ended.
    preempted: AtomicU64,
    /// When it was preempted, in nanoseconds after `began`; 0 if it is not.
    since: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { began: Instant::now(), preempted: AtomicU64::new(0), since: AtomicU64::new(0) }
    }
}

impl Pace {
    fn now(&self) -> u64 {
        nanoseconds(self.began.elapsed())
    }

    /// Lets others run, and does not count that.
    pub async fn let_others_run(&self) {
        self.since.store(self.now().max(1), Ordering::Relaxed);
        tokio::task::yield_now().await;
        let since = self.since.swap(0, Ordering::Relaxed);
        self.preempted.fetch_add(self.now().saturating_sub(since), Ordering::Relaxed);
    }
}

impl Clock for Pace {
    fn own_time(&self) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        let until = if since == 0 { self.now() } else { since };
        Duration::from_nanos(until.saturating_sub(self.preempted.load(Ordering::Relaxed)))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
