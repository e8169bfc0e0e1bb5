//! One tenant's way to its file: one opens or closes it at a time, and nobody opens the file of a tenant that was removed.

use std::sync::{
    Mutex, MutexGuard, PoisonError, TryLockError,
    atomic::{AtomicBool, Ordering},
};

/// The gate of one tenant.
#[derive(Debug, Default)]
pub(super) struct Gate {
    one_at_a_time: Mutex<()>,
    removed: AtomicBool,
}

impl Gate {
    /// Waits until nobody opens or closes the file.
    pub(super) fn enter(&self) -> MutexGuard<'_, ()> {
        self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Gate::enter`], unless it would have to wait. Who holds one gate never waits for another: two tenants may close each other's file.
    pub(super) fn try_enter(&self) -> Option<MutexGuard<'_, ()>> {
        match self.one_at_a_time.try_lock() {
            Ok(entered) => Some(entered),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Whether the tenant is gone.
    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Notes that the tenant is gone, or that there is one of its name again.
    pub(super) fn set_removed(&self, removed: bool) {
        self.removed.store(removed, Ordering::Release);
    }
}
