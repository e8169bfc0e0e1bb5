//! Calls, prompts and resources whose guests ask their client: run until they do, and resumed by the client's retry.

use rmcp::{
    RoleServer,
    model::{CallToolRequestParams, CallToolResponse, ErrorData, InputRequiredResult, InputResponses},
    service::RequestContext,
};
use serde_json::Value;
use tokio::time::Instant;

use super::{Asking, ProtocolHandler, RefusalSignal, extension, is_modern};
use crate::{
    call::{CallError, inputs::Abilities},
    mcp::{
        inputs,
        parked::{RequestBinding, RequestOutcome, Resumed},
        running::{CallOutcome, CallTurn, RunningCall, RunningRequest, WayToAsk},
        tasks::{self, TaskCaller, plan::TaskWish},
        tools,
    },
    names::ToolName,
    tasks::{EntryRight, InPlace},
    tenant::{SCOPE_TOOLS, door::DoorPermit},
};

impl ProtocolHandler {
    /// Runs a call to its end, or until its client has to reply.
    pub(super) async fn attend(
        &self,
        mut running: RunningCall,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let way = way_to_ask(context);
        let plan = running.plan.clone();
        let caller = TaskCaller { principal: &self.principal, right: right(context) };
        let mut until = None;
        if let Some(plan) = &plan {
            match plan.after {
                Some(after) => until = Instant::now().checked_add(after),
                None => {
                    let made = self.endpoint.make_task(caller, running, plan).await;
                    return made.map_err(|(_, no_task)| tasks::no_room(&no_task));
                }
            }
        }
        let token = context.meta.get_progress_token();
        let (wants_receipt, client) = (running.wants_receipt, running.client().clone());
        let outcome = loop {
            match running.forward(&context.peer, token.as_ref(), &context.ct, (way, until)).await {
                CallTurn::Ended(outcome) => break outcome,
                CallTurn::Asks(asking, round) => {
                    let (mut asking, mut round) = (*asking, round);
                    // Work that goes on by itself asks in its task.
                    if let Some(plan) = plan.as_ref().filter(|plan| plan.in_place == InPlace::Handle)
                        && asking.defers.is_there()
                    {
                        asking.asked.first = Some(round);
                        (asking, round) = match self.endpoint.make_task(caller, asking, plan).await {
                            Ok(handle) => return Ok(handle),
                            Err((mut goes_on, no_task)) => match goes_on.take_round() {
                                Some(round) => (*goes_on, round),
                                None => return Err(tasks::no_room(&no_task)),
                            },
                        };
                    }
                    match self.endpoint.park(caller, asking, round) {
                        Ok(required) => return Ok(CallToolResponse::InputRequired(required)),
                        Err(goes_on) => running = *goes_on,
                    }
                }
                CallTurn::GoesOn(late) => match &plan {
                    Some(plan) => match self.endpoint.make_task(caller, *late, plan).await {
                        Ok(handle) => return Ok(handle),
                        // The client waits all the same.
                        Err((goes_on, _)) => (running, until) = (*goes_on, None),
                    },
                    None => running = *late,
                },
            }
        };
        let undeclared = client.undeclared().filter(|_| way == WayToAsk::InTheAnswer);
        let share = self.registry().share(&self.principal.tenant);
        let (writer, signal) = (extension(&context.extensions), extension(&context.extensions));
        let answer = tools::answer(outcome, wants_receipt, undeclared, writer, share, signal).await;
        Ok(CallToolResponse::Complete(answer?))
    }

    /// The call that a retry goes on with; none for a request that is no retry.
    pub(super) async fn resume_call(
        &self,
        request: &mut CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<Option<Resumed<CallOutcome>>, ErrorData> {
        let Some(state) = request.request_state.take().filter(|_| is_modern(context)) else { return Ok(None) };
        let tool = ToolName::new(&request.name).ok().filter(|tool| self.principal.may_use(tool));
        let tool = tool.ok_or_else(|| ErrorData::invalid_params(format!("unknown tool `{}`", request.name), None))?;
        let arguments = Value::Object(request.arguments.clone().unwrap_or_default());
        let binding = RequestBinding::new(&self.principal, "tools/call", tool.as_str(), &arguments);
        self.leave_door(&tool, context);
        let responses = request.input_responses.take();
        self.resume(&state, &binding, responses, context).await.map(Some)
    }

    /// What a retry goes on with.
    async fn resume<O: RequestOutcome>(
        &self,
        state: &str,
        binding: &RequestBinding,
        responses: Option<InputResponses>,
        context: &RequestContext<RoleServer>,
    ) -> Result<Resumed<O>, ErrorData> {
        if !self.principal.scopes.contains(SCOPE_TOOLS) {
            return Err(ErrorData::invalid_request("the caller lacks the scope `tools`", None));
        }
        let (parked, engine) = (self.endpoint.parked(), self.registry().engine());
        let resumed = parked.resume(engine, state, binding, responses.unwrap_or_default()).await;
        resumed.map_err(|error| {
            if let Some(signal) = extension::<RefusalSignal>(&context.extensions) {
                signal.raise(None);
            }
            error.into()
        })
    }

    /// Runs a request for a prompt or a resource to its end, or until its client has to reply: one that begins now, or the one that a retry goes on with.
    pub(super) async fn attend_asking<T, R: From<T> + From<InputRequiredResult>>(
        &self,
        (state, responses): (Option<String>, Option<InputResponses>),
        binding: impl FnOnce() -> RequestBinding,
        begin: impl FnOnce(&Asking<'_>) -> Result<RunningRequest<Result<T, CallError>>, ErrorData>,
        context: &RequestContext<RoleServer>,
    ) -> Result<R, ErrorData>
    where
        Result<T, CallError>: RequestOutcome,
    {
        let asking = self.asking(context);
        let mut running = match state.filter(|_| is_modern(context)) {
            None => begin(&asking)?,
            Some(state) => match self.resume(&state, &binding(), responses, context).await? {
                Resumed::Goes(running) => *running,
                Resumed::AsksAgain(required) => return Ok(required.into()),
            },
        };
        let (way, client) = (way_to_ask(context), running.client().clone());
        let caller = TaskCaller { principal: &self.principal, right: right(context) };
        let outcome = loop {
            match running.forward(&context.peer, None, &context.ct, (way, None)).await {
                CallTurn::Ended(outcome) => break outcome,
                CallTurn::Asks(asks, round) => match self.endpoint.park(caller, *asks, round) {
                    Ok(required) => return Ok(required.into()),
                    Err(goes_on) => running = *goes_on,
                },
                CallTurn::GoesOn(goes_on) => running = *goes_on,
            }
        };
        let undeclared = client.undeclared().filter(|_| way == WayToAsk::InTheAnswer);
        outcome.map(R::from).map_err(|error| asking.refuse(error, undeclared))
    }
}

/// How the client of a request is asked.
fn way_to_ask(context: &RequestContext<RoleServer>) -> WayToAsk {
    if is_modern(context) { WayToAsk::InTheAnswer } else { WayToAsk::ByRequest }
}

/// What the client of a request may be asked.
pub(super) fn abilities(context: &RequestContext<RoleServer>) -> Abilities {
    if is_modern(context) {
        return context.meta.client_capabilities().as_ref().map(inputs::abilities).unwrap_or_default();
    }
    context.peer.peer_info().map(|client| inputs::abilities(&client.capabilities)).unwrap_or_default()
}

/// By what right the request came in.
fn right(context: &RequestContext<RoleServer>) -> EntryRight {
    match context.extensions.get::<EntryRight>() {
        Some(right) => *right,
        None if extension::<DoorPermit>(&context.extensions).is_some() => EntryRight::Token,
        None => EntryRight::Owner,
    }
}

/// What the client of a request says of tasks.
pub(super) fn tasks(context: &RequestContext<RoleServer>) -> TaskWish {
    match is_modern(context) {
        true => context.meta.client_capabilities().as_ref().map_or(TaskWish::Undeclared, TaskWish::of),
        false => TaskWish::Legacy,
    }
}
