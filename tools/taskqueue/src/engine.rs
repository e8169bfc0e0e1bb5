//! What the tools do: each function is one transaction's work, on the rules of [`rules`](crate::rules) and the records and indexes of [`queue`](crate::queue).

mod claims;
mod upkeep;

use mcpp_tool::store::{Order, Read, StoreError, Write};
use serde_json::Value;

pub use self::{
    claims::{ClaimRequest, PEER_TIMEOUT_MS, claim, clock, heartbeat, peers},
    upkeep::{forget_task, upkeep, wake},
};
use crate::{
    queue::{DEPENDENTS, HELD, KEYS, TASKS, WORKERS, canonical_type, rank, ready_up_to, save, settings},
    record::{LogLine, Spec, State, Task, Worker},
    rules::{self, Claim, Outcome, Refused},
};

/// Longest id of a task, worker or session, in bytes.
pub const MAX_ID_BYTES: usize = 200;
/// Most dependencies of one task.
pub const MAX_DEPENDENCIES: usize = 100;
/// Largest payload, in bytes of JSON.
pub const MAX_PAYLOAD_BYTES: usize = 512 << 10;

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QueueError {
    /// There is no such task.
    #[error("task {0:?} not found")]
    NoTask(String),
    /// There is no such worker.
    #[error("worker {0:?} not found")]
    NoWorker(String),
    /// The id or idempotency key belongs to other work.
    #[error("{0:?} was submitted before with other work")]
    OtherWork(String),
    /// Something given is not legal.
    #[error("{0}")]
    Invalid(String),
    /// The rules refuse it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store refuses it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a task is submitted with.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The id; a new one if none is given.
    pub id: Option<String>,
    /// Not before this time.
    pub not_before_ms: u64,
    /// What is asked for.
    pub spec: Spec,
}

impl Submission {
    fn check(&self) -> Result<(), QueueError> {
        let ids = [&self.id, &self.spec.session, &self.spec.sticky_worker, &self.spec.idempotency_key];
        for id in ids.into_iter().flatten().chain(&self.spec.dependencies) {
            check_id(id)?;
        }
        if self.spec.task_type.is_empty()
            || self.spec.task_type.len() > MAX_ID_BYTES
            || self.spec.model_name.len() > MAX_ID_BYTES
        {
            return Err(QueueError::Invalid(format!(
                "task_type must have 1 to {MAX_ID_BYTES} bytes, model_name at most"
            )));
        }
        if self.spec.dependencies.len() > MAX_DEPENDENCIES {
            return Err(QueueError::Invalid(format!("a task has at most {MAX_DEPENDENCIES} dependencies")));
        }
        if !self.spec.priority.is_finite() {
            return Err(QueueError::Invalid("priority must be a finite number".into()));
        }
        if self.spec.payload.to_string().len() > MAX_PAYLOAD_BYTES {
            return Err(QueueError::Invalid(format!("the payload is larger than {MAX_PAYLOAD_BYTES} bytes")));
        }
        Ok(())
    }

    fn is_same_work(&self, task: &Task) -> bool {
        canonical_type(&self.spec.task_type) == canonical_type(&task.spec.task_type)
            && self.spec.model_name == task.spec.model_name
            && self.spec.payload == task.spec.payload
    }
}

/// Ids are parts of keys.
pub fn check_id(id: &str) -> Result<(), QueueError> {
    if id.is_empty() || id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) {
        return Err(QueueError::Invalid(format!(
            "an id has 1 to {MAX_ID_BYTES} bytes and no control characters: {:?}",
            id.chars().take(40).collect::<String>()
        )));
    }
    Ok(())
}

/// The task of this id.
pub fn find(t: &mut (impl Read + ?Sized), id: &str) -> Result<Task, QueueError> {
    if check_id(id).is_err() {
        return Err(QueueError::NoTask(id.chars().take(MAX_ID_BYTES).collect()));
    }
    TASKS.get(t, &id.to_owned())?.ok_or_else(|| QueueError::NoTask(id.to_owned()))
}

/// Submits a task. The same work under the same id or idempotency key is the same task, whatever has become of it.
pub fn submit(
    t: &mut (impl Write + ?Sized),
    submission: &Submission,
    new_id: &str,
    now_ms: u64,
) -> Result<Task, QueueError> {
    submission.check()?;
    if let Some(known) = known(t, submission)? {
        return if submission.is_same_work(&known) {
            Ok(known)
        } else {
            let name = submission.id.clone().or_else(|| submission.spec.idempotency_key.clone());
            Err(QueueError::OtherWork(name.unwrap_or_default()))
        };
    }
    let id = submission.id.clone().unwrap_or_else(|| new_id.to_owned());
    let mut waiting_for = Vec::new();
    for dependency in &submission.spec.dependencies {
        let parent = if *dependency == id { None } else { TASKS.get(t, dependency)? };
        match parent.map(|parent| parent.state) {
            None => return Err(QueueError::Invalid(format!("dependency {dependency:?} is not a task"))),
            Some(State::Completed) => {}
            Some(State::Failed | State::Cancelled) => {
                return Err(QueueError::Invalid(format!("dependency {dependency:?} has failed or was cancelled")));
            }
            Some(_) => waiting_for.push(dependency.clone()),
        }
    }
    let mut task = record(submission.spec.clone(), id, waiting_for, now_ms);
    rules::settle(&mut task, submission.not_before_ms, now_ms);
    if let Some(key) = &task.spec.idempotency_key {
        KEYS.set(t, key, &task.id)?;
    }
    save(t, None, Some(&task), now_ms)?;
    upkeep::plan(t, &task)?;
    Ok(task)
}

fn known(t: &mut (impl Read + ?Sized), submission: &Submission) -> Result<Option<Task>, StoreError> {
    if let Some(id) = &submission.id
        && let Some(task) = TASKS.get(t, id)?
    {
        return Ok(Some(task));
    }
    let Some(key) = &submission.spec.idempotency_key else { return Ok(None) };
    match KEYS.get(t, key)? {
        Some(id) => TASKS.get(t, &id),
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
    }
}

/// Changes a task by a rule and stores it, with what follows for those that depend on it; what it was, what it is now, and the rule's answer.
fn change<T>(
    t: &mut (impl Write + ?Sized),
    id: &str,
    now_ms: u64,
    rule: impl FnOnce(&mut Task) -> Result<T, Refused>,
) -> Result<(Task, Task, T), QueueError> {
    let before = find(t, id)?;
    let mut after = before.clone();
    let answer = rule(&mut after)?;
    store(t, &before, &after, now_ms)?;
    Ok((before, after, answer))
}

fn store(t: &mut (impl Write + ?Sized), before: &Task, after: &Task, now_ms: u64) -> Result<(), QueueError> {
    save(t, Some(before), Some(after), now_ms)?;
    upkeep::plan(t, after)?;
    if after.status().is_final() && !before.status().is_final() {
        upkeep::release_dependents(t, &after.id, now_ms)?;
    }
    Ok(())
}

/// Ends an attempt.
pub fn finish(
    t: &mut (impl Write + ?Sized),
    id: &str,
    by: Claim<'_>,
    outcome: Outcome,
    now_ms: u64,
    chance: f64,
) -> Result<Task, QueueError> {
    change(t, id, now_ms, |task| rules::finish(task, by, outcome, now_ms, chance)).map(|(_, task, ())| task)
}

/// A sign of life of a worker that has a task; when its lease ends now.
pub fn renew(t: &mut (impl Write + ?Sized), id: &str, by: Claim<'_>, now_ms: u64) -> Result<u64, QueueError> {
    change(t, id, now_ms, |task| rules::renew(task, by, now_ms)).map(|(_, _, until)| until)
}

/// Gives a task back.
pub fn release(
    t: &mut (impl Write + ?Sized),
    id: &str,
    by: Claim<'_>,
    reason: &str,
    now_ms: u64,
) -> Result<Task, QueueError> {
    change(t, id, now_ms, |task| rules::release(task, by, reason, now_ms)).map(|(_, task, ())| task)
}

/// Cancels a task; what it was before, and what it is now.
pub fn cancel(
    t: &mut (impl Write + ?Sized),
    id: &str,
    reason: &str,
    force: bool,
    now_ms: u64,
) -> Result<(Task, Task), QueueError> {
    change(t, id, now_ms, |task| rules::cancel(task, reason, force, now_ms)).map(|(before, after, ())| (before, after))
}

/// Notes progress and log of a running task.
pub fn report(
    t: &mut (impl Write + ?Sized),
    id: &str,
    by: Claim<'_>,
    progress: Option<Value>,
    lines: Vec<LogLine>,
    now_ms: u64,
) -> Result<Task, QueueError> {
    change(t, id, now_ms, |task| rules::report(task, by, progress, lines, now_ms)).map(|(_, task, ())| task)
}

/// Gives a task another priority; the one it had. With `requeue` it goes behind those that have this priority already.
pub fn set_priority(
    t: &mut (impl Write + ?Sized),
    id: &str,
    priority: f64,
    requeue: bool,
    now_ms: u64,
) -> Result<(f64, Task), QueueError> {
    if !priority.is_finite() {
        return Err(QueueError::Invalid("new_priority must be a finite number".into()));
    }
    let before = find(t, id)?;
    if before.status().is_final() {
        return Err(Refused::Ended.into());
    }
    let mut after = Task { updated_ms: now_ms, ..before.clone() };
    after.spec.priority = priority;
    if requeue {
        after.created_ms = now_ms;
    }
    store(t, &before, &after, now_ms)?;
    Ok((before.spec.priority, after))
}

/// Submits a task that has ended again, as `<id>-retry-<n>`.
pub fn retry(
    t: &mut (impl Write + ?Sized),
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
        max_attempts: max_attempts.unwrap_or(before.spec.max_attempts),
        timeout_ms: timeout_ms.or(before.spec.timeout_ms),
        ..before.spec.clone()
    };
    let again = Submission { id: Some(format!("{id}-retry-{retries}")), not_before_ms: 0, spec };
    let task = submit(t, &again, "", now_ms)?;
    save(t, Some(&before), Some(&after), now_ms)?;
    Ok((task, retries))
}

/// Where a queued task stands among those that can be claimed, 1 for the next one. None if it does not wait for a worker, or stands too far behind to be counted.
pub fn position(t: &mut (impl Read + ?Sized), task: &Task) -> Result<Option<u64>, StoreError> {
    /// Tasks of the same priority that are counted one by one.
    const COUNTED: u64 = 10_000;
    if task.state != State::Ready {
        return Ok(None);
    }
    let rank = rank(task.spec.priority);
    let Some(up_to) = ready_up_to(t, rank)? else { return Ok(None) };
    let sooner = match rank.checked_sub(1) {
        Some(above) => ready_up_to(t, above)?.unwrap_or_default(),
        None => 0,
    };
    let same = up_to.saturating_sub(sooner);
    if same > COUNTED {
        // It is the last of them, or nobody knows.
        return Ok((is_last(t, task)?).then_some(up_to));
    }
    let lane = crate::queue::lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref());
    let all = (lane, crate::queue::ANY_TYPE.to_owned());
    let mut after = (rank, 0, String::new());
    let mut position = sooner;
    loop {
        let page = crate::queue::READY.of(t, &all, Some(&after), 1_000)?;
        let Some(last) = page.last().cloned() else { return Ok(Some(position.saturating_add(1))) };
        for place in page {
            if place.0 != rank || place.2 == task.id {
                return Ok(Some(position.saturating_add(1)));
            }
            position = position.saturating_add(1);
        }
        after = last;
    }
}

fn is_last(t: &mut (impl Read + ?Sized), task: &Task) -> Result<bool, StoreError> {
    let lane = crate::queue::lane(task.spec.session.as_deref(), task.spec.sticky_worker.as_deref());
    let all = (lane, crate::queue::ANY_TYPE.to_owned());
    let own = (rank(task.spec.priority), task.created_ms, task.id.clone());
    let next = crate::queue::READY.of(t, &all, Some(&own), 1)?;
    Ok(next.first().is_none_or(|place| place.0 != own.0))
}

/// Registers a worker, or renews what is known of one.
pub fn register(t: &mut (impl Write + ?Sized), worker: Worker) -> Result<Worker, QueueError> {
    check_id(&worker.id)?;
    let known = WORKERS.get(t, &worker.id)?;
    let worker = match known {
        Some(known) => Worker {
            running: known.running,
            completed: known.completed,
            failed: known.failed,
            registered_ms: known.registered_ms,
            ..worker
        },
        None => Worker { running: count_held(t, &worker.id)?, ..worker },
    };
    WORKERS.set(t, &worker.id.clone(), &worker)?;
    Ok(worker)
}

fn count_held(t: &mut (impl Read + ?Sized), worker: &str) -> Result<u32, StoreError> {
    Ok(u32::try_from(HELD.of(t, &worker.to_owned(), None, 1_000)?.len()).unwrap_or(u32::MAX))
}

/// What became of a worker that leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// The worker as it was.
    pub worker: Worker,
    /// Tasks that are taken back from it.
    pub abandoned: u32,
}

/// Lets a worker go: at once, its tasks taken back; or gracefully, when it has finished them or after `patience_ms`.
pub fn unregister(
    t: &mut (impl Write + ?Sized),
    id: &str,
    patience_ms: Option<u64>,
    now_ms: u64,
) -> Result<Left, QueueError> {
    let id = &id.to_owned();
    let worker = WORKERS.get(t, id)?.ok_or_else(|| QueueError::NoWorker(id.clone()))?;
    let abandoned = if patience_ms.is_some() { 0 } else { worker.running };
    let leaves_ms = now_ms.saturating_add(patience_ms.unwrap_or_default());
    let leaving = Worker { leaves_ms: Some(leaves_ms), ..worker.clone() };
    WORKERS.set(t, id, &leaving)?;
    // What is more than a bite is left to the timer.
    if !upkeep::let_go_of(t, &leaving, now_ms)? {
        upkeep::plan_at(t, leaves_ms)?;
    }
    Ok(Left { worker, abandoned })
}

/// All workers, by id.
pub fn all_workers(t: &mut (impl Read + ?Sized)) -> Result<Vec<Worker>, StoreError> {
    let mut workers: Vec<Worker> = Vec::new();
    loop {
        let last = workers.last().map(|worker| worker.id.clone());
        let page = WORKERS.page(t, last.as_ref(), 1_000, Order::Ascending)?;
        if page.is_empty() {
            return Ok(workers);
        }
        workers.extend(page.into_iter().map(|(_, worker)| worker));
    }
}

/// Whether anything waits for a task that is to be forgotten.
pub(crate) fn is_waited_for(t: &mut (impl Read + ?Sized), id: &str) -> Result<bool, StoreError> {
    Ok(!DEPENDENTS.of(t, &id.to_owned(), None, 1)?.is_empty())
}

/// Whether the queue hands out nothing.
pub fn is_paused(t: &mut (impl Read + ?Sized)) -> Result<bool, StoreError> {
    Ok(settings(t)?.paused.is_some())
}
