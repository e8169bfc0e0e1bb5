//! Reasons for which the host does not load a component, each with the remedy.

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

/// Reason for which the host does not load a component.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its name is not legal.
    #[error("{0}; rename the file")]
    Name(InvalidComponentName),
    /// The host could not read the file.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
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
    /// The host has no engine for it.
    #[error("the host has no engine for the component: {}", crate::telemetry::chain(.0))]
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
    /// Its schemas are too large together.
    #[error("the compiled schemas of its tools have more than {0} bytes together")]
    SchemasTooLarge(u64),
    /// The tenant has too many components.
    #[error(
        "there are {0} components already, as many as the tenant may have (`components` of its limits); remove one"
    )]
    TooManyComponents(u64),
    /// Its grant is not valid.
    #[error("its grant is not valid, so it has none: {}", crate::telemetry::chain(&**.0))]
    Grant(Arc<GrantsError>),
    /// No person has accepted it yet.
    #[error("it waits until it is accepted: `mcpp accept {component} --tenant {tenant}`; {}", difference.join("; "))]
    NotAccepted {
        /// The component.
        component: ComponentName,
        /// The tenant that it belongs to.
        tenant: TenantId,
        /// Parts of it that are new.
        difference: Vec<String>,
    },
    /// The host does not know which builds were accepted.
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
    /// It has too many tools.
    #[error("it has {0} tools; at most {MAX_TOOLS} are loaded")]
    TooManyTools(usize),
    /// The component failed when the host asked it for its tools.
    #[error("it could not list its tools: {0}")]
    List(#[source] CallError),
    /// It lists a tool that is not legal.
    #[error("its tool `{tool}` is refused: {reason}")]
    Tool {
        /// The tool's name as the component gives it.
        tool: String,
        /// The fault.
        reason: String,
    },
    /// A tool's name is not legal, or two of its tools have it.
    #[error(
        "its tool `{tool}` is refused: {reason}; give it another name with `rename = {{ \"{tool}\" = \"…\" }}` in `grants/{component}.toml`"
    )]
    ToolName {
        /// The tool's name as the component gives it.
        tool: String,
        /// The fault.
        reason: String,
        /// The component.
        component: ComponentName,
    },
    /// Its grant names a tool that it does not have.
    #[error("`{key}` in its grant names `{tool}`, which is none of its tools{}", listed(.known))]
    NoSuchTool {
        /// Key of the grant that names the tool.
        key: &'static str,
        /// The name.
        tool: String,
        /// The tools it has.
        known: Vec<String>,
    },
    /// Another component has the tool's name.
    #[error("tool `{tool}` already belongs to component `{owner}`; rename one of them, in its grant or by its file")]
    NameTaken {
        /// The tool.
        tool: String,
        /// The present owner.
        owner: String,
    },
    /// The component's own name is taken.
    #[error("component `{name}` already comes from {owner}; rename this file or remove the other")]
    ComponentTaken {
        /// The component.
        name: String,
        /// Source of that component.
        owner: String,
    },
    /// It subscribes to a name that is not a topic.
    #[error("it subscribes to {0:?}, which is not a topic: `<name>` or `<component>/<name>`")]
    Topic(String),
    /// It subscribes to too many topics.
    #[error("it subscribes to {0} topics; at most {MAX_TOPICS} are allowed")]
    TooManyTopics(usize),
    /// It subscribes to another component's topic without a grant.
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
    /// The build before did not come to rest in time.
    #[error("its data has to be migrated, and calls of the build before did not end within {seconds} s; it serves on")]
    NotDrained {
        /// Seconds that its calls had to finish.
        seconds: u64,
    },
    /// Its migration failed.
    #[error("it could not migrate its data: {0}")]
    Migration(String),
    /// Its migration does not end.
    #[error("its migration did not end within {most}, and was stopped; `mcpp reload` lets it go on from where it is")]
    MigrationEndless {
        /// The limit that it met, in seconds or steps.
        most: String,
    },
    /// Its file is a link out of its tenant's folder.
    #[error("{path} is a link that leads out of the tenant's folder; copy the file instead")]
    LeadsOut {
        /// The file.
        path: PathBuf,
    },
    /// Its file keeps changing.
    #[error("the file goes on changing, {seconds} s by now, and is no component yet: {error}")]
    NeverSettles {
        /// Seconds that the host waited.
        seconds: u64,
        /// The fault of the last attempt.
        error: Box<LoadError>,
    },
    /// It took too long.
    #[error("loading it took more than {seconds} s")]
    TooLong {
        /// Seconds that it may take.
        seconds: u64,
    },
    /// The host has no memory to load it.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// The host cannot open a directory of its grant.
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

    /// Whether the same file with the same grant would fail the same way again. Otherwise another attempt may succeed.
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
