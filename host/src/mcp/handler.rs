//! MCP's methods, for both eras: the engine calls a [`ProtocolHandler`], which speaks to the registry.
//!
//! A handler belongs to one principal, taken from the door when the handler is made: once a session in the legacy era, once a request in the modern.

mod asking;

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use axum::http::request::Parts;
use rmcp::{
    RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult, CustomRequest, CustomResult,
        ErrorCode, ErrorData, Extensions, Implementation, InitializeRequestParams, InitializeResult, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
        ServerCapabilities, ServerConfig, SetLevelRequestParams, SubscriptionFilter, Tool as WireTool,
    },
    service::{NotificationContext, Peer, RequestContext, SubscriptionContext},
    transport::streamable_http_server::session::SessionRestoreMarker,
};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    convert,
    pages::ListPages,
    parked::{ParkedCalls, Resumed},
    running::RunningCall,
    session::Sessions,
    tools::{self, CHAIN, CallRequest, DEADLINE, EFFECT, HOPS, INTERFACE, RECEIPT, WayHere},
};
use crate::{
    call::{LogLevel, Session, TraceContext},
    names::ToolName,
    registry::Registry,
    tenant::{Principal, door::DoorPermit},
};

/// The state that all handlers of a host share.
#[derive(Debug, Clone)]
pub struct Endpoint(Arc<EndpointState>);

#[derive(Debug)]
struct EndpointState {
    registry: Registry,
    name: String,
    page_size: usize,
    pages: ListPages,
    parked: ParkedCalls,
}

impl Endpoint {
    /// An endpoint that serves `registry`'s tools under a name.
    pub fn new(registry: Registry, name: String, page_size: usize) -> Self {
        Self(Arc::new(EndpointState {
            registry,
            name,
            page_size,
            pages: ListPages::default(),
            parked: ParkedCalls::default(),
        }))
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(super) fn page_size(&self) -> usize {
        self.0.page_size
    }

    /// Pages of the list of tools that are kept as JSON.
    pub(super) fn pages(&self) -> &ListPages {
        &self.0.pages
    }

    /// Calls that wait for their clients' next request.
    pub(super) fn parked(&self) -> &ParkedCalls {
        &self.0.parked
    }

    pub(super) fn handler(&self, principal: Principal, sessions: Option<Arc<Sessions>>) -> ProtocolHandler {
        ProtocolHandler {
            endpoint: self.clone(),
            principal,
            sessions,
            session: Session::default(),
            log_level: Mutex::new(None),
            watch: Mutex::new(None),
        }
    }
}

/// Tells the door of a request that the host refused behind it, or of a call that the host had to stop. A refusal for lack of room also says when to try again, and whether the
/// caller calls too often.
#[derive(Debug, Clone, Default)]
pub(super) struct RefusalSignal(Arc<OnceLock<Option<(Duration, bool)>>>);

impl RefusalSignal {
    pub(super) fn raise(&self, retry: Option<(Duration, bool)>) {
        let _one_message_one_signal = self.0.set(retry);
    }

    pub(super) fn is_raised(&self) -> bool {
        self.0.get().is_some()
    }

    /// When to try again, and whether it was refused because the caller calls too often.
    pub(super) fn retry(&self) -> Option<(Duration, bool)> {
        self.0.get().copied().flatten()
    }
}

/// A call that runs already, on its way to the handler that takes it over.
#[derive(Debug, Clone)]
pub(super) struct HandedOver(Arc<Mutex<Option<RunningCall>>>);

impl HandedOver {
    pub(super) fn new(running: RunningCall) -> Self {
        Self(Arc::new(Mutex::new(Some(running))))
    }

    fn take(extensions: &Extensions) -> Option<RunningCall> {
        extension::<Self>(extensions)?.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A value that the door gave along with a request.
fn extension<T: Send + Sync + 'static>(extensions: &Extensions) -> Option<&T> {
    extensions.get::<Parts>()?.extensions.get::<T>()
}

/// The methods, for one principal.
#[derive(Debug)]
pub(super) struct ProtocolHandler {
    endpoint: Endpoint,
    principal: Principal,
    sessions: Option<Arc<Sessions>>,
    /// The client's session where it is the connection.
    session: Session,
    /// The least level that a legacy client asked for; kept in the session's record too, where there is one.
    log_level: Mutex<Option<LogLevel>>,
    /// Ends the watch for changes of the tool list when the session ends.
    watch: Mutex<Option<DropGuard>>,
}

impl ProtocolHandler {
    fn registry(&self) -> &Registry {
        &self.endpoint.0.registry
    }

    /// The least level of log records that this request's client wants.
    fn log_level(&self, context: &RequestContext<RoleServer>) -> Option<LogLevel> {
        if is_modern(context) {
            return context.meta.log_level().map(convert::from_level);
        }
        let chosen = *self.log_level.lock().unwrap_or_else(PoisonError::into_inner);
        let recorded = || self.sessions.as_ref()?.log_level(&session_id(context)?);
        Some(chosen.or_else(recorded).unwrap_or(LogLevel::Info))
    }

    /// Makes room at the tenant's door for a call that may take its time. One of what is not there stands in its line to the end; one of what is still loaded does not: of those there is
    /// a bound.
    fn leave_door(&self, tool: &ToolName, context: &RequestContext<RoleServer>) {
        let (registry, tenant) = (self.registry(), &self.principal.tenant);
        if (registry.catalog(tenant).tool(tool).is_some() || !registry.is_opened(tenant))
            && let Some(place) = extension::<DoorPermit>(&context.extensions)
        {
            place.leave();
        }
    }

    /// The session that the request is in; the modern era has none.
    fn session(&self, context: &RequestContext<RoleServer>) -> Option<Session> {
        match &self.sessions {
            _ if is_modern(context) => None,
            Some(sessions) => sessions.session(&session_id(context)?),
            None => Some(self.session.clone()),
        }
    }

    /// Tells a legacy client about every change of its tool list until its session ends.
    fn watch_tools(&self, peer: Peer<RoleServer>, session: Option<String>, known: Option<u64>) {
        let alive = CancellationToken::new();
        let mut changes = self.registry().watch(&self.principal.tenant);
        let sessions = self.sessions.clone();
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(alive.clone().drop_guard());
        tokio::spawn(async move {
            let mut told = known.unwrap_or(*changes.borrow_and_update());
            loop {
                let current = *changes.borrow_and_update();
                if current != told && peer.notify_tool_list_changed().await.is_err() {
                    return;
                }
                told = current;
                if let (Some(sessions), Some(session)) = (&sessions, &session) {
                    sessions.set_generation(session, told);
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = alive.cancelled() => return,
                }
            }
        });
    }
}

fn is_modern(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

fn unknown_method(method: &str) -> ErrorData {
    ErrorData::new(ErrorCode::METHOD_NOT_FOUND, format!("unknown method `{method}`"), None)
}

fn session_id(context: &RequestContext<RoleServer>) -> Option<String> {
    let parts = context.extensions.get::<Parts>()?;
    Some(parts.headers.get("mcp-session-id")?.to_str().ok()?.to_owned())
}

/// The trace that the client is in: of the message, else of the HTTP request.
fn trace(context: &RequestContext<RoleServer>) -> TraceContext {
    let from_meta = context.meta.get("traceparent").and_then(Value::as_str);
    let from_header = || context.extensions.get::<Parts>()?.headers.get("traceparent")?.to_str().ok();
    TraceContext::from_traceparent(from_meta.or_else(from_header))
}

impl ServerHandler for ProtocolHandler {
    fn get_info(&self) -> ServerConfig {
        let capabilities =
            ServerCapabilities::builder().enable_tools().enable_tool_list_changed().enable_logging().build();
        let mut info = ServerConfig::new(capabilities);
        info.server_info = Implementation::new(self.endpoint.0.name.clone(), env!("CARGO_PKG_VERSION"));
        info.instructions = self.registry().notice().map(|notice| notice.as_ref().clone());
        info
    }

    /// The session is of the version that the client is told, also where it initializes again: not of the one that it asked for.
    async fn initialize(
        &self,
        mut request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        let result = self.negotiate_initialize(&request)?;
        request.protocol_version = result.protocol_version.clone();
        context.peer.set_peer_info(request);
        Ok(result)
    }

    fn get_tool(&self, name: &str) -> Option<WireTool> {
        let catalog = self.registry().catalog(&self.principal.tenant);
        let name = ToolName::new(name).ok().filter(|name| self.principal.may_use(name))?;
        Some(convert::tool(catalog.tool(&name)?.as_ref()))
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        self.endpoint.list_tools(&self.principal, request.as_ref().and_then(|request| request.cursor.as_deref())).await
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let _not_parked = self.sessions.as_ref().and_then(|sessions| sessions.busy(&session_id(&context)?));
        let token = context.meta.get_progress_token();
        let running = match HandedOver::take(&context.extensions) {
            Some(running) => running,
            None => {
                match self.resume(&request, &context)? {
                    Some(Resumed::Goes(running)) => return self.attend(*running, &context).await,
                    Some(Resumed::AsksAgain(required)) => return Ok(CallToolResponse::InputRequired(required)),
                    None => {}
                }
                let tool =
                    ToolName::new(&request.name).map_err(|error| ErrorData::invalid_params(error.to_string(), None))?;
                let call = CallRequest {
                    tool,
                    arguments: Value::Object(request.arguments.unwrap_or_default()),
                    interface: tools::read_interface(context.meta.get(INTERFACE))?,
                    log_level: self.log_level(&context),
                    wants_progress: token.is_some(),
                    wants_receipt: context.meta.get(RECEIPT) == Some(&Value::Bool(true)),
                    trace: trace(&context),
                    way: WayHere::read([DEADLINE, HOPS, CHAIN, EFFECT].map(|name| context.meta.get(name))),
                    session: self.session(&context),
                    abilities: asking::abilities(&context),
                };
                self.leave_door(&call.tool, &context);
                self.endpoint.begin_call(&self.principal, call)?
            }
        };
        self.attend(running, &context).await
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if is_modern(&context) {
            return Err(unknown_method("logging/setLevel"));
        }
        let level = convert::from_level(request.level);
        *self.log_level.lock().unwrap_or_else(PoisonError::into_inner) = Some(level);
        if let (Some(sessions), Some(session)) = (&self.sessions, session_id(&context)) {
            sessions.set_log_level(&session, level);
        }
        Ok(())
    }

    /// A method that we serve arrives here only if its parameters were not what it takes.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let served: &[&str] = if is_modern(&context) {
            &["tools/call", "tools/list", "subscriptions/listen"]
        } else {
            &["tools/call", "tools/list", "logging/setLevel", "initialize"]
        };
        if served.contains(&request.method.as_str()) {
            return Err(ErrorData::invalid_params(format!("the params of `{}` are not valid", request.method), None));
        }
        Err(unknown_method(&request.method))
    }

    // The engine answers these with empty lists by default; a server without the capability does not know the methods.

    async fn complete(
        &self,
        _: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        Err(unknown_method("completion/complete"))
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Err(unknown_method("prompts/list"))
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Err(unknown_method("resources/list"))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Err(unknown_method("resources/templates/list"))
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let restored = context.extensions.get::<SessionRestoreMarker>().map(|marker| marker.id.to_string());
        let from_header =
            || Some(context.extensions.get::<Parts>()?.headers.get("mcp-session-id")?.to_str().ok()?.to_owned());
        let known = restored.as_ref().and_then(|id| self.sessions.as_ref()?.generation(id));
        self.watch_tools(context.peer.clone(), restored.clone().or_else(from_header), known);
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        let mut accepted = SubscriptionFilter::default();
        accepted.tools_list_changed = requested.tools_list_changed;
        Some(accepted)
    }

    async fn listen(&self, subscription: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.registry().watch(&self.principal.tenant);
        let wanted = subscription.accepted().tools_list_changed == Some(true);
        loop {
            tokio::select! {
                () = subscription.cancelled() => return Ok(()),
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    if wanted && subscription.sink().notify_tool_list_changed().await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}
