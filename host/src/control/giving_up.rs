//! The end of a call that nobody waits for any more.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Time of a guest to put things in order after its caller has given up, if it has asked for it.
const ORDER_TIME: Duration = Duration::from_secs(1);

/// Whether a call's caller has given up, and when the guest is stopped for it.
#[derive(Debug)]
pub(super) struct GivingUp {
    pub(super) token: CancellationToken,
    /// Whether the guest puts things in order first.
    in_order: AtomicBool,
    /// Since when, as far as somebody has looked.
    since: OnceLock<Instant>,
}

impl GivingUp {
    /// What `token` tells.
    pub(super) fn new(token: CancellationToken) -> Self {
        Self { token, in_order: AtomicBool::new(false), since: OnceLock::new() }
    }

    /// The guest puts things in order first.
    pub(super) fn end_in_order(&self) {
        self.in_order.store(true, Ordering::Relaxed);
    }

    fn end(&self) -> Instant {
        let since = *self.since.get_or_init(Instant::now);
        if self.in_order.load(Ordering::Relaxed) { since + ORDER_TIME } else { since }
    }

    /// Whether the guest has to stop.
    pub(super) fn is_over(&self) -> bool {
        self.token.is_cancelled() && Instant::now() >= self.end()
    }

    /// Resolves when it has to.
    pub(super) async fn over(&self) {
        self.token.cancelled().await;
        if Instant::now() < self.end() {
            tokio::time::sleep_until(self.end()).await;
        }
    }
}
