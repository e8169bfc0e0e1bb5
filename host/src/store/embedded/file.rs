//! One tenant's file: opening it with care, its spaces, and the calls that wait for a change in it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend as _, TableDefinition};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
};

use super::{
    base::{Base, ENTRIES, full_key},
    commit::Queue,
    disk::Disk,
    space::SpaceState,
    unavailable,
};
use crate::{
    files::private_options,
    names::{ComponentName, TenantId},
    store::{StoreError, Touched, Unavailable},
};

/// By component: bytes of keys and values, and the last version given.
pub(super) const SPACES: TableDefinition<'static, &str, (u64, u64)> = TableDefinition::new("spaces");
/// Numbers about the file itself.
pub(super) const ABOUT: TableDefinition<'static, &str, u64> = TableDefinition::new("about");
/// The layout of the tables; the host leaves a file with a greater one alone.
const FORMAT: (&str, u64) = ("format", 1);
/// The number of the last group of transactions that was committed.
pub(super) const LAST_GROUP: &str = "last_group";
/// Bytes of staged transactions; more wait before they are staged.
const MAX_STAGED_KIB: usize = 64 << 10;

/// One open file.
pub(super) struct DataFile {
    pub(super) tenant: TenantId,
    pub(super) path: PathBuf,
    pub(super) queue: Queue,
    /// Room for staged transactions, in KiB.
    pub(super) room: Arc<Semaphore>,
    pub(super) touched: Arc<Touched>,
    disk: Arc<dyn Disk>,
    /// Runtime that commits.
    pub(super) workers: Handle,
    database: Mutex<Option<Arc<Database>>>,
    base: ArcSwap<Base>,
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
        cache_bytes: usize,
        touched: Arc<Touched>,
    ) -> Result<Self, StoreError> {
        if !disk.exists(&path) {
            create(&path, &*disk)?;
        }
        let database = open_database(&path, &*disk, cache_bytes)?;
        let failed = |error: redb::Error| StoreError::from(unavailable(&path, error));
        let last_group = check(&path, &database)?;
        let base = Base::new(&database, path.clone()).map_err(failed)?;
        Ok(Self {
            tenant,
            queue: Queue::new(last_group),
            room: Arc::new(Semaphore::new(MAX_STAGED_KIB)),
            touched,
            disk,
            workers,
            database: Mutex::new(Some(Arc::new(database))),
            base: ArcSwap::from_pointee(base),
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

    /// The durable state now.
    pub(super) fn base(&self) -> Arc<Base> {
        self.base.load_full()
    }

    /// Makes a newer state the durable one.
    pub(super) fn advance(&self, base: Base) {
        self.base.store(Arc::new(base));
    }

    pub(super) fn database(&self) -> Result<Arc<Database>, StoreError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).clone();
        database.ok_or_else(|| Unavailable::Closed { path: self.path.clone() }.into())
    }

    /// Closes the database after a failure, so that the host can open it anew.
    pub(super) fn close(&self) {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Closes the file for good, once the staged transactions have reached the disk.
    pub(super) fn close_in_order(&self) {
        self.queue.wait_until_empty();
        self.break_off();
        self.close();
    }

    /// Number of the last group on disk, of a file that failed and is closed.
    pub(super) fn last_group_on_disk(&self) -> Result<u64, StoreError> {
        let database = open_database(&self.path, &*self.disk, 1 << 20)?;
        Ok(read_about(&database).map_err(|error| unavailable(&self.path, error))?.1)
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
        Ok(self.recorded(component)?.0)
    }

    /// Components that have a space.
    pub(super) fn components(&self) -> Result<Vec<ComponentName>, StoreError> {
        let read = || -> Result<Vec<ComponentName>, redb::Error> {
            let spaces = self.database_for_read()?.begin_read()?.open_table(SPACES)?;
            let mut components = Vec::new();
            for record in spaces.iter()? {
                components.extend(ComponentName::new(record?.0.value()).ok());
            }
            Ok(components)
        };
        read().map_err(|error| unavailable(&self.path, error).into())
    }

    /// Waits until the durable version of an entry is not `since`.
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
            let version = self.base().version(component, key)?;
            if version != since {
                return Ok(version);
            }
            notified.await;
        }
    }

    /// Wakes the calls that wait for one of these entries.
    pub(super) fn wake<'a>(&self, changed: impl Iterator<Item = (&'a ComponentName, &'a Bytes)>) {
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
    pub(super) fn backup(&self, target: &Path, progress: &dyn Fn(u64)) -> Result<u64, StoreError> {
        /// Entries of one commit of the copy.
        const BATCH: usize = 10_000;
        let copy = || -> Result<u64, redb::Error> {
            let source = self.database_for_read()?.begin_read()?;
            let file = private_options().read(true).write(true).create_new(true).open(target)?;
            let copy = Database::builder().set_cache_size(8 << 20).create_file(file)?;
            let mut copied = 0_u64;
            let entries = source.open_table(ENTRIES)?;
            let mut rest = entries.iter()?;
            loop {
                let mut write = copy.begin_write()?;
                write.set_quick_repair(true);
                let mut written = 0;
                {
                    let mut target = write.open_table(ENTRIES)?;
                    while written < BATCH
                        && let Some(entry) = rest.next().transpose()?
                    {
                        target.insert(entry.0.value(), entry.1.value())?;
                        written += 1;
                    }
                }
                if written == 0 {
                    let (mut spaces, mut about) = (write.open_table(SPACES)?, write.open_table(ABOUT)?);
                    for record in source.open_table(SPACES)?.iter()? {
                        let (component, record) = record?;
                        spaces.insert(component.value(), record.value())?;
                    }
                    // The format comes last, so that an interrupted copy does not pass for a store.
                    for record in source.open_table(ABOUT)?.iter()? {
                        let (name, number) = record?;
                        about.insert(name.value(), number.value())?;
                    }
                }
                write.commit()?;
                copied = copied.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
                progress(copied);
                if written == 0 {
                    return Ok(copied);
                }
            }
        };
        copy().map_err(|error| unavailable(target, error).into())
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

/// Makes a file under another name and gives it its own when it is complete: after a crash the store is whole, or absent.
fn create(path: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
    let io = |source: std::io::Error| Unavailable::Io { path: path.to_owned(), source: source.into() };
    let unfinished = path.with_extension("new");
    let build = |backend| -> Result<(), redb::Error> {
        let database = Database::builder().set_cache_size(1 << 20).create_with_backend(backend)?;
        let mut write = database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.set_quick_repair(true);
        write.open_table(ENTRIES)?;
        write.open_table(SPACES)?;
        write.open_table(ABOUT)?.insert(FORMAT.0, FORMAT.1)?;
        Ok(write.commit()?)
    };
    build(disk.create(&unfinished).map_err(io)?).map_err(|error| unavailable(path, error))?;
    Ok(disk.publish(&unfinished, path).map_err(io)?)
}

fn open_database(path: &Path, disk: &dyn Disk, cache_bytes: usize) -> Result<Database, StoreError> {
    let io = |source: std::io::Error| Unavailable::Io { path: path.to_owned(), source: source.into() };
    let backend = disk.open(path).map_err(io)?;
    if backend.len().map_err(io)? == 0 {
        // redb would make a new database of the empty file.
        let source = "it is empty".into();
        return Err(Unavailable::Corrupt { path: path.to_owned(), source }.into());
    }
    let database = Database::builder().set_cache_size(cache_bytes).create_with_backend(backend);
    database.map_err(|error| unavailable(path, error.into()).into())
}

/// Checks the file's format; returns the number of its last group.
fn check(path: &Path, database: &Database) -> Result<u64, StoreError> {
    match read_about(database).map_err(|error| unavailable(path, error))? {
        (format, last_group) if format == FORMAT.1 => Ok(last_group),
        (found, _) => Err(Unavailable::Newer { path: path.to_owned(), found, known: FORMAT.1 }.into()),
    }
}

/// The file's format and last group. A redb file of another program is an error.
fn read_about(database: &Database) -> Result<(u64, u64), redb::Error> {
    let about = database.begin_read()?.open_table(ABOUT)?;
    let Some(format) = about.get(FORMAT.0)? else {
        return Err(redb::Error::Corrupted("it has no format number: a copy that broke off?".into()));
    };
    let last_group = about.get(LAST_GROUP)?.map(|number| number.value()).unwrap_or_default();
    Ok((format.value(), last_group))
}
