//! Controls of one running call: deadline, cancellation, budgets, and its place among running and waiting instances.
//!
//! All that can stop a guest goes through [`Control`]. The epoch callback asks it, every host call charges it, and every host future that may wait races it.
//! It keeps the first reason to stop, so that the caller learns the cause and not its consequence.

pub mod admission;
pub mod apart;
mod clock;
mod giving_up;
pub mod pace;
pub mod redactor;
pub mod turns;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    call::{Budget, CallError, Cost, inputs::CallClock},
    control::{admission::Slot, clock::RunClock, giving_up::GivingUp, pace::Pace, redactor::Redactor},
    limits::Limits,
    memory::Account,
};

/// The trap that ends a guest when its call is stopped; the reason is in [`Control::stopped`].
#[derive(Debug, thiserror::Error)]
#[error("the host stopped the call")]
pub struct Stopped;

/// Controls of one call. The guest's instance and the host side of the call share them.
#[derive(Debug)]
pub struct Control {
    limits: Limits,
    deadline: Instant,
    clock: Option<RunClock>,
    cancel: GivingUp,
    memory: Arc<Account>,
    /// Its places; none after the call, when its instance stays.
    slot: Mutex<Option<Arc<Slot>>>,
    log_bytes: AtomicU64,
    host_calls: AtomicU64,
    store_ops: AtomicU64,
    store_bytes: AtomicU64,
    file_bytes: AtomicU64,
    http_requests: AtomicU64,
    http_bytes: AtomicU64,
    redactor: Redactor,
    stopped: OnceLock<CallError>,
    /// The first refusal of memory that the guest asked for.
    refused_memory: OnceLock<(Budget, String)>,
    long: AtomicBool,
    held: AtomicUsize,
    pace: Arc<Pace>,
    /// Fires when the call is over, whether or not its instance stays; made when somebody first asks for it.
    over: OnceLock<CancellationToken>,
    /// By what its component knows the answer that comes later.
    deferred: OnceLock<String>,
}

impl Control {
    /// Controls for a call that has `slot`.
    pub fn new(limits: Limits, deadline: Instant, cancel: CancellationToken, slot: Slot) -> Arc<Self> {
        Self::on_clock(limits, deadline, cancel, slot, None)
    }

    /// As [`Control::new`], for a call whose deadline moves as long as a clock stands still.
    pub fn on_clock(
        limits: Limits,
        deadline: Instant,
        cancel: CancellationToken,
        slot: Slot,
        clock: Option<Arc<CallClock>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits,
            deadline,
            clock: clock.map(RunClock::new),
            cancel: GivingUp::new(cancel),
            memory: Arc::clone(slot.memory()),
            slot: Mutex::new(Some(Arc::new(slot))),
            log_bytes: AtomicU64::new(0),
            host_calls: AtomicU64::new(0),
            store_ops: AtomicU64::new(0),
            store_bytes: AtomicU64::new(0),
            file_bytes: AtomicU64::new(0),
            http_requests: AtomicU64::new(0),
            http_bytes: AtomicU64::new(0),
            redactor: Redactor::default(),
            stopped: OnceLock::new(),
            refused_memory: OnceLock::new(),
            long: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            pace: Arc::default(),
            over: OnceLock::new(),
            deferred: OnceLock::new(),
        })
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The time at which the host stops the call.
    pub fn deadline(&self) -> Instant {
        self.clock.as_ref().map_or(self.deadline, |clock| clock.moved(self.deadline))
    }

    /// The caller's token.
    pub fn cancel_token(&self) -> &CancellationToken {
        &self.cancel.token
    }

    fn slot(&self) -> Option<Arc<Slot>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the call with the processor time that it used. Its places are free, even if part of its instance stays.
    pub fn retire(&self, used: Duration) {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(over) = self.over.get() {
            over.cancel();
        }
        if let Some(slot) = slot {
            slot.note_used(used);
        }
    }

    /// Fires when the call is over, whether or not its instance stays.
    pub fn over(&self) -> CancellationToken {
        let over = self.over.get_or_init(CancellationToken::new);
        // A call that ends meanwhile gives its places back first, and then looks whether somebody has asked.
        if self.slot().is_none() {
            over.cancel();
        }
        over.clone()
    }

    /// Notes that the answer comes later, and by what its component knows it; whether that is the first time.
    pub fn defer(&self, handle: String) -> bool {
        self.deferred.set(handle).is_ok()
    }

    /// By what its component knows the answer that comes later, if it does.
    pub fn deferred(&self) -> Option<&str> {
        self.deferred.get().map(String::as_str)
    }

    /// Cost of the call so far, with its instance's memory.
    pub fn cost(&self, memory_bytes: u64) -> Cost {
        let spent = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Cost {
            memory_bytes,
            host_calls: spent(&self.host_calls),
            processor_time: self.pace.processor_time(),
            store_ops: spent(&self.store_ops),
            store_bytes: spent(&self.store_bytes),
            file_bytes: spent(&self.file_bytes),
            http_requests: spent(&self.http_requests),
            http_bytes: spent(&self.http_bytes),
            fuel: None,
        }
    }

    /// Whether the guest has called into the host in this call, and so may have had an effect.
    pub fn has_acted(&self) -> bool {
        self.host_calls.load(Ordering::Relaxed) > 0
    }

    /// The memory of the call's tenant.
    pub fn memory(&self) -> &Arc<Account> {
        &self.memory
    }

    /// HTTP requests so far.
    pub fn http_requests(&self) -> u64 {
        self.http_requests.load(Ordering::Relaxed)
    }

    /// Bytes sent and received over HTTP so far.
    pub fn http_bytes(&self) -> u64 {
        self.http_bytes.load(Ordering::Relaxed)
    }

    /// Redactor that hides secrets in all that leaves the call.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Reason for which the host stopped the call, if it did.
    pub fn stopped(&self) -> Option<CallError> {
        self.stopped.get().cloned()
    }

    /// Stops the call for `reason`, unless it already has one; returns the trap for the engine. Where the call may have run, a refusal that says otherwise
    /// becomes another error.
    pub fn stop(&self, reason: CallError) -> wasmtime::Error {
        let reason = if self.has_acted() { reason.after_effects() } else { reason };
        let _first = self.stopped.set(reason);
        wasmtime::Error::from(Stopped)
    }

    /// Notes that the host refused memory to the guest. The guest may continue with less.
    pub fn note_refused_memory(&self, budget: Budget, why: String) {
        let _first = self.refused_memory.set((budget, why));
    }

    /// Budget and reason of the first refusal of memory, if any.
    pub fn refused_memory(&self) -> Option<&(Budget, String)> {
        self.refused_memory.get()
    }

    /// Stops the call because a budget ran out.
    pub fn exceed(&self, budget: Budget, limit: u64) -> wasmtime::Error {
        self.stop(CallError::BudgetExceeded { budget, limit })
    }

    /// Notes that the guest has used a slice of time, or will: a guest known to be long does not begin on a door's thread.
    pub fn note_slice(&self) {
        self.long.store(true, Ordering::Relaxed);
    }

    /// Whether the guest has used its first slice of time.
    pub fn is_long(&self) -> bool {
        self.long.load(Ordering::Relaxed)
    }

    /// Whether the guest's tenant computes so much that others wait for it.
    pub fn is_crowded(&self) -> bool {
        self.slot().is_some_and(|slot| slot.is_crowded())
    }

    /// Whether the whole guest waits in a call into the host, or for its turn, whatever else it has to do.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    fn hold(&self) -> HeldGuest<'_> {
        self.held.fetch_add(1, Ordering::Relaxed);
        HeldGuest(&self.held)
    }

    /// Lets others run until the guest's turn to compute comes again.
    pub async fn let_others_run(&self) {
        let _held = self.hold();
        if let Some(slot) = self.slot() {
            self.pace.let_others_run(&slot).await;
        }
    }

    /// Clock of the guest's own time.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Fails if the guest must stop. The epoch callback calls this at every epoch.
    pub fn check(&self) -> wasmtime::Result<()> {
        if self.stopped.get().is_some() {
            return Err(Stopped.into());
        }
        if self.cancel.is_over() {
            return Err(self.stop(CallError::Cancelled));
        }
        if Instant::now() >= self.deadline() {
            return Err(self.out_of_time());
        }
        if self.pace.processor_time() >= Duration::from_millis(self.limits.cpu_ms) {
            return Err(self.exceed(Budget::Cpu, self.limits.cpu_ms));
        }
        Ok(())
    }

    /// Counts a call into the host against its budget.
    pub fn charge_host_call(&self) -> wasmtime::Result<()> {
        if self.host_calls.fetch_add(1, Ordering::Relaxed) >= self.limits.host_calls {
            return Err(self.exceed(Budget::HostCalls, self.limits.host_calls));
        }
        // A guest that only calls the host meets no epoch check of its own.
        self.check()
    }

    /// Counts bytes of log.
    pub fn charge_log(&self, bytes: usize) -> wasmtime::Result<()> {
        self.charge(&self.log_bytes, amount(bytes), Budget::Log, self.limits.log_bytes)
    }

    /// Counts a store operation that hands over `bytes`.
    pub fn charge_store_op(&self, bytes: usize) -> wasmtime::Result<()> {
        self.charge_store_ops(1, bytes)
    }

    /// Counts many operations of the store that one call asks for; one at least.
    pub fn charge_store_ops(&self, ops: usize, bytes: usize) -> wasmtime::Result<()> {
        self.charge(&self.store_ops, amount(ops.max(1)), Budget::StoreOps, self.limits.store_ops)?;
        self.charge_store_bytes(bytes)
    }

    /// Counts bytes that the store returned.
    pub fn charge_store_bytes(&self, bytes: usize) -> wasmtime::Result<()> {
        self.charge(&self.store_bytes, amount(bytes), Budget::StoreBytes, self.limits.store_bytes)
    }

    /// Counts bytes written to files.
    pub fn charge_file_bytes(&self, bytes: u64) -> wasmtime::Result<()> {
        self.charge(&self.file_bytes, bytes, Budget::FileBytes, self.limits.file_bytes)
    }

    fn charge(&self, spent: &AtomicU64, amount: u64, budget: Budget, limit: u64) -> wasmtime::Result<()> {
        let add = |spent: u64| Some(spent.saturating_add(amount));
        let before = spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).unwrap_or_else(|before| before);
        if before.saturating_add(amount) > limit {
            return Err(self.exceed(budget, limit));
        }
        Ok(())
    }

    /// Counts an HTTP request.
    pub fn charge_http_request(&self) -> wasmtime::Result<()> {
        if self.http_requests.fetch_add(1, Ordering::Relaxed) >= self.limits.http_requests {
            return Err(self.exceed(Budget::HttpRequests, self.limits.http_requests));
        }
        Ok(())
    }

    /// Counts bytes sent or received over HTTP.
    pub fn charge_http_bytes(&self, bytes: usize) -> wasmtime::Result<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let before = self.http_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limits.http_bytes {
            return Err(self.exceed(Budget::HttpBytes, self.limits.http_bytes));
        }
        Ok(())
    }

    /// Runs a host future that may wait. It ends the future when the call is cancelled or out of time, and counts the instance as waiting meanwhile. Where
    /// the tenant has no place among the waiting left, the call keeps its place among the running.
    pub async fn wait<F: Future>(&self, future: F) -> wasmtime::Result<F::Output> {
        let mut future = std::pin::pin!(future);
        if let Some(ready) = future.as_mut().now_or_never() {
            return Ok(ready);
        }
        let Some(slot) = self.slot() else { return self.wait_in_place(future).await };
        let Some(parked) = slot.park() else { return self.wait_in_place(future).await };
        let output = self.wait_in_place(future).await?;
        self.wait_in_place(parked.resume()).await?;
        Ok(output)
    }

    /// As [`Control::wait`], for a future that may wait long and for others alone: meanwhile the call does not count against the instances of its tool.
    pub async fn wait_for_others<F: Future>(&self, future: F) -> wasmtime::Result<F::Output> {
        let mut future = std::pin::pin!(future);
        if let Some(ready) = future.as_mut().now_or_never() {
            return Ok(ready);
        }
        let Some(slot) = self.slot() else { return self.wait_in_place(future).await };
        let Some(parked) = slot.park() else { return self.wait_in_place(future).await };
        let places = slot.leave_tool();
        let output = self.wait_in_place(future).await?;
        if let Some(places) = places {
            self.wait_in_place(slot.enter_tool(places)).await?;
        }
        self.wait_in_place(parked.resume()).await?;
        Ok(output)
    }

    /// Waits for the call's client, within a bound of its own: the deadline stands still, and the call counts neither as running nor against the instances of its tool. `None`
    /// where the tenant has no place among the waiting left: a call never keeps its place among the running for a person.
    pub async fn wait_for_client<F: Future>(&self, future: F) -> wasmtime::Result<Option<F::Output>> {
        let Some(slot) = self.slot() else { return Ok(None) };
        let Some(parked) = slot.park() else { return Ok(None) };
        let places = slot.leave_tool();
        let output = {
            let _stands_still = self.clock.as_ref().map(RunClock::stop);
            self.wait_in_place(future).await?
        };
        if let Some(places) = places {
            self.wait_in_place(slot.enter_tool(places)).await?;
        }
        self.wait_in_place(parked.resume()).await?;
        Ok(Some(output))
    }

    /// Runs a future that gives the call an instance which another call uses; the call queues meanwhile. It ends when the call is cancelled or out of time.
    pub async fn wait_for_instance<F: Future>(&self, future: F) -> wasmtime::Result<F::Output> {
        let mut future = std::pin::pin!(future);
        if let Some(ready) = future.as_mut().now_or_never() {
            return Ok(ready);
        }
        let Some(slot) = self.slot() else { return self.wait_in_place(future).await };
        let queued = slot.queue().map_err(|busy| self.stop(busy))?;
        let output = self.wait_in_place(future).await?;
        self.wait_in_place(queued.resume()).await?;
        Ok(output)
    }

    /// As [`Control::wait`], but the instance keeps its place among the running. Use it for a future that obtains something that others wait for: it must not
    /// then queue for a place that those others hold.
    pub async fn wait_in_place<F: Future>(&self, future: F) -> wasmtime::Result<F::Output> {
        let _held = self.hold();
        tokio::select! {
            biased;
            output = future => Ok(output),
            reason = self.end() => Err(self.stop(reason)),
        }
    }

    /// Gives the guest time to put things in order when its caller gives up.
    pub fn end_in_order(&self) {
        self.cancel.end_in_order();
    }

    /// Resolves when the call must end, with the reason.
    pub async fn end(&self) -> CallError {
        tokio::select! {
            () = self.cancel.over() => CallError::Cancelled,
            () = clock::reached(self.deadline, self.clock.as_ref()) => self.deadline_exceeded(),
        }
    }

    fn out_of_time(&self) -> wasmtime::Error {
        self.stop(self.deadline_exceeded())
    }

    fn deadline_exceeded(&self) -> CallError {
        CallError::BudgetExceeded { budget: Budget::Deadline, limit: self.limits.deadline_ms }
    }
}

/// The guest is held as long as one of these exists.
struct HeldGuest<'a>(&'a AtomicUsize);

impl Drop for HeldGuest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn amount(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
