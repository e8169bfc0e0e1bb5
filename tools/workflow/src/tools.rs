//! The tools. Each answers as `contracts` has it, with `success`; none raises.
#![allow(missing_docs, reason = "a tool's doc comment is its description, and its parameters have their own")]

pub mod awaited;
pub mod backfill;
pub mod builds;
pub mod bulk;
pub mod control;
pub mod doctor;
pub mod listing;
pub mod plans;
pub mod rehearsal;
pub mod show;
pub mod submission;
pub mod transfer;

use mcpp_tool::{
    Envelope, Failure, caller,
    environment::rfc3339,
    store::{Snapshot, Transaction, snapshot, transact},
};
use serde_json::{Map, Value, json};

use crate::{
    engine::{Origin, WorkflowError, place},
    run::{Inner, Node, Run, State},
};

/// `{success: true, …}` or `{success: false, error, …}`, with properties that the contract names.
pub type Reply = Envelope<Map<String, Value>>;

/// The only place of runs: each is worked off by the host, or hosts, whose store it is in.
pub(crate) const HERE: &str = "localhost";

/// The reply to a request; a failure with the id that was asked for.
pub(crate) fn settle(result: Result<Value, WorkflowError>, workflow_id: &str) -> Reply {
    let failure = |error: WorkflowError| {
        let failure = Failure::new(&error);
        let failure = match workflow_id {
            "" => failure,
            id => failure.with("workflow_id", id),
        };
        match error {
            WorkflowError::Problem(problem) => failure.with("step_id", problem.step).with("path", problem.path),
            _ => failure,
        }
    };
    Reply::of_json(result.map_err(failure))
}

/// Adds a property to a reply.
pub(crate) fn put(reply: &mut Value, name: &str, value: Value) {
    if let Value::Object(fields) = reply {
        fields.insert(name.to_owned(), value);
    }
}

/// Runs one transaction.
pub(crate) fn run<T>(work: impl FnMut(&Transaction<'static>) -> Result<T, WorkflowError>) -> Result<T, WorkflowError> {
    transact(work)
}

/// Runs work that only reads, on a snapshot.
pub(crate) fn read<T>(work: impl FnOnce(&Snapshot) -> Result<T, WorkflowError>) -> Result<T, WorkflowError> {
    work(&snapshot()?)
}

/// How handlers are called for from the running call. One that a handler makes may stand anywhere in a chain of events.
pub(crate) fn origin() -> Origin {
    if caller::caller().subject.starts_with("system:") { Origin::Unknown } else { Origin::Client }
}

/// A time for clients.
pub(crate) fn time(ms: Option<u64>) -> Value {
    ms.map_or(Value::Null, |ms| Value::String(rfc3339(ms)))
}

/// A run in a list.
pub(crate) fn summary(run: &Run) -> Value {
    json!({
        "workflow_id": run.id,
        "name": run.name,
        "status": run.status(),
        "phase": run.phase.as_str(),
        "paused": run.paused_ms.is_some(),
        "progress": run.progress(),
        "current_step": run.current,
        "priority": run.priority,
        "tags": run.tags,
        "peer_id": HERE,
        "submitted_by": run.by,
        "created_at": time(Some(run.created_ms)),
        "start_time": time(run.started_ms),
        "end_time": time(run.ended_ms),
        "error": run.error.as_ref().or(run.cancelled.as_ref()),
        "steps_total": run.tally.total,
        "steps_open": run.tally.open,
    })
}

/// How long a step took, from the beginning of its first attempt to its end, in milliseconds.
pub(crate) fn took_ms(node: &Node) -> Option<u64> {
    Some(node.ended_ms?.saturating_sub(node.started_ms?))
}

/// Milliseconds as seconds.
pub(crate) fn seconds(ms: u64) -> f64 {
    // Up to the year 9999 a float has the milliseconds exactly.
    ms as f64 / 1_000.0
}

/// A step in a status.
pub(crate) fn step(node: &Node) -> Value {
    let mut shown = json!({
        "step_id": node.path,
        "action": node.step.action,
        "status": node.state.as_str(),
        "attempts": node.attempt,
        "start_time": time(node.started_ms),
        "end_time": time(node.ended_ms),
        "duration_s": took_ms(node).map(seconds),
        "error": node.error,
        "host": place::shown(node),
    });
    if matches!(node.state, State::Failed | State::Skipped | State::Cancelled | State::UndoFailed) {
        put(&mut shown, "reason", json!(node.reason()));
    }
    if node.step.cache.is_some() && node.step.for_each.is_none() && node.state == State::Completed {
        put(&mut shown, "cached", json!(node.is_cached));
    }
    if let State::InLine(line) = &node.state {
        put(&mut shown, "reason", json!(line.reason()));
    }
    if let State::Open(Inner::Fan { total, open, succeeded, failed, .. }) = &node.state {
        let items = json!({ "total": total, "succeeded": succeeded, "failed": failed, "open": open.len() });
        put(&mut shown, "items", items);
    }
    if let State::Waiting { signal, token, until_ms, form } = &node.state {
        let until = time(*until_ms);
        put(&mut shown, "waits_for", json!({ "signal": signal, "token": token, "until": until, "form": form }));
    }
    if let State::Listening { event, until_ms, .. } = &node.state {
        put(&mut shown, "waits_for", json!({ "event": event, "until": time(*until_ms) }));
    }
    if let State::Handed { until_ms, .. } = &node.state {
        let task = node.task.as_ref().map(|task| &task.id);
        put(&mut shown, "waits_for", json!({ "task": task, "until": time(*until_ms) }));
    }
    if let Some(task) = &node.task {
        put(&mut shown, "task_id", json!(task.id));
        put(&mut shown, "worker", json!(task.worker));
    }
    shown
}

#[cfg(test)]
mod tests;
