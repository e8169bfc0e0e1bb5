//! How often a tenant's saves are loaded: a burst at once, then so many a second. A build that is saved a thousand times in a second is loaded a few times, the newest last.

use std::time::Duration;

use tokio::time::Instant;

/// Loads that saves may cause at once. A team that copies all of its tools into a folder does not wait.
const BURST: u32 = 40;
/// Loads that saves may cause each second from then on: faster than a person saves, and little work for the host.
const LOADS_PER_SECOND: u32 = 10;
/// Bytes that are read and compiled for one load; a larger file counts as several loads.
const BYTES_PER_LOAD: u64 = 8 << 20;

/// The pace of one tenant.
#[derive(Debug)]
pub(super) struct LoadPace {
    /// When all of the burst is there again.
    full: Instant,
}

impl LoadPace {
    pub(super) fn new(now: Instant) -> Self {
        Self { full: now }
    }

    fn between() -> Duration {
        Duration::from_secs(1) / LOADS_PER_SECOND
    }

    /// When the next load may begin.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let ahead = Self::between().saturating_mul(BURST.saturating_sub(1));
        self.full.checked_sub(ahead).map_or(now, |next| next.max(now))
    }

    /// Counts a load of a file of so many bytes.
    pub(super) fn count(&mut self, now: Instant, bytes: u64) {
        let loads = u32::try_from(bytes / BYTES_PER_LOAD).unwrap_or(u32::MAX).saturating_add(1);
        self.full = self.full.max(now) + Self::between().saturating_mul(loads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_beyond_a_burst_are_loaded_so_many_a_second() {
        let start = Instant::now();
        let mut pace = LoadPace::new(start);
        let mut storm = |from: Duration, until: Duration| {
            let (mut now, mut loads) = (start + from, 0_u32);
            while now < start + until {
                if pace.next(now) <= now {
                    pace.count(now, 100);
                    loads += 1;
                }
                now += Duration::from_millis(1);
            }
            loads
        };
        assert_eq!(storm(Duration::ZERO, Duration::from_millis(100)), BURST);
        assert_eq!(storm(Duration::from_millis(100), Duration::from_millis(1_100)), LOADS_PER_SECOND);
        let rested = Duration::from_secs(60);
        assert_eq!(storm(rested, rested + Duration::from_millis(99)), BURST, "who rests has the burst again");
        pace.count(start + rested, 20 * BYTES_PER_LOAD);
        assert!(pace.next(start + rested) >= start + rested + Duration::from_secs(2), "large files count more");
    }
}
