//! Errors of calls, and which of these errors promise that the call has not run.

use std::time::Duration;

use super::{Budget, MAX_CALL_DEPTH};
use crate::names::ToolName;

/// Reason for which a call has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// No such tool for this principal.
    #[error("unknown tool `{0}`")]
    UnknownTool(ToolName),
    /// No such resource for this principal.
    #[error("there is no resource `{0}`")]
    UnknownResource(String),
    /// No such prompt for this principal.
    #[error("there is no prompt `{0}`")]
    UnknownPrompt(String),
    /// The component could not give what was asked of it; why.
    #[error("{0}")]
    Failed(String),
    /// The arguments do not match the input schema, or the tool refused one.
    #[error("invalid argument{}: {reason}", at(path))]
    InvalidArguments {
        /// JSON pointer into the arguments.
        path: String,
        /// The fault.
        reason: String,
    },
    /// A limit on concurrency is reached; the call has not run and may be repeated.
    #[error("busy: {limit} {what} already; try again in {} ms", retry_after.as_millis())]
    Busy {
        /// The things that are too many, such as `instances run`.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// There were too many calls in too short a time; this one has not run and may be repeated.
    #[error("too many calls: at most {limit} in a minute for this {of}; try again in {} ms", retry_after.as_millis())]
    TooMany {
        /// Owner of the rate: the tool or the tenant.
        of: &'static str,
        /// How many calls are allowed in a minute.
        limit: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// The peer that has the tool cannot be reached, or does not let this host call it. The call has not run and may be made elsewhere.
    #[error("the peer {peer} does not take the call: {reason}; the call has not run")]
    Unreachable {
        /// The peer.
        peer: String,
        /// The error.
        reason: String,
    },
    /// The peer that has the tool has no room now; the call has not run and may be repeated.
    #[error("the peer is busy: {reason}; try again in {} ms", retry_after.as_millis())]
    PeerBusy {
        /// In the peer's words.
        reason: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The tool has another interface than the caller knows. The call has not run, and the caller has to read the list anew.
    #[error("the tool has another interface than the caller knows; read the list anew. The call has not run")]
    OtherInterface,
    /// A build that the caller has pinned cannot be had. The call has not run.
    #[error("`{tool}` is not there as it was when the caller began: {reason}; the call has not run")]
    BuildGone {
        /// The tool.
        tool: ToolName,
        /// The build, and what has become of it.
        reason: String,
    },
    /// Tools call tools too deeply.
    #[error("calls are nested deeper than {MAX_CALL_DEPTH}")]
    TooDeep,
    /// A budget ran out; the call was stopped.
    #[error("budget `{budget}` exceeded: the tool was stopped at {limit}")]
    BudgetExceeded {
        /// The budget.
        budget: Budget,
        /// Size of the budget, in its unit.
        limit: u64,
    },
    /// The host had no room to continue the call after the guest had begun to act.
    /// The call may have had effects, so the caller must not simply repeat it.
    #[error(
        "the call was stopped in the middle: {reason}; it may have had effects, so look what came of it before calling again"
    )]
    Interrupted {
        /// The resource that ran short.
        reason: String,
    },
    /// The caller gave up; the call was stopped.
    #[error("the call was cancelled")]
    Cancelled,
    /// The guest trapped.
    #[error("the tool crashed: {0}")]
    Trapped(String),
    /// The guest's result breaks its own contract.
    #[error("the tool's result is invalid{}: {reason}", at(path))]
    InvalidResult {
        /// JSON pointer into the structured result.
        path: String,
        /// The fault.
        reason: String,
    },
}

impl CallError {
    /// When to repeat the call, if it has not run for want of room.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } | Self::TooMany { retry_after, .. } | Self::PeerBusy { retry_after, .. } => {
                Some(*retry_after)
            }
            _ => None,
        }
    }

    /// The error that the host reports once the guest has begun to act. It never says that the call has not run.
    #[must_use]
    pub fn after_effects(self) -> Self {
        match self {
            Self::Busy { what, limit, .. } => Self::Interrupted { reason: format!("{limit} {what} already") },
            Self::TooMany { of, limit, .. } => {
                Self::Interrupted { reason: format!("more than {limit} calls in a minute for this {of}") }
            }
            Self::PeerBusy { reason, .. } => Self::Interrupted { reason: format!("a peer is busy: {reason}") },
            Self::Unreachable { peer, reason } => {
                Self::Interrupted { reason: format!("the peer {peer} does not take a call: {reason}") }
            }
            Self::OtherInterface => {
                Self::Interrupted { reason: "a tool has another interface than the caller knows".to_owned() }
            }
            Self::BuildGone { tool, reason } => Self::Interrupted { reason: format!("`{tool}`: {reason}") },
            other => other,
        }
    }

    /// Whether the call cannot have run, so that it may be made again or elsewhere.
    pub fn has_not_run(&self) -> bool {
        self.retry_after().is_some()
            || matches!(self, Self::Unreachable { .. } | Self::OtherInterface | Self::BuildGone { .. })
    }

    /// A short, stable name for metrics and scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UnknownTool(_) => "unknown_tool",
            Self::UnknownResource(_) => "unknown_resource",
            Self::UnknownPrompt(_) => "unknown_prompt",
            Self::Failed(_) => "failed",
            Self::InvalidArguments { .. } => "invalid_arguments",
            Self::Busy { .. } | Self::PeerBusy { .. } => "busy",
            Self::TooMany { .. } => "too_many",
            Self::Unreachable { .. } => "unreachable",
            Self::OtherInterface => "other_interface",
            Self::BuildGone { .. } => "build_gone",
            Self::TooDeep => "too_deep",
            Self::BudgetExceeded { .. } => "budget_exceeded",
            Self::Interrupted { .. } => "interrupted",
            Self::Cancelled => "cancelled",
            Self::Trapped(_) => "trapped",
            Self::InvalidResult { .. } => "invalid_result",
        }
    }
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" at `{path}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_of_a_call_that_may_have_had_effects_says_when_to_repeat_it() {
        let retry_after = Duration::from_secs(1);
        let busy = CallError::Busy { what: "instances run", limit: 3, retry_after };
        let too_many = CallError::TooMany { of: "tool", limit: 3, retry_after };
        for refusal in [busy, too_many, CallError::OtherInterface] {
            assert!(refusal.has_not_run(), "it has not run");
            let after = refusal.after_effects();
            assert_eq!((after.kind(), after.retry_after()), ("interrupted", None));
            assert!(!after.to_string().contains("again in"), "{after}");
        }
        assert_eq!(CallError::Cancelled.after_effects().kind(), "cancelled");
    }
}
