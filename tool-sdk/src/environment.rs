//! Time, chance and ids: what a tool cannot compute from its arguments. Rules that take these as parameters stay plain functions that a test can call.
//!
//! ```
//! use mcpp_tool::environment::{id, now_ms, parse_rfc3339, rfc3339};
//!
//! assert_eq!(rfc3339(1_795_253_400_125), "2026-11-21T09:30:00.125Z");
//! assert_eq!(parse_rfc3339("2026-11-21T11:30:00.125+02:00"), Some(1_795_253_400_125));
//! assert_eq!(id().len(), 32);
//! assert!(now_ms() > 1_700_000_000_000);
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Milliseconds since 1970-01-01 UTC.
pub fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A duration in milliseconds; the longest that a `u64` has, if it is longer.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Waits, while the call's time runs on. The host lets other instances run meanwhile. In a native test no time passes.
pub fn pause(time: Duration) {
    #[cfg(target_arch = "wasm32")]
    #[allow(clippy::disallowed_methods, reason = "a component has its thread to itself, and the host lets others run")]
    std::thread::sleep(time);
    #[cfg(not(target_arch = "wasm32"))]
    let _passes_at_once = time;
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    // The host always gives randomness; if it did not, ids would repeat, which their tables would show.
    let _always_there = getrandom::fill(&mut bytes);
    bytes
}

pub(crate) fn byte() -> u8 {
    let [byte] = random();
    byte
}

/// A random number from 0 to below 1.
pub fn chance() -> f64 {
    f64::from(u32::from_le_bytes(random())) / (f64::from(u32::MAX) + 1.0)
}

/// A new id: the 32 hexadecimal digits of a random UUID (RFC 9562, version 4).
pub fn id() -> String {
    let mut bytes: [u8; 16] = random();
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    hexadecimal(&bytes)
}

/// Bytes as lower-case hexadecimal digits, two for each.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A time in milliseconds since 1970-01-01 UTC as RFC 3339 text in UTC, such as `2026-11-21T09:30:00.125Z`; empty after the year 9999, which has no such text.
pub fn rfc3339(ms: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// The milliseconds since 1970-01-01 UTC of RFC 3339 text; none for other text, 0 for earlier times.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ids_have_their_forms() {
        assert_eq!(rfc3339(253_402_300_800_000), "", "the year 10000");
        assert_eq!(parse_rfc3339("1969-12-31T23:59:59Z"), Some(0));
        assert_eq!(parse_rfc3339("2026-11-21"), None);
        let (one, other) = (id(), id());
        assert_eq!((one.len(), one.as_bytes()[12]), (32, b'4'));
        assert_ne!(one, other);
        assert_eq!(hexadecimal(&[0, 0x0a, 0xff]), "000aff");
        assert!((0..100).all(|_| (0.0..1.0).contains(&chance())));
    }
}
