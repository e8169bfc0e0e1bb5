//! New runs.

use std::collections::BTreeSet;

use mcpp_tool::{
    builds::{self as host, Build},
    environment::id,
    rights::Rights,
    store::{StoreError, Transaction, View},
};
use serde_json::{Map, Value};

use super::{
    Origin, WorkflowError, builds, call_for, go_on,
    rehearsal::{SCRIPTS, Script},
    room::leave_reserve,
};
use crate::{
    blob::Blob,
    definition::{EventWanted, MAX_DEFINITION_BYTES, Step},
    run::{Fork, Number, Phase, Run},
    scheduler::{self, Nodes as _, Place, add},
    store::{DEFINITIONS, DEPENDENCIES, INPUTS, ROOT, RUNS, StoredNodes, rank, stored_run},
    validate::{Catalog, Graph, Known, check},
};

/// Longest id of a run, in bytes.
pub(super) const MAX_ID_BYTES: usize = 128;
/// Most runs that a run may wait for.
const MAX_DEPENDENCIES: usize = 100;
/// Most tags, and the bytes of each.
const MAX_TAGS: usize = 16;
const MAX_TAG_BYTES: usize = 64;
/// Largest input of a run, in bytes of JSON.
pub const MAX_INPUT_BYTES: usize = 256 << 10;
/// Largest metadata of a run: they are part of its head, which every step rewrites.
const MAX_METADATA_BYTES: usize = 16 << 10;

/// A run that is to be submitted.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its steps.
    pub steps: Vec<Step>,
    /// Lower is sooner.
    pub priority: f64,
    /// Its tags.
    pub tags: Vec<String>,
    /// Runs that must have completed before.
    pub dependencies: Vec<String>,
    /// Its metadata.
    pub metadata: Map<String, Value>,
    /// Its input.
    pub input: Value,
    /// What its submitter may use.
    pub rights: Rights,
    /// Its submitter.
    pub by: String,
    /// Where it is from.
    pub forked: Option<Fork>,
    /// Results of steps that are not done again, by their places.
    pub copied: Vec<(Number, Copied)>,
    /// What happens besides, if it is a rehearsal.
    pub script: Option<Script>,
}

/// A result that a step has from another run.
#[derive(Debug, Clone, PartialEq)]
pub enum Copied {
    /// As it is.
    Value(Value),
    /// One that is larger than a record.
    Large(Blob),
}

/// Whether a text can be a run's id.
pub(super) fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len()) && text.trim() == text && !text.chars().any(char::is_control)
}

/// The tools that a run may use, as the host shows them: of these builds, or today's if there are none.
#[derive(Debug)]
pub struct VisibleTools<'a>(pub &'a Rights, pub &'a [Build]);

impl Catalog for VisibleTools<'_> {
    fn tool(&self, name: &str) -> Known {
        if !self.0.allow(name) {
            return Known::Missing;
        }
        match host::describe(self.1, name) {
            Some(tool) => Known::Tool { input: tool.input, output: tool.output },
            // A native test has no catalog.
            None if cfg!(target_arch = "wasm32") => Known::Missing,
            None => Known::Unseen,
        }
    }

    fn event_refusal(&self, event: &EventWanted) -> Option<String> {
        super::event_refusal(event)
    }
}

/// The bytes of a value as JSON.
fn json_bytes(value: &impl serde::Serialize) -> usize {
    serde_json::to_string(value).map_or(usize::MAX, |text| text.len())
}

impl Draft {
    /// Checks everything that needs no transaction, and has the host keep the builds with which the run begins.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, catalog: &impl Catalog) -> Result<Graph, WorkflowError> {
        let graph = self.check_form(catalog)?;
        self.pin()?;
        Ok(graph)
    }

    /// Checks the same for a run that begins later: no build is kept for it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_form(&self, catalog: &impl Catalog) -> Result<Graph, WorkflowError> {
        let invalid = |reason: String| Err(WorkflowError::Invalid(reason));
        if !is_id(&self.id) {
            return invalid(format!(
                "workflow_id must have 1 to {MAX_ID_BYTES} bytes, no control characters, and no white space at its ends"
            ));
        }
        if self.name.is_empty() || self.name.len() > 200 {
            return invalid("name must have 1 to 200 bytes".into());
        }
        if !self.priority.is_finite() {
            return invalid("priority must be a finite number".into());
        }
        if self.tags.len() > MAX_TAGS || self.tags.iter().any(|tag| !(1..=MAX_TAG_BYTES).contains(&tag.len())) {
            return invalid(format!("at most {MAX_TAGS} tags of 1 to {MAX_TAG_BYTES} bytes are allowed"));
        }
        if self.dependencies.len() > MAX_DEPENDENCIES {
            return invalid(format!("at most {MAX_DEPENDENCIES} dependencies are allowed"));
        }
        for (what, bytes, most) in [
            ("steps", json_bytes(&self.steps), MAX_DEFINITION_BYTES),
            ("input", json_bytes(&self.input), MAX_INPUT_BYTES),
            ("metadata", json_bytes(&self.metadata), MAX_METADATA_BYTES),
        ] {
            if bytes > most {
                return invalid(format!("{what} has {bytes} bytes; at most {most} are allowed"));
            }
        }
        Ok(check(&self.steps, 0, catalog)?)
    }

    /// The bytes of its steps and its input as JSON.
    pub fn json_bytes(&self) -> usize {
        json_bytes(&self.steps).saturating_add(json_bytes(&self.input))
    }

    /// The builds with which the run begins, pinned. What is rehearsed is over before there are others.
    fn pin(&self) -> Result<Vec<Build>, WorkflowError> {
        match &self.script {
            Some(_) => Ok(Vec::new()),
            None => builds::pin(&builds::tools(&self.steps)),
        }
    }
}

/// The dependencies that have not completed.
fn open_dependencies(t: &View<'_>, draft: &Draft) -> Result<Vec<String>, WorkflowError> {
    let mut open = Vec::new();
    for id in &draft.dependencies {
        let Some(run) = (if is_id(id) { stored_run(t, id)? } else { None }) else {
            return Err(WorkflowError::Invalid(format!("the dependency '{id}' does not exist")));
        };
        match run.phase {
            Phase::Completed => {}
            Phase::Failed | Phase::Cancelled | Phase::UndoFailed => {
                return Err(WorkflowError::Invalid(format!("the dependency '{id}' is {}", run.status())));
            }
            _ if open.contains(id) => {}
            _ => open.push(id.clone()),
        }
    }
    Ok(open)
}

/// Each of these texts once, in the order in which they come first.
fn unique(texts: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    texts.iter().filter(|text| seen.insert(text.as_str())).cloned().collect()
}

/// Whether a run is what a draft would make: all that it keeps is compared, but for its submitter and that one's rights.
fn is_same(t: &View<'_>, there: &Run, draft: &Draft) -> Result<bool, StoreError> {
    // An earlier build kept a tag twice that was given twice.
    let has_same_head = there.name == draft.name
        && there.priority.total_cmp(&draft.priority).is_eq()
        && unique(&there.tags) == unique(&draft.tags)
        && there.metadata == draft.metadata
        && there.forked == draft.forked
        && there.is_rehearsal == draft.script.is_some();
    // An earlier build kept no dependencies: those of its runs are not compared.
    let waits_for_same = |kept: Vec<String>| kept == unique(&draft.dependencies);
    Ok(has_same_head
        && DEPENDENCIES.get(t, &draft.id)?.is_none_or(waits_for_same)
        && DEFINITIONS.get(t, &draft.id)?.as_ref() == Some(&draft.steps)
        && INPUTS.get(t, &(&draft.id, ROOT))?.unwrap_or_default() == draft.input)
}

/// Writes a new run and has its first steps begin. The same draft twice is one run.
///
/// # Errors
/// There is another run with this id, or a dependency is not there.
pub fn submit(
    t: &Transaction<'_>,
    draft: &Draft,
    graph: &Graph,
    origin: Origin,
    now_ms: u64,
) -> Result<Run, WorkflowError> {
    if let Some(there) = RUNS.get(t, &draft.id)? {
        if there.is_removed {
            let reason = format!("Workflow {} is being removed; submit it again in a moment", draft.id);
            return Err(WorkflowError::Refused(reason));
        }
        return match is_same(t, &there, draft)? {
            true => Ok(there),
            false => Err(WorkflowError::Refused(format!("Workflow {} was submitted before with other work", draft.id))),
        };
    }
    let waits_for = open_dependencies(t, draft)?;
    let mut run = Run {
        name: draft.name.clone(),
        phase: if waits_for.is_empty() { Phase::Running } else { Phase::Blocked },
        priority: draft.priority,
        // One that is given twice would be counted twice.
        tags: unique(&draft.tags),
        metadata: draft.metadata.clone(),
        rights: draft.rights.clone(),
        by: draft.by.clone(),
        waits_for,
        forked: draft.forked.clone(),
        key: id(),
        // They are pinned already, unless one was swapped a moment ago: that costs nothing. Within this transaction nothing lets them go.
        builds: draft.pin()?,
        is_rehearsal: draft.script.is_some(),
        ..Run::new(draft.id.clone(), now_ms)
    };
    DEFINITIONS.set(t, &draft.id, &draft.steps)?;
    DEPENDENCIES.set(t, &draft.id, &unique(&draft.dependencies))?;
    if let Some(script) = &draft.script {
        SCRIPTS.set(t, &draft.id, script)?;
    }
    if !draft.input.is_null() {
        INPUTS.set(t, &(&draft.id, ROOT), &draft.input)?;
    }
    let mut nodes = StoredNodes::new(t, &draft.id);
    let place = Place { rank: rank(draft.priority), ..Place::default() };
    add(&mut run, &mut nodes, (&draft.steps, graph), &place, now_ms)?;
    for (number, result) in &draft.copied {
        let is_there = match result {
            Copied::Value(value) => nodes.keep(*number, value)?,
            Copied::Large(blob) => nodes.keep_blob(*number, blob)?,
        };
        if !is_there {
            return Err(WorkflowError::Refused(format!(
                "the result of step {number} is not there any more, or too large"
            )));
        }
        scheduler::copy(&mut run, &mut nodes, *number, now_ms)?;
    }
    let woken = go_on(t, run, nodes, origin, now_ms)?.woken;
    super::upkeep::watch(t, now_ms)?;
    call_for(t, woken, origin, now_ms)?;
    leave_reserve(t)?;
    super::find(t, &draft.id)
}
