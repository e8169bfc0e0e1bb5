//! Builds in a catalog that another has taken the place of, and that somebody has pinned: they serve calls that name them, and nothing else.
//!
//! Such a build serves only while its component is live, on data of the format that the live build has. So an operator who takes the component away takes all of its builds away.

use std::sync::Arc;

use super::{Catalog, Revision};
use crate::{
    call::{CallError, build::BuildId},
    names::ToolName,
    registry::tool::Tool,
};

impl Revision {
    /// Which build it is.
    pub fn build(&self) -> BuildId {
        BuildId { component: self.name.clone(), digest: self.digest.clone() }
    }
}

impl Catalog {
    /// The builds that others have taken the place of, and that are there all the same.
    pub fn pinned(&self) -> impl Iterator<Item = &Arc<Revision>> {
        self.pinned.values()
    }

    /// Whether a build is there, live or not.
    pub fn has_build(&self, build: &BuildId) -> bool {
        self.pinned.contains_key(build)
            || self.components.get(build.component.as_str()).is_some_and(|live| live.digest == build.digest)
    }

    /// A build that can be called; else why it cannot.
    fn build(&self, build: &BuildId) -> Result<&Arc<Revision>, &'static str> {
        let live = self.components.get(build.component.as_str()).ok_or("the component is not there any more")?;
        if live.digest == build.digest {
            return Ok(live);
        }
        let pinned = self.pinned.get(build).ok_or("the build is not loaded; the host's log says why")?;
        match pinned.format() == live.format() {
            true => Ok(pinned),
            false => Err("the component's data has another format now"),
        }
    }

    /// The tool of this name, of the build that has it. Tools of other hosts and of the host itself are always today's.
    pub fn tool_on(&self, builds: &[BuildId], name: &ToolName) -> Option<Arc<Tool>> {
        if builds.is_empty() {
            return self.tool(name);
        }
        let of = |build: &BuildId| self.build(build).ok()?.tools.iter().find(|tool| tool.name == *name);
        let today = || self.tool(name).filter(|tool| !self.components.contains_key(&*tool.component));
        builds.iter().find_map(of).cloned().or_else(today)
    }

    /// Why there is no such tool for a caller that names builds.
    pub fn why_gone(&self, builds: &[BuildId], name: &ToolName) -> CallError {
        let gone = builds.iter().find_map(|build| Some((build, self.build(build).err()?)));
        match gone {
            _ if builds.is_empty() => CallError::UnknownTool(name.clone()),
            Some((build, why)) => CallError::BuildGone { tool: name.clone(), reason: format!("{build}: {why}") },
            None => CallError::BuildGone { tool: name.clone(), reason: "none of its builds has this tool".into() },
        }
    }

    /// This catalog with a build that is not live.
    pub(in crate::registry) fn with_pinned(&self, revision: Arc<Revision>) -> Self {
        let mut next = self.clone_maps();
        next.pinned.insert(revision.build(), revision);
        next
    }

    /// This catalog without a component, and without all of its builds.
    pub(in crate::registry) fn without_all(&self, component: &str) -> Self {
        let mut next = self.without(component);
        next.pinned.retain(|build, _| build.component.as_str() != component);
        next
    }

    /// This catalog without builds that nobody needs, or that are live.
    pub(in crate::registry) fn without_unneeded(mut self, is_held: impl Fn(&BuildId) -> bool) -> Self {
        let components = &self.components;
        let is_live =
            |build: &BuildId| components.get(build.component.as_str()).is_some_and(|live| live.digest == build.digest);
        self.pinned.retain(|build, _| is_held(build) && !is_live(build));
        self
    }
}
