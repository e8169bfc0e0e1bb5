//! Tasks as they are carried from one queue to another: a line of JSON has all that the queue knows of a task, apart from who holds it.

use std::collections::BTreeSet;

use mcpp_tool::store::Transaction;
use serde_json::{Map, Value, json};

use super::{
    QueueError, Submission,
    batch::each_within,
    find,
    ids::check_name,
    reserve::Part,
    save,
    submission::{plan, same_work},
    unique, upkeep,
};
use crate::{
    origin,
    queue::{self, KEYS, TASKS},
    record::{MAX_LOG_LINES, MAX_RECORD_BYTES, Reach, State, Status, Task},
    rules,
};

/// Most claims and retries that an imported task counts: what follows them still rises, and every client can read it exactly.
const MAX_COUNT: u32 = 1_000_000_000;

/// A task on its way, and what became of it before.
#[derive(Debug, Clone, PartialEq)]
pub struct Traveller {
    task: Task,
    not_before_ms: u64,
    status: Status,
}

/// A task as a line: its record with `task_id`, `status` and `not_before_ms` in the place of what only this queue understands.
pub fn export(task: &Task) -> Value {
    // A record that is in the store has a JSON form.
    let mut line = json!(task);
    if let Some(fields) = line.as_object_mut() {
        ["id", "state", "turn_us", "parting"].into_iter().for_each(|name| drop(fields.remove(name)));
        fields.insert("task_id".into(), json!(task.id));
        fields.insert("status".into(), json!(task.status()));
        if let State::Delayed { until_ms } = task.state {
            fields.insert("not_before_ms".into(), json!(until_ms));
        }
    }
    line
}

impl Traveller {
    /// Reads a line. A task that ran, or waited for anything, is to be queued again.
    pub fn read(mut line: Map<String, Value>) -> Result<Self, QueueError> {
        let refuse = |error: serde_json::Error| QueueError::Invalid(format!("it is no exported task: {error}"));
        let mut take = |name: &str| line.remove(name).unwrap_or_default();
        let status: Status = serde_json::from_value(take("status")).map_err(refuse)?;
        let not_before_ms: Option<u64> = serde_json::from_value(take("not_before_ms")).map_err(refuse)?;
        let id = take("task_id");
        let state = if status.is_final() { status.as_str() } else { "blocked" };
        line.extend([("id".to_owned(), id), ("state".to_owned(), json!(state))]);
        let mut task: Task = serde_json::from_value(Value::Object(line)).map_err(refuse)?;
        // A line is the importer's word.
        task.spec.reach = Reach::of_caller();
        task.spec.peer = origin::peer();
        task.parting = None;
        Ok(Self { task, not_before_ms: not_before_ms.unwrap_or_default(), status })
    }

    /// The id of the task.
    pub fn id(&self) -> &str {
        &self.task.id
    }
}

/// Takes tasks that were exported into this queue, each for itself; the outcome for each, in their order, as [`take_in`] has it. They leave the reserve of the store's
/// quota alone.
pub fn take_in_each(
    travellers: &[Result<Traveller, QueueError>],
    now_ms: u64,
) -> Vec<Result<(Task, bool), QueueError>> {
    each_within(
        travellers,
        id_of,
        |_| Part::Work,
        |t, traveller| take_in(t, traveller.as_ref().map_err(Clone::clone)?, now_ms),
    )
}

/// A task that keeps to what the queue itself would have written: nothing in it is of the future, and it waits for what it depends on alone.
fn within_bounds(mut task: Task, now_ms: u64) -> Task {
    for time in [&mut task.created_ms, &mut task.updated_ms, &mut task.ready_ms] {
        *time = now_ms.min(*time);
    }
    for time in [&mut task.line_ms, &mut task.started_ms, &mut task.finished_ms] {
        *time = time.map(|time| now_ms.min(time));
    }
    let waits: BTreeSet<String> = std::mem::take(&mut task.waiting_for).into_iter().collect();
    let parents = task.spec.dependencies.iter().filter(|parent| waits.contains(*parent) && **parent != task.id);
    task.waiting_for = parents.cloned().collect();
    let surplus = task.logs.len().saturating_sub(MAX_LOG_LINES);
    task.logs.drain(..surplus);
    task.attempt = task.attempt.min(MAX_COUNT);
    task.retries = task.retries.min(MAX_COUNT);
    task.fencing_token = task.fencing_token.min(u64::from(MAX_COUNT));
    task
}

/// The id of a task that could be read; otherwise an empty one.
fn id_of(traveller: &Result<Traveller, QueueError>) -> &str {
    traveller.as_ref().map_or("", Traveller::id)
}

/// Takes a task that was exported into this queue, unless it is here already; the task as it is here, and whether it is new. One that waits for a task that is not here
/// yet waits until that has come and ended.
fn take_in(t: &Transaction<'_>, traveller: &Traveller, now_ms: u64) -> Result<(Task, bool), QueueError> {
    let Traveller { task, not_before_ms, status } = traveller;
    check_name("task_id", &task.id)?;
    let submission = Submission { id: None, not_before_ms: *not_before_ms, spec: task.spec.clone() };
    if let Some(known) = queue::find(t, &task.id)? {
        return Ok((same_work(&submission, known)?, false));
    }
    submission.check()?;
    if let Some(key) = &task.spec.idempotency_key
        && KEYS.get(t, key)?.is_some()
    {
        return Err(QueueError::OtherWork(key.clone()));
    }
    if task.bytes() > MAX_RECORD_BYTES {
        return Err(QueueError::Invalid(format!("its record is larger than {MAX_RECORD_BYTES} bytes")));
    }
    let mut task = within_bounds(task.clone(), now_ms);
    if status.is_final() {
        // It has ended long ago: no event tells of it, and no measurement counts it.
        TASKS.put(t, &(task.created_ms, task.id.clone()), &task)?;
        upkeep::tell_dependents(t, &task.id, *status == Status::Completed, now_ms)?;
    } else {
        let mut waiting_for = Vec::new();
        for parent in std::mem::take(&mut task.waiting_for) {
            match find(t, &parent).map(|parent| parent.status()) {
                Ok(Status::Completed) => {}
                Ok(Status::Failed | Status::Cancelled) => rules::dependency_ended(&mut task, &parent, false, now_ms),
                Ok(Status::Queued | Status::Running) | Err(QueueError::NoTask(_)) => waiting_for.push(parent),
                Err(error) => return Err(error),
            }
        }
        task.waiting_for = waiting_for;
        if !task.status().is_final() {
            let not_before_ms = unique::take_over(t, &task, now_ms)?.max(*not_before_ms);
            rules::settle(&mut task, not_before_ms, now_ms);
        }
        save(t, None, Some(&task), now_ms)?;
    }
    plan(t, std::slice::from_ref(&task), now_ms)?;
    Ok((task, true))
}

#[cfg(test)]
mod tests {
    use mcpp_tool::store::{memory, transact};

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn an_imported_task_keeps_to_what_the_queue_writes_itself() {
        memory::clear();
        let log = json!({ "ts": 1.0, "stream": "stdout", "message": "m" });
        let line = json!({
            "task_id": "b", "status": "queued", "created_ms": u64::MAX, "updated_ms": u64::MAX, "ready_ms": u64::MAX,
            "line_ms": u64::MAX, "started_ms": u64::MAX, "finished_ms": u64::MAX,
            "attempt": u32::MAX, "retries": u32::MAX, "fencing_token": u64::MAX,
            "waiting_for": vec!["a"; 10_000].into_iter().chain(["b", "other"]).collect::<Vec<_>>(),
            "spec": {
                "task_type": "t", "payload": {}, "priority": 0.0, "dependencies": ["a", "b"],
                "max_attempts": 3, "backoff_ms": 1, "backoff_factor": 2.0,
            },
        });
        let mut line = line.as_object().cloned().expect("an object");
        let read = |line: &Map<String, Value>| Traveller::read(line.clone()).expect("a task");
        let imported = transact(|t| take_in(t, &read(&line), NOW)).expect("taken in").0;
        assert_eq!(imported.waiting_for, ["a"], "what it depends on, and not itself");
        assert_eq!((imported.created_ms, imported.updated_ms, imported.ready_ms), (NOW, NOW, NOW));
        assert_eq!((imported.line_ms, imported.started_ms, imported.finished_ms), (Some(NOW), Some(NOW), Some(NOW)));
        let counts = [u64::from(imported.attempt), u64::from(imported.retries), imported.fencing_token];
        assert_eq!(counts, [u64::from(MAX_COUNT); 3]);
        line.insert("logs".into(), vec![log; MAX_LOG_LINES + 50].into());
        line.insert("task_id".into(), json!("c"));
        let imported = transact(|t| take_in(t, &read(&line), NOW)).expect("taken in").0;
        assert_eq!(imported.logs.len(), MAX_LOG_LINES);
    }
}
