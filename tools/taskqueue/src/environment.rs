//! The inputs of the rules: time, chance and new ids.

use std::time::{SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Milliseconds since 1970-01-01 UTC.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    // The host always gives randomness; if it did not, ids would repeat and be refused, which is seen.
    let _always_there = getrandom::fill(&mut bytes);
    bytes
}

/// A number from 0 to below 1.
pub fn chance() -> f64 {
    f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX)
}

/// A new id: 32 hexadecimal digits of a random UUID (version 4).
pub fn new_id() -> String {
    let mut bytes: [u8; 16] = random();
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time as RFC 3339 text in UTC, such as `2026-11-21T09:30:00.125Z`.
pub fn iso(ms: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ids_have_their_forms() {
        assert_eq!(iso(1_795_253_400_125), "2026-11-21T09:30:00.125Z");
        let id = new_id();
        assert_eq!((id.len(), id.as_bytes()[12]), (32, b'4'));
        assert_ne!(id, new_id());
        assert!((0.0..=1.0).contains(&chance()));
    }
}
