//! MCP's methods, for both eras: the engine calls a [`ProtocolHandler`], which speaks to the registry.
//!
//! A handler belongs to one principal, taken from the door when the handler is made: once a session in the legacy era, once a request in the modern.

mod asking;
mod context;

use std::sync::{Arc, Mutex, PoisonError};

use rmcp::{
    RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams, CompleteResult,
        CustomRequest, CustomResult, ErrorData, Extensions, GetPromptRequestParams, GetPromptResponse, GetTaskParams,
        GetTaskResult, Implementation, InitializeRequestParams, InitializeResult, JsonObject, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
        ReadResourceRequestParams, ReadResourceResponse, ServerConfig, SetLevelRequestParams, SubscribeRequestParams,
        TASKS_EXTENSION_ID, Tool as WireTool, UnsubscribeRequestParams, UpdateTaskParams,
    },
    service::{NotificationContext, RequestContext},
    transport::streamable_http_server::session::SessionRestoreMarker,
};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(super) use self::context::extension;
use self::context::{cursor, is_modern, session_id, trace, unknown_method, way_here};
pub use super::endpoint::Endpoint;
pub(super) use super::refusal::RefusalSignal;
use super::{
    convert,
    listening::{LISTEN, LegacyListening, ListenPass},
    parked::Resumed,
    primitives::{Asking, ServedKinds, prompt_binding, read_binding},
    running::RunningCall,
    session::Sessions,
    tasks::plan::TaskPlan,
    tools::{self, CallRequest, INTERFACE, RECEIPT},
};
use crate::{
    call::{LogLevel, Session},
    names::ToolName,
    registry::{Registry, changes::ResourceListener},
    tenant::{Principal, door::DoorPermit},
};

impl Endpoint {
    pub(super) fn handler(&self, principal: Principal, sessions: Option<Arc<Sessions>>) -> ProtocolHandler {
        ProtocolHandler {
            endpoint: self.clone(),
            principal,
            sessions,
            session: Session::default(),
            log_level: Mutex::new(None),
            watch: Mutex::new(None),
            listener: Mutex::new(None),
        }
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
    /// Ends the watch for changes when the session ends.
    watch: Mutex<Option<DropGuard>>,
    /// The resources of which a legacy client wants to know; kept in the session's record too, where there is one.
    listener: Mutex<Option<Arc<ResourceListener>>>,
}

impl ProtocolHandler {
    fn registry(&self) -> &Registry {
        self.endpoint.registry()
    }

    /// The least level of log records that this request's client wants.
    fn log_level(&self, context: &RequestContext<RoleServer>) -> Option<LogLevel> {
        if is_modern(context) {
            return context.meta.log_level().map(convert::from_level);
        }
        let chosen = *self.log_level.lock().unwrap_or_else(PoisonError::into_inner);
        let recorded = || self.sessions.as_ref()?.log_level(&session_id(&context.extensions)?);
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
            Some(sessions) => sessions.session(&session_id(&context.extensions)?),
            None => Some(self.session.clone()),
        }
    }

    fn served(&self) -> ServedKinds {
        self.endpoint.served_kinds(&self.principal)
    }

    /// A request beside those of tools, which makes room at the tenant's door.
    fn asking<'a>(&'a self, context: &'a RequestContext<RoleServer>) -> Asking<'a> {
        if let Some(place) = extension::<DoorPermit>(&context.extensions) {
            place.leave();
        }
        Asking {
            principal: &self.principal,
            trace: trace(context),
            session: self.session(context),
            way: way_here(context),
            abilities: asking::abilities(context),
            ct: &context.ct,
            signal: extension(&context.extensions),
        }
    }

    /// Keeps a legacy session from being parked while a request of it runs.
    fn busy(&self, context: &RequestContext<RoleServer>) -> Option<impl Sized> {
        self.sessions.as_ref().and_then(|sessions| sessions.busy(&session_id(&context.extensions)?))
    }

    /// The resources of which this legacy client wants to know.
    fn listener(&self) -> Result<Arc<ResourceListener>, ErrorData> {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone();
        listener.ok_or_else(|| ErrorData::invalid_request("the session is not initialized yet", None))
    }
}

impl ServerHandler for ProtocolHandler {
    fn get_info(&self) -> ServerConfig {
        let mut capabilities = self.served().capabilities();
        capabilities.extensions.get_or_insert_default().insert(TASKS_EXTENSION_ID.to_owned(), JsonObject::new());
        let mut info = ServerConfig::new(capabilities);
        info.server_info = Implementation::new(self.endpoint.name().to_owned(), env!("CARGO_PKG_VERSION"));
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
        let tool = catalog.tool(&ToolName::new(name).ok()?).filter(|tool| tool.is_for(&self.principal))?;
        Some(convert::tool(&tool))
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
        mut request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let _not_parked = self.busy(&context);
        let token = context.meta.get_progress_token();
        let running = match HandedOver::take(&context.extensions) {
            Some(running) => running,
            None => {
                match self.resume_call(&mut request, &context).await? {
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
                    way: way_here(&context),
                    session: self.session(&context),
                    abilities: asking::abilities(&context),
                    tasks: asking::tasks(&context),
                };
                self.leave_door(&call.tool, &context);
                // What a tool says of tasks is known when it is there. A caller that says how long it waits gets none.
                if call.way.patience.is_none() {
                    tokio::select! {
                        () = self.registry().meet(&self.principal.tenant, &call.tool) => {}
                        () = context.ct.cancelled() => {}
                    }
                }
                let catalog = self.registry().catalog(&self.principal.tenant);
                let plan = TaskPlan::make(&catalog, catalog.tool(&call.tool).as_deref(), &self.principal, &call)?;
                self.endpoint.begin_call(&self.principal, call, plan)?
            }
        };
        self.attend(running, &context).await
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let writer = extension(&context.extensions);
        self.endpoint.get_task(&self.principal, &request.task_id, writer).await.map(GetTaskResult::new)
    }

    async fn update_task(&self, request: UpdateTaskParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.endpoint.update_task(&self.principal, &request.task_id, request.input_responses).await
    }

    async fn cancel_task(&self, request: CancelTaskParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.endpoint.cancel_task(&self.principal, &request.task_id).await
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
        if let (Some(sessions), Some(session)) = (&self.sessions, session_id(&context.extensions)) {
            sessions.set_log_level(&session, level);
        }
        Ok(())
    }

    /// A subscription. Any other method that we serve arrives here only if its parameters were not what it takes.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let has_pass = extension::<ListenPass>(&context.extensions).is_some();
        if has_pass {
            if !is_modern(&context) {
                return Err(unknown_method(LISTEN));
            }
            let told = self.endpoint.listen(&self.principal, request.params, &context, &self.asking(&context)).await;
            return told.map(CustomResult::new);
        }
        let is_served = match request.method.as_str() {
            "tools/call" | "tools/list" => true,
            "tasks/get" | "tasks/update" | "tasks/cancel" => is_modern(&context),
            "logging/setLevel" | "initialize" => !is_modern(&context),
            other => self.served().has(other, is_modern(&context)),
        };
        if is_served {
            return Err(ErrorData::invalid_params(format!("the params of `{}` are not valid", request.method), None));
        }
        Err(unknown_method(&request.method))
    }

    // What nobody serves is no method: the engine would answer with empty lists.

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        if !self.served().completions {
            return Err(unknown_method("completion/complete"));
        }
        let _not_parked = self.busy(&context);
        self.endpoint.complete_argument(&self.asking(&context), request).await
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        if !self.served().prompts {
            return Err(unknown_method("prompts/list"));
        }
        self.endpoint.list_prompts(&self.principal, cursor(request.as_ref())).await
    }

    async fn get_prompt(
        &self,
        mut request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        if !self.served().prompts {
            return Err(unknown_method("prompts/get"));
        }
        let _not_parked = self.busy(&context);
        let retry = (request.request_state.take(), request.input_responses.take());
        let begin = |asking: &Asking<'_>| self.endpoint.begin_prompt(asking, &request);
        self.attend_asking(retry, || prompt_binding(&self.principal, &request), begin, &context).await
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        if !self.served().resources {
            return Err(unknown_method("resources/list"));
        }
        self.endpoint.list_resources(&self.principal, cursor(request.as_ref())).await
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        if !self.served().resources {
            return Err(unknown_method("resources/templates/list"));
        }
        self.endpoint.list_templates(&self.principal, cursor(request.as_ref())).await
    }

    async fn read_resource(
        &self,
        mut request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if !self.served().resources {
            return Err(unknown_method("resources/read"));
        }
        let _not_parked = self.busy(&context);
        let retry = (request.request_state.take(), request.input_responses.take());
        let begin = |asking: &Asking<'_>| self.endpoint.begin_read(asking, &request.uri);
        self.attend_asking(retry, || read_binding(&self.principal, &request.uri), begin, &context).await
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if !self.served().resources {
            return Err(unknown_method("resources/subscribe"));
        }
        let _not_parked = self.busy(&context);
        self.endpoint.subscribe(&self.asking(&context), request.uri, &self.listener()?).await
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if !self.served().resources {
            return Err(unknown_method("resources/unsubscribe"));
        }
        self.listener()?.unsubscribe(&request.uri);
        Ok(())
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let restored = context.extensions.get::<SessionRestoreMarker>().map(|marker| marker.id.to_string());
        let known = restored.as_ref().and_then(|id| self.sessions.as_ref()?.generations(id));
        let record = self.sessions.clone().zip(restored.or_else(|| session_id(&context.extensions)));
        let make = || self.registry().listener(&self.principal.tenant);
        let recorded = record.as_ref().and_then(|(sessions, id)| sessions.listener(id, make));
        let listener = recorded.or_else(make);
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&listener);
        let alive = CancellationToken::new();
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(alive.clone().drop_guard());
        let lists = self.registry().watch(&self.principal.tenant);
        let may_read = self.principal.may_read();
        let share = self.registry().share(&self.principal.tenant);
        let listening =
            LegacyListening { peer: context.peer.clone(), share, lists, may_read, listener, record, known, alive };
        tokio::spawn(listening.run());
    }
}
