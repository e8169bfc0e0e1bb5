//! The directories of a grant, opened once when the component is loaded: what a path means is settled then, and a link that is put in its place later leads nowhere.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
};

use wasmtime_wasi::{FsPerms, OpenMode, filesystem::Dir};

use super::open::flags;
use crate::grants::files::{FolderGrant, FolderGrants, FolderMode};

/// Why a granted directory cannot be given.
#[derive(Debug, thiserror::Error)]
#[error("its grant names the directory {path}, which cannot be opened; make it, or change `files` in the grants file")]
pub struct FolderError {
    /// The directory.
    path: PathBuf,
    /// Why not.
    #[source]
    source: io::Error,
}

/// Open directories, for all calls of a revision.
#[derive(Debug, Clone, Default)]
pub struct Folders(Arc<[Folder]>);

struct Folder {
    path: PathBuf,
    at: String,
    dir: Dir,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder").field("path", &self.path).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Folders {
    /// Opens what is granted.
    pub fn open(grants: &FolderGrants) -> Result<Self, FolderError> {
        Ok(Self(grants.iter().map(Folder::open).collect::<Result<_, _>>()?))
    }

    /// Whether the paths still lead to the directories that are open.
    pub fn are_current(&self) -> bool {
        self.0.iter().all(Folder::is_current)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Dir, String)> {
        self.0.iter().map(|folder| (folder.dir.clone(), folder.at.clone()))
    }
}

impl Folder {
    fn open(grant: &FolderGrant) -> Result<Self, FolderError> {
        let FolderGrant { path, at, mode } = grant;
        let opened = OpenOptions::new().read(true).custom_flags(flags::DIRECTORY).open(path);
        let opened = opened.map_err(|source| FolderError { path: path.clone(), source })?;
        let (perms, open_mode) = match mode {
            FolderMode::Read => (FsPerms::ReadOnly, OpenMode::READ),
            FolderMode::ReadWrite => (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE),
        };
        Ok(Self { path: path.clone(), at: at.clone(), dir: Dir::new(opened, perms, open_mode, false) })
    }

    fn is_current(&self) -> bool {
        let identity = |meta: io::Result<std::fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
        let open: &File = &self.dir.dir;
        identity(open.metadata()).is_some_and(|open| identity(std::fs::metadata(&self.path)) == Some(open))
    }
}
