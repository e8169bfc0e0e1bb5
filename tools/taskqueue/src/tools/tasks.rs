//! `task_*`: submitting tasks and looking at them.

use std::collections::BTreeMap;

use mcpp_tool::{
    batch::OutcomeEach,
    environment::{now_ms, parse_rfc3339, rfc3339 as iso},
    tool,
};
use serde_json::{Value, json};

use super::{Reply, read, run, settle};
use crate::{
    engine::{self, Draft, Filter, QueueError, Submission, Submitter, position, positions},
    listing::{self, List, Query},
    record::{DEFAULT_ATTEMPTS, Spec, State, Status, Task, Unique, seconds},
    statistics,
};

/// How often a task that fails is tried again, and how long the waits between are.
#[derive(Debug, Clone, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct RetryPolicy {
    /// Attempts after the first one.
    #[schemars(range(min = 0, max = 1000))]
    max_retries: Option<u32>,
    /// By how much each wait is longer than the one before; the first is one second.
    #[schemars(range(min = 1.0, max = 100.0))]
    backoff_factor: Option<f64>,
}

/// Settings of the task that a retry changes.
#[derive(Debug, Clone, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct RetryConfig {
    /// Attempts after the first one.
    #[schemars(range(min = 0, max = 1000))]
    max_retries: Option<u32>,
    /// How long one attempt may take, in seconds.
    #[schemars(range(min = 1))]
    timeout: Option<u64>,
}

/// A task to submit.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTask {
    /// The task's id.
    pub task_id: String,
    /// Its type, by which workers choose.
    task_type: String,
    /// The data that the worker gets.
    payload: serde_json::Map<String, Value>,
    /// Higher is sooner.
    #[serde(default = "one")]
    priority: f64,
    /// For finding it.
    #[serde(default)]
    tags: Vec<String>,
    /// How long one attempt may take, in seconds; no limit if absent.
    #[serde(default)]
    #[schemars(range(min = 1))]
    timeout: Option<u64>,
    /// How often it is tried again.
    #[serde(default)]
    retry_policy: Option<RetryPolicy>,
    /// Tasks that must be completed first.
    #[serde(default)]
    dependencies: Vec<String>,
    /// Notes of the submitter's.
    #[serde(default)]
    metadata: Option<serde_json::Map<String, Value>>,
    /// Tasks of one key take turns with those of others, and only so many run at once: see `queue_limit`.
    #[serde(default)]
    concurrency_key: Option<String>,
    /// Of the tasks of one key only so many begin in a time: see `queue_limit`.
    #[serde(default)]
    rate_key: Option<String>,
    /// There is one task of this key in a time.
    #[serde(default)]
    unique: Option<Unique>,
    /// Not before this time, as RFC 3339; now if absent.
    #[serde(default)]
    not_before: Option<String>,
    /// Its end is an event on the topic `taskqueue/ended` too, for those who wait for it.
    #[serde(default)]
    notify: bool,
}

fn one() -> f64 {
    1.0
}

impl NewTask {
    pub(super) fn submission(self) -> Result<Submission, QueueError> {
        let policy = self.retry_policy.unwrap_or_default();
        let not_before_ms = self.not_before.as_deref().map_or(Some(0), parse_rfc3339);
        let not_before_ms = not_before_ms.ok_or_else(|| {
            QueueError::Invalid("not_before must be a time such as \"2026-11-26T12:00:00Z\"".to_owned())
        })?;
        let spec = Spec {
            priority: self.priority,
            tags: self.tags,
            dependencies: self.dependencies,
            max_attempts: policy.max_retries.map_or(DEFAULT_ATTEMPTS, |retries| retries.saturating_add(1)),
            backoff_factor: policy.backoff_factor.unwrap_or(2.0),
            timeout_ms: self.timeout.map(|seconds| seconds.saturating_mul(1_000)),
            metadata: self.metadata.map(Value::Object),
            concurrency_key: self.concurrency_key.filter(|key| !key.is_empty()),
            rate_key: self.rate_key.filter(|key| !key.is_empty()),
            unique: self.unique,
            notify: self.notify,
            ..Spec::new(&self.task_type, &Value::Object(self.payload))
        };
        Ok(Submission { id: Some(self.task_id), not_before_ms, spec })
    }
}

/// Submits a task to the queue. A task with this id and the same work is the same task; with other work it is refused.
#[tool(idempotent, open_world = false)]
pub fn task_submit(args: NewTask) -> Reply {
    let (now, id) = (now_ms(), args.task_id.clone());
    let submitted = args.submission().and_then(|submission| {
        let draft = Draft::new(submission, &id, now);
        // A snapshot behind the transaction would let others have their turns sooner, and costs as much as all of this.
        run(|t| {
            let task = engine::submit(t, &draft, now)?;
            let position = position(t, &task)?;
            Ok(submitted(&task, position, statistics::throughput(t, now)?, now))
        })
    });
    settle(submitted, ("task_id", &id))
}

/// Submits the tasks of many calls of [`task_submit`], each for itself.
pub fn task_submit_each(calls: Vec<NewTask>) -> OutcomeEach<Reply> {
    let now = now_ms();
    let ids: Vec<String> = calls.iter().map(|call| call.task_id.clone()).collect();
    let submitter = Submitter::of_caller();
    let draft = |call: NewTask| call.submission().map(|submission| Draft::of(&submitter, submission, "", now));
    let drafts: Vec<Result<Draft, QueueError>> = calls.into_iter().map(draft).collect();
    let outcomes = engine::submit_each(&drafts, now);
    // Without these the tasks are submitted all the same.
    let (positions, per_minute) = read(|t| {
        let positions = positions(t, outcomes.iter().flatten())?;
        let positions = positions.into_iter().map(|(id, position)| (id.to_owned(), position));
        Ok((positions.collect(), statistics::throughput(t, now)?))
    })
    .unwrap_or_else(|_| (BTreeMap::new(), None));
    let reply = |(id, outcome): (&String, Result<Task, QueueError>)| {
        let submitted = outcome.map(|task| submitted(&task, positions.get(&task.id).copied(), per_minute, now));
        Ok(settle(submitted, ("task_id", id)))
    };
    ids.iter().zip(outcomes).map(reply).collect()
}

fn submitted(task: &Task, position: Option<u64>, per_minute: Option<f64>, now: u64) -> Value {
    json!({
        "task_id": task.id,
        "status": task.status().as_str(),
        "queue_position": position,
        "estimated_start_time": estimate(position, per_minute, now),
        "assigned_worker": task.worker(),
    })
}

/// When a task will probably begin, from what was measured; none if nothing was.
fn estimate(position: Option<u64>, per_minute: Option<f64>, now: u64) -> Option<String> {
    let (position, per_minute) = (position?, per_minute.filter(|rate| *rate > 0.0)?);
    let wait_ms = (position as f64 / per_minute * 60_000.0) as u64;
    Some(iso(now.saturating_add(wait_ms)))
}

/// Tells where a task stands.
#[tool(read_only)]
pub fn task_status(
    /// The task's id.
    task_id: String,
    /// With the last lines of its log.
    #[arg(default)]
    include_logs: bool,
    /// With what was measured of it.
    #[arg(default)]
    include_metrics: bool,
) -> Reply {
    let status = read(|t| {
        let task = engine::find(t, &task_id)?;
        Ok(json!({
            "task_id": task.id,
            "status": task.status().as_str(),
            "progress": task.progress,
            "worker_id": task.worker(),
            "start_time": task.started_ms.map(iso),
            "end_time": task.finished_ms.map(iso),
            "queue_position": position(t, &task)?,
            "logs": include_logs.then_some(&task.logs),
            "metrics": include_metrics.then(|| metrics(&task)),
        }))
    });
    settle(status, ("task_id", &task_id))
}

fn metrics(task: &Task) -> Value {
    let wait = task.started_ms.map(|started| seconds(started.saturating_sub(task.ready_ms)));
    json!({
        "attempt": task.attempt,
        "max_attempts": task.spec.max_attempts,
        "wait_time": wait,
        "execution_time": execution_time(task),
        "dead_letter": task.dead_letter,
    })
}

/// How long the last attempt took, in seconds; none while it runs or if there was none.
fn execution_time(task: &Task) -> Option<f64> {
    Some(seconds(task.finished_ms?.saturating_sub(task.started_ms?)))
}

/// Cancels a task. One that runs is only cancelled with `force`; its worker learns of it when it next reports.
#[tool(destructive)]
pub fn task_cancel(
    /// The task's id.
    task_id: String,
    /// Why.
    #[arg(default)]
    reason: Option<String>,
    /// Also if it runs.
    #[arg(default)]
    force: bool,
) -> Reply {
    let now = now_ms();
    let cancelled = run(|t| {
        let (before, after) = engine::cancel(t, &task_id, reason.as_deref().unwrap_or_default(), force, now)?;
        Ok(json!({
            "task_id": after.id,
            "status": after.status().as_str(),
            "cancelled_at": iso(now),
            "cleanup_required": before.status() == Status::Running,
        }))
    });
    settle(cancelled, ("task_id", &task_id))
}

/// Lists tasks, oldest first. Where there are more, `next_cursor` given as `cursor` goes on behind them; a `total_count` that could not be counted is null.
#[tool(read_only)]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub fn task_list(
    /// Only tasks with this status.
    #[arg(default)]
    status_filter: Option<Status>,
    /// Only tasks that this worker has.
    #[arg(default)]
    worker_filter: Option<String>,
    /// Only tasks with all of these tags.
    #[arg(default)]
    tag_filter: Vec<String>,
    /// Only tasks with at least this priority.
    #[arg(default)]
    priority_min: Option<f64>,
    /// Most tasks.
    #[arg(default = 100)]
    #[schemars(range(min = 1, max = 1000))]
    limit: usize,
    /// Tasks to pass over.
    #[arg(default)]
    offset: usize,
    /// The `next_cursor` of an earlier list, to go on behind it.
    #[arg(default)]
    cursor: Option<String>,
) -> Reply {
    let mut statuses = status_filter.map_or(Status::ALL.to_vec(), |status| vec![status]);
    if worker_filter.is_some() {
        // Nothing else has a worker.
        statuses.retain(|status| *status == Status::Running);
    }
    let filter = Filter { statuses, task_types: Vec::new(), worker: worker_filter, tags: tag_filter, priority_min };
    let listed = read(|t| {
        let after = cursor.as_deref().filter(|cursor| !cursor.is_empty()).map(listing::parse_cursor).transpose()?;
        let query = Query { filter, after, offset, limit };
        let List { tasks, total, next } = listing::list(t, &query, summary)?;
        Ok(json!({
            "returned_count": tasks.len(),
            "tasks": tasks,
            "total_count": total,
            "has_more": next.is_some(),
            "next_cursor": next,
        }))
    });
    settle(listed, ("", ""))
}

fn summary(task: &Task) -> Value {
    json!({
        "task_id": task.id,
        "task_type": task.spec.task_type,
        "status": task.status().as_str(),
        "priority": task.spec.priority,
        "tags": task.spec.tags,
        "worker_id": task.worker(),
        "attempt": task.attempt,
        "created_at": iso(task.created_ms),
        "updated_at": iso(task.updated_ms),
        "error": task.error,
        "blocked": task.state == State::Blocked,
        "dead_letter": task.dead_letter,
    })
}

/// Gives a task another priority.
#[tool]
pub fn task_priority(
    /// The task's id.
    task_id: String,
    /// Higher is sooner.
    new_priority: f64,
    /// Whether it goes behind those that have this priority already.
    #[arg(default = true)]
    requeue: bool,
) -> Reply {
    let now = now_ms();
    let changed = run(|t| {
        let (old, task) = engine::set_priority(t, &task_id, new_priority, requeue, now)?;
        let position = position(t, &task)?;
        Ok(
            json!({ "task_id": task.id, "old_priority": old, "new_priority": task.spec.priority, "new_queue_position": position }),
        )
    });
    settle(changed, ("task_id", &task_id))
}

/// Gives a task's result, once it has ended.
#[tool(read_only)]
pub fn task_result(
    /// The task's id.
    task_id: String,
    /// With the whole output, besides the result.
    #[arg(default = true)]
    include_output: bool,
    /// With the last lines of its log.
    #[arg(default)]
    include_logs: bool,
) -> Reply {
    let result = read(|t| {
        let task = engine::find(t, &task_id)?;
        if !task.status().is_final() {
            return Err(QueueError::Invalid(format!(
                "task {task_id:?} is not completed yet: it is {}",
                task.status().as_str()
            )));
        }
        let output = task.result.as_ref().map(|result| result.get("output").unwrap_or(result));
        Ok(json!({
            "task_id": task.id,
            "status": task.status().as_str(),
            "result": task.result,
            "output": output.filter(|_| include_output),
            "logs": include_logs.then_some(&task.logs),
            "execution_time": execution_time(&task),
            "error": task.error,
            "cancel_reason": task.progress.as_ref().and_then(|progress| progress.get("cancel_reason")),
            "worker_id": task.parting.as_ref().map(|parting| &parting.worker),
        }))
    });
    settle(result, ("task_id", &task_id))
}

/// Submits a task that has ended once more, as a new task.
#[tool]
pub fn task_retry(
    /// The id of the task that has ended.
    task_id: String,
    /// Settings that this retry changes.
    #[arg(default)]
    retry_config: Option<RetryConfig>,
) -> Reply {
    let now = now_ms();
    let config = retry_config.unwrap_or_default();
    let attempts = config.max_retries.map(|retries| retries.saturating_add(1));
    let timeout_ms = config.timeout.map(|seconds| seconds.saturating_mul(1_000));
    let retried = run(|t| {
        let (task, retries) = engine::retry(t, &task_id, attempts, timeout_ms, now)?;
        let position = position(t, &task)?;
        Ok(json!({ "task_id": task_id, "retry_task_id": task.id, "retry_count": retries, "queue_position": position }))
    });
    settle(retried, ("task_id", &task_id))
}
