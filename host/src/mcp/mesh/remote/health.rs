//! What this host has measured of a peer that it calls, and for how long it leaves the peer alone.

use std::time::Duration;

use tokio::time::Instant;

/// How long a peer is left alone after it could not be reached: at first, and at most.
pub(super) const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);

/// How a peer does, as this host has measured it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Health {
    /// A moving mean of what a call takes beyond the time that the peer itself needs for it.
    pub latency: Option<Duration>,
    /// Requests in flight.
    pub in_flight: usize,
    /// Attempts in a row that did not reach it.
    pub failures: u32,
    /// Until when it is left alone.
    pub rests_until: Option<Instant>,
    /// Until when it has no room for calls, or stops, as it said.
    pub busy_until: Option<Instant>,
    /// Until when it counts as silent, and what was heard of it before.
    pub silent_until: Option<(Instant, u64)>,
}

impl Health {
    /// Whether it is left alone now.
    pub fn rests(&self) -> bool {
        self.rests_until.is_some_and(|until| until > Instant::now())
    }

    pub(super) fn reached(&mut self, took: Option<Duration>) {
        (self.failures, self.rests_until) = (0, None);
        if let Some(took) = took {
            // An eighth of each new measurement.
            self.latency = Some(match self.latency {
                Some(mean) => mean.saturating_mul(7).saturating_add(took) / 8,
                None => took,
            });
        }
    }

    pub(super) fn missed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        let doubled = FIRST_BACK_OFF.saturating_mul(1 << self.failures.saturating_sub(1).min(10));
        let mut random = [0];
        let _without_jitter_if_it_fails = getrandom::fill(&mut random);
        let [random] = random;
        let wait = doubled.min(LONGEST_BACK_OFF).mul_f64(0.5 + f64::from(random) / 510.0);
        self.rests_until = Instant::now().checked_add(wait);
    }
}
