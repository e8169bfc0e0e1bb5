//! Submitting tasks: what may be submitted, what was submitted before, and submitting again what has ended.

use mcpp_tool::store::{Prepared, StoreError, Transaction, View};

use super::{
    QueueError,
    batch::each_within,
    find,
    ids::{check_name, check_task_id, is_id, retry_id},
    reserve::{Part, within},
    save, shares, turns, unique, upkeep, waiting,
};
use crate::{
    origin,
    queue::{self, KEYS, TASKS, canonical_type, settings},
    record::{Aging, Reach, Spec, State, Task, json_bytes},
    rules,
};

/// Most dependencies of one task.
pub const MAX_DEPENDENCIES: usize = 100;
/// Largest payload, in bytes of JSON.
pub const MAX_PAYLOAD_BYTES: usize = 512 << 10;
/// Largest tags and metadata together, in bytes of JSON: a record has room for them beside the largest payload.
pub const MAX_NOTES_BYTES: usize = 128 << 10;

/// A task to submit.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The id; a new one if none is given.
    pub id: Option<String>,
    /// Not before this time.
    pub not_before_ms: u64,
    /// The submitter's request.
    pub spec: Spec,
}

impl Submission {
    pub(super) fn check(&self) -> Result<(), QueueError> {
        let refuse = |reason: String| Err(QueueError::Invalid(reason));
        self.id.as_deref().map_or(Ok(()), check_task_id)?;
        let spec = &self.spec;
        check_name("task_type", &spec.task_type)?;
        let named = [
            ("model_name", Some(&spec.model_name).filter(|name| !name.is_empty())),
            ("session_id", spec.session.as_ref()),
            ("sticky_worker_id", spec.sticky_worker.as_ref()),
            ("idempotency_key", spec.idempotency_key.as_ref()),
            ("concurrency_key", spec.concurrency_key.as_ref()),
            ("rate_key", spec.rate_key.as_ref()),
            ("unique/key", spec.unique.as_ref().map(|unique| &unique.key)),
        ];
        for (field, name) in named {
            name.map_or(Ok(()), |name| check_name(field, name))?;
        }
        if spec.dependencies.len() > MAX_DEPENDENCIES {
            return refuse(format!("dependencies has more than {MAX_DEPENDENCIES} tasks"));
        }
        if let Some(id) = spec.dependencies.iter().find(|id| !is_id(id)) {
            return refuse(format!("dependencies has {:?}, which is no id", id.chars().take(40).collect::<String>()));
        }
        if !spec.priority.is_finite() {
            return refuse("priority must be a finite number".into());
        }
        if spec.payload.bytes() > MAX_PAYLOAD_BYTES {
            return refuse(format!("the payload is larger than {MAX_PAYLOAD_BYTES} bytes"));
        }
        if json_bytes(&(&spec.tags, &spec.metadata)) > MAX_NOTES_BYTES {
            return refuse(format!("tags and metadata are larger than {MAX_NOTES_BYTES} bytes together"));
        }
        Ok(())
    }

    fn is_same_work(&self, task: &Task) -> bool {
        canonical_type(&self.spec.task_type) == canonical_type(&task.spec.task_type)
            && self.spec.model_name == task.spec.model_name
            && self.spec.payload == task.spec.payload
    }
}

/// Who submits. The host tells it, so that many tasks of one call ask once.
#[derive(Debug)]
pub struct Submitter {
    reach: Reach,
    peer: Option<String>,
}

impl Submitter {
    /// The running call's caller.
    pub fn of_caller() -> Self {
        Self { reach: Reach::of_caller(), peer: origin::peer() }
    }
}

/// A submission with everything of it that needs no transaction.
#[derive(Debug)]
pub struct Draft {
    submission: Submission,
    check: Result<(), QueueError>,
    task: Task,
    /// The record, where nothing that is in the store decides over it.
    row: Option<Prepared>,
}

impl Draft {
    /// The running call's submission of a task that has this id if it names none.
    pub fn new(submission: Submission, new_id: &str, now_ms: u64) -> Self {
        Self::of(&Submitter::of_caller(), submission, new_id, now_ms)
    }

    /// A submitter's submission.
    pub fn of(submitter: &Submitter, submission: Submission, new_id: &str, now_ms: u64) -> Self {
        let id = submission.id.clone().unwrap_or_else(|| new_id.to_owned());
        let mut task = record(submission.spec.clone(), id, Vec::new(), now_ms);
        task.spec.reach = submitter.reach.clone();
        task.spec.peer = submitter.peer.clone();
        rules::settle(&mut task, submission.not_before_ms, now_ms);
        let spec = &task.spec;
        let is_plain = spec.dependencies.is_empty() && spec.line().is_none() && spec.unique.is_none();
        let row = is_plain.then(|| TASKS.prepare(&(now_ms, task.id.clone()), &task).ok()).flatten();
        Self { check: submission.check(), submission, task, row }
    }

    /// The id of the task.
    pub fn id(&self) -> &str {
        &self.task.id
    }
}

/// Submits a task. The same work under the same id or idempotency key is the same task, whatever has become of it. A new task must leave the reserve of the store's
/// quota alone.
pub fn submit(t: &Transaction<'_>, draft: &Draft, now_ms: u64) -> Result<Task, QueueError> {
    within(t, Part::Work, || submit_one(t, draft, now_ms))
}

/// Submits tasks, each for itself; the outcome for each, in their order.
pub fn submit_each(drafts: &[Result<Draft, QueueError>], now_ms: u64) -> Vec<Result<Task, QueueError>> {
    each_within(drafts, id_of, |_| Part::Work, |t, draft| submit_one(t, draft.as_ref().map_err(Clone::clone)?, now_ms))
}

/// The id of a task that can be submitted; otherwise an empty one.
fn id_of(draft: &Result<Draft, QueueError>) -> &str {
    draft.as_ref().map_or("", Draft::id)
}

fn submit_one(t: &Transaction<'_>, draft: &Draft, now_ms: u64) -> Result<Task, QueueError> {
    if is_id(draft.id()) {
        queue::read_ahead_of_new(t, draft.id(), upkeep::UPKEEP.key())?;
    }
    let task = find_or_accept(t, draft, settings(t)?.aging, now_ms)?;
    plan(t, std::slice::from_ref(&task), now_ms)?;
    Ok(task)
}

fn find_or_accept(t: &Transaction<'_>, draft: &Draft, aging: Option<Aging>, now_ms: u64) -> Result<Task, QueueError> {
    match known(t, &draft.submission)? {
        // Also where an earlier version took an id that is not legal now.
        Some(known) => same_work(&draft.submission, known),
        None => {
            draft.check.clone()?;
            accept(t, draft, aging, now_ms)
        }
    }
}

/// Sees to it that somebody looks after new tasks.
pub(super) fn plan(t: &Transaction<'_>, tasks: &[Task], now_ms: u64) -> Result<(), QueueError> {
    waiting::ring(t, tasks, now_ms)?;
    Ok(upkeep::plan(t, tasks, now_ms)?)
}

/// Submits tasks, all or none. A task may depend on an earlier one of them.
pub fn submit_all(t: &Transaction<'_>, drafts: &[Draft], now_ms: u64) -> Result<Vec<Task>, QueueError> {
    within(t, Part::Work, || submit_together(t, drafts, now_ms))
}

fn submit_together(t: &Transaction<'_>, drafts: &[Draft], now_ms: u64) -> Result<Vec<Task>, QueueError> {
    let (mut tasks, aging) = (Vec::with_capacity(drafts.len()), settings(t)?.aging);
    let given = drafts.iter().filter_map(|draft| draft.submission.id.as_deref());
    queue::read_ahead(t, given.filter(|id| is_id(id)))?;
    for (number, draft) in drafts.iter().enumerate() {
        tasks.push(find_or_accept(t, draft, aging, now_ms).map_err(|error| in_batch(number, error))?);
    }
    plan(t, &tasks, now_ms)?;
    Ok(tasks)
}

/// The error with the number of the task that it is of.
fn in_batch(number: usize, error: QueueError) -> QueueError {
    match error {
        QueueError::Store(StoreError::TransactionTooLarge | StoreError::TooLong) => QueueError::Invalid(format!(
            "tasks/{number}: there are too many or too large ones before it to be submitted all or none"
        )),
        QueueError::Store(error) => error.into(),
        QueueError::Share(why) => QueueError::Share(format!("tasks/{number}: {why}")),
        other => QueueError::Invalid(format!("tasks/{number}: {other}")),
    }
}

pub(super) fn same_work(submission: &Submission, known: Task) -> Result<Task, QueueError> {
    if submission.is_same_work(&known) {
        return Ok(known);
    }
    let name = submission.id.clone().or_else(|| submission.spec.idempotency_key.clone());
    Err(QueueError::OtherWork(name.unwrap_or_default()))
}

/// Stores a new task.
fn accept(t: &Transaction<'_>, draft: &Draft, aging: Option<Aging>, now_ms: u64) -> Result<Task, QueueError> {
    let mut task = draft.task.clone();
    task.spec.aging = aging;
    shares::make_room(t, &task, now_ms)?;
    if let Some(row) = draft.row.as_ref().filter(|_| aging.is_none()) {
        queue::insert(t, row, &task, now_ms)?;
        return Ok(task);
    }
    for dependency in &task.spec.dependencies {
        let parent = if *dependency == task.id { None } else { queue::find(t, dependency)? };
        match parent.map(|parent| parent.state) {
            None => return Err(QueueError::Invalid(format!("dependency {dependency:?} is not a task"))),
            Some(State::Completed) => {}
            Some(State::Failed | State::Cancelled) => {
                return Err(QueueError::Invalid(format!("dependency {dependency:?} has failed or was cancelled")));
            }
            Some(_) => task.waiting_for.push(dependency.clone()),
        }
    }
    let not_before_ms = unique::take_over(t, &task, now_ms)?.max(draft.submission.not_before_ms);
    rules::settle(&mut task, not_before_ms, now_ms);
    turns::make_room(t, &task, now_ms)?;
    save(t, None, Some(&task), now_ms)?;
    Ok(task)
}

fn known(t: &View<'_>, submission: &Submission) -> Result<Option<Task>, StoreError> {
    if let Some(id) = submission.id.as_ref().filter(|id| is_id(id))
        && let Some(task) = queue::find(t, id)?
    {
        return Ok(Some(task));
    }
    let Some(key) = submission.spec.idempotency_key.as_ref().filter(|key| is_id(key)) else { return Ok(None) };
    match KEYS.get(t, key)? {
        Some(id) => queue::find(t, &id),
        None => Ok(None),
    }
}

fn record(spec: Spec, id: String, waiting_for: Vec<String>, now_ms: u64) -> Task {
    Task {
        id,
        spec,
        waiting_for,
        state: State::Blocked,
        created_ms: now_ms,
        line_ms: None,
        turn_us: None,
        updated_ms: now_ms,
        ready_ms: now_ms,
        started_ms: None,
        finished_ms: None,
        attempt: 0,
        fencing_token: 0,
        result: None,
        error: None,
        dead_letter: false,
        logs: Vec::new(),
        progress: None,
        retries: 0,
        parting: None,
    }
}

/// Submits a task that has ended again, as `<id>-retry-<n>`.
pub fn retry(
    t: &Transaction<'_>,
    id: &str,
    max_attempts: Option<u32>,
    timeout_ms: Option<u64>,
    now_ms: u64,
) -> Result<(Task, u32), QueueError> {
    within(t, Part::Work, || submit_again(t, id, max_attempts, timeout_ms, now_ms))
}

fn submit_again(
    t: &Transaction<'_>,
    id: &str,
    max_attempts: Option<u32>,
    timeout_ms: Option<u64>,
    now_ms: u64,
) -> Result<(Task, u32), QueueError> {
    let before = find(t, id)?;
    if !before.status().is_final() {
        return Err(QueueError::Invalid(format!("task {id:?} has not ended: it is {}", before.status().as_str())));
    }
    let retries = before.retries.saturating_add(1);
    let after = Task { retries, updated_ms: now_ms, ..before.clone() };
    let spec = Spec {
        dependencies: Vec::new(),
        idempotency_key: None,
        unique: None,
        max_attempts: max_attempts.unwrap_or(before.spec.max_attempts),
        timeout_ms: timeout_ms.or(before.spec.timeout_ms),
        ..before.spec.clone()
    };
    // It was accepted once, so it is not checked again: an earlier version's rules may have been others.
    let again = Submission { id: Some(retry_id(id, retries)), not_before_ms: 0, spec };
    let task = match known(t, &again)? {
        Some(known) => same_work(&again, known)?,
        None => accept(t, &Draft::new(again, "", now_ms), settings(t)?.aging, now_ms)?,
    };
    plan(t, std::slice::from_ref(&task), now_ms)?;
    save(t, Some(&before), Some(&after), now_ms)?;
    Ok((task, retries))
}
