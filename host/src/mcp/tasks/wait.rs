//! The host's tool `task_wait`: the rest of a call that took longer than its client waits, for clients that know no tasks.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{CallNews, FoundTask, McpTasks, NotFound, failure, live::LiveTask};
use crate::{
    call::{CallError, Content, Receipt, Request, ToolResult, interface::InterfaceDigest},
    capability::bindings::exports::mcpp::tool::tools::{Annotations, Tool as ToolListing},
    limits::{Limits, TaskSupport},
    mcp::convert,
    names::{ComponentName, ToolName},
    registry::{
        error::InstallError,
        remote::CallRemote,
        tool::{Powers, Tool, ToolTarget},
    },
    tasks::{TaskEnd, TaskId},
};

/// Its name.
pub(in crate::mcp) const TASK_WAIT: &str = "task_wait";
/// By this a result that is none yet names its task in `_meta`.
pub(super) const HANDLE: &str = "mcpp/task";
/// A call of it ends before the deadline that its caller set.
const BEFORE_DEADLINE: Duration = Duration::from_millis(500);

/// Waits for tasks.
#[derive(Debug)]
struct TaskWait {
    tasks: McpTasks,
}

/// The tool, for the host's catalog.
pub(in crate::mcp) fn tool(tasks: &McpTasks) -> Result<Tool, InstallError> {
    let name = ToolName::new(TASK_WAIT);
    let name = name.map_err(|error| InstallError::Tool { tool: TASK_WAIT.to_owned(), reason: error.to_string() })?;
    let schema = json!({
        "type": "object",
        "properties": {
            "task": { "type": "string", "description": "The task that the answer of the call named." },
            "cancel": { "type": "boolean", "description": "Stop the call." },
        },
        "required": ["task"],
        "additionalProperties": false,
    });
    let listing = ToolListing {
        name: TASK_WAIT.to_owned(),
        title: None,
        description: "Waits for the answer of a call that had not ended when its own answer was due. Gives that answer, or how far the call has come by now: then call this again.".to_owned(),
        input_schema: schema.to_string(),
        output_schema: None,
        annotations: Annotations { read_only: None, destructive: None, idempotent: Some(true), open_world: Some(false) },
    };
    let powers = Arc::new(Powers::none(ComponentName::of_host()));
    // The task's own limit says how long it waits.
    let limits = Limits { deadline_ms: 86_400_000, output_bytes: 256 << 20, ..Limits::default() };
    let target = ToolTarget::Remote(Arc::new(TaskWait { tasks: tasks.clone() }));
    let mut tool = Tool::new(&powers, name, listing, target, limits)?;
    tool.task = TaskSupport::Never;
    Ok(tool)
}

impl CallRemote for TaskWait {
    fn call(
        &self,
        request: Request,
        arguments: Value,
        _: InterfaceDigest,
    ) -> BoxFuture<'_, (Result<ToolResult, CallError>, Receipt)> {
        Box::pin(async move { (self.wait(&request, &arguments).await, Receipt::default()) })
    }
}

impl TaskWait {
    async fn wait(&self, request: &Request, arguments: &Value) -> Result<ToolResult, CallError> {
        let id = arguments.get("task").and_then(Value::as_str).unwrap_or_default();
        let (principal, begun) = (&request.principal, Instant::now());
        let mut found = self.find(request, id).await?;
        if arguments.get("cancel") == Some(&Value::Bool(true))
            && let Some(live) = &found.live
        {
            live.cancel.cancel();
        }
        let patience = Duration::from_millis(found.record.wait_ms);
        let until = begun.checked_add(patience).unwrap_or(begun);
        let callers = request.deadline.and_then(|deadline| deadline.checked_sub(BEFORE_DEADLINE));
        let until = callers.map_or(until, |callers| callers.min(until));
        if let Some(live) = found.live.clone() {
            tokio::select! {
                () = self.ended(&live) => found = self.find(request, id).await?,
                () = tokio::time::sleep_until(until) => {}
                () = request.cancel.cancelled() => return Err(CallError::Cancelled),
            }
        }
        let FoundTask { id, record, live } = found;
        match record.end {
            None => {
                let news = live.map(|live| live.view().news).unwrap_or_default();
                Ok(still_runs(id, &record.tool, &news, begun.elapsed()))
            }
            Some(TaskEnd::Completed { bytes }) => {
                let kept = self.tasks.kept(&principal.tenant, (id, bytes), convert::from_result).await;
                kept.map_err(|error| CallError::Failed(crate::error::chain(&error)))
            }
            Some(TaskEnd::Cancelled) => Err(CallError::Failed(format!("the call of `{}` was cancelled", record.tool))),
            Some(failed) => {
                let error = failure(&failed);
                let reason = error.get("message").and_then(Value::as_str).unwrap_or("it has failed");
                Err(CallError::Failed(format!("the call of `{}` has no answer: {reason}", record.tool)))
            }
        }
    }

    async fn find(&self, request: &Request, id: &str) -> Result<FoundTask, CallError> {
        self.tasks.find(&request.principal, id).await.map_err(|error| match error {
            NotFound::Refused(refused) => refused,
            other => CallError::Failed(crate::error::chain(&other)),
        })
    }

    /// Resolves when the task has ended.
    async fn ended(&self, live: &LiveTask) {
        let mut changes = live.watch();
        while self.tasks.live.get(live.id).is_some() && changes.changed().await.is_ok() {}
    }
}

/// The answer in the place of one that is not there yet.
pub(super) fn still_runs(id: TaskId, tool: &ToolName, news: &CallNews, waited: Duration) -> ToolResult {
    let mut text = format!(
        "`{tool}` has not ended after {} s and goes on. Call `{TASK_WAIT}` with {{\"task\":\"{id}\"}} for its answer, or with {{\"task\":\"{id}\",\"cancel\":true}} to stop it.",
        waited.as_secs(),
    );
    let mut state =
        Map::from_iter([("task".to_owned(), id.to_string().into()), ("status".to_owned(), "working".into())]);
    if let Some(progress) = news.progress() {
        let _a_string_takes_all = write!(text, "\nProgress: {progress}");
        state.insert("progress".to_owned(), progress.into());
    }
    let log: Vec<&str> = news.log().collect();
    if !log.is_empty() {
        let _a_string_takes_all = write!(text, "\nLog:\n{}", log.join("\n"));
        state.insert("log".to_owned(), log.into());
    }
    ToolResult { content: vec![Content::Text(text)], structured: Some(Value::Object(state)), ..ToolResult::default() }
}
