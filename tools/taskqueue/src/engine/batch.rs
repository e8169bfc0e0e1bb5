//! Many things in one call, each for itself: in as few transactions as their bounds allow.

use std::time::{Duration, Instant};

use mcpp_tool::store::{Transaction, transact};

use super::{
    QueueError,
    ids::is_id,
    reserve::{self, Part},
};
use crate::queue;

/// Bytes read and written after which a transaction of a batch ends. A transaction may write four times as much.
const CHUNK_BYTES: u64 = 2 << 20;
/// Writes after which it ends: less than half of what a transaction may write.
const CHUNK_WRITES: u64 = 4_000;
/// Time after which it ends: half of what it may take.
const CHUNK_TIME: Duration = Duration::from_millis(25);

/// Items between two looks at the clock.
const ITEMS_PER_LOOK: usize = 8;

/// Does `work` with each item; what fails does not stop the others, and leaves nothing behind. An outcome for each item, in their order. `ids` names the tasks that an
/// item is about, which are read at once.
pub fn each<T, R>(
    items: &[T],
    ids: fn(&T) -> &str,
    work: impl FnMut(&Transaction<'_>, &T) -> Result<R, QueueError>,
) -> Vec<Result<R, QueueError>> {
    each_within(items, ids, |_| Part::All, work)
}

/// The same, where each item has its part of the store's quota.
pub(super) fn each_within<T, R>(
    items: &[T],
    ids: fn(&T) -> &str,
    part: fn(&T) -> Part,
    mut work: impl FnMut(&Transaction<'_>, &T) -> Result<R, QueueError>,
) -> Vec<Result<R, QueueError>> {
    let (mut outcomes, mut most) = (Vec::with_capacity(items.len()), usize::MAX);
    while let Some(rest) = items.get(outcomes.len()..).filter(|rest| !rest.is_empty()) {
        let least = rest.iter().take(most).map(part).min().unwrap_or(Part::All);
        match transact(|t| reserve::within(t, least, || chunk(t, rest, most, ids, &mut work))) {
            Ok(done) => {
                outcomes.extend(done);
                most = most.saturating_mul(2);
            }
            // One of them is too large, or refused by the store: which one, smaller transactions tell.
            Err(_) if most.min(rest.len()) > 1 => most = most.min(rest.len()) / 2,
            Err(error) => outcomes.push(Err(error)),
        }
    }
    outcomes
}

/// The work of one transaction.
fn chunk<T, R>(
    t: &Transaction<'_>,
    items: &[T],
    most: usize,
    ids: fn(&T) -> &str,
    work: &mut impl FnMut(&Transaction<'_>, &T) -> Result<R, QueueError>,
) -> Result<Vec<Result<R, QueueError>>, QueueError> {
    let (begun, mut done) = (Instant::now(), Vec::new());
    queue::read_ahead(t, items.iter().take(most).map(ids).filter(|id| is_id(id)))?;
    for (number, item) in items.iter().take(most).enumerate() {
        let spent = t.spent();
        // The clock is the host's, so not every item asks for it.
        let is_late = number.is_multiple_of(ITEMS_PER_LOOK) && begun.elapsed() >= CHUNK_TIME;
        let is_full = spent.bytes >= CHUNK_BYTES || spent.writes >= CHUNK_WRITES || is_late;
        if is_full && !done.is_empty() {
            break;
        }
        let outcome = work(t, item);
        // What is refused leaves nothing behind.
        let has_written = t.spent().writes > spent.writes;
        done.push(match outcome {
            Err(error @ (QueueError::Store(_) | QueueError::Full(_))) => return Err(error),
            Err(error) if has_written => return Err(error),
            outcome => outcome,
        });
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use mcpp_tool::store::{Map, StoreError, memory, snapshot};

    use super::*;

    const DONE: Map<u32, u32> = Map::new("done");

    #[test]
    fn what_the_store_refuses_leaves_nothing_and_stops_no_other() {
        memory::clear();
        let items: Vec<u32> = (0..40).collect();
        let outcomes = each(
            &items,
            |_| "",
            |t, item| {
                DONE.set(t, item, item)?;
                match item {
                    7 => Err(StoreError::ValueTooLarge.into()),
                    // A rule may refuse behind a write.
                    9 => Err(QueueError::Invalid("no".into())),
                    _ => Ok(*item),
                }
            },
        );
        let failed: Vec<usize> = (0..40).filter(|number| outcomes[*number].is_err()).collect();
        assert_eq!((outcomes.len(), failed), (40, vec![7, 9]));
        let left: Vec<(u32, u32)> = DONE.all().collect(&snapshot().expect("a snapshot")).expect("read");
        let expected: Vec<u32> = (0..40).filter(|item| ![7, 9].contains(item)).collect();
        assert_eq!(left.into_iter().map(|(item, _)| item).collect::<Vec<u32>>(), expected);
    }
}
