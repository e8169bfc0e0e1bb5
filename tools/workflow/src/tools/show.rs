//! One run: its status, its results, its graph.

use std::collections::BTreeMap;

use mcpp_tool::{environment::now_ms, store::View, tool};
use serde_json::{Map, Value, json};

use super::{HERE, Reply, put, read, seconds, settle, step, summary, time, took_ms};
use crate::{
    blob::{self, BLOBS},
    draw::{self, Drawn},
    engine::{self, WorkflowError},
    run::{Node, Number, Phase, Run, State},
    store::{NODES, RESULTS, WITHIN},
};

/// Bytes of steps, and of results, that one reply has: well within what a call may give.
const MAX_REPLY_BYTES: usize = 1 << 20;
/// Most nodes that one reply goes through.
const MAX_NODES: usize = 2_000;
/// Bytes of the store behind which a reply goes through no further node: a quarter of what a call may read.
const MAX_READ_BYTES: u64 = 16 << 20;
/// Most steps without a result that one reply names.
const MAX_NOT_DONE: usize = 200;

/// Goes through at most so many nodes of a run from one on, in the order of their numbers, while `see` takes them; the first that it has not taken, if there is one.
fn walk(
    t: &View<'_>,
    run: &Run,
    (from, most): (Number, usize),
    mut see: impl FnMut(&Node) -> Result<bool, WorkflowError>,
) -> Result<Option<Number>, WorkflowError> {
    let (begun, mut seen) = (t.spent().bytes, 0_usize);
    for row in NODES.under(&(&run.id,)).from(&(&run.id, from)).walk(t) {
        let node = row?.1;
        let is_full = seen >= most || seen > 0 && t.spent().bytes.saturating_sub(begun) > MAX_READ_BYTES;
        if is_full || !see(&node)? {
            return Ok(Some(node.number));
        }
        seen = seen.saturating_add(1);
    }
    Ok(None)
}

/// Part of a reply: items, as many as have room, and the node of the first that has none.
#[derive(Debug)]
struct Part<T> {
    items: Vec<T>,
    most: usize,
    bytes: usize,
    left_out: Option<Number>,
}

impl<T> Part<T> {
    fn new(most: usize) -> Self {
        Self { items: Vec::new(), most, bytes: 0, left_out: None }
    }

    /// One that takes nothing.
    fn unwanted() -> Self {
        Self { left_out: Some(Number::MAX), ..Self::new(0) }
    }

    fn is_open(&self) -> bool {
        self.left_out.is_none()
    }

    fn add(&mut self, number: Number, bytes: usize, item: T) {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.is_open() && self.items.len() < self.most && self.bytes <= MAX_REPLY_BYTES {
            true => self.items.push(item),
            false => {
                self.left_out.get_or_insert(number);
            }
        }
    }

    fn add_value(&mut self, number: Number, value: Value)
    where
        T: From<Value>,
    {
        self.add(number, value.to_string().len(), value.into());
    }
}

/// Tells how far a run is.
#[tool(read_only)]
pub fn workflow_status(
    /// The run.
    workflow_id: String,
    /// With each step.
    #[arg(default = true)]
    include_steps: bool,
    /// With counts and durations.
    #[arg(default)]
    include_metrics: bool,
    /// The first step that is shown: the `next_step` of another reply.
    #[arg(default)]
    from_step: u32,
) -> Reply {
    let status = read(|t| {
        let run = engine::find(t, &workflow_id)?;
        let mut status = summary(&run);
        put(&mut status, "next_event", json!(engine::next_event(t, &run, 0, now_ms())?.words()));
        put(&mut status, "forked_from", json!(run.forked));
        put(&mut status, "builds", json!(run.builds));
        let mut steps = if include_steps { Part::new(MAX_NODES) } else { Part::<Value>::unwanted() };
        let mut seen = Seen::default();
        let stopped = match include_steps || include_metrics {
            false => None,
            true => walk(t, &run, (from_step, MAX_NODES), |node| {
                if steps.is_open() {
                    steps.add_value(node.number, step(node));
                }
                seen.add(node);
                Ok(steps.is_open() || include_metrics)
            })?,
        };
        if include_steps {
            let next = steps.left_out.or(stopped);
            put(&mut status, "steps", steps.items.into());
            put(&mut status, "has_more_steps", json!(next.is_some()));
            put(&mut status, "next_step", json!(next));
        }
        if include_metrics {
            put(&mut status, "metrics", seen.metrics(&run, from_step == 0 && stopped.is_none()));
        }
        Ok(status)
    });
    settle(status, &workflow_id)
}

fn execution_time(run: &Run) -> Value {
    match (run.started_ms, run.ended_ms) {
        (Some(started_ms), Some(ended_ms)) => json!(seconds(ended_ms.saturating_sub(started_ms))),
        _ => Value::Null,
    }
}

/// Sums over steps.
#[derive(Debug, Default)]
struct Seen {
    attempts: u64,
    longest_ms: Option<u64>,
    all_ms: u64,
}

impl Seen {
    fn add(&mut self, node: &Node) {
        self.attempts = self.attempts.saturating_add(u64::from(node.attempt));
        self.longest_ms = self.longest_ms.max(took_ms(node));
        self.all_ms = self.all_ms.saturating_add(took_ms(node).unwrap_or_default());
    }

    fn metrics(&self, run: &Run, is_whole: bool) -> Value {
        json!({
            "steps": run.tally,
            "attempts": self.attempts,
            "execution_time": execution_time(run),
            "longest_step_s": self.longest_ms.map(seconds),
            "all_steps_s": seconds(self.all_ms),
            "is_whole": is_whole,
        })
    }
}

/// Whether a run has results to show: it has ended, or waits for an operator.
pub(crate) fn has_results(run: &Run) -> bool {
    run.ended_ms.is_some() || run.phase == Phase::UndoFailed
}

/// Whether a step has, or had, a result: also one whose effect is taken back.
fn has_result(state: &State) -> bool {
    matches!(
        state,
        State::Completed | State::Undone | State::Undoing { .. } | State::UndoDelayed { .. } | State::UndoFailed
    )
}

/// Gives the results of a run that has ended, and of each of its steps; of a run that failed, was cancelled, or waits for an operator, those that there are.
#[tool(read_only)]
pub fn workflow_result(
    /// The run.
    workflow_id: String,
    /// With the result of each step.
    #[arg(default = true)]
    include_outputs: bool,
    /// With a line for each step: its ends, attempts and errors.
    #[arg(default)]
    include_logs: bool,
) -> Reply {
    let result = read(|t| {
        let missing = || WorkflowError::Refused(format!("Workflow {workflow_id} not found or not yet completed"));
        let run = engine::find(t, &workflow_id).map_err(|_| missing())?;
        if !has_results(&run) {
            return Err(missing());
        }
        results(t, &run, include_outputs, include_logs)
    });
    settle(result, &workflow_id)
}

fn results(t: &View<'_>, run: &Run, include_outputs: bool, include_logs: bool) -> Result<Value, WorkflowError> {
    // What nothing waits for is the result of the whole.
    let mut last = Part::new(MAX_NODES);
    let mut outputs = if include_outputs { Part::new(MAX_NODES) } else { Part::unwanted() };
    let mut logs = if include_logs { Part::new(MAX_NODES) } else { Part::<Value>::unwanted() };
    let mut not_done = Part::<Value>::new(MAX_NOT_DONE);
    let stopped = walk(t, run, (0, MAX_NODES), |node| {
        let number = node.number;
        let is_last = node.parent.is_none() && node.dependents.is_empty();
        if has_result(&node.state) && (is_last && last.is_open() || outputs.is_open()) {
            let value = result_or_digest(t, run, number)?;
            let bytes = value.to_string().len().saturating_add(node.path.len());
            if is_last {
                last.add(number, bytes, (node.path.clone(), value.clone()));
            }
            outputs.add(number, bytes, (node.path.clone(), value));
        }
        if !has_result(&node.state) || node.state == State::UndoFailed {
            let why = json!({ "step_id": node.path, "status": node.state.as_str(), "reason": node.reason() });
            not_done.add_value(number, why);
        }
        if logs.is_open() {
            logs.add_value(number, step(node));
        }
        Ok(last.is_open() || outputs.is_open() || logs.is_open() || not_done.is_open())
    })?;
    let left_out = [last.left_out, outputs.left_out, logs.left_out, not_done.left_out, stopped];
    let next = left_out.into_iter().flatten().filter(|number| *number < Number::MAX).min();
    let mut reply = json!({
        "workflow_id": run.id,
        "status": run.status(),
        "phase": run.phase.as_str(),
        "result": last.items.into_iter().collect::<Map<_, _>>(),
        "execution_time": execution_time(run),
        "error": run.error.as_ref().or(run.cancelled.as_ref()),
        "not_done": not_done.items,
    });
    if include_outputs {
        put(&mut reply, "outputs", Value::Object(outputs.items.into_iter().collect()));
    }
    if include_logs {
        put(&mut reply, "logs", logs.items.into());
    }
    put(&mut reply, "is_whole", json!(next.is_none()));
    put(&mut reply, "next_step", json!(next));
    Ok(reply)
}

/// The result of a node. One that is larger than a record is shown by its digest: `workflow_output` gives it.
fn result_or_digest(t: &View<'_>, run: &Run, number: Number) -> Result<Value, WorkflowError> {
    Ok(match BLOBS.get(t, &(&run.id, number))? {
        Some(blob) => json!({ "sha256": blob.digest, "bytes": blob.bytes, "pieces": blob.pieces }),
        None => RESULTS.get(t, &(&run.id, number))?.unwrap_or_default(),
    })
}

/// The step of a path; none if there is none.
///
/// # Errors
/// Those of the store; the run's steps are too large to find it among them.
pub(crate) fn find_step(t: &View<'_>, run: &Run, path: &str) -> Result<Option<Number>, WorkflowError> {
    // The steps within a step have higher numbers, and the items of a fan-out stand in a list of their own.
    let from = match path.rsplit_once('/') {
        None => 0,
        Some((parent, name)) => {
            let Some(parent) = find_step(t, run, parent)? else { return Ok(None) };
            if let Some(number) = name.parse().ok().map(|item| item_of(t, run, parent, item)).transpose()?.flatten() {
                return Ok(Some(number));
            }
            parent.saturating_add(1)
        }
    };
    let mut found = None;
    let stopped = walk(t, run, (from, usize::MAX), |node| {
        found = (node.path == path).then_some(node.number);
        Ok(found.is_none())
    })?;
    match (found, stopped) {
        (None, Some(_)) => {
            let reason = format!("step '{path}' is behind more steps of {} than one call goes through", run.id);
            Err(WorkflowError::Refused(reason))
        }
        _ => Ok(found),
    }
}

/// The node of a fan-out's item; none if it has none there.
fn item_of(t: &View<'_>, run: &Run, fan: Number, item: u32) -> Result<Option<Number>, WorkflowError> {
    let place = usize::try_from(item).unwrap_or(usize::MAX).saturating_add(1);
    let mut found = None;
    for number in WITHIN.of(&(&run.id, fan)).most(place).walk(t) {
        found = Some(number?);
    }
    let Some(number) = found else { return Ok(None) };
    let node = NODES.get(t, &(&run.id, number))?;
    Ok(node.filter(|node| node.index == Some(item)).map(|node| node.number))
}

/// Gives the result of one step as the text of its JSON, piece by piece: for results that are larger than a record, which `workflow_result` shows by their SHA-256.
#[tool(read_only)]
pub fn workflow_output(
    /// The run.
    workflow_id: String,
    /// The step's path, as the status shows it.
    step_id: String,
    /// The piece, from 0: the `next_piece` of the call before.
    #[arg(default)]
    piece: u32,
) -> Reply {
    let output = read(|t| {
        let run = engine::find(t, &workflow_id)?;
        let missing = || WorkflowError::Refused(format!("step '{step_id}' has no result"));
        let number = find_step(t, &run, &step_id)?.ok_or_else(missing)?;
        let (text, next, digest) = match BLOBS.get(t, &(&run.id, number))? {
            Some(blob) => {
                let text = blob::piece(t, &blob, piece)?.ok_or_else(missing)?;
                let next = piece.saturating_add(1);
                (text, (next < blob.pieces).then_some(next), Some(blob.digest))
            }
            None if piece > 0 => return Err(missing()),
            None => (RESULTS.get(t, &(&run.id, number))?.ok_or_else(missing)?.to_string(), None, None),
        };
        Ok(json!({ "workflow_id": run.id, "step_id": step_id, "text": text, "next_piece": next, "sha256": digest }))
    });
    settle(output, &workflow_id)
}

/// Draws a run's graph, with the chain of steps that takes longest.
#[tool(read_only)]
pub fn workflow_dependencies(
    /// The run.
    workflow_id: String,
    /// `json`, `dot` or `mermaid`.
    #[arg(default)]
    format: Option<String>,
    /// The same by another name.
    #[arg(default)]
    fmt: Option<String>,
) -> Reply {
    let format = format.or(fmt).unwrap_or_else(|| "json".into());
    let drawn = read(|t| {
        if !["json", "dot", "mermaid"].contains(&&*format) {
            let shown: String = format.chars().take(40).collect();
            return Err(WorkflowError::Invalid(format!("Invalid format: {shown} (must be json, dot or mermaid)")));
        }
        let run = engine::find(t, &workflow_id)?;
        let (steps, has_more) = drawn(t, &run)?;
        let id = |place: &usize| steps.get(*place).map(|step| step.id.clone());
        let edges = steps
            .iter()
            .flat_map(|to| to.depends_on.iter().filter_map(|from| Some(json!({ "from": id(from)?, "to": to.id }))));
        Ok(json!({
            "workflow_id": run.id,
            "format": format,
            "dag": match &*format {
                "dot" => draw::dot(&run.name, &steps).into(),
                "mermaid" => draw::mermaid(&steps).into(),
                _ => draw::dag(&steps),
            },
            "nodes": steps.iter().map(|step| json!({ "id": step.id, "action": step.action, "status": step.status, "duration_ms": step.took_ms })).collect::<Vec<_>>(),
            "edges": edges.collect::<Vec<_>>(),
            "critical_path": draw::critical_path(&steps).iter().filter_map(id).collect::<Vec<_>>(),
            "depends_on_workflows": run.waits_for,
            "peer_id": HERE,
            "end_time": time(run.ended_ms),
            "has_more_steps": has_more,
        }))
    });
    settle(drawn, &workflow_id)
}

/// The steps of the run itself, as they are drawn, and whether there are more; those within steps stand for nothing of their own.
fn drawn(t: &View<'_>, run: &Run) -> Result<(Vec<Drawn>, bool), WorkflowError> {
    let (mut steps, mut places, mut has_more) = (Vec::new(), BTreeMap::new(), true);
    let mut waits_for: Vec<Vec<Number>> = Vec::new();
    let stopped = walk(t, run, (0, MAX_NODES), |node| {
        // The run's own steps have the first numbers.
        has_more = node.parent.is_none();
        if has_more {
            places.insert(node.number, steps.len());
            waits_for.push(node.depends_on.clone());
            steps.push(Drawn {
                id: node.path.clone(),
                action: node.step.action.clone(),
                status: node.state.as_str().to_owned(),
                took_ms: took_ms(node),
                depends_on: Vec::new(),
            });
        }
        Ok(has_more)
    })?;
    for (step, numbers) in steps.iter_mut().zip(waits_for) {
        step.depends_on = numbers.iter().filter_map(|number| places.get(number).copied()).collect();
    }
    Ok((steps, has_more && stopped.is_some()))
}
