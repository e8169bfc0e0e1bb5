//! The methods of tools, whichever way a request comes to them: through the protocol engine's handler or straight.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rmcp::model::{CallToolResult, ErrorData, ListToolsResult, Tool as WireTool};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    convert,
    handler::{Endpoint, RefusalSignal},
    inputs,
    parked::RequestBinding,
    running::{CallEvents, CallOutcome, DeferredHandle, GuestQuestions, HeardEvents, RunningCall},
    tasks::{
        deferred::Follower,
        plan::{TaskPlan, TaskWish},
    },
    written::{self, ResultWriter},
};
use crate::{
    call::{
        Call, CallError, LogLevel, Observer, Request, Session, ToolResult, TraceContext, authorize,
        effect::EffectKey,
        inputs::{Abilities, Ability, ClientLine},
        interface::InterfaceDigest,
        place::PlaceNote,
    },
    control::admission::Share,
    memory::boxed,
    names::{TenantId, ToolName},
    registry::catalog::Catalog,
    tenant::Principal,
};

/// By this a client asks in `_meta` for what the call cost, and finds it in the result's.
pub(super) const RECEIPT: &str = "mcpp/cost";
/// By this a client says in `_meta` how long it still waits, in milliseconds.
pub(super) const DEADLINE: &str = "mcpp/deadlineMs";
/// By this a host that hands on a call says in `_meta` over how many hosts it came.
pub(super) const HOPS: &str = "mcpp/hops";

/// By this it says how many handlers of events led to the call, each by the event of the one before: a loop of events over several hosts ends as one on a single host does.
pub(super) const CHAIN: &str = "mcpp/chain";

/// By this a host that hands on a call which it may repeat says what names the call's effect: 64 hexadecimal digits.
pub(super) const EFFECT: &str = "mcpp/effect";

/// By this a client says which interface of the tool it knows; a tool with another one is not called.
pub(super) const INTERFACE: &str = "mcpp/interface";

/// A client's request to a tool.
#[derive(Debug)]
pub(super) struct CallRequest {
    pub(super) tool: ToolName,
    /// A JSON object.
    pub(super) arguments: Value,
    /// The interface that the client knows, if it says one.
    pub(super) interface: Option<InterfaceDigest>,
    /// The least level of log records that the client wants; none if it wants none.
    pub(super) log_level: Option<LogLevel>,
    /// Whether it wants to be told of progress.
    pub(super) wants_progress: bool,
    /// Whether it wants to know what the call cost.
    pub(super) wants_receipt: bool,
    pub(super) trace: TraceContext,
    pub(super) session: Option<Session>,
    /// What the client may be asked.
    pub(super) abilities: Abilities,
    /// What the client says of tasks.
    pub(super) tasks: TaskWish,
    pub(super) way: WayHere,
}

/// What another host that hands on a call says of its way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WayHere {
    /// How long its caller still waits.
    pub(super) patience: Option<Duration>,
    /// The hosts over which it came.
    pub(super) hops: u8,
    /// The handlers of events that led to it.
    pub(super) chain: u32,
    /// What names its effect there.
    pub(super) effect: Option<EffectKey>,
}

impl WayHere {
    /// Reads four members of `_meta`; what is no number, or no key, says nothing.
    pub(super) fn read([deadline_ms, hops, chain, effect]: [Option<&Value>; 4]) -> Self {
        let hops = hops.and_then(Value::as_u64).map_or(0, |hops| u8::try_from(hops).unwrap_or(u8::MAX));
        let chain = chain.and_then(Value::as_u64).map_or(0, |chain| u32::try_from(chain).unwrap_or(u32::MAX));
        let effect = effect.and_then(Value::as_str).and_then(EffectKey::read);
        Self { patience: deadline_ms.and_then(Value::as_u64).map(Duration::from_millis), hops, chain, effect }
    }
}

/// Reads the interface that a client knows. One that is no digest is an error: else the call would reach any interface.
pub(super) fn read_interface(interface: Option<&Value>) -> Result<Option<InterfaceDigest>, ErrorData> {
    let Some(interface) = interface else { return Ok(None) };
    let digest = interface.as_str().and_then(InterfaceDigest::read);
    let wrong = || ErrorData::invalid_params(format!("`{INTERFACE}` is not 64 hexadecimal digits"), None);
    digest.map(Some).ok_or_else(wrong)
}

impl Endpoint {
    /// One page of the tools that `principal` may use.
    pub(super) async fn list_tools(
        &self,
        principal: &Principal,
        cursor: Option<&str>,
    ) -> Result<ListToolsResult, ErrorData> {
        let catalog = self.settled_catalog(&principal.tenant).await;
        self.page_of(&catalog, principal, cursor)
    }

    /// The tenant's catalog, once its tools are loaded.
    pub(super) async fn settled_catalog(&self, tenant: &TenantId) -> Arc<Catalog> {
        self.registry().settle(tenant).await;
        self.registry().catalog(tenant)
    }

    /// One page of the tools of `catalog` that `principal` may use.
    pub(super) fn page_of(
        &self,
        catalog: &Catalog,
        principal: &Principal,
        cursor: Option<&str>,
    ) -> Result<ListToolsResult, ErrorData> {
        let after = read_cursor(cursor)?;
        let page_size = self.page_size();
        let mut tools: Vec<WireTool> = catalog
            .tools_after(after.as_ref())
            .filter(|tool| tool.is_for(principal))
            .take(page_size.saturating_add(1))
            .map(|tool| convert::tool(tool))
            .collect();
        let more = tools.len() > page_size;
        tools.truncate(page_size);
        let mut result = ListToolsResult::with_all_items(tools);
        if more {
            result.next_cursor = result.tools.last().map(|tool| BASE64_URL_SAFE_NO_PAD.encode(tool.name.as_bytes()));
        }
        Ok(result)
    }

    /// Begins a call, which becomes a task if there is a plan for that.
    pub(super) fn begin_call(
        &self,
        principal: &Principal,
        request: CallRequest,
        plan: Option<TaskPlan>,
    ) -> Result<RunningCall, ErrorData> {
        let registry = self.registry();
        let hears = HeardEvents { log_level: request.log_level, progress: request.wants_progress };
        let (observer, events) = if request.log_level.is_some() || request.wants_progress || plan.is_some() {
            let account = registry.share(&principal.tenant).map(|share| Arc::clone(&share.memory));
            // Of a task the client may want to know later what it said.
            let least = request.log_level.map_or(LogLevel::Info, |level| level.min(LogLevel::Info));
            let level = if plan.is_some() { Some(least) } else { request.log_level };
            let (observer, events) = Observer::new(level, request.wants_progress || plan.is_some(), account);
            (observer, CallEvents::new(events))
        } else {
            (Observer::default(), CallEvents::default())
        };
        let (cancel, wants_receipt) = (CancellationToken::new(), request.wants_receipt);
        let CallRequest { tool, arguments, interface, trace, session, way, abilities, .. } = request;
        let (client, rounds) = ClientLine::new(abilities);
        let binding = rounds.is_some().then(|| RequestBinding::new(principal, "tools/call", tool.as_str(), &arguments));
        let request = Request {
            principal: principal.clone(),
            deadline: way.patience.and_then(|patience| Instant::now().checked_add(patience)),
            cancel: cancel.clone(),
            trace,
            observer,
            chain: way.chain,
            depth: 0,
            hops: way.hops,
            session,
            effect: way.effect.map(|effect| effect.of_caller(principal)),
            client: client.clone(),
            place: PlaceNote::default(),
        };
        // Somebody waits for an answer that comes later only where the client may wait.
        let deferring = plan.as_ref().filter(|plan| plan.defers);
        let follows = (registry, self.tasks());
        let follower = deferring.map(|plan| Follower::new(follows, &request, &tool, plan.user_waits_for()).telling());
        let call = authorize(Call { interface, ..Call::new(request, tool, arguments) })
            .map_err(|denied| ErrorData::invalid_request(denied.to_string(), None))?;
        let registry = registry.clone();
        let asked = GuestQuestions::new(client, rounds, binding);
        let Some((follower, handle)) = follower else {
            let outcome = boxed(|| async move { registry.call_metered(call).await });
            return Ok(RunningCall::new(outcome, events, cancel, asked, wants_receipt, (hears, plan)));
        };
        let outcome = boxed(|| async move {
            let (result, receipt) = registry.call_metered(call).await;
            match result {
                Ok(ToolResult { deferred: Some(handle), .. }) => (follower.follow(handle).await, receipt),
                result => (result, receipt),
            }
        });
        let mut running = RunningCall::new(outcome, events, cancel, asked, wants_receipt, (hears, plan));
        running.defers = DeferredHandle::new(handle);
        Ok(running)
    }
}

/// `outcome` in MCP's words. `writer`, if there is one, writes a large result aside; the function raises `signal` if the host refused the call or had to stop it. A tool that
/// failed because its client had not declared an ability is that error.
pub(super) async fn answer(
    (result, receipt): CallOutcome,
    wants_receipt: bool,
    undeclared: Option<Ability>,
    writer: Option<&ResultWriter>,
    share: Option<Arc<Share>>,
    signal: Option<&RefusalSignal>,
) -> Result<CallToolResult, ErrorData> {
    let mut wire = match result {
        Ok(result)
            if result.is_error
                && let Some(ability) = undeclared =>
        {
            return Err(inputs::undeclared(ability));
        }
        Ok(result) => written::result(result, writer, share).await,
        Err(error) => {
            let retry = error.retry_after().map(|after| (after, matches!(error, CallError::TooMany { .. })));
            if let Some(signal) = signal {
                signal.raise(retry);
            }
            convert::error(error)?
        }
    };
    if wants_receipt {
        wire.meta.get_or_insert_default().insert(RECEIPT.to_owned(), receipt.json());
    }
    Ok(wire)
}

fn read_cursor(cursor: Option<&str>) -> Result<Option<ToolName>, ErrorData> {
    let decode = |cursor: &str| {
        let name = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
        ToolName::new(std::str::from_utf8(&name).ok()?).ok()
    };
    match cursor {
        None => Ok(None),
        Some(cursor) => match decode(cursor) {
            Some(name) => Ok(Some(name)),
            None => Err(ErrorData::invalid_params("the cursor is not one that this server gave", None)),
        },
    }
}
