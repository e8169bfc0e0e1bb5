//! The data of the first format, step by step into the form of today: records by id become a table in the order of submission, and what was kept by hand is declared by it.
//!
//! A step moves what is far from a transaction's bounds, and removes what it has moved; so a step that is repeated, or the whole migration after a crash, goes on where it was.

use mcpp_tool::{
    Error,
    store::{Cursor, Index, Map, StoreError, Transaction, remove_collection},
};
use serde::Deserialize;

use crate::{
    engine::{UPKEEP, adopt},
    queue::{COMPLETED, FAILED, RELEASING, TASKS, WORK},
    record::{Status, Task},
    statistics::{self, BEGUN, BY_MINUTE, ENDED, RAN, SUMS, WAITED},
};

const OLD_TASKS: Map<String, Task> = Map::new("task");
const OLD_RELEASING: Index<(), String> = Index::new("releasing");
const OLD_WORKERS: Map<String, OldWork> = Map::new("worker");
const OLD_TOTALS: Map<(), OldTotals> = Map::new("totals");
const OLD_MINUTES: Map<u64, OldMinute> = Map::new("minute");
const OLD_WAKE: Map<(), u64> = Map::new("wake");
const OLD_CLEARING: Map<(), OldClearing> = Map::new("clearing");
/// Collections that the tables of today keep in another form.
const OLD_NAMES: [&str; 14] = [
    "ready",
    "delayed",
    "leased",
    "listed",
    "ended",
    "dependents",
    "held",
    "key",
    "count",
    "type",
    "rank",
    "totals",
    "minute",
    "clearing",
];

/// Writes of one step: less than half of what a transaction may write.
const STEP_WRITES: u64 = 4_000;
/// Entries that one step removes.
const STEP_ENTRIES: usize = 4_000;
/// Bytes that one step reads and writes.
const STEP_BYTES: u64 = 2 << 20;

/// The counts that a worker's own entry had.
#[derive(serde::Serialize, Deserialize)]
struct OldWork {
    #[serde(default)]
    completed: i64,
    #[serde(default)]
    failed: i64,
}

#[derive(serde::Serialize, Deserialize)]
struct OldTotals {
    begun: i64,
    waited_ms: i64,
    ended: i64,
    ran_ms: i64,
}

#[derive(serde::Serialize, Deserialize)]
struct OldMinute {
    submitted: i64,
    completed: i64,
    failed: i64,
}

#[derive(serde::Serialize, Deserialize)]
struct OldClearing {
    statuses: Vec<Status>,
    asked_ms: u64,
    cleared: u64,
}

/// One step of the migration. The cursor is the number of the part that it is at, and the place in it.
///
/// # Errors
/// An unknown format, and those of the store.
pub fn migrate(t: &Transaction<'_>, from: u32, cursor: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error> {
    if from != 0 {
        return Err(Error::failed(format!("format {from} is not known")));
    }
    let cursor = cursor.unwrap_or_else(|| vec![0]);
    let (part, place) = cursor.split_first().ok_or(StoreError::Unreadable)?;
    let next = match usize::from(*part) {
        0 => tasks(t, (!place.is_empty()).then(|| Cursor::from(place.to_vec())))?,
        1 => again(releasing(t)?, place),
        2 => {
            counts(t)?;
            None
        }
        part => match OLD_NAMES.get(part.saturating_sub(3)) {
            Some(name) => again(remove_collection(t, name, STEP_ENTRIES)?, place),
            None => return Ok(None),
        },
    };
    Ok(Some(match next {
        Some(place) => [vec![*part], place].concat(),
        None => vec![part.saturating_add(1)],
    }))
}

/// Another round of a part, unless it is done: a number that rises, as no cursor may come twice.
fn again(is_done: bool, place: &[u8]) -> Option<Vec<u8>> {
    let round = place.first_chunk().map_or(0, |round| u32::from_be_bytes(*round));
    (!is_done).then(|| round.saturating_add(1).to_be_bytes().to_vec())
}

/// Moves the tasks of which not all dependents know; whether that is done.
fn releasing(t: &Transaction<'_>) -> Result<bool, StoreError> {
    for parent in OLD_RELEASING.of(&()).most(STEP_ENTRIES / 2).walk(t) {
        let parent = parent?;
        RELEASING.insert(t, &(), &parent)?;
        OLD_RELEASING.remove(t, &(), &parent)?;
    }
    OLD_RELEASING.of(&()).is_empty(t)
}

/// Moves tasks, as many as fit into a step; where to go on.
fn tasks(t: &Transaction<'_>, cursor: Option<Cursor>) -> Result<Option<Vec<u8>>, StoreError> {
    let mut walk = OLD_TASKS.all().behind(cursor).walk(t);
    loop {
        let spent = t.spent();
        if spent.writes >= STEP_WRITES || spent.bytes >= STEP_BYTES {
            return Ok(walk.cursor().map(Cursor::into_bytes));
        }
        match walk.next() {
            None => return Ok(None),
            // It could not be read before either, and stays where it is.
            Some(Err(StoreError::Unreadable)) => {
                let place = walk.cursor().map(Cursor::into_bytes).unwrap_or_default();
                mcpp_tool::log::warning(format!("{:?} is no task, and stays", String::from_utf8_lossy(&place)));
            }
            Some(row) => {
                let (id, task) = row?;
                TASKS.replace(t, &(task.created_ms, id.clone()), None, Some(&task))?;
                OLD_TASKS.remove(t, &id)?;
            }
        }
    }
}

/// Moves what was counted, the alarm, and the clearing under way.
fn counts(t: &Transaction<'_>) -> Result<(), StoreError> {
    for worker in OLD_WORKERS.all().walk(t) {
        let (id, work) = worker?;
        WORK.add(t, &(&id, COMPLETED), work.completed);
        WORK.add(t, &(&id, FAILED), work.failed);
    }
    if let Some(totals) = OLD_TOTALS.get(t, &())? {
        let sums = [(BEGUN, totals.begun), (WAITED, totals.waited_ms), (ENDED, totals.ended), (RAN, totals.ran_ms)];
        sums.into_iter().for_each(|(sum, amount)| SUMS.add(t, &sum, amount));
    }
    for minute in OLD_MINUTES.all().walk(t) {
        let (minute, OldMinute { submitted, completed, failed }) = minute?;
        let numbers =
            [(statistics::SUBMITTED, submitted), (statistics::COMPLETED, completed), (statistics::FAILED, failed)];
        numbers.into_iter().for_each(|(kind, number)| BY_MINUTE.add(t, &(minute, kind), number));
    }
    if let Some(OldClearing { statuses, asked_ms, cleared }) = OLD_CLEARING.get(t, &())? {
        adopt(t, statuses, asked_ms, cleared)?;
    }
    if let Some(at_ms) = OLD_WAKE.get(t, &())? {
        OLD_WAKE.remove(t, &())?;
        UPKEEP.by(t, at_ms, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod frozen;
#[cfg(test)]
mod tests;
