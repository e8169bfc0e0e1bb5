//! The operating system's events of the tools folders: one watch for all tenants, whose events fold into each tenant's own [`DirtyFiles`].
//!
//! A file whose writer closed it settles at once; one that may still be written is left alone a while. A watch is of a directory and not of its path: [`super::sentry`]
//! sees when the path leads elsewhere, and when the system does not watch at all.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};

use super::{dirty::DirtyFiles, loader::is_component_file};
use crate::threads::{LOW_NICE, give_way};

/// How long a file is left alone after its writer closed it, or it was moved into place.
const SETTLE_CLOSED: Duration = Duration::from_millis(5);
/// How long a file is left alone that may still be open for writing.
const SETTLE_OPEN: Duration = Duration::from_millis(200);

type ByFolder = BTreeMap<PathBuf, Vec<Weak<DirtyFiles>>>;

/// The watch over all tenants' folders.
#[derive(Debug, Default)]
pub(super) struct FolderWatch {
    /// None while the system gives no watch.
    watcher: Mutex<Option<RecommendedWatcher>>,
    told: Arc<Mutex<ByFolder>>,
}

impl FolderWatch {
    fn told(&self) -> MutexGuard<'_, ByFolder> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the directory to which a folder's path leads now, in the place of the one to which it led before. Blocks.
    pub(super) fn watch(&self, folder: &Path, dirty: &Arc<DirtyFiles>) -> notify::Result<()> {
        self.forget_listener(folder, dirty);
        self.told().entry(folder.to_owned()).or_default().push(Arc::downgrade(dirty));
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if watcher.is_none() {
            let told = Arc::clone(&self.told);
            *watcher = Some(notify::recommended_watcher(move |event| {
                // The watch has a thread of its own: a tenant that renames files without pause keeps it busy, and nobody else.
                give_way(LOW_NICE);
                tell(&told, event);
            })?);
        }
        let Some(watcher) = watcher.as_mut() else { return Ok(()) };
        let _it_may_watch_nothing_yet = watcher.unwatch(folder);
        watcher.watch(folder, RecursiveMode::NonRecursive)
    }

    /// Watches a folder for a tenant no more. Blocks.
    pub(super) fn forget(&self, folder: &Path, dirty: &Arc<DirtyFiles>) {
        if self.forget_listener(folder, dirty)
            && let Some(watcher) = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            let _it_may_be_gone = watcher.unwatch(folder);
        }
    }

    /// Whether nobody is left who is told of the folder.
    fn forget_listener(&self, folder: &Path, dirty: &Arc<DirtyFiles>) -> bool {
        let mut told = self.told();
        let Some(listeners) = told.get_mut(folder) else { return false };
        listeners.retain(|listener| listener.upgrade().is_some_and(|known| !Arc::ptr_eq(&known, dirty)));
        let nobody = listeners.is_empty();
        if nobody {
            told.remove(folder);
        }
        nobody
    }
}

/// Folds an event into what its folder's tenants have to look at. On the thread of the watch: it waits for nobody.
fn tell(told: &Mutex<ByFolder>, event: notify::Result<Event>) {
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let all = || told.values().flatten().filter_map(Weak::upgrade);
    let event = match event {
        Ok(event) if !event.need_rescan() => event,
        // The system lost events, and does not say whose.
        _ => return all().for_each(|dirty| dirty.note_whole()),
    };
    if matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
        // A folder itself was removed or renamed: its path no longer leads to the watched directory.
        let folders = event.paths.iter().filter_map(|path| told.get(path)).flatten();
        folders.filter_map(Weak::upgrade).for_each(|dirty| dirty.note_lost());
    }
    let settles_in = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Name(_)) => SETTLE_CLOSED,
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => SETTLE_OPEN,
        EventKind::Access(_) => return,
    };
    for path in event.paths.into_iter().filter(|path| is_component_file(path)) {
        let Some(listeners) = path.parent().and_then(|folder| told.get(folder)) else { continue };
        for dirty in listeners.iter().filter_map(Weak::upgrade) {
            dirty.note(path.clone(), settles_in);
        }
    }
}
