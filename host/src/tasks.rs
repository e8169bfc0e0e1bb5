//! Tasks of calls, on disk: a call whose client got a handle in the place of the answer, and the result that waits for the client.
//!
//! A task is in its tenant's own file before anybody learns its id. Each tenant has a bound on the number of its tasks and on their bytes. The host forgets a task when its
//! time is over. A task that the file calls running at its first use in this process cannot go on: it has been interrupted, and says so. One whose call has put off its answer goes on
//! when somebody asks for it. The words of a result are the owner's.

mod index;
mod record;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use self::index::TaskIndex;
pub use self::record::{EntryRight, InPlace, MAX_REASON_BYTES, MAX_WORK_MS, TaskEnd, TaskId, TaskRecord, TaskWork};
use crate::{
    names::{ComponentName, TenantId},
    store::{Bounds, Scan, Section, Space, Store, StoreError},
    tenant::Incarnation,
};

/// Bytes of a result in one entry.
const CHUNK_BYTES: usize = 512 << 10;
/// Entries of a result in one transaction.
const CHUNKS_AT_ONCE: usize = 4;
/// The first byte of the keys of records, and of results.
const RECORDS: u8 = b'r';
const RESULTS: u8 = b'c';

/// All tenants' tasks. Clones share them.
#[derive(Debug, Clone)]
pub struct TaskStore(Arc<TaskTenants>);

#[derive(Debug)]
struct TaskTenants {
    store: Arc<dyn Store>,
    tenants: Mutex<HashMap<TenantId, Arc<TaskIndex>>>,
}

/// How much a tenant may keep.
#[derive(Debug, Clone, Copy)]
pub struct TaskBounds {
    /// Tasks, in number.
    pub tasks: u64,
    /// All of them with their results, in bytes.
    pub bytes: u64,
}

/// Why a call does not become a task.
#[derive(Debug, thiserror::Error)]
pub enum NoTask {
    /// There are too many.
    #[error("the tenant has {0} tasks already (`tasks`)")]
    TooMany(u64),
    /// The store refuses or fails.
    #[error("the task cannot be kept")]
    Store(#[from] StoreError),
    /// There is no memory for it.
    #[error("there is no memory for one more task")]
    NoMemory,
    /// The system gives no random bytes for an id.
    #[error("there is no random id")]
    NoId,
}

impl TaskStore {
    /// Tasks in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(Arc::new(TaskTenants { store, tenants: Mutex::default() }))
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<TaskIndex>>> {
        self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tasks of a tenant; those of an earlier tenant of the same name are not its own.
    async fn index(&self, tenant: &TenantId, incarnation: &Incarnation) -> Result<Arc<TaskIndex>, StoreError> {
        let index = {
            let mut tenants = self.tenants();
            let known = tenants.get(tenant).filter(|index| index.is_of(incarnation)).cloned();
            known.unwrap_or_else(|| {
                let index = Arc::new(TaskIndex::new(incarnation.clone()));
                tenants.insert(tenant.clone(), Arc::clone(&index));
                index
            })
        };
        index.read_once(|| self.read_all(tenant)).await?;
        Ok(index)
    }

    /// Reads what the file has at its first use here. A task that ran then has been interrupted.
    async fn read_all(&self, tenant: &TenantId) -> Result<Vec<(TaskId, u64)>, StoreError> {
        let space = space(tenant);
        let (mut found, mut interrupted) = (Vec::new(), Vec::new());
        let mut range = Section::Tasks.prefix(&[RECORDS]);
        loop {
            let page =
                self.0.store.snapshot(&space).await?.scan(&range, Scan::first(crate::store::MAX_PAGE_ENTRIES)).await?;
            for entry in &page.entries {
                // What cannot be read is of no use to anybody, and is forgotten at once.
                let Some(id) = TaskId::from_key(&entry.key) else { continue };
                let record = TaskRecord::read(&entry.value);
                found.push((id, record.as_ref().map_or(0, TaskRecord::expires_ms)));
                if let Some(mut record) = record
                    && record.end.is_none()
                    && record.work.is_none()
                {
                    record.finish(TaskEnd::Interrupted, 0);
                    interrupted.push((record_key(id), Some(record.write())));
                }
            }
            match page.entries.last() {
                Some(last) if page.more => range.start = crate::store::after_key(&last.key),
                _ => break,
            }
        }
        if !interrupted.is_empty() {
            tracing::info!(%tenant, tasks = interrupted.len(), "tasks that ran when the host stopped have failed");
            self.write(&space, interrupted, u64::MAX).await?;
        }
        Ok(found)
    }

    /// Keeps a new task, durably, if the tenant has room for it.
    pub async fn create(
        &self,
        tenant: &TenantId,
        incarnation: &Incarnation,
        bounds: TaskBounds,
        record: &TaskRecord,
    ) -> Result<TaskId, NoTask> {
        self.sweep(tenant, incarnation).await?;
        let index = self.index(tenant, incarnation).await?;
        let id = TaskId::random().ok_or(NoTask::NoId)?;
        if !index.begin(id, bounds.tasks) {
            return Err(NoTask::TooMany(bounds.tasks));
        }
        let entry = vec![(record_key(id), Some(record.write()))];
        let written = self.write(&space(tenant), entry, bounds.bytes).await;
        if written.is_err() {
            index.forget(id);
        }
        written?;
        Ok(id)
    }

    /// Notes that a task has work that goes on.
    pub async fn note_work(&self, tenant: &TenantId, id: TaskId, record: &TaskRecord) -> Result<(), StoreError> {
        // Without a quota: the record takes the place of one that is there.
        self.write(&space(tenant), vec![(record_key(id), Some(record.write()))], u64::MAX).await
    }

    /// Notes that a task goes on that ran before the host was started.
    pub async fn goes_on(&self, tenant: &TenantId, incarnation: &Incarnation, id: TaskId) -> Result<(), StoreError> {
        self.index(tenant, incarnation).await?.goes_on(id);
        Ok(())
    }

    /// Notes how a task ended, with its result if it has one. A result for which there is no room is lost, and the task says so.
    pub async fn end(
        &self,
        tenant: &TenantId,
        incarnation: &Incarnation,
        id: TaskId,
        mut record: TaskRecord,
        (end, result, keep_ms): (TaskEnd, Bytes, u64),
        bounds: TaskBounds,
    ) -> Result<TaskRecord, StoreError> {
        let space = space(tenant);
        let kept = self.write_result(&space, id, &result, bounds.bytes).await;
        record.finish(end, keep_ms);
        if let Err(error) = kept {
            tracing::warn!(%tenant, tool = %record.tool, error = crate::error::chain(&error), "the result of a task is lost");
            record.end = Some(TaskEnd::Lost(error.to_string()));
            // What was written of it has no owner.
            if let Ok(chunks) = self.chunks(&space, id).await
                && let Err(error) = self.write(&space, chunks, u64::MAX).await
            {
                tracing::warn!(%tenant, error = crate::error::chain(&error), "a part of a lost result stays until its task is forgotten");
            }
        }
        // Without a quota: the record takes the place of one that is there.
        let written = self.write(&space, vec![(record_key(id), Some(record.write()))], u64::MAX).await;
        let index = self.index(tenant, incarnation).await?;
        index.end(id, record.expires_ms());
        written.map(|()| record)
    }

    async fn write_result(&self, space: &Space, id: TaskId, result: &Bytes, quota: u64) -> Result<(), StoreError> {
        let mut chunks = result.chunks(CHUNK_BYTES).enumerate();
        loop {
            let some: Vec<_> = chunks
                .by_ref()
                .take(CHUNKS_AT_ONCE)
                .map(|(at, chunk)| (chunk_key(id, at), Some(result.slice_ref(chunk))))
                .collect();
            if some.is_empty() {
                return Ok(());
            }
            self.write(space, some, quota).await?;
        }
    }

    /// One task; none if there is none with this id, or its time is over. Costs a guess nothing but a look into memory.
    pub async fn read(
        &self,
        tenant: &TenantId,
        incarnation: &Incarnation,
        id: TaskId,
    ) -> Result<Option<TaskRecord>, StoreError> {
        let index = self.index(tenant, incarnation).await?;
        let Some(is_live) = index.look(id) else { return Ok(None) };
        let entry = self.0.store.snapshot(&space(tenant)).await?.get(&record_key(id)).await?;
        let mut record = entry.and_then(|entry| TaskRecord::read(&entry.value));
        if let Some(record) = &mut record
            && record.end.is_none()
            && record.work.is_none()
            && !is_live
        {
            // Its end could not be written.
            record.end = Some(TaskEnd::Interrupted);
        }
        Ok(record)
    }

    /// The result of a task that has one.
    pub async fn result(&self, tenant: &TenantId, id: TaskId) -> Result<Vec<u8>, StoreError> {
        let snapshot = self.0.store.snapshot(&space(tenant)).await?;
        let (mut result, mut at) = (Vec::new(), 0_usize);
        while let Some(entry) = snapshot.get(&chunk_key(id, at)).await? {
            result.extend_from_slice(&entry.value);
            at = at.saturating_add(1);
        }
        Ok(result)
    }

    /// Forgets a tenant's tasks whose time is over.
    pub async fn sweep(&self, tenant: &TenantId, incarnation: &Incarnation) -> Result<(), StoreError> {
        let index = self.index(tenant, incarnation).await?;
        let space = space(tenant);
        for id in index.expired() {
            let mut changes = self.chunks(&space, id).await?;
            changes.push((record_key(id), None));
            self.write(&space, changes, u64::MAX).await?;
            index.forget(id);
        }
        Ok(())
    }

    /// Forgets the tasks whose time is over, of all tenants that have used theirs.
    pub async fn sweep_all(&self) {
        let known: Vec<_> =
            self.tenants().iter().map(|(tenant, index)| (tenant.clone(), index.incarnation().clone())).collect();
        for (tenant, incarnation) in known {
            match self.sweep(&tenant, &incarnation).await {
                Err(error) if error.is_removed() => drop(self.tenants().remove(&tenant)),
                Err(error) => tracing::warn!(%tenant, error = crate::error::chain(&error), "old tasks stay"),
                Ok(()) => {}
            }
        }
    }

    /// Removals of all entries of a result.
    async fn chunks(&self, space: &Space, id: TaskId) -> Result<Vec<(Bytes, Option<Bytes>)>, StoreError> {
        let snapshot = self.0.store.snapshot(space).await?;
        let mut changes = Vec::new();
        while snapshot.get(&chunk_key(id, changes.len())).await?.is_some() {
            changes.push((chunk_key(id, changes.len()), None));
        }
        Ok(changes)
    }

    async fn write(&self, space: &Space, changes: Vec<(Bytes, Option<Bytes>)>, quota: u64) -> Result<(), StoreError> {
        let mut transaction = self.0.store.begin(space, Bounds { quota_bytes: quota, ..Bounds::host() }).await?;
        transaction.write_many(changes).await?;
        transaction.commit().await
    }
}

fn space(tenant: &TenantId) -> Space {
    Space { tenant: tenant.clone(), component: ComponentName::of_tasks() }
}

fn record_key(id: TaskId) -> Bytes {
    Section::Tasks.key(&[&[RECORDS][..], &id.bytes()].concat())
}

fn chunk_key(id: TaskId, at: usize) -> Bytes {
    let at = u32::try_from(at).unwrap_or(u32::MAX).to_be_bytes();
    Section::Tasks.key(&[&[RESULTS][..], &id.bytes(), &at].concat())
}
