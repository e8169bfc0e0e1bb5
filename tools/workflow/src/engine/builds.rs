//! The builds that runs began with: pinned when a run is submitted, or a plan adds tools of other components; unpinned when no unfinished run names them.
//!
//! The host knows who holds a build, and the store how many unfinished runs name it. Both are brought together in transactions of this component's space, which run one after
//! another: so no build is let go that a run begins with.

use std::collections::BTreeSet;

use mcpp_tool::{
    builds::{self, Build},
    store::{StoreError, Transaction, View},
};
use serde_json::Value;

use super::WorkflowError;
use crate::{
    definition::{SUBMIT, Step, TASK, WAIT, WORKFLOW},
    run::Run,
    store::NAMED,
    validate::parse,
};

/// The key of the timer that lets builds go.
pub(super) const RELEASE: &str = "p";

/// The tools that steps call, those within them and their undos among them.
pub(super) fn tools(steps: &[Step]) -> BTreeSet<String> {
    let mut tools = BTreeSet::new();
    for step in steps {
        match &*step.action {
            WAIT => {}
            TASK => drop(tools.insert(SUBMIT.to_owned())),
            WORKFLOW => {
                let inner = step.inputs.get("steps").and_then(Value::as_array).map(|steps| parse(steps));
                tools.extend(inner.and_then(Result::ok).map(|inner| self::tools(&inner)).unwrap_or_default());
            }
            tool => drop(tools.insert(tool.to_owned())),
        }
        tools.extend(step.undo.iter().map(|undo| undo.action.clone()));
    }
    tools
}

/// Pins today's builds of the components that have these tools.
pub(super) fn pin(tools: &BTreeSet<String>) -> Result<Vec<Build>, WorkflowError> {
    if tools.is_empty() {
        return Ok(Vec::new());
    }
    builds::pin(tools).map_err(|error| WorkflowError::Refused(error.to_string()))
}

/// The tools among these that are of no component of which the run has a build.
pub(super) fn unpinned(begun_with: &[Build], mut tools: BTreeSet<String>) -> BTreeSet<String> {
    tools.retain(|tool| begun_with.is_empty() || builds::describe(begun_with, tool).is_none());
    tools
}

/// A run has one build of a component: the first.
pub(super) fn join(begun_with: &[Build], more: Vec<Build>) -> Vec<Build> {
    let mut all = begun_with.to_vec();
    all.extend(more.into_iter().filter(|build| !begun_with.iter().any(|one| one.component == build.component)));
    all
}

/// Sees to it that builds are let go that only this run, which has ended, had named.
pub(super) fn ended(t: &Transaction<'_>, run: &Run, now_ms: u64) -> Result<(), StoreError> {
    for build in &run.builds {
        if !is_named(t, build)? {
            return t.wake_at(RELEASE, now_ms, b"");
        }
    }
    Ok(())
}

/// Lets builds go that no unfinished run names.
pub(super) fn release(t: &Transaction<'_>) -> Result<(), StoreError> {
    let mut unneeded = Vec::new();
    for build in builds::pinned() {
        if !is_named(t, &build)? {
            unneeded.push(build);
        }
    }
    if !unneeded.is_empty() {
        builds::unpin(&unneeded);
    }
    Ok(())
}

/// A build, by its component and its digest, and how many unfinished runs name it.
pub(crate) type NamedBuild = ((String, String), i64);

/// The builds that unfinished runs name: as many as the host pins for a tenant.
///
/// # Errors
/// See [`StoreError`].
pub(crate) fn named_builds(t: &View<'_>) -> Result<Vec<NamedBuild>, StoreError> {
    const MOST: usize = 1_000;
    Ok(NAMED.under(t, &(), MOST)?.into_iter().filter(|(_, runs)| *runs > 0).collect())
}

fn is_named(t: &Transaction<'_>, build: &Build) -> Result<bool, StoreError> {
    Ok(NAMED.get(t, &(&*build.component, &*build.digest))? > 0)
}
