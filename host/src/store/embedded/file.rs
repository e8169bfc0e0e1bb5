//! One tenant's file: opening it with care, its spaces, and the calls that wait for a change in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use redb::{Database, ReadableDatabase as _, ReadableTable as _};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
};

use super::{
    base::{Base, Pending, full_key},
    checkpoint::{Checkpoint, Checkpoints, Logged, recover},
    commit::Queue,
    disk::Disk,
    layout::{SPACES, copy, create},
    snapshot::HeldSnapshots,
    space::{Durable, Overlaid, SpaceState},
    unavailable,
    wal::{Wal, Written},
};
use crate::{
    names::{ComponentName, TenantId},
    store::{ABSENT, Section, Space, StoreError, Touched, Unavailable},
};

/// Memory of staged transactions; more wait before they are staged.
const MAX_STAGED_KIB: usize = 64 << 10;

/// One open file.
pub(super) struct DataFile {
    pub(super) tenant: TenantId,
    pub(super) path: PathBuf,
    pub(super) queue: Queue,
    /// Room for staged transactions, in KiB.
    pub(super) room: Arc<Semaphore>,
    pub(super) touched: Arc<Touched>,
    pub(super) checkpoints: Checkpoints,
    disk: Arc<dyn Disk>,
    /// Runtime that commits.
    pub(super) workers: Handle,
    wal_bytes: usize,
    logged: Mutex<Logged>,
    database: Mutex<Option<Arc<Database>>>,
    base: ArcSwap<Base>,
    pub(super) snapshots: HeldSnapshots,
    /// Bytes that the host has written into the database since it opened the file.
    written: Arc<AtomicU64>,
    spaces: Mutex<BTreeMap<ComponentName, Arc<SpaceState>>>,
    waiting: Mutex<BTreeMap<Vec<u8>, KeyWaiters>>,
    broken: AtomicBool,
}

/// Calls that wait for one entry to change.
#[derive(Debug, Default)]
struct KeyWaiters {
    notify: Arc<Notify>,
    number: usize,
}

impl std::fmt::Debug for DataFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

impl DataFile {
    /// Opens a file, or makes one. Never changes a file that the host does not fully understand.
    pub(super) fn open(
        tenant: TenantId,
        path: PathBuf,
        disk: Arc<dyn Disk>,
        workers: Handle,
        (cache_bytes, wal_bytes): (usize, usize),
        touched: Arc<Touched>,
    ) -> Result<Self, StoreError> {
        if !disk.exists(&path) {
            create(&path, &*disk)?;
        }
        let written = Arc::default();
        let (database, last_group) = recover(&path, &*disk, cache_bytes, &written)?;
        let failed = |error: redb::Error| StoreError::from(unavailable(&path, error));
        let base = Base::new(&database, path.clone()).map_err(failed)?;
        Ok(Self {
            tenant,
            queue: Queue::new(),
            room: Arc::new(Semaphore::new(MAX_STAGED_KIB)),
            touched,
            checkpoints: Checkpoints::default(),
            disk,
            workers,
            wal_bytes,
            logged: Mutex::new(Logged { wal: None, last_group, is_behind: false }),
            database: Mutex::new(Some(Arc::new(database))),
            base: ArcSwap::from_pointee(base),
            snapshots: HeldSnapshots::default(),
            written,
            spaces: Mutex::default(),
            waiting: Mutex::default(),
            broken: AtomicBool::new(false),
            path,
        })
    }

    /// Whether a commit has failed, so that the file must be opened anew.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// An error if the file failed: its transactions saw writes that are lost.
    pub(super) fn check_whole(&self) -> Result<(), StoreError> {
        if self.is_broken() { Err(StoreError::Conflict) } else { Ok(()) }
    }

    /// The log, and who may write to it.
    pub(super) fn logged(&self) -> std::sync::MutexGuard<'_, Logged> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin_wal(&self) -> Result<Wal, StoreError> {
        Wal::begin(&self.path, &*self.disk, self.wal_bytes)
    }

    /// The database now.
    pub(super) fn base(&self) -> Arc<Base> {
        self.base.load_full()
    }

    /// Makes a newer state of the database the one that is read.
    pub(super) fn advance(&self, base: Base) {
        self.base.store(Arc::new(base));
    }

    /// Bytes that the host has written into the database since it opened the file.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Lets go of snapshots and transactions that were held for too long, so that the database can reuse the pages that they see.
    pub(super) fn let_go_of_overdue(&self) {
        self.snapshots.let_go(Instant::now(), self.written_bytes(), self.base.load().used_bytes());
        let spaces: Vec<Arc<SpaceState>> =
            self.spaces.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        spaces.iter().for_each(|space| space.hurry_holder());
    }

    pub(super) fn database(&self) -> Result<Arc<Database>, StoreError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).clone();
        database.ok_or_else(|| Unavailable::Closed { path: self.path.clone() }.into())
    }

    /// Closes the database and its log after a failure, so that the host can open them anew.
    pub(super) fn close(&self, logged: &mut Logged) {
        logged.wal = None;
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Closes the file for good, once the staged transactions have reached the disk. The database has everything then.
    pub(super) fn close_in_order(self: &Arc<Self>) {
        self.queue.wait_until_empty();
        if let Err(error) = Checkpoint::wait(self).at_the_end() {
            // The log has everything.
            tracing::error!(tenant = %self.tenant, error = crate::error::chain(&error), "the last checkpoint of the store failed");
        }
        self.close(&mut self.logged());
    }

    /// Number of the last group on disk, of a file that failed and is closed.
    pub(super) fn last_group_on_disk(&self) -> Result<u64, StoreError> {
        Ok(recover(&self.path, &*self.disk, 1 << 20, &Arc::default())?.1)
    }

    /// Releases all waiting calls; the next user gets a new file.
    pub(super) fn break_off(&self) {
        self.broken.store(true, Ordering::Release);
        for waiting in self.lock_waiting().values() {
            waiting.notify.notify_waiters();
        }
    }

    /// The state of one space, read from the file at its first use.
    pub(super) fn space(&self, component: &ComponentName) -> Result<Arc<SpaceState>, StoreError> {
        let mut spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(space) = spaces.get(component) {
            return Ok(Arc::clone(space));
        }
        let (used_bytes, version) = self.recorded(component)?;
        let space = Arc::new(SpaceState::new(component.clone(), used_bytes, version));
        spaces.insert(component.clone(), Arc::clone(&space));
        Ok(space)
    }

    /// The state of a space that was used since the file was opened.
    pub(super) fn known_space(&self, component: &ComponentName) -> Option<Arc<SpaceState>> {
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner).get(component).cloned()
    }

    /// What is durable and not in the database, by space.
    pub(super) fn durable_spaces(&self) -> BTreeMap<ComponentName, Overlaid> {
        let spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        let durable = spaces.iter().map(|(component, space)| (component.clone(), space.view().durable.clone()));
        durable.filter(|(_, durable)| !durable.entries.is_empty()).collect()
    }

    /// The durable state of a space: the database, and what only the log has.
    pub(super) fn durable(&self, component: &ComponentName) -> Durable {
        match self.known_space(component) {
            Some(space) => {
                // Under one lock, so that no write goes into the database between the two looks.
                let view = space.view();
                Durable::new(self.base(), Some(&view.durable))
            }
            None => Durable::new(self.base(), None),
        }
    }

    /// Makes a durable group the state that readers see.
    pub(super) fn publish(&self, group: &[&Written]) {
        for written in group {
            if let Some(space) = self.known_space(&written.component) {
                space.view().durable.add(written);
            }
        }
    }

    /// Tells those who wait for what a group changed.
    pub(super) fn tell(&self, group: &[&Written]) {
        self.wake(group.iter().flat_map(|written| written.writes.keys().map(|key| (&written.component, key))));
        let deliverable = |key: &Bytes| Section::Deliveries.has(key) || Section::Due.has(key);
        let touched: BTreeSet<&ComponentName> = group
            .iter()
            .filter(|written| written.writes.iter().any(|(key, value)| value.is_some() && deliverable(key)))
            .map(|written| &written.component)
            .collect();
        for component in touched {
            self.touched.add(Space { tenant: self.tenant.clone(), component: component.clone() });
        }
    }

    fn recorded(&self, component: &ComponentName) -> Result<(u64, u64), StoreError> {
        let read = || -> Result<(u64, u64), redb::Error> {
            let spaces = self.database_for_read()?.begin_read()?.open_table(SPACES)?;
            Ok(spaces.get(component.as_str())?.map(|record| record.value()).unwrap_or_default())
        };
        read().map_err(|error| unavailable(&self.path, error).into())
    }

    fn database_for_read(&self) -> Result<Arc<Database>, redb::Error> {
        self.database().map_err(|_| redb::Error::DatabaseClosed)
    }

    pub(super) fn used_bytes(&self, component: &ComponentName) -> Result<u64, StoreError> {
        match self.known_space(component) {
            Some(space) => Ok(space.view().durable.used_bytes),
            None => Ok(self.recorded(component)?.0),
        }
    }

    /// Components that have a space.
    pub(super) fn components(&self) -> Result<Vec<ComponentName>, StoreError> {
        let read = || -> Result<BTreeSet<ComponentName>, redb::Error> {
            let spaces = self.database_for_read()?.begin_read()?.open_table(SPACES)?;
            let mut components = BTreeSet::new();
            for record in spaces.iter()? {
                components.extend(ComponentName::new(record?.0.value()).ok());
            }
            Ok(components)
        };
        let logged = self.durable_spaces().into_keys();
        let mut components = read().map_err(|error| unavailable(&self.path, error))?;
        components.extend(logged.filter(|component| ComponentName::new(component.as_str()).is_ok()));
        Ok(components.into_iter().collect())
    }

    /// The durable version of an entry.
    fn durable_version(&self, component: &ComponentName, key: &[u8]) -> Result<u64, StoreError> {
        let Durable { base, logged, .. } = self.durable(component);
        match logged.get(key) {
            Some(Pending { version, value }) => Ok(value.as_ref().map_or(ABSENT, |_| *version)),
            None => base.version(component, key),
        }
    }

    /// Waits until the durable version of an entry is not `since`. Holds nothing of the database meanwhile.
    pub(super) async fn wait(
        self: Arc<Self>,
        component: &ComponentName,
        key: &[u8],
        since: u64,
    ) -> Result<u64, StoreError> {
        let place = WaitingPlace::take(Arc::clone(&self), full_key(component, key));
        loop {
            let notified = place.notify.notified();
            tokio::pin!(notified);
            // Listening begins before looking, so that no change falls between the two.
            notified.as_mut().enable();
            if self.is_broken() {
                return Err(Unavailable::Closed { path: self.path.clone() }.into());
            }
            let version = self.durable_version(component, key)?;
            if version != since {
                return Ok(version);
            }
            notified.await;
        }
    }

    /// Wakes the calls that wait for one of these entries.
    fn wake<'a>(&self, changed: impl Iterator<Item = (&'a ComponentName, &'a Bytes)>) {
        let waiting = self.lock_waiting();
        if waiting.is_empty() {
            return;
        }
        for waiting in changed.filter_map(|(component, key)| waiting.get(&full_key(component, key))) {
            waiting.notify.notify_waiters();
        }
    }

    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, KeyWaiters>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies all entries, as they are now, into a new file.
    pub(super) fn backup(self: &Arc<Self>, target: &Path, progress: &dyn Fn(u64)) -> Result<u64, StoreError> {
        Checkpoint::wait(self).catch_up()?;
        // Of the database itself nothing is held meanwhile, so that it can be opened anew.
        let read = || self.database_for_read()?.begin_read().map_err(redb::Error::from);
        copy(&read().map_err(|error| unavailable(&self.path, error))?, target, progress)
    }
}

/// One registered waiter of an entry; dropping it unregisters it.
struct WaitingPlace {
    file: Arc<DataFile>,
    key: Vec<u8>,
    notify: Arc<Notify>,
}

impl WaitingPlace {
    fn take(file: Arc<DataFile>, key: Vec<u8>) -> Self {
        let notify = {
            let mut waiting = file.lock_waiting();
            let waiting = waiting.entry(key.clone()).or_default();
            waiting.number = waiting.number.saturating_add(1);
            Arc::clone(&waiting.notify)
        };
        Self { file, key, notify }
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut waiting = self.file.lock_waiting();
        if let Some(place) = waiting.get_mut(&self.key) {
            place.number = place.number.saturating_sub(1);
            if place.number == 0 {
                waiting.remove(&self.key);
            }
        }
    }
}
