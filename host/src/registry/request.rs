//! The way of a request to what a component serves, whatever kind it is of: it is counted, finds the live revision, passes its gate and waits for a place.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Registry, TenantCatalog,
    catalog::Catalog,
    gate::Pass,
    opening::EARLY_CALL_WAIT,
    rate::{Rate, Weight},
    tool::Powers,
};
use crate::{
    call::{Budget, CallError, Request},
    control::{Control, admission::Share},
    limits::Limits,
    names::TenantId,
};

/// A thing that a component serves, such as a tool: on whose powers, and under which limits.
#[derive(Debug)]
pub struct Service {
    /// The kind of thing, as errors name it.
    kind: &'static str,
    /// The powers of its revision.
    pub powers: Arc<Powers>,
    /// The limits of one request.
    pub limits: Limits,
    /// Its own places, besides the host's.
    places: Arc<Semaphore>,
    /// How often it is asked.
    rate: Rate,
    /// Whether its requests are long.
    pub weight: Weight,
}

impl Service {
    /// A thing of this kind.
    pub fn new(kind: &'static str, powers: Arc<Powers>, limits: Limits) -> Self {
        let places = usize::try_from(limits.concurrency).unwrap_or(Semaphore::MAX_PERMITS);
        let (places, rate) = (Arc::new(Semaphore::new(places)), Rate::new(limits.calls_per_minute));
        Self { kind, powers, limits, places, rate, weight: Weight::default() }
    }
}

/// When a request is over, and the bound that says so, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestDeadline {
    pub(super) at: Instant,
    pub(super) limit_ms: u64,
}

/// A request's right to what it found, in its tenant as it was then.
#[derive(Debug)]
pub(super) struct Ticket<S> {
    tenant: Arc<TenantCatalog>,
    share: Arc<Share>,
    /// What it found.
    pub(super) served: Arc<S>,
    _pass: Pass,
}

impl<S: AsRef<Service>> Ticket<S> {
    /// When a request that begins now is over.
    pub(super) fn deadline(&self, request: &Request) -> RequestDeadline {
        let (now, own_ms) = (Instant::now(), S::as_ref(&self.served).limits.deadline_ms);
        let own = RequestDeadline { at: now + Duration::from_millis(own_ms), limit_ms: own_ms };
        // A caller's own bound is the one that is named when it is over.
        request.deadline.filter(|callers| *callers < own.at).map_or(own, |at| {
            let left_ms = at.saturating_duration_since(now).as_millis();
            RequestDeadline { at, limit_ms: u64::try_from(left_ms).unwrap_or(own_ms) }
        })
    }

    /// Counts the request against the rate of what it asks.
    pub(super) fn count(&self) -> Result<(), CallError> {
        let Service { kind, rate, .. } = S::as_ref(&self.served);
        rate.take(kind)
    }
}

impl<S> Ticket<S> {
    /// The tenant.
    pub(super) fn tenant(&self) -> &TenantId {
        &self.share.tenant
    }

    /// The tenant's share of the host.
    pub(super) fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Runs to the end, and stops when the tenant is removed.
    pub(super) async fn while_tenant_is_there<T>(
        &self,
        cancel: &CancellationToken,
        mut run: Pin<&mut impl Future<Output = T>>,
    ) -> T {
        tokio::select! {
            biased;
            done = &mut run => done,
            () = self.tenant.gone.cancelled() => {
                cancel.cancel();
                run.await
            }
        }
    }
}

impl Registry {
    /// Finds what a request wants, and passes the gate of its revision; waits while the component's data is migrated. For a principal that may not use it, it is not there.
    pub(super) async fn enter<S: AsRef<Service>>(
        &self,
        request: &Request,
        may_use: bool,
        find: impl Fn(&Catalog) -> Option<Arc<S>>,
        unknown: impl Fn() -> CallError,
    ) -> Result<Ticket<S>, CallError> {
        let tenant = self.tenant(&request.principal.tenant).ok_or_else(&unknown)?;
        // A request for what is not there counts too.
        tenant.rate.take("tenant")?;
        if !may_use {
            return Err(unknown());
        }
        let until = |own: Instant| request.deadline.map_or(own, |callers| callers.min(own));
        let mut early = None;
        loop {
            let Some(served) = find(&tenant.catalog.load()) else {
                let early = *early.get_or_insert_with(|| until(Instant::now() + EARLY_CALL_WAIT));
                // Boxed as everything that few requests need.
                Box::pin(self.wait_for_more(&tenant, request, early, &find, &unknown)).await?;
                continue;
            };
            let Service { powers, limits, .. } = S::as_ref(&served);
            if let Some(pass) = powers.gate.enter(request.depth > 0) {
                let share = tenant.share.load_full();
                return Ok(Ticket { tenant, share, served, _pass: pass });
            }
            tokio::select! {
                () = powers.gate.opened() => {}
                () = request.cancel.cancelled() => return Err(CallError::Cancelled),
                () = tokio::time::sleep_until(until(Instant::now() + Duration::from_millis(limits.deadline_ms))) => {
                    return Err(CallError::BudgetExceeded { budget: Budget::Deadline, limit: limits.deadline_ms });
                }
            }
        }
    }

    /// Counts a request that asks nothing of a component against the rate of its tenant.
    pub fn count_request(&self, tenant: &TenantId) -> Result<(), CallError> {
        self.tenant(tenant).map_or(Ok(()), |tenant| tenant.rate.take("tenant"))
    }

    /// Waits for a place.
    pub(super) async fn admit<S: AsRef<Service>>(
        &self,
        ticket: &Ticket<S>,
        request: &Request,
        deadline: RequestDeadline,
    ) -> Result<Arc<Control>, CallError> {
        let Service { limits, places, .. } = S::as_ref(&ticket.served);
        let limits = Limits { deadline_ms: deadline.limit_ms, ..*limits };
        let concurrency = usize::try_from(limits.concurrency).unwrap_or(usize::MAX);
        let slot = self.0.admission.admit(&ticket.share, places, concurrency, deadline.at, &request.cancel).await?;
        Ok(Control::on_clock(limits, deadline.at, request.cancel.clone(), slot, request.client.clock()))
    }
}
