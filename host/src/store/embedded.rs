//! The embedded backend: one redb file for each tenant, nothing to install.
//!
//! Files are opened when first used and closed when idle; one budget of cache is divided among them. [`file`] is one file, [`space`] the turns of a space's
//! transactions, [`transaction`] their overlay. [`commit`] makes groups of them durable in the [`wal`], and a [`checkpoint`] puts many groups into the database at once.
//! Reads and writes are synchronous inside: a read is a look into a cache or one read of the file, and waiting for the disk happens on threads where that is allowed.
//! A file is opened and closed under its tenant's [`FileGate`], never under the lock of the map that all tenants share.

mod base;
mod checkpoint;
mod commit;
pub mod disk;
mod file;
mod gate;
mod layout;
mod scan;
mod snapshot;
mod space;
mod transaction;
mod wal;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::oneshot};

use self::{disk::Disk, file::DataFile, gate::FileGate, snapshot::DurableSnapshot};
use super::{Bounds, CopyProgress, Snapshot, Space, Store, StoreError, Touched, Transaction, Unavailable};
use crate::{
    names::{ComponentName, TenantId},
    threads::start_blocking,
};

/// How the embedded store behaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedConfig {
    /// Memory for pages of all open files together, in bytes. The system's own file cache is behind it.
    pub cache_bytes: usize,
    /// Files open at once; beyond that the host closes the file that has been idle longest.
    pub max_open_files: usize,
    /// Idle time after which the host closes a file, in milliseconds.
    pub idle_ms: u64,
    /// Size of a file's log, in bytes: 16 KiB to 1 GiB. Half of it goes into the file at once, and is in memory until then.
    pub wal_bytes: usize,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, max_open_files: 64, idle_ms: 60_000, wal_bytes: 1 << 20 }
    }
}

/// The least share of the cache that an open file has, in bytes.
const MIN_CACHE_BYTES: usize = 512 << 10;

/// Shortest time between two looks at what is held for too long in open files.
const LET_GO_EVERY: Duration = Duration::from_secs(5);

/// Files of spaces below one directory.
#[derive(Debug, Clone)]
pub struct EmbeddedStore(Arc<OpenFiles>);

#[derive(Debug)]
struct OpenFiles {
    directory: PathBuf,
    config: EmbeddedConfig,
    disk: Arc<dyn Disk>,
    /// Runtime that opens files and commits, on the host's own threads, whatever thread a guest is on.
    workers: Handle,
    touched: Arc<Touched>,
    closed: AtomicBool,
    open: Mutex<BTreeMap<TenantId, OpenFile>>,
    /// One gate for each tenant whose file was ever opened or removed.
    gates: Mutex<BTreeMap<TenantId, Arc<FileGate>>>,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<DataFile>,
    cache_bytes: usize,
    used: Instant,
}

impl EmbeddedStore {
    /// A store below `directory`, which the host makes if it does not exist. Opens no file yet. Needs a tokio runtime.
    pub fn new(directory: PathBuf, config: EmbeddedConfig, disk: Arc<dyn Disk>) -> std::io::Result<Self> {
        crate::files::private_folder(&directory)?;
        let idle = Duration::from_millis(config.idle_ms.max(1));
        let (touched, closed, open, gates) = Default::default();
        let workers = Handle::current();
        let shared = Arc::new(OpenFiles { directory, config, disk, workers, touched, closed, open, gates });
        tokio::spawn(close_idle(Arc::downgrade(&shared), idle));
        tokio::spawn(let_go_of_overdue(Arc::downgrade(&shared)));
        Ok(Self(shared))
    }

    /// Files that are open now.
    pub fn open_files(&self) -> usize {
        self.0.lock().len()
    }

    /// The open file of a tenant. Opening it may take a while.
    async fn file(&self, tenant: &TenantId) -> Result<Arc<DataFile>, StoreError> {
        if let Some(file) = self.0.opened(tenant) {
            return Ok(file);
        }
        let (shared, tenant) = (Arc::clone(&self.0), tenant.clone());
        let (tell, opened) = oneshot::channel();
        start_blocking(&self.0.workers, move || drop(tell.send(shared.open(tenant))));
        opened.await.unwrap_or_else(|_| Err(StoreError::OutcomeUnknown))
    }
}

impl OpenFiles {
    /// The tenants that have a file.
    fn tenants(&self) -> std::io::Result<Vec<TenantId>> {
        let files = std::fs::read_dir(&self.directory)?.flatten().map(|entry| entry.path());
        let tenant = |path: PathBuf| TenantId::new(path.file_stem()?.to_str()?).ok();
        let mut tenants: Vec<TenantId> = files
            .filter(|path| path.extension().is_some_and(|extension| extension == "redb"))
            .filter_map(tenant)
            .collect();
        tenants.sort();
        Ok(tenants)
    }

    fn opened(&self, tenant: &TenantId) -> Option<Arc<DataFile>> {
        let mut open = self.lock();
        let known = open.get_mut(tenant).filter(|known| !known.file.is_broken())?;
        known.used = Instant::now();
        Some(Arc::clone(&known.file))
    }

    /// Opens a file, unless another thread just has. Blocks the callers that want the same file, and no others.
    fn open(&self, tenant: TenantId) -> Result<Arc<DataFile>, StoreError> {
        let gate = self.gate(&tenant);
        let _one_at_a_time = gate.enter();
        if let Some(file) = self.opened(&tenant) {
            return Ok(file);
        }
        if gate.is_removed() {
            return Err(Unavailable::Removed { tenant }.into());
        }
        // Drops a file that has failed, once the map's lock is free.
        let broken = self.lock().remove(&tenant);
        drop(broken);
        self.make_room();
        let granted: usize = self.lock().values().map(|file| file.cache_bytes).sum();
        // Half of the rest: the first file, on most hosts the only one, gets much, and some always remains for the next.
        let cache_bytes = (self.config.cache_bytes.saturating_sub(granted) / 2).max(MIN_CACHE_BYTES);
        let path = self.path(&tenant);
        if self.closed.load(Ordering::Acquire) {
            return Err(Unavailable::Closed { path }.into());
        }
        let (disk, workers, touched) = (Arc::clone(&self.disk), self.workers.clone(), Arc::clone(&self.touched));
        let bytes = (cache_bytes, self.config.wal_bytes);
        let file = Arc::new(DataFile::open(tenant.clone(), path.clone(), disk, workers, bytes, touched)?);
        let opened = OpenFile { file: Arc::clone(&file), cache_bytes, used: Instant::now() };
        let mut open = self.lock();
        if self.closed.load(Ordering::Acquire) {
            drop(open);
            return Err(Unavailable::Closed { path }.into());
        }
        open.insert(tenant, opened);
        Ok(file)
    }

    fn path(&self, tenant: &TenantId) -> PathBuf {
        self.directory.join(format!("{tenant}.redb"))
    }

    fn remove(&self, tenant: &TenantId) -> Result<(), StoreError> {
        let gate = self.gate(tenant);
        let _nobody_opens_it = gate.enter();
        gate.set_removed(true);
        let open = self.lock().remove(tenant);
        if let Some(open) = open {
            open.file.close_in_order();
        }
        let path = self.path(tenant);
        // The file first: without it nobody asks for the others.
        for path in [path.clone(), wal::path_of(&path), wal::unfinished(&path)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Unavailable::Io { path, source: error.into() }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn gate(&self, tenant: &TenantId) -> Arc<FileGate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(tenant.clone()).or_default())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TenantId, OpenFile>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the files idle for longest until the host may open one more. Files in use stay: the limit yields to the work.
    fn make_room(&self) {
        let mut in_use = BTreeSet::new();
        loop {
            let idlest = {
                let open = self.lock();
                if open.len() < self.config.max_open_files.max(1) {
                    return;
                }
                let idle = open.iter().filter(|(tenant, file)| file.is_idle() && !in_use.contains(*tenant));
                idle.min_by_key(|(_, file)| file.used).map(|(tenant, _)| tenant.clone())
            };
            let Some(tenant) = idlest else { return };
            if !self.close_idle(&tenant, Duration::ZERO) {
                in_use.insert(tenant);
            }
        }
    }

    /// Closes a tenant's file if it has been idle for this long; returns whether it did. Closing writes to the disk, so this function does not hold the
    /// map's lock meanwhile: only callers that want this file wait.
    fn close_idle(&self, tenant: &TenantId, idle: Duration) -> bool {
        let gate = self.gate(tenant);
        // Another thread opens or closes the file now.
        let Some(_one_at_a_time) = gate.try_enter() else { return false };
        let closed = {
            let mut open = self.lock();
            let is_idle = open.get(tenant).is_some_and(|file| file.is_idle() && file.used.elapsed() >= idle);
            is_idle.then(|| open.remove(tenant)).flatten()
        };
        if let Some(closed) = &closed {
            closed.file.close_in_order();
        }
        closed.is_some()
    }
}

impl OpenFile {
    /// Only the map holds the file; every other user must pass the map's lock.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.file) == 1
    }
}

async fn close_idle(shared: Weak<OpenFiles>, idle: Duration) {
    loop {
        tokio::time::sleep(idle).await;
        let Some(shared) = shared.upgrade() else { return };
        // Closing writes to the disk.
        let closed = tokio::task::spawn_blocking(move || {
            let open: Vec<TenantId> = shared.lock().keys().cloned().collect();
            for tenant in &open {
                shared.close_idle(tenant, idle);
            }
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "a file of the store was not closed in order");
        }
    }
}

/// Lets go of snapshots and transactions that callers hold for too long, also where nothing is written.
async fn let_go_of_overdue(shared: Weak<OpenFiles>) {
    loop {
        tokio::time::sleep(LET_GO_EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        let open: Vec<TenantId> = shared.lock().keys().cloned().collect();
        for tenant in &open {
            // One at a time: a file that is held here is not idle.
            let file = shared.lock().get(tenant).map(|open| Arc::clone(&open.file));
            file.iter().for_each(|file| file.let_go_of_overdue());
        }
    }
}

impl Store for EmbeddedStore {
    fn snapshot<'a>(&'a self, space: &'a Space) -> BoxFuture<'a, Result<Box<dyn Snapshot>, StoreError>> {
        Box::pin(async move {
            let snapshot = DurableSnapshot::new(self.file(&space.tenant).await?, &space.component);
            Ok(Box::new(snapshot) as Box<dyn Snapshot>)
        })
    }

    fn begin<'a>(
        &'a self,
        space: &'a Space,
        bounds: Bounds,
    ) -> BoxFuture<'a, Result<Box<dyn Transaction>, StoreError>> {
        Box::pin(async move {
            let file = self.file(&space.tenant).await?;
            let transaction = transaction::begin(file, &space.component, bounds).await?;
            Ok(Box::new(transaction) as Box<dyn Transaction>)
        })
    }

    fn wait<'a>(&'a self, space: &'a Space, key: &'a [u8], since: u64) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(async move { self.file(&space.tenant).await?.wait(&space.component, key, since).await })
    }

    fn spaces<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Vec<Space>, StoreError>> {
        Box::pin(async move {
            let components = self.file(tenant).await?.components()?;
            let space = |component: ComponentName| Space { tenant: tenant.clone(), component };
            Ok(components.into_iter().map(space).collect())
        })
    }

    fn used_bytes<'a>(&'a self, space: &'a Space) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(async move { self.file(&space.tenant).await?.used_bytes(&space.component) })
    }

    fn touched(&self) -> &Touched {
        &self.0.touched
    }

    fn tenants(&self) -> BoxFuture<'_, Result<Vec<TenantId>, StoreError>> {
        Box::pin(async {
            let shared = Arc::clone(&self.0);
            let listed = tokio::task::spawn_blocking(move || shared.tenants()).await;
            let failed = |source: std::io::Error| {
                let path = self.0.directory.clone();
                Unavailable::Io { path, source: source.into() }.into()
            };
            listed.map_err(std::io::Error::other).flatten().map_err(failed)
        })
    }

    fn backup<'a>(
        &'a self,
        tenant: &'a TenantId,
        target: &'a Path,
        progress: CopyProgress,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            let file = self.file(tenant).await?;
            let target = target.to_owned();
            let copy = tokio::task::spawn_blocking(move || file.backup(&target, &progress));
            copy.await.unwrap_or_else(|_| Err(StoreError::OutcomeUnknown))
        })
    }

    fn remove<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<(), StoreError>> {
        let (shared, tenant) = (Arc::clone(&self.0), tenant.clone());
        Box::pin(async {
            let removed = tokio::task::spawn_blocking(move || shared.remove(&tenant));
            removed.await.unwrap_or_else(|_| Err(StoreError::OutcomeUnknown))
        })
    }

    fn readmit(&self, tenant: &TenantId) {
        self.0.gate(tenant).set_removed(false);
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let shared = Arc::clone(&self.0);
        Box::pin(async {
            let closed = tokio::task::spawn_blocking(move || {
                shared.closed.store(true, Ordering::Release);
                // The lock is held: a file that another thread opens meanwhile is either in the map, or its thread sees that the store is closed.
                let files = std::mem::take(&mut *shared.lock());
                files.into_values().for_each(|open| open.file.close_in_order());
            });
            if let Err(error) = closed.await {
                tracing::error!(%error, "the store was not closed in order");
            }
        })
    }
}

/// Turns a failure of redb into the error for the caller.
fn unavailable(path: &Path, error: redb::Error) -> Unavailable {
    let path = path.to_owned();
    match error {
        redb::Error::Io(source) if source.kind() == std::io::ErrorKind::InvalidData => {
            Unavailable::Corrupt { path, source: source.into() }
        }
        redb::Error::Io(source) => Unavailable::Io { path, source: source.into() },
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => Unavailable::Closed { path },
        redb::Error::DatabaseAlreadyOpen => Unavailable::InUse { path },
        other => Unavailable::Corrupt { path, source: other.into() },
    }
}
