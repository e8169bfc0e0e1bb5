//! Reads files, and knows when it need not read one.

use std::{path::Path, sync::PoisonError};

use bytes::Bytes;

use super::{Cause, Loader};
use crate::{
    engine::features::Code,
    grants::ComponentGrant,
    guest::component::Origin,
    memory::{MemoryUse, Reservation},
    reload::{error::LoadError, folders::FileStamp, source::Source},
};

/// The bytes of a source, the room that they take, and what the file looked like; built-in ones are no file's.
pub(super) type SourceBytes = (Bytes, Option<Reservation>, Option<FileStamp>);

/// A file that was read.
#[derive(Debug, Clone)]
pub(super) struct SeenFile {
    pub(super) stamp: FileStamp,
    /// With which grant it was loaded.
    pub(super) grant: ComponentGrant,
    /// Whether it went live, or was live already.
    pub(super) served: bool,
}

impl Loader {
    /// The present stamp of a source's file.
    pub(super) async fn stamp(&self, source: &Source) -> Option<FileStamp> {
        let Source::File(path) = source else { return None };
        let (folders, path) = (self.config.folders.clone(), path.clone());
        tokio::task::spawn_blocking(move || folders.stamp(&path)).await.ok().flatten()
    }

    /// Whether a file looks as it did when it was loaded, so that it need not be read. An operator who asks gets a second look at a file that was refused.
    pub(super) fn is_known(&self, path: &Path, grant: &ComponentGrant, cause: Cause, stamp: Option<FileStamp>) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        let Some(SeenFile { stamp: before, grant: with, served }) = seen else { return false };
        if Some(before) != stamp || with != *grant {
            return false;
        }
        let catalog = self.registry.catalog(&self.config.tenant);
        let of_file = |origin: &Origin| origin.file().is_some_and(|origin| origin == path);
        let refused = catalog.problems().any(|problem| of_file(&problem.origin));
        let serves = catalog.components().any(|live| {
            of_file(&live.origin)
                && live.grant == *grant
                && live.code == Code::Optimized
                && live.powers.files.are_current()
        });
        if served { serves && !refused } else { refused && cause == Cause::Event }
    }

    /// Notes what a file looked like that needs no second look, and what came of it.
    pub(super) fn note_seen(&self, path: &Path, seen: Option<SeenFile>) {
        let mut known = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen {
            Some(seen) => drop(known.insert(path.to_owned(), seen)),
            None => drop(known.remove(path)),
        }
    }

    /// The bytes of a source, with the room that they take and what the file looked like; none if it is gone.
    pub(super) async fn read(&self, source: &Source) -> Result<Option<SourceBytes>, LoadError> {
        let path = match source {
            Source::BuiltIn(built_in) => return Ok(Some((Bytes::from_static(built_in.wasm), None, None))),
            Source::File(path) => path.clone(),
        };
        let share = self.registry.share(&self.config.tenant).ok_or(LoadError::Stopping)?;
        let mut room = share.memory.reserve(MemoryUse::Code, 0)?;
        let folders = self.config.folders.clone();
        let read = tokio::task::spawn_blocking(move || {
            let read = folders.read(&path, |more| Ok(room.grow(more)?))?;
            Ok(read.map(|(bytes, stamp)| {
                room.shrink_to(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                (Bytes::from(bytes), Some(room), Some(stamp))
            }))
        });
        read.await.unwrap_or(Err(LoadError::Stopping))
    }
}
