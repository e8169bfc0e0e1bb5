//! The life of a task: from its record to its end, and on after a restart if its call has put off its answer.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{CallNews, LIVE_BYTES, MadeTask, McpTasks, deferred::Follower, ending, live::LiveTask, plan::TaskPlan};
use crate::{
    call::{
        CallError, Observer, Receipt, Request,
        inputs::{Abilities, ClientLine},
    },
    mcp::{
        parked::caller,
        running::{CallEvents, CallStep, GuestQuestions, HeardEvents, RunningCall},
    },
    memory::MemoryUse,
    names::TenantId,
    registry::Registry,
    store::StoreError,
    tasks::{EntryRight, InPlace, NoTask, TaskBounds, TaskId, TaskRecord, TaskWork},
    tenant::Principal,
};

/// A task whose call runs.
struct TaskRun {
    tasks: McpTasks,
    live: Arc<LiveTask>,
    record: TaskRecord,
    /// For how long a result is kept, in milliseconds.
    keep_ms: u64,
}

impl McpTasks {
    /// Makes a task of a call, tells of it, and brings it to its end. Gives the call back if there is no room for one more.
    pub(super) async fn run(
        self,
        (principal, right): (Principal, EntryRight),
        mut running: RunningCall,
        plan: TaskPlan,
        told: oneshot::Sender<Result<MadeTask, (Box<RunningCall>, NoTask)>>,
    ) {
        let (live, record) = match self.begin((&principal, right), running.task_parts(), &plan).await {
            Ok(begun) => begun,
            Err(no_task) => {
                tracing::debug!(tenant = %principal.tenant, error = crate::error::chain(&no_task), "a call does not become a task");
                if let Err(Err((running, _))) = told.send(Err((Box::new(running), no_task))) {
                    running.cancel_token().cancel();
                    running.run_unheard().await;
                }
                return;
            }
        };
        let made = MadeTask { id: live.id, record: record.clone(), news: running.news.clone() };
        if told.send(Ok(made)).is_err() {
            // Nobody learned its id.
            live.cancel.cancel();
        }
        TaskRun { tasks: self, live, record, keep_ms: plan.keep_ms }.complete(&mut running).await;
    }

    async fn begin(
        &self,
        (principal, right): (&Principal, EntryRight),
        (cancel, news): (CancellationToken, CallNews),
        plan: &TaskPlan,
    ) -> Result<(Arc<LiveTask>, TaskRecord), NoTask> {
        let share = self.registry.upgrade().and_then(|registry| registry.share(&principal.tenant));
        let share = share.ok_or(NoTask::TooMany(0))?;
        let memory = share.memory.reserve(MemoryUse::Messages, LIVE_BYTES).map_err(|_| NoTask::NoMemory)?;
        let ttl_ms = plan.deadline_ms.saturating_add(plan.keep_ms);
        let record = TaskRecord::new(caller(principal), plan.tool.clone(), ttl_ms, plan.wait_ms);
        let bounds = self.bounds(&principal.tenant);
        let id = self.store.create(&principal.tenant, &principal.incarnation, bounds, &record).await?;
        let owner = (right, principal.clone());
        let live = Arc::new(LiveTask::new(id, owner, cancel, (plan.in_place, news), memory));
        self.live.insert(&live);
        metrics::counter!("mcpp_tasks_begun_total").increment(1);
        Ok((live, record))
    }

    fn bounds(&self, tenant: &TenantId) -> TaskBounds {
        let share = self.registry.upgrade().and_then(|registry| registry.share(tenant));
        let limits = share.map(|share| share.limits).unwrap_or_default();
        TaskBounds { tasks: limits.tasks, bytes: limits.task_bytes }
    }

    /// Lets a task go on that has work from before the host was started; none if it has none, or there is no room for it now.
    pub(super) async fn revive(
        &self,
        principal: &Principal,
        id: TaskId,
        record: &TaskRecord,
    ) -> Result<Option<Arc<LiveTask>>, StoreError> {
        let (Some(registry), Some(work), None) = (self.registry.upgrade(), &record.work, &record.end) else {
            return Ok(None);
        };
        let share = registry.share(&principal.tenant).filter(|_| !registry.stopping().is_cancelled());
        let memory = share.and_then(|share| share.memory.reserve(MemoryUse::Messages, LIVE_BYTES).ok());
        let Some(memory) = memory else { return Ok(None) };
        let mut running = self.revived(&registry, principal, record, work);
        let (cancel, news) = running.task_parts();
        let owner = (work.right, principal.clone());
        let live = Arc::new(LiveTask::revived(id, owner, cancel, (work.in_place, news), memory));
        self.store.goes_on(&principal.tenant, &principal.incarnation, id).await?;
        let first = self.live.get_or_insert(&live);
        if Arc::ptr_eq(&first, &live) {
            // It may have ended since its record was read.
            let now = self.store.read(&principal.tenant, &principal.incarnation, id).await;
            if !matches!(&now, Ok(Some(record)) if record.end.is_none()) {
                self.live.remove(id);
                return now.map(|_| None);
            }
            let run = TaskRun { tasks: self.clone(), live, record: record.clone(), keep_ms: work.keep_ms };
            tokio::spawn(async move { run.complete(&mut running).await });
        }
        Ok(Some(first))
    }
}

impl McpTasks {
    /// What waits for the answer of a call that ran before the host was started.
    fn revived(&self, registry: &Registry, principal: &Principal, record: &TaskRecord, work: &TaskWork) -> RunningCall {
        let account = registry.share(&principal.tenant).map(|share| Arc::clone(&share.memory));
        let (observer, events) = Observer::new(None, true, account);
        let cancel = CancellationToken::new();
        let (client, rounds) = ClientLine::new(Abilities { form: work.has_user, ..Abilities::default() });
        let request =
            Request { observer, cancel: cancel.clone(), client: client.clone(), ..Request::of(principal.clone()) };
        let (follower, handle) = (Follower::new((registry, self), &request, &record.tool, None), work.handle.clone());
        let outcome = Box::pin(async move { (follower.follow(handle).await, Receipt::default()) });
        let asked = GuestQuestions::new(client, rounds, None);
        RunningCall::new(outcome, CallEvents::new(events), cancel, asked, false, (HeardEvents::default(), None))
    }
}

impl TaskRun {
    async fn complete(mut self, running: &mut RunningCall) {
        let outcome = loop {
            match running.step().await {
                Ok(CallStep::Defers(handle)) => self.defer(handle, running.client().abilities()).await,
                Ok(step) => self.live.step(step),
                Err(outcome) => break outcome,
            }
        };
        let Self { tasks, live, record, keep_ms } = self;
        let (_, principal) = &live.owner;
        let host_stops = tasks.registry.upgrade().is_none_or(|registry| registry.stopping().is_cancelled());
        let is_end = !matches!(outcome.0, Err(CallError::Interrupted { .. } | CallError::Cancelled));
        if record.work.is_some() && host_stops && !is_end {
            // The work goes on, and so does the task when the host is back.
            tasks.live.remove(live.id);
            live.tell();
            return;
        }
        let share = tasks.registry.upgrade().and_then(|registry| registry.share(&principal.tenant));
        let undeclared = running.client().undeclared().filter(|_| live.in_place == InPlace::Handle);
        let (end, result) = ending(outcome, running.wants_receipt, undeclared, (&tasks.writers, share)).await;
        metrics::counter!("mcpp_tasks_ended_total", "end" => end.name()).increment(1);
        let ended = (end, result, keep_ms);
        let bounds = tasks.bounds(&principal.tenant);
        let kept = tasks.store.end(&principal.tenant, &principal.incarnation, live.id, record, ended, bounds).await;
        match kept {
            Err(error) => {
                tracing::error!(tenant = %principal.tenant, error = crate::error::chain(&error), "the end of a task is lost");
            }
            Ok(record) => tracing::debug!(tenant = %principal.tenant, tool = %record.tool, "a task has ended"),
        }
        tasks.live.remove(live.id);
        live.tell();
    }

    /// Notes that the call has put off its answer, so that the task can go on after a restart.
    async fn defer(&mut self, handle: String, abilities: Abilities) {
        let ((right, principal), in_place, keep_ms) = (&self.live.owner, self.live.in_place, self.keep_ms);
        self.record.defer(TaskWork { handle, right: *right, in_place, has_user: abilities.form, keep_ms });
        let noted = self.tasks.store.note_work(&principal.tenant, self.live.id, &self.record).await;
        if let Err(error) = noted {
            tracing::warn!(tenant = %principal.tenant, error = crate::error::chain(&error), "a task will not go on after a restart");
        }
    }
}
