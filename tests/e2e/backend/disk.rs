//! A disk in memory that can lose power: what was not synced is lost, or arrives in part, and the last write may be torn.

use std::{
    collections::BTreeMap,
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use mcpp::store::embedded::disk::{AnyBackend, Disk};
use redb::{BackendError, StorageBackend};

/// One change of the file that is not synced yet.
#[derive(Debug, Clone)]
pub enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

/// The fate of an unsynced change when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Torn,
    Arrived,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, File>,
    /// Operations until the power goes, if it will.
    operations_left: Option<u64>,
    /// The error of every operation, if the disk is full, or read-only.
    refusing: Option<io::ErrorKind>,
    /// What the names of the files end with whose every change fails.
    broken: Option<&'static str>,
    /// All operations, if they are recorded.
    log: Option<Vec<Logged>>,
}

#[derive(Debug, Default)]
struct File {
    synced: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Change>,
}

/// One operation.
#[derive(Debug, Clone)]
pub enum Logged {
    Create(PathBuf),
    Change(PathBuf, Change),
    Sync(PathBuf),
    Publish(PathBuf, PathBuf),
}

/// The disk; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

impl FaultyDisk {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no panic under the lock")
    }

    /// Records everything from now on.
    pub fn record(&self) {
        self.lock().log = Some(Vec::new());
    }

    /// The recorded operations.
    pub fn log(&self) -> Vec<Logged> {
        self.lock().log.clone().unwrap_or_default()
    }

    /// A disk on which these operations have been carried out.
    pub fn replay(log: &[Logged]) -> Self {
        let disk = Self::default();
        for operation in log {
            disk.lock().operate(operation.clone()).expect("nothing fails here");
        }
        disk
    }

    /// The power goes after so many more operations.
    pub fn lose_power_after(&self, operations: u64) {
        self.lock().operations_left = Some(operations);
    }

    /// Every operation fails from now on, or none again.
    pub fn refuse_writes(&self, with: Option<io::ErrorKind>) {
        self.lock().refusing = with;
    }

    /// Every change of files whose names end so fails from now on, or none again.
    pub fn break_files(&self, ending: Option<&'static str>) {
        self.lock().broken = ending;
    }

    /// The disk after the power went: what was synced, and of the rest what `fate` says.
    pub fn after_power_loss(&self, mut fate: impl FnMut() -> Fate) -> Self {
        let after = Self::default();
        for (path, file) in &self.lock().files {
            let image = crash_image(&file.synced, &file.unsynced, &mut fate);
            after
                .lock()
                .files
                .insert(path.clone(), File { synced: image.clone(), current: image, unsynced: Vec::new() });
        }
        after
    }

    /// Changes that are not synced, in all files.
    pub fn unsynced(&self) -> usize {
        self.lock().files.values().map(|file| file.unsynced.len()).sum()
    }
}

/// A file's contents after the power went.
fn crash_image(synced: &[u8], unsynced: &[Change], mut fate: impl FnMut() -> Fate) -> Vec<u8> {
    let mut image = synced.to_vec();
    for change in unsynced {
        match (fate(), change) {
            (Fate::Lost, _) => {}
            // A sector is written or not; what is larger may be cut anywhere between two.
            (Fate::Torn, Change::Write(offset, data)) => {
                apply(&mut image, &Change::Write(*offset, data[..data.len() / 1024 * 512].to_vec()))
            }
            (_, change) => apply(&mut image, change),
        }
    }
    image
}

/// Carries out a change.
fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => image.resize(usize::try_from(*length).expect("small"), 0),
        Change::Write(offset, data) => {
            let start = usize::try_from(*offset).expect("small");
            let end = start + data.len();
            if image.len() < end {
                image.resize(end, 0);
            }
            image[start..end].copy_from_slice(data);
        }
    }
}

impl Disk for FaultyDisk {
    fn exists(&self, path: &Path) -> bool {
        self.lock().files.contains_key(path)
    }

    fn create(&self, path: &Path) -> io::Result<AnyBackend> {
        self.lock().operate(Logged::Create(path.to_owned()))?;
        self.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<AnyBackend> {
        Ok(AnyBackend(Box::new(FaultyFile { disk: self.clone(), path: path.to_owned() })))
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.lock().operate(Logged::Publish(from.to_owned(), to.to_owned()))
    }
}

impl State {
    fn operate(&mut self, operation: Logged) -> io::Result<()> {
        if let Some(kind) = self.refusing {
            return Err(kind.into());
        }
        if let (Some(ending), Logged::Change(path, _) | Logged::Sync(path)) = (self.broken, &operation)
            && path.to_string_lossy().ends_with(ending)
        {
            return Err(io::Error::other("it is broken"));
        }
        match &mut self.operations_left {
            Some(0) => return Err(io::Error::other("the power is off")),
            Some(left) => *left -= 1,
            None => {}
        }
        match &operation {
            Logged::Create(path) => drop(self.files.insert(path.clone(), File::default())),
            Logged::Change(path, change) => {
                let file = self.files.entry(path.clone()).or_default();
                apply(&mut file.current, change);
                file.unsynced.push(change.clone());
            }
            Logged::Sync(path) => {
                let file = self.files.entry(path.clone()).or_default();
                file.synced.clone_from(&file.current);
                file.unsynced.clear();
            }
            Logged::Publish(from, to) => {
                let file = self.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
                self.files.insert(to.clone(), file);
            }
        }
        if let Some(log) = &mut self.log {
            log.push(operation);
        }
        Ok(())
    }
}

/// One file of a disk.
#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
}

impl StorageBackend for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        let file = state.files.get(&self.path).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.lock();
        let file = state.files.get(&self.path).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).expect("small");
        out.copy_from_slice(file.current.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.lock().operate(Logged::Change(self.path.clone(), Change::Length(length)))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.lock().operate(Logged::Sync(self.path.clone()))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.lock().operate(Logged::Change(self.path.clone(), Change::Write(offset, data.to_vec())))
    }

    // One process, and every disk is opened by one store at a time.
    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}
