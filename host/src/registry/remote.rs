//! A call of a tool that another host has: the same reins, budgets and bounds as for a guest, around a call that only waits.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::tool::Tool;
use crate::{
    call::{Call, CallError, CallEvent, Cost, EventGate, Receipt, Request, ToolResult, interface::InterfaceDigest},
    control::Control,
    guest::instance,
};

/// Processors that another host may say to have used for a call at the same time. What it says beyond that is no cost but a lie.
const MOST_PROCESSORS: u32 = 64;

/// The way to one tool of other hosts.
pub trait CallRemote: std::fmt::Debug + Send + Sync {
    /// Calls it, if it still has the interface that is known here. Ends soon after the request's deadline, and after the request is cancelled.
    fn call(
        &self,
        request: Request,
        arguments: Value,
        interface: InterfaceDigest,
    ) -> BoxFuture<'_, (Result<ToolResult, CallError>, Receipt)>;
}

/// Calls a tool of other hosts within the reins of `control`.
pub(super) async fn call(
    remote: &dyn CallRemote,
    tool: &Tool,
    call: Box<Call>,
    control: &Arc<Control>,
) -> (Result<ToolResult, CallError>, Cost) {
    let Call { request, arguments, .. } = *call;
    let started = Instant::now();
    let over_budget = request.cancel.child_token();
    let gate = RemoteEvents {
        control: Arc::clone(control),
        owner: Arc::clone(&tool.component),
        over_budget: over_budget.clone(),
    };
    let request = Request {
        deadline: Some(control.deadline()),
        cancel: over_budget,
        observer: request.observer.through(Arc::new(gate)),
        ..request
    };
    // It only waits, and so takes no place of those that compute.
    let done = control.wait(remote.call(request, arguments, tool.interface)).await;
    let (result, receipt) = match done {
        Ok(done) => done,
        Err(_) => (Err(CallError::Cancelled), Receipt::default()),
    };
    // A budget that ran out meanwhile is the cause of whatever followed.
    let result = match control.stopped() {
        Some(stopped) => Err(stopped),
        None => result.and_then(|result| instance::within_budget(result, control)),
    };
    control.retire(std::time::Duration::ZERO);
    let most = started.elapsed().saturating_mul(MOST_PROCESSORS);
    (result, Cost { processor_time: receipt.cost.processor_time.min(most), ..receipt.cost })
}

/// Events of a call on another host: counted against the budgets of a guest's, and with the mount's name for their writer's.
#[derive(Debug)]
struct RemoteEvents {
    control: Arc<Control>,
    owner: Arc<str>,
    over_budget: CancellationToken,
}

impl EventGate for RemoteEvents {
    fn pass(&self, mut event: CallEvent) -> Option<CallEvent> {
        let charged = self.control.charge_host_call().and_then(|()| self.control.charge_log(event.text_bytes()));
        if charged.is_err() {
            self.over_budget.cancel();
            return None;
        }
        match &mut event {
            CallEvent::Log { component, .. } => self.owner.as_ref().clone_into(component),
            // The observer itself holds it to rise.
            CallEvent::Progress { done, total, .. } => {
                if !done.is_finite() || !total.is_none_or(f64::is_finite) {
                    return None;
                }
            }
        }
        Some(event)
    }
}
