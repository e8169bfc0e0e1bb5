//! MCP tasks: calls that go on after their request was answered, in the words of the extension `io.modelcontextprotocol/tasks` (SEP-2663), and for clients that do not know it.
//!
//! The call runs in a task of its own. The host writes the task to disk before it gives the id away, and the result before it says that there is one. Each request is held to
//! the caller that made the task: for another one it is not there. What a task says and asks meanwhile is in memory alone. A call that has put off its answer asks and says it again after a restart.

mod abandoned;
pub(super) mod deferred;
mod kept;
mod listening;
mod live;
mod news;
pub(super) mod plan;
mod run;
pub(super) mod wait;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rmcp::model::{
    CallToolResponse, CallToolResult, CreateTaskResult, DetailedTask, ErrorData, InputResponses, JsonObject, Task,
    TaskPayload, TaskStatus,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use self::{
    abandoned::AbandonedAnswers,
    kept::KeptError,
    live::{LiveTask, LiveTasks, TaskView},
    news::NEWS_BYTES,
    plan::TaskPlan,
};
pub(super) use self::{listening::TaskListening, news::CallNews};
use super::{
    apart::Writers,
    convert,
    handler::Endpoint,
    inputs,
    parked::caller,
    running::{CallOutcome, RunningCall},
    tools::RECEIPT,
    written::ResultWriter,
};
use crate::{
    call::{CallError, inputs::Ability},
    control::admission::Share,
    registry::{Registry, WeakRegistry},
    store::StoreError,
    tasks::{EntryRight, InPlace, MAX_REASON_BYTES, NoTask, TaskEnd, TaskId, TaskRecord, TaskStore},
    tenant::{Principal, SCOPE_TOOLS},
};

/// How often a client is asked to look.
const POLL_MS: u64 = 500;
/// Memory of a task whose call runs, beside its guest and its questions.
const LIVE_BYTES: u64 = NEWS_BYTES + (8 << 10);
/// A kept result of no more than this goes into its answer as values; a larger one as the pieces of its JSON, as values take up to a hundred times as much.
const INLINE_BYTES: u64 = 1 << 10;

/// A host's tasks.
#[derive(Debug, Clone)]
pub(super) struct McpTasks {
    store: TaskStore,
    live: LiveTasks,
    /// Answers that were put off, and that nobody waits for any more.
    abandoned: AbandonedAnswers,
    writers: Arc<Writers>,
    registry: WeakRegistry,
}

/// Who makes a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskCaller<'a> {
    pub(super) principal: &'a Principal,
    pub(super) right: EntryRight,
}

/// A task that was made, for the answer to its request.
struct MadeTask {
    id: TaskId,
    record: TaskRecord,
    news: CallNews,
}

/// A task as its caller finds it.
struct FoundTask {
    id: TaskId,
    record: TaskRecord,
    live: Option<Arc<LiveTask>>,
}

/// Why there is no task for a caller.
#[derive(Debug, thiserror::Error)]
enum NotFound {
    /// There is none, it is another's, or its time is over: a thief learns no more than that.
    #[error("there is no task with this id; the host forgets a task some time after its end")]
    Unknown,
    #[error("the tasks cannot be read")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Refused(#[from] CallError),
    #[error("the caller lacks the scope `tools`")]
    NoScope,
}

impl From<NotFound> for ErrorData {
    fn from(error: NotFound) -> Self {
        match error {
            NotFound::Unknown => Self::invalid_params(error.to_string(), None),
            NotFound::NoScope => Self::invalid_request(error.to_string(), None),
            NotFound::Store(_) => Self::internal_error(crate::error::chain(&error), None),
            NotFound::Refused(refused) => {
                let reason = refused.to_string();
                convert::error(refused).err().unwrap_or_else(|| Self::internal_error(reason, None))
            }
        }
    }
}

impl McpTasks {
    pub(super) fn new(registry: &Registry) -> Self {
        let store = TaskStore::new(Arc::clone(registry.store()));
        let writers = Arc::new(Writers::new(Some(registry.engine().clone())));
        let (live, abandoned) = (LiveTasks::default(), AbandonedAnswers::default());
        Self { store, live, abandoned, writers, registry: registry.downgrade() }
    }

    /// Forgets what is over.
    pub(super) async fn tidy(&self) {
        self.store.sweep_all().await;
    }

    /// Stops the calls of those that came in by such a right and may not come in any more.
    pub(super) fn stop_unless(&self, right: EntryRight, comes_in: impl Fn(&Principal) -> bool) {
        self.live.stop_unless(right, &comes_in);
        self.abandoned.hurry_unless(right, comes_in);
    }

    /// The task with this id, if it is the principal's.
    async fn find(&self, principal: &Principal, id: &str) -> Result<FoundTask, NotFound> {
        if !principal.scopes.contains(SCOPE_TOOLS) {
            return Err(NotFound::NoScope);
        }
        let id = TaskId::read(id).ok_or(NotFound::Unknown)?;
        // Before the record: one that ends meanwhile has its end on disk by then.
        let live = self.live.get(id);
        let record = self.store.read(&principal.tenant, &principal.incarnation, id).await?;
        let is_callers = |record: &TaskRecord| record.owner == caller(principal) && principal.may_use(&record.tool);
        let record = record.filter(is_callers).ok_or(NotFound::Unknown)?;
        let live = match live.filter(|_| record.end.is_none()) {
            None => self.revive(principal, id, &record).await?,
            live => live,
        };
        Ok(FoundTask { id, record, live })
    }
}

impl Endpoint {
    /// Lets a call go on as a task. Gives it back if there is no room for one more.
    pub(super) async fn make_task(
        &self,
        caller: TaskCaller<'_>,
        running: RunningCall,
        plan: &TaskPlan,
    ) -> Result<CallToolResponse, (Box<RunningCall>, NoTask)> {
        let (told, made) = oneshot::channel();
        // Whatever becomes of the request: a task that is on disk has somebody who ends it.
        let owner = (caller.principal.clone(), caller.right);
        tokio::spawn(self.tasks().clone().run(owner, running, plan.clone(), told));
        match made.await {
            Ok(Ok(made)) => Ok(made.answer(plan)),
            Ok(Err(no_task)) => Err(no_task),
            // The host stops.
            Err(_) => std::future::pending().await,
        }
    }

    async fn find_task(&self, principal: &Principal, id: &str) -> Result<FoundTask, ErrorData> {
        let counted = self.registry().count_request(&principal.tenant).map_err(NotFound::Refused);
        counted?;
        Ok(self.tasks().find(principal, id).await?)
    }

    /// `tasks/get`. `writer`, if there is one, writes a large result aside.
    pub(super) async fn get_task(
        &self,
        principal: &Principal,
        id: &str,
        writer: Option<&ResultWriter>,
    ) -> Result<DetailedTask, ErrorData> {
        let FoundTask { id, record, live } = self.find_task(principal, id).await?;
        let view = live.map(|live| live.view());
        let mut task = wire(id, &record, view.as_ref());
        let payload = match record.end {
            None => match view.and_then(|view| view.requests) {
                Some(input_requests) => TaskPayload::InputRequired { input_requests },
                None => TaskPayload::Working,
            },
            Some(TaskEnd::Cancelled) => TaskPayload::Cancelled,
            Some(TaskEnd::Completed { bytes }) => {
                TaskPayload::Completed { result: self.inlined(principal, id, bytes, writer).await? }
            }
            Some(failed) => {
                let error = failure(&failed);
                task.status_message = error.get("message").and_then(Value::as_str).map(str::to_owned);
                TaskPayload::Failed { error }
            }
        };
        Ok(DetailedTask::new(task, payload))
    }

    /// The result of a task within the answer to `tasks/get`.
    async fn inlined(
        &self,
        principal: &Principal,
        id: TaskId,
        bytes: u64,
        writer: Option<&ResultWriter>,
    ) -> Result<JsonObject, ErrorData> {
        let broken = |reason: String| ErrorData::internal_error(reason, None);
        let share = self.registry().share(&principal.tenant).ok_or(NotFound::Unknown)?;
        let writer = writer.filter(|_| bytes > INLINE_BYTES).cloned();
        // On one thread, so that no more than one result of a tenant is there as values.
        let make = move |mut wire: CallToolResult| {
            if let Some(writer) = writer {
                let (is_error, meta) = (wire.is_error, wire.meta.clone());
                wire = writer.write_here(convert::from_result(wire), &share)?;
                (wire.is_error, wire.meta) = (is_error, meta);
            }
            Ok::<_, KeptError>(serde_json::to_value(&wire)?)
        };
        let kept = self.tasks().kept(&principal.tenant, (id, bytes), make).await;
        match kept.and_then(std::convert::identity) {
            Ok(Value::Object(result)) => Ok(result),
            Ok(_) => Err(broken("the kept result is none".to_owned())),
            Err(full @ KeptError::NoMemory(_)) => Err(ErrorData::new(convert::BUSY, crate::error::chain(&full), None)),
            Err(error) => Err(broken(crate::error::chain(&error))),
        }
    }

    /// `tasks/update`.
    pub(super) async fn update_task(
        &self,
        principal: &Principal,
        id: &str,
        responses: InputResponses,
    ) -> Result<(), ErrorData> {
        let found = self.find_task(principal, id).await?;
        if let Some(live) = found.running()? {
            live.may_ask().await;
            let live = Arc::clone(live);
            // The replies may be long, and their check too.
            let replied = self.registry().engine().spawn_blocking(move || live.reply(&responses)).await;
            let kept = replied.map_err(|_| ErrorData::internal_error("the replies were lost", None))?;
            kept.map_err(|full| convert::busy(crate::error::chain(&full)))?;
        }
        Ok(())
    }

    /// `tasks/cancel`. The task is cancelled when its call has stopped; one that has ended stays as it is.
    pub(super) async fn cancel_task(&self, principal: &Principal, id: &str) -> Result<(), ErrorData> {
        let found = self.find_task(principal, id).await?;
        if let Some(live) = found.running()? {
            live.cancel.cancel();
        }
        Ok(())
    }
}

impl FoundTask {
    /// The task, if it has not ended. Fails if it goes on from before a restart, and there is no room for it now.
    fn running(&self) -> Result<Option<&Arc<LiveTask>>, ErrorData> {
        match (&self.live, &self.record.end) {
            (None, None) => Err(no_room(&NoTask::NoMemory)),
            (live, _) => Ok(live.as_ref()),
        }
    }
}

impl MadeTask {
    fn answer(self, plan: &TaskPlan) -> CallToolResponse {
        match plan.in_place {
            InPlace::Handle => CreateTaskResult::new(wire(self.id, &self.record, None)).into(),
            InPlace::Result => {
                let waited = Duration::from_millis(plan.wait_ms);
                let mut result = wait::still_runs(self.id, &plan.tool, &self.news, waited);
                // A client that knows the tool's output schema takes no other structured content, and none at all only from a result that is an error.
                if plan.has_output {
                    (result.structured, result.is_error) = (None, true);
                }
                let mut wire = convert::result(result);
                let handle = json!({ "taskId": self.id.to_string() });
                wire.meta.get_or_insert_default().insert(wait::HANDLE.to_owned(), handle);
                CallToolResponse::Complete(wire)
            }
        }
    }
}

/// The error for a call that has to be a task and cannot be one now. It has not run.
pub(super) fn no_room(no_task: &NoTask) -> ErrorData {
    convert::busy(crate::error::chain(no_task))
}

/// A task as every message about it has it.
fn wire(id: TaskId, record: &TaskRecord, view: Option<&TaskView>) -> Task {
    let updated_ms = view.map_or(record.updated_ms, |view| view.updated_ms.max(record.updated_ms));
    let mut task = Task::new(id.to_string(), TaskStatus::Working, timestamp(record.created_ms), timestamp(updated_ms));
    task.status_message = view.and_then(|view| view.news.progress().map(str::to_owned));
    task.with_ttl_ms(record.ttl_ms).with_poll_interval_ms(POLL_MS)
}

/// RFC 3339.
fn timestamp(ms: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_millis(time).to_string()
}

/// The JSON-RPC error of a task that has failed.
fn failure(end: &TaskEnd) -> JsonObject {
    let error = match end {
        TaskEnd::Failed(error) => serde_json::from_str(error).ok(),
        TaskEnd::Lost(reason) => {
            Some(ErrorData::internal_error(format!("the call has run, but its result was lost: {reason}"), None))
        }
        _ => None,
    };
    let interrupted = || {
        let reason = "the host stopped while the call ran; it may have had effects, so look what came of it before calling again";
        ErrorData::internal_error(reason, Some(json!({ "error": "interrupted" })))
    };
    match serde_json::to_value(error.unwrap_or_else(interrupted)) {
        Ok(Value::Object(error)) => error,
        _ => JsonObject::new(),
    }
}

/// Makes the result that a task keeps.
type MakeResult = Box<dyn FnOnce() -> CallToolResult + Send>;

/// How a task ends with the outcome of its call: a tool's own error is a result, and only what would have been no result of a tool has failed.
async fn ending(
    (result, receipt): CallOutcome,
    wants_receipt: bool,
    undeclared: Option<Ability>,
    (writers, share): (&Writers, Option<Arc<Share>>),
) -> (TaskEnd, Bytes) {
    let make: Result<MakeResult, ErrorData> = match result {
        Err(CallError::Cancelled) => return (TaskEnd::Cancelled, Bytes::new()),
        Err(error @ (CallError::Trapped(_) | CallError::InvalidResult { .. } | CallError::Interrupted { .. })) => {
            Err(ErrorData::internal_error(error.to_string(), Some(json!({ "error": error.kind() }))))
        }
        Err(error) => convert::error(error).map(|made| Box::new(move || made) as MakeResult),
        Ok(result)
            if result.is_error
                && let Some(ability) = undeclared =>
        {
            Err(inputs::undeclared(ability))
        }
        Ok(result) => Ok(Box::new(move || convert::result(result))),
    };
    let write = |make: MakeResult| {
        move || {
            let mut wire = make();
            if wants_receipt {
                wire.meta.get_or_insert_default().insert(RECEIPT.to_owned(), receipt.json());
            }
            serde_json::to_vec(&wire)
        }
    };
    let written = match make {
        Ok(make) => match writers.write(share.as_deref(), write(make)).await {
            Some(Ok(json)) => Ok(json),
            _ => Err(ErrorData::internal_error("the result cannot be written", None)),
        },
        Err(error) => Err(error),
    };
    match written {
        Ok(json) => (TaskEnd::Completed { bytes: u64::try_from(json.len()).unwrap_or(u64::MAX) }, json.into()),
        Err(mut error) => {
            let mut message = error.message.into_owned();
            message.truncate(message.floor_char_boundary(MAX_REASON_BYTES));
            error.message = message.into();
            (TaskEnd::Failed(serde_json::to_string(&error).unwrap_or_default()), Bytes::new())
        }
    }
}
