//! Permits of which there are only so many, shared fairly by tenants: outbound connections, look-ups of names, deliveries.
//!
//! While several tenants use the host, none may have more than half of the permits, and the last quarter is kept for those that have almost none. A tenant's requests
//! stand in its own line, in the order in which they came. A free permit goes to the tenant that has the fewest, and among those to the one that was served longest ago.

pub mod lines;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use self::lines::FairLines;
use crate::names::TenantId;

/// How many of a pool's permits one tenant may have, and which part of it is kept for tenants that have almost none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharingRule {
    /// Permits in all.
    pub most: usize,
    /// Whether several tenants use the host.
    pub shared: bool,
}

impl SharingRule {
    /// Whether a tenant that has `own` permits may have one more, while `taken` are taken in all.
    pub fn has_room(self, taken: usize, own: usize) -> bool {
        let free = self.most.saturating_sub(taken);
        let kept = if self.shared { self.most / 4 } else { 0 };
        let few = (self.most / 16).max(1);
        free > kept || (free > 0 && own < few)
    }

    /// The most permits of one tenant.
    fn of_one(self) -> usize {
        if self.shared { (self.most / 2).max(1) } else { self.most }
    }
}

/// A pool of permits. Clones share it.
#[derive(Debug, Clone)]
pub struct TenantPermits(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    most: usize,
    shared: AtomicBool,
    lines: Mutex<FairLines<TenantPermit>>,
}

/// One permit; the next one's when dropped.
#[derive(Debug)]
pub struct TenantPermit {
    pool: TenantPermits,
    /// None when it is given back.
    tenant: Option<TenantId>,
}

impl TenantPermits {
    /// A pool of so many permits.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Pool { most, shared: AtomicBool::new(false), lines: Mutex::default() }))
    }

    /// Whether several tenants share the permits.
    pub fn set_shared(&self, shared: bool) {
        self.0.shared.store(shared, Ordering::Relaxed);
        self.settle();
    }

    /// Permits that are taken, in all and by one tenant.
    pub fn taken(&self, tenant: &TenantId) -> (usize, usize) {
        let lines = self.lines();
        (lines.taken(), lines.of(tenant))
    }

    fn lines(&self) -> MutexGuard<'_, FairLines<TenantPermit>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rule(&self) -> SharingRule {
        SharingRule { most: self.0.most, shared: self.0.shared.load(Ordering::Relaxed) }
    }

    /// A permit, in the tenant's turn. A future that is dropped has left the line.
    pub async fn take(&self, tenant: &TenantId) -> TenantPermit {
        loop {
            let mine = self.lines().wait(tenant);
            self.settle();
            let mut leaving = LeaveLine { pool: self, tenant, served: false };
            // The sender is in the line until it is served, so this loop does not turn.
            if let Ok(permit) = mine.await {
                leaving.served = true;
                return permit;
            }
        }
    }

    /// Gives free permits to the requests that wait.
    fn settle(&self) {
        let rule = self.rule();
        loop {
            let mut lines = self.lines();
            let taken = lines.taken();
            let next = lines.next(|own| own < rule.of_one() && rule.has_room(taken, own));
            let Some((tenant, waiting)) = next else { return };
            drop(lines);
            if let Err(mut refused) = waiting.send(TenantPermit { pool: self.clone(), tenant: Some(tenant) }) {
                // The request has gone away. The loop goes on; dropping the permit would come here again from within.
                refused.give_back();
            }
        }
    }
}

/// Takes a request that goes away before it is served out of its line.
struct LeaveLine<'a> {
    pool: &'a TenantPermits,
    tenant: &'a TenantId,
    served: bool,
}

impl Drop for LeaveLine<'_> {
    fn drop(&mut self) {
        if !self.served {
            self.pool.lines().leave(self.tenant);
        }
    }
}

impl TenantPermit {
    /// Frees the permit without giving it to anybody; whether it was not free already.
    fn give_back(&mut self) -> bool {
        let Some(tenant) = self.tenant.take() else { return false };
        self.pool.lines().give_back(&tenant);
        true
    }
}

impl Drop for TenantPermit {
    fn drop(&mut self) {
        if self.give_back() {
            self.pool.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("legal")
    }

    /// Takes permits until one is not given at once.
    fn take_all(pool: &TenantPermits, tenant: &TenantId) -> Vec<TenantPermit> {
        std::iter::from_fn(|| pool.take(tenant).now_or_never()).collect()
    }

    #[tokio::test]
    async fn greedy_tenants_leave_a_quarter_to_those_that_have_almost_none() {
        let pool = TenantPermits::new(32);
        let alone = take_all(&pool, &tenant("one"));
        assert_eq!(alone.len(), 32, "a tenant that is alone may have all");
        drop(alone);
        pool.set_shared(true);
        let greedy: Vec<_> = ["one", "two", "three"].map(|name| take_all(&pool, &tenant(name))).into();
        let had: Vec<_> = greedy.iter().map(Vec::len).collect();
        assert_eq!(had, [16, 8, 2], "half for one, three quarters for the greedy, and few of the last quarter");
        assert_eq!(take_all(&pool, &tenant("modest")).len(), 2, "few are there at once");
        drop(greedy);
        assert!(pool.lines().is_idle(), "an idle tenant is forgotten");
    }

    #[tokio::test]
    async fn a_free_permit_goes_to_the_tenant_with_the_fewest_and_each_line_keeps_its_order() {
        let pool = TenantPermits::new(4);
        let (greedy, modest) = (tenant("greedy"), tenant("modest"));
        let mut had = take_all(&pool, &greedy);
        let mut lines: Vec<_> = (0..3).map(|_| Box::pin(pool.take(&greedy))).collect();
        assert!(lines.iter_mut().all(|line| line.now_or_never().is_none()));
        let mut late = Box::pin(pool.take(&modest));
        assert!(futures::poll!(&mut late).is_pending());
        drop(had.pop());
        let mine = late.now_or_never().expect("modest has none");
        // `now_or_never` dropped nothing: these futures are behind references and still stand in the line.
        drop(lines.remove(0));
        drop(had.pop());
        let second = lines.remove(0).now_or_never().expect("the first that is still there");
        assert!(lines.remove(0).now_or_never().is_none());
        assert_eq!((pool.taken(&greedy), pool.taken(&modest)), ((4, 3), (4, 1)));
        drop((had, mine, second));
        assert!(pool.lines().is_idle());
    }
}
