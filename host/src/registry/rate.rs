//! How often a tool, or a tenant, is called; and whether a tool's calls are long.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

use crate::call::CallError;

/// A bound on calls in a minute. As many as a minute's may come at once; after that they come at the even rate.
#[derive(Debug)]
pub struct Rate(ArcSwap<Limited>);

#[derive(Debug)]
struct Limited {
    per_minute: NonZeroU32,
    limiter: DefaultDirectRateLimiter,
}

impl Limited {
    fn new(per_minute: u64) -> Self {
        let per_minute = NonZeroU32::new(u32::try_from(per_minute).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        Self { per_minute, limiter: RateLimiter::direct(Quota::per_minute(per_minute)) }
    }
}

impl Rate {
    /// At most so many calls in a minute.
    pub fn new(per_minute: u64) -> Self {
        Self(ArcSwap::from_pointee(Limited::new(per_minute)))
    }

    /// Changes the bound; what was counted is forgotten.
    pub fn set(&self, per_minute: u64) {
        self.0.store(Limited::new(per_minute).into());
    }

    /// Counts a call of `of`, or refuses it.
    pub fn take(&self, of: &'static str) -> Result<(), CallError> {
        let limited = self.0.load();
        limited.limiter.check().map_err(|not_until| CallError::TooMany {
            of,
            limit: u64::from(limited.per_minute.get()),
            retry_after: not_until.wait_time_from(DefaultClock::default().now()).max(Duration::from_millis(1)),
        })
    }
}

/// Processor time from which on a call is long: to move to another thread is little beside it, and a door's thread that computes for so long serves nobody.
const LONG_CALL: Duration = Duration::from_millis(1);

/// Whether the calls of a tool usually are long.
#[derive(Debug, Default)]
pub struct Weight(AtomicU32);

impl Weight {
    const MOST: u32 = 8;
    /// One long call keeps a door's thread for as long as several short ones save by beginning there.
    const LONG: u32 = 3;

    /// Whether more than a quarter of its last calls were long.
    pub fn is_heavy(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= Self::MOST / 2
    }

    /// Notes a call that used so much processor time.
    pub fn note(&self, used: Duration) {
        let next = |now: u32| {
            Some(if used >= LONG_CALL { now.saturating_add(Self::LONG).min(Self::MOST) } else { now.saturating_sub(1) })
        };
        let _always_some = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_refuses_what_is_too_much_and_says_when() {
        let rate = Rate::new(2);
        assert!(rate.take("tool").is_ok() && rate.take("tool").is_ok());
        let refused = rate.take("tool").expect_err("the third");
        assert_eq!(refused.kind(), "too_many");
        assert!(refused.to_string().starts_with("too many calls: at most 2 in a minute for this tool; try again in "));
        let wait = refused.retry_after().expect("later");
        assert!(wait > Duration::from_secs(20) && wait <= Duration::from_secs(30), "{wait:?}");
        rate.set(3);
        assert!(rate.take("tool").is_ok());
    }

    #[test]
    fn a_tool_is_heavy_while_more_than_a_quarter_of_its_calls_are() {
        let weight = Weight::default();
        assert!(!weight.is_heavy());
        (0..20).for_each(|_| weight.note(2 * LONG_CALL));
        assert!(weight.is_heavy());
        (0..4).for_each(|_| weight.note(LONG_CALL / 10));
        assert!(weight.is_heavy());
        weight.note(LONG_CALL / 10);
        assert!(!weight.is_heavy());
        for _ in 0..20 {
            weight.note(LONG_CALL);
            (0..2).for_each(|_| weight.note(LONG_CALL / 10));
        }
        assert!(weight.is_heavy(), "short calls in between do not hide long ones");
        for _ in 0..20 {
            weight.note(LONG_CALL);
            (0..4).for_each(|_| weight.note(LONG_CALL / 10));
        }
        assert!(!weight.is_heavy(), "few are long");
    }
}
