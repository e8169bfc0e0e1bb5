//! The data directory belongs to one host at a time. Another one on the same directory serves what needs no data, says which process holds it, and takes over when that ends.
//!
//! The holder has a lock on a file that says which process it is; the system gives the lock back however the process ends. Without it no file of the store is opened.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    files::FILE_MODE,
    store::embedded::disk::{AnyBackend, Disk},
};

/// The lock's name in the data directory.
const LOCK: &str = "host.lock";
/// Longest text in the lock: the number of a process.
const MAX_LOCK_BYTES: u64 = 32;

/// The right to a data directory, which this process has or waits for.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    data: PathBuf,
    file: File,
    held: AtomicBool,
}

impl DirectoryLock {
    /// Makes the directory if need be, and takes the lock if nobody has it.
    pub(super) fn open(data: &Path) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(data)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(data.join(LOCK))?;
        let lock = Arc::new(Self { data: data.to_owned(), file, held: AtomicBool::new(false) });
        lock.try_hold()?;
        Ok(lock)
    }

    /// Whether this process has the directory.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Takes the lock if nobody has it; whether this process has it now.
    pub(super) fn try_hold(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        self.file.set_len(0)?;
        (&self.file).rewind()?;
        (&self.file).write_all(std::process::id().to_string().as_bytes())?;
        self.held.store(true, Ordering::Release);
        Ok(true)
    }

    /// Gives the directory back, if this process has it.
    pub(super) fn release(&self) {
        if self.held.swap(false, Ordering::AcqRel)
            && let Err(error) = self.file.unlock()
        {
            tracing::warn!(%error, "the data directory is not given back before this process ends");
        }
    }

    /// The notice to people and clients while another process has the directory.
    pub(super) fn notice(&self) -> String {
        let mut text = String::new();
        let read = (&self.file).rewind().and_then(|()| (&self.file).take(MAX_LOCK_BYTES).read_to_string(&mut text));
        let process = match (read, text.parse::<u32>()) {
            (Ok(_), Ok(process)) => format!("process {process}"),
            _ => "another process".to_owned(),
        };
        format!(
            "another mcpp host, {process}, uses the data directory {}: tools that keep data are not served here until it ends. Stop it, or start this one with another --data",
            self.data.display()
        )
    }
}

/// A disk on which nothing is opened while another process has the directory.
#[derive(Debug)]
pub(super) struct LockedDisk<D> {
    pub(super) lock: Arc<DirectoryLock>,
    pub(super) disk: D,
}

impl<D> LockedDisk<D> {
    fn check(&self) -> io::Result<()> {
        if self.lock.is_held() { Ok(()) } else { Err(io::Error::other(self.lock.notice())) }
    }
}

impl<D: Disk> Disk for LockedDisk<D> {
    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }

    fn create(&self, path: &Path) -> io::Result<AnyBackend> {
        self.check()?;
        self.disk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<AnyBackend> {
        self.check()?;
        self.disk.open(path)
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        self.disk.publish(from, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::disk::FileSystem;

    #[test]
    fn a_directory_has_one_holder_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = DirectoryLock::open(folder.path()).expect("opened");
        let second = DirectoryLock::open(folder.path()).expect("opened");
        assert!(first.is_held() && !second.is_held());
        let notice = second.notice();
        assert!(notice.contains(&format!("process {}", std::process::id())), "{notice}");
        let disk = LockedDisk { lock: Arc::clone(&second), disk: FileSystem };
        let refused = disk.create(&folder.path().join("a")).expect_err("not its directory");
        assert_eq!(refused.to_string(), notice);
        assert!(!second.try_hold().expect("asked"));
        first.release();
        assert!(second.try_hold().expect("asked") && second.is_held());
        assert!(disk.create(&folder.path().join("a")).is_ok());
    }
}
