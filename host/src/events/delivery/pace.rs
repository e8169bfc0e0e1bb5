//! The turns of a tenant's workers to look for deliveries: one at a time, and each look is followed by a rest in proportion to its length.
//!
//! So all looks of a tenant together use a fifth of one processor at the most, however many spaces and groups of events it has.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

/// A look is followed by a rest of so many times its length.
const REST: u32 = 4;
/// The longest rest after one look: on a busy machine a look may take long that does little.
const MAX_REST: Duration = Duration::from_millis(100);
/// Shorter rests add up to one that is worth a timer.
const LEAST_REST: Duration = Duration::from_millis(1);

/// The turns of one tenant. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct TenantLooks(Arc<Mutex<Instant>>);

/// A look in its turn. When it is dropped, the tenant rests.
#[derive(Debug)]
pub(super) struct LookTurn {
    rests_until: OwnedMutexGuard<Instant>,
    began: Instant,
}

impl Default for TenantLooks {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl TenantLooks {
    /// Waits for a turn.
    pub(super) async fn turn(&self) -> LookTurn {
        let rests_until = Arc::clone(&self.0).lock_owned().await;
        if rests_until.saturating_duration_since(Instant::now()) >= LEAST_REST {
            tokio::time::sleep_until(*rests_until).await;
        }
        LookTurn { rests_until, began: Instant::now() }
    }

    /// Whether no worker has a clone of it.
    pub(super) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Drop for LookTurn {
    fn drop(&mut self) {
        let now = Instant::now();
        let rest = now.saturating_duration_since(self.began).saturating_mul(REST).min(MAX_REST);
        *self.rests_until = (*self.rests_until).max(now) + rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_looks_of_a_tenant_together_take_a_fifth_of_the_time() {
        let (looks, began) = (TenantLooks::default(), Instant::now());
        let look = async |looks: TenantLooks| {
            for _ in 0..5 {
                let _turn = looks.turn().await;
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        };
        futures::join!(look(looks.clone()), look(looks.clone()));
        // Ten looks, and nine rests between them.
        assert!(began.elapsed() >= Duration::from_millis(10 * 4 + 9 * 16), "{:?}", began.elapsed());
        assert!(looks.is_unused());
        // A look that takes very long does not keep its tenant waiting for as much longer.
        let mut long = looks.turn().await;
        long.began -= Duration::from_secs(60);
        drop(long);
        let rests = looks.0.lock().await.saturating_duration_since(Instant::now());
        assert!(rests <= MAX_REST, "{rests:?}");
    }
}
