//! `task_submit_many`, `task_claim`, `task_complete_many` and `task_renew_many`: many tasks in one call.

use std::time::Duration;

use mcpp_tool::{
    Envelope,
    environment::{chance, now_ms, rfc3339},
    tool,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{run, seal, tasks::NewTask};
use crate::{
    engine::{self, ClaimRequest, Completion, Draft, MAX_CLAIMED, QueueError, Submitter, each},
    record::{Payload, Task, seconds},
    rules::{Claim, Outcome},
};

/// The outcome for one of many.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct One {
    /// The task.
    task_id: String,
    /// Whether it was done.
    ok: bool,
    /// The task's status then.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    /// When its lease ends, as RFC 3339, where that was renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<String>,
    /// Why the task failed though its end says that it succeeded: the result did not fit into the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Why it was not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl One {
    pub(super) fn of(task_id: &str, outcome: Result<Task, QueueError>) -> Self {
        let (status, error) = match outcome {
            Ok(task) => (Some(task.status().as_str().to_owned()), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self { task_id: task_id.to_owned(), ok: error.is_none(), status, lease_until: None, detail: None, error }
    }
}

/// The outcomes for many.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Many {
    /// How many were done.
    done_count: usize,
    /// How many were not.
    failed_count: usize,
    /// Each of them, in the order of the call.
    results: Vec<One>,
}

impl From<Vec<One>> for Many {
    fn from(results: Vec<One>) -> Self {
        let failed_count = results.iter().filter(|one| !one.ok).count();
        Self { done_count: results.len().saturating_sub(failed_count), failed_count, results }
    }
}

/// Submits up to 1,000 tasks: all or none, or each for itself. Tasks of one call may depend on earlier ones of it.
#[tool(idempotent, open_world = false)]
pub fn task_submit_many(
    /// The tasks.
    #[schemars(length(min = 1, max = 1000))]
    tasks: Vec<NewTask>,
    /// Whether one that is refused refuses all of them. They must fit into one transaction then: about 3 MiB.
    #[arg(default = true)]
    all_or_none: bool,
) -> Envelope<Many> {
    let now = now_ms();
    let ids: Vec<String> = tasks.iter().map(|task| task.task_id.clone()).collect();
    let submitter = Submitter::of_caller();
    let draft = |task: NewTask| task.submission().map(|submission| Draft::of(&submitter, submission, "", now));
    let drafts = tasks.into_iter().map(draft);
    let outcomes = if all_or_none {
        let drafts = drafts.collect::<Result<Vec<Draft>, _>>();
        let submitted = drafts.and_then(|drafts| run(|t| engine::submit_all(t, &drafts, now)));
        submitted.map(|tasks| tasks.into_iter().map(Ok).collect())
    } else {
        let drafts: Vec<Result<Draft, QueueError>> = drafts.collect();
        Ok(engine::submit_each(&drafts, now))
    };
    let many = |outcomes: Vec<Result<Task, QueueError>>| -> Many {
        ids.iter().zip(outcomes).map(|(id, outcome)| One::of(id, outcome)).collect::<Vec<_>>().into()
    };
    seal(outcomes.map(many))
}

/// The claimer, and the tasks that it wants.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Wanted {
    /// The worker.
    worker_id: String,
    /// Most tasks.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 128))]
    max_tasks: usize,
    /// The types that it can do; any if absent or empty.
    #[serde(default)]
    task_types: Vec<String>,
    /// Its session, for tasks that are only for that.
    #[serde(default)]
    session_id: Option<String>,
    /// How long to wait for a task if there is none, in seconds; never longer than the call may take.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    wait_s: f64,
}

fn one() -> usize {
    1
}

impl Wanted {
    fn claim(self) -> Result<Vec<Claimed>, QueueError> {
        let request = ClaimRequest {
            worker: &self.worker_id,
            types: self.task_types,
            session: self.session_id.as_deref().filter(|session| !session.is_empty()),
            ..ClaimRequest::default()
        };
        let patience = Duration::from_secs_f64(self.wait_s.clamp(0.0, 3_600.0));
        let claimed = engine::claim_or_wait(&request, self.max_tasks.min(MAX_CLAIMED), patience)?;
        Ok(claimed.into_iter().map(Claimed::from).collect())
    }
}

/// A task that a worker has got.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Claimed {
    /// The task.
    task_id: String,
    /// Its type.
    task_type: String,
    /// The model that it is for; may be empty.
    model_name: String,
    /// The work to do.
    #[schemars(with = "Value")]
    payload: Payload,
    /// When it was submitted, as a unix time in seconds.
    created_at: f64,
    /// Which attempt this is.
    attempt: u32,
    /// To be shown when the task is renewed or ended.
    fencing_token: u64,
    /// When the lease ends, as RFC 3339.
    lease_until: Option<String>,
}

impl From<Task> for Claimed {
    fn from(task: Task) -> Self {
        Self {
            lease_until: task.lease().map(|lease| rfc3339(lease.until_ms)),
            task_id: task.id,
            task_type: task.spec.task_type,
            model_name: task.spec.model_name,
            payload: task.spec.payload,
            created_at: seconds(task.created_ms),
            attempt: task.attempt,
            fencing_token: task.fencing_token,
        }
    }
}

/// The tasks that a worker has got.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Claims {
    /// The tasks; none if there were none that it may have.
    tasks: Vec<Claimed>,
}

/// Claims up to 128 tasks for a worker, about 1 MiB of them; waits for one if there is none. A claim is a lease of 300 s.
#[tool]
pub fn task_claim(#[arg(flatten)] wanted: Wanted) -> Envelope<Claims> {
    seal(wanted.claim().map(|tasks| Claims { tasks }))
}

/// The end of one attempt.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The task.
    task_id: String,
    /// How it ended. A failure with `retry` is tried again.
    #[serde(default)]
    status: EndStatus,
    /// The result; merged into the results that the worker reported before.
    #[serde(default)]
    result: Option<Map<String, Value>>,
    /// Why it did not succeed.
    #[serde(default)]
    error: String,
    /// Whether a failed task is tried again, as often as it may be.
    #[serde(default)]
    retry: bool,
    /// The worker that holds the task.
    #[serde(default)]
    worker_id: Option<String>,
    /// The fencing token that the claim gave.
    #[serde(default)]
    fencing_token: Option<u64>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndStatus {
    /// With success.
    #[default]
    Completed,
    /// Without.
    Failed,
    /// By its worker's own wish.
    Cancelled,
}

impl From<End> for Completion {
    fn from(end: End) -> Self {
        let result = end.result.map(Value::Object);
        let outcome = match end.status {
            EndStatus::Completed => Outcome::Completed(result),
            EndStatus::Failed if end.retry => Outcome::Failed(result, end.error),
            EndStatus::Failed => Outcome::FailedForGood(result, end.error),
            EndStatus::Cancelled => Outcome::Cancelled(end.error),
        };
        Self { task: end.task_id, worker: end.worker_id, token: end.fencing_token, outcome }
    }
}

/// The outcomes for tasks that were ended, and the next tasks.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Ended {
    /// The ends.
    #[serde(flatten)]
    ends: Many,
    /// The tasks claimed in the same call; null if none were wanted.
    tasks: Option<Vec<Claimed>>,
}

/// Ends up to 1,000 tasks, each for itself, and claims the next ones in the same call. With `worker_id` or `fencing_token` only its holder can end a task.
#[tool]
pub fn task_complete_many(
    /// The ends.
    #[schemars(length(max = 1000))]
    tasks: Vec<End>,
    /// The next tasks that are wanted; none if absent.
    #[arg(default)]
    claim: Option<Wanted>,
) -> Envelope<Ended> {
    let (now, chance) = (now_ms(), chance());
    let ends: Vec<Completion> = tasks.into_iter().map(Completion::from).collect();
    let outcomes = engine::end_all(&ends, now, chance);
    let one = |(end, outcome): (&Completion, Result<Task, QueueError>)| {
        let detail = outcome.as_ref().ok().and_then(|task| end.unkept(task)).map(str::to_owned);
        One { detail, ..One::of(&end.task, outcome) }
    };
    let results: Vec<One> = ends.iter().zip(outcomes).map(one).collect();
    let claimed = claim.map(Wanted::claim).transpose();
    seal(claimed.map(|tasks| Ended { ends: results.into(), tasks }))
}

/// A lease.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The task.
    task_id: String,
    /// The worker that holds it; that of the call if absent.
    #[serde(default)]
    worker_id: Option<String>,
    /// The fencing token that the claim gave.
    #[serde(default)]
    fencing_token: Option<u64>,
}

/// Renews up to 1,000 leases of a worker, each for itself.
#[tool(idempotent)]
pub fn task_renew_many(
    /// The worker.
    worker_id: String,
    /// The leases.
    #[schemars(length(max = 1000))]
    tasks: Vec<Held>,
) -> Envelope<Many> {
    let now = now_ms();
    let outcomes = each(
        &tasks,
        |held| &held.task_id,
        |t, held| {
            let worker = held.worker_id.as_deref().or(Some(&*worker_id));
            engine::renew(t, &held.task_id, Claim { worker, token: held.fencing_token }, now)
        },
    );
    let one = |(held, outcome): (&Held, Result<u64, QueueError>)| {
        let (lease_until, error) = match outcome {
            Ok(until_ms) => (Some(rfc3339(until_ms)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        One { task_id: held.task_id.clone(), ok: error.is_none(), status: None, lease_until, detail: None, error }
    };
    seal(Ok(tasks.iter().zip(outcomes).map(one).collect::<Vec<_>>().into()))
}
