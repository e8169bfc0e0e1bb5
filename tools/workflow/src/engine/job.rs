//! One thing that a handler does outside of a transaction: a call of a tool, for a step or its undo.

use std::{collections::BTreeSet, time::Duration};

use mcpp_tool::{
    Output,
    builds::Build,
    call::CallError,
    rights::Rights,
    store::{StoreError, Transaction},
};
use serde_json::{Map, Value};

use super::{
    WorkflowError, builds,
    rehearsal::{self, Called, FaultKind, SCRIPTS, Script},
    submission::VisibleTools,
    wait::{at_once, wait},
};
use crate::{
    blob::{self, MAX_BLOB_BYTES},
    definition::{MAX_ITEMS, WAIT, WORKFLOW, ms},
    placeholder::{Placeholder, PlaceholderError, Source, fill, fill_fields},
    run::{Node, Number, Run, State},
    scheduler::{self, Outcome},
    store::{GIVEN, INPUTS, ITEM, ITEMS, MAX_RESULT_BYTES, ROOT, node},
    validate::{own_inputs, parse},
};

/// How soon a call for which there was no room is tried again, in milliseconds.
const BUSY_MS: u64 = 500;
/// Dependents of a node that are read with it when it has ended.
const MAX_AHEAD: usize = 16;
/// What a handler keeps of its time for the record of what it did.
const RECORD: Duration = Duration::from_secs(5);
/// Longest error that is kept, in characters.
const MAX_ERROR_CHARS: usize = 2_000;

/// What a handler does with a node that it has.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The run.
    pub run: String,
    /// The node.
    pub number: Number,
    /// The first of those that wait for it.
    pub dependents: Vec<Number>,
    /// What there is to do.
    pub work: Work,
    /// What the run's submitter may use.
    pub rights: Rights,
    /// The builds with which the run began.
    pub builds: Vec<Build>,
    /// Longest time of a call.
    pub timeout: Option<Duration>,
    /// How deep steps of a plan would stand.
    pub depth: u8,
    /// What names its effect.
    pub effect: String,
    /// What happens besides, in a rehearsal.
    pub rehearsed: Option<Rehearsed>,
}

/// A thing that a handler does in a rehearsal.
#[derive(Debug, Clone, PartialEq)]
pub struct Rehearsed {
    /// The step's path.
    path: String,
    /// Whether it is its undo.
    is_undo: bool,
    /// What goes wrong.
    fault: Option<FaultKind>,
    /// The answer, if the tool is not called.
    answer: Option<Value>,
    /// Whether the run pauses behind it.
    pub is_stepped: bool,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// A call.
    Call {
        /// The tool.
        tool: String,
        /// Its arguments.
        arguments: Map<String, Value>,
        /// Whether its answer has steps.
        is_plan: bool,
    },
    /// Nothing: it is known what becomes of the node.
    Known(Outcome),
}

/// What a handler did.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// What becomes of the node.
    pub outcome: Outcome,
    /// The input of the steps within the node.
    pub input: Option<Value>,
    /// Tools of components of which the run has no build yet.
    pub tools: BTreeSet<String>,
}

pub(super) fn failed(error: impl Into<String>) -> Outcome {
    Outcome::Failed { error: error.into(), is_final: true }
}

impl Job {
    /// What there is to do with a node that a delivery has taken; reads what its placeholders stand for.
    pub(super) fn of(t: &Transaction<'_>, run: &Run, node: &Node, now_ms: u64) -> Result<Self, StoreError> {
        let script = if run.is_rehearsal { SCRIPTS.get(t, &run.id)? } else { None };
        let mut work = match describe(t, run, node, (script.as_ref(), now_ms)) {
            Ok(work) => work,
            Err(Unfilled::Store(error)) => return Err(error),
            Err(Unfilled::Placeholder(error)) => Work::Known(failed(error.to_string())),
        };
        let mut rehearsed = None;
        if let Some(script) = script {
            let (fault, again_ms) = rehearsal::fault(t, (run, node), &script, now_ms)?;
            let answer = match &work {
                Work::Call { tool, .. } => script.recorded.get(tool).cloned(),
                Work::Known(_) => None,
            };
            if let Some(again_ms) = again_ms {
                work = Work::Known(Outcome::Busy { again_ms });
            }
            let is_undo = matches!(node.state, State::Undoing { .. });
            let is_stepped = script.is_stepped;
            rehearsed = Some(Rehearsed { path: node.path.clone(), is_undo, fault, answer, is_stepped });
        }
        Ok(Self {
            run: run.id.clone(),
            number: node.number,
            dependents: node.dependents.iter().copied().take(MAX_AHEAD).collect(),
            work,
            rights: run.rights.clone(),
            builds: run.builds.clone(),
            timeout: node.step.timeout_s.map(|seconds| Duration::from_millis(ms(seconds))),
            depth: node.depth.saturating_add(1),
            effect: node.effect(run),
            rehearsed,
        })
    }

    /// Does it. `remaining` is what the handler has left of its time.
    pub fn perform(&self, remaining: Duration, now_ms: u64) -> Done {
        let fault = self.rehearsed.as_ref().and_then(|rehearsed| rehearsed.fault);
        let (tool, arguments, is_plan) = match &self.work {
            Work::Known(busy @ Outcome::Busy { .. }) => return Done::of(busy.clone()),
            _ if fault == Some(FaultKind::Fail) => {
                let outcome = Outcome::Failed { error: "the rehearsal has it fail".into(), is_final: true };
                return Done::of(outcome);
            }
            Work::Known(outcome) => return Done::of(outcome.clone()),
            Work::Call { tool, arguments, is_plan } => (tool, arguments, *is_plan),
        };
        let room = remaining.saturating_sub(RECORD);
        let timeout = self.timeout.unwrap_or(room).min(room);
        let answer = match self.rehearsed.as_ref().and_then(|rehearsed| rehearsed.answer.clone()) {
            Some(recorded) => Ok(recorded),
            None => {
                if fault == Some(FaultKind::Repeat) {
                    // Nobody learns of the first one, as after a crash.
                    let _lost = self.call(tool, (arguments, timeout));
                }
                self.call(tool, (arguments, timeout))
            }
        };
        match answer {
            Err(Refusal::Busy) => {
                let again_ms = now_ms.saturating_add(BUSY_MS);
                Done::of(Outcome::Busy { again_ms })
            }
            Err(Refusal::Failed { error, is_final }) => {
                let error = error.chars().take(MAX_ERROR_CHARS).collect();
                Done::of(Outcome::Failed { error, is_final })
            }
            Ok(result) if is_plan => self.plan(result),
            Ok(result) => Done::of(kept(result, now_ms)),
        }
    }

    /// What a rehearsal notes of the call, if it was made.
    pub(super) fn called(&self, done: &Done) -> Option<Called> {
        let (rehearsed, Work::Call { tool, .. }) = (self.rehearsed.as_ref()?, &self.work) else { return None };
        let is_made = rehearsed.fault != Some(FaultKind::Fail) && !matches!(done.outcome, Outcome::Busy { .. });
        is_made.then(|| Called {
            step: rehearsed.path.clone(),
            undo: rehearsed.is_undo,
            tool: tool.clone(),
            effect: self.effect.clone(),
            times: if rehearsed.fault == Some(FaultKind::Repeat) { 2 } else { 1 },
            succeeded: !matches!(done.outcome, Outcome::Failed { .. }),
            recorded: rehearsed.answer.is_some(),
        })
    }

    /// The steps of a planner's answer.
    fn plan(&self, answer: Value) -> Done {
        let refuse = |reason: String| Done::of(failed(format!("the plan is refused: {reason}")));
        // A tool whose answer is no object has it as `result`.
        let steps = answer.get("steps").or_else(|| answer.pointer("/result/steps")).or_else(|| answer.get("result"));
        let Some(steps) = steps.and_then(Value::as_array) else { return refuse("it has no list `steps`".into()) };
        let checked = parse(steps).map_err(WorkflowError::from).and_then(|steps| {
            let tools = builds::unpinned(&self.builds, builds::tools(&steps));
            let more = if self.rehearsed.is_some() { Vec::new() } else { builds::pin(&tools)? };
            let catalog = builds::join(&self.builds, more);
            crate::validate::check(&steps, self.depth, &VisibleTools(&self.rights, &catalog))?;
            Ok((steps, tools))
        });
        match checked {
            Ok((steps, tools)) => Done { outcome: Outcome::Holds(steps), input: answer.get("input").cloned(), tools },
            Err(error) => refuse(error.to_string()),
        }
    }

    fn call(&self, tool: &str, (arguments, timeout): (&Map<String, Value>, Duration)) -> Result<Value, Refusal> {
        #[cfg(test)]
        let answer = super::tests::provider(self, tool, arguments, timeout);
        #[cfg(not(test))]
        let answer = self.rights.call_on(&self.builds, Some(&self.effect), tool, arguments, Some(timeout));
        answered(tool, answer)
    }
}

impl Done {
    fn of(outcome: Outcome) -> Self {
        Self { outcome, input: None, tools: BTreeSet::new() }
    }
}

/// A result, which may be larger than a record.
fn kept(result: Value, now_ms: u64) -> Outcome {
    let bytes = result.to_string().len();
    if bytes <= MAX_RESULT_BYTES {
        return Outcome::Completed(result);
    }
    if bytes > MAX_BLOB_BYTES {
        return failed(format!("the result has {bytes} bytes; at most {MAX_BLOB_BYTES} are kept"));
    }
    match blob::write(&result, now_ms) {
        Ok(blob) => Outcome::Large(blob),
        Err(error) => failed(format!("the result cannot be kept: {error}")),
    }
}

/// Why a call has no result.
enum Refusal {
    Busy,
    Failed { error: String, is_final: bool },
}

fn answered(tool: &str, answer: Result<Output, CallError>) -> Result<Value, Refusal> {
    let refused = |error: String, is_final| Refusal::Failed { error, is_final };
    match answer {
        Ok(output) => {
            let result = output.into_value();
            // A contract in which a failure is a result says so in a flag.
            let says_no = |flag: &str| result.get(flag) == Some(&Value::Bool(false));
            match ["success", "ok"].into_iter().find(|flag| says_no(flag)) {
                None => Ok(result),
                Some(_) => {
                    let error =
                        result.get("error").and_then(Value::as_str).map_or_else(|| result.to_string(), str::to_owned);
                    Err(refused(error, false))
                }
            }
        }
        Err(CallError::Busy) => Err(Refusal::Busy),
        Err(CallError::Failed(output)) => {
            let error = match output.into_value() {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Err(refused(error, false))
        }
        Err(error @ (CallError::NotFound | CallError::InvalidArguments(_) | CallError::TooDeep)) => {
            Err(refused(format!("{tool}: {error}"), true))
        }
        Err(error @ CallError::Aborted(_)) => Err(refused(error.to_string(), false)),
    }
}

/// Why there are no arguments.
enum Unfilled {
    Store(StoreError),
    Placeholder(PlaceholderError),
}

/// What the store refuses fails the transaction, not the step: writes of the transaction may be lost already.
impl From<StoreError> for Unfilled {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<PlaceholderError> for Unfilled {
    fn from(error: PlaceholderError) -> Self {
        Self::Placeholder(error)
    }
}

fn describe(
    t: &Transaction<'_>,
    run: &Run,
    of: &Node,
    (script, now_ms): (Option<&Script>, u64),
) -> Result<Work, Unfilled> {
    let mut broken = None;
    let mut find = |placeholder: &Placeholder| match look_up(t, run, of, placeholder) {
        Ok(found) => found,
        Err(error) => {
            broken = Some(error);
            Err("the store cannot be read".into())
        }
    };
    let work = (|| {
        let step = &of.step;
        if let (State::Undoing { .. }, Some(undo)) = (&of.state, &step.undo) {
            let arguments = fill_fields(&undo.inputs, "/undo/inputs", &mut find)?;
            return Ok(Work::Call { tool: undo.action.clone(), arguments, is_plan: false });
        }
        if let Some(when) = &step.when
            && !when.holds(&fill(&when.value, "/when/value", &mut find)?)
        {
            return Ok(Work::Known(Outcome::LeftOut));
        }
        if let Some(for_each) = &step.for_each {
            return Ok(match fill(&for_each.items, "/for_each/items", &mut find)? {
                // In the transaction that takes the node: a delivery that comes again writes the same.
                Value::Array(items) if items.len() <= MAX_ITEMS => Work::Known(keep_items(t, run, of, &items)?),
                Value::Array(items) => {
                    Work::Known(failed(format!("{} items; at most {MAX_ITEMS} are allowed", items.len())))
                }
                other => Work::Known(failed(format!("`for_each.items` is no list: {other}"))),
            });
        }
        let Value::Object(arguments) = fill(&own_inputs(step), "/inputs", &mut find)? else {
            return Ok(Work::Known(failed("inputs are an object")));
        };
        Ok(match &*step.action {
            WAIT => Work::Known(match script {
                Some(script) => at_once(script, &of.path, arguments),
                None => wait(arguments, step.timeout_s, now_ms),
            }),
            WORKFLOW => {
                if let Some(input) = arguments.get("input") {
                    match INPUTS.set(t, &(&run.id, of.number), input) {
                        Ok(()) => {}
                        Err(error @ StoreError::ValueTooLarge) => return Ok(Work::Known(failed(error.to_string()))),
                        Err(error) => return Err(error.into()),
                    }
                }
                let steps = step.inputs.get("steps").and_then(Value::as_array).map(|steps| parse(steps));
                Work::Known(match steps {
                    Some(Ok(steps)) => Outcome::Holds(steps),
                    Some(Err(problem)) => failed(problem.to_string()),
                    None => failed("it has no list `steps`"),
                })
            }
            tool => Work::Call { tool: tool.to_owned(), arguments, is_plan: step.plan },
        })
    })();
    broken.map_or(work, |error| Err(Unfilled::Store(error)))
}

/// Keeps the items of a fan-out, each by itself: whoever runs one reads no other.
fn keep_items(t: &Transaction<'_>, run: &Run, of: &Node, items: &[Value]) -> Result<Outcome, StoreError> {
    let total = Number::try_from(items.len()).unwrap_or(Number::MAX);
    if !scheduler::has_room(run, total) {
        return Ok(failed(scheduler::NO_ROOM));
    }
    let bytes = items.iter().map(|item| item.to_string().len()).fold(0, usize::saturating_add);
    if bytes > MAX_RESULT_BYTES {
        return Ok(failed(format!("the items have {bytes} bytes; at most {MAX_RESULT_BYTES} are kept")));
    }
    for (index, item) in (0..total).zip(items) {
        ITEM.set(t, &(&run.id, of.number, index), item)?;
    }
    Ok(Outcome::Fans(total))
}

/// The value of a placeholder, or why there is none.
fn look_up(
    t: &Transaction<'_>,
    run: &Run,
    of: &Node,
    placeholder: &Placeholder,
) -> Result<Result<Value, String>, StoreError> {
    let result = |number: Number| crate::store::result(t, &run.id, number);
    let whole = match &placeholder.source {
        Source::Step(name) => {
            let Some(number) = of.names.get(name) else { return Ok(Err(format!("there is no step '{name}'"))) };
            match result(*number)? {
                Some(value) => value,
                // It was left out, or failed and may.
                None if node(t, &run.id, *number)?.state != State::Completed => return Ok(Ok(Value::Null)),
                None => Value::Null,
            }
        }
        Source::Input => INPUTS.get(t, &(&run.id, of.scope.unwrap_or(ROOT)))?.unwrap_or_default(),
        Source::Metadata => Value::Object(run.metadata.clone()),
        Source::Item => {
            let (fan, index) = (of.parent.unwrap_or(ROOT), of.index.unwrap_or_default());
            match ITEM.get(t, &(&run.id, fan, index))? {
                Some(item) => item,
                None => {
                    let items = ITEMS.get(t, &(&run.id, fan))?.unwrap_or_default();
                    usize::try_from(index).ok().and_then(|index| items.into_iter().nth(index)).unwrap_or_default()
                }
            }
        }
        Source::Index => Value::from(of.index),
        Source::Result => result(of.number)?.unwrap_or_default(),
    };
    let found = placeholder.within(&whole).cloned();
    Ok(found.ok_or_else(|| format!("`${{{placeholder}}}` has no value")))
}

/// The payload of a signal that a run was given before.
pub(super) fn given(t: &Transaction<'_>, run: &str, outcome: &Outcome) -> Result<Option<Value>, StoreError> {
    match outcome {
        Outcome::Waits { signal: Some(signal), .. } => GIVEN.get(t, &(run, signal)),
        _ => Ok(None),
    }
}
