//! Loading a component, step by step: bytes → [`Compiled`] → [`Admitted`] → [`Loaded`]. Each step is a type, so none can be left out.
//!
//! Nothing of a component runs before its imports are checked against its grant. A failed load changes nothing.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, InstancePre, types::ComponentItem};

use super::{
    Engine, EngineError,
    admission::{Admission, Share},
    bindings::{ComponentPre, exports::mcpp::tool::tools::Tool as WitTool},
    cache::Cache,
    control::Control,
    docs::Docs,
    features::{Code, Features, Fuel},
    handler::{self, Handler},
    instance::{self, Target},
    limits::Limits,
    migration::{self, Migration},
    plain,
    state::State,
};
use crate::{
    call::{CallError, ComponentName, InvalidComponentName},
    capability::{self, Refused, files::FolderError},
    grants::{ComponentGrant, GrantsError},
    reload::accept::AcceptError,
    store::StoreError,
    tenant::TenantId,
};

/// Largest component file, in bytes.
pub const MAX_COMPONENT_BYTES: u64 = 256 << 20;
/// Most tools of one component.
const MAX_TOOLS: usize = 1_000;
/// Most topics that a component may be subscribed to.
const MAX_TOPICS: usize = 100;
/// How long a component may take to list its tools.
const LIST_TIME: Duration = Duration::from_secs(1);
/// The interface by which we know an SDK component, without its version.
const TOOLS_INTERFACE: &str = "mcpp:tool/tools";

/// Where a component's bytes are from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Built into this program.
    BuiltIn,
    /// A file in a tools folder.
    File(PathBuf),
}

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
    /// It does not compile.
    #[error("the component is not valid: {0}")]
    Invalid(String),
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
    /// A directory that is granted to it cannot be opened.
    #[error(transparent)]
    Files(#[from] FolderError),
    /// Its store does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
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
        matches!(self, Self::Empty | Self::NotWasm | Self::Invalid(_) | Self::NoTools(_))
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

/// A component whose code is compiled and not yet allowed to run. Clones share the code.
#[derive(Clone)]
pub struct Compiled {
    name: ComponentName,
    component: Component,
    docs: Arc<Docs>,
    digest: blake3::Hash,
    bytes: usize,
    cached: bool,
    code: Code,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Compiles `wasm`, or takes it from the cache. With [`Code::Baseline`], what is not in the cache is compiled by the fast compiler, if that can, and not kept.
/// Blocks for as long as the compiler takes: call it where that is allowed.
pub fn compile(
    engine: &Engine,
    cache: Option<&Cache>,
    name: ComponentName,
    wasm: &[u8],
    fuel: Fuel,
    code: Code,
) -> Result<Compiled, LoadError> {
    check_preamble(wasm)?;
    let docs = Arc::new(Docs::read(wasm));
    let done = |component, cached, code| {
        Ok(Compiled { name, component, docs, digest: blake3::hash(wasm), bytes: wasm.len(), cached, code })
    };
    let features = Features::of(wasm, fuel);
    let optimizing = engine.with(features)?;
    if code == Code::Baseline && cache.is_none_or(|cache| !cache.has(optimizing, wasm)) {
        // What this compiler cannot do, on this machine or for this component, the other one can; and what is wrong with a component, that one says.
        let baseline = engine.with(Features { code, ..features }).ok();
        if let Some(component) = baseline.and_then(|engine| Component::new(engine, wasm).ok()) {
            return done(component, false, code);
        }
    }
    let compiled = match cache {
        Some(cache) => cache.load_or_compile(optimizing, wasm),
        None => Component::new(optimizing, wasm).map(|component| (component, false)),
    };
    let (component, cached) = compiled.map_err(|error| LoadError::Invalid(chain(&error)))?;
    done(component, cached, Code::Optimized)
}

/// Whether the optimized code of `wasm` is in the cache.
pub fn is_optimized(engine: &Engine, cache: &Cache, wasm: &[u8], fuel: Fuel) -> bool {
    engine.with(Features::of(wasm, fuel)).is_ok_and(|engine| cache.has(engine, wasm))
}

fn check_preamble(wasm: &[u8]) -> Result<(), LoadError> {
    match wasm {
        [] => Err(LoadError::Empty),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', ..] => Ok(()),
        _ => Err(LoadError::NotWasm),
    }
}

fn chain(error: &wasmtime::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A component that may run: its imports are granted and linked.
#[derive(Debug)]
pub struct Admitted {
    compiled: Compiled,
    kind: Kind,
    handler: Option<Handler>,
    migration: Option<Migration>,
}

enum Kind {
    Sdk(ComponentPre<State>),
    Plain(InstancePre<State>),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sdk(_) => "Sdk",
            Self::Plain(_) => "Plain",
        })
    }
}

impl Compiled {
    /// The names of the interfaces that it imports. Interfaces of types alone give no power and are left out: without a function there is nothing of a resource to get.
    pub fn imports(&self) -> Vec<String> {
        let engine = self.component.engine();
        let component_type = self.component.component_type();
        let powerful = component_type.imports(engine).filter(|(_, import)| match &import.ty {
            ComponentItem::ComponentInstance(instance) => instance
                .exports(engine)
                .any(|(_, export)| !matches!(export.ty, ComponentItem::Type(_) | ComponentItem::Resource(_))),
            ComponentItem::Type(_) => false,
            _ => true,
        });
        powerful.map(|(name, _)| name.to_owned()).collect()
    }

    /// Checks its imports against `grant` and links what is granted.
    pub fn admit(self, grant: &ComponentGrant) -> Result<Admitted, LoadError> {
        for import in self.imports() {
            capability::check(self.name.as_str(), &import, grant)?;
        }
        let linker =
            capability::linker(self.component.engine(), grant).map_err(|error| LoadError::Link(chain(&error)))?;
        let linked = linker.instantiate_pre(&self.component).map_err(|error| LoadError::Link(chain(&error)))?;
        let link_error = |error: wasmtime::Error| LoadError::Link(chain(&error));
        let handler = self.exports(handler::INTERFACE)?.then(|| Handler::new(linked.clone()));
        let migration = self.exports(migration::INTERFACE)?.then(|| Migration::new(linked.clone()));
        let kind = if self.exports(TOOLS_INTERFACE)? {
            Kind::Sdk(ComponentPre::new(linked).map_err(link_error)?)
        } else {
            Kind::Plain(linked)
        };
        let (handler, migration) =
            (handler.transpose().map_err(link_error)?, migration.transpose().map_err(link_error)?);
        Ok(Admitted { compiled: self, kind, handler, migration })
    }

    /// Whether it exports one of our interfaces, in a version that this host speaks.
    fn exports(&self, interface: &str) -> Result<bool, LoadError> {
        let component_type = self.component.component_type();
        let mut exports = component_type.exports(self.component.engine()).map(|(name, _)| name);
        let Some(export) = exports.find(|name| name.split('@').next() == Some(interface)) else { return Ok(false) };
        match export.split_once('@') {
            Some((_, version)) if version.starts_with(capability::SPOKEN) => Ok(true),
            _ => Err(LoadError::ExportVersion(export.to_owned())),
        }
    }
}

/// A component with its tools, ready to be called.
#[derive(Debug)]
pub struct Loaded {
    /// Its name.
    pub name: ComponentName,
    /// BLAKE3 of its bytes: which build this is.
    pub digest: String,
    /// Its size, in bytes.
    pub bytes: usize,
    /// Whether its code came from the compile cache.
    pub cached: bool,
    /// Which compiler made its code.
    pub code: Code,
    /// Its tools.
    pub tools: Vec<LoadedTool>,
    /// Its handler of events and timers, and the topics that it names.
    pub handler: Option<(Handler, Vec<String>)>,
    /// Its migration, and the format that it reads and writes.
    pub migration: Option<(Migration, u32)>,
    /// What its author should know.
    pub notes: Vec<String>,
}

/// One tool as its component describes it; nothing in it is checked yet.
#[derive(Debug)]
pub struct LoadedTool {
    /// What it says of itself.
    pub listing: WitTool,
    /// How it is called.
    pub target: Target,
}

impl Admitted {
    /// Asks for its tools.
    pub async fn load(self, engine: &Engine, admission: (&Admission, &Arc<Share>)) -> Result<Loaded, LoadError> {
        let Self { compiled, kind, handler, migration } = self;
        let name = compiled.name.shared();
        let (tools, notes) = match kind {
            Kind::Sdk(component) => (list_sdk(engine, admission, &name, component).await?, Vec::new()),
            Kind::Plain(linked) => list_plain(&compiled, linked),
        };
        let handler = match handler {
            Some(handler) => {
                let control = loading(admission).await?;
                let topics = handler.subscriptions(engine, &name, control).await.map_err(LoadError::List)?;
                Some((handler, topics))
            }
            None => None,
        };
        let migration = match migration {
            Some(migration) => {
                let format =
                    migration.format(engine, &name, loading(admission).await?).await.map_err(LoadError::List)?;
                Some((migration, format))
            }
            None => None,
        };
        if let Some((_, topics)) = &handler
            && topics.len() > MAX_TOPICS
        {
            return Err(LoadError::TooManyTopics(topics.len()));
        }
        if tools.is_empty() && handler.is_none() {
            return Err(LoadError::NoTools(notes));
        }
        if tools.len() > MAX_TOOLS {
            return Err(LoadError::TooManyTools(tools.len()));
        }
        let digest = compiled.digest.to_hex().to_string();
        let Compiled { name, bytes, cached, code, .. } = compiled;
        Ok(Loaded { name, digest, bytes, cached, code, tools, handler, migration, notes })
    }
}

/// Reins for what a component is asked when it is loaded.
async fn loading((admission, share): (&Admission, &Arc<Share>)) -> Result<Arc<Control>, LoadError> {
    let limits = Limits { deadline_ms: u64::try_from(LIST_TIME.as_millis()).unwrap_or(u64::MAX), ..Limits::default() };
    let cancel = CancellationToken::new();
    let until = Instant::now() + LIST_TIME;
    let slot = admission.admit(share, &Arc::new(Semaphore::new(1)), 1, until, &cancel).await;
    let slot = slot.map_err(LoadError::List)?;
    Ok(Control::new(limits, Instant::now() + LIST_TIME, cancel, slot))
}

async fn list_sdk(
    engine: &Engine,
    admission: (&Admission, &Arc<Share>),
    name: &Arc<str>,
    component: ComponentPre<State>,
) -> Result<Vec<LoadedTool>, LoadError> {
    let control = loading(admission).await?;
    let listings = instance::list(engine, name, component.clone(), control).await.map_err(LoadError::List)?;
    let tool = |listing: WitTool| {
        let target = Target::Sdk { component: component.clone(), tool: listing.name.clone() };
        LoadedTool { listing, target }
    };
    Ok(listings.into_iter().map(tool).collect())
}

fn list_plain(compiled: &Compiled, linked: InstancePre<State>) -> (Vec<LoadedTool>, Vec<String>) {
    let (name, component) = (compiled.name.as_str(), &compiled.component);
    let (functions, notes) = plain::functions(name, component, component.engine(), &compiled.docs);
    let tool = |function: plain::PlainFunction| LoadedTool {
        listing: function.listing(),
        target: Target::Plain { component: linked.clone(), function: Arc::new(function) },
    };
    (functions.into_iter().map(tool).collect(), notes)
}
