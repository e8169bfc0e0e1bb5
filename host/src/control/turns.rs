//! Turns to compute beyond a first slice.
//!
//! The host has as many turns as processors; one fewer (but at least one) while several tenants use it, so that a first slice soon finds a processor. A free
//! turn goes to the tenant with the fewest turns, and among equals to the one served longest ago: a tenant's long guests wait in its own line and not in
//! others'.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{names::TenantId, permits::lines::FairLines};

/// Time for which a tenant that called counts as one that uses the host.
const LATELY: Duration = Duration::from_secs(1);

/// Window over which the host measures how much a tenant computes.
const WINDOW: Duration = Duration::from_millis(100);

/// The turns of one host.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Mutex<TurnLines>>);

#[derive(Debug)]
struct TurnLines {
    processors: usize,
    /// The tenant that called last.
    latest: Option<TenantId>,
    /// Time until which several tenants use the host, as far as is known.
    shared_until: Option<Instant>,
    /// Start of the present window, and the processor time that tenants' calls have used in it and in the one before.
    window: Instant,
    used: BTreeMap<TenantId, Duration>,
    used_before: BTreeMap<TenantId, Duration>,
    turns: FairLines<Turn>,
}

/// One turn; dropping it passes it to the next.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    /// None once it is given back.
    tenant: Option<TenantId>,
}

impl Turns {
    /// Turns for a host with so many processors.
    pub fn new(processors: usize) -> Self {
        let (latest, shared_until, used, used_before, turns) = Default::default();
        let lines = TurnLines { processors, latest, shared_until, window: Instant::now(), used, used_before, turns };
        Self(Arc::new(Mutex::new(lines)))
    }

    fn lines(&self) -> MutexGuard<'_, TurnLines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a tenant calls; returns whether several use the host.
    pub fn note(&self, tenant: &TenantId) -> bool {
        let mut lines = self.lines();
        if lines.latest.as_ref() != Some(tenant) {
            let before = lines.latest.replace(tenant.clone());
            lines.shared_until = before.and_then(|_| Instant::now().checked_add(LATELY));
        }
        lines.is_shared()
    }

    /// Notes the processor time that a call of a tenant has used.
    pub fn note_used(&self, tenant: &TenantId, time: Duration) {
        let mut lines = self.lines();
        lines.turn_window();
        let used = lines.used.entry(tenant.clone()).or_default();
        *used = used.saturating_add(time);
    }

    /// Whether the tenant computes so much that it delays other tenants: more than a quarter of the processors.
    /// Its calls then stand in its line from their beginning.
    pub fn is_crowded_by(&self, tenant: &TenantId) -> bool {
        let mut lines = self.lines();
        if !lines.is_shared() {
            return false;
        }
        lines.turn_window();
        let used = |window: &BTreeMap<TenantId, Duration>| window.get(tenant).copied().unwrap_or_default();
        let most = WINDOW.saturating_mul(u32::try_from(lines.processors).unwrap_or(u32::MAX)) / 4;
        used(&lines.used).max(used(&lines.used_before)) > most
    }

    /// A turn, if one is free and no call waits.
    pub fn try_take(&self, tenant: &TenantId) -> Option<Turn> {
        let mut lines = self.lines();
        (lines.turns.nobody_waits() && lines.is_free()).then(|| {
            lines.turns.give(tenant);
            Turn { turns: self.clone(), tenant: Some(tenant.clone()) }
        })
    }

    /// Joins the tenant's line. Dropping the returned receiver leaves it.
    pub fn wait(&self, tenant: &TenantId) -> oneshot::Receiver<Turn> {
        let mine = self.lines().turns.wait(tenant);
        self.settle();
        mine
    }

    /// Gives free turns to waiting calls.
    fn settle(&self) {
        loop {
            let mut lines = self.lines();
            if !lines.is_free() {
                return;
            }
            let Some((tenant, waiting)) = lines.turns.next(|_| true) else { return };
            drop(lines);
            if let Err(mut refused) = waiting.send(Turn { turns: self.clone(), tenant: Some(tenant) }) {
                // The waiting call has gone away. The loop goes on; dropping the turn would come here again from within.
                refused.give_back();
            }
        }
    }
}

impl TurnLines {
    fn turn_window(&mut self) {
        let age = self.window.elapsed();
        if age >= WINDOW {
            let before = std::mem::take(&mut self.used);
            // Time older than a window does not count.
            self.used_before = if age < WINDOW.saturating_mul(2) { before } else { BTreeMap::new() };
            self.window = Instant::now();
        }
    }

    fn is_shared(&self) -> bool {
        self.shared_until.is_some_and(|until| Instant::now() < until)
    }

    fn is_free(&self) -> bool {
        let most = if self.is_shared() { self.processors.saturating_sub(1) } else { self.processors };
        self.turns.taken() < most.max(1)
    }
}

impl Turn {
    /// Frees the turn without giving it to a waiting call.
    fn give_back(&mut self) -> bool {
        let Some(tenant) = self.tenant.take() else { return false };
        self.turns.lines().turns.give_back(&tenant);
        true
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.give_back() {
            self.turns.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("legal")
    }

    #[test]
    fn a_turn_goes_to_the_tenant_that_has_the_fewest() {
        let turns = Turns::new(2);
        let (greedy, modest) = (tenant("greedy"), tenant("modest"));
        let first = turns.try_take(&greedy).expect("free");
        let second = turns.try_take(&greedy).expect("free");
        assert!(turns.try_take(&modest).is_none());
        let mut lines: Vec<_> = (0..3).map(|_| turns.wait(&greedy)).collect();
        let mut late = turns.wait(&modest);
        drop(first);
        let mine = late.try_recv().expect("modest has none, greedy has one");
        assert!(lines.iter_mut().all(|line| line.try_recv().is_err()));
        drop(lines.remove(0));
        drop((second, mine));
        let given: Vec<_> = lines.iter_mut().filter_map(|line| line.try_recv().ok()).collect();
        assert_eq!(given.len(), 2, "whoever left the line got none");
        drop(given);
        assert!(turns.lines().turns.is_idle(), "an idle tenant is forgotten");
    }

    #[test]
    fn tenants_that_share_leave_a_processor_free() {
        let (me, other) = (tenant("me"), tenant("other"));
        for (processors, alone, shared) in [(1, 1, 1), (2, 2, 1), (8, 8, 7)] {
            let turns = Turns::new(processors);
            let most = || std::iter::from_fn(|| turns.try_take(&me)).take(99).collect::<Vec<_>>().len();
            assert!((0..2).all(|_| !turns.note(&me)), "nobody else is there");
            assert_eq!(most(), alone);
            let quarter = WINDOW * u32::try_from(processors).expect("few") / 4;
            turns.note_used(&me, quarter + Duration::from_millis(1));
            turns.note_used(&other, quarter);
            assert!(!turns.is_crowded_by(&me), "nobody else is there");
            turns.note(&other);
            assert_eq!(most(), shared);
            turns.lines().window = Instant::now();
            assert!(turns.is_crowded_by(&me) && !turns.is_crowded_by(&other));
            turns.lines().window = Instant::now().checked_sub(WINDOW * 2).expect("a long time ago");
            assert!(!turns.is_crowded_by(&me), "that was long ago");
            turns.lines().shared_until = Some(Instant::now());
            turns.note(&other);
            assert_eq!(most(), alone, "the others have been gone for a while");
        }
    }
}
