//! Files that are either as before or whole, readable by their owner only, and changed by one at a time.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

/// Writes a file in one piece: whoever reads it sees the old one or the new one. The owner only may read it.
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
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
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
        fs::create_dir_all(folder)?;
    }
    let lock = path.with_extension("lock");
    let file = match private(&lock) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::OpenOptions::new().write(true).open(&lock)?,
        opened => opened?,
    };
    file.lock()?;
    Ok(file)
}
