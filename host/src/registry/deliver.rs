//! The host's own requests to a component's live revision: to handle an event or a timer, or to migrate its data.

use std::{any::Any, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};

use super::{
    Registry,
    catalog::{Revision, RevisionHandler},
    error::InstallError,
    tool::Powers,
};
use crate::{
    call::{CallError, Request, TraceContext},
    capability::{state::Running, store::MAX_MIGRATION_STEP},
    control::Control,
    events::{Deliver, DeliveryError, record::Delivery},
    guest::migration::MigrationStep,
    limits::Limits,
    names::{ComponentName, TenantId},
    store::{Space, Transaction},
    tenant::Principal,
};

/// Bytes of a handler's reason to fail that are kept and logged.
const MAX_REASON_BYTES: usize = 1 << 10;

impl Registry {
    /// Reins for work that the host has begun itself.
    pub(super) async fn control(
        &self,
        tenant: &TenantId,
        limits: Limits,
        places: &Arc<Semaphore>,
    ) -> Result<Arc<Control>, CallError> {
        let (Some(share), Some(gone)) = (self.share(tenant), self.gone(tenant)) else {
            return Err(CallError::Cancelled);
        };
        let cancel = gone.child_token();
        let deadline = Instant::now() + Duration::from_millis(limits.deadline_ms);
        let concurrency = usize::try_from(limits.concurrency).unwrap_or(usize::MAX);
        let slot = self.admission().admit(&share, places, concurrency, deadline, &cancel).await?;
        let control = Control::new(limits, deadline, cancel, slot);
        // No client waits for it: it runs on the guests' threads from its beginning, in its tenant's turn.
        control.note_slice();
        Ok(control)
    }

    pub(super) fn running_by_itself(
        &self,
        tenant: &TenantId,
        powers: &Powers,
        what: &str,
        cause: String,
    ) -> Box<Running> {
        let principal = Principal::system(tenant.clone(), &powers.component);
        self.running(powers, Request::of(principal), what.into(), Some(cause.into()))
    }

    async fn handle(
        &self,
        tenant: &TenantId,
        revision: &Revision,
        handler: &RevisionHandler,
        delivery: &Delivery,
    ) -> Result<(), DeliveryError> {
        let _permit = self.0.deliveries.take(tenant).await;
        let Some(_pass) = revision.powers.gate.enter(false) else { return Err(DeliveryError::Busy) };
        // It counts as a call of its tenant's.
        if self.tenant(tenant).is_none_or(|tenant| tenant.rate.take("tenant").is_err()) {
            return Err(DeliveryError::Busy);
        }
        let control = match self.control(tenant, revision.limits, &handler.places).await {
            Ok(control) => control,
            Err(error) if error.retry_after().is_some() => return Err(DeliveryError::Busy),
            Err(error) => return Err(DeliveryError::Failed(error.to_string())),
        };
        let mut running = self.running_by_itself(tenant, &revision.powers, "handler", delivery.as_cause());
        running.trace = TraceContext::from_traceparent(Some(&delivery.traceparent));
        running.chain = delivery.next_in_chain();
        let _counted = self.0.calls.token();
        match handler.handler.deliver(self.engine(), delivery, running, control).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(DeliveryError::Failed(shortened(reason))),
            Err(error) if error.retry_after().is_some() => Err(DeliveryError::Busy),
            Err(error) => Err(DeliveryError::Failed(error.to_string())),
        }
    }

    /// Counts work that a tenant's component does by itself as a call of the tenant's; waits until the tenant's rate has room for it.
    pub async fn count(&self, tenant: &TenantId) -> Result<(), InstallError> {
        loop {
            let Err(full) = self.tenant(tenant).ok_or(InstallError::Stopping)?.rate.take("tenant") else {
                return Ok(());
            };
            tokio::time::sleep(full.retry_after().unwrap_or_default()).await;
        }
    }

    /// Runs one step of a revision's migration.
    pub async fn migrate(
        &self,
        space: &Space,
        revision: &Revision,
        transaction: Box<dyn Transaction>,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<MigrationStep, InstallError> {
        let Some((migration, to)) = &revision.migration else {
            return Err(InstallError::Migration("it exports no migration".into()));
        };
        let deadline_ms = u64::try_from(MAX_MIGRATION_STEP.as_millis()).unwrap_or(u64::MAX);
        let limits = Limits { deadline_ms, ..revision.limits };
        let failed = |error: CallError| InstallError::Migration(error.to_string());
        let control = self.control(&space.tenant, limits, &Arc::new(Semaphore::new(1))).await.map_err(failed)?;
        let cause = format!("migration from {from} to {to}");
        let running = self.running_by_itself(&space.tenant, &revision.powers, "migration", cause);
        let step = migration.step(self.engine(), transaction, from, cursor, running, control).await.map_err(failed)?;
        step.map_err(InstallError::Migration)
    }
}

/// A handler may give as reason all that one call may hand over; an operator reads its beginning.
fn shortened(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}

impl Deliver for Registry {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> JoinHandle<()> {
        self.engine().spawn(work)
    }

    fn turn<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Box<dyn Any + Send>> {
        Box::pin(async move { Box::new(self.admission().turn_if_crowded(tenant).await) as Box<dyn Any + Send> })
    }

    fn note_used(&self, tenant: &TenantId, time: Duration) {
        self.admission().note_used(tenant, time);
    }

    fn has_handler(&self, tenant: &TenantId, component: &ComponentName) -> bool {
        self.catalog(tenant).component(component.as_str()).is_some_and(|revision| revision.handler.is_some())
    }

    fn deliver<'a>(
        &'a self,
        tenant: &'a TenantId,
        component: &'a ComponentName,
        delivery: &'a Delivery,
    ) -> BoxFuture<'a, Result<(), DeliveryError>> {
        Box::pin(async move {
            let Some(revision) = self.catalog(tenant).component(component.as_str()).cloned() else {
                return Err(DeliveryError::NoHandler);
            };
            let Some(handler) = &revision.handler else { return Err(DeliveryError::NoHandler) };
            self.handle(tenant, &revision, handler, delivery).await
        })
    }
}
