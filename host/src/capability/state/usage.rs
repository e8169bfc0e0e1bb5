//! The memory that an instance holds: within the limits of its call, and charged to its tenant and the host for as long as the instance exists.
//!
//! Linear memories and heaps count with their size, whether the guest has touched it or not, tables with their elements, and each instance with its stack. Where memory is
//! short, guests that only rest make room. Growth that is refused fails in the guest (`memory.grow` gives −1) and is noted, so that a guest that gives up because of it is
//! told apart from one that is broken.
//!
//! A guest with much new memory is long: one instruction may fill all of it, and no clock stops an instruction. So such a guest goes on on the guests' threads.

use wasmtime::ResourceLimiterAsync;

use super::State;
use crate::{
    call::{Budget, CallError},
    control::{Control, admission::RETRY_AFTER},
    engine::{MAX_CORE_INSTANCES_OF_TASKS, MAX_WASM_STACK_BYTES, features::Tasks},
    memory::{MemoryUse, NoMemory, Reservation},
};

/// New memory from which on an instance is long. To fill it takes about a millisecond, as the kernel makes each page when it is touched.
const LONG_MEMORY_BYTES: u64 = 4 << 20;
/// Memory from which on an instance that was kept is long. Its pages are there already.
const LONG_KEPT_BYTES: u64 = 16 << 20;
/// An element of a table.
const ELEMENT_BYTES: u64 = 8;
/// Bytes of the guest's stack, and of the stack of the host's functions that it calls.
const STACK_BYTES: u64 = MAX_WASM_STACK_BYTES as u64 + (128 << 10);
/// Stacks of an instance with many tasks: each instance within it may stop one in the middle, and two more serve the running tasks.
const STACKS_OF_TASKS: u64 = MAX_CORE_INSTANCES_OF_TASKS as u64 + 2;
/// Bytes of the host's memory that a handle of HTTP may hold: a head's fields, or a piece of a body.
const HTTP_HANDLE_BYTES: u64 = 64 << 10;
/// Number of HTTP handles that the host charges at once.
const HTTP_HANDLES_STEP: u64 = 16;

/// Memory that an instance holds.
#[derive(Debug)]
pub(super) struct Usage {
    memory_bytes: u64,
    table_elements: u64,
    http_handles: u64,
    /// None where the tenant already has more than its limits, which the operator lowered.
    held: Option<Reservation>,
}

impl Usage {
    /// Usage of an instance that holds nothing yet.
    pub(super) fn new(control: &Control) -> Self {
        let held = control.memory().reserve(MemoryUse::Guests, 0).ok();
        Self { memory_bytes: 0, table_elements: 0, http_handles: 0, held }
    }
}

impl State {
    /// Most linear memory that the instance has held, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.usage.memory_bytes
    }

    /// Notes before a call if the instance was kept with so much memory that the call does not begin on a door's thread.
    pub(crate) fn note_kept_memory(&self) {
        if self.usage.memory_bytes >= LONG_KEPT_BYTES {
            self.control.note_slice();
        }
    }

    /// Charges the stacks of the instance. Without memory for them, the host stops it before it does anything.
    pub(crate) fn charge_stacks(&mut self, tasks: Tasks) {
        let stacks = if tasks == Tasks::Many { STACKS_OF_TASKS } else { 1 };
        let bytes = STACK_BYTES.saturating_mul(stacks);
        if let Err(refusal) = self.charge(bytes) {
            let _stops_at_its_first_step = self.stop_for_memory(refusal, bytes);
        }
    }

    /// Charges the memory that the instance's handles hold when it uses HTTP.
    pub(super) fn charge_http(&mut self) {
        let handles = u64::try_from(self.table.iter_mut().count()).unwrap_or(u64::MAX);
        if handles < self.usage.http_handles {
            return;
        }
        let bytes = HTTP_HANDLE_BYTES.saturating_mul(HTTP_HANDLES_STEP);
        match self.charge(bytes) {
            Ok(()) => self.usage.http_handles = self.usage.http_handles.saturating_add(HTTP_HANDLES_STEP),
            Err(refusal) => {
                let _stops_at_its_next_step = self.stop_for_memory(refusal, bytes);
            }
        }
    }

    /// Takes memory for the instance. Resting guests make room where none is left.
    fn charge(&mut self, bytes: u64) -> Result<(), NoMemory> {
        loop {
            let held = match &mut self.usage.held {
                Some(held) => held.grow(bytes),
                None => {
                    self.control.memory().reserve(MemoryUse::Guests, bytes).map(|held| self.usage.held = Some(held))
                }
            };
            let Err(refusal) = held else { return Ok(()) };
            let Some(running) = &self.running else { return Err(refusal) };
            let of_host = matches!(refusal, NoMemory::Host { .. });
            if !running.resting.make_memory(&running.principal.tenant, of_host) {
                return Err(refusal);
            }
        }
    }

    /// Whether the call has to leave the door's thread because of the instance's new memory.
    fn becomes_long(&self) -> bool {
        let becomes_long = self.usage.memory_bytes >= LONG_MEMORY_BYTES && !self.control.is_long();
        if becomes_long {
            self.control.note_slice();
        }
        becomes_long
    }

    /// Grows a memory or table of the instance from `current` by `bytes`, within the account of its tenant.
    fn grow(&mut self, current: usize, bytes: u64) -> wasmtime::Result<bool> {
        let Err(refusal) = self.charge(bytes) else { return Ok(true) };
        if current == 0 {
            return Err(self.stop_for_memory(refusal, bytes));
        }
        self.control.note_refused_memory(Budget::GuestBytes, refusal.to_string());
        Ok(false)
    }

    /// Stops the call: temporarily, unless it needs more than the host could ever give.
    fn stop_for_memory(&self, refusal: NoMemory, bytes: u64) -> wasmtime::Error {
        let held = self.usage.held.as_ref().map_or(0, Reservation::bytes);
        let (of, bound) = match refusal {
            NoMemory::Account { bound, .. } => ("guest_bytes of this tenant are used", bound),
            NoMemory::Host { bound, .. } => ("guest_bytes of the host are used", bound),
        };
        if held.saturating_add(bytes) > bound {
            return self.control.exceed(Budget::GuestBytes, bound);
        }
        let limit = usize::try_from(bound).unwrap_or(usize::MAX);
        self.control.stop(CallError::Busy { what: of, limit, retry_after: RETRY_AFTER })
    }
}

#[async_trait::async_trait]
impl ResourceLimiterAsync for State {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = delta(current, desired);
        let grown = self.usage.memory_bytes.saturating_add(more);
        let limit = self.control.limits().memory_bytes;
        if grown > limit || maximum.is_some_and(|maximum| desired > maximum) {
            return self.refuse(current, Budget::Memory, limit);
        }
        let granted = self.grow(current, more)?;
        if granted {
            self.usage.memory_bytes = grown;
            if self.becomes_long() {
                tokio::task::yield_now().await;
            }
        }
        Ok(granted)
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = delta(current, desired);
        let grown = self.usage.table_elements.saturating_add(more);
        let limit = self.control.limits().table_elements;
        if grown > limit || maximum.is_some_and(|maximum| desired > maximum) {
            return self.refuse(current, Budget::Tables, limit);
        }
        let granted = self.grow(current, more.saturating_mul(ELEMENT_BYTES))?;
        if granted {
            self.usage.table_elements = grown;
        }
        Ok(granted)
    }

    fn instances(&self) -> usize {
        self.instance_limit()
    }

    fn tables(&self) -> usize {
        self.instance_limit()
    }

    fn memories(&self) -> usize {
        self.instance_limit()
    }
}

impl State {
    /// A start that needs more than the limit stops the call. Growth in mid-call fails in the guest, which may continue with less.
    fn refuse(&self, current: usize, budget: Budget, limit: u64) -> wasmtime::Result<bool> {
        if current == 0 {
            return Err(self.control.exceed(budget, limit));
        }
        self.control.note_refused_memory(budget, format!("the limit `{budget}` is {limit}"));
        Ok(false)
    }

    fn instance_limit(&self) -> usize {
        usize::try_from(self.control.limits().core_instances).unwrap_or(usize::MAX)
    }
}

fn delta(current: usize, desired: usize) -> u64 {
    u64::try_from(desired.saturating_sub(current)).unwrap_or(u64::MAX)
}
