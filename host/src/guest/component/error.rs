//! Reasons for which a component is none that the host can run, each with the remedy.

use super::{MAX_TOOLS, MAX_TOPICS};
use crate::{
    call::CallError,
    capability::Refused,
    engine::{
        EngineError,
        compile::{BuildError, MAX_COMPONENT_BYTES, shape::ShapeError},
    },
    memory::NoMemory,
};

/// A fault of the component itself, or of its build.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The file is too large.
    #[error("the file has {0} bytes; at most {MAX_COMPONENT_BYTES} are loaded")]
    TooLarge(u64),
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The file is no WebAssembly.
    #[error("the file is not WebAssembly: it does not start with `\\0asm`")]
    NotWasm,
    /// The file is a core module.
    #[error(
        "the file is a core WebAssembly module, not a component; build it for `wasm32-wasip2`, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// The host has no engine for it.
    #[error("the host has no engine for the component: {}", crate::error::chain(.0))]
    Engine(#[from] EngineError),
    /// It does not compile, or not within its limits.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The host does not compile it at all.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The host has no memory for it.
    #[error("{of} have {bytes} bytes")]
    Memory {
        /// Part that needs the memory.
        of: &'static str,
        /// Bytes that it needs.
        bytes: u64,
        /// The cause.
        source: NoMemory,
    },
    /// The host has no memory to load it.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// An import is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Its imports do not fit what the host has under the same name.
    #[error("its imports do not match this host's interfaces: {0}")]
    Link(String),
    /// It speaks another version of the tool interface.
    #[error("it exports `{0}`; this host speaks version 0.1 of it")]
    ExportVersion(String),
    /// It has no tools.
    #[error("it exports no function, so it has no tools{}", notes(.0))]
    NoTools(Vec<String>),
    /// It has too many tools.
    #[error("it has {0} tools; at most {MAX_TOOLS} are loaded")]
    TooManyTools(usize),
    /// The component failed when the host asked it for its tools.
    #[error("it could not list its tools: {0}")]
    List(#[source] CallError),
    /// It subscribes to too many topics.
    #[error("it subscribes to {0} topics; at most {MAX_TOPICS} are allowed")]
    TooManyTopics(usize),
    /// The host is stopping.
    #[error("the host is stopping")]
    Stopping,
}

impl ComponentError {
    /// Whether the file looks like one that is still being written.
    pub fn may_be_partial(&self) -> bool {
        matches!(self, Self::Empty | Self::NotWasm | Self::Build(BuildError::Invalid(_)) | Self::NoTools(_))
    }

    /// Whether the same file with the same grant would fail the same way again. Otherwise another attempt may succeed.
    pub fn is_of_the_file(&self) -> bool {
        matches!(self, Self::TooLarge(_) | Self::CoreModule | Self::Refused(_) | Self::TooManyTools(_))
            || matches!(self, Self::ExportVersion(_) | Self::TooManyTopics(_) | Self::Shape(_))
            || self.may_be_partial()
    }
}

fn notes(notes: &[String]) -> String {
    if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) }
}
