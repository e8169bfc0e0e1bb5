//! Compiled components on disk, so that a start does not compile what it compiled before.
//!
//! Machine code is trusted code: an entry carries a keyed MAC over its very bytes, its component and its engine, checked before a byte of it is used. The key
//! is this folder's own, and every tenant has a folder: whether another tenant has loaded a component cannot be told from how long it takes. A corrupt, foreign or truncated entry is a miss, never an error: the component is compiled again and the entry replaced.
#![allow(
    unsafe_code,
    reason = "deserializing machine code; sound because only bytes that this host MACed itself get there"
)]

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use wasmtime::component::Component;

use crate::files::write_atomically;

/// All entries together; the least recently used go first.
const MAX_CACHE_BYTES: u64 = 2 << 30;
const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;

/// The cache of one tenant.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
}

/// What an entry is of: a component, and the engine that is to run it.
struct Digest {
    wasm: blake3::Hash,
    engine: [u8; 32],
}

impl Digest {
    fn entry_name(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.wasm.as_bytes()).update(&self.engine);
        hasher.finalize().to_hex().to_string()
    }
}

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path} for compiled components")]
pub struct CacheError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Cache {
    /// Opens or makes the cache in `dir`.
    pub fn open(dir: &Path) -> Result<Self, CacheError> {
        let fail = |source| CacheError { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(fail)?;
        let key = load_or_make_key(&dir.join("key")).map_err(fail)?;
        Ok(Self { dir: dir.to_owned(), key })
    }

    /// Whether there is an entry of `wasm`; whether it is sound is seen when it is loaded.
    pub fn has(&self, engine: &wasmtime::Engine, wasm: &[u8]) -> bool {
        self.entry(engine, wasm).1.exists()
    }

    fn entry(&self, engine: &wasmtime::Engine, wasm: &[u8]) -> (Digest, PathBuf) {
        let digest = Digest { wasm: blake3::hash(wasm), engine: engine_hash(engine) };
        let path = self.dir.join(format!("{}.cwasm", digest.entry_name()));
        (digest, path)
    }

    /// The compiled form of `wasm`, from the cache or by compiling; whether it came from the cache.
    pub fn load_or_compile(&self, engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<(Component, bool)> {
        let (digest, path) = self.entry(engine, wasm);
        if let Some(component) = self.load(engine, &path, &digest) {
            return Ok((component, true));
        }
        let component = Component::new(engine, wasm)?;
        let stored = component.serialize().map_err(io::Error::other).and_then(|code| self.store(&path, &digest, &code));
        if let Err(error) = stored {
            tracing::warn!(path = %path.display(), %error, "a compiled component is not cached");
        }
        Ok((component, false))
    }

    fn load(&self, engine: &wasmtime::Engine, path: &Path, digest: &Digest) -> Option<Component> {
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
        // SAFETY: `code` was just shown to be what this host's own engine serialized under this key.
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

    fn store(&self, path: &Path, digest: &Digest, code: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(code.len().saturating_add(MAC_BYTES));
        bytes.extend_from_slice(self.mac(digest, code).as_bytes());
        bytes.extend_from_slice(code);
        write_atomically(path, &bytes)?;
        self.evict(path)
    }

    /// Removes the least recently used entries until the rest fits, never `keep`.
    fn evict(&self, keep: &Path) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if entry.path().extension().is_some_and(|extension| extension == "cwasm") {
                entries.push((meta.modified()?, meta.len(), entry.path()));
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if total <= MAX_CACHE_BYTES {
                break;
            }
            if path != keep {
                fs::remove_file(&path)?;
                total = total.saturating_sub(bytes);
            }
        }
        Ok(())
    }
}

/// Two engines that cannot run each other's code have different hashes.
fn engine_hash(engine: &wasmtime::Engine) -> [u8; 32] {
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
