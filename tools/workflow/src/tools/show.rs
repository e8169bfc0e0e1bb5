//! One run: its status, its results, its graph.

use mcpp_tool::{store::View, tool};
use serde_json::{Map, Value, json};

use super::{HERE, Reply, put, read, settle, step, summary, time};
use crate::{
    blob::{self, BLOBS},
    draw::{self, Drawn},
    engine::{self, WorkflowError},
    run::{Node, Run, State},
    store::{NODES, RESULTS},
};

/// Bytes of steps, and of results, that one reply has: well within what a call may give.
const MAX_REPLY_BYTES: usize = 1 << 20;
/// Most nodes that one reply goes through.
const MAX_NODES: usize = 2_000;

/// Nodes of a run in the order of their numbers, and whether there are more.
fn nodes(t: &View<'_>, run: &Run) -> Result<(Vec<Node>, bool), WorkflowError> {
    let mut nodes = Vec::new();
    for row in NODES.under(&(&run.id,)).most(MAX_NODES).walk(t) {
        nodes.push(row?.1);
    }
    let has_more = nodes.len() < usize::try_from(run.tally.total).unwrap_or(usize::MAX);
    Ok((nodes, has_more))
}

/// Items that have room in a reply, and whether all have.
fn fitting<T>(items: impl IntoIterator<Item = (T, Value)>) -> (Vec<(T, Value)>, bool) {
    let mut bytes = 0_usize;
    let mut fits = true;
    let kept = items.into_iter().take_while(|(_, value)| {
        bytes = bytes.saturating_add(value.to_string().len());
        fits = bytes <= MAX_REPLY_BYTES;
        fits
    });
    let kept = kept.collect();
    (kept, fits)
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
) -> Reply {
    let status = read(|t| {
        let run = engine::find(t, &workflow_id)?;
        let mut status = summary(&run);
        put(&mut status, "next_event", json!(engine::next_event(t, &run)?));
        put(&mut status, "forked_from", json!(run.forked));
        put(&mut status, "builds", json!(run.builds));
        if include_steps {
            let (nodes, has_more) = nodes(t, &run)?;
            let (steps, fits) = fitting(nodes.iter().map(|node| ((), step(node))));
            put(&mut status, "steps", steps.into_iter().map(|(_, step)| step).collect());
            put(&mut status, "has_more_steps", json!(has_more || !fits));
        }
        if include_metrics {
            let (nodes, _) = nodes(t, &run)?;
            put(&mut status, "metrics", metrics(&run, &nodes));
        }
        Ok(status)
    });
    settle(status, &workflow_id)
}

fn took_ms(node: &Node) -> Option<u64> {
    Some(node.ended_ms?.saturating_sub(node.started_ms?))
}

fn seconds(ms: u64) -> f64 {
    // Up to the year 9999 a float has the milliseconds exactly.
    ms as f64 / 1_000.0
}

fn execution_time(run: &Run) -> Value {
    match (run.started_ms, run.ended_ms) {
        (Some(started_ms), Some(ended_ms)) => json!(seconds(ended_ms.saturating_sub(started_ms))),
        _ => Value::Null,
    }
}

fn metrics(run: &Run, nodes: &[Node]) -> Value {
    let durations: Vec<u64> = nodes.iter().filter_map(took_ms).collect();
    let attempts = nodes.iter().map(|node| u64::from(node.attempt)).fold(0, u64::saturating_add);
    json!({
        "steps": run.tally,
        "attempts": attempts,
        "execution_time": execution_time(run),
        "longest_step_s": durations.iter().max().map(|ms| seconds(*ms)),
        "all_steps_s": seconds(durations.iter().fold(0, |sum, ms| sum.saturating_add(*ms))),
    })
}

/// Gives the results of a run that has ended, and of each of its steps; of a run that failed or was cancelled, those that there are.
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
        if run.ended_ms.is_none() {
            return Err(missing());
        }
        let (nodes, has_more) = nodes(t, &run)?;
        let mut outputs = Vec::new();
        for node in nodes.iter().filter(|node| node.state == State::Completed || node.state == State::Undone) {
            // One that is larger than a record is shown by its digest: `workflow_output` gives it.
            let value = match BLOBS.get(t, &(&run.id, node.number))? {
                Some(blob) => json!({ "sha256": blob.digest, "bytes": blob.bytes, "pieces": blob.pieces }),
                None => RESULTS.get(t, &(&run.id, node.number))?.unwrap_or_default(),
            };
            outputs.push((node, value));
        }
        // What nothing waits for is the result of the whole.
        let is_last = |node: &&Node| node.parent.is_none() && node.dependents.is_empty();
        let last =
            outputs.iter().filter(|(node, _)| is_last(node)).map(|(node, value)| (node.path.clone(), value.clone()));
        let (last, last_fits) = fitting(last);
        let mut reply = json!({
            "workflow_id": run.id,
            "status": run.status(),
            "phase": run.phase.as_str(),
            "result": last.into_iter().collect::<Map<_, _>>(),
            "execution_time": execution_time(&run),
            "error": run.error.as_ref().or(run.cancelled.as_ref()),
            "not_done": not_done(&nodes),
        });
        let mut fits = last_fits && !has_more;
        if include_outputs {
            let (outputs, all) = fitting(outputs.into_iter().map(|(node, value)| (node.path.clone(), value)));
            put(&mut reply, "outputs", Value::Object(outputs.into_iter().collect()));
            fits &= all;
        }
        if include_logs {
            let (logs, all) = fitting(nodes.iter().map(|node| ((), step(node))));
            put(&mut reply, "logs", logs.into_iter().map(|(_, line)| line).collect());
            fits &= all;
        }
        put(&mut reply, "is_whole", json!(fits));
        Ok(reply)
    });
    settle(result, &workflow_id)
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
        let mut found = None;
        for row in NODES.under(&(&run.id,)).walk(t) {
            let (_, node) = row?;
            if node.path == step_id {
                found = Some(node.number);
                break;
            }
        }
        let missing = || WorkflowError::Refused(format!("step '{step_id}' has no result"));
        let number = found.ok_or_else(missing)?;
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

/// The steps that have no result, and why.
fn not_done(nodes: &[Node]) -> Value {
    let is_open = |node: &&Node| !matches!(node.state, State::Completed | State::Undone);
    let why = |node: &Node| json!({ "step_id": node.path, "status": node.state.as_str(), "reason": node.reason() });
    nodes.iter().filter(is_open).take(200).map(why).collect()
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
        let (nodes, has_more) = nodes(t, &run)?;
        let steps = drawn(&nodes);
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

/// The steps of the run itself, as they are drawn; those within steps stand for nothing of their own.
fn drawn(nodes: &[Node]) -> Vec<Drawn> {
    let shown: Vec<&Node> = nodes.iter().filter(|node| node.parent.is_none()).collect();
    let place = |number: &u32| shown.iter().position(|node| node.number == *number);
    let draw = |node: &&Node| Drawn {
        id: node.path.clone(),
        action: node.step.action.clone(),
        status: node.state.as_str().to_owned(),
        took_ms: took_ms(node),
        depends_on: node.depends_on.iter().filter_map(place).collect(),
    };
    shown.iter().map(draw).collect()
}
