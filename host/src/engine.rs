//! The engine: one per process, shared by all tenants and components. Further engines beside it serve components that need costly features.
//!
//! It owns the pool of instance slots, the epoch clock that interrupts running guests, and the threads on which long guests run. A call begins on its door's
//! thread, which spares it a change of threads. After its first slice a guest moves to the guests' own threads. So a guest that computes without pause
//! competes with other guests and never with the doors.

pub mod cache;
pub mod compile;
pub mod features;

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use wasmtime::{Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::{
    limits::Fuel,
    threads::{LOW_NICE, Threads, give_way, processors},
};
use features::{Code, Features, Heap, Tasks};

/// The tick of the clock that interrupts running guests. A guest's first slice is one tick long, on the thread of the door that called it.
pub const EPOCH: Duration = Duration::from_millis(2);
/// Length of every further slice, on a guests' thread, in ticks. After each, the host asks a running guest whether it should stop, and makes it yield.
pub const SLICE: u64 = 5;
/// How long the clock goes on ticking after the last guest ended.
const CLOCK_LINGERS: u32 = 50;
/// Stack of a guest, in bytes; deeper recursion traps.
pub const MAX_WASM_STACK_BYTES: usize = 512 << 10;
/// Stack of a guest and of the host functions it calls, in bytes.
const ASYNC_STACK_BYTES: usize = 1 << 20;
/// Core instances that one instance slot may need: an SDK component has 4, a Python component about 25.
const CORE_INSTANCES_PER_SLOT: u32 = 16;
/// Core instances that a component may have; and one whose calls have many tasks.
const MAX_CORE_INSTANCES: u32 = 64;
pub(crate) const MAX_CORE_INSTANCES_OF_TASKS: u32 = 32;
/// Stacks of an engine whose calls have many tasks, at most: more than one tenant can take with its usual limits, all its calls at their worst. Each takes two mappings,
/// of which a process has 65,530, and there are two such engines where fuel is counted too.
const MAX_STACKS: u32 = 9_000;
/// Most instances that may wait at the same time. Each has 8 GiB of address space, of which a process has 128 TiB: with more than about 7,000 there is none left for a second engine.
const MAX_WAITING: usize = 12_288;
/// Linear memory above which a freed slot returns its pages to the system, in bytes.
const KEEP_RESIDENT_BYTES: usize = 128 << 10;

/// Numbers of instances. All are limits of the whole process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Instances that compute at the same time; further calls queue.
    pub max_running: usize,
    /// Instances that wait for something (a timer, another tool) at the same time.
    pub max_waiting: usize,
    /// Calls that queue for an instance; one more is refused.
    pub max_queued: usize,
    /// How long a call queues before it is refused, in milliseconds.
    pub queue_ms: u64,
    /// Threads that run guests; 0 for four times the processors.
    pub guest_threads: usize,
    /// Instances that stay after a call, for their resources or for reuse.
    pub max_kept: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_running: 128, max_waiting: 384, max_queued: 1024, queue_ms: 2_000, guest_threads: 0, max_kept: 64 }
    }
}

impl EngineConfig {
    /// Instances that can exist at once.
    pub fn slots(&self) -> usize {
        self.max_running.saturating_add(self.max_waiting).saturating_add(self.max_kept)
    }

    /// Describes the first invalid number, if any.
    pub fn check(&self) -> Result<(), String> {
        let in_range = |name: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!("engine.{name} = {value} is not between {least} and {most}"))
            }
        };
        in_range("max_running", self.max_running, 1, 4_096)?;
        in_range("max_waiting", self.max_waiting, 0, MAX_WAITING)?;
        in_range("max_queued", self.max_queued, 0, 1_000_000)?;
        in_range("max_kept", self.max_kept, 0, 4_096)?;
        in_range("guest_threads", self.guest_threads, 0, 1_024)
    }
}

/// The engines and the threads of their guests.
#[derive(Clone)]
pub struct Engine {
    engine: wasmtime::Engine,
    others: Arc<Others>,
    guests: Arc<Threads>,
    /// Permits for the host's own work for calls on the guests' threads.
    works: Arc<Semaphore>,
    clock: Arc<EpochClock>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Reason for which the host has no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine's configuration does not work on this machine.
    #[error(
        "cannot set up the WebAssembly engine for {slots} instances (too little address space? lower engine.max_running and engine.max_waiting)"
    )]
    Engine {
        /// Requested instance slots.
        slots: usize,
        /// The engine's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Threads cannot be started.
    #[error("cannot start threads for guests")]
    Threads(#[source] std::io::Error),
}

impl Engine {
    /// Permits for the host's own work for calls on the guests' threads: fewer than there are processors.
    pub fn works(&self) -> Arc<Semaphore> {
        Arc::clone(&self.works)
    }

    /// Reserves the pool, starts the epoch clock and the guest threads. The clock ends when the last clone is dropped.
    pub fn new(config: &EngineConfig) -> Result<Self, EngineError> {
        let engine = make(config, Features::default())?;
        let others = Arc::new(Others { config: config.clone(), made: Default::default() });
        let clock = EpochClock::start(&engine, &others).map_err(EngineError::Threads)?;
        let guests = Arc::new(guest_threads(config.guest_threads).map_err(EngineError::Threads)?);
        let works = Arc::new(Semaphore::new((processors() / 2).max(1)));
        Ok(Self { engine, others, guests, works, clock })
    }

    /// The engine of components that need nothing special.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// The engine that has `features`; made when the first component needs it.
    pub fn with(&self, features: Features) -> Result<&wasmtime::Engine, EngineError> {
        let made = match self.others.made.get(features.number()) {
            Some(made) if features != Features::default() => made,
            _ => return Ok(&self.engine),
        };
        if let Some(engine) = made.get() {
            return Ok(engine);
        }
        let engine = make(&self.others.config, features)?;
        Ok(made.get_or_init(|| engine))
    }

    /// Runs a guest's future on the guests' threads.
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.guests.handle().spawn(future)
    }

    /// Does `work` at the guests' priority, on a thread that may block.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.guests.handle().spawn_blocking(work)
    }
}

/// The engines beside the usual one.
struct Others {
    config: EngineConfig,
    /// Engines by the number of their features; the first place stays empty.
    made: [OnceLock<wasmtime::Engine>; Features::COMBINATIONS],
}

fn make(config: &EngineConfig, features: Features) -> Result<wasmtime::Engine, EngineError> {
    wasmtime::Engine::new(&engine_config(config, features))
        .map_err(|source| EngineError::Engine { slots: config.slots(), source: source.into() })
}

fn engine_config(config: &EngineConfig, features: Features) -> wasmtime::Config {
    let slots = u32::try_from(config.slots()).unwrap_or(u32::MAX);
    let (tasks, heap) = (features.tasks == Tasks::Many, features.heap == Heap::Collected);
    let core_instances = if tasks { MAX_CORE_INSTANCES_OF_TASKS } else { MAX_CORE_INSTANCES };
    // In each instance within a component one task at a time may stop in the middle of its stack. Two more stacks serve the running tasks.
    let stacks_of_tasks = slots.saturating_mul(MAX_CORE_INSTANCES_OF_TASKS.saturating_add(2)).min(MAX_STACKS);
    let stacks = if tasks { stacks_of_tasks.max(slots) } else { slots };
    let mut pool = PoolingAllocationConfig::new();
    // A heap takes the place of a memory.
    let heaps = if heap { slots } else { 0 };
    pool.total_component_instances(slots)
        .total_gc_heaps(heaps)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES_PER_SLOT))
        .total_memories(slots.saturating_mul(2).saturating_add(heaps))
        .total_tables(slots.saturating_mul(4))
        .total_stacks(stacks)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .max_core_instances_per_component(core_instances)
        .max_memories_per_component(8)
        .max_memories_per_module(8)
        .max_tables_per_module(16)
        .max_tables_per_component(32)
        .table_elements(100_000)
        .max_memory_size(4 << 30)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(16 << 10)
        .async_stack_keep_resident(32 << 10)
        .pagemap_scan(Enabled::Auto);
    let mut wasm = code_config(features);
    wasm.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    wasm
}

/// All parts of an engine's configuration on which its machine code depends. The engine that runs the code and the process that makes it share them.
fn code_config(features: Features) -> wasmtime::Config {
    let (tasks, heap) = (features.tasks == Tasks::Many, features.heap == Heap::Collected);
    let mut wasm = wasmtime::Config::new();
    wasm.epoch_interruption(true)
        .memory_init_cow(true)
        // No code reads backtraces, and one costs as much as a call.
        .wasm_backtrace_max_frames(None)
        .max_wasm_stack(MAX_WASM_STACK_BYTES)
        .async_stack_size(ASYNC_STACK_BYTES)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .concurrency_support(tasks)
        .consume_fuel(features.fuel == Fuel::Counted)
        // The engine clears a task's stack before the next task gets it, so that the many stacks hold no old pages.
        .async_stack_zeroing(tasks);
    wasm.gc_support(heap).wasm_function_references(heap).wasm_gc(heap).wasm_exceptions(heap);
    if features.code == Code::Baseline {
        wasm.strategy(wasmtime::Strategy::Winch);
    }
    wasm
}

/// The epoch clock: a thread that ticks while guests exist and sleeps while none do.
#[derive(Debug)]
struct EpochClock {
    guests: AtomicUsize,
    thread: OnceLock<Thread>,
}

impl EpochClock {
    fn start(engine: &wasmtime::Engine, others: &Arc<Others>) -> std::io::Result<Arc<Self>> {
        let clock = Arc::new(Self { guests: AtomicUsize::new(0), thread: OnceLock::new() });
        let (engine, others, weak) = (engine.weak(), Arc::downgrade(others), Arc::downgrade(&clock));
        let thread =
            std::thread::Builder::new().name("mcpp-epoch".into()).spawn(move || tick(&engine, &others, &weak))?;
        let _first = clock.thread.set(thread.thread().clone());
        Ok(clock)
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Drop for EpochClock {
    fn drop(&mut self) {
        self.wake();
    }
}

/// Ticks for all engines until they or the clock are gone.
#[expect(clippy::disallowed_methods, reason = "a thread of its own")]
fn tick(engine: &wasmtime::EngineWeak, others: &Weak<Others>, clock: &Weak<EpochClock>) {
    let mut idle = 0;
    loop {
        let (Some(engine), Some(others), Some(clock)) = (engine.upgrade(), others.upgrade(), clock.upgrade()) else {
            return;
        };
        engine.increment_epoch();
        others.made.iter().filter_map(OnceLock::get).for_each(wasmtime::Engine::increment_epoch);
        idle = if clock.guests.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
        drop((engine, others, clock));
        if idle > CLOCK_LINGERS {
            idle = 0;
            std::thread::park();
        } else {
            std::thread::sleep(EPOCH);
        }
    }
}

/// A guest that exists; the clock ticks as long as any does.
#[derive(Debug)]
pub struct Alive(Arc<EpochClock>);

impl Engine {
    /// Counts a guest for as long as the returned value lives.
    pub fn alive(&self) -> Alive {
        if self.clock.guests.fetch_add(1, Ordering::SeqCst) == 0 {
            self.clock.wake();
        }
        Alive(Arc::clone(&self.clock))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The threads that poll guests. There are more than processors: while some guests compute without pause, a short call finds a thread of its own, and the kernel lets it go first.
fn guest_threads(configured: usize) -> std::io::Result<Threads> {
    let count = if configured == 0 { processors().saturating_mul(4) } else { configured };
    Threads::start("mcpp-guest", count, || give_way(LOW_NICE))
}
