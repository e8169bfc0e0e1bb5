//! The languages with a template and a build.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// A language in which tools are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// With the SDK; everything else makes plain components.
    Rust,
    /// On QuickJS.
    Javascript,
    /// JavaScript after esbuild.
    Typescript,
    /// On CPython.
    Python,
    /// With any compiler for `wasm32-wasi`; `zig cc` is what the template brings.
    C,
    /// The standard compiler.
    Go,
}

impl Language {
    /// Its own name, as people and components write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Javascript => "JavaScript",
            Self::Typescript => "TypeScript",
            Self::Python => "Python",
            Self::C => "C",
            Self::Go => "Go",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "rust",
            Self::Javascript => "javascript",
            Self::Typescript => "typescript",
            Self::Python => "python",
            Self::C => "c",
            Self::Go => "go",
        })
    }
}
