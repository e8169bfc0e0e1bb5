//! `mcpp:endpoint`: the MCP endpoint from inside a call.
//!
//! When the host only asks a component for its tools, no call exists: the caller is `system:load` of no tenant, records go to the host's log, and no tool
//! can be called.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{HasData, Linker};

use crate::{
    call::{
        Call, CallError, CallEvent, LogLevel, MAX_CALL_DEPTH, Observer, Request, authorize, build::BuildId,
        effect::EffectKey, place::PlaceNote,
    },
    capability::{
        bindings::mcpp::{
            endpoint::{call, caller, log, progress},
            tool::types,
        },
        output::{self, RecordWriter},
        state::{Running, State},
    },
    control::Control,
    memory::{MemoryUse, json_bytes},
    names::{ToolName, ToolPattern},
};

/// The part of an instance's state that the endpoint's interfaces see.
#[derive(Debug)]
pub struct EndpointView<'a> {
    /// Controls of the call.
    pub control: &'a Control,
    /// The call; absent while the host only asks the component for its tools.
    pub running: Option<&'a Running>,
    /// The last progress reported.
    pub progress: &'a mut f64,
    /// Whether the guest has a transaction of its store open.
    pub transaction_open: bool,
}

impl HasData for EndpointView<'static> {
    type Data<'a> = EndpointView<'a>;
}

/// Links the part that every component has.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)?;
    caller::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)?;
    log::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)?;
    progress::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)?;
    super::hooks::link(linker)?;
    super::deferral::link(linker)?;
    super::delegation::link_idempotency(linker)
}

/// Links calls to other tools.
pub(super) fn link_call(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    call::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)?;
    super::delegation::link(linker)
}

impl types::Host for EndpointView<'_> {}

impl caller::Host for EndpointView<'_> {
    fn identify(&mut self) -> wasmtime::Result<caller::Principal> {
        Ok(match self.running {
            Some(running) => caller::Principal {
                tenant: running.principal.tenant.to_string(),
                subject: running.principal.subject.to_string(),
                scopes: running.principal.scopes.iter().cloned().collect(),
            },
            None => caller::Principal { tenant: String::new(), subject: "system:load".into(), scopes: Vec::new() },
        })
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        let left = self.control.deadline().saturating_duration_since(Instant::now());
        Ok(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    fn cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(self.control.cancel_token().is_cancelled())
    }

    fn traceparent(&mut self) -> wasmtime::Result<String> {
        Ok(self.running.map(|running| running.trace.traceparent()).unwrap_or_default())
    }
}

impl EndpointView<'_> {
    /// Writes a log record of the guest and charges it to the guest's budget.
    pub fn log(&mut self, level: LogLevel, message: String) -> wasmtime::Result<()> {
        self.control.charge_log(message.len())?;
        let message = self.control.redactor().text(message);
        match self.running {
            Some(running) => output::record(&running.writer(), level, message, &running.observer),
            None => {
                let nobody = RecordWriter { tenant: None, component: "".into(), tool: "".into() };
                output::record(&nobody, level, message, &Observer::default());
            }
        }
        Ok(())
    }
}

impl log::Host for EndpointView<'_> {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.log(level.into(), message)
    }
}

impl From<log::Level> for LogLevel {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Debug => Self::Debug,
            log::Level::Info => Self::Info,
            log::Level::Notice => Self::Notice,
            log::Level::Warning => Self::Warning,
            log::Level::Error => Self::Error,
            log::Level::Critical => Self::Critical,
            log::Level::Alert => Self::Alert,
            log::Level::Emergency => Self::Emergency,
        }
    }
}

impl progress::Host for EndpointView<'_> {
    fn report(&mut self, done: f64, total: Option<f64>, message: Option<String>) -> wasmtime::Result<()> {
        // Progress costs as much as a log record, because it goes to the client in the same way.
        self.control.charge_log(message.as_ref().map_or(0, String::len))?;
        let finite = done.is_finite() && total.is_none_or(f64::is_finite);
        if let (true, Some(running)) = (finite && done > *self.progress, self.running) {
            *self.progress = done;
            let message = message.map(|message| self.control.redactor().text(message));
            running.observer.notify(CallEvent::Progress { done, total, message });
        }
        Ok(())
    }
}

/// What a nested call may do, beside what its caller and its component may.
#[derive(Debug, Default)]
pub(super) struct CallBounds {
    /// The only tools that it and the calls below it may use; none for no such bound.
    pub(super) tools: Option<Vec<ToolPattern>>,
    /// When it ends, if that is sooner than the running call's deadline.
    pub(super) timeout: Option<Duration>,
    /// What names its effect; none for the next one of the running call's.
    pub(super) effect: Option<EffectKey>,
    /// The builds on which it runs; today's if there are none.
    pub(super) builds: Vec<BuildId>,
    /// What cancels it, below the running call's own.
    pub(super) cancel: Option<CancellationToken>,
    /// Where the host notes the place in which it runs.
    pub(super) place: PlaceNote,
}

impl call::Host for EndpointView<'_> {
    async fn call(
        &mut self,
        tool: String,
        arguments: String,
    ) -> wasmtime::Result<Result<types::ToolResult, call::CallError>> {
        self.nested(tool, arguments, CallBounds::default()).await
    }
}

impl EndpointView<'_> {
    /// Calls another tool, within bounds.
    pub(super) async fn nested(
        &mut self,
        tool: String,
        arguments: String,
        bounds: CallBounds,
    ) -> wasmtime::Result<Result<types::ToolResult, call::CallError>> {
        let Some(running) = self.running else { return Ok(Err(call::CallError::NotFound)) };
        if self.transaction_open {
            // The released package has no error case for this.
            let reason = "transaction-open: commit or drop the open transaction first, others may be waiting for it";
            return Ok(Err(call::CallError::Aborted(reason.into())));
        }
        // The other tool must not learn more than the caller may: the redactor hides secrets.
        let arguments = self.control.redactor().text(arguments);
        // The arguments stay, as text and as values, for as long as the other tool runs.
        let kept = self.control.memory().reserve(MemoryUse::Messages, json_bytes(&arguments));
        let Ok(_until_it_answers) = kept else { return Ok(Err(call::CallError::Busy)) };
        let mut deadline = self.control.deadline();
        if let Some(sooner) = bounds.timeout.and_then(|timeout| Instant::now().checked_add(timeout)) {
            deadline = deadline.min(sooner);
        }
        let cancel = bounds.cancel.unwrap_or_else(|| self.control.cancel_token().child_token());
        let nested = match nested_call(running, deadline, cancel, &tool, &arguments) {
            Ok(mut nested) => {
                if bounds.effect.is_some() {
                    nested.request.effect = bounds.effect;
                }
                nested.builds = bounds.builds;
                nested.request.place = bounds.place;
                if let Some(tools) = &bounds.tools {
                    nested.request.principal = nested.request.principal.within(tools);
                }
                nested
            }
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Ok(authorized) = authorize(nested) else { return Ok(Err(call::CallError::NotFound)) };
        let answer = self.control.wait(running.dispatch.dispatch(authorized)).await?;
        Ok(match answer {
            Ok(result) if result.is_error => Err(call::CallError::Failed(result.into())),
            Ok(result) => Ok(result.into()),
            Err(error) => Err(refusal(error)),
        })
    }
}

/// The call that `running` may make: with its own caller, its own deadline, one level deeper, and only to tools that its grant names.
fn nested_call(
    running: &Running,
    deadline: Instant,
    cancel: CancellationToken,
    tool: &str,
    arguments: &str,
) -> Result<Call, call::CallError> {
    if running.depth >= MAX_CALL_DEPTH {
        return Err(call::CallError::TooDeep);
    }
    let tool = ToolName::new(tool).map_err(|_| call::CallError::NotFound)?;
    let grant = format!("call = [\"{tool}\"]");
    if running.may_call(&tool) {
        running.witness.used(grant);
    } else {
        running.witness.denied(Some(grant), format!("it may not call `{tool}`"));
        return Err(call::CallError::NotFound);
    }
    let arguments = serde_json::from_str(arguments)
        .map_err(|error| call::CallError::InvalidArguments(format!("the arguments are not JSON: {error}")))?;
    let request = Request {
        principal: running.principal.clone(),
        deadline: Some(deadline),
        cancel,
        trace: running.trace.child(),
        observer: Observer::default(),
        depth: running.depth.saturating_add(1),
        chain: running.chain,
        hops: running.hops,
        session: running.session.clone(),
        effect: running.effects.next(&["call", tool.as_str()]),
        client: running.client.clone(),
        place: PlaceNote::default(),
    };
    Ok(Call::new(request, tool, arguments))
}

fn refusal(error: CallError) -> call::CallError {
    match error {
        CallError::UnknownTool(_) => call::CallError::NotFound,
        CallError::InvalidArguments { .. } => call::CallError::InvalidArguments(error.to_string()),
        CallError::Busy { .. } | CallError::TooMany { .. } | CallError::PeerBusy { .. } => call::CallError::Busy,
        CallError::TooDeep => call::CallError::TooDeep,
        CallError::BudgetExceeded { .. }
        | CallError::OtherInterface
        | CallError::BuildGone { .. }
        | CallError::Unreachable { .. }
        | CallError::UnknownResource(_)
        | CallError::UnknownPrompt(_)
        | CallError::Failed(_)
        | CallError::Interrupted { .. }
        | CallError::Cancelled
        | CallError::Trapped(_)
        | CallError::InvalidResult { .. } => call::CallError::Aborted(error.to_string()),
    }
}
