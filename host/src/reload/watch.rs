//! What the operating system says of the tools folders. A file whose writer closed it settles at once; one that may still be written is left alone a while.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::mpsc;

use super::{SETTLE_CLOSED, SETTLE_OPEN, Stopping};

/// Events that may wait; past it everything is looked at again.
const MAX_PENDING_EVENTS: usize = 1024;

/// Why a folder is not watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// There is no such folder.
    #[error("the tools folder {0} does not exist; make it, or name another with --tools")]
    Missing(PathBuf),
    /// The system does not let us.
    #[error("cannot watch the tools folder {path}")]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: notify::Error,
    },
    /// The host is stopping.
    #[error(transparent)]
    Stopping(Stopping),
}

/// What was seen.
pub(super) enum Seen {
    /// A component file appeared, changed or vanished.
    File {
        /// The file.
        path: PathBuf,
        /// When it will have settled.
        settles_in: Duration,
    },
    /// Events were lost.
    Lost,
}

/// A watch over some folders.
pub(super) struct FolderWatch {
    watcher: RecommendedWatcher,
    events: mpsc::Receiver<Seen>,
    lost: Arc<AtomicBool>,
}

impl FolderWatch {
    /// A watch over nothing yet.
    pub(super) fn start() -> Result<Self, WatchError> {
        let (sender, events) = mpsc::channel(MAX_PENDING_EVENTS);
        let lost = Arc::new(AtomicBool::new(false));
        let overflow = Arc::clone(&lost);
        let tell = move |event: notify::Result<Event>| {
            for seen in interpret(event) {
                if sender.try_send(seen).is_err() {
                    overflow.store(true, Ordering::Relaxed);
                }
            }
        };
        let watcher = notify::recommended_watcher(tell).map_err(failed(Path::new("")))?;
        Ok(Self { watcher, events, lost })
    }

    /// Watches these folders too.
    pub(super) fn add(&mut self, folders: &[PathBuf]) -> Result<(), WatchError> {
        for folder in folders {
            if !folder.is_dir() {
                return Err(WatchError::Missing(folder.clone()));
            }
            self.watcher.watch(folder, RecursiveMode::NonRecursive).map_err(failed(folder))?;
        }
        Ok(())
    }

    /// Watches these folders no more.
    pub(super) fn remove(&mut self, folders: &[PathBuf]) {
        for folder in folders {
            let _it_may_be_gone = self.watcher.unwatch(folder);
        }
    }

    pub(super) async fn next(&mut self) -> Seen {
        if self.lost.swap(false, Ordering::Relaxed) {
            return Seen::Lost;
        }
        match self.events.recv().await {
            Some(seen) => seen,
            None => std::future::pending().await,
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(notify::Error) -> WatchError + use<> {
    let path = path.to_owned();
    move |source| WatchError::Watch { path, source }
}

fn interpret(event: notify::Result<Event>) -> Vec<Seen> {
    let Ok(event) = event else { return vec![Seen::Lost] };
    if event.need_rescan() {
        return vec![Seen::Lost];
    }
    let settles_in = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Name(_)) => SETTLE_CLOSED,
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => SETTLE_OPEN,
        EventKind::Access(_) => return Vec::new(),
    };
    let files = event.paths.into_iter().filter(|path| super::loader::is_component_file(path));
    files.map(|path| Seen::File { path, settles_in }).collect()
}
