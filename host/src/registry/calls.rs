//! Calls of tools: one kind of [`Request`](crate::call::Request).

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{
    Registry,
    batches::Batches,
    catalog::Catalog,
    remote,
    request::{RequestDeadline, Ticket},
    tool::{Tool, ToolTarget},
};
use crate::{
    call::{
        Call, CallError, Cost, Dispatch, GuestChange, Receipt, Request, ToolResult, ToolSchemas, build::BuildId,
        place::CallPlace,
    },
    capability::state::Running,
    control::{Control, apart::apart},
    guest::{instance, kept::Keeping},
    names::{TenantId, ToolName},
    schema::{STEPS_PER_MS, Schema, Steps},
    telemetry::meters::CallMeters,
    tenant::{Authorized, Principal},
};

/// Steps of a check that are done where the call came in: less than a millisecond.
const STEPS_AT_THE_DOOR: u64 = STEPS_PER_MS;

impl Registry {
    /// Runs a call to its end: finds the tool, checks the arguments, waits for a place, runs, checks the result.
    pub async fn call(&self, call: Authorized<Call>) -> Result<ToolResult, CallError> {
        self.call_metered(call).await.0
    }

    /// As [`Registry::call`], with what the call cost.
    pub async fn call_metered(&self, call: Authorized<Call>) -> (Result<ToolResult, CallError>, Receipt) {
        let call = call.into_inner();
        let is_of_host = |tool: &Arc<Tool>| tool.is_of_host();
        let may_use = call.request.principal.may_use(&call.tool)
            || self.catalog(&call.request.principal.tenant).tool(&call.tool).as_ref().is_some_and(is_of_host);
        let find = |catalog: &Catalog| catalog.tool_on(&call.builds, &call.tool);
        let unknown = || match may_use {
            true => self.catalog(&call.request.principal.tenant).why_gone(&call.builds, &call.tool),
            false => CallError::UnknownTool(call.tool.clone()),
        };
        let ticket = match self.enter(&call.request, may_use, find, unknown).await {
            Ok(ticket) => ticket,
            Err(error) => return (Err(error), Receipt::default()),
        };
        let started = Instant::now();
        let _counted = self.0.calls.token();
        let cancel = call.request.cancel.clone();
        let run = std::pin::pin!(self.run(&ticket, call));
        let (result, cost) = ticket.while_tenant_is_there(&cancel, run).await;
        let receipt = Receipt { duration: started.elapsed(), cost };
        let meters = || CallMeters::new(ticket.tenant(), &ticket.served.name);
        ticket.served.meters.get_or_init(meters).call_ended(result.as_ref(), receipt);
        (result, receipt)
    }

    async fn run(&self, ticket: &Ticket<Tool>, call: Box<Call>) -> (Result<ToolResult, CallError>, Cost) {
        let tool = &ticket.served;
        let nothing = |error| (Err(error), Cost::default());
        if call.interface.is_some_and(|known| known != tool.interface) {
            return nothing(CallError::OtherInterface);
        }
        let steps = match tool.steps_of_arguments(&call.arguments) {
            Ok(steps) => steps,
            Err(error) => return nothing(error),
        };
        let unchecked = (steps.whether > STEPS_AT_THE_DOOR).then_some(steps);
        if unchecked.is_none()
            && let Err(error) = tool.check_arguments(&call.arguments, steps)
        {
            return nothing(error);
        }
        if let Err(error) = ticket.count() {
            return nothing(error);
        }
        let batches = tool.batches.as_ref().filter(|_| unchecked.is_none() && Batches::takes(&call.request));
        if let Some(batches) = batches {
            // Boxed as everything that few calls need: the future of a call is as large as its largest part.
            return Box::pin(self.run_in_line(ticket, batches, call)).await;
        }
        let deadline = ticket.deadline(&call.request);
        self.run_alone(ticket, call, deadline, unchecked).await
    }

    /// Runs a call. Its arguments are checked, unless that takes as many steps as `unchecked` says.
    pub(super) async fn run_alone(
        &self,
        ticket: &Ticket<Tool>,
        mut call: Box<Call>,
        deadline: RequestDeadline,
        unchecked: Option<Steps>,
    ) -> (Result<ToolResult, CallError>, Cost) {
        let tool = &ticket.served;
        let control = match self.admit(ticket, &call.request, deadline).await {
            Ok(control) => control,
            Err(error) => return (Err(error), Cost::default()),
        };
        if let Some(steps) = unchecked {
            let (checking, arguments) = (Arc::clone(tool), std::mem::take(&mut call.arguments));
            let check = move || checking.check_arguments(&arguments, steps).map(|()| arguments);
            match apart(&self.0.engine, &control, check).await.and_then(|(checked, _)| checked) {
                Ok(arguments) => call.arguments = arguments,
                Err(error) => return (Err(error), control.cost(0)),
            }
        }
        let weight = &tool.service.weight;
        // A long check means that the arguments are also long to make into values.
        if weight.is_heavy() || control.is_crowded() || unchecked.is_some() {
            control.note_slice();
        }
        let shared = Arc::clone(&control);
        if tool.runs_here() {
            call.request.place.write(Some(CallPlace::Here));
        }
        let (result, mut cost) = match &tool.target {
            ToolTarget::Guest(target) => {
                let Call { request, arguments, .. } = *call;
                let (running, keeping) = self.guest_for(ticket, request);
                let engine = &self.0.engine;
                let done = instance::call(engine, target.clone(), arguments, running, keeping, shared).await;
                weight.note(done.1.processor_time);
                done
            }
            ToolTarget::Remote(remote) => Box::pin(remote::call(&**remote, tool, call, &shared)).await,
        };
        let result = match result {
            Ok(result) => self.check_result(tool, &control, result, &mut cost).await,
            Err(error) => Err(error),
        };
        (result, cost)
    }

    /// The host's side of a guest that serves a request to a tool, and the guests that stay.
    pub(super) fn guest_for(&self, ticket: &Ticket<Tool>, request: Request) -> (Box<Running>, Option<Keeping>) {
        let tool = &ticket.served;
        let running = self.running(&tool.service.powers, request, tool.name.shared(), None);
        (running, self.keeping(tool, ticket))
    }

    /// Holds a result to the output schema; where guests run if that may take long.
    pub(super) async fn check_result(
        &self,
        tool: &Arc<Tool>,
        control: &Control,
        result: ToolResult,
        cost: &mut Cost,
    ) -> Result<ToolResult, CallError> {
        let steps = tool.steps_of_result(&result)?;
        if steps.is_none_or(|steps| steps.whether <= STEPS_AT_THE_DOOR) {
            return tool.check_result(result, steps);
        }
        let checking = Arc::clone(tool);
        let (checked, took) = apart(&self.0.engine, control, move || checking.check_result(result, steps)).await?;
        cost.processor_time = cost.processor_time.saturating_add(took);
        checked
    }
}

impl Dispatch for Registry {
    fn changed(&self, tenant: &TenantId, component: &str, change: GuestChange<'_>) {
        self.note_change(tenant, component, change);
    }

    fn dispatch(&self, call: Authorized<Call>) -> BoxFuture<'_, Result<ToolResult, CallError>> {
        Box::pin(self.call(call))
    }

    fn describe(&self, principal: &Principal, tool: &ToolName, builds: &[BuildId]) -> Option<ToolSchemas> {
        if !principal.may_use(tool) {
            return None;
        }
        let tool = self.catalog(&principal.tenant).tool_on(builds, tool)?;
        let text = |schema: &Schema| serde_json::to_string(&*schema.json).ok();
        Some(ToolSchemas { input: text(&tool.input)?, output: tool.output.as_ref().and_then(text) })
    }
}
