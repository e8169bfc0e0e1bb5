//! Loading a component, step by step: bytes → [`Compiled`] → [`Admitted`] → [`Loaded`]. Each step is a type, so none can be left out.
//!
//! Nothing of a component runs before its imports are checked against its grant. A failed load changes nothing.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, InstancePre, types::ComponentItem};

use super::{
    Engine,
    admission::Admission,
    bindings::{ComponentPre, exports::mcpp::tool::tools::Tool as WitTool},
    cache::Cache,
    control::Control,
    instance::{self, Target},
    limits::Limits,
    plain,
    state::State,
};
use crate::{
    call::CallError,
    capability::{self, Refused},
    grants::ComponentGrant,
};

/// Largest component file, in bytes.
pub const MAX_COMPONENT_BYTES: u64 = 256 << 20;
/// Most tools of one component.
const MAX_TOOLS: usize = 1_000;
/// How long a component may take to list its tools.
const LIST_TIME: Duration = Duration::from_secs(1);
/// The interface by which we know an SDK component, without its version.
const TOOLS_INTERFACE: &str = "mcpp:tool/tools";

/// A component's stable name: 1 to 64 characters of `a-z A-Z 0-9 _ -`. It owns the component's grants and data, whatever build is loaded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComponentName(Arc<str>);

impl ComponentName {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, LoadError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err(LoadError::Name(name.chars().take(80).collect()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl std::fmt::Display for ComponentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

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
    #[error("component name {0:?} is not 1 to 64 characters of `a-z`, `A-Z`, `0-9`, `_` and `-`; rename the file")]
    Name(String),
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
    /// It does not compile.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// An import is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Its imports do not fit what the host has under the same name.
    #[error("its imports do not match this host's interfaces: {0}")]
    Link(String),
    /// It speaks another version of the tool interface.
    #[error("it exports `{0}`; this host speaks `mcpp:tool/tools@0.1`")]
    ToolVersion(String),
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
    /// The name is taken.
    #[error("tool `{tool}` already belongs to component `{owner}`; rename one of them")]
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
    /// The host is stopping.
    #[error("the host is stopping")]
    Stopping,
}

impl LoadError {
    /// Whether the file looks like one that is still being written.
    pub fn may_be_partial(&self) -> bool {
        matches!(self, Self::Empty | Self::NotWasm | Self::Invalid(_) | Self::NoTools(_))
    }
}

fn notes(notes: &[String]) -> String {
    if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) }
}

/// A component whose code is compiled and not yet allowed to run.
pub struct Compiled {
    name: ComponentName,
    component: Component,
    digest: blake3::Hash,
    bytes: usize,
    cached: bool,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Compiles `wasm`, or takes it from the cache. Blocks for as long as the compiler takes: call it where that is allowed.
pub fn compile(
    engine: &Engine,
    cache: Option<&Cache>,
    name: ComponentName,
    wasm: &[u8],
) -> Result<Compiled, LoadError> {
    check_preamble(wasm)?;
    let compiled = match cache {
        Some(cache) => cache.load_or_compile(engine.wasmtime(), wasm),
        None => Component::new(engine.wasmtime(), wasm).map(|component| (component, false)),
    };
    let (component, cached) = compiled.map_err(|error| LoadError::Invalid(chain(&error)))?;
    Ok(Compiled { name, component, digest: blake3::hash(wasm), bytes: wasm.len(), cached })
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
    /// The names of the interfaces that it imports. Interfaces of types alone give no power and are left out.
    pub fn imports(&self, engine: &Engine) -> Vec<String> {
        let engine = engine.wasmtime();
        let component_type = self.component.component_type();
        let powerful = component_type.imports(engine).filter(|(_, import)| match &import.ty {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(engine).any(|(_, export)| !matches!(export.ty, ComponentItem::Type(_)))
            }
            ComponentItem::Type(_) => false,
            _ => true,
        });
        powerful.map(|(name, _)| name.to_owned()).collect()
    }

    /// Checks its imports against `grant` and links what is granted.
    pub fn admit(self, engine: &Engine, grant: &ComponentGrant) -> Result<Admitted, LoadError> {
        for import in self.imports(engine) {
            capability::check(self.name.as_str(), &import, grant)?;
        }
        let linker = capability::linker(engine.wasmtime(), grant).map_err(|error| LoadError::Link(chain(&error)))?;
        let linked = linker.instantiate_pre(&self.component).map_err(|error| LoadError::Link(chain(&error)))?;
        let kind = match self.tools_interface(engine) {
            None => Kind::Plain(linked),
            Some(version) if version.starts_with("mcpp:tool/tools@0.1.") => {
                Kind::Sdk(ComponentPre::new(linked).map_err(|error| LoadError::Link(chain(&error)))?)
            }
            Some(version) => return Err(LoadError::ToolVersion(version)),
        };
        Ok(Admitted { compiled: self, kind })
    }

    fn tools_interface(&self, engine: &Engine) -> Option<String> {
        let component_type = self.component.component_type();
        component_type
            .exports(engine.wasmtime())
            .map(|(name, _)| name.to_owned())
            .find(|name| name.split('@').next() == Some(TOOLS_INTERFACE))
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
    /// Its tools.
    pub tools: Vec<LoadedTool>,
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
    pub async fn load(self, engine: &Engine, admission: &Admission) -> Result<Loaded, LoadError> {
        let Self { compiled, kind } = self;
        let (tools, notes) = match kind {
            Kind::Sdk(component) => (list_sdk(engine, admission, &compiled.name, component).await?, Vec::new()),
            Kind::Plain(linked) => list_plain(engine, &compiled, linked),
        };
        if tools.is_empty() {
            return Err(LoadError::NoTools(notes));
        }
        if tools.len() > MAX_TOOLS {
            return Err(LoadError::TooManyTools(tools.len()));
        }
        let digest = compiled.digest.to_hex().to_string();
        Ok(Loaded { name: compiled.name, digest, bytes: compiled.bytes, cached: compiled.cached, tools, notes })
    }
}

async fn list_sdk(
    engine: &Engine,
    admission: &Admission,
    name: &ComponentName,
    component: ComponentPre<State>,
) -> Result<Vec<LoadedTool>, LoadError> {
    let limits = Limits { deadline_ms: u64::try_from(LIST_TIME.as_millis()).unwrap_or(u64::MAX), ..Limits::default() };
    let cancel = CancellationToken::new();
    let queue_until = Instant::now() + LIST_TIME;
    let slot = admission.admit(&Arc::new(Semaphore::new(1)), 1, queue_until, &cancel).await.map_err(LoadError::List)?;
    let control = Control::new(limits, Instant::now() + LIST_TIME, cancel, slot);
    let listings = instance::list(engine, &name.shared(), component.clone(), control).await.map_err(LoadError::List)?;
    let tool = |listing: WitTool| {
        let target = Target::Sdk { component: component.clone(), tool: listing.name.clone() };
        LoadedTool { listing, target }
    };
    Ok(listings.into_iter().map(tool).collect())
}

fn list_plain(engine: &Engine, compiled: &Compiled, linked: InstancePre<State>) -> (Vec<LoadedTool>, Vec<String>) {
    let (functions, notes) = plain::functions(compiled.name.as_str(), &compiled.component, engine.wasmtime());
    let tool = |function: plain::PlainFunction| LoadedTool {
        listing: function.listing(),
        target: Target::Plain { component: linked.clone(), function: Arc::new(function) },
    };
    (functions.into_iter().map(tool).collect(), notes)
}
