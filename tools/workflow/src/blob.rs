//! Results that are larger than a record of the store: their text in pieces, by its digest, once for all runs that have it.
//!
//! The pieces are written before the transaction that records the result, so that no transaction is too large. What nobody came to use is removed after two hours.

use mcpp_tool::{
    environment::hexadecimal,
    store::{Index, Map, StoreError, Transaction, View, snapshot, transact},
};
use scheduling::reserve::reserve_bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::run::Number;

/// Largest result, in bytes of JSON.
pub const MAX_BLOB_BYTES: usize = 16 << 20;
/// Largest piece of a text, in bytes. Written as JSON, it may be six times as long at the worst.
const PIECE_BYTES: usize = 128 << 10;
/// How long pieces that nobody uses stay, in milliseconds: longer than the hour in which a handler that has written them records them.
const UNUSED_MS: u64 = 2 * 3_600 * 1_000;

/// A result that is kept in pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// SHA-256 of its text, in hexadecimal digits.
    pub digest: String,
    /// The bytes of its text.
    pub bytes: u64,
    /// How many pieces it has.
    pub pieces: u32,
}

/// The blobs that nodes have as results.
pub const BLOBS: Map<(String, Number), Blob> = Map::new("blobs");
/// The pieces, by digest and place.
const PIECES: Map<(String, u32), String> = Map::new("pieces");
/// How many nodes have a blob.
const USES: Map<String, u32> = Map::new("blob-uses");
/// When a blob was written last.
const WRITTEN: Map<String, u64> = Map::new("blob-written");
/// Blobs that perhaps no node has, by the time since when.
const UNUSED: Index<(), (u64, String)> = Index::new("blob-unused");

/// Writes the pieces of a result.
///
/// # Errors
/// Those of the store.
pub fn write(value: &Value, now_ms: u64) -> Result<Blob, StoreError> {
    let text = value.to_string();
    let digest = hexadecimal(&Sha256::digest(text.as_bytes()));
    let mut rest = text.as_str();
    let mut pieces = 0_u32;
    // Pieces of what does not fit as a whole would take the room of everything else for hours.
    let (usage, bytes) = (snapshot()?.usage()?, u64::try_from(text.len()).unwrap_or(u64::MAX));
    if usage.free_bytes() < bytes.saturating_mul(2).saturating_add(reserve_bytes(usage.quota_bytes)) {
        return Err(StoreError::QuotaExceeded);
    }
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES.min(rest.len())));
        transact(|t| {
            if pieces == 0 {
                WRITTEN.set(t, &digest, &now_ms)?;
                UNUSED.insert(t, &(), &(now_ms, digest.clone()))?;
            }
            PIECES.set(t, &(&digest, pieces), &piece.to_owned())
        })?;
        (pieces, rest) = (pieces.saturating_add(1), after);
    }
    Ok(Blob { bytes, digest, pieces })
}

/// Makes a blob the result of a node; whether its pieces are there.
///
/// # Errors
/// Those of the store.
pub fn give(t: &Transaction<'_>, (run, number): (&str, Number), blob: &Blob) -> Result<bool, StoreError> {
    if blob.pieces > 0 && PIECES.get(t, &(&blob.digest, blob.pieces.saturating_sub(1)))?.is_none() {
        return Ok(false);
    }
    if BLOBS.get(t, &(run, number))?.as_ref() == Some(blob) {
        return Ok(true);
    }
    let uses = USES.get(t, &blob.digest)?.unwrap_or_default();
    USES.set(t, &blob.digest, &uses.saturating_add(1))?;
    BLOBS.set(t, &(run, number), blob)?;
    Ok(true)
}

/// The result of a node that has a blob.
///
/// # Errors
/// Those of the store; it has none of the pieces any more.
pub fn read(t: &View<'_>, blob: &Blob) -> Result<Value, StoreError> {
    let mut text = String::with_capacity(usize::try_from(blob.bytes).unwrap_or_default().min(MAX_BLOB_BYTES));
    for piece in 0..blob.pieces {
        text.push_str(&PIECES.get(t, &(&blob.digest, piece))?.ok_or(StoreError::Unreadable)?);
    }
    serde_json::from_str(&text).map_err(|_| StoreError::Unreadable)
}

/// A piece of a blob's text; none behind the last one.
///
/// # Errors
/// Those of the store.
pub fn piece(t: &View<'_>, blob: &Blob, number: u32) -> Result<Option<String>, StoreError> {
    PIECES.get(t, &(&blob.digest, number))
}

/// Takes the blob of a node away. Its pieces stay for two hours after the last node has lost it.
///
/// # Errors
/// Those of the store.
pub fn forget(t: &Transaction<'_>, (run, number): (&str, Number), now_ms: u64) -> Result<(), StoreError> {
    let Some(blob) = BLOBS.get(t, &(run, number))? else { return Ok(()) };
    BLOBS.remove(t, &(run, number))?;
    match USES.get(t, &blob.digest)?.unwrap_or_default() {
        0 | 1 => {
            USES.remove(t, &blob.digest)?;
            UNUSED.insert(t, &(), &(now_ms, blob.digest))
        }
        uses => USES.set(t, &blob.digest, &uses.saturating_sub(1)),
    }
}

fn remove(t: &Transaction<'_>, digest: &str) -> Result<(), StoreError> {
    WRITTEN.remove(t, digest)?;
    let pieces: Vec<u32> =
        PIECES.under(&(digest,)).walk(t).map(|row| Ok(row?.0.1)).collect::<Result<_, StoreError>>()?;
    pieces.into_iter().try_for_each(|piece| PIECES.remove(t, &(digest, piece)).map(drop))
}

/// When the next blob is removed that perhaps no node has.
///
/// # Errors
/// Those of the store.
pub fn next_removal(t: &View<'_>) -> Result<Option<u64>, StoreError> {
    Ok(UNUSED.of(&()).first(t)?.map(|(since_ms, _)| since_ms.saturating_add(UNUSED_MS)))
}

/// Removes blobs that no node has had for two hours.
///
/// # Errors
/// Those of the store.
pub fn tidy(now_ms: u64) -> Result<(), StoreError> {
    let before_ms = now_ms.saturating_sub(UNUSED_MS);
    let old = UNUSED.of(&()).below(&(before_ms,)).most(20);
    let old: Vec<(u64, String)> = transact(|t| old.collect(t))?;
    for place in old {
        transact(|t| {
            let written_ms = WRITTEN.get(t, &place.1)?.unwrap_or_default();
            if USES.get(t, &place.1)?.is_none() && written_ms < before_ms {
                remove(t, &place.1)?;
            }
            UNUSED.remove(t, &(), &place).map(drop)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mcpp_tool::store::{memory, snapshot};
    use serde_json::json;

    use super::*;

    fn pieces() -> usize {
        PIECES.all().walk(&snapshot().expect("a snapshot")).count()
    }

    #[test]
    fn a_blob_is_there_once_until_the_last_node_that_has_it_is_gone() {
        memory::clear();
        // Characters of several bytes stand across the ends of pieces.
        let value = json!({ "text": "aé€😀".repeat(40_000) });
        let blob = write(&value, 0).expect("written");
        assert_eq!(write(&value, 5).expect("written"), blob);
        assert!(blob.pieces > 2 && blob.bytes > 400_000, "{blob:?}");
        for run in ["a", "b"] {
            assert_eq!(transact(|t| give(t, (run, 1), &blob)), Ok(true));
            assert_eq!(transact(|t| give(t, (run, 1), &blob)), Ok(true), "a repetition counts once");
        }
        assert_eq!(read(&snapshot().expect("a snapshot"), &blob), Ok(value));
        tidy(u64::MAX).expect("tidied");
        transact(|t| forget(t, ("a", 1), 7)).expect("forgotten");
        tidy(u64::MAX).expect("tidied");
        assert_eq!(pieces(), blob.pieces as usize);
        transact(|t| forget(t, ("b", 1), 7)).expect("forgotten");
        tidy(UNUSED_MS + 5).expect("tidied");
        assert_eq!(pieces(), blob.pieces as usize, "it was there just now");
        tidy(UNUSED_MS + 8).expect("tidied");
        assert_eq!(pieces(), 0);
        assert_eq!(transact(|t| give(t, ("c", 1), &blob)), Ok(false), "it is gone");
    }

    #[test]
    fn a_blob_that_nobody_came_to_have_is_removed_after_two_hours() {
        memory::clear();
        write(&json!("x".repeat(300_000)), 1_000).expect("written");
        tidy(UNUSED_MS).expect("tidied");
        assert_eq!(pieces(), 3);
        tidy(UNUSED_MS + 1_001).expect("tidied");
        assert_eq!(pieces(), 0);
        assert!(UNUSED.all().is_empty(&snapshot().expect("a snapshot")).expect("read"));
    }
}
