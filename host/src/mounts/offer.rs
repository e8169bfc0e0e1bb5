//! A peer's list as tools of a mount: every name, text and schema is checked as a component's, and a tool that breaks a bound is refused by name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    record::{MAX_MOUNTED_TOOLS, MountName},
    route::ToolRoute,
    watch::PeerListing,
};
use crate::{
    capability::bindings::exports::mcpp::tool::tools::{Annotations, Tool as ToolListing},
    limits::Limits,
    mcp::mesh::remote::{Remotes, list::PeerTool},
    memory::{Account, MemoryUse, Reservation},
    names::{ToolName, ToolPattern},
    registry::{
        catalog::mounted::owner,
        tool::{Powers, Tool, ToolTarget},
    },
    reload::accept::{face::ToolFace, text::escaped},
};

/// Refused tools of one peer that are named.
const MAX_REFUSED: usize = 10;
/// The longest name that is repeated, in characters.
const MAX_SHOWN_NAME: usize = 80;
/// The longest reason that is told, in characters.
const MAX_REASON: usize = 300;

/// A tool that may be served.
#[derive(Debug)]
pub(super) struct OfferedTool {
    /// As the peer wrote it.
    pub(super) written: PeerTool,
    /// As clients read it.
    pub(super) face: ToolFace,
    /// As it is called here.
    pub(super) tool: Arc<Tool>,
    _memory: Reservation,
}

/// The tools of one peer for one mount, by their names there.
#[derive(Debug, Default)]
pub(super) struct MountOffer {
    /// The list of which they are.
    pub(super) listing: Option<Arc<PeerListing>>,
    pub(super) tools: BTreeMap<ToolName, Arc<OfferedTool>>,
    /// Tools that are refused, and why.
    pub(super) refused: Vec<String>,
}

/// Makes the tools of one mount.
#[derive(Debug)]
pub(super) struct ToolMaker {
    mount: MountName,
    patterns: Vec<ToolPattern>,
    powers: Arc<Powers>,
    limits: Limits,
    account: Arc<Account>,
    remotes: Remotes,
    /// One route a tool, whichever peers serve it. At most those that were accepted or are offered now.
    routes: Mutex<BTreeMap<ToolName, Arc<ToolRoute>>>,
}

impl ToolMaker {
    pub(super) fn new(
        mount: MountName,
        patterns: Vec<ToolPattern>,
        limits: Limits,
        account: Arc<Account>,
        remotes: Remotes,
    ) -> Self {
        let powers = Arc::new(Powers::none(mount.component().clone()));
        Self { mount, patterns, powers, limits, account, remotes, routes: Mutex::default() }
    }

    /// The way to a tool.
    pub(super) fn route(&self, tool: &ToolName) -> Arc<ToolRoute> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let route = routes.entry(tool.clone());
        Arc::clone(route.or_insert_with(|| Arc::new(ToolRoute::new(self.remotes.clone(), tool.clone()))))
    }

    /// Forgets the ways to tools that `keep` does not name.
    pub(super) fn keep_routes(&self, keep: impl Fn(&ToolName) -> bool) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).retain(|tool, _| keep(tool));
    }

    /// The tools of a list that the mount wants. Those that stand there as `before` are not made again. Blocks for as long as their schemas take.
    pub(super) fn read(&self, listing: &Arc<PeerListing>, before: &MountOffer) -> MountOffer {
        let mut offer = MountOffer { listing: Some(Arc::clone(listing)), ..MountOffer::default() };
        let mut refused = 0_usize;
        let wanted = listing.tools.iter().filter(|tool| self.wants(&tool.name));
        for written in wanted {
            let known = |name: &ToolName| before.tools.get(name).filter(|known| known.written == *written).cloned();
            let made = ToolName::new(&written.name)
                .map_err(|_| "its name is not 1 to 128 characters of `A-Z`, `a-z`, `0-9`, `_`, `.` and `-`".to_owned())
                .and_then(|name| {
                    if offer.tools.contains_key(&name) {
                        return Err("it is listed twice".to_owned());
                    }
                    if offer.tools.len() >= MAX_MOUNTED_TOOLS {
                        return Err(format!("a mount has at most {MAX_MOUNTED_TOOLS} tools"));
                    }
                    let tool = known(&name).map_or_else(|| self.make(&name, written).map(Arc::new), Ok)?;
                    Ok((name, tool))
                });
            match made {
                Ok((name, tool)) => drop(offer.tools.insert(name, tool)),
                Err(reason) => {
                    refused = refused.saturating_add(1);
                    if refused <= MAX_REFUSED {
                        let name: String = written.name.chars().take(MAX_SHOWN_NAME).collect();
                        let reason: String = reason.chars().take(MAX_REASON).collect();
                        offer.refused.push(format!("tool \"{}\": {}", escaped(&name), escaped(&reason)));
                    }
                }
            }
        }
        if refused > MAX_REFUSED {
            offer.refused.push(format!("{} tools more", refused.saturating_sub(MAX_REFUSED)));
        }
        offer
    }

    fn wants(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches_text(name))
    }

    /// Checks one tool, and makes it.
    pub(super) fn make(&self, name: &ToolName, written: &PeerTool) -> Result<OfferedTool, String> {
        let mounted = self.mount.of_tool(name).ok_or("with the mount's name before it, its name is too long")?;
        let PeerTool { title, description, input_schema, output_schema, hints, .. } = written.clone();
        let annotations = Annotations {
            read_only: hints.read_only_hint,
            destructive: hints.destructive_hint,
            idempotent: hints.idempotent_hint,
            open_world: hints.open_world_hint,
        };
        let listing =
            ToolListing { name: name.to_string(), title, description, input_schema, output_schema, annotations };
        let target = ToolTarget::Remote(self.route(name));
        let mut tool =
            Tool::new(&self.powers, mounted, listing, target, self.limits).map_err(|error| error.to_string())?;
        tool.component = owner(self.mount.as_str()).into();
        let memory = self.account.reserve(MemoryUse::Code, tool.schema_bytes());
        let memory = memory.map_err(|full| format!("this tenant has no memory for its schemas: {full}"))?;
        Ok(OfferedTool { written: written.clone(), face: ToolFace::of(&tool), tool: Arc::new(tool), _memory: memory })
    }
}
