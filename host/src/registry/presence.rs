//! Which tenants are there, and that nothing of one runs on when it is gone: another of its name is another tenant.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Registry, TenantCatalog};
use crate::{
    call::CallError,
    control::admission::Share,
    names::TenantId,
    tenant::{Incarnation, Principal},
};

impl Registry {
    /// Whether a principal's tenant is open, and the same one as when the principal was let in: not another of its name.
    pub fn admits(&self, principal: &Principal) -> bool {
        self.is_open(&principal.tenant, &principal.incarnation)
    }

    /// The share of a principal's tenant; none unless [`Registry::admits`] the principal.
    pub fn share_of(&self, principal: &Principal) -> Option<Arc<Share>> {
        self.open_tenant(&principal.tenant, &principal.incarnation).map(|tenant| tenant.share.load_full())
    }

    /// Whether this tenant is open, and not another of its name.
    pub fn is_open(&self, tenant: &TenantId, incarnation: &Incarnation) -> bool {
        self.open_tenant(tenant, incarnation).is_some()
    }

    fn open_tenant(&self, tenant: &TenantId, incarnation: &Incarnation) -> Option<Arc<TenantCatalog>> {
        self.tenant(tenant).filter(|tenant| tenant.incarnation == *incarnation)
    }

    /// Counts something that a principal does as a call of its tenant.
    ///
    /// # Errors
    /// [`CallError::TooMany`]; [`CallError::Cancelled`] if the tenant is gone.
    pub fn charge_call(&self, principal: &Principal) -> Result<(), CallError> {
        let tenant = self.open_tenant(&principal.tenant, &principal.incarnation);
        tenant.ok_or(CallError::Cancelled)?.rate.take("tenant")
    }

    /// Whether several tenants use the host.
    pub fn is_shared(&self) -> bool {
        self.0.tenants.load().len() > 1
    }

    /// Which of the tenants that ever had this name is open; none if none is.
    pub fn incarnation(&self, tenant: &TenantId) -> Option<Incarnation> {
        self.tenant(tenant).map(|tenant| tenant.incarnation.clone())
    }

    /// Stops what runs for a tenant that is removed; done once all of it has ended, or after `patience`.
    pub async fn stop_tenant(&self, tenant: &TenantId, gone: &CancellationToken, patience: Duration) {
        gone.cancel();
        self.drain_tenant(tenant, patience).await;
    }

    /// The token that stops all that runs for a tenant; none if the tenant is not open.
    pub fn gone(&self, tenant: &TenantId) -> Option<CancellationToken> {
        self.tenant(tenant).map(|tenant| tenant.gone.clone())
    }

    /// Waits until nothing of a tenant runs any more, or until `patience` is over.
    pub async fn drain_tenant(&self, tenant: &TenantId, patience: Duration) {
        let until = Instant::now() + patience;
        while self.0.admission.of(tenant) != (0, 0, 0) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
