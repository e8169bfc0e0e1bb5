//! Unique keys: one task of a key in a time.

use mcpp_tool::store::{Map, StoreError, Transaction};

use super::{QueueError, cancel};
use crate::{
    queue::find,
    record::{OnConflict, Status, Task},
};

/// The last task of each key, and until when there may be no other, in milliseconds since 1970-01-01 UTC.
const UNIQUE: Map<String, (u64, String)> = Map::new("unique");

/// Makes a new task the one of its key, by the key's rule; before when it must not begin.
pub(super) fn take_over(t: &Transaction<'_>, task: &Task, now_ms: u64) -> Result<u64, QueueError> {
    let Some(unique) = &task.spec.unique else { return Ok(0) };
    if let Some((_, earlier)) = UNIQUE.get(t, &unique.key)?.filter(|(until_ms, _)| *until_ms > now_ms) {
        match unique.on_conflict {
            OnConflict::Reject => return Err(QueueError::NotUnique(earlier)),
            OnConflict::Replace | OnConflict::Debounce => {
                if find(t, &earlier)?.is_some_and(|task| task.status() == Status::Queued) {
                    cancel(t, &earlier, "a newer task of its key came", false, now_ms)?;
                }
            }
        }
    }
    let until_ms = now_ms.saturating_add(unique.window_ms);
    UNIQUE.set(t, &unique.key, &(until_ms, task.id.clone()))?;
    Ok(if unique.on_conflict == OnConflict::Debounce { until_ms } else { 0 })
}

/// A task is forgotten: its key is free, unless another one has it.
pub(super) fn forget(t: &Transaction<'_>, task: &Task) -> Result<(), StoreError> {
    let Some(unique) = &task.spec.unique else { return Ok(()) };
    match UNIQUE.get(t, &unique.key)? {
        Some((_, id)) if id == task.id => UNIQUE.remove(t, &unique.key).map(drop),
        _ => Ok(()),
    }
}
