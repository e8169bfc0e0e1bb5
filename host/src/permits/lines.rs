//! Tenants' lines for a scarce resource. The next free unit goes to the tenant that has the fewest, and among those to the one that was served longest ago. A tenant's
//! requests are served in the order in which they came.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;

use crate::names::TenantId;

/// The units that each tenant has of a resource, and the requests that wait for more of them as a `T`.
#[derive(Debug)]
pub struct FairLines<T> {
    taken: usize,
    /// Rises whenever a tenant gets a unit.
    served: u64,
    tenants: BTreeMap<TenantId, TenantLine<T>>,
}

#[derive(Debug)]
struct TenantLine<T> {
    taken: usize,
    served: u64,
    waiting: VecDeque<oneshot::Sender<T>>,
}

impl<T> Default for FairLines<T> {
    fn default() -> Self {
        Self { taken: 0, served: 0, tenants: BTreeMap::new() }
    }
}

impl<T> Default for TenantLine<T> {
    fn default() -> Self {
        Self { taken: 0, served: 0, waiting: VecDeque::new() }
    }
}

impl<T> FairLines<T> {
    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// How many a tenant has.
    pub fn of(&self, tenant: &TenantId) -> usize {
        self.tenants.get(tenant).map_or(0, |line| line.taken)
    }

    /// Whether no tenant has any or waits.
    pub fn is_idle(&self) -> bool {
        self.tenants.is_empty() && self.taken == 0
    }

    /// Whether nobody waits.
    pub fn nobody_waits(&self) -> bool {
        self.tenants.values().all(|line| line.waiting.is_empty())
    }

    /// Stands in a tenant's line.
    pub fn wait(&mut self, tenant: &TenantId) -> oneshot::Receiver<T> {
        let (given, mine) = oneshot::channel();
        self.tenants.entry(tenant.clone()).or_default().waiting.push_back(given);
        mine
    }

    /// Takes the requests of a tenant that have gone away out of its line.
    pub fn leave(&mut self, tenant: &TenantId) {
        if let Some(line) = self.tenants.get_mut(tenant) {
            line.waiting.retain(|waiting| !waiting.is_closed());
        }
        self.forget_idle(tenant);
    }

    /// The request that is served next, for which one more is counted. Of a tenant that has as many as `fits` is told, none is.
    pub fn next(&mut self, fits: impl Fn(usize) -> bool) -> Option<(TenantId, oneshot::Sender<T>)> {
        let waits = self.tenants.iter().filter(|(_, line)| !line.waiting.is_empty() && fits(line.taken));
        let tenant = waits.min_by_key(|(_, line)| (line.taken, line.served)).map(|(tenant, _)| tenant.clone())?;
        let waiting = self.tenants.get_mut(&tenant)?.waiting.pop_front()?;
        self.give(&tenant);
        Some((tenant, waiting))
    }

    /// Counts one more for a tenant.
    pub fn give(&mut self, tenant: &TenantId) {
        self.taken = self.taken.saturating_add(1);
        self.served = self.served.wrapping_add(1);
        let line = self.tenants.entry(tenant.clone()).or_default();
        line.taken = line.taken.saturating_add(1);
        line.served = self.served;
    }

    /// Counts one less for a tenant.
    pub fn give_back(&mut self, tenant: &TenantId) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(line) = self.tenants.get_mut(tenant) {
            line.taken = line.taken.saturating_sub(1);
        }
        self.forget_idle(tenant);
    }

    fn forget_idle(&mut self, tenant: &TenantId) {
        if self.tenants.get(tenant).is_some_and(|line| line.taken == 0 && line.waiting.is_empty()) {
            self.tenants.remove(tenant);
        }
    }
}
