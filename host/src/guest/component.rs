//! Loading a component, step by step: bytes → [`Compiled`] → [`Admitted`] → [`Loaded`]. Each step is a type, so no step can be left out.
//!
//! No code of a component runs before the host has checked its imports against its grant. A failed load changes nothing.

mod error;
mod listing;
mod origin;
mod served;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, InstancePre, types::ComponentItem};

pub use self::{error::ComponentError, origin::Origin, served::LoadedPrimitives};
use self::{
    listing::{list_plain, list_sdk},
    served::LinkedPrimitives,
};
use super::{
    batch::{self, BatchExport},
    deferred::DeferredExport,
    handler::{self, Handler},
    instance::Target,
    migration::{self, Migration},
    task_support::TaskExports,
};
use crate::{
    capability,
    capability::{
        bindings::{ComponentPre, exports::mcpp::tool::tools::Tool as WitTool},
        state::State,
    },
    control::{
        Control,
        admission::{Admission, Share},
    },
    engine::{
        Engine,
        cache::{self, Digest},
        compile::{
            BuildError, Builds,
            shape::{self, Shape},
        },
        features::{Code, Features},
    },
    grants::ComponentGrant,
    limits::{Fuel, Limits, TaskSupport},
    memory::{Account, MemoryUse, Reservation},
    names::ComponentName,
    plain::docs::Docs,
};

/// Most tools of one component.
const MAX_TOOLS: usize = 1_000;
/// Most topics of a component's subscriptions.
const MAX_TOPICS: usize = 100;
/// How long a component may take to list its tools.
const LIST_TIME: Duration = Duration::from_secs(1);
/// The interface by which the host knows an SDK component, without its version.
const TOOLS_INTERFACE: &str = "mcpp:tool/tools";

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
    memory: Option<Arc<Reservation>>,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Component to compile, with its owner.
#[derive(Debug, Clone)]
pub struct ComponentSource {
    /// The component's name.
    pub name: ComponentName,
    /// Its bytes.
    pub wasm: Bytes,
    /// Whether the host counts its fuel.
    pub fuel: Fuel,
    /// Compiler that makes its code.
    pub code: Code,
    /// The most memory that a call of it may have, in bytes.
    pub memory_bytes: u64,
    /// Account that pays for its code; none for a component shipped with this program.
    pub account: Option<Arc<Account>>,
}

/// Compiles a component, or takes it from the cache. With [`Code::Baseline`], the fast compiler makes the code of a component outside the cache if it can,
/// and the host does not keep that code.
pub async fn compile(
    engine: &Engine,
    builds: &Arc<Builds>,
    source: ComponentSource,
) -> Result<Compiled, ComponentError> {
    let (step, source) = {
        let (engine, builds) = (engine.clone(), Arc::clone(builds));
        apart(move || prepare(&engine, &builds, source)).await?
    };
    let step = match step {
        CompileStep::Done(compiled) => return Ok(compiled),
        CompileStep::Build(step) => step,
    };
    // A build that waits for its turn blocks no thread.
    let permit = builds.permit().await?;
    let (engine, shared) = (engine.clone(), Arc::clone(builds));
    apart(move || {
        // The child outlives a caller that no longer waits; its permit ends with it.
        let _until_it_ends = permit;
        build(&engine, &shared, source, step)
    })
    .await
}

/// Runs blocking work on a thread of its own.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ComponentError> + Send + 'static,
) -> Result<T, ComponentError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ComponentError::Stopping)?
}

/// Next step for a component to compile.
enum CompileStep {
    Done(Compiled),
    Build(Prepared),
}

/// Findings about a component before compilation.
struct Prepared {
    docs: Arc<Docs>,
    shape: Shape,
    features: Features,
    digest: Digest,
}

impl Prepared {
    fn compiled(self, source: ComponentSource, component: Component, memory: Option<Arc<Reservation>>) -> Compiled {
        let ComponentSource { name, wasm, code, .. } = source;
        let (docs, digest) = (self.docs, self.digest.wasm());
        Compiled { name, component, docs, digest, bytes: wasm.len(), cached: false, code, memory }
    }
}

/// The cheap checks, and the cache.
fn prepare(
    engine: &Engine,
    builds: &Builds,
    source: ComponentSource,
) -> Result<(CompileStep, ComponentSource), ComponentError> {
    check_preamble(&source.wasm)?;
    let shape = Shape::of(&source.wasm);
    shape.check_memory(source.memory_bytes)?;
    let features = Features::of(&source.wasm, source.fuel);
    let optimizing = engine.with(features)?;
    let digest = Digest::new(optimizing, &source.wasm);
    let prepared = Prepared { docs: Arc::new(Docs::read(&source.wasm)), shape, features, digest };
    if let Some(cache) = builds.cache()
        && let Some(bytes) = cache.bytes(&prepared.digest)
    {
        let memory = reserve(&source, &prepared.shape, bytes)?;
        if let Some(component) = cache.load(optimizing, &prepared.digest) {
            let mut compiled = prepared.compiled(source.clone(), component, memory);
            (compiled.cached, compiled.code) = (true, Code::Optimized);
            return Ok((CompileStep::Done(compiled), source));
        }
    }
    prepared.shape.check()?;
    builds.refused_before(&prepared.digest)?;
    shape::check_functions(&source.wasm)?;
    Ok((CompileStep::Build(prepared), source))
}

/// Compiles with the fast compiler if the source asks for it. Where that compiler cannot, on this machine or for this component, the other one does.
fn build(
    engine: &Engine,
    builds: &Builds,
    mut source: ComponentSource,
    prepared: Prepared,
) -> Result<Compiled, ComponentError> {
    if source.code == Code::Baseline {
        let features = Features { code: Code::Baseline, ..prepared.features };
        let baseline = engine.with(features).ok();
        let made = baseline.and_then(|engine| {
            let digest = Digest::new(engine, &source.wasm);
            Some((engine, builds.build(features, &source.wasm, &digest).ok()?))
        });
        if let Some((engine, code)) = made {
            let memory = reserve(&source, &prepared.shape, length(code.as_bytes()))?;
            if let Ok(component) = cache::take(engine, &code) {
                return Ok(prepared.compiled(source, component, memory));
            }
        }
    }
    source.code = Code::Optimized;
    let optimizing = engine.with(prepared.features)?;
    let code = builds.build(prepared.features, &source.wasm, &prepared.digest)?;
    let memory = reserve(&source, &prepared.shape, length(code.as_bytes()))?;
    if let Some(cache) = builds.cache() {
        cache.store(&prepared.digest, &code);
    }
    let component = cache::take(optimizing, &code).map_err(|error| BuildError::Child(chain(&error)))?;
    Ok(prepared.compiled(source, component, memory))
}

/// Takes the memory of a component's code and memory images, for as long as they are live.
fn reserve(
    source: &ComponentSource,
    shape: &Shape,
    code_bytes: u64,
) -> Result<Option<Arc<Reservation>>, ComponentError> {
    let Some(account) = &source.account else { return Ok(None) };
    let bytes = code_bytes.saturating_add(shape.image_bytes());
    let reserved = account.reserve(MemoryUse::Code, bytes);
    Ok(Some(Arc::new(reserved.map_err(|source| ComponentError::Memory {
        of: "its code and the images of its memories",
        bytes,
        source,
    })?)))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Whether the optimized code of `wasm` is in the cache.
pub fn is_optimized(engine: &Engine, builds: &Builds, wasm: &[u8], fuel: Fuel) -> bool {
    let Some(cache) = builds.cache() else { return false };
    engine.with(Features::of(wasm, fuel)).is_ok_and(|engine| cache.has(&Digest::new(engine, wasm)))
}

fn check_preamble(wasm: &[u8]) -> Result<(), ComponentError> {
    match wasm {
        [] => Err(ComponentError::Empty),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(ComponentError::CoreModule),
        [0, b'a', b's', b'm', ..] => Ok(()),
        _ => Err(ComponentError::NotWasm),
    }
}

pub(super) fn chain(error: &wasmtime::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A component that may run: the host has granted and linked its imports.
#[derive(Debug)]
pub struct Admitted {
    compiled: Compiled,
    kind: LinkedKind,
    handler: Option<Handler>,
    migration: Option<Migration>,
    tasks: TaskExports,
    batch: Option<BatchExport>,
    served: LinkedPrimitives,
}

enum LinkedKind {
    Sdk(ComponentPre<State>),
    Plain(InstancePre<State>),
}

impl std::fmt::Debug for LinkedKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sdk(_) => "Sdk",
            Self::Plain(_) => "Plain",
        })
    }
}

impl Compiled {
    /// Names of the interfaces that it imports. Interfaces of types alone give no power, so the list omits them: without a function no resource can be had.
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

    /// Checks its imports against `grant` and links the granted interfaces.
    pub fn admit(self, grant: &ComponentGrant) -> Result<Admitted, ComponentError> {
        capability::check(self.name.as_str(), self.imports(), grant)?;
        let linker =
            capability::linker(self.component.engine(), grant).map_err(|error| ComponentError::Link(chain(&error)))?;
        let linked = linker.instantiate_pre(&self.component).map_err(|error| ComponentError::Link(chain(&error)))?;
        let link_error = |error: wasmtime::Error| ComponentError::Link(chain(&error));
        let handler = self.exports(handler::INTERFACE)?.then(|| Handler::new(linked.clone()));
        let migration = self.exports(migration::INTERFACE)?.then(|| Migration::new(linked.clone()));
        let tasks = TaskExports::of(&self, &linked)?;
        let is_sdk = self.exports(TOOLS_INTERFACE)?;
        let batch = (is_sdk && self.exports(batch::INTERFACE)?).then(|| BatchExport::new(linked.clone()));
        let batch = batch.transpose().map_err(link_error)?;
        let served = LinkedPrimitives::of(&self, &linked)?;
        let kind = if is_sdk {
            LinkedKind::Sdk(ComponentPre::new(linked).map_err(link_error)?)
        } else {
            LinkedKind::Plain(linked)
        };
        let (handler, migration) =
            (handler.transpose().map_err(link_error)?, migration.transpose().map_err(link_error)?);
        Ok(Admitted { compiled: self, kind, handler, migration, tasks, batch, served })
    }

    /// Whether it exports one of the host's interfaces, in a version that this host speaks.
    pub(super) fn exports(&self, interface: &str) -> Result<bool, ComponentError> {
        let component_type = self.component.component_type();
        let mut exports = component_type.exports(self.component.engine()).map(|(name, _)| name);
        let Some(export) = exports.find(|name| name.split('@').next() == Some(interface)) else { return Ok(false) };
        match export.split_once('@') {
            Some((_, version)) if version.starts_with(capability::SPOKEN) => Ok(true),
            _ => Err(ComponentError::ExportVersion(export.to_owned())),
        }
    }
}

/// A component with its tools, ready to be called.
#[derive(Debug)]
pub struct Loaded {
    /// Its name.
    pub name: ComponentName,
    /// BLAKE3 of its bytes, which identifies the build.
    pub digest: String,
    /// Its size, in bytes.
    pub bytes: usize,
    /// Whether its code came from the compile cache.
    pub cached: bool,
    /// Compiler that made its code.
    pub code: Code,
    /// Its tools.
    pub tools: Vec<LoadedTool>,
    /// Its handler of events and timers, and the topics that it names.
    pub handler: Option<(Handler, Vec<String>)>,
    /// Its migration, and the format that it reads and writes.
    pub migration: Option<(Migration, u32)>,
    /// What it serves beside tools.
    pub primitives: LoadedPrimitives,
    /// Remarks for its author.
    pub notes: Vec<String>,
    /// Memory of its code; none for a component shipped with this program.
    pub memory: Option<Arc<Reservation>>,
}

/// One tool as its component describes it; nothing in it is checked yet.
#[derive(Debug)]
pub struct LoadedTool {
    /// The tool as the component lists it.
    pub listing: WitTool,
    /// The way to call it.
    pub target: Target,
    /// When calls of it become tasks.
    pub task: TaskSupport,
    /// What has the answers that its calls put off.
    pub deferred: Option<DeferredExport>,
    /// What serves many of its calls at once.
    pub batch: Option<BatchExport>,
}

impl Admitted {
    /// Asks the component for its tools.
    pub async fn load(self, engine: &Engine, admission: (&Admission, &Arc<Share>)) -> Result<Loaded, ComponentError> {
        let Self { compiled, kind, handler, migration, tasks, batch, served } = self;
        let name = compiled.name.shared();
        let (mut tools, notes) = match kind {
            LinkedKind::Sdk(component) => (list_sdk(engine, admission, &name, component).await?, Vec::new()),
            LinkedKind::Plain(linked) => list_plain(&compiled, linked)?,
        };
        let handler = match handler {
            Some(handler) => {
                let control = loading(admission).await?;
                let topics = handler.subscriptions(engine, &name, control).await.map_err(ComponentError::List)?;
                Some((handler, topics))
            }
            None => None,
        };
        let migration = match migration {
            Some(migration) => {
                let format =
                    migration.format(engine, &name, loading(admission).await?).await.map_err(ComponentError::List)?;
                Some((migration, format))
            }
            None => None,
        };
        let primitives = served.list(engine, admission, &compiled).await?;
        tasks.mark(&mut tools, engine, &name, admission).await?;
        if let Some(batch) = batch {
            batch.mark(&mut tools, engine, &name, admission).await?;
        }
        if let Some((_, topics)) = &handler
            && topics.len() > MAX_TOPICS
        {
            return Err(ComponentError::TooManyTopics(topics.len()));
        }
        if tools.is_empty() && handler.is_none() && primitives.is_empty() {
            return Err(ComponentError::NoTools(notes));
        }
        if tools.len() > MAX_TOOLS {
            return Err(ComponentError::TooManyTools(tools.len()));
        }
        let digest = compiled.digest.to_hex().to_string();
        let Compiled { name, bytes, cached, code, memory, .. } = compiled;
        Ok(Loaded { name, digest, bytes, cached, code, tools, handler, migration, primitives, notes, memory })
    }
}

/// Controls for the host's questions to a component at its load.
pub(super) async fn loading((admission, share): (&Admission, &Arc<Share>)) -> Result<Arc<Control>, ComponentError> {
    let limits = Limits { deadline_ms: u64::try_from(LIST_TIME.as_millis()).unwrap_or(u64::MAX), ..Limits::default() };
    let cancel = CancellationToken::new();
    let until = Instant::now() + LIST_TIME;
    let slot = admission.admit(share, &Arc::new(Semaphore::new(1)), 1, until, &cancel).await;
    let slot = slot.map_err(ComponentError::List)?;
    Ok(Control::new(limits, Instant::now() + LIST_TIME, cancel, slot))
}
