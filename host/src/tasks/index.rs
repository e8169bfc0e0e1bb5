//! The ids of one tenant's tasks in memory, so that their number is bounded and a guessed id costs no disk.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use super::record::TaskId;
use crate::{limits::now_ms, store::StoreError, tenant::Incarnation};

/// One tenant's ids.
#[derive(Debug)]
pub(super) struct TaskIndex {
    incarnation: Incarnation,
    is_read: OnceCell<()>,
    tasks: Mutex<HashMap<TaskId, KnownTask>>,
}

/// What is known of a task without the disk.
#[derive(Debug, Clone, Copy)]
enum KnownTask {
    Runs,
    /// Kept until then, in milliseconds since 1970.
    Ended(u64),
}

impl TaskIndex {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self { incarnation, is_read: OnceCell::new(), tasks: Mutex::default() }
    }

    pub(super) fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    pub(super) fn is_of(&self, incarnation: &Incarnation) -> bool {
        self.incarnation == *incarnation
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<TaskId, KnownTask>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what `read` finds on disk, the first time.
    pub(super) async fn read_once<R: Future<Output = Result<Vec<(TaskId, u64)>, StoreError>>>(
        &self,
        read: impl FnOnce() -> R,
    ) -> Result<(), StoreError> {
        let read = || async {
            let found = read().await?;
            self.tasks().extend(found.into_iter().map(|(id, expires)| (id, KnownTask::Ended(expires))));
            Ok(())
        };
        self.is_read.get_or_try_init(read).await.map(drop)
    }

    /// Notes a task that begins, if there are less than `most`.
    pub(super) fn begin(&self, id: TaskId, most: u64) -> bool {
        let mut tasks = self.tasks();
        let has_room = u64::try_from(tasks.len()).is_ok_and(|tasks| tasks < most);
        if has_room {
            tasks.insert(id, KnownTask::Runs);
        }
        has_room
    }

    /// Notes that a task runs that is known.
    pub(super) fn goes_on(&self, id: TaskId) {
        self.tasks().insert(id, KnownTask::Runs);
    }

    /// Notes the end of a task, and until when it is kept.
    pub(super) fn end(&self, id: TaskId, expires_ms: u64) {
        self.tasks().insert(id, KnownTask::Ended(expires_ms));
    }

    pub(super) fn forget(&self, id: TaskId) {
        self.tasks().remove(&id);
    }

    /// Whether a task runs; none if there is none, or its time is over.
    pub(super) fn look(&self, id: TaskId) -> Option<bool> {
        match self.tasks().get(&id)? {
            KnownTask::Runs => Some(true),
            KnownTask::Ended(expires_ms) => (*expires_ms > now_ms()).then_some(false),
        }
    }

    /// The tasks whose time is over. One that runs has time.
    pub(super) fn expired(&self) -> Vec<TaskId> {
        let now = now_ms();
        let over = |known: &KnownTask| matches!(known, KnownTask::Ended(expires_ms) if *expires_ms <= now);
        self.tasks().iter().filter(|(_, known)| over(known)).map(|(id, _)| *id).collect()
    }
}
