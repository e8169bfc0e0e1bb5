//! Heads of groups in back-off, by their keys: a look passes them over without reading them, until the time of their next attempts.
//!
//! They are a memory of what the store knows, and bounded. A look reads again a head for which there is no room here.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::record::group_of;
use crate::store::{KeyRange, after_key, after_prefix};

/// Heads that are remembered, of one space. A key has up to 600 bytes.
const MAX_RESTING: usize = 1_024;

/// The heads that rest, each with the time of its next attempt in milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct RestingHeads(BTreeMap<Bytes, u64>);

impl RestingHeads {
    /// Notes that a head rests until then.
    pub(super) fn note(&mut self, head: &Bytes, next_ms: u64) {
        if self.0.len() < MAX_RESTING || self.0.contains_key(head) {
            self.0.insert(head.clone(), next_ms);
        }
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets those whose time has come; the time of the next one.
    pub(super) fn wake(&mut self, now_ms: u64) -> Option<u64> {
        self.0.retain(|_, next_ms| *next_ms > now_ms);
        self.0.values().min().copied()
    }

    /// The first one in a range, and the key behind its group. An event that comes before it in the group is found before it.
    pub(super) fn first_in(&self, range: &KeyRange) -> Option<(Bytes, Bytes)> {
        if range.is_empty() {
            return None;
        }
        let (head, _) = self.0.range(range.start.clone()..range.end.clone()).next()?;
        let behind = group_of(head).map_or_else(|| after_key(head), |(group, _)| after_prefix(&group));
        Some((head.clone(), behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::record::{delivery_key, group},
        names::ComponentName,
        store::Section,
    };

    #[test]
    fn a_resting_head_is_passed_over_until_its_time_and_only_so_many_are_remembered() {
        let name = ComponentName::new("b").expect("legal");
        let head = |number: usize| delivery_key(&group(&name, "a/t", &format!("k{number:05}")), 7, 0);
        let (mut resting, all) = (RestingHeads::default(), Section::Deliveries.prefix(b""));
        for number in 0..MAX_RESTING + 1 {
            resting.note(&head(number), 1_000 + u64::from(number > 0));
        }
        let (first, behind) = resting.first_in(&all).expect("the first");
        assert_eq!(first, head(0));
        assert!(behind > head(0) && behind <= head(1), "behind the group, and before the next one");
        assert_eq!(resting.wake(999), Some(1_000));
        assert_eq!(resting.wake(1_000), Some(1_001));
        assert_eq!(resting.first_in(&all).map(|(first, _)| first), Some(head(1)));
        let last = KeyRange { start: head(MAX_RESTING), end: all.end.clone() };
        assert_eq!(resting.first_in(&last), None, "there was no room for it");
        assert_eq!(resting.wake(2_000), None);
        assert_eq!(resting.first_in(&all), None);
        assert_eq!(resting.first_in(&KeyRange { start: all.end.clone(), end: all.start.clone() }), None);
    }
}
