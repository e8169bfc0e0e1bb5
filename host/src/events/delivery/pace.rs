//! The turns of a tenant's workers to look for deliveries: one at a time, and each look is followed by a rest in proportion to the processor time that it took.
//!
//! So all looks of a tenant together use a fifth of one processor at the most, however many spaces and groups of events it has. The time in which the system lets others run does not
//! count: on a busy machine a look that does little is followed by a short rest.
//!
//! The processor time of the looks counts with that of the tenant's guests. A tenant whose guests and looks delay others looks in its own line of turns.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

use crate::{events::Deliver, names::TenantId, threads::Metered};

/// A look is followed by a rest of so many times its length.
const REST: u32 = 4;
/// Shorter rests add up to one that is worth a timer.
const LEAST_REST: Duration = Duration::from_millis(1);

/// The turns of one tenant. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct TenantLooks {
    rests_until: Arc<Mutex<Instant>>,
    tenant: TenantId,
    deliver: Arc<dyn Deliver>,
}

impl TenantLooks {
    pub(super) fn new(tenant: TenantId, deliver: Arc<dyn Deliver>) -> Self {
        Self { rests_until: Arc::new(Mutex::new(Instant::now())), tenant, deliver }
    }

    /// Looks when it is the tenant's turn, which rests then.
    pub(super) async fn look<T>(&self, look: impl Future<Output = T>) -> T {
        let rests_until = Arc::clone(&self.rests_until).lock_owned().await;
        if rests_until.saturating_duration_since(Instant::now()) >= LEAST_REST {
            tokio::time::sleep_until(*rests_until).await;
        }
        let _until_it_is_dropped = self.deliver.turn(&self.tenant).await;
        let mut turn = LookTurn { looks: self, rests_until, look: Metered::new(look) };
        (&mut turn.look).await
    }

    /// Whether no worker has a clone of it.
    pub(super) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.rests_until) == 1
    }
}

/// A look in its turn. When it is dropped, the tenant rests.
struct LookTurn<'a, F: Future> {
    looks: &'a TenantLooks,
    rests_until: OwnedMutexGuard<Instant>,
    look: Metered<F>,
}

impl<F: Future> Drop for LookTurn<'_, F> {
    fn drop(&mut self) {
        let used = self.look.used();
        self.looks.deliver.note_used(&self.looks.tenant, used);
        *self.rests_until = (*self.rests_until).max(Instant::now()) + used.saturating_mul(REST);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::IdleHandlers, *};
    use crate::threads::thread_time;

    fn looks() -> (TenantLooks, Arc<IdleHandlers>) {
        let handlers = Arc::new(IdleHandlers::default());
        (TenantLooks::new(TenantId::local(), Arc::clone(&handlers) as _), handlers)
    }

    /// Computes for so long.
    fn compute(time: Duration) {
        let began = thread_time();
        while thread_time().saturating_sub(began) < time {}
    }

    #[tokio::test]
    async fn the_looks_of_a_tenant_together_take_a_fifth_of_the_time() {
        let (looks, began) = (looks().0, Instant::now());
        let look = async |looks: TenantLooks| {
            for _ in 0..5 {
                let work = async {
                    compute(Duration::from_millis(2));
                    tokio::task::yield_now().await;
                    compute(Duration::from_millis(2));
                };
                looks.look(work).await;
            }
        };
        futures::join!(look(looks.clone()), look(looks.clone()));
        // Ten looks, and nine rests between them.
        assert!(began.elapsed() >= Duration::from_millis(10 * 4 + 9 * 16), "{:?}", began.elapsed());
        assert!(looks.is_unused());
    }

    #[tokio::test]
    async fn looks_count_with_the_tenants_guests_and_stand_in_its_line() {
        const LONG: Duration = Duration::from_millis(5);
        let (looks, handlers) = looks();
        looks.look(async { compute(LONG) }).await;
        let used = *handlers.used.lock().expect("no panic");
        assert!(used >= LONG, "{used:?}");
        let crowded = handlers.line.lock().await;
        let look = looks.look(std::future::ready(()));
        tokio::pin!(look);
        let early = tokio::time::timeout(LONG * REST * 2, &mut look).await;
        assert!(early.is_err(), "it waits for its turn");
        drop(crowded);
        look.await;
    }

    #[tokio::test]
    async fn a_look_that_waits_for_the_processor_is_followed_by_a_short_rest() {
        const LONG: Duration = Duration::from_millis(50);
        let looks = looks().0;
        looks.look(tokio::time::sleep(LONG)).await;
        let rests = looks.rests_until.lock().await.saturating_duration_since(Instant::now());
        assert!(rests < LONG / 2, "{rests:?}");
    }
}
