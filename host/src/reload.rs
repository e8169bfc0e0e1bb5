//! Hot swap: components that appear, change or vanish in a tools folder go live, or say why not, without a call lost.
//!
//! Loads are a tenant's own: each has a task ([`line`]) that loads one component at a time, so a tenant that hangs, saves without pause or migrates for ever delays no
//! other. An operator's acts do not wait for any load: what is revoked is taken away before a load is asked for, and a closed tenant's loads end.

pub mod accept;
pub mod folders;
pub mod loader;
pub mod migration;
pub mod shipped;
pub mod source;

mod dirty;
pub mod error;
mod line;
mod pace;
mod sentry;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use self::{
    line::{LineRequest, LoadLine},
    loader::{LoadOutcome, Loader},
    watch::FolderWatch,
};
use crate::{
    names::TenantId,
    threads::{LOW_NICE, Threads, give_way, processors},
};

/// Requests to one tenant's task that may wait.
const MAX_PENDING_REQUESTS: usize = 16;

/// The outcome of a reload, by component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Components of which a new build is live.
    pub loaded: BTreeSet<String>,
    /// Components that have not changed.
    pub unchanged: BTreeSet<String>,
    /// Components that are gone.
    pub removed: BTreeSet<String>,
    /// Components whose newest build is not live, and why.
    pub failed: BTreeMap<String, String>,
    /// Components that still were being loaded, or waited for it, when it was time to answer.
    #[serde(default)]
    pub loading: BTreeSet<String>,
}

impl Report {
    fn add(&mut self, component: String, outcome: LoadOutcome) {
        match outcome {
            LoadOutcome::Loaded(_) => drop(self.loaded.insert(component)),
            LoadOutcome::Unchanged => drop(self.unchanged.insert(component)),
            LoadOutcome::Removed => drop(self.removed.insert(component)),
            LoadOutcome::Failed(error) => drop(self.failed.insert(component, error)),
        }
    }
}

/// The loads of a tenant that go on now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadsNow {
    /// Whether not everything was looked at since the tenant was opened.
    pub opening: bool,
    /// The component that is being loaded.
    pub loading: Option<String>,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// How many wait for it.
    pub queued: usize,
    /// The first of these.
    pub next: Vec<String>,
}

/// The tenant's task is gone: the tenant was closed, or the host is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the tenant is closed, or the host is stopping")]
pub struct Stopping;

/// Told of each component that is loaded.
pub type Progress = Arc<dyn Fn() + Send + Sync>;

/// A handle to the tasks that watch and swap, one for each open tenant.
#[derive(Debug, Clone)]
pub struct Reloader(Arc<LoadLines>);

#[derive(Debug)]
struct LoadLines {
    watch: Arc<FolderWatch>,
    /// How long a reload waits for what is loaded.
    patience: Duration,
    open: Mutex<BTreeMap<TenantId, LineHandle>>,
    /// The threads on which everything is loaded.
    threads: Threads,
}

/// One tenant's task.
#[derive(Debug, Clone)]
struct LineHandle {
    loader: Arc<Loader>,
    requests: mpsc::Sender<LineRequest>,
}

impl Reloader {
    /// A reloader that watches no tenant's tools yet. It answers a reload after `patience` at the latest.
    pub fn new(patience: Duration) -> std::io::Result<Self> {
        let threads = Threads::start("mcpp-load", processors(), || give_way(LOW_NICE))?;
        Ok(Self(Arc::new(LoadLines { watch: Arc::default(), patience, open: Mutex::default(), threads })))
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<TenantId, LineHandle>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, tenant: &TenantId) -> Option<LineHandle> {
        self.lines().get(tenant).cloned()
    }

    /// Loads everything of a tenant, in the place of a task that it had before, then goes on watching in the background.
    pub async fn open(&self, loader: Arc<Loader>, progress: Progress) -> Result<Report, Stopping> {
        let (requests, inbox) = mpsc::channel(MAX_PENDING_REQUESTS);
        let (opened, answer) = oneshot::channel();
        let read = Arc::clone(&loader);
        let failed = tokio::task::spawn_blocking(move || read.reload_grants()).await.map_err(|_| Stopping)?;
        {
            let mut lines = self.lines();
            if loader.closing().is_cancelled() {
                return Err(Stopping);
            }
            lines.insert(loader.tenant().clone(), LineHandle { loader: Arc::clone(&loader), requests });
        }
        let line = LoadLine::new(loader, Arc::clone(&self.0.watch), inbox, progress, opened);
        self.0.threads.handle().spawn(line.run());
        let mut report = answer.await.map_err(|_| Stopping)?;
        report.failed.extend(failed);
        Ok(report)
    }

    /// Looks at every folder and every grant of a tenant again, and reports. Removes at once each component that lost a part of its grant; reports a long load as still going
    /// on. None if the tenant is not open.
    pub async fn reload(&self, tenant: &TenantId) -> Result<Option<Report>, Stopping> {
        let Some(LineHandle { loader, requests }) = self.line(tenant) else { return Ok(None) };
        let grants = tokio::task::spawn_blocking(move || {
            let failed = loader.reload_grants();
            loader.drop_revoked();
            failed
        });
        let failed = Report { failed: grants.await.map_err(|_| Stopping)?, ..Report::default() };
        let (answer, answered) = oneshot::channel();
        let request = LineRequest::Look { failed, patience: Some(self.0.patience), answer };
        requests.send(request).await.map_err(|_| Stopping)?;
        Ok(Some(answered.await.map_err(|_| Stopping)?))
    }

    /// The loads of a tenant that go on now; none if the tenant is not open.
    pub async fn now(&self, tenant: &TenantId) -> Option<LoadsNow> {
        let line = self.line(tenant)?;
        let (answer, answered) = oneshot::channel();
        line.requests.send(LineRequest::Now(answer)).await.ok()?;
        answered.await.ok()
    }

    /// A tenant's loader; none if the tenant is not open.
    pub fn loader(&self, tenant: &TenantId) -> Option<Arc<Loader>> {
        self.line(tenant).map(|line| line.loader)
    }

    /// Stops watching a tenant whose loader has been told. Live revisions stay.
    pub fn close(&self, tenant: &TenantId) {
        self.lines().remove(tenant);
    }
}
