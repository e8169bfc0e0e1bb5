//! Builds that went past their limits. The host remembers them by component, engine and limits, in memory and beside the compile cache, so that a start does
//! not try them again.
//!
//! An entry names the limit and nothing else. An unreadable file is no refusal: the host compiles the component again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::BuildLimits;
use crate::{engine::cache::Digest, files::write_atomically};

/// Refusals that an owner's folder holds; the oldest go first.
const MAX_REFUSALS: usize = 256;
/// The folder's name in that of the cache.
const FOLDER: &str = "refused";

/// Limit that a build passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Refusal {
    /// Memory.
    #[error("compiling it takes more than {} MiB of memory (`compile.memory_bytes`)", bytes >> 20)]
    Memory {
        /// The limit.
        bytes: u64,
    },
    /// Processor time.
    #[error("compiling it takes more than {seconds} s of processor time (`compile.cpu_ms`)")]
    Cpu {
        /// The limit.
        seconds: u64,
    },
    /// Time on the wall.
    #[error("compiling it took more than {seconds} s (`compile.wall_ms`)")]
    Wall {
        /// The limit.
        seconds: u64,
    },
    /// The size of the code.
    #[error("its machine code has more than {bytes} bytes")]
    Code {
        /// The limit.
        bytes: u64,
    },
    /// The compiler crashed.
    #[error("the compiler crashed on it (signal {signal})")]
    Crashed {
        /// The signal that ended it; 0 for a panic.
        signal: i32,
    },
}

impl Refusal {
    /// Whether the component is the reason, rather than a busy machine.
    pub(super) fn is_of_the_component(&self) -> bool {
        !matches!(self, Self::Wall { .. })
    }
}

/// The refusals of one owner.
#[derive(Debug)]
pub(super) struct RefusedBuilds {
    folder: Option<PathBuf>,
    /// Refusals by name, with the order in which they came.
    known: Mutex<BTreeMap<String, (u64, Refusal)>>,
}

impl RefusedBuilds {
    /// The refusals in the folder of a cache; without a cache, those of this process.
    pub(super) fn new(cache: Option<&Path>) -> Self {
        Self { folder: cache.map(|cache| cache.join(FOLDER)), known: Mutex::default() }
    }

    pub(super) fn find(&self, digest: &Digest, limits: BuildLimits) -> Option<Refusal> {
        let name = name(digest, limits);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, refusal)) = known.get(&name) {
            return Some(refusal.clone());
        }
        serde_json::from_slice(&fs::read(self.folder.as_ref()?.join(name)).ok()?).ok()
    }

    pub(super) fn note(&self, digest: &Digest, limits: BuildLimits, refusal: Refusal) {
        let name = name(digest, limits);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = known.values().map(|(number, _)| number.saturating_add(1)).max().unwrap_or_default();
        known.insert(name.clone(), (number, refusal.clone()));
        while known.len() > MAX_REFUSALS {
            let oldest = known.iter().min_by_key(|(_, (number, _))| *number).map(|(name, _)| name.clone());
            oldest.map(|name| known.remove(&name));
        }
        if let Some(folder) = &self.folder
            && let Err(error) = keep(folder, &name, &refusal)
        {
            tracing::warn!(folder = %folder.display(), %error, "a refused build is not remembered beyond this run");
        }
    }
}

fn keep(folder: &Path, name: &str, refusal: &Refusal) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        entries.push((entry.metadata()?.modified()?, entry.path()));
    }
    entries.sort();
    let surplus = entries.len().saturating_add(1).saturating_sub(MAX_REFUSALS);
    for (_, path) in entries.into_iter().take(surplus) {
        fs::remove_file(path)?;
    }
    write_atomically(&folder.join(name), &serde_json::to_vec(refusal)?)
}

/// Name of a build. Another component, another engine or another limit makes it another build.
fn name(digest: &Digest, limits: BuildLimits) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&digest.name_bytes());
    hasher.update(&limits.memory_bytes.to_le_bytes()).update(&limits.cpu_seconds.to_le_bytes());
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: BuildLimits = BuildLimits { memory_bytes: 1 << 20, cpu_seconds: 1, wall: Duration::from_secs(1) };

    fn digest(n: u8) -> Digest {
        Digest::new(&wasmtime::Engine::default(), &[n])
    }

    #[test]
    fn a_refusal_is_of_one_component_and_one_limit_and_outlives_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let refusal = Refusal::Memory { bytes: LIMITS.memory_bytes };
        RefusedBuilds::new(Some(folder.path())).note(&digest(1), LIMITS, refusal.clone());
        let again = RefusedBuilds::new(Some(folder.path()));
        assert_eq!(again.find(&digest(1), LIMITS), Some(refusal));
        assert_eq!(again.find(&digest(2), LIMITS), None);
        assert_eq!(again.find(&digest(1), BuildLimits { cpu_seconds: 2, ..LIMITS }), None);
        assert_eq!(again.find(&digest(1), BuildLimits { memory_bytes: 2 << 20, ..LIMITS }), None);
        let entry = fs::read_dir(folder.path().join(FOLDER)).expect("a folder").next().expect("one").expect("one");
        fs::write(entry.path(), b"{").expect("written");
        assert_eq!(
            RefusedBuilds::new(Some(folder.path())).find(&digest(1), LIMITS),
            None,
            "what is broken says nothing"
        );
    }

    #[test]
    fn only_so_many_refusals_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let refusals = RefusedBuilds::new(Some(folder.path()));
        let engine = wasmtime::Engine::default();
        for n in 0..MAX_REFUSALS + 5 {
            refusals.note(&Digest::new(&engine, &n.to_le_bytes()), LIMITS, Refusal::Cpu { seconds: 1 });
        }
        assert_eq!(fs::read_dir(folder.path().join(FOLDER)).expect("a folder").count(), MAX_REFUSALS);
        assert_eq!(refusals.known.lock().expect("sound").len(), MAX_REFUSALS);
        let last = Digest::new(&engine, &(MAX_REFUSALS + 4).to_le_bytes());
        assert!(refusals.find(&last, LIMITS).is_some());
    }
}
