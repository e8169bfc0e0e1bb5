//! Numbers of running and waiting instances, and the time that a call queues for one, for the host and for each tenant.
//!
//! A call holds a place among the running instances, or, while it waits, one among the waiting; always exactly one. So waiting calls cannot starve running
//! ones, a call that waits for a nested one leaves it room to run, and every queue has a bound. Where a tenant already holds all its places among the
//! waiting, its call keeps its place among the running while it waits.
//!
//! Tenants share the places of both kinds fairly: a freed place goes to the tenant that has the fewest, each has bounds of its own, and where there are several the last
//! quarter of the places is kept for those that have almost none.

mod parked;

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use self::parked::ParkedCall;
use super::turns::{Turn, Turns};
use crate::{
    call::CallError,
    engine::EngineConfig,
    limits::TenantLimits,
    memory::{Account, HostMemory, MemoryConfig},
    names::TenantId,
    permits::SharingRule,
    tenant::{
        door::Door,
        rates::{ByteRate, NoticeRate},
    },
    threads::processors,
};

/// Time after which a refused caller should try again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One tenant, as admission knows it.
#[derive(Debug)]
pub struct Share {
    /// The tenant.
    pub tenant: TenantId,
    /// Its bounds.
    pub limits: TenantLimits,
    /// Its account of the host's memory.
    pub memory: Arc<Account>,
    /// Door through which it enters.
    pub door: Door,
    /// Rate of its large messages.
    pub traffic: Arc<ByteRate>,
    /// Rate of the notifications of changes.
    pub notices: NoticeRate,
}

impl Share {
    /// A tenant's share.
    pub fn new(tenant: TenantId, limits: TenantLimits, memory: Arc<Account>) -> Arc<Self> {
        let traffic = Arc::new(ByteRate::new(limits.traffic_bytes_per_second));
        let notices = NoticeRate::new(limits.streams);
        Arc::new(Self { tenant, limits, memory, door: Door::default(), traffic, notices })
    }

    /// A share without a host, for questions to a component outside of one.
    pub fn alone(limits: TenantLimits) -> Arc<Self> {
        let memory = HostMemory::new(&MemoryConfig::default()).account(limits.memory());
        Self::new(TenantId::local(), limits, memory)
    }
}

/// The places of one host.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Places>);

#[derive(Debug)]
struct Places {
    config: EngineConfig,
    queue_time: Duration,
    state: Mutex<Admissions>,
    turns: Turns,
}

#[derive(Debug, Default)]
struct Admissions {
    running: usize,
    waiting: usize,
    queued: usize,
    /// Whether there are several tenants.
    shared: bool,
    /// Rises with every place that a queued call gets.
    served: u64,
    tenants: HashMap<TenantId, Use>,
}

/// Places and queues of one tenant.
#[derive(Debug, Default)]
struct Use {
    running: usize,
    waiting: usize,
    queued: usize,
    /// Instances that return from waiting. They go first, because they hold resources that others may wait for.
    returning: VecDeque<QueuedCall>,
    line: VecDeque<QueuedCall>,
    /// Value of the host's `served` when one of its queue was last served.
    served: u64,
    limit: usize,
}

/// A queued call.
#[derive(Debug)]
struct QueuedCall {
    turn: oneshot::Sender<InstancePermit>,
}

impl Use {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting == 0 && self.queued == 0 && self.returning.is_empty() && self.line.is_empty()
    }

    fn wants(&self) -> bool {
        !self.returning.is_empty() || (!self.line.is_empty() && self.running < self.limit)
    }
}

impl Admissions {
    /// How tenants share `most` places.
    fn rule(&self, most: usize) -> SharingRule {
        SharingRule { most, shared: self.shared }
    }

    /// Whether the host has room for one more running instance of a tenant that has `own`.
    fn may_run(&self, config: &EngineConfig, own: usize) -> bool {
        self.rule(config.max_running).has_room(self.running, own)
    }

    /// Changes what is known of a tenant that has something, and forgets it when it has nothing any more.
    fn change(&mut self, tenant: &TenantId, change: impl FnOnce(&mut Use)) {
        if let Entry::Occupied(mut of) = self.tenants.entry(tenant.clone()) {
            change(of.get_mut());
            if of.get().is_idle() {
                of.remove();
            }
        }
    }
}

fn of_tenant<'a>(tenants: &'a mut HashMap<TenantId, Use>, share: &Share) -> &'a mut Use {
    let of = tenants.entry(share.tenant.clone()).or_default();
    of.limit = number(share.limits.running);
    of
}

fn number(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

impl Admission {
    /// Places as configured.
    pub fn new(config: &EngineConfig) -> Self {
        let queue_time = Duration::from_millis(config.queue_ms);
        let processors = processors();
        let (config, state, turns) = (config.clone(), Mutex::default(), Turns::new(processors));
        Self(Arc::new(Places { config, queue_time, state, turns }))
    }

    fn state(&self) -> MutexGuard<'_, Admissions> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether several tenants share the places.
    pub fn set_shared(&self, shared: bool) {
        self.state().shared = shared;
    }

    /// Notes that a client of a tenant is at the door; returns whether others use the host too.
    pub fn note(&self, tenant: &TenantId) -> bool {
        self.0.turns.note(tenant)
    }

    /// A turn for the host's own work for a tenant that computes so much that it delays others; none, and at once, for any other.
    pub async fn turn_if_crowded(&self, tenant: &TenantId) -> Option<Turn> {
        if self.0.turns.is_crowded_by(tenant) { self.0.turns.wait(tenant).await.ok() } else { None }
    }

    /// Notes processor time that the host used for a tenant.
    pub fn note_used(&self, tenant: &TenantId, time: Duration) {
        self.0.turns.note_used(tenant, time);
    }

    /// Instances that run now.
    pub fn running(&self) -> usize {
        self.state().running
    }

    /// Instances that wait now.
    pub fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// Calls that queue now.
    pub fn queued(&self) -> usize {
        self.state().queued
    }

    /// One tenant's instances that run and wait, and its calls that queue.
    pub fn of(&self, tenant: &TenantId) -> (usize, usize, usize) {
        self.state().tenants.get(tenant).map_or((0, 0, 0), |of| (of.running, of.waiting, of.queued))
    }

    /// A place among the running instances, at once or after queueing. `per_tool` limits the instances of one tool to `tool_limit`.
    pub async fn admit(
        &self,
        share: &Arc<Share>,
        per_tool: &Arc<Semaphore>,
        tool_limit: usize,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<Slot, CallError> {
        self.0.turns.note(&share.tenant);
        let patience = (Instant::now() + self.0.queue_time).min(deadline);
        let tool = match Arc::clone(per_tool).try_acquire_owned() {
            Ok(tool) => tool,
            Err(_) => {
                let queued = self.queue(&mut self.state(), share, ("instances of this tool run", tool_limit))?;
                queued.wait(Arc::clone(per_tool).acquire_owned(), patience, cancel).await?
            }
        };
        let place = match self.try_run(share)? {
            Start::Now(place) => place,
            Start::Later(turn, queued) => queued.wait(turn, patience, cancel).await?,
        };
        Ok(Slot {
            admission: self.clone(),
            share: Arc::clone(share),
            running: Mutex::new(Some(place)),
            tool: Mutex::new(Some(tool)),
        })
    }

    fn try_run(&self, share: &Arc<Share>) -> Result<Start, CallError> {
        let (config, most) = (&self.0.config, number(share.limits.running));
        let mut guard = self.state();
        let state = &mut *guard;
        let rule = state.rule(config.max_running);
        let of = of_tenant(&mut state.tenants, share);
        let own = of.running;
        if of.line.is_empty() && of.returning.is_empty() && own < most && rule.has_room(state.running, own) {
            of.running = own.saturating_add(1);
            state.running = state.running.saturating_add(1);
            return Ok(Start::Now(self.place(&share.tenant, PermitKind::Running)));
        }
        let why =
            if own >= most { ("instances of this tenant run", most) } else { ("instances run", config.max_running) };
        let queued = self.queue(state, share, why)?;
        let (turn, mine) = oneshot::channel();
        of_tenant(&mut state.tenants, share).line.push_back(QueuedCall { turn });
        Ok(Start::Later(mine, queued))
    }

    /// Counts one more queued call. It queues because of `why`.
    fn queue(&self, state: &mut Admissions, share: &Share, why: (&'static str, usize)) -> Result<Queued, CallError> {
        let (most, own_most) = (self.0.config.max_queued, number(share.limits.queued));
        let own = of_tenant(&mut state.tenants, share).queued;
        let refusal = if !state.rule(most).has_room(state.queued, own) {
            Some(busy("calls queue", most))
        } else if own >= own_most {
            Some(busy("calls of this tenant queue", own_most))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            state.change(&share.tenant, |_| {});
            return Err(refusal);
        }
        state.queued = state.queued.saturating_add(1);
        let of = of_tenant(&mut state.tenants, share);
        of.queued = of.queued.saturating_add(1);
        Ok(Queued { admission: self.clone(), tenant: share.tenant.clone(), why })
    }

    fn place(&self, tenant: &TenantId, kind: PermitKind) -> InstancePermit {
        InstancePermit { admission: self.clone(), tenant: tenant.clone(), kind, given_back: false }
    }

    /// Gives free places to queued calls.
    fn settle(&self) {
        loop {
            let mut state = self.state();
            let Admissions { tenants, .. } = &*state;
            let fits = |of: &Use| of.wants() && state.may_run(&self.0.config, of.running);
            let next = tenants.iter().filter(|(_, of)| fits(of)).min_by_key(|(_, of)| (of.running, of.served));
            let Some(tenant) = next.map(|(tenant, _)| tenant.clone()) else { return };
            state.served = state.served.wrapping_add(1);
            let served = state.served;
            let Some(of) = state.tenants.get_mut(&tenant) else { return };
            of.served = served;
            let Some(line) = of.returning.pop_front().or_else(|| of.line.pop_front()) else { return };
            of.running = of.running.saturating_add(1);
            state.running = state.running.saturating_add(1);
            drop(state);
            if let Err(refused) = line.turn.send(self.place(&tenant, PermitKind::Running)) {
                // The queued caller has left. The loop goes on; giving the place back in the usual way would come here again from within.
                refused.give_back();
            }
        }
    }
}

enum Start {
    Now(InstancePermit),
    Later(oneshot::Receiver<InstancePermit>, Queued),
}

/// Membership in the queue; ends when dropped.
#[derive(Debug)]
struct Queued {
    admission: Admission,
    tenant: TenantId,
    why: (&'static str, usize),
}

impl Queued {
    /// Waits for a turn until `patience` is over.
    async fn wait<T, E>(
        self,
        turn: impl Future<Output = Result<T, E>>,
        patience: Instant,
        cancel: &CancellationToken,
    ) -> Result<T, CallError> {
        tokio::select! {
            turn = turn => turn.map_err(|_| CallError::Cancelled),
            () = tokio::time::sleep_until(patience) => Err(busy(self.why.0, self.why.1)),
            () = cancel.cancelled() => Err(CallError::Cancelled),
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.queued = state.queued.saturating_sub(1);
        state.change(&self.tenant, |of| {
            of.queued = of.queued.saturating_sub(1);
            of.line.retain(|line| !line.turn.is_closed());
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PermitKind {
    Running,
    Waiting,
}

/// One place; given to the next one when dropped.
#[derive(Debug)]
struct InstancePermit {
    admission: Admission,
    tenant: TenantId,
    kind: PermitKind,
    given_back: bool,
}

impl InstancePermit {
    /// Frees the place without giving it to a queued call.
    fn give_back(mut self) {
        self.free();
    }

    fn free(&mut self) {
        if std::mem::replace(&mut self.given_back, true) {
            return;
        }
        let mut state = self.admission.state();
        let less = |count: &mut usize| *count = count.saturating_sub(1);
        match self.kind {
            PermitKind::Running => less(&mut state.running),
            PermitKind::Waiting => less(&mut state.waiting),
        }
        state.change(&self.tenant, |of| match self.kind {
            PermitKind::Running => less(&mut of.running),
            PermitKind::Waiting => less(&mut of.waiting),
        });
    }
}

impl Drop for InstancePermit {
    fn drop(&mut self) {
        if !self.given_back {
            self.free();
            self.admission.settle();
        }
    }
}

fn busy(what: &'static str, limit: usize) -> CallError {
    CallError::Busy { what, limit, retry_after: RETRY_AFTER }
}

/// The places of one call; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    admission: Admission,
    share: Arc<Share>,
    running: Mutex<Option<InstancePermit>>,
    /// Its place among the instances of its tool; none while it waits for nothing that the tool itself does.
    tool: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Slot {
    /// Whether the tenant computes so much that this call should not begin before its turn.
    pub fn is_crowded(&self) -> bool {
        self.admission.0.turns.is_crowded_by(&self.share.tenant)
    }

    /// Notes the processor time that the call has used.
    pub fn note_used(&self, time: Duration) {
        self.admission.0.turns.note_used(&self.share.tenant, time);
    }

    /// A turn to compute beyond a first slice, if one is free at once.
    pub fn try_turn(&self) -> Option<Turn> {
        self.admission.0.turns.try_take(&self.share.tenant)
    }

    /// A turn to compute beyond a first slice, once one is free.
    pub async fn turn(&self) -> Option<Turn> {
        self.admission.0.turns.wait(&self.share.tenant).await.ok()
    }

    fn set_running(&self, place: Option<InstancePermit>) {
        let before = std::mem::replace(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner), place);
        // Passes to the next call without holding the lock.
        drop(before);
    }

    /// The memory of the tenant.
    pub fn memory(&self) -> &Arc<Account> {
        &self.share.memory
    }
}

#[cfg(test)]
mod tests;
