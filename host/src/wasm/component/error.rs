//! Why a component is not loaded: each reason by name, with what to do about it.

use std::{path::PathBuf, sync::Arc};

use super::{MAX_COMPONENT_BYTES, MAX_TOOLS, MAX_TOPICS};
use crate::{
    call::{CallError, ComponentName, InvalidComponentName},
    capability::{Refused, files::FolderError},
    grants::GrantsError,
    memory::NoMemory,
    reload::accept::AcceptError,
    store::StoreError,
    tenant::TenantId,
    wasm::{
        EngineError,
        compile::{BuildError, shape::ShapeError},
    },
};

/// Why a component is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its name is not legal.
    #[error("{0}; rename the file")]
    Name(InvalidComponentName),
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
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
    /// There is no engine for it.
    #[error("what it needs is not there: {}", crate::telemetry::chain(.0))]
    Engine(#[from] EngineError),
    /// It does not compile, or not within its limits.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It is not compiled at all.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// There is no memory for it.
    #[error("{of} have {bytes} bytes")]
    Memory {
        /// What needs it.
        of: &'static str,
        /// How many bytes they need.
        bytes: u64,
        /// Why there are none.
        source: NoMemory,
    },
    /// Its schemas are too large together.
    #[error("the compiled schemas of its tools have more than {0} bytes together")]
    SchemasTooLarge(u64),
    /// The tenant has too many.
    #[error(
        "there are {0} components already, as many as the tenant may have (`components` of its limits); remove one"
    )]
    TooManyComponents(u64),
    /// Its grant is not valid.
    #[error("its grant is not valid, so it has none: {}", crate::telemetry::chain(&**.0))]
    Grant(Arc<GrantsError>),
    /// Nobody has accepted it yet.
    #[error("it waits until it is accepted: `mcpp accept {component} --tenant {tenant}`; {}", difference.join("; "))]
    NotAccepted {
        /// The component.
        component: ComponentName,
        /// Whose it is.
        tenant: TenantId,
        /// What is new in it.
        difference: Vec<String>,
    },
    /// What was accepted is not known.
    #[error(transparent)]
    Accepted(#[from] AcceptError),
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
    /// It has too many.
    #[error("it has {0} tools; at most {MAX_TOOLS} are loaded")]
    TooManyTools(usize),
    /// Asked for its tools, it failed.
    #[error("it could not list its tools: {0}")]
    List(#[source] CallError),
    /// A tool it lists is not legal.
    #[error("its tool `{tool}` is refused: {reason}")]
    Tool {
        /// The tool's name as the component gives it.
        tool: String,
        /// What is wrong.
        reason: String,
    },
    /// A tool's name is not legal, or two of its tools have it.
    #[error(
        "its tool `{tool}` is refused: {reason}; give it another name with `rename = {{ \"{tool}\" = \"…\" }}` in `grants/{component}.toml`"
    )]
    ToolName {
        /// The tool's name as the component gives it.
        tool: String,
        /// What is wrong.
        reason: String,
        /// The component.
        component: ComponentName,
    },
    /// Its grant is about a tool that it does not have.
    #[error("`{key}` in its grant names `{tool}`, which is none of its tools{}", listed(.known))]
    NoSuchTool {
        /// Where the grant says so.
        key: &'static str,
        /// The name.
        tool: String,
        /// The tools it has.
        known: Vec<String>,
    },
    /// The name is taken.
    #[error("tool `{tool}` already belongs to component `{owner}`; rename one of them, in its grant or by its file")]
    NameTaken {
        /// The tool.
        tool: String,
        /// Who has it.
        owner: String,
    },
    /// The component's own name is taken.
    #[error("component `{name}` already comes from {owner}; rename this file or remove the other")]
    ComponentTaken {
        /// The component.
        name: String,
        /// Where it is from.
        owner: String,
    },
    /// A topic it wants to be told of is not one.
    #[error("it subscribes to {0:?}, which is not a topic: `<name>` or `<component>/<name>`")]
    Topic(String),
    /// It subscribes to too many.
    #[error("it subscribes to {0} topics; at most {MAX_TOPICS} are allowed")]
    TooManyTopics(usize),
    /// A topic it wants to be told of is another component's, and not granted.
    #[error(
        "it subscribes to `{topic}` of another component; to grant it, add `subscribe = [\"{topic}\"]` to `grants/{component}.toml` and run `mcpp reload`"
    )]
    TopicNotGranted {
        /// The topic.
        topic: String,
        /// The component.
        component: String,
    },
    /// Its data has a newer format.
    #[error(
        "its data has format {data} and this build reads {build}; load a build for format {data}, or put back a backup"
    )]
    Downgrade {
        /// The data's format.
        data: u32,
        /// The build's.
        build: u32,
    },
    /// A migration has begun and another build is loaded.
    #[error(
        "a migration of its data from format {from} to {to} has begun and this build reads {build}; load a build for format {to}"
    )]
    MigrationUnderWay {
        /// The data's format before.
        from: u32,
        /// The format after.
        to: u32,
        /// The build's.
        build: u32,
    },
    /// The build before did not come to rest.
    #[error("its data has to be migrated, and calls of the build before did not end within {seconds} s; it serves on")]
    NotDrained {
        /// How long they had.
        seconds: u64,
    },
    /// It did not migrate.
    #[error("it could not migrate its data: {0}")]
    Migration(String),
    /// Its migration goes on and on.
    #[error("its migration did not end within {most}, and was stopped; `mcpp reload` lets it go on from where it is")]
    MigrationEndless {
        /// How much of what it may use.
        most: String,
    },
    /// Its file is a link out of its tenant's folder.
    #[error("{path} is a link that leads out of the tenant's folder; copy the file instead")]
    LeadsOut {
        /// The file.
        path: PathBuf,
    },
    /// Its file goes on changing.
    #[error("the file goes on changing, {seconds} s by now, and is no component yet: {error}")]
    NeverSettles {
        /// How long it was waited for.
        seconds: u64,
        /// What is wrong with it.
        error: Box<LoadError>,
    },
    /// It took too long.
    #[error("loading it took more than {seconds} s")]
    TooLong {
        /// How long it may take.
        seconds: u64,
    },
    /// There is no memory to load it.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// A directory that is granted to it cannot be opened.
    #[error(transparent)]
    Files(#[from] FolderError),
    /// Its store does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host itself failed.
    #[error("the host failed while it was loaded; its log says how")]
    Broke,
    /// Its tenant was closed, or its grant changed while it was loaded.
    #[error("its tenant was closed or its grant changed while it was loaded")]
    Cancelled,
    /// The host is stopping.
    #[error("the host is stopping")]
    Stopping,
}

impl From<InvalidComponentName> for LoadError {
    fn from(error: InvalidComponentName) -> Self {
        Self::Name(error)
    }
}

impl LoadError {
    /// Whether the file looks like one that is still being written.
    pub fn may_be_partial(&self) -> bool {
        matches!(self, Self::Empty | Self::NotWasm | Self::Build(BuildError::Invalid(_)) | Self::NoTools(_))
    }

    /// Whether the same file with the same grant would fail the same way again. Where other things are at fault, it is worth another look.
    pub fn is_of_the_file(&self) -> bool {
        matches!(self, Self::TooLarge(_) | Self::CoreModule | Self::Refused(_) | Self::TooManyTools(_))
            || matches!(self, Self::ExportVersion(_) | Self::Tool { .. } | Self::TooManyTopics(_) | Self::Topic(_))
            || matches!(self, Self::Shape(_))
            || self.may_be_partial()
    }
}

/// Some names, for an error.
fn listed(names: &[String]) -> String {
    const MOST: usize = 20;
    let shown = names.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => String::new(),
        1..=MOST => format!(" ({shown})"),
        _ => format!(" ({shown}, …)"),
    }
}

fn notes(notes: &[String]) -> String {
    if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) }
}
