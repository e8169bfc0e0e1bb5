//! When a component may be asked for its lists again: at once after a quiet time, and after a growing pause where its lists change without one.
//!
//! The pause is never shorter than a multiple of what the last listing took, so a component that always has something to list uses a small part of one processor.

use std::time::{Duration, Instant};

/// The pause after the first listing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause. A component whose lists change without a pause is asked six times a minute.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(10);
/// The pause is at least so many times as long as the listing before it.
const REST: u32 = 4;
/// From so many listings in a row on the pause is the longest.
pub(super) const MOST_IN_A_ROW: u32 = 8;

/// The listings of one component that followed each other without a quiet time.
#[derive(Debug, Default)]
pub(super) struct ListingPause {
    in_a_row: u32,
    pause: Duration,
    ended: Option<Instant>,
}

impl ListingPause {
    /// How long the next listing has to wait. A quiet time of twice the pause ends the row.
    pub(super) fn left(&mut self, now: Instant) -> Duration {
        let Some(ended) = self.ended else { return Duration::ZERO };
        let quiet = now.saturating_duration_since(ended);
        if quiet > self.pause.saturating_mul(2) {
            *self = Self::default();
            return Duration::ZERO;
        }
        self.pause.saturating_sub(quiet)
    }

    /// Notes a listing that took so long; whether the row has just become as long as a row is counted.
    pub(super) fn note(&mut self, now: Instant, took: Duration) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.in_a_row.saturating_sub(1)));
        self.pause = doubled.max(took.saturating_mul(REST)).min(MAX_PAUSE);
        self.ended = Some(now);
        self.in_a_row == MOST_IN_A_ROW
    }

    /// Whether the lists count as ones that change without a pause: the row is as long as a row is counted, and no quiet time has ended it.
    pub(super) fn is_a_loop(&self, now: Instant) -> bool {
        let is_quiet = |ended: Instant| now.saturating_duration_since(ended) > self.pause.saturating_mul(2);
        self.in_a_row >= MOST_IN_A_ROW && !self.ended.is_some_and(is_quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_without_a_quiet_time_are_few_and_a_quiet_time_forgets_them() {
        let (mut pause, start, took) = (ListingPause::default(), Instant::now(), Duration::from_millis(1));
        let (mut now, mut listings, mut rows) = (start, 0, 0);
        while now < start + Duration::from_secs(600) {
            now += pause.left(now);
            now += took;
            listings += 1;
            rows += u32::from(pause.note(now, took));
        }
        assert!((60..70).contains(&listings), "six a minute, and a few at the beginning: {listings}");
        assert_eq!(rows, 1, "the row is told of once");
        assert!(pause.is_a_loop(now) && pause.is_a_loop(now + MAX_PAUSE * 2), "it goes on");
        assert!(!pause.is_a_loop(now + MAX_PAUSE * 3), "a quiet time ends it, before anybody asks for a listing");
        assert_eq!(pause.left(now + MAX_PAUSE * 2), Duration::ZERO, "the pause itself is no quiet time");
        assert!(pause.left(now) > Duration::ZERO);
        now += MAX_PAUSE * 3;
        assert_eq!(pause.left(now), Duration::ZERO);
        pause.note(now, took);
        assert!(pause.left(now) <= FIRST_PAUSE && !pause.is_a_loop(now), "it begins anew");
    }

    #[test]
    fn a_long_listing_is_followed_by_a_longer_pause() {
        let (mut pause, now) = (ListingPause::default(), Instant::now());
        pause.note(now, Duration::from_secs(1));
        assert_eq!(pause.left(now), Duration::from_secs(4));
        // Changes that come just after each quiet time leave most of a processor too.
        assert_eq!(pause.left(now + Duration::from_secs(9)), Duration::ZERO);
        pause.note(now, Duration::from_secs(60));
        assert_eq!(pause.left(now), MAX_PAUSE);
    }
}
