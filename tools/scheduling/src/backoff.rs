//! When to try again: exponential back-off with jitter.

/// How long to wait between attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The wait after the first failed attempt, in milliseconds.
    pub base_ms: u64,
    /// By how much each further wait is longer; at least 1.
    pub factor: f64,
    /// The longest wait, in milliseconds.
    pub max_ms: u64,
}

impl Backoff {
    /// The wait after `failed` attempts (at least 1), in milliseconds: between half of it and all of it, as `chance` (0 to 1) says, so that what failed together is not repeated together.
    pub fn wait_ms(&self, failed: u32, chance: f64) -> u64 {
        let exponent = i32::try_from(failed.saturating_sub(1).min(64)).unwrap_or(64);
        let full = (self.base_ms as f64 * self.factor.max(1.0).powi(exponent)).min(self.max_ms as f64);
        // Never negative, never above `max_ms`.
        (full * (0.5 + 0.5 * chance.clamp(0.0, 1.0))).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_grow_up_to_the_longest() {
        let backoff = Backoff { base_ms: 100, factor: 2.0, max_ms: 1_000 };
        let waits = |chance| [1, 2, 3, 4, 5, u32::MAX].map(|failed| backoff.wait_ms(failed, chance));
        assert_eq!(waits(1.0), [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(waits(0.0), [50, 100, 200, 400, 500, 500]);
    }

    proptest! {
        #[test]
        fn waits_keep_to_their_bounds(base_ms in 0_u64..1_000_000, factor in -1.0_f64..100.0, max_ms in 0_u64..10_000_000, failed: u32, chance in -1.0_f64..2.0) {
            let wait = Backoff { base_ms, factor, max_ms }.wait_ms(failed, chance);
            prop_assert!(wait <= max_ms);
            prop_assert!(wait >= base_ms.min(max_ms) / 2);
        }
    }
}
