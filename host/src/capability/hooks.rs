//! `mcpp:hooks`: tokens with which somebody outside may call a tool of the component once.

use wasmtime::component::Linker;

use super::endpoint::EndpointView;
use crate::{
    call::hook::HookTarget,
    capability::{bindings::mcpp::hooks::tokens, state::State},
    names::{ComponentName, ToolName},
};

/// Links them.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    tokens::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)
}

impl tokens::Host for EndpointView<'_> {
    fn token(&mut self, tool: String, name: String) -> wasmtime::Result<Option<String>> {
        let Some(running) = self.running else { return Ok(None) };
        let token = || {
            let (hooks, incarnation) = running.hooks.as_ref()?;
            let component = ComponentName::new(&running.component).ok()?;
            let target =
                HookTarget { tenant: running.principal.tenant.clone(), component, tool: ToolName::new(&tool).ok()? };
            hooks.token(&target, incarnation, &name)
        };
        Ok(token())
    }
}
