//! Events and timers. The transaction that causes one also writes it ([`outbox`]); the host delivers it after the commit ([`delivery`]).
//!
//! An event is written once for each component that is subscribed, into host sections of the emitter's space, so it commits or vanishes with its cause. A timer is one entry by
//! key and one by time. Deliveries are at least once, in order for each (subscriber, topic, key); one that fails again and again is parked ([`parked`]), where an operator sees it.

mod delivery;
pub mod outbox;
pub mod parked;
pub mod record;
pub mod subscriptions;

use std::{any::Any, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{record::Delivery, subscriptions::Subscriptions};
use crate::{
    names::{ComponentName, TenantId},
    store::Store,
};

/// Attempts to deliver before a delivery is parked.
pub const MAX_ATTEMPTS: u32 = 8;
/// The wait after the first failed attempt; doubled after each one more.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait between two attempts.
pub const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Why a delivery did not reach its handler, or the handler did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryError {
    /// The component is not loaded, or has no handler. This counts as no attempt.
    NoHandler,
    /// The host has no room now. This counts as no attempt either.
    Busy,
    /// The handler failed, with its reason.
    Failed(String),
}

/// Where deliveries go: the registry, as this module sees it.
pub trait Deliver: std::fmt::Debug + Send + Sync {
    /// Runs the host's own work for deliveries where it takes no time from doors.
    fn spawn(&self, work: BoxFuture<'static, ()>) -> JoinHandle<()>;

    /// Begins the host's own work for a tenant: at once, or in the tenant's line while it computes so much that it delays others. The work ends when the caller drops what it gets.
    fn turn<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Box<dyn Any + Send>>;

    /// Counts processor time of the host's own work for a tenant, as if the tenant's guests had used it.
    fn note_used(&self, tenant: &TenantId, time: Duration);

    /// Whether a component has a handler now.
    fn has_handler(&self, tenant: &TenantId, component: &ComponentName) -> bool;

    /// Runs a component's handler to its end.
    fn deliver<'a>(
        &'a self,
        tenant: &'a TenantId,
        component: &'a ComponentName,
        delivery: &'a Delivery,
    ) -> BoxFuture<'a, Result<(), DeliveryError>>;
}

/// Delivers events and timers of `tenants` that wait, and all that components write from now on, until `closing`. Handlers that run then may end until `stop`.
pub async fn start(
    store: Arc<dyn Store>,
    deliver: Arc<dyn Deliver>,
    subscriptions: Arc<Subscriptions>,
    tenants: &[TenantId],
    (closing, stop): (CancellationToken, CancellationToken),
) -> JoinHandle<()> {
    let mut pending = Vec::new();
    for tenant in tenants {
        // Reading the tenant's subscriptions has already reported damage of its data.
        pending.extend(store.spaces(tenant).await.unwrap_or_default());
    }
    let run = delivery::run(store, Arc::clone(&deliver), subscriptions, pending, (closing, stop));
    deliver.spawn(Box::pin(run))
}

/// How long to wait after this many failed attempts.
fn backoff(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    FIRST_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let ms: Vec<u128> = [1, 2, 3, 8, 12, 99].map(|attempts| backoff(attempts).as_millis()).into();
        assert_eq!(ms, [100, 200, 400, 12_800, 60_000, 60_000]);
    }
}
