//! Steps that a worker of the task queue does. The run's submitter submits a task of a known id, so that a repetition is the same task; then the node waits for the event of its end,
//! and asks the queue itself now and then, for a queue whose events do not come.

use std::time::Duration;

use mcpp_tool::{
    caller,
    environment::{chance, hexadecimal, now_ms as clock_ms},
    store::{StoreError, Transaction, snapshot, transact},
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    Origin, WorkflowError,
    job::{Done, Job, Refusal, kept},
    rehearsal::Script,
    upkeep::change,
};
use crate::{
    definition::TASK,
    run::{HandedTask, Node, Number, Run, State},
    scheduler::{self, Nodes as _, Outcome},
    store::{HANDED, NODES, StoredNodes, node as stored, stored_run},
};

/// The queue's topic that tells of the ends of tasks which were submitted with `notify`.
const ENDED: &str = "taskqueue/ended";
/// How long the queue may take for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// The id of the task that does an attempt of a node's step: the same whenever the attempt is repeated.
pub(super) fn id(run: &Run, node: &Node) -> String {
    let mut hash = Sha256::new();
    for part in [&*run.id, &*run.key, &*node.path, &*node.attempt.to_string()] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut digits = hexadecimal(&hash.finalize());
    digits.truncate(32);
    format!("wf-{digits}")
}

/// The task that does what a node is for, where a worker of the queue does that.
pub(super) fn of(run: &Run, node: &Node) -> Option<String> {
    node.task.as_ref().filter(|_| is_task(run, node)).map(|task| task.id.clone())
}

/// Whether a worker of the queue does what a node is for.
fn is_task(run: &Run, node: &Node) -> bool {
    node.step.action == TASK && node.step.for_each.is_none() && !run.is_rehearsal
}

/// Notes the task of a node that a handler has taken, before there is one: so the event of its end finds the node.
pub(super) fn note(t: &Transaction<'_>, run: &Run, node: &mut Node) -> Result<(), StoreError> {
    if !is_task(run, node) || !matches!(node.state, State::Running { .. }) {
        return Ok(());
    }
    let id = id(run, node);
    if node.task.as_ref().is_none_or(|task| task.id != id) {
        node.task = Some(HandedTask { id, ..HandedTask::default() });
        NODES.put(t, &(run.id.clone(), node.number), node)?;
    }
    Ok(())
}

/// What has become of a node when a handler is done with it: where the queue has taken a task, the node waits for that.
pub(super) fn outcome(run: &Run, node: &Node, outcome: Outcome) -> Outcome {
    let is_submitted = is_task(run, node) && matches!(node.state, State::Running { .. });
    match outcome {
        Outcome::Completed(_) | Outcome::Large(_) if is_submitted => Outcome::Handed,
        other => other,
    }
}

/// A handler comes too late with what it did. If its node was cancelled meanwhile, or is gone, nobody waits for its task.
pub(super) fn too_late(t: &Transaction<'_>, job: &Job, node: Option<&Node>, done: &Done) -> Result<(), StoreError> {
    let has_result = matches!(done.outcome, Outcome::Completed(_) | Outcome::Large(_));
    match &job.task {
        Some(task) if has_result && node.is_none_or(|node| node.state == State::Cancelled) => {
            StoredNodes::new(t, &job.run).drop_task(task, clock_ms())
        }
        _ => Ok(()),
    }
}

/// What a step of a worker gives in a rehearsal, in which there are no workers.
pub(super) fn rehearsed(script: &Script, path: &str) -> Outcome {
    let answer = script.recorded.get(TASK).or_else(|| script.given.get(path));
    Outcome::Completed(answer.cloned().unwrap_or_default())
}

/// The event of a task's end has come; whether a node waits for it, which has its result then.
pub(super) fn has_ended(topic: &str, task: &str) -> Result<bool, WorkflowError> {
    if topic != ENDED {
        return Ok(false);
    }
    let place = transact(|t| {
        let Some((run, number)) = HANDED.get(t, task)? else { return Ok(None) };
        let mut node = stored(t, &run, number)?;
        match (&node.state, node.task.as_mut()) {
            (State::Handed { .. }, Some(_)) => return Ok(Some((run, number))),
            // Its handler has not written down yet that the queue has the task.
            (_, Some(known)) if known.id == task && !known.has_ended => {
                known.has_ended = true;
                NODES.put(t, &(run, number), &node)?;
            }
            _ => {}
        }
        Ok::<_, WorkflowError>(None)
    })?;
    match place {
        Some((run, number)) => look(&run, number),
        None => Ok(false),
    }
}

/// What the queue says of a task.
#[derive(Debug)]
struct Found {
    /// What becomes of the attempt; none while the task has not ended, or the queue does not say.
    outcome: Option<Outcome>,
    /// The worker that has it, or did it.
    worker: Option<String>,
}

/// Asks the queue for the task of a node, if that waits for one; whether it does.
///
/// # Errors
/// Those of the store.
pub(super) fn look(id: &str, number: Number) -> Result<bool, WorkflowError> {
    let view = snapshot()?;
    let Some(run) = stored_run(&view, id)? else { return Ok(false) };
    let node = NODES.get(&view, &(id, number))?.filter(|node| matches!(node.state, State::Handed { .. }));
    let Some(task) = node.and_then(|node| node.task) else { return Ok(false) };
    drop(view);
    let Found { outcome, worker } = ask(&Job::errand(&run, number), &task.id);
    let now = clock_ms();
    transact(|t| {
        change(t, id, Origin::Unknown, now, |run, nodes| {
            let mut node = nodes.node(number)?;
            let (State::Handed { until_ms, .. }, Some(known)) = (&node.state, node.task.as_mut()) else {
                return Ok(());
            };
            // Another look was faster, and this is another attempt.
            if known.id != task.id {
                return Ok(());
            }
            let is_over = until_ms.is_some_and(|until_ms| until_ms <= now);
            known.worker = worker.clone().or_else(|| known.worker.take());
            match &outcome {
                Some(outcome) => scheduler::settle(run, nodes, node, outcome.clone(), (now, chance()))?,
                None if is_over => scheduler::time_out(run, nodes, node, (now, chance()))?,
                None => scheduler::look_again(nodes, node, now)?,
            }
            Ok(())
        })
        .map(drop)
    })?;
    Ok(true)
}

fn ask(job: &Job, task: &str) -> Found {
    let is_known = |error: &str| error.contains("not found");
    let gone = || Outcome::Failed { error: format!("the queue has no task {task} any more"), is_final: false };
    let text = |answer: &Value, field: &str| answer.get(field).and_then(Value::as_str).map(str::to_owned);
    let status = match call(job, "task_status", json!({ "task_id": task })) {
        Ok(status) => status,
        Err(Refusal::Failed { error, is_final: false }) if is_known(&error) => {
            return Found { outcome: Some(gone()), worker: None };
        }
        Err(_) => return Found { outcome: None, worker: None },
    };
    let worker = text(&status, "worker_id");
    if !["completed", "failed", "cancelled"].iter().any(|end| status.get("status") == Some(&Value::from(*end))) {
        return Found { outcome: None, worker };
    }
    let Ok(mut ended) = call(job, "task_result", json!({ "task_id": task, "include_output": false })) else {
        return Found { outcome: None, worker };
    };
    let why = |field: &str| text(&ended, field).filter(|why| !why.is_empty());
    let failed = |error: String| Outcome::Failed { error, is_final: false };
    let outcome = match ended.get("status").and_then(Value::as_str) {
        Some("failed") => failed(why("error").unwrap_or_else(|| format!("task {task} failed"))),
        Some("cancelled") => {
            let reason = why("cancel_reason").or_else(|| why("error"));
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            failed(format!("task {task} was cancelled{reason}"))
        }
        _ => kept(ended.get_mut("result").map(Value::take).unwrap_or_default(), clock_ms()),
    };
    Found { outcome: Some(outcome), worker: text(&ended, "worker_id").or(worker) }
}

/// Cancels a task that nobody waits for any more.
///
/// # Errors
/// The queue could not be asked: the host calls again then.
pub(super) fn cancel(task: &str) -> Result<(), WorkflowError> {
    let reason = "the step of a workflow no longer waits for it";
    let arguments = json!({ "task_id": task, "reason": reason, "force": true });
    match call(&Job::errand(&Run::new(String::new(), 0), 0), "task_cancel", arguments) {
        Err(Refusal::Busy) => Err(WorkflowError::Refused(format!("the queue had no room to cancel {task}"))),
        // It has ended, or there is none.
        Ok(_) | Err(Refusal::Failed { .. }) => Ok(()),
    }
}

fn call(job: &Job, tool: &str, arguments: Value) -> Result<Value, Refusal> {
    let arguments = match arguments {
        Value::Object(arguments) => arguments,
        _ => Map::new(),
    };
    job.call(tool, (&arguments, ANSWER.min(caller::remaining()))).0
}
