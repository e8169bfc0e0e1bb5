//! A component that has come in part: a hidden file of its final size, of which each chunk that is there is told by its own value.
//!
//! Nothing else is kept of a fetch: after a break the chunks in the file are held to the list again, so that neither a torn write nor a foreign hand leaves a wrong one behind.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::chunks::{CHUNK_BYTES, ChunkList};
use crate::files::{private_folder, private_options};

/// Components of one tenant that have come in part; of more the oldest are removed.
const MAX_PARTS: usize = 4;
/// The end of their files' names.
const SUFFIX: &str = ".part";

/// A component that has come in part.
#[derive(Debug)]
pub struct PartFile {
    folder: PathBuf,
    path: PathBuf,
    file: File,
}

impl PartFile {
    /// What has come of a component, in a tenant's folder of fetched components; and which chunks are missing. Blocks.
    pub fn open(folder: &Path, digest: &blake3::Hash, list: &ChunkList) -> io::Result<(Self, Vec<usize>)> {
        private_folder(folder)?;
        let path = folder.join(format!(".{}{SUFFIX}", digest.to_hex()));
        make_room(folder, &path)?;
        let file = private_options().read(true).write(true).create(true).truncate(false).open(&path)?;
        let is_new = file.metadata()?.len() == 0;
        file.set_len(list.bytes())?;
        let part = Self { folder: folder.to_owned(), path, file };
        let all = 0..list.values().len();
        let missing = if is_new { all.collect() } else { all.filter(|index| !part.has(*index, list)).collect() };
        Ok((part, missing))
    }

    fn has(&self, index: usize, list: &ChunkList) -> bool {
        let Some((begin, length)) = list.place(index) else { return false };
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, begin).is_ok() && list.has(index, &bytes)
    }

    /// Keeps a chunk that was held to the list. Blocks.
    pub fn keep(&self, index: usize, bytes: &[u8]) -> io::Result<()> {
        let begin = u64::try_from(index).unwrap_or(u64::MAX).saturating_mul(CHUNK_BYTES);
        self.file.write_all_at(bytes, begin)
    }

    /// Makes the whole component a file of this name in the folder, in the place of one that was there. It is on the disk when this returns. Blocks.
    ///
    /// # Errors
    /// The file on the disk is not the digest's. It is removed then.
    pub fn finish(&mut self, name: &str, digest: &blake3::Hash) -> io::Result<PathBuf> {
        let mut hasher = blake3::Hasher::new();
        let mut whole = File::open(&self.path)?;
        let mut piece = vec![0; 64 << 10];
        loop {
            match whole.read(&mut piece)? {
                0 => break,
                read => drop(hasher.update(piece.get(..read).unwrap_or_default())),
            }
        }
        if hasher.finalize() != *digest {
            std::fs::remove_file(&self.path)?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file was changed while it came"));
        }
        self.file.sync_all()?;
        let path = self.folder.join(format!("{name}.wasm"));
        std::fs::rename(&self.path, &path)?;
        File::open(&self.folder)?.sync_all()?;
        Ok(path)
    }
}

/// Removes the oldest parts, as far as another one needs room.
fn make_room(folder: &Path, wanted: &Path) -> io::Result<()> {
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let is_part = entry.file_name().to_string_lossy().ends_with(SUFFIX);
        if is_part && entry.path() != wanted {
            parts.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    parts.sort();
    let most = MAX_PARTS.saturating_sub(1);
    for (_, old) in parts.iter().take(parts.len().saturating_sub(most)) {
        std::fs::remove_file(old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_goes_on_where_it_stopped_and_trusts_no_byte_that_was_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().join("fetched");
        let component: Vec<u8> = (0..3 * CHUNK_BYTES + 7).map(|at| u8::try_from(at % 241).expect("small")).collect();
        let digest = blake3::hash(&component);
        let list = ChunkList::read(component.as_slice()).expect("a list");
        let chunk = |index: usize| {
            let (begin, length) = list.place(index).expect("a chunk");
            let begin = usize::try_from(begin).expect("small");
            &component[begin..begin + length]
        };
        let (mut part, missing) = PartFile::open(&at, &digest, &list).expect("opened");
        assert_eq!(missing, [0, 1, 2, 3]);
        part.keep(3, chunk(3)).expect("kept");
        part.keep(1, chunk(1)).expect("kept");
        assert!(part.finish("c", &digest).is_err(), "half of it");
        let (part, missing) = PartFile::open(&at, &digest, &list).expect("opened");
        assert_eq!(missing, [0, 1, 2, 3], "what was wrong is gone");
        part.keep(3, chunk(3)).expect("kept");
        part.keep(1, chunk(1)).expect("kept");
        part.file.write_all_at(b"!", CHUNK_BYTES + 9).expect("changed");
        drop(part);
        let (mut part, missing) = PartFile::open(&at, &digest, &list).expect("opened");
        assert_eq!(missing, [0, 1, 2], "the last one is there, and the changed one is not believed");
        missing.into_iter().for_each(|index| part.keep(index, chunk(index)).expect("kept"));
        let path = part.finish("c", &digest).expect("whole");
        assert_eq!(std::fs::read(&path).expect("read"), component);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("there").permissions());
        assert_eq!((mode & 0o777, path.file_name()), (0o600, Some("c.wasm".as_ref())));
    }

    #[test]
    fn the_oldest_parts_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let list = ChunkList::read(&b"component"[..]).expect("a list");
        for number in 0..=u8::try_from(MAX_PARTS).expect("few") {
            drop(PartFile::open(folder.path(), &blake3::hash(&[number]), &list).expect("opened"));
        }
        let left = std::fs::read_dir(folder.path()).expect("listed").count();
        assert_eq!(left, MAX_PARTS);
    }
}
