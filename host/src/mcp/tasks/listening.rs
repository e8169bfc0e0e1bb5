//! Tasks of which a subscription tells.

use std::time::Duration;

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rmcp::model::{DetailedTask, TaskStatus};
use tokio::sync::watch;

use super::POLL_MS;
use crate::{
    mcp::{handler::Endpoint, written::ResultWriter},
    memory::{MemoryUse, Reservation},
    registry::changes::MAX_SUBSCRIPTIONS,
    tenant::Principal,
};

/// The least time between two notifications of one task: what changes meanwhile is told at once.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// A task that cannot be read now is looked at again after this time.
const AGAIN: Duration = Duration::from_millis(POLL_MS);

/// Memory of a task that is listened to.
const TASK_BYTES: u64 = 1 << 10;

/// A task, at its next change.
struct Changed {
    id: String,
    /// None if the task has ended, or there is no more of it than its record.
    changes: Option<watch::Receiver<u64>>,
}

/// The tasks that a subscription tells of, each until its end.
pub(in crate::mcp) struct TaskListening {
    changes: FuturesUnordered<BoxFuture<'static, Changed>>,
    /// The one that is being looked at: whoever waits for the next one may stop, and ask again.
    looked_at: Option<Changed>,
    _memory: Option<Reservation>,
}

impl Endpoint {
    /// Begins to listen to those of the tasks that are there for the principal. Tells first how each is now.
    pub(in crate::mcp) async fn listen_to_tasks(
        &self,
        principal: &Principal,
        wanted: Vec<String>,
    ) -> (TaskListening, Vec<String>) {
        let (changes, mut ids) = (FuturesUnordered::new(), Vec::new());
        let most = u64::try_from(wanted.len().min(MAX_SUBSCRIPTIONS)).unwrap_or(u64::MAX);
        let share = self.registry().share(&principal.tenant);
        let memory =
            share.and_then(|share| share.memory.reserve(MemoryUse::Messages, most.saturating_mul(TASK_BYTES)).ok());
        let wanted = wanted.into_iter().take(MAX_SUBSCRIPTIONS).filter(|_| memory.is_some());
        for id in wanted {
            if ids.contains(&id) {
                continue;
            }
            // Counted as a request each.
            let Ok(found) = self.find_task(principal, &id).await else { continue };
            let changed = Changed { id: id.clone(), changes: found.live.map(|live| live.watch()) };
            changes.push(Box::pin(std::future::ready(changed)) as BoxFuture<'static, Changed>);
            ids.push(id);
        }
        (TaskListening { changes, looked_at: None, _memory: memory }, ids)
    }
}

impl TaskListening {
    /// The next task that has changed, as it is now. Never, if none is left. `writer`, if there is one, writes large results aside.
    pub(in crate::mcp) async fn next(
        &mut self,
        endpoint: &Endpoint,
        principal: &Principal,
        writer: Option<&ResultWriter>,
    ) -> DetailedTask {
        loop {
            if self.looked_at.is_none() {
                self.looked_at = self.changes.next().await;
            }
            let Some(Changed { id, .. }) = &self.looked_at else { return std::future::pending().await };
            let looked = endpoint.get_task(principal, id, writer.map(ResultWriter::for_message).as_ref()).await;
            let Some(Changed { id, changes }) = self.looked_at.take() else { continue };
            match looked {
                Ok(task) => {
                    let goes_on = matches!(task.task.status, TaskStatus::Working | TaskStatus::InputRequired);
                    if let (true, Some(mut changes)) = (goes_on, changes) {
                        self.changes.push(Box::pin(async move {
                            tokio::time::sleep(LEAST_PAUSE).await;
                            // An error is an end too.
                            let is_there = changes.changed().await.is_ok();
                            Changed { id, changes: is_there.then_some(changes) }
                        }));
                    }
                    return task;
                }
                // One that is gone, or another's by now, is not there at the next look either.
                Err(error) if error.code == rmcp::model::ErrorCode::INVALID_PARAMS => {}
                Err(_) => self.changes.push(Box::pin(async move {
                    tokio::time::sleep(AGAIN).await;
                    Changed { id, changes }
                })),
            }
        }
    }
}
