//! Files that are either as before or whole, readable by their owner only, and changed by one at a time.
//!
//! Everything that the host keeps is 0600 in folders of 0700 from the moment it is made, whatever the umask: it is made so, never made and then narrowed.

pub(crate) mod watch;

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The rights of a file: its owner reads and writes it.
pub(crate) const FILE_MODE: u32 = 0o600;
/// The rights of a folder: its owner enters it.
const FOLDER_MODE: u32 = 0o700;
/// The bits that belong to others than the owner.
const OTHERS: u32 = 0o077;
/// How deep the host's own folders are at the most; a link or a mount cannot lead the walk further.
const MAX_DEPTH: usize = 4;

/// Writes a file in one piece: a reader sees the old one or the new one. The owner only may read it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, |file| file.write_all(bytes))
}

/// As [`write_atomically`], and on the disk when it returns: for what an operator was told is so.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, |file| {
        file.write_all(bytes)?;
        file.sync_all()
    })?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

fn replace(path: &Path, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path)?;
    let written = private(&temporary).and_then(|mut file| write(&mut file)).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _nothing_left_behind = fs::remove_file(&temporary);
    }
    written
}

/// A new file that only its owner can read.
pub(crate) fn private(path: &Path) -> io::Result<fs::File> {
    private_options().write(true).create_new(true).open(path)
}

/// How to open a file so that only its owner can read it, if it is made.
pub(crate) fn private_options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.mode(FILE_MODE);
    options
}

/// Makes a folder that only its owner can enter. It must not exist yet.
pub(crate) fn new_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(FOLDER_MODE).create(path)
}

/// Makes a folder that only its owner can enter, and those above it that are missing. One that exists stays as it is.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
}

/// Copies a file; the copy is new, and its owner's only.
pub(crate) fn copy_privately(from: &Path, to: &Path) -> io::Result<()> {
    io::copy(&mut fs::File::open(from)?, &mut private(to)?).map(drop)
}

/// Takes from everybody but the owner the rights to an open file.
pub(crate) fn narrow_open(file: &fs::File) -> io::Result<()> {
    match without_others(&file.metadata()?) {
        Some(narrower) => file.set_permissions(narrower),
        None => Ok(()),
    }
}

/// Takes from everybody but the owner the rights to a file or folder. A link is left alone, and so is its target.
pub(crate) fn narrow(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    match without_others(&meta) {
        Some(narrower) if !meta.is_symlink() => fs::set_permissions(path, narrower),
        _ => Ok(()),
    }
}

/// Narrows a folder of the host's own and all that is in it, but for the entries of the folder that are called `except`. The first error is given when all is done.
pub(crate) fn narrow_all(folder: &Path, except: Option<&str>) -> io::Result<()> {
    fn walk(path: &Path, except: Option<&str>, depth: usize) -> io::Result<()> {
        let mut outcome = narrow(path);
        if depth < MAX_DEPTH && fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                if except.is_none_or(|except| entry.file_name() != except) {
                    outcome = outcome.and(walk(&entry.path(), None, depth.saturating_add(1)));
                }
            }
        }
        outcome
    }
    match walk(folder, except, 0) {
        // A file that another process has just removed, or a folder that was never made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// The rights without those of others; none if others have none.
fn without_others(meta: &fs::Metadata) -> Option<fs::Permissions> {
    let mode = meta.permissions().mode();
    (mode & OTHERS != 0).then(|| fs::Permissions::from_mode(mode & !OTHERS))
}

/// A name beside `path` that nobody else has.
pub(crate) fn temporary(path: &Path) -> io::Result<PathBuf> {
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(io::Error::other)?;
    Ok(path.with_extension(format!("tmp-{:016x}", u64::from_le_bytes(suffix))))
}

/// Held by who reads a file to change it. It is a file beside it, as the file itself is replaced.
pub(crate) fn lock(path: &Path) -> io::Result<fs::File> {
    if let Some(folder) = path.parent() {
        private_folder(folder)?;
    }
    let lock = path.with_extension("lock");
    let file = match private(&lock) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::OpenOptions::new().write(true).open(&lock)?,
        opened => opened?,
    };
    file.lock()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn a_folder_is_narrowed_with_all_in_it_but_not_what_it_links_to() {
        let outside = tempfile::tempdir().expect("a folder");
        let (theirs, own) = (outside.path().join("theirs"), outside.path().join("own"));
        fs::create_dir_all(own.join("inner")).expect("made");
        fs::create_dir_all(own.join("tools")).expect("made");
        for file in [&theirs, &own.join("file"), &own.join("inner/file"), &own.join("tools/file")] {
            fs::write(file, "x").expect("written");
        }
        std::os::unix::fs::symlink(&theirs, own.join("link")).expect("linked");
        for (path, wide) in [
            ("theirs", 0o644),
            ("own", 0o755),
            ("own/file", 0o664),
            ("own/inner", 0o777),
            ("own/inner/file", 0o640),
            ("own/tools", 0o775),
            ("own/tools/file", 0o644),
        ] {
            fs::set_permissions(outside.path().join(path), fs::Permissions::from_mode(wide)).expect("set");
        }
        narrow_all(&own, Some("tools")).expect("narrowed");
        for (path, narrow) in [
            ("theirs", 0o644),
            ("own", 0o700),
            ("own/file", 0o600),
            ("own/inner", 0o700),
            ("own/inner/file", 0o600),
            ("own/tools", 0o775),
            ("own/tools/file", 0o644),
        ] {
            assert_eq!(mode(&outside.path().join(path)), narrow, "{path}");
        }
        narrow_all(&own.join("never made"), None).expect("nothing to do");
    }
}
