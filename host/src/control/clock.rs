//! The deadline of a call whose client is asked meanwhile: it moves by the time for which the client's clock stood still.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::call::inputs::{CallClock, StoppedClock};

/// The clock, as a call sees it that began at some time on it.
#[derive(Debug)]
pub(super) struct RunClock {
    clock: Arc<CallClock>,
    /// Time for which it had stood still before the call.
    before: Duration,
}

impl RunClock {
    pub(super) fn new(clock: Arc<CallClock>) -> Self {
        let before = clock.stood_still();
        Self { clock, before }
    }

    pub(super) fn stop(&self) -> StoppedClock {
        self.clock.stop()
    }

    /// Where a deadline has moved to.
    pub(super) fn moved(&self, deadline: Instant) -> Instant {
        self.clock.moved(deadline, self.before)
    }
}

/// Resolves when a deadline is reached. No timer runs while the clock stands still.
pub(super) async fn reached(deadline: Instant, clock: Option<&RunClock>) {
    match clock {
        Some(clock) => clock.clock.reach(deadline, clock.before).await,
        None => tokio::time::sleep_until(deadline).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_moves_by_the_time_for_which_the_client_was_asked() {
        let shared = Arc::new(CallClock::default());
        drop(shared.stop());
        let (begun, clock) = (Instant::now(), RunClock::new(Arc::clone(&shared)));
        let asking = clock.stop();
        let end = tokio::spawn(async move {
            reached(begun + Duration::from_millis(20), Some(&clock)).await;
            begun.elapsed()
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!end.is_finished(), "it stands still");
        drop(asking);
        let took = end.await.expect("reached");
        assert!(took >= Duration::from_millis(120), "{took:?}");
    }
}
