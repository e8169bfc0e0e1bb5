//! How slowly the other side may read or write, and how often a stranger may ask.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

/// Bytes that each second of waiting for a client has to move, in the mean: a message of 4 MiB in about four minutes.
const LEAST_BYTES_PER_SECOND: u64 = 16 << 10;
/// Requests of one stranger's connection that are answered at once, each second; a probe of a load balancer asks once a second.
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(50).unwrap();
/// Requests of all strangers together each second: about a twentieth of a processor.
const ALL_PER_SECOND: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// The patience with one client. Waiting for the client spends it, bytes that move earn it back.
#[derive(Debug)]
pub(super) struct Patience {
    full: Duration,
    left: Duration,
}

impl Patience {
    /// The client may stand still for `full`.
    pub(super) fn new(full: Duration) -> Self {
        Self { full, left: full }
    }

    /// How long the client may stand still now.
    pub(super) fn left(&self) -> Duration {
        self.left
    }

    /// The client moved `bytes` after the host had waited for `waited`.
    pub(super) fn moved(&mut self, bytes: usize, waited: Duration) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let earned = Duration::from_micros(bytes.saturating_mul(1_000_000) / LEAST_BYTES_PER_SECOND);
        self.left = self.left.saturating_sub(waited).saturating_add(earned).min(self.full);
    }
}

/// Connections that are accepted at once, and each second after that. Each costs the lobby some tens of microseconds, also one that is let go at once.
const CONNECTIONS_AT_ONCE: NonZeroU32 = NonZeroU32::new(512).unwrap();
const CONNECTIONS_PER_SECOND: NonZeroU32 = NonZeroU32::new(10_000).unwrap();
/// A stranger's connection that asks no more often than this does not wait for other strangers: a probe is one of these.
const CALM_PER_SECOND: NonZeroU32 = NonZeroU32::new(5).unwrap();
const CALM_AT_ONCE: NonZeroU32 = NonZeroU32::new(2).unwrap();

/// A rate of requests, or of connections.
#[derive(Debug)]
pub(super) struct RequestRate(DefaultDirectRateLimiter);

impl RequestRate {
    /// The rate of one connection.
    pub(super) fn of_connection() -> Self {
        Self(RateLimiter::direct(Quota::per_second(REQUESTS_PER_SECOND)))
    }

    /// The rate up to which a connection is calm.
    pub(super) fn of_calm() -> Self {
        Self(RateLimiter::direct(Quota::per_second(CALM_PER_SECOND).allow_burst(CALM_AT_ONCE)))
    }

    /// The rate of new connections.
    pub(super) fn of_connections() -> Self {
        Self(RateLimiter::direct(Quota::per_second(CONNECTIONS_PER_SECOND).allow_burst(CONNECTIONS_AT_ONCE)))
    }

    /// The rate of all strangers together.
    pub(super) fn of_strangers() -> Self {
        Self(RateLimiter::direct(Quota::per_second(ALL_PER_SECOND)))
    }

    /// Takes one more, if it is within the rate.
    pub(super) fn take(&self) -> bool {
        self.0.check().is_ok()
    }

    /// Waits until one more is due.
    pub(super) async fn wait(&self) {
        while let Err(early) = self.0.check() {
            tokio::time::sleep(early.wait_time_from(DefaultClock::default().now())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_keeps_the_rate_is_never_cut_off_and_a_slower_one_is() {
        let second = Duration::from_secs(1);
        let after = |bytes: usize, seconds: usize| {
            let mut patience = Patience::new(10 * second);
            for _ in 0..seconds {
                patience.moved(bytes, second);
            }
            patience.left()
        };
        assert_eq!(after(16 << 10, 10_000), 10 * second, "to the byte");
        assert!(after((16 << 10) - 1, 10_000) < 10 * second);
        assert_eq!(after(8 << 10, 30), second / 2, "at half of the rate it gets less time than its next bytes take");
        assert_eq!(after(usize::MAX, 1), 10 * second, "a fast client earns no more than all of it");
    }

    #[test]
    fn one_connection_asks_no_more_often_than_its_rate() {
        let rate = RequestRate::of_connection();
        let at_once = (0..1_000).take_while(|_| rate.0.check().is_ok()).count();
        // One more is due every 20 ms.
        assert!((50..500).contains(&at_once), "{at_once}");
    }
}
