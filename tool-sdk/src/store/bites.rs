//! Work on many entries, in transactions that stay far from their bounds, within a budget, and so that what cannot be changed stops nothing else.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use super::{Cursor, Span, Spent, StoreError, Transaction, attempt, snapshot};

/// Bytes read and written after which a transaction of [`bites`] ends. A transaction may write four times as much in 50 ms of the component's time.
const BITE_BYTES: u64 = 1 << 20;
/// Writes after which it ends: a fifth of what a transaction may write.
const BITE_WRITES: u64 = 2_000;
/// Time after which it ends: less than half of what it may take.
const BITE_TIME: Duration = Duration::from_millis(20);
/// How often a transaction is run again that others were in the way of.
const MAX_CONFLICTS: u32 = 10;

/// How much work may still be done, so that a call stays within its own bounds. Each field is spent separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Entries.
    pub entries: usize,
    /// Bytes of keys and values read and written.
    pub bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Time.
    pub time: Duration,
}

impl Budget {
    /// No bound in any respect, to be narrowed: `Budget { entries: 100, ..Budget::UNBOUNDED }`.
    pub const UNBOUNDED: Self = Self { entries: usize::MAX, bytes: u64::MAX, writes: u64::MAX, time: Duration::MAX };

    /// Whether nothing may be done any more.
    pub fn is_spent(&self) -> bool {
        self.entries == 0 || self.bytes == 0 || self.writes == 0 || self.time.is_zero()
    }

    fn spend(&mut self, entries: usize, spent: Spent, time: Duration) {
        self.entries = self.entries.saturating_sub(entries);
        self.bytes = self.bytes.saturating_sub(spent.bytes);
        self.writes = self.writes.saturating_sub(spent.writes);
        self.time = self.time.saturating_sub(time);
    }
}

/// How far [`bites`] has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bitten {
    /// Entries that were gone through.
    pub entries: usize,
    /// Those of them that were changed.
    pub changed: usize,
    /// Those of them that could not be changed, with a warning in the log.
    pub passed_over: usize,
    /// Where to go on; none if the span has come to its end.
    pub next: Option<Cursor>,
}

impl Bitten {
    /// Whether there is more, and going on is of use: something was done.
    pub fn is_worth_more(&self) -> bool {
        self.next.is_some() && self.changed > 0
    }
}

/// Goes through a span in one transaction after another, until it ends or the budget is spent. `change` says whether it did something; what it is given was read in its own
/// transaction, but it may have changed other entries meanwhile.
///
/// A bite that fails is tried again with half as many entries, down to one. An entry that cannot be changed even alone is passed over.
///
/// ```
/// use mcpp_tool::{Error, store::{Bitten, Budget, Index, bites, transact}};
///
/// const OLD: Index<(), u64> = Index::new("old");
/// # transact(|t| (0..300_u64).try_for_each(|number| OLD.insert(t, &(), &number))).expect("written");
///
/// fn tidy(budget: &mut Budget) -> Result<Bitten, Error> {
///     bites(budget, &OLD.of(&()), |t, number| Ok::<_, Error>(OLD.remove(t, &(), &number)?))
/// }
///
/// let bitten = tidy(&mut Budget { entries: 100, ..Budget::UNBOUNDED })?;
/// assert_eq!((bitten.changed, bitten.next.is_some()), (100, true));
/// let bitten = tidy(&mut { Budget::UNBOUNDED })?;
/// assert_eq!((bitten.changed, bitten.next), (200, None));
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// Those of the store by which nothing can be done at all.
pub fn bites<P, T, E: From<StoreError> + Display>(
    budget: &mut Budget,
    span: &Span<P, T>,
    mut change: impl FnMut(&Transaction<'_>, T) -> Result<bool, E>,
) -> Result<Bitten, E> {
    let (mut done, mut most, mut conflicts) = (Bitten::default(), usize::MAX, 0);
    loop {
        if budget.is_spent() {
            return Ok(done);
        }
        let begun = Instant::now();
        let rest = span.clone().behind(done.next.clone());
        let room = Budget { entries: budget.entries.min(most), ..*budget };
        let (bitten, store_error) = attempt(&mut |t| bite(t, &rest, room, begun, &mut change));
        match (bitten, store_error) {
            (Ok((bitten, spent)), _) => {
                budget.spend(bitten.entries, spent, begun.elapsed());
                done.entries = done.entries.saturating_add(bitten.entries);
                done.changed = done.changed.saturating_add(bitten.changed);
                done.next = bitten.next;
                most = most.saturating_mul(2);
                if done.next.is_none() {
                    return Ok(done);
                }
            }
            (Err(_), Some(StoreError::Conflict)) if conflicts < MAX_CONFLICTS => conflicts += 1,
            (Err(error), Some(StoreError::Conflict | StoreError::Unavailable))
            | (Err(error), Some(StoreError::OutcomeUnknown | StoreError::TransactionOpen)) => return Err(error),
            (Err(_), _) if most > 1 => most = most.min(128) / 2,
            (Err(error), _) => {
                let t = snapshot()?;
                let mut walk = rest.walk(&t);
                // Also an entry that cannot be read is one to pass over.
                let _its_item = walk.next();
                let Some(cursor) = walk.cursor() else { return Ok(Bitten { next: None, ..done }) };
                let key = cursor.clone().into_bytes();
                crate::log::warning(format!("{:?} cannot be looked after: {error}", String::from_utf8_lossy(&key)));
                budget.spend(1, Spent::default(), begun.elapsed());
                done.entries = done.entries.saturating_add(1);
                done.passed_over = done.passed_over.saturating_add(1);
                done.next = Some(cursor);
                most = usize::MAX;
            }
        }
    }
}

/// One transaction's work, and what it took.
fn bite<P, T, E: From<StoreError>>(
    t: &Transaction<'_>,
    span: &Span<P, T>,
    room: Budget,
    begun: Instant,
    change: &mut impl FnMut(&Transaction<'_>, T) -> Result<bool, E>,
) -> Result<(Bitten, Spent), E> {
    let mut bitten = Bitten::default();
    let mut walk = span.walk(t);
    let (bytes, writes, time) = (room.bytes.min(BITE_BYTES), room.writes.min(BITE_WRITES), room.time.min(BITE_TIME));
    loop {
        let spent = t.spent();
        let is_full = bitten.entries >= room.entries
            || bitten.entries > 0 && (spent.bytes >= bytes || spent.writes >= writes || begun.elapsed() >= time);
        if is_full {
            bitten.next = walk.cursor();
            return Ok((bitten, spent));
        }
        let Some(item) = walk.next() else { return Ok((bitten, spent)) };
        bitten.changed = bitten.changed.saturating_add(usize::from(change(t, item?)?));
        bitten.entries = bitten.entries.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Map, memory, transact};

    const ROWS: Map<u64, String> = Map::new("rows");

    fn fill(rows: u64, bytes: usize) {
        memory::clear();
        for row in 0..rows {
            transact(|t| ROWS.set(t, &row, &"x".repeat(bytes))).expect("written");
        }
        memory::spent();
    }

    #[test]
    fn large_entries_are_changed_in_several_transactions_and_the_budget_says_when_to_stop() {
        fill(20, 300_000);
        let mut budget = Budget { bytes: 4 << 20, ..Budget::UNBOUNDED };
        let rewrite = |t: &Transaction<'_>, (row, value): (u64, String)| ROWS.set(t, &row, &value).map(|()| true);
        let bitten = bites(&mut budget, &ROWS.all(), rewrite).expect("done");
        assert!((4..12).contains(&bitten.changed), "{bitten:?}");
        let spent = memory::spent();
        assert!(spent.bytes < 8 << 20, "{spent:?}");
        let rest = ROWS.all().behind(bitten.next.clone());
        let more = bites(&mut { Budget::UNBOUNDED }, &rest, rewrite).expect("done");
        assert_eq!((bitten.changed + more.changed, more.next), (20, None));
    }

    #[test]
    fn an_entry_that_cannot_be_read_or_changed_is_passed_over_and_an_empty_span_is_done() {
        fill(40, 10);
        transact(|t| t.set(&ROWS.key(&7), b"no JSON")).expect("written");
        let mut seen = Vec::new();
        let bitten = bites(&mut { Budget::UNBOUNDED }, &ROWS.all(), |t, (row, value)| {
            if row == 9 {
                return Err(StoreError::ValueTooLarge);
            }
            seen.push(row);
            ROWS.set(t, &row, &value).map(|()| true)
        })
        .expect("done");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..40).filter(|row| ![7, 9].contains(row)).collect::<Vec<u64>>());
        assert_eq!((bitten.entries, bitten.passed_over, bitten.next), (40, 2, None));
        memory::clear();
        let none = bites(&mut { Budget::UNBOUNDED }, &ROWS.all(), |_, _| Ok::<_, StoreError>(true)).expect("done");
        assert_eq!(none, Bitten::default());
    }

    #[test]
    fn a_store_that_is_not_there_ends_the_work() {
        fill(2, 10);
        let all = || bites(&mut { Budget::UNBOUNDED }, &ROWS.all(), |_, _| Ok::<_, StoreError>(true));
        assert_eq!(transact(|_| all()), Err(StoreError::TransactionOpen));
    }
}
