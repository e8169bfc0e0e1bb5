//! Whether steps fit together, and the graph that they are: before anything runs, with the step and the place of the first thing that is wrong.

mod keys;
mod shape;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    definition::{EventWanted, MAX_STEP_ID_BYTES, MAX_STEPS, SUBMIT, Step, TASK, WAIT, WORKFLOW, submission},
    placeholder::{Placeholder, PlaceholderError, Source, placeholders},
    schema,
};

/// Something that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The step; none if it is no single one's.
    pub step: Option<String>,
    /// JSON pointer within the step.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.step, &*self.path) {
            (Some(step), "") => write!(f, "step '{step}': {}", self.reason),
            (Some(step), path) => write!(f, "step '{step}' at {path}: {}", self.reason),
            (None, _) => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for Problem {}

/// What is known of a tool.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// There is no such tool for the submitter.
    Missing,
    /// The catalog cannot be seen now.
    Unseen,
    /// Its schemas.
    Tool {
        /// Of its arguments.
        input: Value,
        /// Of its result, if it has one.
        output: Option<Value>,
    },
}

/// What is known of the tools. Each is asked for once.
pub trait Catalog {
    /// What is known of one.
    fn tool(&self, name: &str) -> Known;

    /// Why a step cannot wait for an event, if it cannot.
    fn event_refusal(&self, _: &EventWanted) -> Option<String> {
        None
    }
}

/// A catalog of which nothing is seen.
#[derive(Debug, Clone, Copy)]
pub struct Blind;

impl Catalog for Blind {
    fn tool(&self, _: &str) -> Known {
        Known::Unseen
    }
}

/// The graph of one list of steps, by their places in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// What each step waits for.
    pub depends_on: Vec<Vec<usize>>,
    /// What waits for each step.
    pub dependents: Vec<Vec<usize>>,
    /// The steps that each step's placeholders name.
    pub names: Vec<BTreeMap<String, usize>>,
    /// An order in which each step comes behind what it waits for.
    pub order: Vec<usize>,
}

/// Steps in JSON.
///
/// # Errors
/// The first step that is none.
pub fn parse(steps: &[Value]) -> Result<Vec<Step>, Problem> {
    if steps.len() > MAX_STEPS {
        return Err(whole(format!("there are {} steps; at most {MAX_STEPS} are allowed", steps.len())));
    }
    let parse = |(number, value): (usize, &Value)| {
        let id = value.get("step_id").and_then(Value::as_str);
        if id.is_none() || !value.get("action").is_some_and(Value::is_string) {
            let shown: String = value.to_string().chars().take(200).collect();
            return Err(whole(format!("Invalid step structure — missing step_id or action: {shown}")));
        }
        serde_json::from_value(value.clone()).map_err(|error| Problem {
            step: id.map(str::to_owned),
            path: String::new(),
            reason: format!("{error} (step {} of the list)", number.saturating_add(1)),
        })
    };
    steps.iter().enumerate().map(parse).collect()
}

fn whole(reason: String) -> Problem {
    Problem { step: None, path: String::new(), reason }
}

/// Checks a list of steps and what stands within them; `depth` is that of the list, 0 for a run's.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(steps: &[Step], depth: u8, catalog: &impl Catalog) -> Result<Graph, Problem> {
    let graph = graph(steps)?;
    let places: BTreeMap<&str, usize> =
        steps.iter().enumerate().map(|(place, step)| (step.step_id.as_str(), place)).collect();
    let mut known = BTreeMap::new();
    for step in steps {
        shape::check(step, depth, catalog)?;
        keys::check(step)?;
        tools(step, steps, &places, &mut known, catalog)?;
    }
    Ok(graph)
}

/// The graph of steps that may stand in one list; that each step by itself is as it should be was checked when they came.
///
/// # Errors
/// The first thing that is wrong.
pub fn graph(steps: &[Step]) -> Result<Graph, Problem> {
    if steps.is_empty() {
        return Err(whole("a workflow has at least one step".into()));
    }
    if steps.len() > MAX_STEPS {
        return Err(whole(format!("there are {} steps; at most {MAX_STEPS} are allowed", steps.len())));
    }
    let mut places = BTreeMap::new();
    for (place, step) in steps.iter().enumerate() {
        let id = &step.step_id;
        let is_legal = (1..=MAX_STEP_ID_BYTES).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !is_legal {
            let reason = format!("a step's id has 1 to {MAX_STEP_ID_BYTES} characters of a-z, A-Z, 0-9, _ and -");
            return Err(problem(step, "/step_id", reason));
        }
        if places.insert(id.as_str(), place).is_some() {
            return Err(problem(step, "/step_id", "another step has this id".into()));
        }
    }
    let mut graph = Graph { dependents: vec![Vec::new(); steps.len()], ..Graph::default() };
    for (place, step) in steps.iter().enumerate() {
        let (needed, names) = needed(step, &places)?;
        for needed in &needed {
            if let Some(dependents) = graph.dependents.get_mut(*needed) {
                dependents.push(place);
            }
        }
        graph.depends_on.push(needed.into_iter().collect());
        graph.names.push(names);
    }
    graph.order = order(steps, &graph)?;
    Ok(graph)
}

fn problem(step: &Step, path: &str, reason: String) -> Problem {
    Problem { step: Some(step.step_id.clone()), path: path.into(), reason }
}

/// All placeholders of a step that are filled in its own place.
pub fn own_placeholders(step: &Step) -> Result<Vec<(String, Placeholder)>, Problem> {
    let wrong = |PlaceholderError { at, reason }| Problem { step: Some(step.step_id.clone()), path: at, reason };
    let mut found = placeholders(&own_inputs(step), "/inputs").map_err(wrong)?;
    if let Some(when) = &step.when {
        found.extend(placeholders(&when.value, "/when/value").map_err(wrong)?);
    }
    if let Some(for_each) = &step.for_each {
        found.extend(placeholders(&for_each.items, "/for_each/items").map_err(wrong)?);
    }
    found.extend(keys::placeholders_of(step).map_err(wrong)?);
    if let Some(undo) = &step.undo {
        let inputs = Value::Object(undo.inputs.clone());
        found.extend(placeholders(&inputs, "/undo/inputs").map_err(wrong)?);
    }
    Ok(found)
}

/// The inputs of a step without the steps within it, whose placeholders are theirs.
pub fn own_inputs(step: &Step) -> Value {
    let is_own = |name: &String| step.action != WORKFLOW || name == "input";
    let own = step.inputs.iter().filter(|(name, _)| is_own(name));
    Value::Object(own.map(|(name, value)| (name.clone(), value.clone())).collect())
}

type Needed = (BTreeSet<usize>, BTreeMap<String, usize>);

/// The places of the steps that a step waits for, and of those that its placeholders name.
fn needed(step: &Step, places: &BTreeMap<&str, usize>) -> Result<Needed, Problem> {
    let mut needed = BTreeSet::new();
    for (number, id) in step.depends_on.iter().enumerate() {
        let Some(place) = places.get(id.as_str()) else {
            let reason = format!("Step '{}' depends on non-existent step '{id}'", step.step_id);
            return Err(problem(step, &format!("/depends_on/{number}"), reason));
        };
        needed.insert(*place);
    }
    let mut names = BTreeMap::new();
    for (at, placeholder) in own_placeholders(step)? {
        let is_undo = at.starts_with("/undo");
        match &placeholder.source {
            Source::Step(id) => {
                let Some(place) = places.get(id.as_str()) else {
                    let reason = format!("`${{{placeholder}}}` refers to non-existent step '{id}'");
                    return Err(problem(step, &at, reason));
                };
                needed.insert(*place);
                names.insert(id.clone(), *place);
            }
            Source::Item | Source::Index if step.for_each.is_none() || at.starts_with("/for_each") => {
                return Err(problem(step, &at, format!("`${{{placeholder}}}` stands only in a step with `for_each`")));
            }
            Source::Result if !is_undo => {
                return Err(problem(step, &at, format!("`${{{placeholder}}}` stands only in an undo")));
            }
            _ => {}
        }
    }
    Ok((needed, names))
}

/// An order of the steps, or the cycle that they have.
fn order(steps: &[Step], graph: &Graph) -> Result<Vec<usize>, Problem> {
    let mut open: Vec<usize> = graph.depends_on.iter().map(Vec::len).collect();
    let mut order: Vec<usize> = (0..steps.len()).filter(|place| open.get(*place) == Some(&0)).collect();
    let mut next = 0;
    while let Some(place) = order.get(next).copied() {
        next = next.saturating_add(1);
        for dependent in graph.dependents.get(place).into_iter().flatten() {
            if let Some(open) = open.get_mut(*dependent) {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    order.push(*dependent);
                }
            }
        }
    }
    if order.len() == steps.len() {
        return Ok(order);
    }
    // Each step that is left waits for one that is left: going from one to the next comes back.
    let is_left = |place: &usize| open.get(*place).is_some_and(|open| *open > 0);
    let (mut way, mut at) = (Vec::new(), (0..steps.len()).find(is_left));
    while let Some(place) = at {
        if let Some(begin) = way.iter().position(|seen| *seen == place) {
            way.drain(..begin);
            way.push(place);
            break;
        }
        way.push(place);
        at = graph.depends_on.get(place).into_iter().flatten().copied().find(is_left);
    }
    way.reverse();
    let names: Vec<&str> = way.iter().filter_map(|place| Some(&*steps.get(*place)?.step_id)).collect();
    let first = names.first().map(|name| (*name).to_owned());
    Err(Problem {
        step: first,
        path: "/depends_on".into(),
        reason: format!("Workflow contains cycle: {}", names.join(" -> ")),
    })
}

/// Whether the tools of a step are there and take its arguments, and its placeholders lead into the results of others.
fn tools(
    step: &Step,
    steps: &[Step],
    places: &BTreeMap<&str, usize>,
    known: &mut BTreeMap<String, Known>,
    catalog: &impl Catalog,
) -> Result<(), Problem> {
    let mut look = |name: &str| known.entry(name.to_owned()).or_insert_with(|| catalog.tool(name)).clone();
    let undo = step.undo.as_ref().map(|undo| (&undo.action, &undo.inputs, "/undo"));
    for (action, inputs, at) in [(&step.action, &step.inputs, "")].into_iter().chain(undo) {
        if at.is_empty() && [WAIT, WORKFLOW].contains(&&**action) {
            continue;
        }
        let is_task = at.is_empty() && action == TASK;
        match look(if is_task { SUBMIT } else { action }) {
            Known::Missing if is_task => {
                let reason = format!("a `{TASK}` step needs the tool `{SUBMIT}`, which may not be called here");
                return Err(problem(step, "/action", reason));
            }
            Known::Missing => {
                let reason = format!("there is no tool `{action}`, or it may not be called here");
                return Err(problem(step, &format!("{at}/action"), reason));
            }
            Known::Tool { input, .. } => {
                let whole = if is_task { submission(inputs, "id") } else { inputs.clone() };
                if let Some((path, reason)) = schema::refusal(&input, &whole, &format!("{at}/inputs")) {
                    return Err(problem(step, &path, reason));
                }
            }
            Known::Unseen => {}
        }
    }
    for (at, placeholder) in own_placeholders(step)? {
        let Source::Step(id) = &placeholder.source else { continue };
        let Some(of) = places.get(id.as_str()).and_then(|place| steps.get(*place)) else { continue };
        // The result of a list of items, of a plan or of steps within has no schema.
        if of.for_each.is_some()
            || of.plan
            || of.may_fail
            || of.when.is_some()
            || [WAIT, TASK, WORKFLOW].contains(&&*of.action)
        {
            continue;
        }
        if let Known::Tool { output: Some(output), .. } = look(&of.action)
            && let Some(name) = schema::missing(&output, &placeholder.path)
        {
            let reason = format!("`${{{placeholder}}}`: the result of `{}` has no {name:?}", of.action);
            return Err(problem(step, &at, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
