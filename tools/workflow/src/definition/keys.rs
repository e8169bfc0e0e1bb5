//! Keys that steps of all runs share, and results that a step takes from an earlier one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest key when its placeholders are filled, in bytes: it is part of keys in the store.
pub const MAX_KEY_BYTES: usize = 256;
/// Longest key as it is written, in bytes.
pub const MAX_KEY_TEXT_BYTES: usize = 1_024;
/// Most steps of a key that may run at once.
pub const MAX_CONCURRENCY: u32 = 10_000;
/// Most steps of a key that may begin in one period.
pub const MAX_RATE: u32 = 1_000_000;
/// Shortest and longest period of a rate, in seconds: a millisecond, a day.
pub const RATE_PERIOD_S: (f64, f64) = (0.001, 86_400.0);
/// Shortest and longest time for which a result is kept, in seconds: a second, 30 days.
pub const CACHE_TTL_S: (f64, f64) = (1.0, 30.0 * 86_400.0);

/// At most so many steps of a key run at once, in all runs of the tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// The key, with placeholders: 1 to 256 bytes when they are filled.
    pub key: String,
    /// How many, 1 to 10,000. Each step compares its own limit with the number of all steps of the key.
    pub limit: u32,
}

/// Steps of a key begin evenly, in all runs of the tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The key, with placeholders: 1 to 256 bytes when they are filled.
    pub key: String,
    /// How many begin in a period, 1 to 1,000,000.
    pub limit: u32,
    /// The period in seconds: 0.001 to 86,400.
    pub per_s: f64,
}

impl Rate {
    /// How long after a step of the key the next one may begin, in microseconds.
    pub fn apart_us(&self) -> u64 {
        // A float becomes the nearest integer that there is.
        (self.per_s * 1e6 / f64::from(self.limit.max(1))).round().max(1.0) as u64
    }
}

/// The step takes the result of an earlier one with the same tool, build, arguments and rights, if there is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// The oldest result that it takes, and how long its own one is kept, in seconds: 1 to 2,592,000.
    pub ttl_s: f64,
}
