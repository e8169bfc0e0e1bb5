//! The section `[tools]`: where components come from, and what loading them may take.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where components come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolsConfig {
    /// Folders whose `.wasm` files are loaded and watched.
    pub folders: Vec<PathBuf>,
    /// Whether the built-in components are loaded.
    pub builtin: bool,
    /// Whether a component in a folder that is new, asks for more or shows clients something else waits until it is accepted.
    pub pinned: bool,
    /// The folder of the grants of `local`; `grants` in the data directory if not set.
    pub grants: Option<PathBuf>,
    /// How long a command such as `mcpp reload` waits for what is loaded before it says what still loads, in milliseconds.
    pub reload_wait_ms: u64,
    /// Most steps of one migration of data.
    pub migration_steps: u32,
    /// Time for one migration of data, in milliseconds; calls of its component wait meanwhile.
    pub migration_ms: u64,
    /// Whether a new build in a folder first runs with the code of a fast compiler. For `mcpp dev`, which makes the fast code behind it; no setting of a file.
    #[serde(skip)]
    pub baseline_first: bool,
}

impl Default for ToolsConfig {
    fn default() -> Self {
        Self {
            folders: Vec::new(),
            builtin: true,
            pinned: false,
            grants: None,
            reload_wait_ms: 10_000,
            migration_steps: 100_000,
            migration_ms: 600_000,
            baseline_first: false,
        }
    }
}

impl ToolsConfig {
    /// Describes the first folder that is none, if any.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.folders.iter().find(|folder| !folder.is_dir()) {
            Some(file) if file.exists() => {
                Err(format!("the tools folder {} is a file; name the folder that it is in", file.display()))
            }
            Some(absent) => Err(format!(
                "the tools folder {} does not exist; make it, or name another with --tools",
                absent.display()
            )),
            None => Ok(()),
        }
    }
}
