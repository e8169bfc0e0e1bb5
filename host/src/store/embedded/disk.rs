//! Place of the files. A test puts a disk here that loses unsynced writes, tears writes, or is full.

use std::{
    fmt, fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::{StorageBackend, backends::FileBackend};

use crate::files::{narrow_open, private_options};

/// Place of the files.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Whether a file exists.
    fn exists(&self, path: &Path) -> bool;

    /// Makes an empty file, in the place of an existing one.
    fn create(&self, path: &Path) -> io::Result<AnyBackend>;

    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<AnyBackend>;

    /// Gives a synced file its final name, durably.
    fn publish(&self, from: &Path, to: &Path) -> io::Result<()>;
}

/// The file system.
#[derive(Debug, Clone, Copy)]
pub struct FileSystem;

impl Disk for FileSystem {
    fn exists(&self, path: &Path) -> bool {
        // A path that the host cannot examine counts as existing. Opening it then reports the reason.
        path.try_exists().unwrap_or(true)
    }

    fn create(&self, path: &Path) -> io::Result<AnyBackend> {
        backend(private_options().read(true).write(true).create(true).truncate(true).open(path)?)
    }

    fn open(&self, path: &Path) -> io::Result<AnyBackend> {
        backend(fs::OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        // A name survives a crash only if its directory is on disk too.
        to.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
    }
}

fn backend(file: fs::File) -> io::Result<AnyBackend> {
    // An older host made the mode wider, or an operator put a copy here. The host uses a file of another owner unchanged.
    if let Err(error) = narrow_open(&file) {
        tracing::warn!(%error, "others may read a file of the store");
    }
    Ok(AnyBackend(Box::new(FileBackend::new(file).map_err(io::Error::other)?)))
}

/// Any backend of redb's.
#[derive(Debug)]
pub struct AnyBackend(pub Box<dyn StorageBackend>);

type Bound = std::ops::Bound<u64>;
type Locked<T> = Result<T, redb::BackendError>;

impl StorageBackend for AnyBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound, end: Bound) -> Locked<bool> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound, end: Bound) -> Locked<bool> {
        self.0.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound, end: Bound) -> Locked<()> {
        self.0.unlock_range(start, end)
    }

    fn lock_range(&self, start: Bound, end: Bound) -> Locked<()> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound, end: Bound) -> Locked<()> {
        self.0.lock_shared_range(start, end)
    }

    fn query_lock_range(&self, start: Bound, end: Bound) -> Locked<bool> {
        self.0.query_lock_range(start, end)
    }
}

/// A backend that counts the bytes that are written to it.
#[derive(Debug)]
pub(super) struct CountingBackend {
    pub(super) backend: AnyBackend,
    pub(super) written: Arc<AtomicU64>,
}

impl StorageBackend for CountingBackend {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written.fetch_add(u64::try_from(data.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound, end: Bound) -> Locked<bool> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound, end: Bound) -> Locked<bool> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound, end: Bound) -> Locked<()> {
        self.backend.unlock_range(start, end)
    }

    fn lock_range(&self, start: Bound, end: Bound) -> Locked<()> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound, end: Bound) -> Locked<()> {
        self.backend.lock_shared_range(start, end)
    }

    fn query_lock_range(&self, start: Bound, end: Bound) -> Locked<bool> {
        self.backend.query_lock_range(start, end)
    }
}
