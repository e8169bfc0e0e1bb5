//! `queue_*`: the queue as a whole.

use mcpp_tool::{
    Envelope, Failure,
    environment::{now_ms, rfc3339 as iso},
    tool,
};
use serde_json::{Value, json};

use super::{Reply, bulk, read, run, seal, settle, workers};
use crate::{
    engine::{self, Action, Bulk, Limit},
    queue::{Paused, counted, set_settings, settings},
    record::Status,
    statistics,
};

/// Tells how many tasks there are, and what was measured of them. What was never measured is null.
#[tool(read_only)]
pub fn queue_stats(
    /// With each worker.
    #[arg(default)]
    include_worker_stats: bool,
    /// With each of the last minutes.
    #[arg(default)]
    include_historical: bool,
) -> Reply {
    let now = now_ms();
    let stats = read(|t| {
        let workers = match include_worker_stats {
            true => {
                let all = engine::all_workers(t)?;
                Some(all.iter().map(|worker| workers::describe(t, worker, now)).collect::<Result<Vec<_>, _>>()?)
            }
            false => None,
        };
        let history = match include_historical {
            true => Some(statistics::minutes(t, now)?.into_iter().map(minute).collect::<Vec<_>>()),
            false => None,
        };
        Ok(json!({
            "queued_count": counted(t, Status::Queued)?,
            "running_count": counted(t, Status::Running)?,
            "completed_count": counted(t, Status::Completed)?,
            "failed_count": counted(t, Status::Failed)?,
            "cancelled_count": counted(t, Status::Cancelled)?,
            "average_wait_time": statistics::average_wait_s(t)?,
            "average_execution_time": statistics::average_execution_s(t)?,
            "throughput": statistics::throughput(t, now)?,
            "paused": settings(t)?.paused.is_some(),
            "store": statistics::store(t),
            "worker_stats": workers,
            "historical": history,
            "clearing": engine::bulks(t)?.iter().find(|bulk| is_clearing(bulk)).map(clearing),
            "bulk": engine::bulks(t)?.iter().filter(|bulk| bulk.ended_ms.is_none()).map(bulk::Progress::from).collect::<Vec<_>>(),
        }))
    });
    settle(stats, ("", ""))
}

/// Whether it is a `queue_clear` under way.
fn is_clearing(bulk: &Bulk) -> bool {
    bulk.ended_ms.is_none() && bulk.action == Action::Delete && !bulk.filter.is_narrow()
}

/// How far a clearing is.
fn clearing(bulk: &Bulk) -> Value {
    json!({
        "statuses": bulk.filter.statuses,
        "asked_at": iso(bulk.asked_ms),
        "cleared_count": bulk.changed,
    })
}

fn minute(numbers: statistics::Minute) -> Value {
    json!({
        "minute": iso(numbers.minute.saturating_mul(60_000)),
        "submitted": numbers.submitted,
        "completed": numbers.completed,
        "failed": numbers.failed,
    })
}

/// Pauses the queue: what runs goes on, and nothing more is handed out.
#[tool]
pub fn queue_pause(
    /// Why.
    #[arg(default)]
    reason: Option<String>,
) -> Reply {
    let now = now_ms();
    let paused = run(|t| {
        let mut settings = settings(t)?;
        // A second pause is the first one.
        let paused = settings.paused.get_or_insert(Paused { since_ms: now, reason: reason.clone() }).clone();
        set_settings(t, &settings)?;
        Ok(json!({
            "status": "paused",
            "paused_at": iso(paused.since_ms),
            "reason": paused.reason,
            "queued_tasks": counted(t, Status::Queued)?,
            "running_tasks": counted(t, Status::Running)?,
        }))
    });
    settle(paused, ("", ""))
}

/// Lets the queue hand out tasks again.
#[tool]
pub fn queue_resume(
    /// Kept for compatibility: the queue is always in the order of the priorities.
    #[arg(default = true)]
    reorder_by_priority: bool,
) -> Reply {
    let now = now_ms();
    let resumed = run(|t| {
        let mut settings = settings(t)?;
        settings.paused = None;
        set_settings(t, &settings)?;
        engine::ring_all(t)?;
        let queued = counted(t, Status::Queued)?;
        Ok(
            json!({ "status": "active", "resumed_at": iso(now), "queued_tasks": queued, "reordered": reorder_by_priority }),
        )
    });
    settle(resumed, ("", ""))
}

/// Tasks to clear.
#[derive(Debug, Clone, Copy, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Clearable {
    /// Tasks that wait.
    Queued,
    /// Tasks that failed.
    Failed,
    /// Tasks that were cancelled.
    Cancelled,
}

/// Removes tasks for good; never those that run. What does not fit into the call is removed by the queue itself afterwards (`in_progress`); `queue_stats` tells how far it is.
#[tool(destructive)]
pub fn queue_clear(
    /// Only tasks with this status; all that do not run if absent.
    #[arg(default)]
    status_filter: Option<Clearable>,
    /// Must be true.
    #[arg(default)]
    confirm: bool,
) -> Reply {
    if !confirm {
        let failure = Failure::new("Confirmation required (set confirm=True)");
        return Err(failure.with("message", "Clearing removes tasks for good; nothing was removed")).into();
    }
    let statuses = match status_filter {
        Some(Clearable::Queued) => vec![Status::Queued],
        Some(Clearable::Failed) => vec![Status::Failed],
        Some(Clearable::Cancelled) => vec![Status::Cancelled],
        None => vec![Status::Queued, Status::Completed, Status::Failed, Status::Cancelled],
    };
    let now = now_ms();
    let cleared = engine::clear(&statuses, now).and_then(|bulk| {
        let remaining =
            read(|t| Status::ALL.iter().try_fold(0_u64, |sum, status| Ok(sum.saturating_add(counted(t, *status)?))))?;
        Ok(json!({
            "cleared_count": bulk.changed,
            "remaining_count": remaining,
            "cleared_at": iso(now),
            // More than fits into a call: the queue goes on by itself, and `queue_stats` tells how far it is.
            "in_progress": bulk.ended_ms.is_none(),
        }))
    });
    settle(cleared, ("", ""))
}

/// The limits of a key, and how many tasks of it there are.
#[derive(Debug, Clone, serde::Serialize, schemars::JsonSchema)]
pub struct Key {
    /// The key.
    key: String,
    /// Its limits.
    limit: Limit,
    /// Tasks that wait for the key's turn.
    held_count: u64,
    /// Tasks that have it: one at most.
    ready_count: u64,
    /// Tasks that run.
    running_count: u64,
}

/// The kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// A `concurrency_key`.
    Concurrency,
    /// A `rate_key`.
    Rate,
}

/// Shows the limits of a key, or changes them, also while its tasks wait and run. Empty limits remove them.
#[tool(idempotent)]
pub fn queue_limit(
    /// The kind of the key.
    kind: KeyKind,
    /// The key.
    key: String,
    /// Its limits from now on; as they are if absent.
    #[arg(default)]
    limit: Option<Limit>,
) -> Envelope<Key> {
    let (now, line) = (now_ms(), (kind == KeyKind::Concurrency, &*key));
    let shown = run(|t| {
        if let Some(limit) = &limit {
            engine::set_limit(t, line, limit, now)?;
        }
        let [held_count, ready_count, running_count] = engine::in_line(t, line)?;
        Ok(Key { key: key.clone(), limit: engine::limit(t, line)?, held_count, ready_count, running_count })
    });
    seal(shown)
}
