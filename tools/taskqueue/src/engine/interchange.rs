//! Tasks as they are carried from one queue to another: a line of JSON has all that the queue knows of a task, apart from who holds it.

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
    record::{MAX_RECORD_BYTES, Reach, State, Status, Task},
    rules,
};

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
    let mut task = Task { created_ms: task.created_ms.min(now_ms), ..task.clone() };
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
