//! The turns of a tenant's workers to look for deliveries: one at a time, and each look is followed by a rest in proportion to the processor time that it took.
//!
//! So all looks of a tenant together use a fifth of one processor at the most, however many spaces and groups of events it has. The time in which the system lets others run does not
//! count: on a busy machine a look that does little is followed by a short rest.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

use crate::threads::thread_time;

/// A look is followed by a rest of so many times its length.
const REST: u32 = 4;
/// Shorter rests add up to one that is worth a timer.
const LEAST_REST: Duration = Duration::from_millis(1);

/// The turns of one tenant. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct TenantLooks(Arc<Mutex<Instant>>);

impl Default for TenantLooks {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl TenantLooks {
    /// Looks when it is the tenant's turn, which rests then.
    pub(super) async fn look<T>(&self, look: impl Future<Output = T>) -> T {
        let mut turn = LookTurn { rests_until: Arc::clone(&self.0).lock_owned().await, used: Duration::ZERO };
        if turn.rests_until.saturating_duration_since(Instant::now()) >= LEAST_REST {
            tokio::time::sleep_until(*turn.rests_until).await;
        }
        Measured { future: pin!(look), used: &mut turn.used }.await
    }

    /// Whether no worker has a clone of it.
    pub(super) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// A look in its turn. When it is dropped, the tenant rests.
#[derive(Debug)]
struct LookTurn {
    rests_until: OwnedMutexGuard<Instant>,
    /// Processor time that it has taken.
    used: Duration,
}

impl Drop for LookTurn {
    fn drop(&mut self) {
        *self.rests_until = (*self.rests_until).max(Instant::now()) + self.used.saturating_mul(REST);
    }
}

/// A future that counts the processor time of its polls.
struct Measured<'a, F> {
    future: Pin<&'a mut F>,
    used: &'a mut Duration,
}

impl<F: Future> Future for Measured<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = thread_time();
        let polled = self.future.as_mut().poll(context);
        *self.used += thread_time().saturating_sub(before);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes for so long.
    fn compute(time: Duration) {
        let began = thread_time();
        while thread_time().saturating_sub(began) < time {}
    }

    #[tokio::test]
    async fn the_looks_of_a_tenant_together_take_a_fifth_of_the_time() {
        let (looks, began) = (TenantLooks::default(), Instant::now());
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
    async fn a_look_that_waits_for_the_processor_is_followed_by_a_short_rest() {
        const LONG: Duration = Duration::from_millis(50);
        let looks = TenantLooks::default();
        looks.look(tokio::time::sleep(LONG)).await;
        let rests = looks.0.lock().await.saturating_duration_since(Instant::now());
        assert!(rests < LONG / 2, "{rests:?}");
    }
}
