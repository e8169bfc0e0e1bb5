//! A call that gives its place among the running back for a while: because its instance waits, or because it waits for an instance.

use std::sync::{Arc, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{InstancePermit, PermitKind, Queued, QueuedCall, Slot, busy, number, of_tenant};
use crate::call::CallError;

impl Slot {
    /// Changes from running to waiting; none where the tenant, or the host for it, has no place among the waiting. The call then waits in its place among
    /// the running. It may have had effects, so the host never breaks it off for want of a place, and its tenant pays for the place that it keeps.
    pub fn park(&self) -> Option<ParkedCall<'_>> {
        let most = number(self.share.limits.waiting);
        {
            let mut state = self.admission.state();
            let own = of_tenant(&mut state.tenants, &self.share).waiting;
            if own >= most || !state.rule(self.admission.0.config.max_waiting).has_room(state.waiting, own) {
                return None;
            }
            let of = of_tenant(&mut state.tenants, &self.share);
            of.waiting = of.waiting.saturating_add(1);
            state.waiting = state.waiting.saturating_add(1);
        }
        let waiting = self.admission.place(&self.share.tenant, PermitKind::Waiting);
        self.set_running(None);
        Some(ParkedCall { slot: self, _held: ParkedPermit::Waiting(waiting) })
    }

    /// Gives its place among the instances of its tool to another call. Gives the places of the tool, for [`Slot::enter_tool`].
    pub fn leave_tool(&self) -> Option<Arc<Semaphore>> {
        let place = self.lock_tool().take()?;
        Some(Arc::clone(place.semaphore()))
    }

    /// Takes a place among the instances of its tool again, once one is free.
    pub async fn enter_tool(&self, places: Arc<Semaphore>) {
        // The places of a tool are never closed.
        let place = places.acquire_owned().await.ok();
        *self.lock_tool() = place;
    }

    fn lock_tool(&self) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.tool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes from running back to the queue, for a call that waits for an instance in use by another call. It must not keep its place meanwhile, because the
    /// other call may need that place to go on. The host refuses where too many queue; the call has not run then.
    pub fn queue(&self) -> Result<ParkedCall<'_>, CallError> {
        let (most, of_host) = (number(self.share.limits.queued), self.admission.0.config.max_queued);
        {
            let mut state = self.admission.state();
            if state.queued >= of_host {
                return Err(busy("calls queue", of_host));
            }
            let of = of_tenant(&mut state.tenants, &self.share);
            if of.queued >= most {
                return Err(busy("calls of this tenant queue", most));
            }
            of.queued = of.queued.saturating_add(1);
            state.queued = state.queued.saturating_add(1);
        }
        let why = ("calls of this tenant queue", most);
        let queued = Queued { admission: self.admission.clone(), tenant: self.share.tenant.clone(), why };
        self.set_running(None);
        Ok(ParkedCall { slot: self, _held: ParkedPermit::Queued(queued) })
    }
}

/// Place that a call holds instead of its place among the running.
#[derive(Debug)]
pub struct ParkedCall<'a> {
    slot: &'a Slot,
    _held: ParkedPermit,
}

#[derive(Debug)]
enum ParkedPermit {
    Waiting(#[expect(dead_code, reason = "given back when it is dropped")] InstancePermit),
    Queued(#[expect(dead_code, reason = "given back when it is dropped")] Queued),
}

impl ParkedCall<'_> {
    /// Changes back to running, once the host has room.
    pub async fn resume(self) {
        let (turn, mine) = oneshot::channel();
        let admission = &self.slot.admission;
        of_tenant(&mut admission.state().tenants, &self.slot.share).returning.push_back(QueuedCall { turn });
        admission.settle();
        if let Ok(place) = mine.await {
            self.slot.set_running(Some(place));
        }
    }
}
