//! The watch over a project's sources: tells that something was saved, once for all that was saved together.
//!
//! The watch ignores the files that builds and editors write beside the sources: a build that started the next one would never end.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::AccessKind};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::project::OUT;

/// Folders that no source is in.
const IGNORED_FOLDERS: [&str; 8] =
    [OUT, "target", "node_modules", "dist", "__pycache__", "wit_world", "wit_runtime", "venv"];
/// Files that builds write beside the sources.
const IGNORED_FILES: [&str; 5] = ["Cargo.lock", "package-lock.json", "go.sum", "wit_exports.go", "wit_bindings.go"];
/// How many folders are watched at most.
const MAX_FOLDERS: usize = 1_000;
/// Saves that follow each other this soon belong together.
const QUIET: Duration = Duration::from_millis(30);
/// A stream of saves is not waited for any longer.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// Why sources are not watched.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// The system does not let us.
    #[error("cannot watch {path}")]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: notify::Error,
    },
    /// It would be too much to watch.
    #[error("{0} has more than {MAX_FOLDERS} folders of sources; is it the project's own folder?")]
    TooMany(PathBuf),
}

/// A watch over the sources of one project.
#[derive(Debug)]
pub struct Sources {
    root: PathBuf,
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    /// When something was saved the last time.
    saved: watch::Receiver<Instant>,
}

impl Sources {
    /// Begins to watch.
    pub fn watch(root: &Path) -> Result<Self, SourcesError> {
        let (tell, saved) = watch::channel(Instant::now());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| is_save(&event)) {
                tell.send_replace(Instant::now());
            }
        });
        let watcher = watcher.map_err(|source| SourcesError::Watch { path: root.to_owned(), source })?;
        let mut sources = Self { root: root.to_owned(), watcher, watched: BTreeSet::new(), saved };
        sources.look()?;
        Ok(sources)
    }

    /// Waits until something was saved after the last time this was asked; when the last of that was.
    pub async fn saved(&mut self) -> Result<Instant, SourcesError> {
        if self.saved.changed().await.is_err() {
            // The watcher is ours, so this cannot be; nothing more will be saved.
            std::future::pending::<()>().await;
        }
        let last = Instant::now() + MAX_WAIT;
        while let Ok(Ok(())) = timeout_at(last.min(Instant::now() + QUIET), self.saved.changed()).await {}
        self.look()?;
        Ok(*self.saved.borrow())
    }

    /// Watches folders that are new.
    fn look(&mut self) -> Result<(), SourcesError> {
        let (mut found, mut waiting) = (BTreeSet::new(), vec![self.root.clone()]);
        while let Some(folder) = waiting.pop() {
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            waiting.extend(folders.map(|entry| entry.path()).filter(|path| !is_ignored(path)));
            found.insert(folder);
            if found.len() > MAX_FOLDERS {
                return Err(SourcesError::TooMany(self.root.clone()));
            }
        }
        for folder in found.difference(&self.watched) {
            let watch = self.watcher.watch(folder, RecursiveMode::NonRecursive);
            watch.map_err(|source| SourcesError::Watch { path: folder.clone(), source })?;
        }
        self.watched = found;
        Ok(())
    }
}

fn is_save(event: &Event) -> bool {
    let changes = match event.kind {
        EventKind::Access(access) => matches!(access, AccessKind::Close(notify::event::AccessMode::Write)),
        _ => true,
    };
    changes && (event.need_rescan() || event.paths.iter().any(|path| !is_ignored(path)))
}

/// Cargo makes its `target` under a name with six more characters, and moves it.
fn is_new_target(name: &str) -> bool {
    name.strip_prefix("target").is_some_and(|rest| rest.len() == 6 && rest.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// Hidden files, what editors keep beside a file, and what builds write.
fn is_ignored(path: &Path) -> bool {
    let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else { return true };
    let ours = IGNORED_FOLDERS.iter().chain(&IGNORED_FILES).any(|ignored| name == *ignored);
    ours || is_new_target(&name)
        || name.starts_with(['.', '#'])
        || name.ends_with(['~', '#'])
        || name.ends_with(".wasm")
        || name == "4913"
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_told(sources: &mut Sources, within: Duration) -> bool {
        tokio::time::timeout(within, sources.saved()).await.is_ok()
    }

    #[tokio::test]
    async fn saves_are_told_and_builds_are_not() {
        const SOON: Duration = Duration::from_secs(10);
        const A_WHILE: Duration = Duration::from_millis(300);
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["src", "target/release", "node_modules/a", ".mcpp/tools", "build"] {
            std::fs::create_dir_all(path(name)).expect("made");
        }
        let mut sources = Sources::watch(folder.path()).expect("watched");
        for name in [
            "target/release/x",
            "node_modules/a/i.js",
            ".mcpp/tools/x.wasm",
            "build/x.js",
            "Cargo.lock",
            "src/.x.rs.swp",
            "targetoKb4jY",
        ] {
            std::fs::write(path(name), "x").expect("written");
        }
        assert!(!is_told(&mut sources, A_WHILE).await, "a build is no save");
        for _ in 0..5 {
            std::fs::write(path("src/lib.rs"), "x").expect("written");
        }
        assert!(is_told(&mut sources, SOON).await, "a save is told");
        assert!(!is_told(&mut sources, A_WHILE).await, "and only once");
        std::fs::create_dir(path("src/more")).expect("made");
        assert!(is_told(&mut sources, SOON).await, "a new folder is told");
        std::fs::write(path("src/more/a.rs"), "x").expect("written");
        assert!(is_told(&mut sources, SOON).await, "and what is in it");
        std::fs::rename(path("src/lib.rs"), path("src/other.rs")).expect("moved");
        assert!(is_told(&mut sources, SOON).await, "a move is told");
    }
}
