//! One thing that a handler does outside of a transaction: a call of a tool, for a step or its undo.

use std::{collections::BTreeSet, time::Duration};

use mcpp_tool::{
    Output,
    builds::{Build, PlacedCall},
    call::CallError,
    rights::Rights,
    store::{StoreError, Transaction, snapshot},
};
use serde_json::{Map, Value};

use super::{
    WorkflowError, arguments, builds,
    cache::{self, CacheKey, Lookup},
    place,
    rehearsal::{self, Called, FaultKind, SCRIPTS},
    submission::VisibleTools,
    task,
};
use crate::{
    blob::{self, MAX_BLOB_BYTES},
    definition::{Cache, ms},
    run::{Node, Number, Run, State},
    scheduler::Outcome,
    store::{GIVEN, MAX_RESULT_BYTES, node, stored_run},
    validate::parse,
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
    /// What names the effects of the run: another one with its id has another.
    pub run_key: String,
    /// The task that does it, where a worker of the queue does.
    pub task: Option<String>,
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
    /// For how long its result is kept for other steps, if it is.
    pub cache: Option<Cache>,
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
    Known(Box<Done>),
    /// What its placeholders stand for is more than a transaction reads while others wait: see [`Job::whole`].
    Unread,
}

/// What a handler did.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// What becomes of the node.
    pub outcome: Outcome,
    /// The input of the steps within the node.
    pub input: Option<Value>,
    /// The items of a fan-out.
    pub items: Vec<Value>,
    /// Tools of components of which the run has no build yet.
    pub tools: BTreeSet<String>,
    /// Whether the result is that of an earlier step, or where it is kept for later ones.
    pub cached: Option<Lookup>,
    /// Where the call ran; none without a call, and if it is not known.
    pub host: Option<String>,
}

pub(super) fn failed(error: impl Into<String>) -> Outcome {
    Outcome::Failed { error: error.into(), is_final: true }
}

impl Job {
    /// What there is to do with a node that a delivery has taken; reads what its placeholders stand for.
    pub(super) fn of(t: &Transaction<'_>, run: &Run, node: &Node, now_ms: u64) -> Result<Self, StoreError> {
        let script = if run.is_rehearsal { SCRIPTS.get(t, &run.id)? } else { None };
        let mut work = arguments::work(t, (run, node), (script.as_ref(), now_ms), &arguments::AMONG_OTHERS)?;
        let mut rehearsed = None;
        let is_cached = !run.is_rehearsal && !node.step.plan && matches!(node.state, State::Running { .. });
        if let Some(script) = script {
            let (fault, again_ms) = rehearsal::fault(t, (run, node), &script, now_ms)?;
            if let Some(again_ms) = again_ms {
                work = Work::Known(Box::new(Done::of(Outcome::Busy { again_ms })));
            }
            let is_undo = matches!(node.state, State::Undoing { .. });
            let undo = node.step.undo.as_ref().filter(|_| is_undo);
            let answer = script.recorded.get(undo.map_or(&node.step.action, |undo| &undo.action)).cloned();
            let is_stepped = script.is_stepped;
            rehearsed = Some(Rehearsed { path: node.path.clone(), is_undo, fault, answer, is_stepped });
        }
        Ok(Self {
            run: run.id.clone(),
            number: node.number,
            dependents: node.dependents.iter().copied().take(MAX_AHEAD).collect(),
            run_key: run.key.clone(),
            task: task::of(run, node),
            work,
            rights: run.rights.clone(),
            builds: run.builds.clone(),
            timeout: node.step.timeout_s.map(|seconds| Duration::from_millis(ms(seconds))),
            depth: node.depth.saturating_add(1),
            effect: node.effect(run),
            // What is undone or planned, or rehearsed, is done.
            cache: node.step.cache.clone().filter(|_| is_cached),
            rehearsed,
        })
    }

    /// The job with all that its placeholders stand for. That may be much, so it is read while others use the store.
    pub(super) fn whole(self, now_ms: u64) -> Result<Self, StoreError> {
        if self.work != Work::Unread {
            return Ok(self);
        }
        let view = snapshot()?;
        // If it is gone, nobody looks at what becomes of it.
        let Some(run) = stored_run(&view, &self.run)? else { return Ok(self) };
        let node = node(&view, &self.run, self.number)?;
        let script = if run.is_rehearsal { SCRIPTS.get(&view, &run.id)? } else { None };
        let work = arguments::work(&view, (&run, &node), (script.as_ref(), now_ms), &arguments::ALONE)?;
        Ok(Self { work, ..self })
    }

    /// Does it. `remaining` is what the handler has left of its time.
    pub fn perform(&self, remaining: Duration, now_ms: u64) -> Done {
        let fault = self.rehearsed.as_ref().and_then(|rehearsed| rehearsed.fault);
        let (tool, arguments, is_plan) = match &self.work {
            Work::Known(done) if matches!(done.outcome, Outcome::Busy { .. }) => return Done::clone(done),
            _ if fault == Some(FaultKind::Fail) => {
                let outcome = Outcome::Failed { error: "the rehearsal has it fail".into(), is_final: true };
                return Done::of(outcome);
            }
            Work::Known(done) => return Done::clone(done),
            Work::Unread => return Done::of(failed("it is gone")),
            Work::Call { tool, arguments, is_plan } => (tool, arguments, *is_plan),
        };
        let cached =
            self.cache.as_ref().and_then(|cache| CacheKey::of(cache, (&self.rights, &self.builds), tool, arguments));
        if let Some(result) = cached.as_ref().and_then(|at| cache::look_up(at, now_ms)) {
            return Done { cached: Some(Lookup::Hit), ..Done::of(Outcome::Completed(result)) };
        }
        let room = remaining.saturating_sub(RECORD);
        let timeout = self.timeout.unwrap_or(room).min(room);
        let (answer, host) = match self.rehearsed.as_ref().and_then(|rehearsed| rehearsed.answer.clone()) {
            Some(recorded) => (Ok(recorded), None),
            None => {
                if fault == Some(FaultKind::Repeat) {
                    // Nobody learns of the first one, as after a crash.
                    let _lost = self.call(tool, (arguments, timeout));
                }
                self.call(tool, (arguments, timeout))
            }
        };
        let done = match answer {
            Err(Refusal::Busy) => {
                let again_ms = now_ms.saturating_add(BUSY_MS);
                Done::of(Outcome::Busy { again_ms })
            }
            Err(Refusal::Failed { error, is_final }) => {
                let error = error.chars().take(MAX_ERROR_CHARS).collect();
                Done::of(Outcome::Failed { error, is_final })
            }
            Ok(result) if is_plan => self.plan(result),
            Ok(result) => {
                Done { cached: cached.map(|at| Lookup::Miss(Box::new(at))), ..Done::of(kept(result, now_ms)) }
            }
        };
        Done { host, ..done }
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
            Ok((steps, tools)) => {
                let input = answer.get("input").cloned();
                Done { input, tools, ..Done::of(Outcome::Holds(steps)) }
            }
            Err(error) => refuse(error.to_string()),
        }
    }

    /// A call that this component makes for itself about a node of a run.
    pub(super) fn errand(run: &Run, number: Number) -> Self {
        Self {
            run: run.id.clone(),
            number,
            dependents: Vec::new(),
            run_key: run.key.clone(),
            task: None,
            work: Work::Unread,
            rights: Rights::default(),
            builds: run.builds.clone(),
            timeout: None,
            depth: 0,
            effect: format!("{}/errand/{number}", run.key),
            cache: None,
            rehearsed: None,
        }
    }

    /// Calls a tool; the answer, and where it ran.
    pub(super) fn call(
        &self,
        tool: &str,
        (arguments, timeout): (&Map<String, Value>, Duration),
    ) -> (Result<Value, Refusal>, Option<String>) {
        #[cfg(test)]
        let PlacedCall { answer, place } = super::tests::place::placed(self, tool, (arguments, timeout));
        #[cfg(not(test))]
        let PlacedCall { answer, place } =
            self.rights.call_placed(&self.builds, Some(&self.effect), tool, arguments, Some(timeout));
        (answered(tool, answer), place::host(place))
    }
}

impl Done {
    pub(super) fn of(outcome: Outcome) -> Self {
        Self { outcome, input: None, items: Vec::new(), tools: BTreeSet::new(), cached: None, host: None }
    }
}

/// A result, which may be larger than a record.
pub(super) fn kept(result: Value, now_ms: u64) -> Outcome {
    let bytes = result.to_string().len();
    if bytes <= MAX_RESULT_BYTES {
        return Outcome::Completed(result);
    }
    let weight = arguments::weight(&result);
    if weight > arguments::ALONE.read {
        return failed(format!(
            "the result takes {weight} bytes of memory; at most {} are kept",
            arguments::ALONE.read
        ));
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
#[derive(Debug)]
pub(super) enum Refusal {
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

/// The payload of a signal that a run was given before.
pub(super) fn given(t: &Transaction<'_>, run: &str, outcome: &Outcome) -> Result<Option<Value>, StoreError> {
    match outcome {
        Outcome::Waits { signal: Some(signal), .. } => GIVEN.get(t, &(run, signal)),
        _ => Ok(None),
    }
}
