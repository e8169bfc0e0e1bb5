//! A component as chunks whose hashes add up to its digest: BLAKE3 is a tree, and each chunk is a subtree of it.
//!
//! So the list of a stranger needs no trust: [`ChunkList::check`] computes the digest from it, and each chunk is held to its own value in it.

use std::io::{self, Read};

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::engine::compile::MAX_COMPONENT_BYTES;

/// Bytes of a chunk; the last one may be shorter. A power of two, so that each is a subtree.
pub const CHUNK_BYTES: u64 = 256 << 10;
/// Chunks of the largest component.
pub const MAX_CHUNKS: usize = 1_024;
const _: () = assert!(CHUNK_BYTES.is_power_of_two() && MAX_COMPONENT_BYTES.div_ceil(CHUNK_BYTES) <= 1_024);

/// The values of a component's chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkList {
    bytes: u64,
    values: Vec<ChainingValue>,
}

/// Why a list is not that of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChunks {
    /// No component has that size.
    #[error("a component has 1 to {MAX_COMPONENT_BYTES} bytes, not {0}")]
    Size(u64),
    /// There are more or fewer values than chunks.
    #[error("{bytes} bytes are {wanted} chunks, and the list has {found}")]
    Count {
        /// The component's size.
        bytes: u64,
        /// Chunks of so many bytes.
        wanted: usize,
        /// Values in the list.
        found: usize,
    },
    /// Together they are another component's.
    #[error("the chunks are not those of the digest")]
    Digest,
}

/// How many chunks so many bytes are.
fn count(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(CHUNK_BYTES)).unwrap_or(usize::MAX)
}

impl ChunkList {
    /// The list of what `input` gives, which is read to its end; an error if it is longer than a component may be. Blocks.
    pub fn read(input: impl Read) -> io::Result<Self> {
        let mut input = input.take(MAX_COMPONENT_BYTES.saturating_add(1));
        let (mut bytes, mut values) = (0_u64, Vec::new());
        let (mut chunk, mut first) = (Vec::new(), None);
        loop {
            chunk.clear();
            (&mut input).take(CHUNK_BYTES).read_to_end(&mut chunk)?;
            if chunk.is_empty() {
                break;
            }
            first.get_or_insert_with(|| *blake3::hash(&chunk).as_bytes());
            values.push(value(bytes, &chunk));
            bytes = bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        }
        if bytes > MAX_COMPONENT_BYTES || bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, InvalidChunks::Size(bytes)));
        }
        // A single chunk is the whole tree: its value is the digest itself.
        if let ([only], Some(digest)) = (values.as_mut_slice(), first) {
            *only = digest;
        }
        Ok(Self { bytes, values })
    }

    /// The list of a component that somebody says to have this digest.
    pub fn check(bytes: u64, values: Vec<ChainingValue>, digest: &blake3::Hash) -> Result<Self, InvalidChunks> {
        if bytes == 0 || bytes > MAX_COMPONENT_BYTES {
            return Err(InvalidChunks::Size(bytes));
        }
        if values.len() != count(bytes) {
            return Err(InvalidChunks::Count { bytes, wanted: count(bytes), found: values.len() });
        }
        let list = Self { bytes, values };
        if list.digest() == Some(*digest) { Ok(list) } else { Err(InvalidChunks::Digest) }
    }

    /// The component's size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The values of its chunks.
    pub fn values(&self) -> &[ChainingValue] {
        &self.values
    }

    /// Where a chunk begins, and how long it is; none if there is no such chunk.
    pub fn place(&self, index: usize) -> Option<(u64, usize)> {
        let begin = u64::try_from(index).ok()?.checked_mul(CHUNK_BYTES)?;
        let left = self.bytes.checked_sub(begin).filter(|left| *left > 0)?;
        Some((begin, usize::try_from(left.min(CHUNK_BYTES)).ok()?))
    }

    /// Whether these bytes are that chunk.
    pub fn has(&self, index: usize, bytes: &[u8]) -> bool {
        let (Some((begin, length)), Some(wanted)) = (self.place(index), self.values.get(index)) else { return false };
        if bytes.len() != length {
            return false;
        }
        let found = if self.values.len() == 1 { *blake3::hash(bytes).as_bytes() } else { value(begin, bytes) };
        found == *wanted
    }

    /// The digest of the whole; none if there is no chunk.
    pub fn digest(&self) -> Option<blake3::Hash> {
        if let [only] = self.values.as_slice() {
            return Some(blake3::Hash::from_bytes(*only));
        }
        let (left, right, (first, second)) = split(self.bytes, &self.values)?;
        Some(merge_subtrees_root(&subtree(left, first)?, &subtree(right, second)?, Mode::Hash))
    }
}

/// The value of a subtree. As deep as the logarithm of the number of chunks.
fn subtree(bytes: u64, values: &[ChainingValue]) -> Option<ChainingValue> {
    if let [only] = values {
        return Some(*only);
    }
    let (left, right, (first, second)) = split(bytes, values)?;
    Some(merge_subtrees_non_root(&subtree(left, first)?, &subtree(right, second)?, Mode::Hash))
}

/// The values of the two halves of a subtree.
type Halves<'a> = (&'a [ChainingValue], &'a [ChainingValue]);

/// How long the two halves of a subtree of more than one chunk are, and their values.
fn split(bytes: u64, values: &[ChainingValue]) -> Option<(u64, u64, Halves<'_>)> {
    if values.len() < 2 {
        return None;
    }
    let left = left_subtree_len(bytes);
    Some((left, bytes.checked_sub(left)?, values.split_at_checked(count(left))?))
}

/// The value of a chunk that begins at `begin`.
fn value(begin: u64, chunk: &[u8]) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(begin).update(chunk).finalize_non_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(bytes: u64) -> Vec<u8> {
        (0..bytes).map(|at| u8::try_from(at % 251).expect("small")).collect()
    }

    #[test]
    fn the_list_of_a_component_adds_up_to_its_digest_and_vouches_for_each_chunk() {
        let whole = CHUNK_BYTES;
        for bytes in [1, whole - 1, whole, whole + 1, 2 * whole, 3 * whole, 3 * whole + 5, 5 * whole, 8 * whole - 1] {
            let component = component(bytes);
            let digest = blake3::hash(&component);
            let list = ChunkList::read(component.as_slice()).expect("a list");
            assert_eq!((list.digest(), list.bytes()), (Some(digest), bytes), "{bytes}");
            assert_eq!(ChunkList::check(bytes, list.values().to_vec(), &digest).as_ref(), Ok(&list));
            for index in 0..list.values().len() {
                let (begin, length) = list.place(index).expect("a chunk");
                let begin = usize::try_from(begin).expect("small");
                let mut chunk = component[begin..begin + length].to_vec();
                assert!(list.has(index, &chunk), "{bytes}: {index}");
                assert!(!list.has(index + 1, &chunk), "{bytes}: {index} elsewhere");
                chunk[length / 2] ^= 1;
                assert!(!list.has(index, &chunk), "{bytes}: {index} changed");
            }
            assert_eq!(list.place(list.values().len()), None);
        }
    }

    #[test]
    fn a_list_that_does_not_add_up_is_refused() {
        let component = component(3 * CHUNK_BYTES);
        let list = ChunkList::read(component.as_slice()).expect("a list");
        let digest = blake3::hash(&component);
        let values = list.values().to_vec();
        let mut changed = values.clone();
        changed[1][0] ^= 1;
        let mut turned = values.clone();
        turned.swap(0, 2);
        for bad in [changed, turned] {
            assert_eq!(ChunkList::check(list.bytes(), bad, &digest), Err(InvalidChunks::Digest));
        }
        assert_eq!(
            ChunkList::check(list.bytes() + 1, values.clone(), &digest),
            Err(InvalidChunks::Count { bytes: list.bytes() + 1, wanted: 4, found: 3 })
        );
        for size in [0, MAX_COMPONENT_BYTES + 1] {
            assert_eq!(ChunkList::check(size, values.clone(), &digest), Err(InvalidChunks::Size(size)));
        }
        assert!(ChunkList::read(std::io::repeat(0)).is_err_and(|error| error.kind() == io::ErrorKind::InvalidData));
        assert!(ChunkList::read(std::io::empty()).is_err());
    }
}
