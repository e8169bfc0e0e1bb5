//! Source of a component.

use std::path::PathBuf;

use serde::Serialize;

/// Source of a component's bytes, or of a mount's tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Built into this program.
    BuiltIn,
    /// A file in a tools folder.
    File(PathBuf),
    /// Tools of other hosts.
    Mount,
}

impl Origin {
    /// The file, if it is from one.
    pub fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::BuiltIn | Self::Mount => None,
            Self::File(path) => Some(path),
        }
    }
}
