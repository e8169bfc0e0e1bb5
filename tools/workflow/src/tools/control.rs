//! Cancel, pause, resume, signal.

use mcpp_tool::{environment::now_ms, tool};
use serde_json::{Value, json};

use super::{Reply, origin, run, settle, time};
use crate::engine::{self, WorkflowError};

/// Cancels a run. Steps that run end first, and effects are taken back, unless `force` is true.
#[tool(destructive)]
pub fn workflow_cancel(
    /// The run.
    workflow_id: String,
    /// Why.
    #[arg(default)]
    reason: Option<String>,
    /// Waits for no step, and takes nothing back.
    #[arg(default)]
    force: bool,
) -> Reply {
    let why = reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or("cancelled");
    let cancelled = run(|t| engine::cancel(t, &workflow_id, (why, force), origin(), now_ms()));
    let reply = cancelled.map(|(run, steps)| {
        json!({
            "workflow_id": run.id,
            "status": "cancelled",
            "phase": run.phase.as_str(),
            "cancelled_steps": steps,
            "message": format!("Workflow {} cancelled: {why}", run.id),
        })
    });
    settle(reply, &workflow_id)
}

/// Removes a run that has ended, with its results: nobody can see or fork it any more. The store has its bytes back, of large results within hours. Runs that nobody removes go by themselves after seven days.
#[tool(destructive)]
pub fn workflow_delete(
    /// The run.
    workflow_id: String,
) -> Reply {
    let deleted = run(|t| engine::delete(t, &workflow_id, now_ms()));
    settle(deleted.map(|_| json!({ "workflow_id": workflow_id, "deleted": true })), &workflow_id)
}

/// Lets no further step of a run begin. Steps that run go on.
#[tool(idempotent)]
pub fn workflow_pause(
    /// The run.
    workflow_id: String,
) -> Reply {
    let paused = run(|t| engine::pause(t, &workflow_id, now_ms()));
    let reply = paused.map(|run| {
        json!({ "workflow_id": run.id, "status": run.status(), "paused": true, "paused_at": time(run.paused_ms) })
    });
    settle(reply, &workflow_id)
}

/// Lets a paused run go on.
#[tool]
pub fn workflow_resume(
    /// The run.
    workflow_id: String,
) -> Reply {
    let resumed = run(|t| engine::resume(t, &workflow_id, origin(), now_ms()));
    settle(resumed.map(|run| json!({ "workflow_id": run.id, "status": run.status(), "paused": false })), &workflow_id)
}

/// Gives a run a signal for which steps wait, or gives one step what it waits for by its one-time token.
#[tool]
pub fn workflow_signal(
    /// The run; absent with a token.
    #[arg(default)]
    workflow_id: Option<String>,
    /// Name of the signal. A step that waits for it later has it at once.
    #[arg(default)]
    signal: Option<String>,
    /// The token that a step's status shows.
    #[arg(default)]
    token: Option<String>,
    /// The result of the steps that waited.
    #[arg(default)]
    payload: Value,
) -> Reply {
    let given = match (&workflow_id, &signal, &token) {
        (Some(id), Some(signal), None) => run(|t| {
            let steps = engine::give(t, id, (signal, &payload), origin(), now_ms())?;
            Ok(json!({ "workflow_id": id, "signal": signal, "steps_signalled": steps }))
        }),
        (_, None, Some(token)) => run(|t| {
            let (run, step) = engine::give_token(t, token, &payload, origin(), now_ms())?;
            Ok(json!({ "workflow_id": run.id, "step_id": step, "steps_signalled": 1 }))
        }),
        _ => Err(WorkflowError::Invalid("give workflow_id and signal, or token".into())),
    };
    settle(given, workflow_id.as_deref().unwrap_or_default())
}
