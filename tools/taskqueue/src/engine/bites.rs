//! Work on many tasks, in transactions that stay far from their bounds.
//!
//! A bite that is too large all the same is tried again with half as many tasks, down to one; a task that cannot be changed even alone is passed over, so that it stops
//! nobody else's.

use mcpp_tool::store::{StoreError, Transaction, transact};

use super::QueueError;
use crate::{queue::find_sized, record::Task};

/// Tasks of one bite.
const BITE_TASKS: usize = 50;
/// Bytes of the records of one bite; one larger record is a bite by itself. A transaction may write four times as much in 50 ms of the component's time.
const BITE_BYTES: usize = 1 << 20;
/// The bytes that the change of a task writes besides its record: entries of indexes, counts, and its event, once for each subscriber.
const CHANGE_BYTES: usize = 4 << 10;

/// How much one piece of work may still do, so that a call stays within its budgets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    tasks: usize,
    bytes: usize,
}

impl Room {
    /// The room of a claim for other tasks, by the way: a few tasks.
    pub(super) const CLAIM: Self = Self { tasks: 8, bytes: 2 << 20 };
    /// The room of changes that follow from a change within its own transaction: small enough to leave room for the largest record that was changed.
    pub(super) const FOLLOWING: Self = Self { tasks: 16, bytes: 256 << 10 };
    /// One step of the timer. Its five steps together read and write 40 MiB and make 50,000 host calls at most, which is within a call's default budgets.
    pub(super) const STEP: Self = Self { tasks: 100, bytes: 4 << 20 };
    /// One call or step that clears the queue.
    pub(super) const CLEARING: Self = Self { tasks: 500, bytes: 4 << 20 };

    /// Tasks that there is room for.
    pub(super) fn tasks(&self) -> usize {
        self.tasks
    }

    fn is_spent(&self) -> bool {
        self.tasks == 0 || self.bytes == 0
    }

    /// Takes the room for one change, unless there is not enough.
    pub(super) fn take(&mut self, record_bytes: usize) -> bool {
        let bytes = record_bytes.saturating_add(CHANGE_BYTES);
        if self.tasks == 0 || bytes > self.bytes {
            return false;
        }
        self.spend(1, bytes);
        true
    }

    fn spend(&mut self, tasks: usize, bytes: usize) {
        self.tasks = self.tasks.saturating_sub(tasks);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// The outcome of a piece of work.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bites {
    /// How many of the ids were gone through, from the first on.
    pub(super) gone_through: usize,
    /// How many tasks were changed.
    pub(super) changed: usize,
    /// How many tasks could not be changed.
    pub(super) passed_over: usize,
}

/// Changes tasks; `change` tells whether it did something. Those that are gone count as gone through.
pub(super) fn in_bites(
    room: &mut Room,
    ids: &[String],
    mut change: impl FnMut(&mut Transaction, Task) -> Result<bool, QueueError>,
) -> Result<Bites, QueueError> {
    let (mut done, mut most) = (Bites::default(), BITE_TASKS);
    while done.gone_through < ids.len() && !room.is_spent() {
        let rest = ids.get(done.gone_through..).unwrap_or_default();
        match bite(rest, most.min(room.tasks), &mut change) {
            Ok((tasks, changed, bytes)) => {
                done.gone_through = done.gone_through.saturating_add(tasks);
                done.changed = done.changed.saturating_add(changed);
                room.spend(tasks, bytes);
            }
            // The store is not there for anything.
            Err(error) if is_of_the_store(&error) => return Err(error),
            Err(_) if most > 1 && rest.len() > 1 => most = most.min(rest.len()) / 2,
            Err(error) => {
                let id = rest.first().map(String::as_str).unwrap_or_default();
                mcpp_tool::log::warning(format!("task {id:?} cannot be looked after: {error}"));
                done.gone_through = done.gone_through.saturating_add(1);
                done.passed_over = done.passed_over.saturating_add(1);
                room.spend(1, CHANGE_BYTES);
                most = BITE_TASKS;
            }
        }
    }
    Ok(done)
}

fn is_of_the_store(error: &QueueError) -> bool {
    matches!(
        error,
        QueueError::Store(
            StoreError::Unavailable | StoreError::OutcomeUnknown | StoreError::Conflict | StoreError::TransactionOpen
        )
    )
}

/// One transaction: how many ids it went through, how many tasks it changed, and the bytes of that.
fn bite(
    ids: &[String],
    most: usize,
    change: &mut impl FnMut(&mut Transaction, Task) -> Result<bool, QueueError>,
) -> Result<(usize, usize, usize), QueueError> {
    transact(|t| {
        let (mut tasks, mut changed, mut bytes) = (0_usize, 0_usize, 0_usize);
        for id in ids.iter().take(most) {
            if let Some((task, size)) = find_sized(t, id)? {
                let more = bytes.saturating_add(size).saturating_add(CHANGE_BYTES);
                if tasks > 0 && more > BITE_BYTES {
                    break;
                }
                bytes = more;
                changed = changed.saturating_add(usize::from(change(t, task)?));
            }
            tasks = tasks.saturating_add(1);
        }
        Ok((tasks, changed, bytes))
    })
}
