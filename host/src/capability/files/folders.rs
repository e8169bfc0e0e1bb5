//! The directories of a grant. The host opens them once, when it loads the component, and so fixes the meaning of each path.
//! A link put there later leads nowhere.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use wasmtime_wasi::{FsPerms, OpenMode, filesystem::Dir};

use super::open::flags;
use crate::grants::{
    files::{FolderGrant, FolderGrants, FolderMode},
    ledger::Witness,
};

/// Reason for which the host cannot give a granted directory.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It does not exist, or the host may not open it.
    #[error(
        "its grant names the directory {path}, which cannot be opened; make it, or change `files` in the component's grant"
    )]
    Open {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It holds the host's own files.
    #[error(
        "its grant names the directory {path}, which overlaps {own}, where this host keeps its own files; no component may see those"
    )]
    Own {
        /// The directory.
        path: PathBuf,
        /// The folder of the host.
        own: PathBuf,
    },
}

/// Folders that no component may see: data, grants and other components' code.
#[derive(Debug, Clone, Default)]
pub struct OwnFolders {
    /// The data directory. A grant may name no directory within it, and none that contains it.
    pub data: PathBuf,
    /// Other folders. A grant may name no directory that contains one of them.
    pub others: Vec<PathBuf>,
}

impl OwnFolders {
    /// Checks that `grants` keep away from these folders.
    pub fn check(&self, grants: &FolderGrants) -> Result<(), FolderError> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        for grant in grants.iter() {
            let granted = real(&grant.path);
            let own = std::iter::once(&self.data).chain(&self.others);
            let held = own.clone().find(|own| real(own).starts_with(&granted));
            let held = held.or_else(|| granted.starts_with(real(&self.data)).then_some(&self.data));
            if let Some(own) = held {
                return Err(FolderError::Own { path: grant.path.clone(), own: own.clone() });
            }
        }
        Ok(())
    }
}

/// Open directories, for all calls of a revision.
#[derive(Debug, Clone, Default)]
pub struct Folders(Arc<[Folder]>);

struct Folder {
    grant: FolderGrant,
    dir: Dir,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder").field("grant", &self.grant).finish_non_exhaustive()
    }
}

impl Folders {
    /// Opens the granted directories.
    pub fn open(grants: &FolderGrants) -> Result<Self, FolderError> {
        Ok(Self(grants.iter().map(Folder::open).collect::<Result<_, _>>()?))
    }

    /// Whether the paths still lead to the directories that are open.
    pub fn are_current(&self) -> bool {
        self.0.iter().all(Folder::is_current)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Dir, String)> {
        self.0.iter().map(|folder| (folder.dir.clone(), folder.grant.at.clone()))
    }

    /// Notes that the component wanted this use of the numbered directory, as the lines of a grant that allow it.
    pub(super) fn note(&self, number: usize, wanted: FolderMode, witness: &Witness) {
        let Some(folder) = self.0.get(number) else { return };
        let line = FolderGrant { mode: wanted, ..folder.grant.clone() }.to_string();
        if wanted > folder.grant.mode {
            witness.denied(Some(line), format!("it may only read {}", folder.grant.at));
        } else {
            witness.used(line);
        }
    }
}

impl Folder {
    fn open(grant: &FolderGrant) -> Result<Self, FolderError> {
        let FolderGrant { path, mode, .. } = grant;
        let opened = OpenOptions::new().read(true).custom_flags(flags::DIRECTORY).open(path);
        let opened = opened.map_err(|source| FolderError::Open { path: path.clone(), source })?;
        let (perms, open_mode) = match mode {
            FolderMode::Read => (FsPerms::ReadOnly, OpenMode::READ),
            FolderMode::ReadWrite => (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE),
        };
        Ok(Self { grant: grant.clone(), dir: Dir::new(opened, perms, open_mode, false) })
    }

    fn is_current(&self) -> bool {
        let identity = |meta: io::Result<std::fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
        let open: &File = &self.dir.dir;
        identity(open.metadata()).is_some_and(|open| identity(std::fs::metadata(&self.grant.path)) == Some(open))
    }
}
