//! Spaces in which events or timers were written, from the writer of the store to the task that delivers them.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

use super::Space;

/// Spaces with newly written events or timers, for the delivery task.
#[derive(Debug, Default)]
pub struct Touched {
    spaces: Mutex<BTreeSet<Space>>,
    notify: Notify,
}

impl Touched {
    /// Notes a space.
    pub fn add(&self, space: Space) {
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner).insert(space);
        self.notify.notify_one();
    }

    /// Waits for spaces, and takes them all.
    pub async fn next(&self) -> BTreeSet<Space> {
        loop {
            let spaces = std::mem::take(&mut *self.spaces.lock().unwrap_or_else(PoisonError::into_inner));
            if !spaces.is_empty() {
                return spaces;
            }
            self.notify.notified().await;
        }
    }
}
