//! `mcpp:delegation`: the rights of a caller, kept by a component for work that it does after the caller's call has ended, and calls within them.
//!
//! The key of an effect goes to the called tool, and with its requests to servers, so that a repetition has no second effect.
//!
//! A bound only takes away: the nested call may do what the running call may and what the bound allows. So a bound needs no seal, and a component gains nothing by making one up.

use std::time::Duration;

use wasmtime::component::Linker;

use super::endpoint::{CallBounds, EndpointView};
use crate::{
    call::effect::EffectKey,
    capability::{
        bindings::mcpp::{
            delegation::{
                idempotency,
                rights::{self, CallError, ToolResult},
            },
            endpoint::call,
        },
        state::{Running, State},
    },
    memory::MemoryUse,
    names::{ToolName, ToolPattern},
};

/// Most entries of a bound: as many as a token's list of tools may have.
const MAX_TOOLS: usize = 1_000;

/// Longest name of an effect, in bytes.
const MAX_EFFECT_BYTES: usize = 512;

/// Links the key of the running call's effect, which every component has.
pub(super) fn link_idempotency(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    idempotency::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)
}

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
        let timeout = timeout_ms.map(Duration::from_millis);
        self.nested(tool, arguments, CallBounds { tools, timeout, effect: None }).await
    }

    async fn call_under(
        &mut self,
        terms: rights::Terms,
        tool: String,
        arguments: String,
    ) -> wasmtime::Result<Result<ToolResult, CallError>> {
        let bounds = terms.tools.map(patterns).transpose().and_then(|tools| {
            let timeout = terms.timeout_ms.map(Duration::from_millis);
            let effect = terms.effect.map(|effect| self.effect(&effect)).transpose()?.flatten();
            Ok(CallBounds { tools, timeout, effect })
        });
        match bounds {
            Ok(bounds) => self.nested(tool, arguments, bounds).await,
            Err(reason) => Ok(Err(call::CallError::InvalidArguments(reason))),
        }
    }
}

impl idempotency::Host for EndpointView<'_> {
    fn key(&mut self) -> wasmtime::Result<Option<String>> {
        let key = self.running.and_then(|running| running.effects.key());
        Ok(key.map(|key| key.to_string()))
    }
}

impl EndpointView<'_> {
    /// The key of an effect that the component names.
    fn effect(&self, named: &str) -> Result<Option<EffectKey>, String> {
        if !(1..=MAX_EFFECT_BYTES).contains(&named.len()) {
            return Err(format!("`effect` has {} bytes; it has 1 to {MAX_EFFECT_BYTES}", named.len()));
        }
        let of = |running: &Running| EffectKey::named(&running.principal.tenant, &running.component, named);
        Ok(self.running.map(of))
    }
}

/// The patterns of a bound.
fn patterns(tools: Vec<String>) -> Result<Vec<ToolPattern>, String> {
    if tools.len() > MAX_TOOLS {
        return Err(format!("`tools` has {} entries; at most {MAX_TOOLS} are allowed", tools.len()));
    }
    tools.into_iter().map(ToolPattern::try_from).collect()
}
