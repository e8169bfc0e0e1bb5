//! Workers: registered ones are bounded, counted and shown, and leave in order.

use mcpp_tool::store::{Budget, StoreError, Transaction, View, bites, snapshot, transact};

use super::{
    QueueError, check_name,
    ids::MAX_ID_BYTES,
    is_id,
    reserve::{Part, within},
    store,
    upkeep::{FOLLOWING_BYTES, FOLLOWING_TASKS, UPKEEP},
};
use crate::{
    queue::{COMPLETED, FAILED, HELD, RUNNING, TASKS, TaskKey, WORK, WORKERS},
    record::{Worker, json_bytes},
    rules,
};

/// Largest entry of a worker, in bytes of JSON.
pub const MAX_WORKER_BYTES: usize = 64 << 10;

/// Registers a worker, or renews what is known of one.
pub fn register(t: &Transaction<'_>, worker: Worker) -> Result<Worker, QueueError> {
    let bytes = json_bytes(&worker);
    if bytes > MAX_WORKER_BYTES {
        return Err(QueueError::Invalid(format!(
            "capabilities, resource_limits and metadata have {bytes} bytes together; {MAX_WORKER_BYTES} are allowed"
        )));
    }
    let known = if is_id(&worker.id) { WORKERS.get(t, &worker.id)? } else { None };
    if known.is_none() {
        check_name("worker_id", &worker.id)?;
    }
    for (number, name) in worker.capabilities.iter().enumerate() {
        check_name(&format!("capabilities/{number}"), name)?;
    }
    let registered_ms = known.map_or(worker.registered_ms, |known| known.registered_ms);
    let worker = Worker { registered_ms, ..worker };
    within(t, Part::Work, || Ok(WORKERS.set(t, &worker.id, &worker)?))?;
    Ok(worker)
}

/// The outcome for a worker that leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// The worker as it was.
    pub worker: Worker,
    /// The tasks that it had completed.
    pub completed: u64,
    /// Tasks that are taken back from it.
    pub abandoned: u64,
}

/// Lets a worker go: at once, its tasks taken back; or gracefully, when it has finished them or after `patience_ms`.
pub fn unregister(t: &Transaction<'_>, id: &str, patience_ms: Option<u64>, now_ms: u64) -> Result<Left, QueueError> {
    let worker = find_worker(t, id)?;
    let abandoned = if patience_ms.is_some() { 0 } else { has(t, id, RUNNING)? };
    let completed = has(t, id, COMPLETED)?;
    let leaves_ms = now_ms.saturating_add(patience_ms.unwrap_or_default());
    let leaving = Worker { leaves_ms: Some(leaves_ms), ..worker.clone() };
    WORKERS.set(t, id, &leaving)?;
    // The timer does everything beyond one bite.
    if !let_go_of(t, &leaving, now_ms)? {
        UPKEEP.by(t, leaves_ms, now_ms)?;
    }
    Ok(Left { worker, completed, abandoned })
}

/// The worker of this id.
pub fn find_worker(t: &View<'_>, id: &str) -> Result<Worker, QueueError> {
    let known = if is_id(id) { WORKERS.get(t, id)? } else { None };
    known.ok_or_else(|| QueueError::NoWorker(id.chars().take(MAX_ID_BYTES).collect()))
}

/// All workers, by id.
pub fn all_workers(t: &View<'_>) -> Result<Vec<Worker>, StoreError> {
    WORKERS.all().walk(t).map(|worker| worker.map(|(_, worker)| worker)).collect()
}

/// How many tasks of a kind ([`RUNNING`], [`COMPLETED`], [`FAILED`]) a worker has or had.
pub(crate) fn has(t: &View<'_>, worker: &str, kind: u8) -> Result<u64, StoreError> {
    Ok(WORK.get(t, &(worker, kind))?.unsigned_abs())
}

/// Workers that have had the time to leave are gone, and their tasks taken back; whether there is more to do.
pub(super) fn let_go(budget: &mut Budget, now_ms: u64) -> Result<bool, QueueError> {
    let mut more = false;
    for worker in all_workers(&snapshot()?)? {
        let Some(leaves_ms) = worker.leaves_ms else { continue };
        if leaves_ms <= now_ms {
            let held = HELD.of(&worker.id);
            more |= bites(budget, &held, |t, key| take_back(t, &key, &worker.id, now_ms))?.is_worth_more();
        }
        transact(|t| forget_worker(t, &worker.id))?;
    }
    Ok(more)
}

/// Takes a task back from a worker; whether that had it.
fn take_back(t: &Transaction<'_>, key: &TaskKey, worker: &str, now_ms: u64) -> Result<bool, QueueError> {
    let Some(before) = TASKS.get(t, key)?.filter(|task| task.worker() == Some(worker)) else { return Ok(false) };
    let mut after = before.clone();
    rules::release(&mut after, rules::Claim::default(), "worker unregistered", now_ms)?;
    store(t, &before, &after, now_ms)?;
    Ok(true)
}

/// Forgets a worker that is leaving, if it has nothing any more; whether it is gone.
fn forget_worker(t: &Transaction<'_>, id: &str) -> Result<bool, QueueError> {
    let is_leaving = WORKERS.get(t, id)?.is_some_and(|worker| worker.leaves_ms.is_some());
    let is_gone = is_leaving && HELD.of(id).is_empty(t)?;
    if is_gone {
        WORKERS.remove(t, id)?;
        for kind in [COMPLETED, FAILED] {
            WORK.add(t, &(id, kind), WORK.get(t, &(id, kind))?.saturating_neg());
        }
    }
    Ok(is_gone)
}

/// Takes back a few of the tasks of a worker that leaves, if its time is over; whether it has nothing any more, and is forgotten.
fn let_go_of(t: &Transaction<'_>, worker: &Worker, now_ms: u64) -> Result<bool, QueueError> {
    if worker.leaves_ms.is_some_and(|leaves| leaves <= now_ms) {
        let begun = t.spent().bytes;
        for key in HELD.of(&worker.id).most(FOLLOWING_TASKS).walk(t) {
            // No more room, or it cannot be read: the timer passes over what it cannot change.
            if t.spent().bytes.saturating_sub(begun) > FOLLOWING_BYTES {
                return Ok(false);
            }
            match take_back(t, &key?, &worker.id, now_ms) {
                Err(QueueError::Store(StoreError::Unreadable)) => return Ok(false),
                taken => drop(taken?),
            }
        }
    }
    forget_worker(t, &worker.id)
}
