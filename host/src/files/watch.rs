//! A file that the host knows in memory: it is read again when it has changed, and what is known of it has an age.
//!
//! A thread of its own looks at the file five times a second and does nothing else, so that a right that was taken away is gone however busy the host's other threads are.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// How soon a change of the file is seen.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// What is known of a file that nobody looked at for longer says nothing about now.
const MAX_AGE: Duration = Duration::from_secs(10);

/// When a file was looked at, and how it was then.
#[derive(Debug)]
pub(crate) struct FileWatch {
    path: PathBuf,
    stamp: Mutex<Option<Stamp>>,
    began: Instant,
    /// When the file was last looked at, in milliseconds since `began`.
    looked_ms: AtomicU64,
}

impl FileWatch {
    /// Nobody has looked at the file at `path` yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, stamp: Mutex::default(), began: Instant::now(), looked_ms: AtomicU64::new(0) }
    }

    /// Looks at the file, and has it read if it has changed. One look at a time.
    pub(crate) fn look(&self, read: impl FnOnce()) {
        // Time that reading takes counts as age.
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut before = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path);
        if *before != Some(stamp) {
            read();
            *before = Some(stamp);
        }
        self.looked_ms.store(now_ms, Ordering::Release);
    }

    /// Whether the file was not looked at for so long that what is known of it says nothing about now.
    pub(crate) fn is_stale(&self) -> bool {
        let looked = Duration::from_millis(self.looked_ms.load(Ordering::Acquire));
        self.began.elapsed().saturating_sub(looked) > MAX_AGE
    }

    /// The same, last looked at too long ago.
    #[cfg(test)]
    pub(crate) fn aged(self) -> Self {
        Self { began: self.began - 2 * MAX_AGE, ..self }
    }
}

/// Has `watched` look at its file again and again, on a thread of that name, for as long as somebody has it.
pub(crate) fn watch<T: Send + Sync + 'static>(name: &str, watched: &Arc<T>, look: fn(&T)) -> io::Result<()> {
    let watched = Arc::downgrade(watched);
    std::thread::Builder::new().name(name.into()).spawn(move || look_again(&watched, look)).map(drop)
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own")]
fn look_again<T>(watched: &Weak<T>, look: fn(&T)) {
    loop {
        std::thread::sleep(LOOK_AGAIN);
        match watched.upgrade() {
            Some(watched) => look(&watched),
            None => return,
        }
    }
}

/// The properties of a file that change when somebody writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    /// There is no file.
    Absent,
    /// The file cannot be looked at.
    Hidden,
    /// When it was changed, its length, and which it is.
    Of(SystemTime, u64, u64),
}

/// The properties of a file now.
fn stamp(path: &Path) -> Stamp {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Stamp::Absent,
        Err(_) => return Stamp::Hidden,
    };
    let inode = MetadataExt::ino(&meta);
    meta.modified().map_or(Stamp::Hidden, |modified| Stamp::Of(modified, meta.len(), inode))
}
