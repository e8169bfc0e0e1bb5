//! `mcpp:delegation`: the rights of a caller, kept by a component for work that it does after the caller's call has ended, and calls within them.
//!
//! A bound only takes away: the nested call may do what the running call may and what the bound allows. So a bound needs no seal, and a component gains nothing by making one up.

use std::time::Duration;

use wasmtime::component::Linker;

use super::endpoint::{CallBounds, EndpointView};
use crate::{
    capability::{
        bindings::mcpp::{
            delegation::rights::{self, CallError, ToolResult},
            endpoint::call,
        },
        state::State,
    },
    memory::MemoryUse,
    names::{ToolName, ToolPattern},
};

/// Most entries of a bound: as many as a token's list of tools may have.
const MAX_TOOLS: usize = 1_000;

/// Links the rights.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    rights::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)
}

impl rights::Host for EndpointView<'_> {
    fn tools(&mut self) -> wasmtime::Result<Option<Vec<String>>> {
        let tools = self.running.and_then(|running| running.principal.tools.as_ref());
        Ok(tools.map(|tools| tools.iter().cloned().map(String::from).collect()))
    }

    fn describe(&mut self, tool: String) -> wasmtime::Result<Option<rights::Description>> {
        let Some(running) = self.running else { return Ok(None) };
        let Ok(tool) = ToolName::new(&tool) else { return Ok(None) };
        if !running.may_call.iter().any(|pattern| pattern.matches(&tool)) {
            return Ok(None);
        }
        let Some(schemas) = running.dispatch.describe(&running.principal, &tool) else { return Ok(None) };
        let bytes = schemas.input.len().saturating_add(schemas.output.as_ref().map_or(0, String::len));
        // While the guest takes them over.
        let held = self.control.memory().reserve(MemoryUse::Messages, u64::try_from(bytes).unwrap_or(u64::MAX));
        let Ok(_until_they_are_handed_over) = held else { return Ok(None) };
        Ok(Some(rights::Description { input_schema: schemas.input, output_schema: schemas.output }))
    }

    async fn call_within(
        &mut self,
        tools: Option<Vec<String>>,
        timeout_ms: Option<u64>,
        tool: String,
        arguments: String,
    ) -> wasmtime::Result<Result<ToolResult, CallError>> {
        let tools = match tools.map(patterns).transpose() {
            Ok(tools) => tools,
            Err(reason) => return Ok(Err(call::CallError::InvalidArguments(reason))),
        };
        self.nested(tool, arguments, CallBounds { tools, timeout: timeout_ms.map(Duration::from_millis) }).await
    }
}

/// The patterns of a bound.
fn patterns(tools: Vec<String>) -> Result<Vec<ToolPattern>, String> {
    if tools.len() > MAX_TOOLS {
        return Err(format!("`tools` has {} entries; at most {MAX_TOOLS} are allowed", tools.len()));
    }
    tools.into_iter().map(ToolPattern::try_from).collect()
}
