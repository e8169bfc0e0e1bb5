//! A file that looks cut short: it is read again while it changes, and for a bounded time.

use std::time::Duration;

use tokio::time::Instant;

use crate::reload::folders::FileStamp;

/// How often a file that looks cut short, and does not change any more, is read again before that is believed.
const PARTIAL_RETRIES: u32 = 3;
/// How long to wait before reading it again; twice as long each time that it has changed.
const PARTIAL_WAIT: Duration = Duration::from_millis(150);
/// The longest of these waits.
const MAX_PARTIAL_WAIT: Duration = Duration::from_secs(2);
/// A file that goes on changing is a problem after this long: compilers and copies are done by then.
pub(super) const MAX_SETTLE: Duration = Duration::from_secs(30);
/// A file that looks cut short.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartialFile {
    since: Instant,
    stamp: Option<FileStamp>,
    left: u32,
    pub(super) wait: Duration,
}

impl PartialFile {
    /// Whether it was waited for as long as any file is.
    pub(super) fn has_lasted(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= MAX_SETTLE
    }

    /// When to read a file again that looks cut short; none if that is to be believed, or it was waited for long enough.
    pub(super) fn again(before: Option<Self>, stamp: Option<FileStamp>, now: Instant) -> Option<Self> {
        let Some(before) = before else {
            return Some(Self { since: now, stamp, left: PARTIAL_RETRIES, wait: PARTIAL_WAIT });
        };
        let (left, wait) = if before.stamp == stamp {
            (before.left.saturating_sub(1), PARTIAL_WAIT)
        } else {
            (before.left, before.wait.saturating_mul(2).min(MAX_PARTIAL_WAIT))
        };
        let goes_on = left > 0 && !before.has_lasted(now);
        goes_on.then_some(Self { since: before.since, stamp, left, wait })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_waited_for_while_it_changes_and_not_for_ever() {
        let start = Instant::now();
        let mut waited = PartialFile::again(None, None, start);
        let mut times = 0;
        while let Some(partial) = waited {
            waited = PartialFile::again(Some(partial), None, start);
            times += 1;
        }
        assert_eq!(times, PARTIAL_RETRIES, "one that does not change is believed soon");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.wasm");
        let folders = crate::reload::folders::ToolsFolders::trusted(vec![folder.path().to_owned()]);
        let (mut now, mut waited, mut times) = (start, PartialFile::again(None, None, start), 0);
        while let Some(partial) = waited {
            now += partial.wait;
            times += 1;
            std::fs::write(&file, "x".repeat(times)).expect("written");
            waited = PartialFile::again(Some(partial), folders.stamp(&file), now);
        }
        let took = now.duration_since(start);
        assert!((MAX_SETTLE..MAX_SETTLE + MAX_PARTIAL_WAIT).contains(&took), "{took:?}");
        assert!(times < 30, "it is read {times} times");
    }
}
