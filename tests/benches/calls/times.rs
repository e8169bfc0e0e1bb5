//! How long calls took.

use std::time::Duration;

/// Times in microseconds, sorted.
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times.into_iter().map(|time| time.as_secs_f64() * 1e6).collect())
    }

    pub(crate) fn at(&self, quantile: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0[((last as f64) * quantile).round() as usize]
    }
}
