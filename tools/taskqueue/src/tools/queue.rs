//! `queue_*`: the queue as a whole.

use mcpp_tool::{Output, tool};
use serde_json::{Value, json};

use super::{read, run, settle, workers};
use crate::{
    engine::{self, Cleared, Clearing},
    environment::{iso, now_ms},
    queue::{Paused, counted, set_settings, settings},
    record::Status,
    statistics,
};

/// Tells how many tasks there are, and what was measured of them. What was never measured is null.
#[tool(read_only)]
pub fn queue_stats(
    /// With each worker.
    #[serde(default)]
    include_worker_stats: bool,
    /// With each of the last minutes.
    #[serde(default)]
    include_historical: bool,
) -> Output {
    let now = now_ms();
    let stats = read(|t| {
        let totals = statistics::totals(t)?;
        let workers = match include_worker_stats {
            true => {
                Some(engine::all_workers(t)?.iter().map(|worker| workers::describe(worker, now)).collect::<Vec<_>>())
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
            "average_wait_time": totals.average_wait_s(),
            "average_execution_time": totals.average_execution_s(),
            "throughput": statistics::throughput(t, now)?,
            "paused": settings(t)?.paused.is_some(),
            "worker_stats": workers,
            "historical": history,
            "clearing": engine::clearing(t)?.map(progress),
        }))
    });
    settle(stats, ("", ""))
}

/// How far a clearing is.
fn progress(clearing: Clearing) -> Value {
    json!({
        "statuses": clearing.statuses,
        "asked_at": iso(clearing.asked_ms),
        "cleared_count": clearing.cleared,
    })
}

fn minute((minute, numbers): (u64, statistics::Minute)) -> Value {
    json!({
        "minute": iso(minute.saturating_mul(60_000)),
        "submitted": numbers.submitted,
        "completed": numbers.completed,
        "failed": numbers.failed,
    })
}

/// Pauses the queue: what runs goes on, and nothing more is handed out.
#[tool]
pub fn queue_pause(
    /// Why.
    #[serde(default)]
    reason: Option<String>,
) -> Output {
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
    #[serde(default = "super::tasks::yes")]
    reorder_by_priority: bool,
) -> Output {
    let now = now_ms();
    let resumed = run(|t| {
        let mut settings = settings(t)?;
        settings.paused = None;
        set_settings(t, &settings)?;
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
    #[serde(default)]
    status_filter: Option<Clearable>,
    /// Must be true.
    #[serde(default)]
    confirm: bool,
) -> Output {
    if !confirm {
        return super::answer(json!({
            "success": false,
            "error": "Confirmation required (set confirm=True)",
            "message": "Clearing removes tasks for good; nothing was removed",
        }));
    }
    let statuses = match status_filter {
        Some(Clearable::Queued) => vec![Status::Queued],
        Some(Clearable::Failed) => vec![Status::Failed],
        Some(Clearable::Cancelled) => vec![Status::Cancelled],
        None => vec![Status::Queued, Status::Completed, Status::Failed, Status::Cancelled],
    };
    let now = now_ms();
    let cleared = engine::clear(&statuses, now).and_then(|Cleared { cleared, goes_on }| {
        let remaining =
            read(|t| Status::ALL.iter().try_fold(0_u64, |sum, status| Ok(sum.saturating_add(counted(t, *status)?))))?;
        Ok(json!({
            "cleared_count": cleared,
            "remaining_count": remaining,
            "cleared_at": iso(now),
            // More than fits into a call: the queue goes on by itself, and `queue_stats` tells how far it is.
            "in_progress": goes_on,
        }))
    });
    settle(cleared, ("", ""))
}
