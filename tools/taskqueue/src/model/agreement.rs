//! The promise of the counts: indexes and counts agree with the records.

use std::collections::{BTreeMap, BTreeSet};

use mcpp_tool::store::{Read, StoreError};

use super::WORKERS_NAMES;
use crate::{
    queue::{
        ANY_TYPE, DELAYED, DEPENDENTS, ENDED, HELD, LEASED, LISTED, READY, WORKERS, canonical_type, counted, lane,
        ready_up_to,
    },
    record::{State, Status, Task},
};

/// Whether indexes and counts are those of the records.
pub(super) fn agree(t: &mut impl Read, all: &BTreeMap<String, Task>) -> Result<(), String> {
    let ids = |state: &dyn Fn(&Task) -> bool| -> BTreeSet<String> {
        all.values().filter(|task| state(task)).map(|task| task.id.clone()).collect()
    };
    let second = |pairs: Vec<(u64, String)>| -> BTreeSet<String> { pairs.into_iter().map(|(_, id)| id).collect() };
    let same = |what: &str, found: BTreeSet<String>, expected: BTreeSet<String>| {
        if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
    };
    let read = |error: StoreError| error.to_string();
    for status in Status::ALL {
        let listed = second(LISTED.of(t, &status.as_str().to_owned(), None, 1_000).map_err(read)?);
        let expected = ids(&|task| task.status() == status);
        let count = counted(t, status).map_err(read)?;
        if count != expected.len() as u64 {
            return Err(format!("{count} {status:?} are counted, {} are there", expected.len()));
        }
        same("listed", listed, expected)?;
    }
    same(
        "delayed",
        second(DELAYED.of(t, &(), None, 1_000).map_err(read)?),
        ids(&|task| matches!(task.state, State::Delayed { .. })),
    )?;
    same(
        "leased",
        second(LEASED.of(t, &(), None, 1_000).map_err(read)?),
        ids(&|task| task.status() == Status::Running),
    )?;
    same("ended", second(ENDED.of(t, &(), None, 1_000).map_err(read)?), ids(&|task| task.status().is_final()))?;
    for worker in WORKERS_NAMES {
        let held: BTreeSet<String> = HELD.of(t, &worker.to_owned(), None, 1_000).map_err(read)?.into_iter().collect();
        if let Some(known) = WORKERS.get(t, &worker.to_owned()).map_err(read)?
            && known.running as usize != held.len()
        {
            return Err(format!("{worker} has {} tasks, {} are counted", held.len(), known.running));
        }
        same("held", held, ids(&|task| task.worker() == Some(worker)))?;
    }
    for task in all.values() {
        let waiting: BTreeSet<String> = DEPENDENTS.of(t, &task.id, None, 1_000).map_err(read)?.into_iter().collect();
        same(
            "dependents",
            waiting,
            ids(&|child| child.state == State::Blocked && child.waiting_for.contains(&task.id)),
        )?;
        let lane = lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref());
        for task_type in [canonical_type(&task.spec.task_type), ANY_TYPE] {
            let ready = READY.of(t, &(lane.clone(), task_type.to_owned()), None, 1_000).map_err(read)?;
            let is_there = ready.iter().any(|place| place.2 == task.id);
            if is_there != (task.state == State::Ready) {
                return Err(format!("ready: {task:?}"));
            }
        }
    }
    let ready = ready_up_to(t, u64::MAX).map_err(read)?;
    let expected = ids(&|task| task.state == State::Ready).len() as u64;
    if ready != Some(expected) { Err(format!("{ready:?} are ready, not {expected}")) } else { Ok(()) }
}
