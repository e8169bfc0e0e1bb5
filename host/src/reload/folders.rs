//! The files of a tenant's tools folders: which there are, what they look like from outside, and their bytes.
//!
//! The host's own operator may link from a folder to wherever builds are. Another tenant's links stay in its own folder: a file is opened from there, step by step, and what
//! was opened is checked, never its path. Opening waits for nobody, and reading has a bound, whatever the file says of its length.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cap_primitives::fs::OpenOptions;
use rustix::fs::OFlags;

use super::loader::is_component_file;
use crate::{engine::compile::MAX_COMPONENT_BYTES, guest::component::ComponentError, reload::error::LoadError};

/// Component files that are loaded of one folder, the first by name: a thousand tools are more than any client lists.
pub(super) const MAX_FILES: usize = 1_000;
/// Entries of a folder that are looked at.
const MAX_ENTRIES: usize = 10_000;
/// A file that changed less than this long ago may change again without looking different: file systems count time in coarse steps.
const COARSE: Duration = Duration::from_secs(2);

/// The properties of a file that change when somebody writes to it or another file takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether a change after now would show in the stamp.
    pub(super) fn is_old(&self) -> bool {
        let since = |(seconds, _): (i64, i64)| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = since(self.modified).max(since(self.changed));
        last.saturating_add(COARSE) < now
    }
}

/// Which directory a folder's path leads to now. A number is given to another directory as soon as its own is gone, so the time of its making counts too, where it is known.
pub(super) type FolderIdentity = (u64, u64, Option<SystemTime>);

/// The contents of a folder.
#[derive(Debug, Default)]
pub(super) struct FolderListing {
    /// Component files.
    pub(super) files: Vec<PathBuf>,
    /// Those of them that are links.
    pub(super) links: Vec<PathBuf>,
    /// Whether there are more than are loaded.
    pub(super) more: bool,
}

/// A tenant's tools folders.
#[derive(Debug, Clone)]
pub struct ToolsFolders {
    folders: Vec<PathBuf>,
    /// The last of them, if components of peers come there: each waits until it is accepted, whatever holds for the others.
    fetched: Option<PathBuf>,
    /// Links may not lead out of here; anywhere if there is none.
    within: Option<PathBuf>,
}

impl ToolsFolders {
    /// Folders whose links may lead anywhere: those of the host's own operator.
    pub fn trusted(folders: Vec<PathBuf>) -> Self {
        Self { folders: folders.into_iter().map(absolute).collect(), fetched: None, within: None }
    }

    /// A folder whose links may not lead out of `within`, of which it is a part.
    pub fn confined(folder: PathBuf, within: PathBuf) -> Self {
        Self { folders: vec![absolute(folder)], fetched: None, within: Some(absolute(within)) }
    }

    /// These, and the folder of what is fetched from peers.
    pub fn with_fetched(mut self, folder: PathBuf) -> Self {
        let folder = absolute(folder);
        self.folders.push(folder.clone());
        self.fetched = Some(folder);
        self
    }

    /// Whether a file is in the folder of what is fetched from peers.
    pub(super) fn is_fetched(&self, path: &Path) -> bool {
        self.fetched.as_deref().is_some_and(|fetched| path.parent() == Some(fetched))
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The directory to open from, and the way from there.
    fn below<'a>(&self, within: &Path, path: &'a Path) -> io::Result<(File, &'a Path)> {
        let root = File::options().read(true).custom_flags(flags(OFlags::DIRECTORY)).open(within)?;
        let way = path.strip_prefix(within).map_err(io::Error::other)?;
        Ok((root, way))
    }

    /// Opens a file without waiting for anybody. Blocks.
    fn open(&self, path: &Path) -> io::Result<File> {
        // Not for the other end of a pipe, and no terminal is taken.
        let at_once = flags(OFlags::NONBLOCK.union(OFlags::NOCTTY));
        let Some(within) = &self.within else {
            return File::options().read(true).custom_flags(at_once).open(path);
        };
        let (root, way) = self.below(within, path)?;
        let mut options = OpenOptions::new();
        options.read(true);
        cap_primitives::fs::OpenOptionsExt::custom_flags(&mut options, at_once);
        cap_primitives::fs::open(&root, way, &options)
    }

    /// The stamp of a file, or of a link's target; none if the host cannot open it. Blocks.
    pub(super) fn stamp(&self, path: &Path) -> Option<FileStamp> {
        Some(FileStamp::of(&self.open(path).ok()?.metadata().ok()?))
    }

    /// Which directory the path of a folder leads to; none if it leads to none. Blocks.
    pub(super) fn identity(&self, folder: &Path) -> Option<FolderIdentity> {
        let meta = match &self.within {
            None => std::fs::metadata(folder).ok()?,
            Some(_) => self.open(folder).ok()?.metadata().ok()?,
        };
        meta.is_dir().then(|| (meta.dev(), meta.ino(), meta.created().ok()))
    }

    /// The component files of a folder. Blocks.
    pub(super) fn list(&self, folder: &Path) -> io::Result<FolderListing> {
        let mut named: BTreeMap<OsString, bool> = BTreeMap::new();
        let mut more = false;
        let mut note = |at: usize, name: OsString, is_link: bool| {
            if is_component_file(Path::new(&name)) {
                named.insert(name, is_link);
            }
            more = at >= MAX_ENTRIES;
            !more
        };
        match &self.within {
            None => {
                for (at, entry) in std::fs::read_dir(folder)?.enumerate() {
                    let entry = entry?;
                    if !note(at, entry.file_name(), entry.file_type()?.is_symlink()) {
                        break;
                    }
                }
            }
            Some(within) => {
                let (root, way) = self.below(within, folder)?;
                for (at, entry) in cap_primitives::fs::read_dir(&root, way)?.enumerate() {
                    let entry = entry?;
                    if !note(at, entry.file_name(), entry.file_type()?.is_symlink()) {
                        break;
                    }
                }
            }
        }
        let mut listing = FolderListing { more: more || named.len() > MAX_FILES, ..FolderListing::default() };
        for (name, is_link) in named.into_iter().take(MAX_FILES) {
            let path = folder.join(name);
            if is_link {
                listing.links.push(path.clone());
            }
            listing.files.push(path);
        }
        Ok(listing)
    }

    /// The bytes of a component file and what it looked like before they were read; none if it is gone. `take` is asked for room before more is read. Blocks.
    pub(super) fn read(
        &self,
        path: &Path,
        mut take: impl FnMut(u64) -> Result<(), LoadError>,
    ) -> Result<Option<(Vec<u8>, FileStamp)>, LoadError> {
        const PIECE: u64 = 1 << 20;
        let fail = |source: io::Error| LoadError::Read { path: path.to_owned(), source };
        let file = match self.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && self.is_link(path) => {
                return Err(LoadError::LeadsOut { path: path.to_owned() });
            }
            Err(error) => return Err(fail(error)),
        };
        let meta = file.metadata().map_err(fail)?;
        if !meta.is_file() {
            return Err(fail(io::Error::other("it is not a regular file")));
        }
        if meta.len() > MAX_COMPONENT_BYTES {
            return Err(ComponentError::TooLarge(meta.len()).into());
        }
        let mut bytes = Vec::new();
        loop {
            take(PIECE)?;
            let read = (&file).take(PIECE).read_to_end(&mut bytes).map_err(fail)?;
            let so_far = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if so_far > MAX_COMPONENT_BYTES {
                return Err(ComponentError::TooLarge(so_far).into());
            }
            if read == 0 {
                return Ok(Some((bytes, FileStamp::of(&meta))));
            }
        }
    }

    fn is_link(&self, path: &Path) -> bool {
        // Which part of the way is a link is no matter: an operator is told that one leads out.
        self.within.is_some() && std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
    }
}

/// The watch tells of files by absolute paths.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

const fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn bytes(folders: &ToolsFolders, path: &Path) -> Result<Option<Vec<u8>>, String> {
        let read = folders.read(path, |_| Ok(())).map_err(|error| crate::error::chain(&error));
        read.map(|read| read.map(|(bytes, _)| bytes))
    }

    #[test]
    fn links_of_a_tenant_stay_in_its_folder_and_those_of_the_operator_go_anywhere() {
        let data = tempfile::tempdir().expect("a folder");
        let (mine, other) = (data.path().join("mine"), data.path().join("other"));
        for folder in [mine.join("tools/..data"), other.join("tools")] {
            std::fs::create_dir_all(folder).expect("made");
        }
        std::fs::write(mine.join("tools/..data/a.wasm"), "own").expect("written");
        std::fs::write(other.join("tools/secret.wasm"), "theirs").expect("written");
        let tools = mine.join("tools");
        symlink("..data/a.wasm", tools.join("a.wasm")).expect("linked");
        symlink(other.join("tools/secret.wasm"), tools.join("absolute.wasm")).expect("linked");
        symlink("../../other/tools/secret.wasm", tools.join("relative.wasm")).expect("linked");
        symlink("../../other/tools", tools.join("folder")).expect("linked");
        let confined = ToolsFolders::confined(tools.clone(), mine.clone());
        assert_eq!(bytes(&confined, &tools.join("a.wasm")), Ok(Some(b"own".to_vec())));
        for out in ["absolute.wasm", "relative.wasm"] {
            let refused = bytes(&confined, &tools.join(out)).expect_err("it leads out");
            assert!(refused.contains("leads out of the tenant's folder"), "{refused}");
            assert_eq!(confined.stamp(&tools.join(out)), None);
        }
        assert!(bytes(&confined, &tools.join("folder/secret.wasm")).is_err());
        assert_eq!(bytes(&confined, &tools.join("nothing.wasm")), Ok(None));
        let trusted = ToolsFolders::trusted(vec![tools.clone()]);
        assert_eq!(bytes(&trusted, &tools.join("absolute.wasm")), Ok(Some(b"theirs".to_vec())));
        let listed = |folders: &ToolsFolders| folders.list(&tools).map(|listing| (listing.files, listing.links));
        let names = ["a.wasm", "absolute.wasm", "relative.wasm"].map(|name| tools.join(name)).to_vec();
        assert_eq!(listed(&confined).expect("listed"), (names.clone(), names.clone()));
        assert_eq!(listed(&trusted).expect("listed"), (names.clone(), names));
        // The folder itself may be a link, as far as it stays inside.
        std::fs::rename(&tools, mine.join("first")).expect("moved");
        symlink("first", &tools).expect("linked");
        assert_eq!(bytes(&confined, &tools.join("a.wasm")), Ok(Some(b"own".to_vec())));
        std::fs::remove_file(&tools).expect("removed");
        symlink(other.join("tools"), &tools).expect("linked");
        assert!(confined.list(&tools).is_err() && confined.identity(&tools).is_none());
        assert!(bytes(&confined, &tools.join("secret.wasm")).is_err());
    }

    #[test]
    fn a_file_is_read_up_to_its_bound_and_a_pipe_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = ToolsFolders::trusted(vec![folder.path().to_owned()]);
        let large = folder.path().join("large.wasm");
        std::fs::File::create(&large).and_then(|file| file.set_len(MAX_COMPONENT_BYTES + 1)).expect("made");
        assert!(bytes(&folders, &large).is_err_and(|error| error.contains("at most")));
        let pipe = folder.path().join("pipe.wasm");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .expect("a pipe");
        assert!(bytes(&folders, &pipe).is_err_and(|error| error.contains("not a regular file")));
        let some = folder.path().join("some.wasm");
        std::fs::write(&some, vec![7; (2 << 20) + 1]).expect("written");
        let mut asked = 0;
        let refused = folders.read(&some, |more| {
            asked += more;
            if asked > 2 << 20 { Err(ComponentError::Empty.into()) } else { Ok(()) }
        });
        assert!(refused.is_err() && asked == 3 << 20, "room is asked for before more is read");
        assert_eq!(bytes(&folders, &some).expect("read").map(|bytes| bytes.len()), Some((2 << 20) + 1));
    }

    #[test]
    fn a_folder_of_too_many_files_is_listed_in_part() {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = ToolsFolders::trusted(vec![folder.path().to_owned()]);
        for n in 0..MAX_FILES {
            std::fs::write(folder.path().join(format!("{n:04}.wasm")), "").expect("written");
        }
        let listed = folders.list(folder.path()).expect("listed");
        assert!(listed.files.len() == MAX_FILES && !listed.more);
        std::fs::write(folder.path().join("zzz.wasm"), "").expect("written");
        let listed = folders.list(folder.path()).expect("listed");
        assert!(listed.files.len() == MAX_FILES && listed.more);
    }
}
