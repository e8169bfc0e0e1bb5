//! The rates of what a tenant's clients are sent, and of what they send that is large. Megabytes cost the kernel more than they cost the host: on one machine, the copies of one client's
//! data are in the way of every other client. Notifications cost little each, and one call may cause one for each of thousands of streams.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

/// The part of a second whose bytes may move at once after a pause.
const AT_ONCE: u32 = 4;

/// Bytes that are counted together, whoever they are of: a large message has as many turns as it has parts.
pub const PART_BYTES: usize = 64 << 10;

/// A limiter that knows how often it has held somebody back.
#[derive(Debug)]
struct CountedLimiter {
    limiter: DefaultDirectRateLimiter,
    held_back: AtomicU64,
}

impl CountedLimiter {
    fn new(quota: Quota) -> Self {
        Self { limiter: RateLimiter::direct(quota), held_back: AtomicU64::new(0) }
    }

    /// Counts so many, or says how long to wait for it. More than what is ever free at once passes.
    fn take(&self, count: NonZeroU32) -> Result<(), Duration> {
        let Ok(Err(early)) = self.limiter.check_n(count) else { return Ok(()) };
        self.held_back.fetch_add(1, Ordering::Relaxed);
        Err(early.wait_time_from(DefaultClock::default().now()))
    }

    /// Counts so many when it may.
    async fn wait(&self, count: NonZeroU32) {
        while let Err(wait) = self.take(count) {
            tokio::time::sleep(wait).await;
        }
    }
}

/// A rate of bytes, in and out together.
#[derive(Debug)]
pub struct ByteRate {
    /// Counts KiB.
    limiter: CountedLimiter,
    at_once: NonZeroU32,
}

impl ByteRate {
    /// At most so many bytes a second.
    pub fn new(bytes_per_second: u64) -> Self {
        let per_second = kib(usize::try_from(bytes_per_second).unwrap_or(usize::MAX));
        let at_once = per_second.get().div_ceil(AT_ONCE);
        let at_once = NonZeroU32::new(at_once).unwrap_or(NonZeroU32::MIN);
        Self { limiter: CountedLimiter::new(Quota::per_second(per_second).allow_burst(at_once)), at_once }
    }

    /// Counts bytes that move now, or says how long to wait for it. More than what may move at once counts as that.
    pub fn count(&self, bytes: usize) -> Result<(), Duration> {
        self.limiter.take(kib(bytes).min(self.at_once))
    }

    /// Counts bytes when they may move.
    pub async fn wait(&self, bytes: usize) {
        self.limiter.wait(kib(bytes).min(self.at_once)).await;
    }

    /// How often bytes had to wait.
    pub fn held_back(&self) -> u64 {
        self.limiter.held_back.load(Ordering::Relaxed)
    }

    /// Counts `uncounted` bytes, part by part as others do, so that each has its turn. May be broken off, and goes on with the rest.
    pub async fn settle(&self, uncounted: &AtomicUsize) {
        loop {
            let left = uncounted.load(Ordering::Relaxed);
            if left == 0 {
                return;
            }
            let part = left.min(PART_BYTES);
            self.wait(part).await;
            uncounted.store(left.saturating_sub(part), Ordering::Relaxed);
        }
    }
}

/// Notifications of changes for each stream that a tenant may have, each second in the mean; as many more after a pause.
const NOTICES_OF_STREAM: u64 = 4;

/// The rate of notifications of changes, of all streams of a tenant together. What changes while one waits is told by the same one.
#[derive(Debug)]
pub struct NoticeRate(CountedLimiter);

impl NoticeRate {
    /// The rate of a tenant that may have so many streams.
    pub fn new(streams: u64) -> Self {
        let per_second = u32::try_from(streams.saturating_mul(NOTICES_OF_STREAM)).unwrap_or(u32::MAX);
        Self(CountedLimiter::new(Quota::per_second(NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN))))
    }

    /// Waits until one more may be sent.
    pub async fn wait(&self) {
        self.0.wait(NonZeroU32::MIN).await;
    }

    /// How often a notification had to wait.
    pub fn held_back(&self) -> u64 {
        self.0.held_back.load(Ordering::Relaxed)
    }
}

/// Whole KiB, at least one.
fn kib(bytes: usize) -> NonZeroU32 {
    u32::try_from(bytes.div_ceil(1 << 10))
        .ok()
        .map_or(NonZeroU32::MAX, |kib| NonZeroU32::new(kib).unwrap_or(NonZeroU32::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_second_moves_at_once_and_the_rest_at_the_rate() {
        let traffic = ByteRate::new(64 << 20);
        let at_once = (0..10_000).take_while(|_| traffic.count(PART_BYTES).is_ok()).count();
        assert!((256..300).contains(&at_once), "16 MiB in parts of 64 KiB: {at_once}");
        assert_eq!(traffic.held_back(), 1, "the one that ended it");
        let wait = traffic.count(PART_BYTES).expect_err("used up");
        assert!(wait <= Duration::from_millis(1), "{wait:?}");
        // What could never move at once moves when all of that is free.
        let wait = traffic.count(usize::MAX).expect_err("used up");
        assert!(wait <= Duration::from_millis(250), "{wait:?}");
    }
}
