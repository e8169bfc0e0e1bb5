//! Compiling components: in a process of its own for each, so that no component's content can take the host's memory or time, or crash it.
//!
//! The child is this program again. It gets the component's bytes and returns machine code. It has no environment, three pipes as its only descriptors, no key
//! and no file. One child runs for a tenant at a time and few for the host. [`BuildLimits`] bound a build; the host refuses a build past them by name,
//! and keeps the refusal by digest, so that it does not compile the same file again in vain.

pub mod child;
mod descriptors;
mod parent;
mod refused;
pub mod shape;

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    cache::{Cache, Digest},
    features::Features,
};
use crate::{memory::memory_bytes, threads::processors};
use refused::RefusedBuilds;

pub use refused::Refusal;

/// Largest component file, in bytes.
pub const MAX_COMPONENT_BYTES: u64 = 256 << 20;
/// The argument that makes this program a child that compiles.
pub const CHILD_ARGUMENT: &str = "compile-child";
/// Largest machine code of one component, in bytes: about twice that of a Python interpreter with its libraries.
const MAX_CODE_BYTES: u64 = 512 << 20;
/// Least memory of one child, on a machine of unknown or small size: enough for programs of a language's own tool chain.
const LEAST_MEMORY_BYTES: u64 = 512 << 20;
/// Most memory of one child, on a large machine: no component from a compiler needs more.
const MOST_MEMORY_BYTES: u64 = 4 << 30;
/// Children at once, at most: each uses several processors.
const MOST_PROCESSES: u64 = 8;

/// How components are compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompileConfig {
    /// Processes that compile at the same time; 0 for as many as there are processors, and as a quarter of the memory allows.
    pub processes: u64,
    /// Memory of one process, in bytes; 0 for an eighth of the machine's, between 512 MiB and 4 GiB.
    pub memory_bytes: u64,
    /// Processor time of one build, in milliseconds.
    pub cpu_ms: u64,
    /// Time on the wall of one build, in milliseconds. Processes that compile give way to everything else, so this is long.
    pub wall_ms: u64,
    /// The compile cache of one tenant, in bytes; the least recently used entries make room for new ones.
    pub cache_bytes: u64,
    /// The program to start as a child; this one if it is not set. For programs that have a host within them; no setting of a file.
    #[serde(skip)]
    pub program: Option<PathBuf>,
}

impl Default for CompileConfig {
    fn default() -> Self {
        Self { processes: 0, memory_bytes: 0, cpu_ms: 60_000, wall_ms: 600_000, cache_bytes: 1 << 30, program: None }
    }
}

impl CompileConfig {
    /// Describes the first invalid number, if any.
    pub fn check(&self) -> Result<(), String> {
        let in_range = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!("compile.{name} = {value} is not between {least} and {most}"))
            }
        };
        in_range("processes", self.processes, 0, 1_024)?;
        if self.memory_bytes != 0 {
            in_range("memory_bytes", self.memory_bytes, 64 << 20, 1 << 40)?;
        }
        in_range("cpu_ms", self.cpu_ms, 1_000, 86_400_000)?;
        in_range("wall_ms", self.wall_ms, 1_000, 86_400_000)
    }

    fn limits(&self, machine: u64) -> BuildLimits {
        let memory_bytes = match self.memory_bytes {
            0 => (machine / 8).clamp(LEAST_MEMORY_BYTES, MOST_MEMORY_BYTES),
            set => set,
        };
        let wall = Duration::from_millis(self.wall_ms);
        BuildLimits { memory_bytes, cpu_seconds: self.cpu_ms.div_ceil(1_000), wall }
    }

    fn processes(&self, machine: u64, processors: u64) -> usize {
        let fitting = (machine / 4) / self.limits(machine).memory_bytes.max(1);
        let processes = match self.processes {
            0 => fitting.clamp(1, processors.clamp(1, MOST_PROCESSES)),
            set => set,
        };
        usize::try_from(processes).unwrap_or(1)
    }
}

/// Resources that one build may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildLimits {
    /// Memory beyond what the program itself has, in bytes.
    pub memory_bytes: u64,
    /// Processor time of all its threads, in seconds.
    pub cpu_seconds: u64,
    /// Time on the wall.
    pub wall: Duration,
}

/// Machine code that a child of this host made. Only such a child makes it, so the host can trust it.
pub struct MachineCode(Vec<u8>);

impl MachineCode {
    /// The code.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Some bytes that are no code.
    #[cfg(test)]
    pub(super) fn of_test(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for MachineCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineCode").field("bytes", &self.0.len()).finish()
    }
}

/// Reason for which the host has no machine code.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The component is not valid.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// The build went past its limits, now or before.
    #[error("{refusal}{}", if *known { "; it is not compiled again until the file or the limit changes" } else { "" })]
    Refused {
        /// The limit that it passed.
        refusal: Refusal,
        /// Whether the host knew this without compiling.
        known: bool,
    },
    /// The child cannot be started.
    #[error("cannot start {program} to compile it")]
    Program {
        /// The program.
        program: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The child is not the host's own program, or broke off for reasons outside the component.
    #[error("the process that compiles failed: {0}")]
    Child(String),
    /// The host is stopping.
    #[error("the host is stopping")]
    Stopping,
}

/// The processes that compile, for the whole host. Clones share them.
#[derive(Debug, Clone)]
pub struct Compiler(Arc<CompilerState>);

#[derive(Debug)]
struct CompilerState {
    program: PathBuf,
    limits: BuildLimits,
    processes: Arc<Semaphore>,
    cache_bytes: u64,
}

impl Compiler {
    /// A compiler as configured, on this machine.
    pub fn new(config: &CompileConfig) -> Self {
        let machine = memory_bytes();
        let processors = processors();
        let processes = config.processes(machine, u64::try_from(processors).unwrap_or(1));
        Self(Arc::new(CompilerState {
            program: config.program.clone().unwrap_or_else(own_program),
            limits: config.limits(machine),
            processes: Arc::new(Semaphore::new(processes)),
            cache_bytes: config.cache_bytes,
        }))
    }

    /// Resources that one build may use.
    pub fn limits(&self) -> BuildLimits {
        self.0.limits
    }

    /// The bound of one tenant's cache, in bytes.
    pub fn cache_bytes(&self) -> u64 {
        self.0.cache_bytes
    }
}

/// This very program, also when the file has been replaced since it was started.
fn own_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    // With an empty name the start of a child fails, and reports it.
    std::env::current_exe().unwrap_or_default()
}

/// Builds of one owner: a tenant, or the host itself. They run one after another and use the owner's cache.
#[derive(Debug)]
pub struct Builds {
    compiler: Compiler,
    turns: Arc<Semaphore>,
    cache: Option<Cache>,
    refusals: RefusedBuilds,
}

/// Permission to have a child, until it is dropped.
#[derive(Debug)]
pub struct BuildPermit {
    _own: OwnedSemaphorePermit,
    _hosts: OwnedSemaphorePermit,
}

impl Builds {
    /// The builds of a tenant.
    pub fn of_tenant(compiler: Compiler, cache: Option<Cache>) -> Arc<Self> {
        Self::new(compiler, cache, 1)
    }

    /// Builds of the components shipped with this program: as many at once as the host has processes.
    pub fn of_host(compiler: Compiler, cache: Option<Cache>) -> Arc<Self> {
        Self::new(compiler, cache, Semaphore::MAX_PERMITS)
    }

    fn new(compiler: Compiler, cache: Option<Cache>, at_once: usize) -> Arc<Self> {
        let refusals = RefusedBuilds::new(cache.as_ref().map(Cache::folder));
        Arc::new(Self { compiler, turns: Arc::new(Semaphore::new(at_once)), cache, refusals })
    }

    /// The owner's compile cache.
    pub fn cache(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// Waits for the owner's turn, and for one of the host's processes.
    pub async fn permit(&self) -> Result<BuildPermit, BuildError> {
        let own = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| BuildError::Stopping)?;
        let hosts = Arc::clone(&self.compiler.0.processes).acquire_owned().await.map_err(|_| BuildError::Stopping)?;
        Ok(BuildPermit { _own: own, _hosts: hosts })
    }

    /// The refusal of this build, if it went past the same limits before.
    pub fn refused_before(&self, digest: &Digest) -> Result<(), BuildError> {
        match self.refusals.find(digest, self.compiler.limits()) {
            Some(refusal) => Err(BuildError::Refused { refusal, known: true }),
            None => Ok(()),
        }
    }

    /// Compiles in a child, and keeps code and refusals where there is a cache. Blocks until the child has ended.
    pub fn build(&self, features: Features, wasm: &[u8], digest: &Digest) -> Result<MachineCode, BuildError> {
        let CompilerState { program, limits, .. } = &*self.compiler.0;
        let order =
            parent::BuildOrder { program, limits, features, engine: digest.engine(), max_code_bytes: MAX_CODE_BYTES };
        match parent::run(&order, wasm) {
            Err(BuildError::Refused { refusal, known }) => {
                if refusal.is_of_the_component() {
                    self.refusals.note(digest, *limits, refusal.clone());
                }
                Err(BuildError::Refused { refusal, known })
            }
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_fit_the_machine() {
        let config = CompileConfig::default();
        for (machine, processors, memory, processes) in [
            (2_u64 << 30, 8, 512_u64 << 20, 1),
            (8 << 30, 8, 1 << 30, 2),
            (24 << 30, 2, 3 << 30, 2),
            (256 << 30, 64, 4 << 30, 8),
            (0, 1, 512 << 20, 1),
        ] {
            assert_eq!(config.limits(machine).memory_bytes, memory, "{machine}");
            assert_eq!(config.processes(machine, processors), processes, "{machine}");
        }
        let set = CompileConfig { processes: 3, memory_bytes: 64 << 20, cpu_ms: 1_001, ..CompileConfig::default() };
        assert_eq!((set.processes(1, 1), set.limits(1).memory_bytes, set.limits(1).cpu_seconds), (3, 64 << 20, 2));
    }

    #[test]
    fn the_child_makes_the_code_that_the_hosts_engines_run() {
        for number in 0..Features::COMBINATIONS {
            let features = Features::numbered(number);
            let config =
                super::super::EngineConfig { max_running: 1, max_waiting: 0, max_kept: 0, ..Default::default() };
            let hosts = wasmtime::Engine::new(&super::super::engine_config(&config, features));
            let childs = wasmtime::Engine::new(&super::super::code_config(features));
            match (hosts, childs) {
                (Ok(hosts), Ok(childs)) => assert_eq!(
                    super::super::cache::engine_hash(&hosts),
                    super::super::cache::engine_hash(&childs),
                    "{features:?}"
                ),
                (hosts, childs) => assert_eq!(hosts.is_ok(), childs.is_ok(), "{features:?}"),
            }
        }
    }
}
