//! The write-ahead log of one file: groups of transactions that are durable, and that the database does not have yet.
//!
//! The log has two halves of a fixed size, so that an append changes no length. While one half is filled, a checkpoint puts the groups of the other one into the database; then
//! that half begins anew. A header names the log. Each record has a hash over the log's name, its number and its contents, so neither a torn record nor one of before counts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bytes::{Buf as _, BufMut as _, Bytes};
use redb::StorageBackend as _;

use super::{
    base::Writes,
    disk::{AnyBackend, Disk},
    unavailable,
};
use crate::{
    names::ComponentName,
    store::{StoreError, Unavailable},
};

const MAGIC: &[u8; 8] = b"mcppwal1";
/// Bytes of the header, and what each record begins at a multiple of. Where a disk writes larger blocks at once, an append writes the end of the record before again, as it was.
const SECTOR: usize = 512;
const HASH_BYTES: usize = 16;
/// Bytes of a record before its contents: its length, its hash and its number.
const RECORD_HEADER: usize = 4 + HASH_BYTES + 8;
/// The least and the most bytes of a log.
const BYTES: std::ops::RangeInclusive<usize> = 16 << 10..=1 << 30;
/// Bytes of a new log that are written at once.
const ZEROS: usize = 1 << 20;
/// Bytes of a half for each write that it takes. Memory for a write is more than its bytes, and readers go through those that the database does not have yet.
const BYTES_PER_WRITE: usize = 256;

/// What one transaction leaves in a space.
#[derive(Debug, PartialEq)]
pub(super) struct Written {
    pub(super) component: ComponentName,
    pub(super) version: u64,
    /// Bytes of keys and values in the space afterwards.
    pub(super) used_bytes: u64,
    pub(super) writes: Writes,
}

/// The log of an open file.
#[derive(Debug)]
pub(super) struct Wal {
    path: PathBuf,
    backend: AnyBackend,
    id: u64,
    half_bytes: usize,
    /// Whether the second half is being filled.
    is_second: bool,
    /// Where the next record begins in that half.
    end: usize,
    writes: usize,
}

/// A group as it is appended.
#[derive(Debug)]
pub(super) struct GroupRecord {
    bytes: Vec<u8>,
    writes: usize,
}

/// The path of a file's log.
pub(super) fn path_of(file: &Path) -> PathBuf {
    file.with_extension("wal")
}

/// Where a log is made before it has its path.
pub(super) fn unfinished(file: &Path) -> PathBuf {
    file.with_extension("wal-new")
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> StoreError {
    |source| unavailable(path, redb::Error::Io(source)).into()
}

fn corrupt(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    Unavailable::Corrupt { path: path.to_owned(), source: source.into() }.into()
}

fn hash(id: u64, number: u64, contents: &[u8]) -> [u8; HASH_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&id.to_le_bytes()).update(&number.to_le_bytes()).update(contents);
    let mut hash = [0; HASH_BYTES];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

impl Wal {
    /// Begins a log of a file, under a new name. Nothing is in it, and the database does not name it yet.
    pub(super) fn begin(file: &Path, disk: &dyn Disk, bytes: usize) -> Result<Self, StoreError> {
        let path = path_of(file);
        let half_bytes = (bytes.clamp(*BYTES.start(), *BYTES.end()) / 2).next_multiple_of(SECTOR);
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(std::io::Error::other).map_err(io(&path))?;
        let id = u64::from_le_bytes(id).max(1);
        let begin = || -> std::io::Result<AnyBackend> {
            let length = length(half_bytes);
            if !disk.exists(&path) || disk.open(&path)?.len()? != length {
                let unfinished = unfinished(file);
                let new = disk.create(&unfinished)?;
                new.set_len(length)?;
                // Written once, so that no append needs a new block.
                let zeros = vec![0; ZEROS];
                let mut at = 0;
                while at < length {
                    let left = usize::try_from(length.saturating_sub(at)).unwrap_or(ZEROS);
                    new.write(at, zeros.get(..left).unwrap_or(&zeros))?;
                    at = at.saturating_add(u64::try_from(ZEROS).unwrap_or(u64::MAX));
                }
                new.sync_data()?;
                drop(new);
                disk.publish(&unfinished, &path)?;
            }
            let backend = disk.open(&path)?;
            let mut header = [MAGIC.as_slice(), &id.to_le_bytes()].concat();
            header.extend_from_slice(&hash(id, 0, MAGIC));
            backend.write(0, &header)?;
            backend.sync_data()?;
            Ok(backend)
        };
        let backend = begin().map_err(io(&path))?;
        Ok(Self { path, backend, id, half_bytes, is_second: false, end: 0, writes: 0 })
    }

    /// What the database names the log by.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The record of a group; none if it has no room even in an empty half.
    pub(super) fn record(&self, number: u64, group: &[&Written]) -> Option<GroupRecord> {
        let writes = group.iter().map(|written| written.writes.len()).sum();
        let values = group.iter().flat_map(|written| written.writes.values().flatten());
        if writes > self.max_writes() || values.map(Bytes::len).fold(0, usize::saturating_add) > self.half_bytes {
            return None;
        }
        let mut bytes = vec![0; RECORD_HEADER];
        encode(group, &mut bytes);
        let (mut header, contents) = bytes.split_at_mut(RECORD_HEADER);
        let hash = hash(self.id, number, contents);
        header.put_u32_le(u32::try_from(contents.len()).unwrap_or(u32::MAX));
        header.put_slice(&hash);
        header.put_u64_le(number);
        (bytes.len() <= self.half_bytes).then_some(GroupRecord { bytes, writes })
    }

    /// Writes in one half.
    fn max_writes(&self) -> usize {
        self.half_bytes / BYTES_PER_WRITE
    }

    /// Whether the half that is being filled has room for a record.
    pub(super) fn has_room(&self, record: &GroupRecord) -> bool {
        self.end.saturating_add(record.bytes.len()) <= self.half_bytes
            && (self.writes == 0 || self.writes.saturating_add(record.writes) <= self.max_writes())
    }

    /// Goes on in the other half. The database has everything that is there.
    pub(super) fn turn_over(&mut self) {
        (self.is_second, self.end, self.writes) = (!self.is_second, 0, 0);
    }

    /// Begins the half anew. The database has everything that is there.
    pub(super) fn begin_anew(&mut self) {
        (self.end, self.writes) = (0, 0);
    }

    /// Appends a record for which there is room, durably.
    pub(super) fn append(&mut self, record: &GroupRecord) -> Result<(), StoreError> {
        let offset = start(self.half_bytes, self.is_second).saturating_add(self.end);
        let offset = u64::try_from(offset).unwrap_or(u64::MAX);
        self.backend.write(offset, &record.bytes).map_err(io(&self.path))?;
        self.backend.sync_data().map_err(io(&self.path))?;
        self.end = self.end.saturating_add(record.bytes.len()).next_multiple_of(SECTOR);
        self.writes = self.writes.saturating_add(record.writes);
        Ok(())
    }
}

fn start(half_bytes: usize, is_second: bool) -> usize {
    SECTOR.saturating_add(if is_second { half_bytes } else { 0 })
}

fn length(half_bytes: usize) -> u64 {
    u64::try_from(start(half_bytes, true).saturating_add(half_bytes)).unwrap_or(u64::MAX)
}

/// The groups in the log of this name behind group `last`, and the number of the last one.
pub(super) fn read(file: &Path, disk: &dyn Disk, id: u64, last: u64) -> Result<(Vec<Written>, u64), StoreError> {
    let path = path_of(file);
    if !disk.exists(&path) {
        return Err(corrupt(file, format!("its log {} is missing: the host was not stopped in order", path.display())));
    }
    let contents = whole(&path, disk)?;
    let mut header = contents.get(..MAGIC.len() + 8 + HASH_BYTES).unwrap_or_default();
    let is_its_own = header.try_get_u64_le().is_ok_and(|magic| magic.to_le_bytes() == *MAGIC)
        && header.try_get_u64_le() == Ok(id)
        && header == hash(id, 0, MAGIC);
    if !is_its_own {
        return Err(corrupt(&path, format!("it is not the log of {}", file.display())));
    }
    let half_bytes = contents.len().saturating_sub(SECTOR) / 2;
    let mut groups = BTreeMap::new();
    for is_second in [false, true] {
        let begin = start(half_bytes, is_second);
        let half = contents.get(begin..begin.saturating_add(half_bytes)).unwrap_or_default();
        groups.extend(records(half, id).filter(|(number, _)| *number > last));
    }
    let newest = groups.last_key_value().map_or(last, |(number, _)| *number);
    if u64::try_from(groups.len()) != Ok(newest.saturating_sub(last)) {
        return Err(corrupt(&path, format!("groups between {last} and {newest} are missing")));
    }
    let mut written = Vec::new();
    for contents in groups.into_values() {
        written.extend(decode(contents).ok_or_else(|| corrupt(&path, "a group cannot be read"))?);
    }
    Ok((written, newest))
}

fn whole(path: &Path, disk: &dyn Disk) -> Result<Vec<u8>, StoreError> {
    let read = || -> std::io::Result<Option<Vec<u8>>> {
        let backend = disk.open(path)?;
        let length =
            usize::try_from(backend.len()?).ok().filter(|length| length.saturating_sub(SECTOR) <= *BYTES.end());
        let Some(length) = length else { return Ok(None) };
        let mut contents = vec![0; length];
        backend.read(0, &mut contents)?;
        Ok(Some(contents))
    };
    read().map_err(io(path))?.ok_or_else(|| corrupt(path, "it is larger than any log"))
}

/// The records at the beginning of a half, up to the first that is not whole, or not of this log.
fn records(half: &[u8], id: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0_usize;
    std::iter::from_fn(move || {
        let mut rest = half.get(at..)?;
        let length = usize::try_from(rest.try_get_u32_le().ok()?).ok()?;
        let (expected, mut rest) = rest.split_first_chunk::<HASH_BYTES>()?;
        let number = rest.try_get_u64_le().ok()?;
        let contents = rest.get(..length)?;
        if *expected != hash(id, number, contents) {
            return None;
        }
        at = at.saturating_add(RECORD_HEADER).saturating_add(length).next_multiple_of(SECTOR);
        Some((number, contents))
    })
}

fn put(bytes: &[u8], into: &mut Vec<u8>) {
    // The store bounds names, keys, values and transactions far below.
    into.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    into.put_slice(bytes);
}

fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(from.try_get_u32_le().ok()?).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

fn encode(group: &[&Written], into: &mut Vec<u8>) {
    for written in group {
        put(written.component.as_str().as_bytes(), into);
        into.put_u64_le(written.version);
        into.put_u64_le(written.used_bytes);
        into.put_u32_le(u32::try_from(written.writes.len()).unwrap_or(u32::MAX));
        for (key, value) in &written.writes {
            put(key, into);
            into.put_u8(u8::from(value.is_some()));
            put(value.as_deref().unwrap_or_default(), into);
        }
    }
}

fn decode(mut contents: &[u8]) -> Option<Vec<Written>> {
    let mut group = Vec::new();
    while !contents.is_empty() {
        let component = std::str::from_utf8(take(&mut contents)?).ok()?;
        let component = ComponentName::of_space(component);
        let version = contents.try_get_u64_le().ok()?;
        let used_bytes = contents.try_get_u64_le().ok()?;
        let mut writes = Writes::new();
        for _ in 0..contents.try_get_u32_le().ok()? {
            let key = Bytes::copy_from_slice(take(&mut contents)?);
            let is_value = contents.try_get_u8().ok()? == 1;
            let value = take(&mut contents)?;
            writes.insert(key, is_value.then(|| Bytes::copy_from_slice(value)));
        }
        group.push(Written { component, version, used_bytes, writes });
    }
    Some(group)
}

#[cfg(test)]
mod tests;
