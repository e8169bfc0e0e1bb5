//! `mcpp:delegation/builds`: builds that a component pins, and calls of their tools after others have taken their place.
//!
//! A pin gives no power: the call may do what a call of today's tool may, and the build has the grant of its component.

use wasmtime::component::Linker;

use super::{
    delegation::MAX_TOOLS,
    endpoint::{CallBounds, EndpointView},
};
use crate::{
    call::{
        build::{BuildId, MAX_PINNED, PinError},
        place::{CallPlace, PlaceNote},
    },
    capability::{
        bindings::mcpp::{
            delegation::builds::{self, Build, CallError, Description, Place, PlacedCall, ToolResult},
            endpoint::call,
        },
        state::State,
    },
    names::{ComponentName, ToolName},
};

/// What a pin, or a pin given back, costs of the budget of the store's bytes: either may flush files to the disk.
const FLUSH_BYTES: usize = 8 << 10;

/// Links them.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    builds::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)
}

impl builds::Host for EndpointView<'_> {
    async fn pin(&mut self, tools: Vec<String>) -> wasmtime::Result<Result<Vec<Build>, builds::PinError>> {
        let Some(running) = self.running else { return Ok(Ok(Vec::new())) };
        if tools.len() > MAX_TOOLS {
            return Ok(Err(builds::PinError::TooMany(format!("{MAX_TOOLS} tools"))));
        }
        self.control.charge_store_op(FLUSH_BYTES)?;
        let mut names = Vec::with_capacity(tools.len());
        for tool in tools {
            match ToolName::new(&tool).ok().filter(|tool| running.may_call(tool)) {
                Some(name) => names.push(name),
                None => return Ok(Err(builds::PinError::NotFound(tool))),
            }
        }
        let pinned = running.dispatch.pin(&running.principal, &running.component, names);
        Ok(match self.control.wait(pinned).await? {
            Ok(pinned) => Ok(pinned.into_iter().map(Build::from).collect()),
            Err(PinError::UnknownTool(tool)) => Err(builds::PinError::NotFound(tool.to_string())),
            Err(PinError::TooMany(most)) => Err(builds::PinError::TooMany(most)),
            Err(PinError::Unavailable(reason)) => Err(builds::PinError::Unavailable(reason)),
        })
    }

    async fn unpin(&mut self, builds: Vec<Build>) -> wasmtime::Result<()> {
        let Some(running) = self.running else { return Ok(()) };
        self.control.charge_store_op(FLUSH_BYTES)?;
        let (tenant, builds) = (&running.principal.tenant, known(builds));
        self.control.wait(running.dispatch.unpin(tenant, &running.component, builds)).await
    }

    fn pinned(&mut self) -> wasmtime::Result<Vec<Build>> {
        let of =
            |running: &super::state::Running| running.dispatch.pinned(&running.principal.tenant, &running.component);
        Ok(self.running.map(of).unwrap_or_default().into_iter().map(Build::from).collect())
    }

    fn describe_on(&mut self, builds: Vec<Build>, tool: String) -> wasmtime::Result<Option<Description>> {
        Ok(self.description(&tool, &known(builds)))
    }

    async fn call_on(
        &mut self,
        terms: builds::Terms,
        builds: Vec<Build>,
        tool: String,
        arguments: String,
    ) -> wasmtime::Result<Result<ToolResult, CallError>> {
        match self.bounds(terms) {
            Ok(bounds) => self.nested(tool, arguments, CallBounds { builds: known(builds), ..bounds }).await,
            Err(reason) => Ok(Err(call::CallError::InvalidArguments(reason))),
        }
    }

    async fn call_placed(
        &mut self,
        terms: builds::Terms,
        builds: Vec<Build>,
        tool: String,
        arguments: String,
    ) -> wasmtime::Result<PlacedCall> {
        let place = PlaceNote::default();
        let answer = match self.bounds(terms) {
            Ok(bounds) => {
                let bounds = CallBounds { builds: known(builds), place: place.clone(), ..bounds };
                self.nested(tool, arguments, bounds).await?
            }
            Err(reason) => Err(call::CallError::InvalidArguments(reason)),
        };
        Ok(PlacedCall { answer, place: place.read().map(Place::from) })
    }
}

impl From<CallPlace> for Place {
    fn from(place: CallPlace) -> Self {
        match place {
            CallPlace::Here => Self::Here,
            CallPlace::Peer(peer) => Self::Peer(peer.to_string()),
        }
    }
}

/// The builds that can be ones: more than a tenant can have pinned is of no use.
fn known(builds: Vec<Build>) -> Vec<BuildId> {
    let known = builds.into_iter().take(MAX_PINNED);
    let known = known.filter_map(|Build { component, digest }| {
        Some(BuildId { component: ComponentName::new(&component).ok()?, digest })
    });
    known.collect()
}

impl From<BuildId> for Build {
    fn from(build: BuildId) -> Self {
        Self { component: build.component.into(), digest: build.digest }
    }
}
