//! Compiled components on disk, so that a start does not compile them again.
//!
//! Machine code is trusted code. An entry carries a keyed MAC over its very bytes, its component and its engine, and the host checks it before it uses a byte.
//! Every tenant has a folder with a key of its own, so the time of a load does not tell whether another tenant has loaded a component. A corrupt, foreign or
//! truncated entry is a miss, never an error: the host compiles the component again and replaces the entry.
#![allow(
    unsafe_code,
    reason = "deserializing machine code; sound because only bytes that this host MACed itself get there"
)]

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use wasmtime::component::Component;

use super::compile::MachineCode;
use crate::files::write_atomically;

const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;

/// The cache of one tenant.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    /// All entries together, in bytes; the least recently used make room.
    bound: u64,
    /// Lock for making room, one thread at a time.
    storing: Mutex<()>,
}

/// Identity of an entry: a component, and the engine that runs it.
#[derive(Debug, Clone)]
pub struct Digest {
    wasm: blake3::Hash,
    engine: [u8; 32],
}

impl Digest {
    /// The digest of a component on an engine.
    pub fn new(engine: &wasmtime::Engine, wasm: &[u8]) -> Self {
        Self { wasm: blake3::hash(wasm), engine: engine_hash(engine) }
    }

    /// The component's part of the digest.
    pub fn wasm(&self) -> blake3::Hash {
        self.wasm
    }

    /// The engine's part of the digest.
    pub fn engine(&self) -> [u8; 32] {
        self.engine
    }

    /// Both parts as one.
    pub fn name_bytes(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.wasm.as_bytes()).update(&self.engine);
        *hasher.finalize().as_bytes()
    }
}

/// Reason for which the host has no cache.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path} for compiled components")]
pub struct CacheError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Cache {
    /// Opens or makes the cache in `dir`, which holds `bound` bytes at the most.
    pub fn open(dir: &Path, bound: u64) -> Result<Self, CacheError> {
        let fail = |source| CacheError { path: dir.to_owned(), source };
        crate::files::private_folder(dir).map_err(fail)?;
        let key = load_or_make_key(&dir.join("key")).map_err(fail)?;
        Ok(Self { dir: dir.to_owned(), key, bound, storing: Mutex::new(()) })
    }

    /// The cache's folder.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// Whether an entry exists. A load finds out whether it is sound.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.cwasm", blake3::Hash::from_bytes(digest.name_bytes()).to_hex()))
    }

    /// Bytes of an entry; none if it does not exist.
    pub fn bytes(&self, digest: &Digest) -> Option<u64> {
        Some(fs::metadata(self.path(digest)).ok()?.len())
    }

    /// Keeps the code that a child of this host has made. A failure only costs a later compilation.
    pub fn store(&self, digest: &Digest, code: &MachineCode) {
        let path = self.path(digest);
        if let Err(error) = self.try_store(&path, digest, code.as_bytes()) {
            tracing::warn!(path = %path.display(), %error, "a compiled component is not cached");
        }
    }

    /// The compiled form of a component, if a sound entry exists.
    pub fn load(&self, engine: &wasmtime::Engine, digest: &Digest) -> Option<Component> {
        let path = &self.path(digest);
        let entry = fs::read(path).ok()?;
        let Some((mac, code)) = entry.split_at_checked(MAC_BYTES) else {
            tracing::warn!(path = %path.display(), "a cached component is cut short; compiling again");
            return None;
        };
        // `blake3::Hash` compares in constant time.
        if self.mac(digest, code) != blake3::Hash::from_bytes(mac.try_into().ok()?) {
            tracing::warn!(path = %path.display(), "a cached component is not ours or was changed; compiling again");
            return None;
        }
        // SAFETY: the MAC shows that this host's own engine serialized `code` under this key.
        match unsafe { Component::deserialize(engine, code) } {
            Ok(component) => {
                let _recency_is_best_effort =
                    fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
                Some(component)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a cached component does not fit this engine; compiling again");
                None
            }
        }
    }

    fn mac(&self, digest: &Digest, code: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&digest.engine).update(digest.wasm.as_bytes()).update(code);
        hasher.finalize()
    }

    fn try_store(&self, path: &Path, digest: &Digest, code: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(code.len().saturating_add(MAC_BYTES));
        bytes.extend_from_slice(self.mac(digest, code).as_bytes());
        bytes.extend_from_slice(code);
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let _one_at_a_time = self.storing.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.bound.checked_sub(size);
        let left =
            left.ok_or_else(|| io::Error::other(format!("its code has {size} bytes, and the cache {}", self.bound)))?;
        self.make_room(left)?;
        write_atomically(path, &bytes)
    }

    /// Removes the least recently used entries until the rest has at most `most` bytes, and the remains of interrupted writes.
    fn make_room(&self, most: u64) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let (meta, path) = (entry.metadata()?, entry.path());
            let extension = path.extension().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
            if extension == "cwasm" {
                entries.push((meta.modified()?, meta.len(), path));
            } else if extension.starts_with("tmp-") {
                fs::remove_file(&path)?;
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if total <= most {
                break;
            }
            fs::remove_file(&path)?;
            total = total.saturating_sub(bytes);
        }
        Ok(())
    }
}

/// Code that a child of this host has made, ready to link.
pub fn take(engine: &wasmtime::Engine, code: &MachineCode) -> wasmtime::Result<Component> {
    // SAFETY: only a child of this host makes machine code of this type, for an engine that is configured as this one.
    unsafe { Component::deserialize(engine, code.as_bytes()) }
}

/// Two engines that cannot run each other's code have different hashes.
pub(super) fn engine_hash(engine: &wasmtime::Engine) -> [u8; 32] {
    use std::hash::{Hash as _, Hasher};
    #[derive(Default)]
    struct Collect(blake3::Hasher);
    impl Hasher for Collect {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let [a, b, c, d, e, f, g, h, ..] = *self.0.finalize().as_bytes();
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        }
    }
    let mut collect = Collect::default();
    engine.precompile_compatibility_hash().hash(&mut collect);
    *collect.0.finalize().as_bytes()
}

/// The folder's key. Losing it loses the cache and nothing else.
fn load_or_make_key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    match fs::read(path).map(<[u8; KEY_BYTES]>::try_from) {
        Ok(Ok(key)) => return Ok(key),
        Ok(Err(_)) => {
            tracing::warn!(path = %path.display(), "the key of the compile cache is not 32 bytes; making a new one")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    write_atomically(path, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_makes_room_before_it_writes() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = wasmtime::Engine::default();
        let code = |n: usize| MachineCode::of_test(vec![0; n]);
        let digest = |n: u8| Digest::new(&engine, &[n]);
        let cache = Cache::open(folder.path(), 1_000).expect("a cache");
        let age = |n: u8, seconds: u64| {
            let past = SystemTime::now() - std::time::Duration::from_secs(seconds);
            fs::File::open(cache.path(&digest(n))).and_then(|file| file.set_modified(past)).expect("an entry");
        };
        for n in 0..3 {
            cache.store(&digest(n), &code(300));
        }
        age(0, 100);
        age(1, 200);
        fs::write(folder.path().join("x.tmp-1"), [0; 900]).expect("written");
        cache.store(&digest(3), &code(300));
        let has = |n: u8| cache.has(&digest(n));
        assert_eq!([0, 1, 2, 3].map(has), [true, false, true, true], "the least recently used entry is gone");
        assert!(!folder.path().join("x.tmp-1").exists(), "what a write left behind counts too, and goes");
        cache.store(&digest(4), &code(1_000 - MAC_BYTES));
        assert_eq!([0, 2, 3, 4].map(has), [false, false, false, true], "to the byte");
        cache.store(&digest(5), &code(1_001 - MAC_BYTES));
        assert_eq!([4, 5].map(has), [true, false], "what never fits takes nobody's place");
    }
}
