//! Whether a call becomes a task, and when: decided before it begins.

use std::time::Duration;

use rmcp::model::{ClientCapabilities, ErrorData};

use super::wait::TASK_WAIT;
use crate::{
    limits::TaskSupport,
    mcp::tools::CallRequest,
    names::ToolName,
    registry::{catalog::Catalog, tool::Tool},
    tasks::InPlace,
    tenant::Principal,
};

/// What a client says of tasks with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mcp) enum TaskWish {
    /// It declares the extension.
    Declared,
    /// It does not.
    Undeclared,
    /// It speaks an era that has no such extension.
    Legacy,
    /// It is no client of MCP, and waits for the answer.
    Waits,
}

impl TaskWish {
    /// Of a request of the modern era.
    pub(in crate::mcp) fn of(declared: &ClientCapabilities) -> Self {
        if declared.supports_tasks() { Self::Declared } else { Self::Undeclared }
    }
}

/// When a call becomes a task.
#[derive(Debug, Clone)]
pub(in crate::mcp) struct TaskPlan {
    pub(in crate::mcp) tool: ToolName,
    /// For how long the client waits for the answer; none if the call is a task from its beginning.
    pub(in crate::mcp) after: Option<Duration>,
    pub(in crate::mcp) in_place: InPlace,
    /// For how long a result is kept, in milliseconds.
    pub(super) keep_ms: u64,
    /// How long the call itself may take.
    pub(super) deadline_ms: u64,
    /// For how long one `task_wait` waits.
    pub(super) wait_ms: u64,
    /// Whether the tool promises structured content of its own.
    pub(super) has_output: bool,
    /// Whether calls may put off their answers.
    pub(in crate::mcp) defers: bool,
    /// For how long a client is asked, in milliseconds.
    input_ms: u64,
}

impl TaskPlan {
    /// The plan for a call of a tool of `catalog`; none if the call never becomes a task. Fails if it has to be one, and its client does not know tasks.
    pub(in crate::mcp) fn make(
        catalog: &Catalog,
        tool: Option<&Tool>,
        principal: &Principal,
        request: &CallRequest,
    ) -> Result<Option<Self>, ErrorData> {
        let Some(tool) = tool.filter(|tool| tool.is_for(principal)) else { return Ok(None) };
        // Another host, which says how long it waits, is no client.
        let waits = request.way.patience.is_some();
        let has_wait =
            || ToolName::new(TASK_WAIT).is_ok_and(|wait| catalog.tool(&wait).is_some_and(|wait| wait.is_of_host()));
        let limits = &tool.service.limits;
        let after_ms = match (tool.task, request.tasks) {
            (TaskSupport::Never, _) | (_, TaskWish::Waits) => return Ok(None),
            (TaskSupport::Must, TaskWish::Declared) => None,
            (TaskSupport::Must, TaskWish::Undeclared) if !waits => return Err(needs_tasks()),
            (TaskSupport::May, TaskWish::Declared)
                if limits.deadline_ms > limits.task_after_ms || tool.deferred.is_some() =>
            {
                Some(limits.task_after_ms)
            }
            (_, TaskWish::Declared) => return Ok(None),
            _ if !waits && tool.is_long() && has_wait() => Some(limits.long_call_s.saturating_mul(1_000)),
            _ => return Ok(None),
        };
        let in_place = if request.tasks == TaskWish::Declared { InPlace::Handle } else { InPlace::Result };
        Ok(Some(Self::of(tool, after_ms.map(Duration::from_millis), in_place)))
    }

    /// For how long the work of an answer that was put off asks the client's user. A client that knows tasks has no end of its patience: it looks when it likes.
    pub(in crate::mcp) fn user_waits_for(&self) -> Option<Duration> {
        (self.in_place == InPlace::Result).then_some(Duration::from_millis(self.input_ms))
    }

    fn of(tool: &Tool, after: Option<Duration>, in_place: InPlace) -> Self {
        let limits = &tool.service.limits;
        Self {
            tool: tool.name.clone(),
            after,
            in_place,
            keep_ms: limits.task_ttl_s.saturating_mul(1_000),
            deadline_ms: limits.deadline_ms,
            wait_ms: limits.long_call_s.saturating_mul(1_000),
            has_output: tool.output.is_some(),
            defers: tool.deferred.is_some(),
            input_ms: limits.input_ms,
        }
    }
}

/// The error for a client that does not say that it knows tasks.
fn needs_tasks() -> ErrorData {
    ErrorData::missing_required_client_capability(ClientCapabilities::builder().enable_tasks().build())
}
