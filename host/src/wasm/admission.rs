//! How many instances there may be, running and waiting, and how long a call queues for one: for the host, and for each tenant.
//!
//! A call holds a place among the running instances, or, while it waits for something, one among the waiting; never both and never none. So waiting calls
//! cannot starve running ones, a call that waits for a nested one leaves it room to run, and no queue is without a bound.
//!
//! Tenants share the places fairly: a freed place goes to the tenant that has the fewest, each has bounds of its own, and where there are several the last
//! quarter of the places is kept for those that have almost none.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    EngineConfig,
    limits::TenantLimits,
    turns::{Turn, Turns},
};
use crate::{
    call::CallError,
    memory::{Account, HostMemory, MemoryConfig},
    tenant::{TenantId, door::Door},
};

/// When a refused caller should try again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One tenant, as admission knows it.
#[derive(Debug)]
pub struct Share {
    /// The tenant.
    pub tenant: TenantId,
    /// Its bounds.
    pub limits: TenantLimits,
    /// What it has of the host's memory.
    pub memory: Arc<Account>,
    /// Its way in.
    pub door: Door,
}

impl Share {
    /// A tenant's share.
    pub fn new(tenant: TenantId, limits: TenantLimits, memory: Arc<Account>) -> Arc<Self> {
        Arc::new(Self { tenant, limits, memory, door: Door::default() })
    }

    /// A share of a host that has nothing else: for what is asked of a component outside of a host.
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
    state: Mutex<State>,
    turns: Turns,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    waiting: usize,
    queued: usize,
    /// Whether there are several tenants.
    shared: bool,
    /// Rises with every place that is given to somebody who queued.
    served: u64,
    tenants: HashMap<TenantId, Use>,
}

/// What one tenant has of the places.
#[derive(Debug, Default)]
struct Use {
    running: usize,
    waiting: usize,
    queued: usize,
    /// Instances that come back from waiting: they go first, as they hold what others may wait for.
    returning: VecDeque<Line>,
    line: VecDeque<Line>,
    /// When one of its line was served last.
    served: u64,
    limit: usize,
}

/// Somebody who queues.
#[derive(Debug)]
struct Line {
    turn: oneshot::Sender<Place>,
}

impl Use {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting == 0 && self.queued == 0 && self.returning.is_empty() && self.line.is_empty()
    }

    fn wants(&self) -> bool {
        !self.returning.is_empty() || (!self.line.is_empty() && self.running < self.limit)
    }
}

impl State {
    /// Whether one more instance of a tenant that has `own` may run, as far as the host is concerned.
    fn has_room(&self, config: &EngineConfig, own: usize) -> bool {
        let free = config.max_running.saturating_sub(self.running);
        let kept = if self.shared { config.max_running / 4 } else { 0 };
        let few = (config.max_running / 16).max(1);
        free > kept || (free > 0 && own < few)
    }

    fn tenant(&mut self, share: &Share) -> &mut Use {
        let entry = self.tenants.entry(share.tenant.clone()).or_default();
        entry.limit = number(share.limits.running);
        entry
    }

    fn forget_idle(&mut self, tenant: &TenantId) {
        if self.tenants.get(tenant).is_some_and(Use::is_idle) {
            self.tenants.remove(tenant);
        }
    }
}

fn number(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

impl Admission {
    /// Places as configured.
    pub fn new(config: &EngineConfig) -> Self {
        let queue_time = Duration::from_millis(config.queue_ms);
        let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let (config, state, turns) = (config.clone(), Mutex::default(), Turns::new(processors));
        Self(Arc::new(Places { config, queue_time, state, turns }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether several tenants share the places.
    pub fn set_shared(&self, shared: bool) {
        self.state().shared = shared;
    }

    /// Notes that somebody of a tenant is at the door; whether others use the host too.
    pub fn note(&self, tenant: &TenantId) -> bool {
        self.0.turns.note(tenant)
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

    /// A place among the running instances, at once or after queueing. `per_tool` limits the instances of one tool and never queues.
    pub async fn admit(
        &self,
        share: &Arc<Share>,
        per_tool: &Arc<Semaphore>,
        tool_limit: usize,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<Slot, CallError> {
        let tool =
            Arc::clone(per_tool).try_acquire_owned().map_err(|_| busy("instances of this tool run", tool_limit))?;
        let place = match self.try_run(share)? {
            Start::Now(place) => place,
            Start::Later(turn, queued) => {
                let patience = (Instant::now() + self.0.queue_time).min(deadline);
                tokio::select! {
                    place = turn => place.map_err(|_| CallError::Cancelled)?,
                    () = tokio::time::sleep_until(patience) => return Err(queued.refusal()),
                    () = cancel.cancelled() => return Err(CallError::Cancelled),
                }
            }
        };
        Ok(Slot { admission: self.clone(), share: Arc::clone(share), running: Mutex::new(Some(place)), _tool: tool })
    }

    fn try_run(&self, share: &Arc<Share>) -> Result<Start, CallError> {
        self.0.turns.note(&share.tenant);
        let (config, most) = (&self.0.config, number(share.limits.running));
        let mut state = self.state();
        let (own, own_queued, nobody_before) = {
            let of = state.tenant(share);
            (of.running, of.queued, of.line.is_empty() && of.returning.is_empty())
        };
        if nobody_before && own < most && state.has_room(config, own) {
            state.running = state.running.saturating_add(1);
            let of = state.tenant(share);
            of.running = of.running.saturating_add(1);
            return Ok(Start::Now(self.place(&share.tenant, Kind::Running)));
        }
        let refusal = if state.queued >= config.max_queued {
            Some(busy("calls queue", config.max_queued))
        } else if own_queued >= number(share.limits.queued) {
            Some(busy("calls of this tenant queue", number(share.limits.queued)))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            state.forget_idle(&share.tenant);
            return Err(refusal);
        }
        state.queued = state.queued.saturating_add(1);
        let (turn, mine) = oneshot::channel();
        let of = state.tenant(share);
        of.queued = of.queued.saturating_add(1);
        of.line.push_back(Line { turn });
        let why =
            if own >= most { ("instances of this tenant run", most) } else { ("instances run", config.max_running) };
        Ok(Start::Later(mine, Queued { admission: self.clone(), tenant: share.tenant.clone(), why }))
    }

    fn place(&self, tenant: &TenantId, kind: Kind) -> Place {
        Place { admission: self.clone(), tenant: tenant.clone(), kind, given_back: false }
    }

    /// Gives free places to those who queue.
    fn settle(&self) {
        loop {
            let mut state = self.state();
            let State { tenants, .. } = &*state;
            let fits = |of: &Use| of.wants() && state.has_room(&self.0.config, of.running);
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
            // Who has gone away gives the place back by dropping it; that is no reason to come here again from there.
            if let Err(refused) = line.turn.send(self.place(&tenant, Kind::Running)) {
                // Who queued has gone away. The loop goes on; giving the place back in the usual way would come here again from within.
                refused.give_back();
            }
        }
    }
}

enum Start {
    Now(Place),
    Later(oneshot::Receiver<Place>, Queued),
}

/// Being in the queue; over when dropped.
struct Queued {
    admission: Admission,
    tenant: TenantId,
    why: (&'static str, usize),
}

impl Queued {
    fn refusal(&self) -> CallError {
        busy(self.why.0, self.why.1)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.queued = state.queued.saturating_sub(1);
        if let Some(of) = state.tenants.get_mut(&self.tenant) {
            of.queued = of.queued.saturating_sub(1);
            of.line.retain(|line| !line.turn.is_closed());
        }
        state.forget_idle(&self.tenant);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Running,
    Waiting,
}

/// One place; given to the next one when dropped.
#[derive(Debug)]
struct Place {
    admission: Admission,
    tenant: TenantId,
    kind: Kind,
    given_back: bool,
}

impl Place {
    /// Frees the place without giving it to anybody.
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
            Kind::Running => less(&mut state.running),
            Kind::Waiting => less(&mut state.waiting),
        }
        if let Some(of) = state.tenants.get_mut(&self.tenant) {
            match self.kind {
                Kind::Running => less(&mut of.running),
                Kind::Waiting => less(&mut of.waiting),
            }
        }
        state.forget_idle(&self.tenant);
    }
}

impl Drop for Place {
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
    running: Mutex<Option<Place>>,
    _tool: OwnedSemaphorePermit,
}

impl Slot {
    /// Whether the tenant computes so much that this call should not begin before it is its turn.
    pub fn is_crowded(&self) -> bool {
        self.admission.0.turns.is_crowded_by(&self.share.tenant)
    }

    /// Notes that the call has used so much processor time.
    pub fn note_used(&self, time: Duration) {
        self.admission.0.turns.note_used(&self.share.tenant, time);
    }

    /// A turn to compute beyond a first slice, if one is free at once.
    pub fn try_turn(&self) -> Option<Turn> {
        self.admission.0.turns.try_take(&self.share.tenant)
    }

    /// A turn to compute beyond a first slice, when there is one.
    pub async fn turn(&self) -> Option<Turn> {
        self.admission.0.turns.wait(&self.share.tenant).await.ok()
    }

    fn set_running(&self, place: Option<Place>) {
        let before = std::mem::replace(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner), place);
        // Given to the next one without holding the lock.
        drop(before);
    }

    /// Changes from running to waiting; refused where too many wait already.
    pub fn park(&self) -> Result<Parked<'_>, CallError> {
        let most = number(self.share.limits.waiting);
        let all = self.admission.0.config.max_waiting;
        {
            let mut state = self.admission.state();
            if state.waiting >= all {
                return Err(busy("instances wait", all));
            }
            let of = state.tenant(&self.share);
            if of.waiting >= most {
                return Err(busy("instances of this tenant wait", most));
            }
            of.waiting = of.waiting.saturating_add(1);
            state.waiting = state.waiting.saturating_add(1);
        }
        let waiting = self.admission.place(&self.share.tenant, Kind::Waiting);
        self.set_running(None);
        Ok(Parked { slot: self, _waiting: waiting })
    }
}

/// A place among the waiting.
#[derive(Debug)]
pub struct Parked<'a> {
    slot: &'a Slot,
    _waiting: Place,
}

impl Parked<'_> {
    /// Changes back from waiting to running, when there is room.
    pub async fn resume(self) {
        let (turn, mine) = oneshot::channel();
        let admission = &self.slot.admission;
        admission.state().tenant(&self.slot.share).returning.push_back(Line { turn });
        admission.settle();
        if let Ok(place) = mine.await {
            self.slot.set_running(Some(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(max_running: usize, max_waiting: usize, max_queued: usize) -> EngineConfig {
        EngineConfig { max_running, max_waiting, max_queued, queue_ms: 50, guest_threads: 1, ..EngineConfig::default() }
    }

    fn share(tenant: &str) -> Arc<Share> {
        let memory = HostMemory::new(&MemoryConfig::default()).account(TenantLimits::default().memory());
        Share::new(TenantId::new(tenant).expect("legal"), TenantLimits::default(), memory)
    }

    fn tool(most: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(most))
    }

    async fn admit(admission: &Admission, share: &Arc<Share>, tool: &Arc<Semaphore>) -> Result<Slot, CallError> {
        admission.admit(share, tool, 9, Instant::now() + Duration::from_secs(5), &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn a_waiting_call_makes_room_and_comes_back() {
        let admission = Admission::new(&config(1, 1, 1));
        let (me, tool) = (share("me"), tool(9));
        let outer = admit(&admission, &me, &tool).await.expect("room");
        assert!(matches!(admit(&admission, &me, &tool).await, Err(CallError::Busy { what: "instances run", .. })));
        let parked = outer.park().expect("room to wait");
        let inner = admit(&admission, &me, &tool).await.expect("the nested call runs");
        assert!(matches!(inner.park(), Err(CallError::Busy { what: "instances wait", .. })));
        assert_eq!((admission.running(), admission.waiting()), (1, 1));
        drop(inner);
        parked.resume().await;
        assert_eq!((admission.running(), admission.waiting()), (1, 0));
        drop(outer);
        assert_eq!((admission.running(), admission.queued()), (0, 0));
        assert!(admission.state().tenants.is_empty(), "an idle tenant is forgotten");
    }

    #[tokio::test]
    async fn the_queue_has_a_bound() {
        let admission = Admission::new(&config(1, 0, 1));
        let (me, tool) = (share("me"), tool(9));
        let _running = admit(&admission, &me, &tool).await.expect("room");
        let (first, second) = tokio::join!(admit(&admission, &me, &tool), admit(&admission, &me, &tool));
        assert!(matches!(first, Err(CallError::Busy { what: "instances run", .. })), "{first:?}");
        assert!(matches!(second, Err(CallError::Busy { what: "calls queue", .. })), "{second:?}");
        assert_eq!(admission.queued(), 0);
    }

    #[tokio::test]
    async fn one_tool_cannot_take_all_places() {
        let admission = Admission::new(&config(4, 0, 4));
        let (me, tool) = (share("me"), tool(1));
        let _first = admit(&admission, &me, &tool).await.expect("room");
        assert!(matches!(
            admit(&admission, &me, &tool).await,
            Err(CallError::Busy { what: "instances of this tool run", .. })
        ));
    }

    #[tokio::test]
    async fn one_tenant_cannot_take_all_places() {
        let admission = Admission::new(&config(8, 0, 8));
        let (greedy, modest, tool) = (share("greedy"), share("modest"), tool(99));
        admission.set_shared(true);
        let mut held = Vec::new();
        while let Ok(slot) = admit(&admission, &greedy, &tool).await {
            held.push(slot);
        }
        assert_eq!(held.len(), 6, "a quarter is kept for others");
        let _own = admit(&admission, &modest, &tool).await.expect("room for who has none");
    }

    #[tokio::test]
    async fn a_tenants_own_bounds_hold() {
        let limits = TenantLimits { running: 2, waiting: 1, queued: 1, ..TenantLimits::default() };
        let admission = Admission::new(&config(8, 8, 8));
        let (me, tool) = (Share::alone(limits), tool(99));
        let first = admit(&admission, &me, &tool).await.expect("room");
        let second = admit(&admission, &me, &tool).await.expect("room");
        let (third, fourth) = tokio::join!(admit(&admission, &me, &tool), admit(&admission, &me, &tool));
        let says = |result: Result<Slot, CallError>| result.expect_err("no room").to_string();
        assert!(says(third).starts_with("busy: 2 instances of this tenant run"));
        assert!(says(fourth).starts_with("busy: 1 calls of this tenant queue"));
        let _parked = first.park().expect("room to wait");
        let refused = second.park().expect_err("no room").to_string();
        assert!(refused.starts_with("busy: 1 instances of this tenant wait"), "{refused}");
    }

    #[tokio::test]
    async fn a_freed_place_goes_to_who_has_the_fewest() {
        let admission = Admission::new(&EngineConfig { queue_ms: 5_000, ..config(2, 0, 100) });
        let (greedy, modest, tool) = (share("greedy"), share("modest"), tool(99));
        let mut held = vec![admit(&admission, &greedy, &tool).await.expect("room")];
        held.push(admit(&admission, &greedy, &tool).await.expect("room"));
        let mut queued = Vec::new();
        for _ in 0..20 {
            let (admission, greedy, tool) = (admission.clone(), Arc::clone(&greedy), Arc::clone(&tool));
            queued.push(tokio::spawn(async move { admit(&admission, &greedy, &tool).await }));
        }
        let modest = {
            let (admission, tool) = (admission.clone(), Arc::clone(&tool));
            tokio::spawn(async move { admit(&admission, &modest, &tool).await })
        };
        while admission.queued() < 21 {
            tokio::task::yield_now().await;
        }
        // One place, and it is not given back: who came last gets it, as the tenant has nothing yet.
        let given = held.pop();
        drop(given);
        let modest = modest.await.expect("no panic").expect("the first free place");
        assert_eq!(admission.of(&modest.share.tenant).0, 1);
        drop((held, modest));
        for call in queued {
            drop(call.await.expect("no panic").expect("a place in the end"));
        }
        assert_eq!((admission.running(), admission.queued()), (0, 0));
        assert!(admission.state().tenants.is_empty());
    }

    #[tokio::test]
    async fn who_goes_away_leaves_no_trace() {
        let admission = Admission::new(&EngineConfig { queue_ms: 5_000, ..config(1, 1, 100) });
        let (me, tool) = (share("me"), tool(99));
        let slot = admit(&admission, &me, &tool).await.expect("room");
        for _ in 0..50 {
            let mut queueing = Box::pin(admit(&admission, &me, &tool));
            assert!(futures::poll!(&mut queueing).is_pending());
        }
        assert_eq!(admission.queued(), 0);
        // An instance that is stopped while it comes back gives back what it was just given.
        let parked = slot.park().expect("room to wait");
        let other = admit(&admission, &me, &tool).await.expect("room");
        let mut returning = Box::pin(parked.resume());
        assert!(futures::poll!(&mut returning).is_pending());
        drop(other);
        drop(returning);
        drop(slot);
        assert_eq!((admission.running(), admission.waiting(), admission.queued()), (0, 0, 0));
        assert!(admit(&admission, &me, &tool).await.is_ok());
    }
}
