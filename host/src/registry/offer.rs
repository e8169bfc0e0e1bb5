//! Which of a component's tools are offered, and under which names: as it gives them, unless the operator's grant says otherwise.

use std::collections::BTreeSet;

use super::error::InstallError;
use crate::{
    grants::ComponentGrant,
    guest::component::LoadedTool,
    names::{ComponentName, ToolName},
};

/// Longest name that is repeated in an error, in characters.
const MAX_SHOWN: usize = 160;

/// The tools that `grant` lets `component` offer, with their names. A grant that names a tool that is not there is an error: the operator meant another.
pub(super) fn offered(
    component: &ComponentName,
    tools: Vec<LoadedTool>,
    grant: &ComponentGrant,
) -> Result<Vec<(ToolName, LoadedTool)>, InstallError> {
    check(&tools, grant)?;
    let exposed = |name: &str| grant.expose.as_ref().is_none_or(|all| all.iter().any(|one| one.matches_text(name)));
    let mut taken = BTreeSet::new();
    let named = tools.into_iter().filter(|tool| exposed(&tool.listing.name)).map(|tool| {
        let own = &tool.listing.name;
        let refuse = |reason: String| InstallError::ToolName {
            tool: own.chars().take(MAX_SHOWN).collect(),
            reason,
            component: component.clone(),
        };
        let name = match grant.rename.get(own) {
            Some(renamed) => renamed.clone(),
            None => ToolName::new(own).map_err(|error| refuse(error.to_string()))?,
        };
        if !taken.insert(name.clone()) {
            return Err(refuse(format!("another of its tools is called `{name}` too")));
        }
        Ok((name, tool))
    });
    named.collect()
}

fn check(tools: &[LoadedTool], grant: &ComponentGrant) -> Result<(), InstallError> {
    let exposed = grant.expose.iter().flatten().filter_map(|pattern| Some(("expose", pattern.exact()?)));
    let mut named = exposed.chain(grant.rename.keys().map(|tool| ("rename", tool.as_str())));
    match named.find(|(_, named)| !tools.iter().any(|tool| tool.listing.name == *named)) {
        None => Ok(()),
        Some((key, tool)) => Err(InstallError::NoSuchTool {
            key,
            tool: tool.chars().take(MAX_SHOWN).collect(),
            known: tools.iter().map(|tool| tool.listing.name.chars().take(MAX_SHOWN).collect()).collect(),
        }),
    }
}
