//! Hot swap: components that appear, change or vanish in a tools folder go live, or say why not, without a call lost.
//!
//! One task owns the watchers and decides what to load when; the loading itself ([`loader`]) runs beside it, one load a component at a time. Everybody else holds a
//! [`Reloader`] and asks.

pub mod accept;
pub mod loader;
mod migration;
pub mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use self::{
    loader::{Loader, Outcome, Source},
    watch::{FolderWatch, Seen, WatchError},
};
use crate::tenant::TenantId;

/// Requests to reload that may wait.
const MAX_PENDING_REQUESTS: usize = 16;
/// Loads at the same time; each may use all processors while it compiles.
const MAX_PARALLEL_LOADS: usize = 4;

/// What a reload did, by component.
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
}

impl Report {
    fn add(&mut self, component: String, outcome: Outcome) {
        match outcome {
            Outcome::Loaded(_) => drop(self.loaded.insert(component)),
            Outcome::Unchanged => drop(self.unchanged.insert(component)),
            Outcome::Removed => drop(self.removed.insert(component)),
            Outcome::Failed(error) => drop(self.failed.insert(component, error)),
        }
    }
}

/// The watcher is gone: the host is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the host is stopping")]
pub struct Stopping;

/// A handle to the task that watches and swaps.
#[derive(Debug, Clone)]
pub struct Reloader {
    requests: mpsc::Sender<Request>,
}

/// What the task is asked for.
enum Request {
    /// To load everything of a tenant, and go on watching it.
    Open(Arc<Loader>, Progress, oneshot::Sender<Result<Report, WatchError>>),
    /// To look at everything of a tenant again.
    Reload(TenantId, oneshot::Sender<Option<Report>>),
    /// For a tenant's loader.
    Loader(TenantId, oneshot::Sender<Option<Arc<Loader>>>),
    /// To watch a tenant no more.
    Close(TenantId, oneshot::Sender<()>),
}

/// Told of each component that is loaded.
pub type Progress = Arc<dyn Fn() + Send + Sync>;

impl Reloader {
    /// Starts the task, which has nobody's tools to watch yet.
    pub fn start() -> Result<Self, WatchError> {
        let (requests, inbox) = mpsc::channel(MAX_PENDING_REQUESTS);
        let driver = Driver {
            loaders: BTreeMap::new(),
            watch: FolderWatch::start()?,
            inbox,
            due: BTreeMap::new(),
            loads: JoinSet::new(),
            busy: BTreeMap::new(),
            opening: JoinSet::new(),
            room: Arc::new(Semaphore::new(MAX_PARALLEL_LOADS)),
        };
        tokio::spawn(driver.run());
        Ok(Self { requests })
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Stopping> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| Stopping)?;
        answered.await.map_err(|_| Stopping)
    }

    /// Loads everything of a tenant, then goes on watching in the background.
    pub async fn open(&self, loader: Arc<Loader>, progress: Progress) -> Result<Report, WatchError> {
        match self.ask(|answer| Request::Open(loader, progress, answer)).await {
            Ok(opened) => opened,
            Err(stopping) => Err(WatchError::Stopping(stopping)),
        }
    }

    /// Looks at every folder and every grant of a tenant again; what that did. None if the tenant is not open.
    pub async fn reload(&self, tenant: &TenantId) -> Result<Option<Report>, Stopping> {
        self.ask(|answer| Request::Reload(tenant.clone(), answer)).await
    }

    /// A tenant's loader; none if the tenant is not open.
    pub async fn loader(&self, tenant: &TenantId) -> Result<Option<Arc<Loader>>, Stopping> {
        self.ask(|answer| Request::Loader(tenant.clone(), answer)).await
    }

    /// Watches a tenant no more. What is live stays.
    pub async fn close(&self, tenant: &TenantId) -> Result<(), Stopping> {
        self.ask(|answer| Request::Close(tenant.clone(), answer)).await
    }
}

/// The owner of the watch.
struct Driver {
    loaders: BTreeMap<TenantId, Arc<Loader>>,
    watch: FolderWatch,
    inbox: mpsc::Receiver<Request>,
    /// Files that changed, and when they will have settled.
    due: BTreeMap<PathBuf, Instant>,
    loads: JoinSet<PathBuf>,
    /// Files that are being loaded; true if they changed again meanwhile.
    busy: BTreeMap<PathBuf, bool>,
    /// Tenants of which everything is loaded now.
    opening: JoinSet<()>,
    room: Arc<Semaphore>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            let next = self.due.values().min().copied();
            // While everything of a tenant is loaded, single files wait: a file is loaded by one task at a time.
            let may_load = self.opening.is_empty();
            tokio::select! {
                request = self.inbox.recv() => match request {
                    None => return,
                    Some(request) => self.serve(request).await,
                },
                seen = self.watch.next() => self.note(seen),
                Some(done) = self.loads.join_next() => self.loaded(done.ok()),
                Some(_) = self.opening.join_next() => {}
                () = sleep_until(next), if may_load => self.load_due(),
            }
        }
    }

    async fn serve(&mut self, request: Request) {
        match request {
            Request::Open(loader, progress, answer) => {
                // The watch begins before the first look, so that nothing can change unseen in between.
                if let Err(error) = self.watch.add(loader.folders()) {
                    let _asker_may_be_gone = answer.send(Err(error));
                    return;
                }
                self.loaders.insert(loader.tenant().clone(), Arc::clone(&loader));
                self.load_all(loader, progress, move |report| drop(answer.send(Ok(report)))).await;
            }
            Request::Reload(tenant, answer) => match self.loaders.get(&tenant).cloned() {
                None => drop(answer.send(None)),
                Some(loader) => {
                    self.load_all(loader, Arc::new(|| {}), move |report| drop(answer.send(Some(report)))).await;
                }
            },
            Request::Loader(tenant, answer) => drop(answer.send(self.loaders.get(&tenant).cloned())),
            Request::Close(tenant, answer) => {
                if let Some(loader) = self.loaders.remove(&tenant) {
                    let shared = |folder: &PathBuf| self.loaders.values().any(|other| other.folders().contains(folder));
                    let own: Vec<PathBuf> = loader.folders().iter().filter(|folder| !shared(folder)).cloned().collect();
                    self.watch.remove(&own);
                }
                self.finish_loads().await;
                let _asker_may_be_gone = answer.send(());
            }
        }
    }

    /// Loads everything of a tenant, beside other tenants.
    async fn load_all(&mut self, loader: Arc<Loader>, progress: Progress, done: impl FnOnce(Report) + Send + 'static) {
        self.finish_loads().await;
        let room = Arc::clone(&self.room);
        self.opening.spawn(async move { done(loader.load_all(room, move || progress()).await) });
    }

    fn note(&mut self, seen: Seen) {
        match seen {
            Seen::File { path, settles_in } => drop(self.due.insert(path, Instant::now() + settles_in)),
            Seen::Lost => {
                tracing::warn!("the system lost file events; looking at every tools folder again");
                let now = Instant::now();
                let files = self.loaders.values().flat_map(|loader| loader.files());
                self.due.extend(files.map(|path| (path, now)));
            }
        }
    }

    fn load_due(&mut self) {
        let now = Instant::now();
        let ready: Vec<PathBuf> =
            self.due.iter().filter(|(_, due)| **due <= now).map(|(path, _)| path.clone()).collect();
        for path in ready {
            self.due.remove(&path);
            self.load(path);
        }
    }

    fn load(&mut self, path: PathBuf) {
        if let Some(again) = self.busy.get_mut(&path) {
            *again = true;
            return;
        }
        let folder = path.parent().map(PathBuf::from).unwrap_or_default();
        let loaders: Vec<_> =
            self.loaders.values().filter(|loader| loader.folders().contains(&folder)).cloned().collect();
        self.busy.insert(path.clone(), false);
        self.loads.spawn(async move {
            for loader in loaders {
                loader.load(Source::File(path.clone())).await;
            }
            path
        });
    }

    fn loaded(&mut self, path: Option<PathBuf>) {
        let Some(path) = path else {
            // A load that panicked is not named; forgetting all is safe, as the loader itself swaps atomically.
            self.busy.clear();
            return;
        };
        if self.busy.remove(&path) == Some(true) {
            self.load(path);
        }
    }

    async fn finish_loads(&mut self) {
        while let Some(done) = self.loads.join_next().await {
            self.loaded(done.ok());
        }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// How long a file is left alone after its writer closed it, or it was moved into place.
const SETTLE_CLOSED: Duration = Duration::from_millis(5);
/// How long a file is left alone that may still be open for writing.
const SETTLE_OPEN: Duration = Duration::from_millis(200);
