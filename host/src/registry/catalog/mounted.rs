//! Tools of other hosts in a catalog, beside those of components. A component's tool keeps its name; the mount's is left out then, and a problem says so.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use super::{Catalog, Problem};
use crate::{guest::component::Origin, registry::tool::Tool};

/// Names that one problem lists.
const MAX_NAMED: usize = 10;

/// Tools of other hosts under one name.
#[derive(Debug)]
pub struct MountedTools {
    /// The name of the mount.
    pub mount: Arc<str>,
    /// Its tools, by the names that they have here.
    pub tools: Vec<Arc<Tool>>,
    /// Why some of its tools are not there.
    pub problem: Option<String>,
}

/// How problems and tools name a mount. No component is called so.
pub fn owner(mount: &str) -> String {
    format!("mount {mount}")
}

impl Catalog {
    /// This catalog with a mount's tools in the place of those that it had.
    pub(in crate::registry) fn with_mount(&self, mounted: MountedTools) -> Self {
        let mut next = self.of_components();
        next.mounts.insert(Arc::clone(&mounted.mount), Arc::new(mounted));
        next.with_mounts()
    }

    /// This catalog without a mount.
    pub(in crate::registry) fn without_mount(&self, mount: &str) -> Self {
        let mut next = self.of_components();
        next.mounts.remove(mount);
        next.with_mounts()
    }

    /// The tools of a mount that have no place, as something else has their names.
    pub fn hidden(&self, mount: &str) -> Vec<&Arc<Tool>> {
        let mounted = self.mounts.get(mount).into_iter().flat_map(|mounted| &mounted.tools);
        mounted.filter(|tool| !self.tools.get(&tool.name).is_some_and(|live| Arc::ptr_eq(live, tool))).collect()
    }

    /// This catalog with the tools and problems of components alone. It still knows the mounts.
    pub(super) fn of_components(&self) -> Self {
        let mut next = self.clone_maps();
        next.tools.retain(|_, tool| !tool.is_of_host());
        if !next.mounts.is_empty() {
            let owners: BTreeSet<String> = next.mounts.keys().map(|mount| owner(mount)).collect();
            next.tools.retain(|_, tool| !owners.contains(&*tool.component));
            next.problems.retain(|owner, _| !owners.contains(owner));
        }
        next
    }

    /// This catalog with the host's own tools, if it has a tool for which they are there. Other tools keep their names.
    pub(in crate::registry) fn with_host_tools(mut self, tools: &[Arc<Tool>]) -> Self {
        self.tools.retain(|_, tool| !tool.is_of_host());
        if self.tools.values().any(|tool| tool.is_long()) {
            for tool in tools {
                self.tools.entry(tool.name.clone()).or_insert_with(|| Arc::clone(tool));
            }
        }
        self
    }

    /// This catalog of components with the tools and problems of its mounts.
    pub(super) fn with_mounts(mut self) -> Self {
        let mounts: Vec<Arc<MountedTools>> = self.mounts.values().cloned().collect();
        for mounted in mounts {
            let mut taken = Vec::new();
            for tool in &mounted.tools {
                match self.tools.get(&tool.name) {
                    Some(other) => taken.push(format!("`{}` (of {})", tool.name, other.component)),
                    None => drop(self.tools.insert(tool.name.clone(), Arc::clone(tool))),
                }
            }
            let problems = mounted.problem.iter().cloned().chain(names_taken(&taken));
            let problems = problems.collect::<Vec<_>>().join("; ");
            if !problems.is_empty() {
                let component = owner(&mounted.mount);
                let since = SystemTime::now();
                let problem = Problem { component: component.clone(), origin: Origin::Mount, error: problems, since };
                self.problems.insert(component, problem);
            }
        }
        self
    }
}

fn names_taken(taken: &[String]) -> Option<String> {
    let more = taken.len().saturating_sub(MAX_NAMED);
    let named = taken.iter().take(MAX_NAMED).cloned().chain((more > 0).then(|| format!("{more} more")));
    let named = named.collect::<Vec<_>>().join(", ");
    (!taken.is_empty()).then(|| format!("names that are taken here: {named}; mount the host under another name"))
}
