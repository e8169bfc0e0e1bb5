//! Rehearsals: runs as any other, into which faults are put, so that a test sees whether a repetition has a second effect and an undo takes its effect back.
//!
//! Nothing waits in a rehearsal: a time is over at once, and a signal has come before. What tools do, they do; only a tool with a recorded answer is not called.

use mcpp_tool::store::{Map, StoreError, Transaction, View};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Draft, WorkflowError};
use crate::{
    definition::{Retry, Step, Undo, WAIT, WORKFLOW, Wait},
    run::{Node, Number, Run, State},
    store::NODES,
};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// It fails before its effect, at each attempt.
    Fail,
    /// It is done twice, as after a crash between its effect and the record of it.
    Repeat,
    /// It is done after everything else that could be done before.
    Delay,
}

/// A fault of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The step's path.
    pub step: String,
    /// Whether its undo is meant.
    #[serde(default)]
    pub undo: bool,
    /// What goes wrong.
    pub kind: FaultKind,
}

/// What happens in a rehearsal besides the workflow itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// The fault.
    pub fault: Option<Fault>,
    /// Whether the run fails behind its last step, so that every undo is done.
    pub ends_badly: bool,
    /// Whether the run pauses behind each call, and never makes two at once.
    pub is_stepped: bool,
    /// Answers of tools that are not called, by tool.
    pub recorded: serde_json::Map<String, Value>,
    /// What waits are given: by signal, or by the path of the step.
    pub given: serde_json::Map<String, Value>,
}

/// One call that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Called {
    /// The step's path.
    pub step: String,
    /// Whether it was its undo.
    pub undo: bool,
    /// The tool.
    pub tool: String,
    /// What names its effect.
    pub effect: String,
    /// How often it was made.
    pub times: u32,
    /// Whether it succeeded.
    pub succeeded: bool,
    /// Whether its answer was a recorded one.
    pub recorded: bool,
}

/// The scripts of runs that are rehearsals.
pub const SCRIPTS: Map<String, Script> = Map::new("scripts");
/// Those in which the step that is to be late was put back.
const LATE: Map<String, ()> = Map::new("late");
/// Their calls, in order.
pub const CALLED: Map<(String, u64), Called> = Map::new("called");

/// The step that fails behind all others.
pub const LAST: &str = "rehearsal-end";
/// How soon a step that is put back is looked at again, in milliseconds.
const AGAIN_MS: u64 = 20;
/// Most calls that are listed.
pub const MAX_CALLED: usize = 10_000;

/// A workflow that waits for nothing between its attempts, and fails at its end if the script says so.
pub(crate) fn prepared(draft: Draft, script: &Script) -> Draft {
    let mut steps: Vec<Step> = draft.steps.into_iter().map(hurried).collect();
    if script.ends_badly {
        let depends_on = steps.iter().map(|step| step.step_id.clone()).collect();
        steps.push(Step {
            step_id: LAST.into(),
            action: WAIT.into(),
            inputs: serde_json::Map::from_iter([("seconds".into(), 0.into())]),
            depends_on,
            retry: Retry::default(),
            timeout_s: None,
            when: None,
            for_each: None,
            undo: None,
            plan: false,
            priority: None,
            may_fail: false,
            concurrency: None,
            rate: None,
            cache: None,
        });
    }
    Draft { steps, ..draft }
}

fn hurried(step: Step) -> Step {
    let at_once = |retry: Retry| Retry { backoff_s: 0.0, ..retry };
    let mut inputs = step.inputs;
    if let (WORKFLOW, Some(Value::Array(inner))) = (step.action.as_str(), inputs.get_mut("steps")) {
        for value in inner {
            if let Ok(step) = serde_json::from_value::<Step>(value.clone()) {
                *value = serde_json::to_value(hurried(step)).unwrap_or_default();
            }
        }
    }
    let undo = step.undo.map(|undo| Undo { retry: at_once(undo.retry), ..undo });
    Step { inputs, undo, retry: at_once(step.retry), ..step }
}

/// What a step that waits is given at once.
pub(super) fn given(script: &Script, path: &str, wait: &Wait) -> Value {
    let by_signal = wait.signal.as_ref().and_then(|signal| script.given.get(signal));
    by_signal.or_else(|| script.given.get(path)).cloned().unwrap_or_default()
}

/// The fault of a node, or that there is none; the time at which it is looked at again, if it is put back.
pub(super) fn fault(
    t: &Transaction<'_>,
    (run, node): (&Run, &Node),
    script: &Script,
    now_ms: u64,
) -> Result<(Option<FaultKind>, Option<u64>), StoreError> {
    let is_undo = matches!(node.state, State::Undoing { .. });
    let at_fault = script.fault.as_ref().filter(|fault| fault.step == node.path && fault.undo == is_undo);
    let mut kind = at_fault.map(|fault| fault.kind);
    if script.ends_badly && node.path == LAST {
        kind = Some(FaultKind::Fail);
    }
    let again = Some(now_ms.saturating_add(AGAIN_MS));
    if kind == Some(FaultKind::Delay) {
        let is_first = LATE.get(t, &run.id)?.is_none();
        if is_first || is_anything_else(t, run, node.number, false)? {
            LATE.set(t, &run.id, &())?;
            return Ok((kind, again));
        }
    }
    if script.is_stepped && is_anything_else(t, run, node.number, true)? {
        return Ok((kind, again));
    }
    Ok((kind, None))
}

/// Whether another node of the run is at work, or could be.
fn is_anything_else(t: &View<'_>, run: &Run, number: Number, only_running: bool) -> Result<bool, StoreError> {
    for row in NODES.under(&(&run.id,)).walk(t) {
        let (_, node) = row?;
        let is_at_work = matches!(node.state, State::Running { .. } | State::Undoing { claim: Some(_) });
        let could_be = matches!(node.state, State::Ready | State::Delayed { .. } | State::UndoDelayed { .. });
        if node.number != number && (is_at_work || could_be && !only_running) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes down a call of a rehearsal.
pub(super) fn note(t: &Transaction<'_>, run: &str, called: &Called) -> Result<(), StoreError> {
    let last = CALLED.under(&(run,)).descending().first(t)?;
    let number = last.map_or(0, |((_, number), _)| number.saturating_add(1));
    CALLED.set(t, &(run, number), called)
}

/// Forgets a rehearsal, but for its calls.
pub(super) fn forget(t: &Transaction<'_>, run: &str) -> Result<(), StoreError> {
    SCRIPTS.remove(t, run)?;
    LATE.remove(t, run).map(drop)
}

/// The calls of a rehearsal so far.
///
/// # Errors
/// Those of the store.
pub fn called(t: &View<'_>, run: &str) -> Result<Vec<Called>, WorkflowError> {
    CALLED.under(&(run,)).most(MAX_CALLED).walk(t).map(|row| Ok(row?.1)).collect()
}
