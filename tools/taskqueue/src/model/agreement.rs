//! The promise of the counts: indexes and counts agree with the records.

use std::collections::{BTreeMap, BTreeSet};

use mcpp_tool::store::{Span, StoreError, View};

use super::WORKERS_NAMES;
use crate::{
    engine,
    queue::{
        self, ANY_TYPE, DEPENDENTS, DUE, DuePlace, ENDED, HELD, IDS, KEYS, LISTED, Place, READY, RUNNING, TaskKey,
        canonical_type, counted, lane, ready_ranks,
    },
    record::{State, Status, Task},
};

/// Whether indexes and counts are those of the records.
pub(crate) fn agree(t: &View<'_>, all: &BTreeMap<String, Task>) -> Result<(), String> {
    let ids = |state: &dyn Fn(&Task) -> bool| -> BTreeSet<String> {
        all.values().filter(|task| state(task)).map(|task| task.id.clone()).collect()
    };
    let due = |span: Span<DuePlace>| -> Result<BTreeSet<String>, String> {
        span.walk(t).map(|place| place.map(|(_, _, id)| id).map_err(|error| error.to_string())).collect()
    };
    let keys = |span: Span<TaskKey>| -> Result<BTreeSet<String>, String> {
        span.walk(t).map(|key| key.map(|(_, id)| id).map_err(|error| error.to_string())).collect()
    };
    let same = |what: &str, found: BTreeSet<String>, expected: BTreeSet<String>| {
        if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
    };
    let read = |error: StoreError| error.to_string();
    for status in Status::ALL {
        let listed = keys(LISTED.of(status.as_str()))?;
        let expected = ids(&|task| task.status() == status);
        let count = counted(t, status).map_err(read)?;
        if count != expected.len() as u64 {
            return Err(format!("{count} {status:?} are counted, {} are there", expected.len()));
        }
        same("listed", listed, expected)?;
    }
    same("delayed", due(DUE.of(&false))?, ids(&|task| matches!(task.state, State::Delayed { .. })))?;
    same("leased", due(DUE.of(&true))?, ids(&|task| task.status() == Status::Running))?;
    same("ended", due(ENDED.of(&()))?, ids(&|task| task.status().is_final()))?;
    for worker in WORKERS_NAMES {
        let held = keys(HELD.of(worker))?;
        let counted = engine::has(t, worker, RUNNING).map_err(read)?;
        if counted != held.len() as u64 {
            return Err(format!("{worker} has {} tasks, {counted} are counted", held.len()));
        }
        same("held", held, ids(&|task| task.worker() == Some(worker)))?;
    }
    for task in all.values() {
        let waiting = keys(DEPENDENTS.of(&task.id))?;
        same(
            "dependents",
            waiting,
            ids(&|child| child.state == State::Blocked && child.waiting_for.contains(&task.id)),
        )?;
        let lane = lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref());
        for task_type in [canonical_type(&task.spec.task_type), ANY_TYPE] {
            let ready: Vec<Place> = READY.of(&(&lane, task_type)).collect(t).map_err(read)?;
            let is_there = ready.iter().any(|place| *place == queue::place(task));
            if is_there != (task.state == State::Ready) {
                return Err(format!("ready: {task:?}"));
            }
        }
    }
    let ids_known: BTreeSet<String> =
        IDS.all().walk(t).map(|row| row.map(|(id, _)| id)).collect::<Result<_, _>>().map_err(read)?;
    same("ids", ids_known, ids(&|_| true))?;
    let keys_known = KEYS.all().walk(t).map(|row| row.map(|(_, id)| id)).collect::<Result<_, _>>().map_err(read)?;
    same("keys", keys_known, ids(&|task| task.spec.idempotency_key.is_some()))?;
    let ready = ready_ranks(t).map_err(read)?.up_to(u64::MAX);
    let expected = ids(&|task| task.state == State::Ready).len() as u64;
    if ready != Some(expected) { Err(format!("{ready:?} are ready, not {expected}")) } else { Ok(()) }
}
