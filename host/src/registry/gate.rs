//! The gate of a revision: open while it serves, closed while its component's data is migrated, when those inside have left.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

/// Whether calls may enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Calls inside end; calls that they make themselves may still come in, or the calls inside would never end.
    Draining,
    Closed,
}

/// The gate of one revision.
#[derive(Debug)]
pub struct Gate(watch::Sender<(Phase, usize)>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new((Phase::Open, 0)))
    }
}

/// Being inside a gate.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

impl Gate {
    /// Goes in; none if the gate is closed. `nested` says that a tool makes the call.
    pub fn enter(self: &Arc<Self>, nested: bool) -> Option<Pass> {
        let mut entered = false;
        self.0.send_if_modified(|(phase, inside)| {
            entered = *phase == Phase::Open || (*phase == Phase::Draining && nested);
            if entered {
                *inside = inside.saturating_add(1);
            }
            // No task waits for an entry.
            false
        });
        entered.then(|| Pass(Arc::clone(self)))
    }

    /// Resolves when the gate is open.
    pub async fn opened(&self) {
        // The sender is in `self`, so it is there as long as this runs.
        let mut seen = self.0.subscribe();
        let _sender_lives = seen.wait_for(|(phase, _)| *phase == Phase::Open).await;
    }

    /// Lets nobody in any more and waits until all have left; whether they have within `patience`. If not, the gate is open again.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.0.send_modify(|(phase, _)| *phase = Phase::Draining);
        let mut seen = self.0.subscribe();
        // The result of the wait holds a lock on the state: it must be gone before the state changes.
        let empty = tokio::time::timeout(patience, seen.wait_for(|(_, inside)| *inside == 0)).await.is_ok();
        let mut drained = false;
        if empty {
            self.0.send_modify(|(phase, inside)| {
                drained = *inside == 0;
                *phase = if drained { Phase::Closed } else { Phase::Open };
            });
        }
        if !drained {
            self.open();
        }
        drained
    }

    /// Lets calls in again.
    pub fn open(&self) {
        self.0.send_modify(|(phase, _)| *phase = Phase::Open);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|(phase, inside)| {
            *inside = inside.saturating_sub(1);
            // While it is open nobody waits for those inside to leave.
            *phase != Phase::Open
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_waits_for_those_inside_and_lets_in_whom_they_call() {
        let gate = Arc::new(Gate::default());
        let outer = gate.enter(false).expect("open");
        let draining = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.drain(Duration::from_secs(10)).await }
        });
        while gate.enter(false).is_some() {
            tokio::task::yield_now().await;
        }
        let inner = gate.enter(true).expect("a nested call");
        drop(outer);
        drop(inner);
        assert!(draining.await.expect("no panic"));
        assert!(gate.enter(true).is_none() && gate.enter(false).is_none());
        gate.open();
        gate.opened().await;
        assert!(gate.enter(false).is_some());
    }

    #[tokio::test]
    async fn a_gate_that_does_not_empty_opens_again() {
        let gate = Arc::new(Gate::default());
        let _inside = gate.enter(false).expect("open");
        assert!(!gate.drain(Duration::from_millis(20)).await);
        assert!(gate.enter(false).is_some());
    }
}
