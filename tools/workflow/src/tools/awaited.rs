//! Runs whose clients wait for them: the answer of `workflow_run` and `workflow_wait`, when the run has ended. And runs as resources.

use mcpp_tool::{
    Content, Error, Output,
    deferred::{self, Deferred, FormAnswer, Outcome, Work},
    environment::now_ms,
    resource, tool,
};
use serde_json::Value;

use super::{Reply, origin, read, run, settle, show, summary};
use crate::{
    engine::{self, WorkflowError},
    run::{Number, Phase, Run},
    store::{self, RUNS},
};

/// A form's name is this and the number of its node.
const FORM: &str = "step-";

/// Waits for a run that is there, as `workflow_run` does for one that it submits. Everybody who cannot wait gets its status.
#[tool(read_only, idempotent)]
pub fn workflow_wait(
    /// The run.
    workflow_id: String,
) -> Result<Reply, Error> {
    let found = read(|t| engine::find(t, &workflow_id));
    if let Ok(run) = &found {
        deferred::defer(&handle(WATCHED, run))?;
    }
    Ok(settle(found.map(|run| summary(&run)), &workflow_id))
}

/// A handle is one of these and the run's id: with the second the run is cancelled when nobody waits for it any more.
pub(crate) const WATCHED: &str = "watched:";
pub(crate) const OWNED: &str = "owned:";

/// By what the host knows the answer that waits for a run.
pub(crate) fn handle(kind: &str, run: &Run) -> String {
    format!("{kind}{}", run.id)
}

fn run_of(handle: &str) -> &str {
    handle.split_once(':').map_or(handle, |(_, id)| id)
}

/// Runs as work whose answer comes later.
#[derive(Debug)]
pub struct Runs;

impl Deferred for Runs {
    fn look(handle: &str) -> Result<Outcome, Error> {
        let id = run_of(handle);
        let looked = read(|t| {
            let (run, version) = RUNS.get_versioned(t, id)?;
            let Some(run) = run.filter(|run| !run.is_removed) else { return Ok(None) };
            let forms = if run.phase.is_final() { Vec::new() } else { engine::forms(t, &run)? };
            Ok(Some((run, version, forms)))
        });
        let Some((run, version, forms)) = looked.map_err(Error::from)? else { return Ok(Outcome::Unknown) };
        match run.phase {
            // Who only watches has not cancelled anything, and is told how the run has ended.
            Phase::Cancelled if handle.starts_with(OWNED) => Ok(Outcome::Cancelled),
            phase if phase.is_final() => ended(&run),
            _ => {
                let ended = f64::from(run.tally.total.saturating_sub(run.tally.open));
                let work = Work::new()
                    .progress(ended, Some(f64::from(run.tally.expected())), Some(happens(&run)))
                    .changes(RUNS.key(id), version);
                let asked = forms
                    .into_iter()
                    .fold(work, |work, (number, form)| work.form(format!("{FORM}{number}"), form.message, form.schema));
                Ok(Outcome::Running(asked))
            }
        }
    }

    fn reply(handle: &str, form: &str, answer: FormAnswer) -> Result<(), Error> {
        let Some(number) = form.strip_prefix(FORM).and_then(|number| number.parse::<Number>().ok()) else {
            return Ok(());
        };
        // One that asks no more was answered by somebody else.
        let answered = run(|t| engine::answer(t, (run_of(handle), number), &answer, origin(), now_ms()));
        answered.map(drop).map_err(Error::from)
    }

    fn cancel(handle: &str) -> Result<(), Error> {
        let Some(id) = handle.strip_prefix(OWNED) else { return Ok(()) };
        let why = ("nobody waits for it any more", false);
        match run(|t| engine::cancel(t, id, why, origin(), now_ms())) {
            // It has ended, or is gone.
            Ok(_) | Err(WorkflowError::Refused(_) | WorkflowError::NoRun(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What happens in a run, in a line.
fn happens(run: &Run) -> String {
    let step = run.current.as_deref().unwrap_or("nothing yet");
    match run.phase {
        Phase::Blocked => format!("waits for {}", run.waits_for.join(", ")),
        Phase::Undoing => "takes effects back".to_owned(),
        Phase::UndoFailed => "waits for an operator: an effect cannot be taken back".to_owned(),
        _ if run.paused_ms.is_some() => "is paused".to_owned(),
        _ => format!("began last: {step}"),
    }
}

/// The answer of a call that waited for a run: its results, and where they are.
fn ended(run: &Run) -> Result<Outcome, Error> {
    let mut outcome = Outcome::completed(show::workflow_result(run.id.clone(), false, false))?;
    if let Outcome::Completed(Output { content, structured: Some(reply) }) = &mut outcome {
        content.push(Content::Text(reply.to_string()));
        content.push(Content::ResourceLink {
            uri: run.uri("result"),
            name: format!("{} ({})", run.id, run.status()),
            description: Some("The results of all steps.".to_owned()),
            mime_type: Some("application/json".to_owned()),
        });
    }
    Ok(outcome)
}

fn value(reply: Reply) -> Option<Value> {
    reply.into_result().ok().map(Value::Object)
}

fn found<T>(found: Result<T, WorkflowError>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(WorkflowError::NoRun(_) | WorkflowError::Refused(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How far a workflow run is, with its steps.
#[resource("workflow://{workflow_id}/status", mime_type = "application/json")]
pub fn workflow_run_status(workflow_id: String) -> Result<Option<Value>, Error> {
    let run = found(read(|t| engine::find(t, &workflow_id)))?;
    Ok(run.and_then(|run| value(show::workflow_status(run.id, true, true, 0))))
}

/// The results of a workflow run that has ended, with those of its steps.
#[resource("workflow://{workflow_id}/result", mime_type = "application/json")]
pub fn workflow_run_result(workflow_id: String) -> Result<Option<Value>, Error> {
    let run = found(read(|t| engine::find(t, &workflow_id)))?.filter(show::has_results);
    Ok(run.and_then(|run| value(show::workflow_result(run.id, true, true))))
}

/// The result of one step of a workflow run, whole.
#[resource("workflow://{workflow_id}/steps/{+step_id}", mime_type = "application/json")]
pub fn workflow_step_result(workflow_id: String, step_id: String) -> Result<Option<Value>, Error> {
    let result = found(read(|t| {
        let run = engine::find(t, &workflow_id)?;
        match show::find_step(t, &run, &step_id)? {
            Some(number) => Ok(store::result(t, &run.id, number)?),
            None => Ok(None),
        }
    }))?;
    Ok(result.flatten())
}
