//! Changes in a tenant's folders that the host has not looked at yet. Any number of events folds into a bounded set: beyond it the host looks at the whole folder.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// Files that are noted one by one. A team's folder has fewer, and looking at a whole folder costs little.
pub(super) const MAX_FILES: usize = 256;
/// A file that is written without pause is looked at all the same after this long.
const MAX_SETTLE: Duration = Duration::from_secs(2);

/// The files and folders to look at.
#[derive(Debug, Default)]
pub(super) struct DirtyFiles {
    folded: Mutex<Folded>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Folded {
    /// Files, each with when it was noted first and when it will have settled.
    files: BTreeMap<PathBuf, (Instant, Instant)>,
    whole: bool,
    /// Whether a directory that was watched is gone.
    lost: bool,
}

impl DirtyFiles {
    fn folded(&self) -> MutexGuard<'_, Folded> {
        self.folded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a file that will have settled at a time.
    pub(super) fn note(&self, path: PathBuf, settles_in: Duration) {
        let now = Instant::now();
        let mut folded = self.folded();
        if folded.whole {
            return;
        }
        let (known, settles) = (folded.files.get(&path).copied(), now + settles_in);
        let noted = known.map_or(now, |(noted, _)| noted);
        folded.files.insert(path, (noted, settles));
        if folded.files.len() > MAX_FILES {
            folded.files.clear();
            folded.whole = true;
        }
        drop(folded);
        // Whoever waits for a file to settle wakes then, and sees that it needs longer. Events that come without pause wake nobody.
        if known.is_none_or(|(_, before)| settles < before) {
            self.changed.notify_one();
        }
    }

    /// Notes that everything is to be looked at.
    pub(super) fn note_whole(&self) {
        let mut folded = self.folded();
        folded.files.clear();
        folded.whole = true;
        drop(folded);
        self.changed.notify_one();
    }

    /// Notes that a watch ended with its directory. Another one may have its place, and even its number.
    pub(super) fn note_lost(&self) {
        self.folded().lost = true;
        self.note_whole();
    }

    /// Whether a watch ended; from then on it is not told again.
    pub(super) fn take_lost(&self) -> bool {
        std::mem::take(&mut self.folded().lost)
    }

    /// Resolves when something was noted since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether everything is to be looked at; from then on it is not.
    pub(super) fn take_whole(&self) -> bool {
        std::mem::take(&mut self.folded().whole)
    }

    /// Takes the files that have settled, and says when the next one will have.
    pub(super) fn take_settled(&self, now: Instant) -> (Vec<PathBuf>, Option<Instant>) {
        let mut folded = self.folded();
        let due = |(noted, settles): &(Instant, Instant)| (*settles).min(*noted + MAX_SETTLE);
        let settled: Vec<PathBuf> =
            folded.files.iter().filter(|(_, times)| due(times) <= now).map(|(path, _)| path.clone()).collect();
        for path in &settled {
            folded.files.remove(path);
        }
        (settled, folded.files.values().map(due).min())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_storm_of_events_is_one_look_at_the_folder() {
        let dirty = DirtyFiles::default();
        for n in 0..MAX_FILES {
            dirty.note(format!("{n}.wasm").into(), Duration::ZERO);
        }
        assert!(!dirty.take_whole());
        for _ in 0..10_000 {
            dirty.note("0.wasm".into(), Duration::ZERO);
        }
        assert!(!dirty.take_whole(), "one file is one file however often it changes");
        dirty.note("another.wasm".into(), Duration::ZERO);
        assert_eq!(dirty.folded().files.len(), 0);
        dirty.note("again.wasm".into(), Duration::ZERO);
        assert_eq!(dirty.folded().files.len(), 0, "it is a part of the whole");
        assert!(dirty.take_whole() && !dirty.take_whole());
    }

    #[test]
    fn events_that_come_without_pause_wake_nobody() {
        let dirty = DirtyFiles::default();
        let woken = || dirty.changed().now_or_never().is_some();
        let (soon, late) = (Duration::from_secs(1), Duration::from_secs(10));
        dirty.note("a.wasm".into(), late);
        assert!(woken());
        dirty.note("a.wasm".into(), late + soon);
        assert!(!woken(), "it was to settle at a time, and is looked at then");
        dirty.note("a.wasm".into(), soon);
        assert!(woken(), "it settles before that");
        dirty.note("b.wasm".into(), late);
        assert!(woken(), "another file");
    }

    #[test]
    fn a_file_that_is_written_without_pause_is_looked_at_all_the_same() {
        let dirty = DirtyFiles::default();
        let settle = Duration::from_millis(200);
        dirty.note("a.wasm".into(), settle);
        let now = Instant::now();
        let (settled, next) = dirty.take_settled(now);
        assert!(settled.is_empty() && next.is_some_and(|next| next > now));
        dirty.note("a.wasm".into(), Duration::from_secs(3_600));
        assert_eq!(dirty.take_settled(now + MAX_SETTLE + settle).0, [PathBuf::from("a.wasm")]);
    }
}
