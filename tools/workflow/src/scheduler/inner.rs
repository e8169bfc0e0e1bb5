//! Nodes within nodes: those of a fan-out, of a workflow within a workflow, and of a plan.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Nodes, end};
use crate::{
    definition::{MAX_DEFINITION_BYTES, MAX_RUN_STEPS, Step, WORKFLOW, ms},
    placeholder::Source,
    run::{Inner, Node, Number, Phase, Run, State},
    store::rank,
    validate::{Graph, own_placeholders},
};

/// Where new nodes stand.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The node in which they do.
    pub parent: Option<Number>,
    /// The node whose input is theirs.
    pub scope: Option<Number>,
    /// What their paths begin with.
    pub prefix: String,
    /// How deep they stand within steps that have steps.
    pub depth: u8,
    /// The rank of the run's priority.
    pub rank: u64,
}

/// Adds steps to a run, and lets those begin that wait for nothing. The first one's number.
pub fn add<N: Nodes>(
    run: &mut Run,
    nodes: &mut N,
    (steps, graph): (&[Step], &Graph),
    place: &Place,
    now_ms: u64,
) -> Result<Number, N::Error> {
    let first = run.tally.total;
    let number = |place: usize| first.saturating_add(Number::try_from(place).unwrap_or(Number::MAX));
    let numbers = |places: Option<&Vec<usize>>| places.into_iter().flatten().map(|place| number(*place)).collect();
    for (at, step) in steps.iter().enumerate() {
        let depends_on: Vec<Number> = numbers(graph.depends_on.get(at));
        let names: BTreeMap<String, Number> =
            graph.names.get(at).into_iter().flatten().map(|(name, place)| (name.clone(), number(*place))).collect();
        let node = Node {
            number: number(at),
            path: format!("{}{}", place.prefix, step.step_id),
            step: step.clone(),
            parent: place.parent,
            scope: place.scope,
            depth: place.depth,
            names,
            waiting_for: Number::try_from(depends_on.len()).unwrap_or(Number::MAX),
            depends_on,
            dependents: numbers(graph.dependents.get(at)),
            rank: step.priority.map_or(place.rank, rank),
            ready_ms: now_ms,
            order: 0,
            index: None,
            state: State::Pending,
            attempt: 0,
            started_ms: None,
            ended_ms: None,
            error: None,
            turn: None,
            is_cached: false,
            task: None,
            host: None,
        };
        count(run);
        let state = match node.depends_on.is_empty() {
            // The run waits for others.
            true if run.phase == Phase::Blocked => {
                run.held.push(node.number);
                State::Held
            }
            true => State::Ready,
            false => State::Pending,
        };
        nodes.add(&Node { state, ..node })?;
    }
    Ok(first)
}

/// One node more.
fn count(run: &mut Run) {
    run.tally.total = run.tally.total.saturating_add(1);
    run.tally.open = run.tally.open.saturating_add(1);
}

/// Whether so many nodes more are not too many.
pub fn has_room(run: &Run, more: u32) -> bool {
    run.tally.expected().saturating_add(more) <= MAX_RUN_STEPS
}

/// Why there are no more nodes.
pub const NO_ROOM: &str = "the run would have more than 10000 steps";

/// How many items of a node have no nodes yet.
pub(super) fn to_come(node: &Node) -> u32 {
    let State::Open(Inner::Fan { total, begun, nodes, .. }) = &node.state else { return 0 };
    total.saturating_sub(*begun).saturating_sub(Number::try_from(nodes.len()).unwrap_or(Number::MAX))
}

/// Opens a node for so many items.
pub(super) fn fan<N: Nodes>(
    run: &mut Run,
    nodes: &mut N,
    mut node: Node,
    total: u32,
    now_ms: u64,
) -> Result<(), N::Error> {
    if !has_room(run, total) {
        return end(run, nodes, node, State::Failed, Some(NO_ROOM.into()), now_ms);
    }
    // The items are kept by themselves: this row is written at the end of each.
    if let Some(for_each) = &mut node.step.for_each {
        for_each.items = Value::Null;
    }
    run.tally.to_come = run.tally.to_come.saturating_add(total);
    node.state = State::Open(Inner::Fan {
        total,
        begun: 0,
        nodes: Vec::new(),
        open: Vec::new(),
        succeeded: 0,
        failed: 0,
        why: None,
    });
    fill(run, nodes, node, now_ms)
}

/// Ends a fan-out that is decided, or begins its next items: as many as there is room for in this transaction, and at least one. The others begin in the next one.
pub(super) fn fill<N: Nodes>(run: &mut Run, nodes: &mut N, mut node: Node, now_ms: u64) -> Result<(), N::Error> {
    let (State::Open(Inner::Fan { total, begun, nodes: before, open, succeeded, failed, why }), Some(for_each)) =
        (&mut node.state, &node.step.for_each)
    else {
        return Ok(());
    };
    match for_each.join.decided(*total, *succeeded, *failed) {
        Some(true) => {
            run.to_cancel.append(open);
            // Those that an earlier build began may not be found by the node in which they stand.
            let mut items = std::mem::take(before);
            let last = items.last().copied();
            items.extend(nodes.items(node.number)?.into_iter().filter(|number| Some(*number) > last));
            let Some(results) = results(nodes, &items)? else {
                return end(run, nodes, node, State::Failed, Some(TOO_LARGE.into()), now_ms);
            };
            return finish(run, nodes, node, Value::Array(results), now_ms);
        }
        Some(false) => {
            run.to_cancel.append(open);
            let needed = for_each.join.needed(*total);
            let error = match why {
                _ if needed > *total => format!("there are {total} items, of which {needed} must succeed"),
                Some(why) => format!("{failed} of {total} items failed; {why}"),
                None => format!("{failed} of {total} items failed"),
            };
            return end(run, nodes, node, State::Failed, Some(error), now_ms);
        }
        None => {}
    }
    let parallel = usize::try_from(for_each.parallel).unwrap_or(1);
    let step = node.step.of_item();
    let names = names(&step, &node.names);
    let before = Number::try_from(before.len()).unwrap_or(Number::MAX);
    while open.len() < parallel && before.saturating_add(*begun) < *total {
        let (number, index) = (run.tally.total, before.saturating_add(*begun));
        *begun = begun.saturating_add(1);
        run.tally.to_come = run.tally.to_come.saturating_sub(1);
        open.push(number);
        count(run);
        let item = Node {
            number,
            path: format!("{}/{index}", node.path),
            step: step.clone(),
            parent: Some(node.number),
            scope: node.scope,
            depth: node.depth,
            names: names.clone(),
            depends_on: Vec::new(),
            dependents: Vec::new(),
            waiting_for: 0,
            rank: node.rank,
            ready_ms: now_ms,
            order: 0,
            index: Some(index),
            state: State::Ready,
            attempt: 0,
            started_ms: None,
            ended_ms: None,
            error: None,
            turn: None,
            is_cached: false,
            task: None,
            host: None,
        };
        nodes.add(&item)?;
        if nodes.is_full() {
            run.to_fill.retain(|number| *number != node.number);
            run.to_fill.push(node.number);
            break;
        }
    }
    nodes.save(&node)
}

/// The nodes that the placeholders of an item's step name: the list of a fan-out may name a thousand others.
fn names(step: &Step, all: &BTreeMap<String, Number>) -> BTreeMap<String, Number> {
    let Ok(placeholders) = own_placeholders(step) else { return all.clone() };
    let named = placeholders.into_iter().filter_map(|(_, placeholder)| match placeholder.source {
        Source::Step(name) => all.get(&name).map(|number| (name, *number)),
        _ => None,
    });
    named.collect()
}

const TOO_LARGE: &str = "the results of the steps within it are too large together";

/// The results of nodes, as far as they are not too large together.
fn results<N: Nodes>(nodes: &N, numbers: &[Number]) -> Result<Option<Vec<Value>>, N::Error> {
    /// Results that are read at once: each may be as large as a result may be.
    const AT_ONCE: usize = 16;
    let (mut results, mut bytes) = (Vec::new(), 0_usize);
    for part in numbers.chunks(AT_ONCE) {
        nodes.read_ahead(part)?;
        for number in part {
            let result = nodes.result(*number)?;
            bytes = bytes.saturating_add(result.to_string().len());
            if bytes > crate::store::MAX_RESULT_BYTES {
                return Ok(None);
            }
            results.push(result);
        }
    }
    Ok(Some(results))
}

/// Ends a node with the results of those within it.
fn finish<N: Nodes>(run: &mut Run, nodes: &mut N, node: Node, result: Value, now_ms: u64) -> Result<(), N::Error> {
    match nodes.keep(node.number, &result)? {
        true => end(run, nodes, node, State::Completed, None, now_ms),
        false => end(run, nodes, node, State::Failed, Some(super::too_large(&result)), now_ms),
    }
}

/// Opens a node for steps that were checked.
pub(super) fn hold<N: Nodes>(
    run: &mut Run,
    nodes: &mut N,
    mut node: Node,
    steps: &[Step],
    now_ms: u64,
) -> Result<(), N::Error> {
    let total = Number::try_from(steps.len()).unwrap_or(Number::MAX);
    if !has_room(run, total) {
        return end(run, nodes, node, State::Failed, Some(NO_ROOM.into()), now_ms);
    }
    let bytes = serde_json::to_string(steps).map_or(usize::MAX, |text| text.len());
    if bytes > MAX_DEFINITION_BYTES {
        let error = format!("its steps have {bytes} bytes; at most {MAX_DEFINITION_BYTES} are allowed");
        return end(run, nodes, node, State::Failed, Some(error), now_ms);
    }
    // Everything else was looked at when the steps came, maybe by an earlier build.
    let graph = match crate::validate::graph(steps) {
        Ok(graph) => graph,
        Err(problem) => return end(run, nodes, node, State::Failed, Some(problem.to_string()), now_ms),
    };
    let place = Place {
        parent: Some(node.number),
        scope: Some(node.number),
        prefix: format!("{}/", node.path),
        depth: node.depth.saturating_add(1),
        rank: node.rank,
    };
    let first = add(run, nodes, (steps, &graph), &place, now_ms)?;
    if node.step.action == WORKFLOW {
        // Its steps have nodes of their own now, and this row is written at the end of each.
        node.step.inputs.clear();
    }
    node.state = State::Open(Inner::Group { first, total, open: total, failed: None, why: None });
    if let Some(until_ms) = time_is_over_ms(&node) {
        nodes.alarm(&node, until_ms)?;
    }
    nodes.save(&node)
}

/// When the time of all steps of a `workflow` step is over. That of a planner is for its call.
fn time_is_over_ms(node: &Node) -> Option<u64> {
    let timeout_s = node.step.timeout_s.filter(|_| node.step.action == WORKFLOW)?;
    Some(node.started_ms?.saturating_add(ms(timeout_s)))
}

/// The time of a node that is open has come: if it is over, what is within it is cancelled.
pub(super) fn ring<N: Nodes>(run: &mut Run, nodes: &mut N, node: Node, now_ms: u64) -> Result<(), N::Error> {
    let (State::Open(Inner::Group { first, total, .. }), Some(until_ms)) = (&node.state, time_is_over_ms(&node)) else {
        return Ok(());
    };
    if until_ms > now_ms {
        return nodes.alarm(&node, until_ms);
    }
    run.to_cancel.extend(*first..first.saturating_add(*total));
    let error = Some("the time of its steps is over".to_owned());
    end(run, nodes, node, State::Failed, error, now_ms)
}

/// Longest reason of a node that is repeated by the one in which it stands, in characters.
const MAX_WHY_CHARS: usize = 500;

/// Why a node failed, for the one in which it stands.
fn why(node: &Node) -> Option<String> {
    node.error.as_ref().map(|error| error.chars().take(MAX_WHY_CHARS).collect())
}

/// Tells a node that one within it has ended.
pub(super) fn tell_parent<N: Nodes>(
    run: &mut Run,
    nodes: &mut N,
    parent: Number,
    child: &Node,
    now_ms: u64,
) -> Result<(), N::Error> {
    let mut parent = nodes.node(parent)?;
    match &mut parent.state {
        State::Open(Inner::Fan { open, succeeded, failed, why: first, .. }) => {
            open.retain(|number| *number != child.number);
            let ended = if child.state == State::Completed { succeeded } else { failed };
            *ended = ended.saturating_add(1);
            if child.state == State::Failed && first.is_none() {
                *first = why(child).map(|why| format!("{}: {why}", child.path));
            }
            if run.cancelled.is_some() {
                return match open.is_empty() {
                    true => end(run, nodes, parent, State::Cancelled, run.cancelled.clone(), now_ms),
                    false => nodes.save(&parent),
                };
            }
            fill(run, nodes, parent, now_ms)
        }
        State::Open(Inner::Group { first, total, open, failed, why: first_why }) => {
            *open = open.saturating_sub(1);
            if child.state == State::Failed && !child.step.may_fail && failed.is_none() {
                (*failed, *first_why) = (Some(child.path.clone()), why(child));
            }
            if *open > 0 {
                return nodes.save(&parent);
            }
            if let Some(failed) = failed {
                let error = match first_why {
                    Some(why) => format!("step '{failed}' failed: {why}"),
                    None => format!("step '{failed}' failed"),
                };
                return end(run, nodes, parent, State::Failed, Some(error), now_ms);
            }
            if run.cancelled.is_some() {
                return end(run, nodes, parent, State::Cancelled, run.cancelled.clone(), now_ms);
            }
            // What nothing within waits for is the result.
            let (mut names, mut last) = (Vec::new(), Vec::new());
            for number in *first..first.saturating_add(*total) {
                let node = nodes.node(number)?;
                if node.dependents.is_empty() {
                    names.push(node.own_name().to_owned());
                    last.push(number);
                }
            }
            let Some(results) = results(nodes, &last)? else {
                return end(run, nodes, parent, State::Failed, Some(TOO_LARGE.into()), now_ms);
            };
            let results: Map<String, Value> = names.into_iter().zip(results).collect();
            finish(run, nodes, parent, Value::Object(results), now_ms)
        }
        _ => Ok(()),
    }
}
