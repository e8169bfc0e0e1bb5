//! `task_bulk` and `task_bulk_status`: changes of all tasks that match a filter.

use mcpp_tool::{
    Envelope,
    environment::{now_ms, rfc3339},
    tool,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{read, seal};
use crate::{
    engine::{self, Action, Bulk, Filter, QueueError},
    record::Status,
};

/// How far a change of many tasks is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Progress {
    /// Its number.
    bulk_id: u64,
    /// The change.
    action: Value,
    /// Which tasks.
    filter: Value,
    /// When it was asked for, as RFC 3339: later tasks stay as they are.
    asked_at: String,
    /// Tasks that it has changed.
    changed_count: u64,
    /// Whether it goes on by itself.
    in_progress: bool,
    /// When it came to its end, as RFC 3339.
    ended_at: Option<String>,
}

impl From<&Bulk> for Progress {
    fn from(bulk: &Bulk) -> Self {
        Self {
            bulk_id: bulk.number,
            action: json!(bulk.action),
            filter: json!(bulk.filter),
            asked_at: rfc3339(bulk.asked_ms),
            changed_count: bulk.changed,
            in_progress: bulk.ended_ms.is_none(),
            ended_at: bulk.ended_ms.map(rfc3339),
        }
    }
}

/// A change of many tasks.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Cancel what has not ended.
    Cancel,
    /// Submit again what has ended.
    Retry,
    /// Remove for good what does not run.
    Delete,
    /// Give what has not ended another priority.
    Priority,
    /// End a change that is under way, where it has come to.
    Stop,
}

/// Changes all tasks that match: what fits into the call now, the rest by the queue itself (`in_progress`). Tasks that are submitted later stay as they are. The same change once more, while the first
/// one is under way, is that one from the beginning.
#[tool(destructive)]
#[allow(clippy::too_many_arguments, reason = "a filter has as many parts")]
pub fn task_bulk(
    /// The change.
    action: Change,
    /// Only tasks with one of these statuses; all that the action can change if absent.
    #[arg(default)]
    statuses: Vec<Status>,
    /// Only tasks of one of these types.
    #[arg(default)]
    task_types: Vec<String>,
    /// Only tasks with all of these tags.
    #[arg(default)]
    tags: Vec<String>,
    /// Only tasks that this worker has.
    #[arg(default)]
    worker_id: Option<String>,
    /// Only tasks with at least this priority.
    #[arg(default)]
    priority_min: Option<f64>,
    /// For `cancel`: why.
    #[arg(default)]
    reason: String,
    /// For `cancel`: also what runs.
    #[arg(default)]
    force: bool,
    /// For `priority`: the new one.
    #[arg(default)]
    new_priority: Option<f64>,
    /// For `priority`: whether the tasks go behind those that have it already.
    #[arg(default = true)]
    requeue: bool,
    /// For `delete`: must be true.
    #[arg(default)]
    confirm: bool,
    /// For `stop`: the number of the change. `queue_stats.bulk` lists those under way.
    #[arg(default)]
    bulk_id: Option<u64>,
) -> Envelope<Progress> {
    let filter = Filter { statuses, task_types, worker: worker_id, tags, priority_min };
    let now = now_ms();
    let action = match action {
        Change::Stop => {
            let stopped = bulk_id.ok_or("bulk_id is missing: which change is to stop");
            let stopped = stopped.map_err(|reason| QueueError::Invalid(reason.to_owned()));
            return seal(stopped.and_then(|number| engine::stop_bulk(number, now)).map(|bulk| Progress::from(&bulk)));
        }
        Change::Cancel => Ok(Action::Cancel { reason, force }),
        Change::Retry => Ok(Action::Retry),
        Change::Delete if confirm => Ok(Action::Delete),
        Change::Delete => Err("deleting removes tasks for good: set confirm to true"),
        Change::Priority => new_priority
            .filter(|priority| priority.is_finite())
            .map(|priority| Action::Priority { priority, requeue })
            .ok_or("new_priority must be a finite number"),
    };
    let action = action.map_err(|reason| QueueError::Invalid(reason.to_owned()));
    seal(action.and_then(|action| engine::bulk(&action, &filter, now)).map(|bulk| Progress::from(&bulk)))
}

/// Tells how far a change of many tasks is. It is known for a day after its end, unless more than 64 came after it.
#[tool(read_only)]
pub fn task_bulk_status(
    /// The number that `task_bulk` gave.
    bulk_id: u64,
) -> Envelope<Progress> {
    let known = read(|t| Ok(engine::bulk_of(t, bulk_id)?)).and_then(|known| {
        let known = known.as_ref().map(Progress::from);
        known.ok_or_else(|| QueueError::Invalid(format!("bulk_id {bulk_id} is not known")))
    });
    seal(known)
}
