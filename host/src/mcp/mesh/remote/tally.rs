//! Calls of a peer, counted for each tenant: a tenant must not learn how much others call.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    capability::mesh::handle::CallTally,
    names::TenantId,
    tenant::{Incarnation, Principal},
};

/// Tenants for which the calls of one peer are counted. Those of further ones are not measured. Only a tenant with a membership begins a call, and a host keeps 5,000 of those.
const MAX_TENANTS: usize = 256;

/// The tallies of one peer.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<HashMap<(TenantId, Incarnation), CallTally>>);

impl Tallies {
    fn lock(&self) -> MutexGuard<'_, HashMap<(TenantId, Incarnation), CallTally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts something; `is_there` says whether a tenant still exists, where room is needed.
    pub(super) fn count(
        &self,
        of: &Principal,
        is_there: impl Fn(&TenantId, &Incarnation) -> bool,
        count: impl FnOnce(&mut CallTally),
    ) {
        let key = (of.tenant.clone(), of.incarnation.clone());
        let mut tallies = self.lock();
        if tallies.len() >= MAX_TENANTS && !tallies.contains_key(&key) {
            tallies.retain(|(tenant, incarnation), _| is_there(tenant, incarnation));
            if tallies.len() >= MAX_TENANTS {
                return;
            }
        }
        count(tallies.entry(key).or_default());
    }

    /// What was counted for a tenant; none if nothing was.
    pub(super) fn of(&self, of: &Principal) -> Option<CallTally> {
        self.lock().get(&(of.tenant.clone(), of.incarnation.clone())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_for_each_tenant_apart() {
        let tallies = Tallies::default();
        let tenant =
            |n: usize| Principal { tenant: TenantId::new(&format!("t{n}")).expect("legal"), ..Principal::local_user() };
        let count = |n: usize, is_there: bool| {
            tallies.count(&tenant(n), |_, _| is_there, |tally| tally.requests += 1);
        };
        (0..MAX_TENANTS).for_each(|n| count(n, true));
        count(0, true);
        assert_eq!(tallies.of(&tenant(0)).map(|tally| tally.requests), Some(2));
        assert_eq!(tallies.of(&tenant(1)).map(|tally| tally.requests), Some(1));
        count(MAX_TENANTS, true);
        assert_eq!(tallies.of(&tenant(MAX_TENANTS)), None, "one too many is not measured");
        let again = Principal { incarnation: Some("again".to_owned()).into(), ..tenant(0) };
        assert_eq!(tallies.of(&again), None, "another tenant of the same name");
        count(MAX_TENANTS, false);
        assert_eq!((tallies.of(&tenant(MAX_TENANTS)).is_some(), tallies.of(&tenant(0))), (true, None));
    }
}
