//! Hot swap: components that appear, change or vanish in a tools folder go live, or say why not, without a call lost.
//!
//! One task owns the watchers and decides what to load when; the loading itself ([`loader`]) runs beside it, one load a component at a time. Everybody else holds a
//! [`Reloader`] and asks.

pub mod loader;
mod migration;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use self::{
    loader::{Loader, Outcome, Source},
    watch::{FolderWatch, Seen},
};

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
            Outcome::Loaded => drop(self.loaded.insert(component)),
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
    requests: mpsc::Sender<oneshot::Sender<Report>>,
}

impl Reloader {
    /// Loads everything once, reporting each component to `progress`, then goes on watching in the background.
    pub async fn start(
        loader: Arc<Loader>,
        progress: impl Fn(usize, usize),
    ) -> Result<(Self, Report), watch::WatchError> {
        let folders = loader.folders().to_vec();
        // The watch begins before the first look, so that nothing can change unseen in between.
        let watch = tokio::task::spawn_blocking(move || FolderWatch::start(&folders))
            .await
            .map_err(watch::WatchError::Thread)??;
        let (requests, inbox) = mpsc::channel(MAX_PENDING_REQUESTS);
        let mut driver =
            Driver { loader, watch, inbox, due: BTreeMap::new(), loads: JoinSet::new(), busy: BTreeMap::new() };
        let report = driver.load_all(progress).await;
        tokio::spawn(driver.run());
        Ok((Self { requests }, report))
    }

    /// Looks at every folder and at the grants again; what that did.
    pub async fn reload(&self) -> Result<Report, Stopping> {
        let (answer, report) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| Stopping)?;
        report.await.map_err(|_| Stopping)
    }
}

/// The owner of the watch.
struct Driver {
    loader: Arc<Loader>,
    watch: FolderWatch,
    inbox: mpsc::Receiver<oneshot::Sender<Report>>,
    /// Files that changed, and when they will have settled.
    due: BTreeMap<PathBuf, Instant>,
    loads: JoinSet<PathBuf>,
    /// Files that are being loaded; true if they changed again meanwhile.
    busy: BTreeMap<PathBuf, bool>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            let next = self.due.values().min().copied();
            tokio::select! {
                request = self.inbox.recv() => match request {
                    None => return,
                    Some(answer) => {
                        self.finish_loads().await;
                        let report = self.load_all(|_, _| {}).await;
                        let _asker_may_be_gone = answer.send(report);
                    }
                },
                seen = self.watch.next() => self.note(seen),
                Some(done) = self.loads.join_next() => self.loaded(done.ok()),
                () = sleep_until(next) => self.load_due(),
            }
        }
    }

    fn note(&mut self, seen: Seen) {
        match seen {
            Seen::File { path, settles_in } => drop(self.due.insert(path, Instant::now() + settles_in)),
            Seen::Lost => {
                tracing::warn!("the system lost file events; looking at every tools folder again");
                let now = Instant::now();
                self.due.extend(self.loader.files().into_iter().map(|path| (path, now)));
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
        self.busy.insert(path.clone(), false);
        let loader = Arc::clone(&self.loader);
        self.loads.spawn(async move {
            loader.load(Source::File(path.clone())).await;
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

    /// Loads everything there is, and takes away what is not there any more.
    async fn load_all(&mut self, progress: impl Fn(usize, usize)) -> Report {
        let mut report = Report::default();
        if let Err(error) = self.loader.reload_grants() {
            report.failed.insert("grants".into(), error);
            return report;
        }
        let waves = self.loader.sources();
        let total = waves.iter().map(Vec::len).sum();
        let mut done = 0_usize;
        progress(done, total);
        for wave in waves {
            let mut waiting = wave.into_iter();
            let mut running = JoinSet::new();
            loop {
                while running.len() < MAX_PARALLEL_LOADS
                    && let Some(source) = waiting.next()
                {
                    let loader = Arc::clone(&self.loader);
                    running.spawn(async move { (source.component(), loader.load(source).await) });
                }
                let Some(loaded) = running.join_next().await else { break };
                done = done.saturating_add(1);
                progress(done, total);
                match loaded {
                    Ok((component, outcome)) => report.add(component, outcome),
                    Err(error) => tracing::error!(%error, "a load broke off"),
                }
            }
        }
        report
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
