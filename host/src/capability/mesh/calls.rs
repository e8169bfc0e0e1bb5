//! Calls of peers' tools from inside a call: with its caller, its deadline and its client, and never with more right than all of them have.

use std::time::Duration;

use tokio::time::Instant;

use super::{MeshView, millis, short};
use crate::{
    call::{Budget, Call, CallError, MAX_CALL_DEPTH, Request, authorize, inputs::ClientLine, place::PlaceNote},
    capability::{
        bindings::mcpp::{mesh::calls, tool::types::ToolResult},
        mesh::Meshed,
    },
    grants::mesh::call_line,
    memory::{MemoryUse, json_bytes},
    mesh::PeerId,
    names::ToolName,
};

/// When a call for which this host has no memory may be repeated.
const NO_MEMORY_AGAIN: Duration = Duration::from_millis(50);

/// How a peer's refusal begins that lets this host call nothing, or not this: the error of the protocol (contract, section 2.2).
const UNAUTHORIZED: &str = "unauthorized";

impl calls::Host for MeshView<'_> {
    async fn call(
        &mut self,
        peer: String,
        tool: String,
        arguments: String,
        timeout_ms: Option<u64>,
    ) -> wasmtime::Result<Result<ToolResult, calls::CallError>> {
        if self.transaction_open {
            return Ok(Err(calls::CallError::TransactionOpen));
        }
        let Ok(meshed) = self.meshed() else { return Ok(Err(calls::CallError::Off)) };
        // The peer must not learn more than the caller may: the redactor hides secrets.
        let arguments = self.control.redactor().text(arguments);
        // The arguments stay, as text and as values, for as long as the peer runs the call.
        let kept = self.control.memory().reserve(MemoryUse::Messages, json_bytes(&arguments));
        let Ok(_until_it_answers) = kept else { return Ok(Err(calls::CallError::Busy(millis(NO_MEMORY_AGAIN)))) };
        let (peer, call) = match self.call_of(meshed, &peer, &tool, &arguments, timeout_ms) {
            Ok(call) => call,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Ok(authorized) = authorize(call) else { return Ok(Err(calls::CallError::NotFound)) };
        let answer = self.control.wait(meshed.mesh.call(&peer, authorized)).await?;
        Ok(match answer {
            None => Err(calls::CallError::Off),
            Some(Ok(result)) if result.is_error => Err(calls::CallError::Failed(result.into())),
            Some(Ok(result)) => Ok(result.into()),
            Some(Err(error)) => Err(refusal(error)),
        })
    }
}

impl MeshView<'_> {
    /// The call that the guest may make.
    fn call_of(
        &self,
        Meshed { running, grant, .. }: Meshed<'_>,
        peer: &str,
        tool: &str,
        arguments: &str,
        timeout_ms: Option<u64>,
    ) -> Result<(PeerId, Call), calls::CallError> {
        if running.depth >= MAX_CALL_DEPTH {
            return Err(calls::CallError::TooDeep);
        }
        let peer = PeerId::new(peer).map_err(|_| calls::CallError::NotFound)?;
        let tool = ToolName::new(tool).map_err(|_| calls::CallError::NotFound)?;
        let line = call_line(&peer, &tool);
        if !grant.call.allow(&peer, &tool) {
            running.witness.denied(Some(line), format!("it may not call `{tool}` of {peer}"));
            return Err(calls::CallError::NotFound);
        }
        running.witness.used(line);
        if !running.principal.may_use(&tool) {
            running.witness.denied(None, format!("its caller may not call a tool of the name `{tool}`"));
            return Err(calls::CallError::NotFound);
        }
        let invalid = |reason: String| calls::CallError::InvalidArguments(short(reason));
        let arguments: serde_json::Value =
            serde_json::from_str(arguments).map_err(|error| invalid(format!("the arguments are not JSON: {error}")))?;
        if !arguments.is_object() {
            return Err(invalid("the arguments are no JSON object".to_owned()));
        }
        let own = self.control.deadline();
        let asked = timeout_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        let request = Request {
            principal: running.principal.clone(),
            deadline: Some(asked.map_or(own, |asked| asked.min(own))),
            cancel: self.control.cancel_token().child_token(),
            trace: running.trace.child(),
            // The peer chooses how much it says: no more of it than the guest may say itself.
            observer: running.observer.within(self.control.limits().log_bytes),
            depth: running.depth.saturating_add(1),
            chain: running.chain,
            hops: running.hops,
            session: running.session.clone(),
            effect: running.effects.next(&["peer", peer.as_str(), tool.as_str()]),
            // A peer asks no client of ours.
            client: ClientLine::default(),
            place: PlaceNote::default(),
        };
        Ok((peer, Call::new(request, tool, arguments)))
    }
}

fn refusal(error: CallError) -> calls::CallError {
    let wait = error.retry_after().unwrap_or(NO_MEMORY_AGAIN);
    match error {
        CallError::UnknownTool(_) => calls::CallError::NotFound,
        CallError::InvalidArguments { .. } => calls::CallError::InvalidArguments(short(error.to_string())),
        CallError::Busy { .. } | CallError::TooMany { .. } | CallError::PeerBusy { .. } => {
            calls::CallError::Busy(millis(wait).max(1))
        }
        CallError::TooDeep => calls::CallError::TooDeep,
        // The peer answered that this host may not: to ask again changes nothing.
        CallError::Unreachable { reason, .. } if reason.starts_with(UNAUTHORIZED) => calls::CallError::NotFound,
        // The guest's error says itself that the peer does not take the call.
        CallError::Unreachable { reason, .. } => calls::CallError::Unreachable(short(reason)),
        CallError::OtherInterface | CallError::BuildGone { .. } => {
            calls::CallError::Unreachable(short(error.to_string()))
        }
        CallError::Interrupted { reason } => calls::CallError::Interrupted(short(reason)),
        CallError::BudgetExceeded { budget: Budget::Deadline, .. } => calls::CallError::TimedOut,
        CallError::BudgetExceeded { .. }
        | CallError::UnknownResource(_)
        | CallError::UnknownPrompt(_)
        | CallError::Failed(_)
        | CallError::Cancelled
        | CallError::Trapped(_)
        | CallError::InvalidResult { .. } => calls::CallError::Interrupted(short(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_lets_this_host_call_nothing_is_not_called_unreachable() {
        let refused = |reason: &str| refusal(CallError::Unreachable { peer: "P".into(), reason: reason.into() });
        let revoked = refused("unauthorized: this peer has no grant here; the operator makes an invitation");
        assert!(matches!(revoked, calls::CallError::NotFound), "{revoked:?}");
        assert!(matches!(refused("unauthorized"), calls::CallError::NotFound), "an old service says no more");
        let calls::CallError::Unreachable(reason) = refused("it does not answer") else {
            panic!("it may answer the next time")
        };
        assert_eq!(reason, "it does not answer", "the guest's error says the rest, once");
    }
}
