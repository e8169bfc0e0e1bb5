//! `workflow_submit`, and what makes a run of another.

use mcpp_tool::{
    Error, caller, deferred,
    environment::{now_ms, rfc3339},
    rights,
    store::View,
    tool,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    HERE, Reply,
    awaited::{OWNED, WATCHED, handle},
    origin, put, read, run, settle,
};
use crate::{
    engine::{self, Draft, ForkRequest, VisibleTools, WorkflowError},
    run::{Phase, Run},
    schedule::template,
    validate::parse,
};

/// Most retries of a run by its own id.
const MAX_RETRIES: u32 = 100;

/// Submits a draft whose tools are looked up first.
pub(crate) fn submit(draft: &Draft) -> Result<Run, WorkflowError> {
    let graph = draft.check(&VisibleTools(&draft.rights, &[]))?;
    run(|t| engine::submit(t, draft, &graph, origin(), now_ms()))
}

/// The reply to a submission that began at a time.
fn submitted(run: &Run, began_ms: u64) -> Value {
    let message = match run.phase {
        // It had nothing to do but to wait for what was there.
        phase if phase.is_final() && run.created_ms >= began_ms => {
            format!("Workflow {} submitted with {} steps; it is {}", run.id, run.tally.total, phase.as_str())
        }
        Phase::Blocked => format!("Workflow {} waits for {}", run.id, run.waits_for.join(", ")),
        phase if phase.is_final() => format!("Workflow {} was submitted before: it is {}", run.id, phase.as_str()),
        _ => format!("Workflow {} submitted with {} steps", run.id, run.tally.total),
    };
    json!({
        "workflow_id": run.id,
        "status": "submitted",
        "peer_assigned": HERE,
        "estimated_start_time": if run.phase == Phase::Blocked { Value::Null } else { rfc3339(now_ms()).into() },
        "message": message,
    })
}

/// What a client submits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct Submission {
    /// A name for this run, of at most 128 bytes.
    pub workflow_id: String,
    /// A name for people.
    pub name: String,
    /// The steps, each with `step_id` and `action`; those of `template` if absent. See the README for all that a step may have.
    #[serde(default)]
    pub steps: Vec<Value>,
    /// Lower is sooner.
    #[serde(default = "Submission::priority")]
    pub priority: f64,
    /// Names by which runs are listed.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Runs that must have completed before.
    #[serde(default)]
    pub dependencies: Vec<String>,
    /// What `${metadata…}` stands for.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// What `${input…}` stands for.
    #[serde(default)]
    pub input: Value,
    /// Submits the steps of this template: see `workflow_template`.
    #[serde(default)]
    pub template: Option<String>,
}

impl Submission {
    fn priority() -> f64 {
        1.0
    }

    /// Submits it, as the caller.
    pub(crate) fn submit(self) -> Result<Run, WorkflowError> {
        let Self { workflow_id, name, steps, priority, tags, dependencies, metadata, input, template } = self;
        let (steps, tags) = match &template {
            Some(name) if steps.is_empty() => {
                let template = read(|t| self::template(t, name))?;
                (template.steps, [template.tags, tags].concat())
            }
            Some(_) => return Err(WorkflowError::Invalid("give steps or template, not both".into())),
            None => (parse(&steps)?, tags),
        };
        if workflow_id.is_empty() || name.is_empty() || steps.is_empty() {
            return Err(WorkflowError::Invalid("Missing required parameters: workflow_id, name, or steps".into()));
        }
        let draft = Draft {
            id: workflow_id,
            name,
            steps,
            priority,
            tags,
            dependencies,
            metadata,
            input,
            rights: rights::of_caller(),
            by: caller::caller().subject,
            ..Draft::default()
        };
        submit(&draft)
    }
}

/// Submits a workflow: a graph of tool calls that ends even if the host is restarted meanwhile. All of it is checked before anything runs. The same submission twice is one run.
#[tool(idempotent)]
pub fn workflow_submit(
    /// The workflow.
    #[arg(flatten)]
    submission: Submission,
) -> Reply {
    let id = submission.workflow_id.clone();
    let began_ms = now_ms();
    settle(submission.submit().map(|run| submitted(&run, began_ms)), &id)
}

/// Submits a workflow as `workflow_submit` does, and answers with its results when it has ended: to a client that can wait, as a task. Cancelling the call cancels the run.
/// The user of such a client is asked what steps that wait for a signal ask. Everybody else gets the answer of `workflow_submit`.
#[tool(idempotent)]
pub fn workflow_run(
    /// The workflow.
    #[arg(flatten)]
    submission: Submission,
) -> Result<Reply, Error> {
    let id = submission.workflow_id.clone();
    let began_ms = now_ms();
    // A run that is there has another caller, who waits for it.
    let kind = if read(|t| engine::find(t, &id)).is_ok() { WATCHED } else { OWNED };
    match submission.submit() {
        Ok(run) => {
            deferred::defer(&handle(kind, &run))?;
            Ok(settle(Ok(submitted(&run, began_ms)), &id))
        }
        Err(error) => Ok(settle(Err(error), &id)),
    }
}

/// Makes a new run of one that has ended: steps that had completed keep their results, but for `step` and all that follow from it. Today's tools do the work.
#[tool]
#[allow(clippy::too_many_arguments, reason = "all of them are needed")]
pub fn workflow_fork(
    /// The run that has ended.
    workflow_id: String,
    /// Id of the new run.
    new_workflow_id: String,
    /// The first step that is done again; only those that had not completed if absent.
    #[arg(default)]
    step_id: Option<String>,
    /// Another input of the run.
    #[arg(default)]
    input: Option<Value>,
    /// Other inputs of steps, by their ids. These steps are done again.
    #[arg(default)]
    inputs: Map<String, Value>,
) -> Reply {
    let request = ForkRequest {
        run: workflow_id.clone(),
        id: new_workflow_id,
        step: step_id,
        input,
        inputs,
        by: caller::caller().subject,
        rights: rights::of_caller(),
    };
    settle(read(|t| engine::fork(t, &request)).and_then(|draft| forked(&draft)), &workflow_id)
}

fn forked(draft: &Draft) -> Result<Value, WorkflowError> {
    let kept = draft.copied.len();
    let began_ms = now_ms();
    let mut reply = submitted(&submit(draft)?, began_ms);
    put(&mut reply, "forked_from", json!(draft.forked.as_ref().map(|fork| &fork.run)));
    put(&mut reply, "steps_kept", json!(kept));
    Ok(reply)
}

/// Tries again what failed: an undo that waits for an operator, or the steps that did not complete, in a new run `<id>-retry-<n>`.
#[tool]
pub fn workflow_retry(
    /// The run.
    workflow_id: String,
) -> Reply {
    settle(retry_run(&workflow_id), &workflow_id)
}

/// Tries again what failed of a run.
pub(crate) fn retry_run(id: &str) -> Result<Value, WorkflowError> {
    let now = now_ms();
    if let Some(run) = run(|t| engine::retry(t, id, origin(), now))? {
        return Ok(
            json!({ "workflow_id": id, "status": run.status(), "phase": run.phase.as_str(), "message": "The undo is tried again" }),
        );
    }
    let request = |new: String| ForkRequest {
        run: id.to_owned(),
        id: new,
        by: caller::caller().subject,
        rights: rights::of_caller(),
        ..ForkRequest::default()
    };
    let draft = read(|t| {
        if engine::find(t, id)?.phase == Phase::Completed {
            return Err(WorkflowError::Refused(format!("Workflow {id} has completed; fork it to run steps again")));
        }
        match next_retry(t, id)? {
            Retry::New(new) => engine::fork(t, &request(new)).map(Ok),
            Retry::Running(run) => Ok(Err(run)),
        }
    })?;
    match draft {
        Ok(draft) => forked(&draft),
        Err(running) => Ok(json!({
            "workflow_id": running.id,
            "status": running.status(),
            "phase": running.phase.as_str(),
            "forked_from": id,
            "message": format!("Workflow {id} is tried again already, by {}", running.id),
        })),
    }
}

/// What tries a run again.
enum Retry {
    /// A new run with this id.
    New(String),
    /// One that is there and has not ended.
    Running(Box<Run>),
}

/// The next free `<id>-retry-<n>` of a run, unless an earlier one has not ended.
fn next_retry(t: &View<'_>, id: &str) -> Result<Retry, WorkflowError> {
    let (base, number) = match id.rsplit_once("-retry-").map(|(base, number)| (base, number.parse::<u32>())) {
        Some((base, Ok(number))) => (base, number),
        _ => (id, 0),
    };
    for further in 1..=MAX_RETRIES {
        let new = format!("{base}-retry-{}", number.saturating_add(further));
        // One that is too long is refused as any such id is.
        let there = engine::find(t, &new);
        match there {
            Err(WorkflowError::NoRun(_)) => return Ok(Retry::New(new)),
            Err(error) => return Err(error),
            Ok(run) => {
                let is_retry = run.forked.as_ref().is_some_and(|fork| fork.run == id && fork.step.is_none());
                if is_retry && !run.phase.is_final() {
                    return Ok(Retry::Running(Box::new(run)));
                }
                if is_retry && run.phase == Phase::Completed {
                    let reason = format!(
                        "Workflow {id} was tried again by {new}, which has completed; fork it to run steps again"
                    );
                    return Err(WorkflowError::Refused(reason));
                }
            }
        }
    }
    Err(WorkflowError::Refused(format!(
        "Workflow {id} was tried again {MAX_RETRIES} times; fork it under an id of your own"
    )))
}
