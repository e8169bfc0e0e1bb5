//! What clients do with runs that are there: pause, resume, cancel, retry, fork, signal.

use std::collections::BTreeSet;

use mcpp_tool::{
    rights::Rights,
    store::{Transaction, View},
};
use serde_json::{Map, Value};

use super::{
    Copied, Draft, Origin, WorkflowError, find,
    rehearsal::{SCRIPTS, Script},
    room::leave_half,
    upkeep::change,
};
use crate::{
    blob::BLOBS,
    run::{Fork, Number, Phase, Run, State},
    scheduler,
    store::{DEFINITIONS, GIVEN, INPUTS, RESULTS, ROOT, SIGNALS, TOKENS, node},
};

/// Largest payload of a signal, in bytes of JSON.
const MAX_PAYLOAD_BYTES: usize = 256 << 10;
/// Longest token of a step.
const MAX_TOKEN_BYTES: usize = 512;
/// Most signals that a run keeps.
const MAX_GIVEN: usize = 100;
/// Most nodes that one signal goes to.
const MAX_SIGNALLED: usize = 200;

fn refuse<T>(reason: String) -> Result<T, WorkflowError> {
    Err(WorkflowError::Refused(reason))
}

/// Changes a run that must be there.
fn change_run<T>(
    t: &Transaction<'_>,
    id: &str,
    origin: Origin,
    now_ms: u64,
    rule: impl FnOnce(&mut Run, &mut crate::store::StoredNodes<'_, '_>) -> Result<T, WorkflowError>,
) -> Result<(Run, T), WorkflowError> {
    find(t, id)?;
    let answer = change(t, id, origin, now_ms, rule)?.ok_or_else(|| WorkflowError::NoRun(id.to_owned()))?;
    Ok((find(t, id)?, answer))
}

/// Cancels a run; the run then, and how many of its steps had not ended.
///
/// # Errors
/// It has ended.
pub fn cancel(
    t: &Transaction<'_>,
    id: &str,
    (reason, is_forced): (&str, bool),
    origin: Origin,
    now_ms: u64,
) -> Result<(Run, u32), WorkflowError> {
    let reason: String = reason.chars().take(1_000).collect();
    change_run(t, id, origin, now_ms, |run, _| {
        if run.phase.is_final() {
            return refuse(format!("Workflow {id} has ended: {}", run.status()));
        }
        let open = run.tally.open;
        scheduler::cancel(run, &reason, is_forced);
        if run.phase == Phase::Blocked {
            run.phase = Phase::Running;
        }
        run.waits_for.clear();
        Ok(open)
    })
}

/// Lets nothing more begin; what runs goes on.
///
/// # Errors
/// It has ended.
pub fn pause(t: &Transaction<'_>, id: &str, now_ms: u64) -> Result<Run, WorkflowError> {
    let paused = change_run(t, id, Origin::Unknown, now_ms, |run, _| {
        if run.phase.is_final() {
            return refuse(format!("Workflow {id} has ended: {}", run.status()));
        }
        run.paused_ms.get_or_insert(now_ms);
        Ok(())
    });
    paused.map(|(run, ())| run)
}

/// Lets a paused run go on.
///
/// # Errors
/// It is not paused.
pub fn resume(t: &Transaction<'_>, id: &str, origin: Origin, now_ms: u64) -> Result<Run, WorkflowError> {
    let resumed = change_run(t, id, origin, now_ms, |run, _| match run.paused_ms.take() {
        Some(_) => Ok(()),
        None => refuse(format!("Workflow {id} is not paused")),
    });
    resumed.map(|(run, ())| run)
}

/// Gives a run a signal; how many steps waited for it. A step that waits for it later has it at once.
///
/// # Errors
/// It has ended, or the payload is too large.
pub fn give(
    t: &Transaction<'_>,
    id: &str,
    (signal, payload): (&str, &Value),
    origin: Origin,
    now_ms: u64,
) -> Result<u32, WorkflowError> {
    check_payload(payload)?;
    if !(1..=200).contains(&signal.len()) {
        return Err(WorkflowError::Invalid("a signal's name has 1 to 200 bytes".into()));
    }
    let waiting: Vec<Number> = SIGNALS.of(&(id, signal)).most(MAX_SIGNALLED).collect(t)?;
    let is_kept =
        GIVEN.get(t, &(id, signal))?.is_some() || GIVEN.under(&(id,)).most(MAX_GIVEN).walk(t).count() < MAX_GIVEN;
    // What a step waits for now is taken in any case.
    if !is_kept && waiting.is_empty() {
        return refuse(format!(
            "Workflow {id} keeps {MAX_GIVEN} signals for later steps, and no step waits for this one now"
        ));
    }
    let given = change_run(t, id, origin, now_ms, |run, nodes| {
        if run.phase.is_final() {
            return refuse(format!("Workflow {id} has ended: {}", run.status()));
        }
        if is_kept {
            GIVEN.set(t, &(id, signal), payload)?;
        }
        let mut count = 0_u32;
        for number in waiting {
            count = count.saturating_add(u32::from(scheduler::signal(run, nodes, number, payload, now_ms)?));
        }
        Ok(count)
    });
    let (_, count) = given?;
    leave_half(t)?;
    Ok(count)
}

/// Gives the step that waits for a token what it waits for; the run and the step's path.
///
/// # Errors
/// No step waits for it.
pub fn give_token(
    t: &Transaction<'_>,
    token: &str,
    payload: &Value,
    origin: Origin,
    now_ms: u64,
) -> Result<(Run, String), WorkflowError> {
    check_payload(payload)?;
    let found = if (1..=MAX_TOKEN_BYTES).contains(&token.len()) { TOKENS.get(t, token)? } else { None };
    let Some((id, number)) = found else { return refuse("no step waits for this token".into()) };
    let path = node(t, &id, number)?.path;
    let (run, _) =
        change_run(t, &id, origin, now_ms, |run, nodes| Ok(scheduler::signal(run, nodes, number, payload, now_ms)?))?;
    leave_half(t)?;
    Ok((run, path))
}

fn check_payload(payload: &Value) -> Result<(), WorkflowError> {
    let bytes = payload.to_string().len();
    match bytes > MAX_PAYLOAD_BYTES {
        true => {
            Err(WorkflowError::Invalid(format!("payload has {bytes} bytes; at most {MAX_PAYLOAD_BYTES} are allowed")))
        }
        false => Ok(()),
    }
}

/// Has an undo tried again that failed for good; none if the run waits for no such thing.
///
/// # Errors
/// There is no such run.
pub fn retry(t: &Transaction<'_>, id: &str, origin: Origin, now_ms: u64) -> Result<Option<Run>, WorkflowError> {
    // The operator has mended what made it fail.
    if let Some(script) = SCRIPTS.get(t, id)? {
        SCRIPTS.set(t, id, &Script { fault: None, ..script })?;
    }
    let (run, is_undo) =
        change_run(t, id, origin, now_ms, |run, nodes| Ok(scheduler::retry_undo(run, nodes, now_ms)?))?;
    Ok(is_undo.then_some(run))
}

/// A run that is to be made of another.
#[derive(Debug, Clone, Default)]
pub struct ForkRequest {
    /// The run.
    pub run: String,
    /// Id of the new one.
    pub id: String,
    /// The first step that is done again, with all that follow from it; none for those that had not completed.
    pub step: Option<String>,
    /// Another input; none for the same.
    pub input: Option<Value>,
    /// Other inputs of steps, by step.
    pub inputs: Map<String, Value>,
    /// Who asks.
    pub by: String,
    /// What that one may use.
    pub rights: Rights,
}

/// The draft of a run that is made of another: what had completed and does not follow from the step keeps its results.
///
/// # Errors
/// The run has not ended, the step is not there, or who asks may use other tools than the run's submitter.
pub fn fork(t: &View<'_>, request: &ForkRequest) -> Result<Draft, WorkflowError> {
    let id = &request.run;
    let run = find(t, id)?;
    if !run.phase.is_final() {
        return refuse(format!("Workflow {id} has not ended: it is {}", run.phase.as_str()));
    }
    // The new run does what the old one's submitter wrote. So it must not have more power, nor give who asks more.
    if request.rights.0.is_some() && request.rights != run.rights {
        return refuse(format!("Workflow {id} was submitted with other rights than yours"));
    }
    let mut steps = DEFINITIONS.get(t, id)?.ok_or_else(|| WorkflowError::NoRun(id.clone()))?;
    let place = |name: &str| steps.iter().position(|step| step.step_id == name);
    let unknown = |name: &str| WorkflowError::Invalid(format!("Workflow {id} has no step '{name}'"));
    let mut again: BTreeSet<usize> = BTreeSet::new();
    if let Some(name) = &request.step {
        again.insert(place(name).ok_or_else(|| unknown(name))?);
    }
    for name in request.inputs.keys() {
        again.insert(place(name).ok_or_else(|| unknown(name))?);
    }
    if request.input.is_some() && request.step.is_none() {
        // Any step may have used it.
        again.extend(0..steps.len());
    }
    let total = Number::try_from(steps.len()).unwrap_or(Number::MAX);
    let mut nodes = Vec::new();
    for number in 0..total {
        nodes.push(node(t, id, number)?);
    }
    let mut waiting: Vec<usize> = again.iter().copied().collect();
    while let Some(place) = waiting.pop() {
        for dependent in nodes.get(place).into_iter().flat_map(|node| &node.dependents) {
            let dependent = usize::try_from(*dependent).unwrap_or(usize::MAX);
            if again.insert(dependent) {
                waiting.push(dependent);
            }
        }
    }
    let mut copied = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        if node.state == State::Completed && !again.contains(&place) {
            let large = BLOBS.get(t, &(id, node.number))?;
            let result = match large {
                Some(blob) => Copied::Large(blob),
                None => Copied::Value(RESULTS.get(t, &(id, node.number))?.unwrap_or_default()),
            };
            copied.push((node.number, result));
        }
    }
    for (name, inputs) in &request.inputs {
        let Value::Object(inputs) = inputs else {
            return Err(WorkflowError::Invalid(format!("the inputs of step '{name}' are an object")));
        };
        if let Some(step) = steps.iter_mut().find(|step| step.step_id == *name) {
            step.inputs = inputs.clone();
        }
    }
    let input = match &request.input {
        Some(input) => input.clone(),
        None => INPUTS.get(t, &(id, ROOT))?.unwrap_or_default(),
    };
    Ok(Draft {
        id: request.id.clone(),
        name: run.name,
        steps,
        priority: run.priority,
        tags: run.tags,
        dependencies: Vec::new(),
        metadata: run.metadata,
        input,
        rights: run.rights,
        by: request.by.clone(),
        forked: Some(Fork { run: id.clone(), step: request.step.clone(), by: request.by.clone() }),
        copied,
        script: None,
    })
}
