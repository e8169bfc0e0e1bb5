//! The memory of the whole process, as the kernel counts it, against a bound: beyond it the gate takes no further connection.
//!
//! Every connection and stream has bounds of its own. This one holds when all of them together, or something else in the process, took more than was thought.

use std::{
    fs,
    time::{Duration, Instant},
};

/// How long a count is believed.
const FRESH: Duration = Duration::from_millis(250);

/// The bound, and the last count.
#[derive(Debug)]
pub(in crate::mesh) struct ProcessMemory {
    most: u64,
    seen: Option<(Instant, bool)>,
    resident: fn() -> Option<u64>,
}

impl ProcessMemory {
    /// A bound of so many bytes.
    pub(in crate::mesh) fn new(most: u64) -> Self {
        Self { most, seen: None, resident: resident_bytes }
    }

    /// Whether the process has more than the bound. Where the kernel does not tell, it has not.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        match self.seen {
            Some((since, full)) if now.saturating_duration_since(since) < FRESH => full,
            _ => {
                let full = (self.resident)().is_some_and(|bytes| bytes > self.most);
                self.seen = Some((now, full));
                full
            }
        }
    }

    #[cfg(test)]
    pub(super) fn of(most: u64, resident: fn() -> Option<u64>) -> Self {
        Self { most, seen: None, resident }
    }
}

/// Bytes of this process that are in memory.
fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok()?.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_counted_now_and_then() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(ProcessMemory::new(1).is_full(Instant::now()) && !ProcessMemory::new(u64::MAX).is_full(Instant::now()));
        let now = Instant::now();
        let mut memory = ProcessMemory::of(9, || Some(10));
        assert!(memory.is_full(now));
        memory.resident = || Some(9);
        assert!(memory.is_full(now + FRESH / 2), "the last count still holds");
        assert!(!memory.is_full(now + FRESH));
        assert!(!ProcessMemory::of(9, || None).is_full(now));
    }
}
