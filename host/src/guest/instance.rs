//! One call of an instance. The host makes the instance for the call and drops it afterwards, unless it keeps it.
//!
//! The host never drops the guest's future while it runs. It stops the guest from inside, through the epoch callback or the current host call, and awaits it.
//! Only a guest that does not end within a grace after that is dropped, and counted.

mod result;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use serde_json::Value;
use wasmtime::{Trap, component::InstancePre};

pub use self::result::within_budget;
pub(super) use self::result::{from_wit, reserve};
use super::{
    Guest,
    batch::{BatchExport, Outcomes},
    fuel_given,
    kept::{Keeping, Loan},
    new_store,
};
use crate::{
    call::{Budget, CallError, Cost, ToolResult},
    capability::{
        bindings::{ComponentIndices, ComponentPre, exports::mcpp::tool::tools::Tool as WitTool},
        state::{Running, State},
    },
    control::{Control, Stopped, admission::RETRY_AFTER, pace::Paced},
    engine::{Engine, MAX_WASM_STACK_BYTES},
    memory::boxed,
    plain::PlainFunction,
};

/// How long a stopped guest may take to end before it is dropped.
const GRACE: Duration = Duration::from_secs(1);
/// Message of the engine when a guest hands over more than one host call may carry.
const FUEL_MESSAGE: &str = "fuel";

/// Way to call a tool inside its component.
#[derive(Clone)]
pub enum Target {
    /// By name, through `mcpp:tool/tools`.
    Sdk {
        /// The linked component.
        component: ComponentPre<State>,
        /// Where it has its exports.
        exports: Arc<ComponentIndices>,
        /// The name that the component knows.
        tool: String,
    },
    /// As an exported function.
    Plain {
        /// The linked component.
        component: InstancePre<State>,
        /// The function.
        function: Arc<PlainFunction>,
    },
}

impl Target {
    /// Engine for which the component was compiled.
    fn engine(&self) -> &wasmtime::Engine {
        match self {
            Self::Sdk { component, .. } => component.engine(),
            Self::Plain { component, .. } => component.engine(),
        }
    }

    /// Whether the tool's function could take these arguments, as far as the host knows.
    pub fn check(&self, arguments: &Value) -> Result<(), CallError> {
        match self {
            Self::Sdk { .. } => Ok(()),
            Self::Plain { function, .. } => function.check(arguments),
        }
    }
}

impl Target {
    /// Whether clients hold resources of the component, or show it some.
    pub fn has_handles(&self) -> bool {
        match self {
            Self::Sdk { .. } => false,
            Self::Plain { function, .. } => function.has_handles(),
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sdk { tool, .. } => f.debug_struct("Sdk").field("tool", tool).finish_non_exhaustive(),
            Self::Plain { function, .. } => {
                f.debug_struct("Plain").field("tool", &function.tool).finish_non_exhaustive()
            }
        }
    }
}

/// Calls a tool and waits for the end: in a fresh instance, or in a kept one, where `keeping` says so.
pub async fn call(
    engine: &Engine,
    target: Target,
    arguments: Value,
    running: Box<Running>,
    keeping: Option<Keeping>,
    control: Arc<Control>,
) -> (Result<ToolResult, CallError>, Cost) {
    let shared = Arc::clone(&control);
    // Boxed here: every future on the way from the door would else carry, and copy, the guest's kilobytes.
    let guest = boxed(|| async move {
        let work = async |guest: &mut Guest| guest.call(&target, &arguments).await;
        let (result, cost) = in_guest(&target, &arguments, running, keeping.as_ref(), &shared, work).await;
        // The host measures a large result where the guest made it.
        (result.and_then(|result| within_budget(result, &shared).map_err(Failure::Call)), cost)
    });
    let (result, cost) = end_of(engine, guest, &control).await;
    (control.redactor().outcome(settled(result, &control)).map(|result| later(result, &control)), cost)
}

/// The result of a call, which is not the whole answer if the guest said so.
fn later(result: ToolResult, control: &Control) -> ToolResult {
    let deferred = control.deferred().filter(|_| !result.is_error).map(str::to_owned);
    ToolResult { deferred, ..result }
}

/// Calls a tool of an SDK component many times in one instance, under the controls of one call: the outcome of each, or why there is none. `kept` stays as long as the guest,
/// also where nobody waits for that any more, and comes back unless the host had to drop the guest.
pub async fn call_many<K: Send + 'static>(
    engine: &Engine,
    (target, batch): (Target, BatchExport),
    arguments: Vec<String>,
    (running, keeping): (Box<Running>, Option<Keeping>),
    control: &Arc<Control>,
    kept: K,
) -> (Result<Outcomes, CallError>, Option<K>, Cost) {
    let shared = Arc::clone(control);
    let guest = boxed(|| async move {
        let work = async |guest: &mut Guest| guest.call_many(&target, &batch, &arguments).await;
        let (outcomes, cost) = in_guest(&target, &Value::Null, running, keeping.as_ref(), &shared, work).await;
        let within = |outcome: Result<ToolResult, CallError>| within_budget(outcome?, &shared);
        let outcomes = outcomes.map(|outcomes| outcomes.into_iter().map(within).collect::<Outcomes>());
        ((outcomes, kept), cost)
    });
    let (ended, cost) = end_of(engine, guest, control).await;
    let (outcomes, kept) = ended.unzip();
    let redactor = control.redactor();
    let redact = |outcomes: Outcomes| outcomes.into_iter().map(|outcome| redactor.outcome(outcome)).collect();
    (settled(outcomes, control).map(redact).map_err(|error| redactor.error(error)), kept, cost)
}

/// Waits for the end of a call's guest, and ends the call; none if the host had to drop the guest.
async fn end_of<T: Send + 'static>(
    engine: &Engine,
    guest: Pin<Box<impl Future<Output = (T, Cost)> + Send + 'static>>,
    control: &Arc<Control>,
) -> (Option<T>, Cost) {
    let (ended, cost) = run_guest(engine, guest, Arc::clone(control)).await.unzip();
    let cost = cost.unwrap_or_default();
    control.retire(cost.processor_time);
    (ended, cost)
}

/// The outcome of a guest that the host may have had to drop.
fn settled<T>(result: Option<Result<T, Failure>>, control: &Control) -> Result<T, CallError> {
    match result {
        Some(result) => settle(result, control),
        None => Err(control.stopped().unwrap_or(CallError::Cancelled)),
    }
}

/// Makes or wakes the guest, has it do `work`, and keeps it if it is to stay; returns the cost of the call too.
async fn in_guest<T>(
    target: &Target,
    arguments: &Value,
    running: Box<Running>,
    keeping: Option<&Keeping>,
    control: &Arc<Control>,
    work: impl AsyncFnOnce(&mut Guest) -> Result<Result<T, CallError>, Failure>,
) -> (Result<T, Failure>, Cost) {
    let mut loan = match loan(target, arguments, &running, keeping, control).await {
        Ok(loan) => loan,
        Err(failure) => return (Err(failure), control.cost(0)),
    };
    let mut guest = match loan.take() {
        Some(mut guest) => {
            guest.wake(control, running);
            guest
        }
        None => Guest::new(target.engine(), &Arc::clone(&running.component), control, running),
    };
    let outcome = work(&mut guest).await;
    let cost = guest.cost();
    let result = match outcome {
        Ok(answer) => {
            // A budget that ran out beside the guest ends it too.
            if control.stopped().is_none() {
                loan.give_back(guest);
            }
            answer.map_err(Failure::Call)
        }
        Err(failure) => Err(failure),
    };
    (result, cost)
}

/// The guest that serves the call, if it is one that stays.
async fn loan(
    target: &Target,
    arguments: &Value,
    running: &Running,
    keeping: Option<&Keeping>,
    control: &Control,
) -> Result<Loan, Failure> {
    let Some(keeping) = keeping else { return Ok(Loan::None) };
    if let Target::Plain { function, .. } = target
        && function.has_handles()
    {
        let (session, patient) = (running.session.as_ref(), running.depth == 0);
        let seat = keeping.seat(&running.principal, session, function.takes_handles, patient, control);
        // Boxed: other calls have no room for it in their futures.
        let seat = Box::pin(seat).await?;
        return seat.ok_or_else(|| Failure::Call(function.without_instance(arguments)));
    }
    Ok(match keeping.reuse {
        Some(reuse) => keeping.spare(&running.principal.tenant, &running.tool, reuse),
        None => Loan::None,
    })
}

/// Asks an SDK component for its tools.
pub async fn list(
    engine: &Engine,
    name: &Arc<str>,
    component: ComponentPre<State>,
    control: Arc<Control>,
) -> Result<Vec<WitTool>, CallError> {
    let mut store = new_store(component.engine(), name, &control, None);
    let guest = async move {
        let instance = component.instantiate_async(&mut store).await?;
        Ok(instance.mcpp_tool_tools().call_list(&mut store).await?)
    };
    run(engine, guest, control).await
}

/// Runs a guest to its end, for questions other than calls.
pub(super) async fn run<T: Send + 'static>(
    engine: &Engine,
    guest: impl Future<Output = Result<T, Failure>> + Send + 'static,
    control: Arc<Control>,
) -> Result<T, CallError> {
    let answer = run_guest(engine, Box::pin(guest), Arc::clone(&control)).await;
    control.retire(control.pace().processor_time());
    match answer {
        Some(result) => settle(result, &control).map_err(|error| control.redactor().error(error)),
        None => Err(control.stopped().unwrap_or(CallError::Cancelled)),
    }
}

/// Reason for which a guest gave no result: the engine stopped it, or the call itself is at fault.
pub(super) enum Failure {
    Engine(wasmtime::Error),
    Call(CallError),
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        Self::Engine(error)
    }
}

/// Waits for the guest's next turn to compute, or for the end of its call. A guest in line must reach its next epoch, which stops it.
pub(super) async fn next_turn(control: &Control) {
    tokio::select! {
        () = control.let_others_run() => {}
        _ = control.end() => {}
    }
}

/// Runs `guest` to its end; `None` if the host had to drop it after the grace. It begins on the caller's task, which spares the call a change of threads. It
/// moves to the guests' threads when its first slice is over, or when the caller goes away.
async fn run_guest<T: Send + 'static>(
    engine: &Engine,
    guest: Pin<Box<impl Future<Output = T> + Send + 'static>>,
    control: Arc<Control>,
) -> Option<T> {
    let (alive, starts_long) = (engine.alive(), control.is_long());
    let guest = Paced { future: guest, pace: Arc::clone(control.pace()) };
    let watched = Arc::clone(&control);
    let guest = boxed(|| async move {
        let _alive = alive;
        if starts_long {
            next_turn(&watched).await;
        }
        let mut guest = std::pin::pin!(guest);
        tokio::select! {
            biased;
            output = &mut guest => Some(output),
            () = overdue(&watched) => None,
        }
    });
    let begun =
        if starts_long { Err(guest) } else { FirstSlice { guest: Some(guest), engine, control: &control }.await };
    let output = match begun {
        Ok(output) => output,
        Err(rest) => engine.spawn(rest).await.ok().flatten(),
    };
    if output.is_none() {
        metrics::counter!("mcpp_guests_dropped_total").increment(1);
        tracing::error!("a guest did not end within {GRACE:?} of being stopped and was dropped");
    }
    output
}

/// Polls a guest until it ends, or returns it when it has used its first slice.
struct FirstSlice<'a, F: Future<Output: Send> + Send + 'static> {
    guest: Option<Pin<Box<F>>>,
    engine: &'a Engine,
    control: &'a Control,
}

impl<F: Future<Output: Send> + Send + 'static> Future for FirstSlice<'_, F> {
    type Output = Result<F::Output, Pin<Box<F>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(guest) = &mut self.guest else { return Poll::Pending };
        match guest.as_mut().poll(context) {
            Poll::Ready(output) => {
                self.guest = None;
                Poll::Ready(Ok(output))
            }
            Poll::Pending if self.control.is_long() => {
                self.guest.take().map_or(Poll::Pending, |rest| Poll::Ready(Err(rest)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The host does not drop a guest whose caller goes away: it tells the guest to stop, and the guest ends by itself.
impl<F: Future<Output: Send> + Send + 'static> Drop for FirstSlice<'_, F> {
    fn drop(&mut self) {
        if let Some(rest) = self.guest.take() {
            self.control.cancel_token().cancel();
            drop(self.engine.spawn(rest));
        }
    }
}

async fn overdue(control: &Control) {
    let reason = control.end().await;
    tokio::time::sleep(GRACE).await;
    let _already_stopped = control.stop(reason);
}

/// The call's outcome: the host's reason to stop it takes precedence over the engine's report of the consequence.
fn settle<T>(result: Result<T, Failure>, control: &Control) -> Result<T, CallError> {
    let settled = match result {
        // A budget may run out in a host task beside the guest, which then ends normally.
        Ok(value) => control.stopped().map_or(Ok(value), Err),
        Err(Failure::Call(error)) => Err(control.stopped().unwrap_or(error)),
        Err(Failure::Engine(error)) => Err(control.stopped().unwrap_or_else(|| explain(&error, control))),
    };
    settled.map_err(|error| if control.has_acted() { error.after_effects() } else { error })
}

fn explain(error: &wasmtime::Error, control: &Control) -> CallError {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return match trap {
            Trap::StackOverflow => CallError::BudgetExceeded {
                budget: Budget::Stack,
                limit: u64::try_from(MAX_WASM_STACK_BYTES).unwrap_or(u64::MAX),
            },
            Trap::OutOfFuel => CallError::BudgetExceeded { budget: Budget::Fuel, limit: fuel_given(control) },
            trap => CallError::Trapped(crash(&trap.to_string(), control)),
        };
    }
    if error.downcast_ref::<Stopped>().is_some() {
        return CallError::Cancelled;
    }
    if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
        return CallError::Busy { what: "instances hold the engine's pool", limit: 0, retry_after: RETRY_AFTER };
    }
    if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        return CallError::Trapped(format!("it left with exit code {}", exit.0));
    }
    // The heap grows as memory does, until its own limit or want of memory stops it.
    if error.downcast_ref::<wasmtime::GcHeapOutOfMemory<()>>().is_some() {
        return match control.refused_memory() {
            Some((Budget::GuestBytes, _)) => CallError::Trapped(crash("its heap is full", control)),
            _ => CallError::BudgetExceeded { budget: Budget::Memory, limit: control.limits().memory_bytes },
        };
    }
    let root = error.root_cause().to_string();
    if root.contains(FUEL_MESSAGE) {
        return CallError::BudgetExceeded { budget: Budget::Output, limit: control.limits().output_bytes };
    }
    if root.contains("resource limit exceeded") || root.contains("exceeds the limit") {
        return CallError::BudgetExceeded { budget: Budget::Instances, limit: control.limits().core_instances };
    }
    CallError::Trapped(crash(&root, control))
}

/// Words for a crash. If the host refused memory to the guest before, that is the likely cause.
fn crash(what: &str, control: &Control) -> String {
    match control.refused_memory() {
        None => what.to_owned(),
        Some((_, why)) => format!("{what}; it had asked for memory that it was not given: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::Semaphore, time::Instant};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        control::admission::{Admission, Share},
        engine::EngineConfig,
        limits::{Limits, TenantLimits},
    };

    #[tokio::test]
    async fn a_guest_that_ends_well_after_a_budget_ran_out_beside_it_is_stopped() {
        let (admission, cancel) = (Admission::new(&EngineConfig::default()), CancellationToken::new());
        let until = Instant::now() + Duration::from_secs(10);
        let share = Share::alone(TenantLimits::default());
        let slot = admission.admit(&share, &Arc::new(Semaphore::new(1)), 1, until, &cancel).await.expect("a place");
        let limits = Limits { http_bytes: 10, ..Limits::default() };
        let control = Control::new(limits, until, cancel, slot);
        assert!(control.charge_http_bytes(10).is_ok());
        assert_eq!(settle(Ok(1), &control).ok(), Some(1));
        assert!(control.charge_http_bytes(1).is_err());
        let settled = settle(Ok(1), &control).expect_err("stopped");
        assert_eq!(settled.to_string(), "budget `http_bytes` exceeded: the tool was stopped at 10");
        let settled = settle::<()>(Err(Failure::Call(CallError::TooDeep)), &control).expect_err("stopped");
        assert!(matches!(settled, CallError::BudgetExceeded { budget: Budget::HttpBytes, .. }), "{settled}");
    }
}
