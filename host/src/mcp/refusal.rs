//! What a request behind a door tells the door.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

/// Tells the door of a request that the host refused behind it, or of a call that the host had to stop. A refusal for lack of room also says when to try again, and whether the
/// caller calls too often.
#[derive(Debug, Clone, Default)]
pub(super) struct RefusalSignal(Arc<OnceLock<Option<(Duration, bool)>>>);

impl RefusalSignal {
    pub(super) fn raise(&self, retry: Option<(Duration, bool)>) {
        let _one_message_one_signal = self.0.set(retry);
    }

    pub(super) fn is_raised(&self) -> bool {
        self.0.get().is_some()
    }

    /// When to try again, and whether it was refused because the caller calls too often.
    pub(super) fn retry(&self) -> Option<(Duration, bool)> {
        self.0.get().copied().flatten()
    }
}
