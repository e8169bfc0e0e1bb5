//! `mcpp:delegation`: the rights of a caller, kept by a component for work that it does after the caller's call has ended, and calls within them.
//!
//! The key of an effect goes to the called tool, and with its requests to servers, so that a repetition has no second effect.
//!
//! A bound only takes away: the nested call may do what the running call may and what the bound allows. So a bound needs no seal, and a component gains nothing by making one up.

use std::time::Duration;

use bytes::Bytes;
use wasmtime::component::Linker;

use super::{
    endpoint::{CallBounds, EndpointView},
    store::store_key,
};
use crate::{
    call::{build::BuildId, effect::EffectKey},
    capability::{
        bindings::mcpp::{
            delegation::{
                idempotency,
                rights::{self, CallError, LimitedError, ToolResult},
            },
            endpoint::call,
        },
        state::{Running, State},
    },
    memory::MemoryUse,
    names::{ToolName, ToolPattern},
};

/// Most entries of a bound: as many as a token's list of tools may have.
pub(super) const MAX_TOOLS: usize = 1_000;

/// Longest name of an effect, in bytes.
const MAX_EFFECT_BYTES: usize = 512;

/// Links the key of the running call's effect, which every component has.
pub(super) fn link_idempotency(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    idempotency::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)
}

/// Links the rights.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    rights::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)?;
    super::builds::link(linker)
}

impl rights::Host for EndpointView<'_> {
    fn tools(&mut self) -> wasmtime::Result<Option<Vec<String>>> {
        let tools = self.running.and_then(|running| running.principal.tools.as_ref());
        Ok(tools.map(|tools| tools.iter().cloned().map(String::from).collect()))
    }

    fn describe(&mut self, tool: String) -> wasmtime::Result<Option<rights::Description>> {
        Ok(self.description(&tool, &[]))
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
        self.nested(tool, arguments, CallBounds { tools, timeout, ..CallBounds::default() }).await
    }

    async fn call_under(
        &mut self,
        terms: rights::Terms,
        tool: String,
        arguments: String,
    ) -> wasmtime::Result<Result<ToolResult, CallError>> {
        match self.bounds(terms) {
            Ok(bounds) => self.nested(tool, arguments, bounds).await,
            Err(reason) => Ok(Err(call::CallError::InvalidArguments(reason))),
        }
    }

    async fn call_until(
        &mut self,
        terms: rights::Terms,
        limits: rights::Limits,
        tool: String,
        arguments: String,
    ) -> wasmtime::Result<Result<ToolResult, LimitedError>> {
        let invalid = |reason| Ok(Err(LimitedError::Other(call::CallError::InvalidArguments(reason))));
        let Some(running) = self.running else { return Ok(Err(LimitedError::Other(call::CallError::NotFound))) };
        let entry = match limits.entry {
            None => None,
            Some(_) if running.store.is_none() => return invalid("this component has no store".to_owned()),
            Some(entry) => match store_key(&entry.key) {
                Some(key) => Some((key, entry.version)),
                None => return invalid("the key of `entry` is none of a store".to_owned()),
            },
        };
        let bounds = match self.bounds(terms) {
            Ok(bounds) => bounds,
            Err(reason) => return invalid(reason),
        };
        let limits = CallLimits { entry, host_stops: limits.host_stops };
        self.until(bounds, early(running, &limits), tool, arguments).await
    }

    fn host_stops(&mut self) -> wasmtime::Result<bool> {
        Ok(self.running.is_some_and(|running| running.stopping.is_cancelled()))
    }
}

impl EndpointView<'_> {
    /// What the catalog says of a tool, of the one of these builds that has it.
    pub(super) fn description(&self, tool: &str, builds: &[BuildId]) -> Option<rights::Description> {
        let running = self.running?;
        let tool = ToolName::new(tool).ok().filter(|tool| running.may_call(tool))?;
        let schemas = running.dispatch.describe(&running.principal, &tool, builds)?;
        let bytes = schemas.input.len().saturating_add(schemas.output.as_ref().map_or(0, String::len));
        // While the guest takes them over.
        let held = self.control.memory().reserve(MemoryUse::Messages, u64::try_from(bytes).unwrap_or(u64::MAX));
        let _until_they_are_handed_over = held.ok()?;
        Some(rights::Description { input_schema: schemas.input, output_schema: schemas.output })
    }

    async fn until(
        &mut self,
        bounds: CallBounds,
        early: impl Future<Output = LimitedError>,
        tool: String,
        arguments: String,
    ) -> wasmtime::Result<Result<ToolResult, LimitedError>> {
        let cancel = self.control.cancel_token().child_token();
        let bounds = CallBounds { cancel: Some(cancel.clone()), ..bounds };
        let mut calling = std::pin::pin!(self.nested(tool, arguments, bounds));
        let why = tokio::select! {
            biased;
            answer = &mut calling => return Ok(answer?.map_err(LimitedError::Other)),
            why = early => why,
        };
        cancel.cancel();
        // The called guest stops from inside; what it has answered before stays its answer.
        Ok(match calling.await? {
            Ok(result) => Ok(result),
            Err(call::CallError::Failed(result)) => Err(LimitedError::Other(call::CallError::Failed(result))),
            Err(_of_the_cancellation) => Err(why),
        })
    }
}

/// Resolves when one of the limits ends a call; with the reason.
async fn early(running: &Running, limits: &CallLimits) -> LimitedError {
    let changed = async {
        match (&limits.entry, &running.store) {
            (Some((key, version)), Some(access)) => {
                // Without the store nobody knows: the call goes on.
                if access.store.wait(&access.space, key, *version).await.is_err() {
                    std::future::pending().await
                }
            }
            _ => std::future::pending().await,
        }
    };
    let stopping = async {
        match limits.host_stops {
            true => running.stopping.cancelled().await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = changed => LimitedError::Changed,
        () = stopping => LimitedError::HostStops,
    }
}

/// The limits of a call, with the store's own key.
struct CallLimits {
    entry: Option<(Bytes, u64)>,
    host_stops: bool,
}

impl idempotency::Host for EndpointView<'_> {
    fn key(&mut self) -> wasmtime::Result<Option<String>> {
        let key = self.running.and_then(|running| running.effects.key());
        Ok(key.map(|key| key.to_string()))
    }
}

impl EndpointView<'_> {
    pub(super) fn bounds(&self, terms: rights::Terms) -> Result<CallBounds, String> {
        let tools = terms.tools.map(patterns).transpose()?;
        let timeout = terms.timeout_ms.map(Duration::from_millis);
        let effect = terms.effect.map(|effect| self.effect(&effect)).transpose()?.flatten();
        Ok(CallBounds { tools, timeout, effect, ..CallBounds::default() })
    }

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
