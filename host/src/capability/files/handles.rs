//! Open files and listings of a call. The whole process has few files of the system; the host holds listings in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{grants::files::FolderMode, memory::Reservation};

/// Files and directories that one call may have open.
const MAX_OPEN: usize = 64;
/// Entries of all listings that one call holds.
const MAX_ENTRIES: usize = 100_000;
/// Most bytes that an entry of a listing takes: its name and its location.
pub(super) const ENTRY_BYTES: usize = 320;
/// Guests may open the file limit of the process divided by this.
const SHARE: u64 = 4;
/// Least and greatest number of files that all guests may have open.
const HOST_OPEN: std::ops::RangeInclusive<u64> = 64..=65_536;

/// Files that all guests may have open.
static HOST: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let guests = (limit / SHARE).clamp(*HOST_OPEN.start(), *HOST_OPEN.end());
    Arc::new(Semaphore::new(usize::try_from(guests).unwrap_or(MAX_OPEN)))
});

/// Open files and listings of one call.
#[derive(Debug, Default)]
pub struct FileHandles {
    open: Arc<AtomicUsize>,
    files: HashMap<u32, Arc<Handle>>,
    listings: HashMap<u32, Listing>,
    /// Number of the granted directory, by open directory at or below it.
    granted: HashMap<u32, usize>,
    /// Granted directories, with the mode of each use, that the call has used so far.
    used: HashSet<(usize, FolderMode)>,
}

/// A listing that the host holds for a guest, out of its tenant's memory.
#[derive(Debug)]
struct Listing {
    entries: usize,
    _memory: Reservation,
}

/// One open file; counts for as long as a descriptor or a stream of it lives.
#[derive(Debug)]
pub(super) struct Handle {
    call: Arc<AtomicUsize>,
    _host: OwnedSemaphorePermit,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.call.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FileHandles {
    /// A permit for a file, unless too many are open.
    pub(super) fn reserve(&self) -> Option<Arc<Handle>> {
        if self.open.load(Ordering::Relaxed) >= MAX_OPEN {
            return None;
        }
        let host = Arc::clone(&HOST).try_acquire_owned().ok()?;
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Handle { call: Arc::clone(&self.open), _host: host }))
    }

    pub(super) fn keep(&mut self, descriptor: u32, handle: Arc<Handle>) {
        self.files.insert(descriptor, handle);
    }

    /// The permit of a descriptor; none for a granted directory, which all calls share.
    pub(super) fn of(&self, descriptor: u32) -> Option<Arc<Handle>> {
        self.files.get(&descriptor).cloned()
    }

    pub(super) fn close(&mut self, descriptor: u32) {
        self.files.remove(&descriptor);
        self.granted.remove(&descriptor);
    }

    /// Remembers that an open directory lies at or below the granted directory of this number.
    pub(super) fn keep_granted(&mut self, descriptor: u32, number: usize) {
        self.granted.insert(descriptor, number);
    }

    /// Number of the granted directory that holds an open directory.
    pub(super) fn granted(&self, descriptor: u32) -> Option<usize> {
        self.granted.get(&descriptor).copied()
    }

    /// Whether the call uses that directory in this way for the first time.
    pub(super) fn is_first_use(&mut self, number: usize, wanted: FolderMode) -> bool {
        self.used.insert((number, wanted))
    }

    /// Begins another call: all its uses are first uses.
    pub fn wake(&mut self) {
        self.used.clear();
    }

    /// Entries that further listings may have.
    pub(super) fn room_for_entries(&self) -> usize {
        MAX_ENTRIES.saturating_sub(self.listings.values().map(|listing| listing.entries).sum())
    }

    pub(super) fn keep_listing(&mut self, listing: u32, entries: usize, memory: Reservation) {
        self.listings.insert(listing, Listing { entries, _memory: memory });
    }

    pub(super) fn close_listing(&mut self, listing: u32) {
        self.listings.remove(&listing);
    }
}
