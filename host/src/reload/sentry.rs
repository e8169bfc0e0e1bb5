//! Sees changes that a watch cannot see: a folder's path leads to another directory than the one that is watched, a link's target changed, or there is no watch.
//!
//! A tenant's sentry looks every second. Usually that is one question to the system for a folder and one for each link; where the system does not watch, the sentry compares
//! every file, and what it says of the folder becomes a problem that an operator sees, until the watch is mended.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    dirty::DirtyFiles,
    folders::{FileStamp, FolderIdentity, MAX_FILES, ToolsFolders},
    watch::FolderWatch,
};

/// How often it looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Files of a folder that are compared in one look; the others take their turn in the next. A folder full of links costs the host little.
const MAX_COMPARED: usize = 100;

/// The sentry of one tenant's folders.
#[derive(Debug)]
pub(super) struct FolderSentry {
    folders: ToolsFolders,
    watch: Arc<FolderWatch>,
    dirty: Arc<DirtyFiles>,
    known: Vec<KnownFolder>,
}

/// A folder as it was at the last look.
#[derive(Debug)]
struct KnownFolder {
    path: PathBuf,
    /// The directory that is watched; none if none is.
    watched: Option<FolderIdentity>,
    /// When its directory had changed last, as of the last listing.
    listed: Option<SystemTime>,
    /// Whether there was a directory.
    present: bool,
    /// The files that have to be compared: links, or all where nothing is watched.
    compared: BTreeMap<PathBuf, Option<FileStamp>>,
    /// Where the next comparison begins.
    next: PathBuf,
    problem: Option<String>,
}

impl FolderSentry {
    pub(super) fn new(folders: ToolsFolders, watch: Arc<FolderWatch>, dirty: Arc<DirtyFiles>) -> Self {
        let known = folders.paths().iter().map(|path| KnownFolder {
            path: path.clone(),
            watched: None,
            listed: None,
            present: false,
            compared: BTreeMap::new(),
            next: PathBuf::new(),
            problem: None,
        });
        Self { known: known.collect(), folders, watch, dirty }
    }

    /// Looks, mends what it can, and notes what changed. Blocks.
    pub(super) fn look(&mut self) {
        let lost = self.dirty.take_lost();
        for folder in &mut self.known {
            let now = self.folders.identity(&folder.path);
            if lost || now.is_none() || now != folder.watched {
                // The new directory is looked at after its watch begins, so that nothing can change unseen in between.
                let problem = match now {
                    None => Some("it is no directory that the host can open".to_owned()),
                    Some(_) => self.watch.watch(&folder.path, &self.dirty).err().map(|error| error.to_string()),
                };
                // It may have been swapped while the watch began: then the next look sees to it.
                let same = self.folders.identity(&folder.path) == now;
                let mended = problem.is_none() && same;
                if mended || now.is_some() != folder.present {
                    self.dirty.note_whole();
                }
                folder.present = now.is_some();
                folder.watched = now.filter(|_| mended);
                folder.listed = None;
                folder.problem = problem.map(|problem| {
                    let path = folder.path.display();
                    format!("the tools folder {path} is not watched ({problem}); the host looks at it every second")
                });
            }
            folder.compare(&self.folders, &self.dirty);
        }
    }

    /// The folders, each with its problem if it has one.
    pub(super) fn problems(&self) -> Vec<(PathBuf, Option<String>)> {
        self.known.iter().map(|folder| (folder.path.clone(), folder.problem.clone())).collect()
    }

    /// Watches nothing any more. Blocks.
    pub(super) fn end(&self) {
        for folder in &self.known {
            self.watch.forget(&folder.path, &self.dirty);
        }
    }
}

impl KnownFolder {
    /// Compares the files that no watch tells of with what they were.
    fn compare(&mut self, folders: &ToolsFolders, dirty: &DirtyFiles) {
        let changed = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).ok();
        if changed.is_none() || changed != self.listed || self.watched.is_none() {
            let Ok(listing) = folders.list(&self.path) else {
                self.listed = None;
                return;
            };
            if self.watched.is_some() {
                self.problem = listing.more.then(|| {
                    format!("the tools folder {} has more than {MAX_FILES} components, or too many other files; the rest is not loaded", self.path.display())
                });
            }
            let compared = if self.watched.is_some() { listing.links } else { listing.files };
            let before = std::mem::take(&mut self.compared);
            self.compared =
                compared.into_iter().map(|path| (path.clone(), before.get(&path).copied().flatten())).collect();
            for gone in before.into_keys().filter(|path| !self.compared.contains_key(path)) {
                dirty.note(gone, Duration::ZERO);
            }
            // Of a directory that has just changed the next change may not show.
            let coarse =
                changed.and_then(|changed| changed.elapsed().ok()).is_none_or(|age| age < LOOK_EVERY.saturating_mul(2));
            self.listed = if coarse { Some(SystemTime::UNIX_EPOCH) } else { changed };
        }
        let from_next = self.compared.range(self.next.clone()..);
        let turn: Vec<PathBuf> = from_next
            .chain(self.compared.range(..self.next.clone()))
            .map(|(path, _)| path.clone())
            .take(MAX_COMPARED)
            .collect();
        let after = turn.len() < self.compared.len();
        self.next = turn.last().filter(|_| after).cloned().unwrap_or_default();
        for path in turn {
            let now = folders.stamp(&path);
            if let Some(known) = self.compared.get_mut(&path)
                && *known != now
            {
                *known = now;
                dirty.note(path, Duration::ZERO);
            }
        }
    }
}
