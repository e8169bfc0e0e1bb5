//! The reserve of a store's quota, which new work leaves alone. So a store that is full of work has room for what ends it.

/// The reserve is this part of the quota,
const SHARE: u64 = 20;
/// at least so many bytes, which is a largest value of a store,
const LEAST_BYTES: u64 = 1 << 20;
/// at most so many,
const MOST_BYTES: u64 = 16 << 20;
/// and never more than this part: a small quota has room for work too.
const MOST_SHARE: u64 = 4;

/// Bytes of a quota that new work leaves alone: a twentieth of it, from 1 MiB to 16 MiB, and at most a quarter.
pub fn reserve_bytes(quota_bytes: u64) -> u64 {
    (quota_bytes / SHARE).clamp(LEAST_BYTES, MOST_BYTES).min(quota_bytes / MOST_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_a_twentieth_of_the_quota_within_bounds() {
        const MIB: u64 = 1 << 20;
        for (quota, reserve) in [
            (0, 0),
            (1_000, 250),
            (4 * MIB, MIB),
            (8 * MIB, MIB),
            (20 * MIB, MIB),
            (40 * MIB, 2 * MIB),
            (320 * MIB, 16 * MIB),
            (8_192 * MIB, 16 * MIB),
            (u64::MAX, 16 * MIB),
        ] {
            assert_eq!(reserve_bytes(quota), reserve, "of {quota}");
        }
    }
}
