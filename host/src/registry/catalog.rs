//! One tenant's tools at one moment: an immutable value that a swap replaces as a whole.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use super::tool::Tool;
use crate::{
    call::ToolName,
    grants::ComponentGrant,
    wasm::{
        component::{ComponentName, LoadError, Loaded, Origin},
        limits::Limits,
    },
};

/// One loaded build of a component.
#[derive(Debug)]
pub struct Revision {
    /// The component's name.
    pub name: ComponentName,
    /// Which build, by its digest.
    pub digest: String,
    /// Its size, in bytes.
    pub bytes: usize,
    /// Where it is from.
    pub origin: Origin,
    /// The grant under which it was admitted.
    pub grant: ComponentGrant,
    /// When it went live.
    pub since: SystemTime,
    /// Its tools.
    pub tools: Vec<Arc<Tool>>,
    /// What its author should know.
    pub notes: Vec<String>,
}

impl Revision {
    /// Checks all that a loaded component says.
    pub fn check(loaded: Loaded, origin: Origin, grant: &ComponentGrant, defaults: &Limits) -> Result<Self, LoadError> {
        let component = loaded.name.shared();
        let tools = loaded.tools.into_iter().map(|tool| Tool::check(&component, tool, grant, defaults).map(Arc::new));
        Ok(Self {
            tools: tools.collect::<Result<_, _>>()?,
            name: loaded.name,
            digest: loaded.digest,
            bytes: loaded.bytes,
            origin,
            grant: grant.clone(),
            since: SystemTime::now(),
            notes: loaded.notes,
        })
    }
}

/// Why a component's newest build is not live.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The component, by its file's stem.
    pub component: String,
    /// Where the build is.
    pub origin: Origin,
    /// What is wrong, the whole chain in one line.
    pub error: String,
    /// When it was found.
    pub since: SystemTime,
}

/// One tenant's live tools, and the builds that are not.
#[derive(Debug, Default)]
pub struct Catalog {
    components: BTreeMap<String, Arc<Revision>>,
    tools: BTreeMap<ToolName, Arc<Tool>>,
    problems: BTreeMap<String, Problem>,
}

impl Catalog {
    /// The tool of this name.
    pub fn tool(&self, name: &ToolName) -> Option<Arc<Tool>> {
        self.tools.get(name).cloned()
    }

    /// All tools, by name.
    pub fn tools(&self) -> impl ExactSizeIterator<Item = &Arc<Tool>> {
        self.tools.values()
    }

    /// The tools after `name`, by name; all if there is none.
    pub fn tools_after(&self, name: Option<&ToolName>) -> impl Iterator<Item = &Arc<Tool>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.tools.range((name.map_or(Unbounded, Excluded), Unbounded)).map(|(_, tool)| tool)
    }

    /// The live revision of a component.
    pub fn component(&self, name: &str) -> Option<&Arc<Revision>> {
        self.components.get(name)
    }

    /// All live revisions, by component.
    pub fn components(&self) -> impl ExactSizeIterator<Item = &Arc<Revision>> {
        self.components.values()
    }

    /// Why the newest builds of some components are not live.
    pub fn problems(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.problems.values()
    }

    /// This catalog with `revision` in the place of the component's last one.
    pub fn with(&self, revision: Revision) -> Result<Self, LoadError> {
        let name = revision.name.as_str().to_owned();
        if let Some(before) = self.components.get(&name)
            && before.origin != revision.origin
        {
            return Err(LoadError::ComponentTaken { name, owner: describe(&before.origin) });
        }
        let mut next = self.without(&name);
        for tool in &revision.tools {
            if let Some(owner) = next.tools.insert(tool.name.clone(), Arc::clone(tool)) {
                return Err(LoadError::NameTaken { tool: tool.name.to_string(), owner: owner.component.to_string() });
            }
        }
        next.components.insert(name, Arc::new(revision));
        Ok(next)
    }

    /// This catalog without a component and its problem.
    pub fn without(&self, component: &str) -> Self {
        let mut next = self.clone_maps();
        next.problems.remove(component);
        if next.components.remove(component).is_some() {
            next.tools.retain(|_, tool| &*tool.component != component);
        }
        next
    }

    /// This catalog with a problem noted.
    pub fn with_problem(&self, problem: Problem) -> Self {
        let mut next = self.clone_maps();
        next.problems.insert(problem.component.clone(), problem);
        next
    }

    fn clone_maps(&self) -> Self {
        Self { components: self.components.clone(), tools: self.tools.clone(), problems: self.problems.clone() }
    }

    /// Whether a client that knows `other` would see no difference.
    pub fn lists_the_same(&self, other: &Self) -> bool {
        self.tools.len() == other.tools.len()
            && self.tools.values().zip(other.tools.values()).all(|(a, b)| Arc::ptr_eq(a, b) || a.lists_the_same(b))
    }
}

/// Where a component is from, for an error.
fn describe(origin: &Origin) -> String {
    match origin {
        Origin::BuiltIn => "this program itself".to_owned(),
        Origin::File(path) => path.display().to_string(),
    }
}
