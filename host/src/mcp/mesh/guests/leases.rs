//! Leases of services: what tenants have this host provide, and until when. They end by themselves, and with their tenant.

use std::{collections::BTreeMap, time::Instant};

use super::TenantKey;
use crate::{mesh::services::MAX_PROVIDED, names::ComponentName};

/// Services that one tenant has this host provide.
const MAX_OF_TENANT: usize = 4;

/// Whether a lease was the last one of its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Yes,
    No,
}

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leases(BTreeMap<(ComponentName, TenantKey), Instant>);

impl Leases {
    fn is_provided(&self, service: &ComponentName) -> bool {
        self.0.keys().any(|(provided, _)| provided == service)
    }

    /// Takes a lease until a time, if there is room.
    pub(super) fn take(&mut self, tenant: &TenantKey, service: &ComponentName, until: Instant) -> bool {
        let key = (service.clone(), tenant.clone());
        if !self.0.contains_key(&key) {
            let of_tenant = self.0.keys().filter(|(_, of)| of == tenant).count();
            let mut services: Vec<_> = self.0.keys().map(|(provided, _)| provided).collect();
            services.dedup();
            if of_tenant >= MAX_OF_TENANT || (services.len() >= MAX_PROVIDED && !self.is_provided(service)) {
                return false;
            }
        }
        self.0.insert(key, until);
        true
    }

    /// Ends a tenant's lease; none if there was none.
    pub(super) fn end(&mut self, tenant: &TenantKey, service: &ComponentName) -> Option<Last> {
        self.0.remove(&(service.clone(), tenant.clone()))?;
        Some(if self.is_provided(service) { Last::No } else { Last::Yes })
    }

    /// Ends what is over, or belongs to a tenant that is gone; the services that nobody leases any more.
    pub(super) fn end_late(&mut self, now: Instant, is_open: impl Fn(&TenantKey) -> bool) -> Vec<ComponentName> {
        let over: Vec<_> = self.0.extract_if(.., |(_, tenant), until| *until <= now || !is_open(tenant)).collect();
        let mut ended: Vec<_> = over.into_iter().map(|((service, _), _)| service).collect();
        ended.dedup();
        ended.retain(|service| !self.is_provided(service));
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{names::TenantId, tenant::Incarnation};

    #[test]
    fn leases_are_bounded_and_end_with_their_time_and_their_tenant() {
        let mut leases = Leases::default();
        let tenant = |name: &str| (TenantId::new(name).expect("legal"), Incarnation::default());
        let service = |name: String| ComponentName::new(&name).expect("legal");
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let taken = |leases: &mut Leases, of: &str, n: usize| {
            (0..n).filter(|n| leases.take(&tenant(of), &service(format!("{of}{n}")), later)).count()
        };
        assert_eq!(taken(&mut leases, "one", 9), MAX_OF_TENANT);
        assert_eq!((taken(&mut leases, "two", 9), taken(&mut leases, "three", 9)), (MAX_OF_TENANT, MAX_OF_TENANT));
        assert_eq!(taken(&mut leases, "four", 9), 0, "the host says no more");
        // Somebody else's service takes no more of the host's, and ends with its last lease.
        let shared = service("one0".to_owned());
        assert!(leases.take(&tenant("four"), &shared, later));
        assert_eq!(leases.end(&tenant("one"), &shared), Some(Last::No));
        assert_eq!(leases.end(&tenant("one"), &shared), None);
        assert_eq!(leases.end(&tenant("four"), &shared), Some(Last::Yes));
        assert!(leases.take(&tenant("four"), &shared, now));
        assert_eq!(leases.end_late(now, |_| true), [shared]);
        assert_eq!(leases.end_late(now, |tenant| tenant.0.as_str() != "two").len(), MAX_OF_TENANT);
        assert!(leases.end_late(now, |_| true).is_empty());
    }
}
