//! One tenant's way to its file. One caller opens or closes the file at a time. The file of a removed tenant stays closed.

use std::sync::{
    Mutex, MutexGuard, PoisonError, TryLockError,
    atomic::{AtomicBool, Ordering},
};

/// The gate of one tenant.
#[derive(Debug, Default)]
pub(super) struct FileGate {
    one_at_a_time: Mutex<()>,
    removed: AtomicBool,
}

impl FileGate {
    /// Waits until no thread opens or closes the file.
    pub(super) fn enter(&self) -> MutexGuard<'_, ()> {
        self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`FileGate::enter`], unless it would have to wait. The holder of one gate never waits for another, because two tenants may close each other's file.
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

    /// Notes that the tenant is gone, or that a tenant of its name exists again.
    pub(super) fn set_removed(&self, removed: bool) {
        self.removed.store(removed, Ordering::Release);
    }
}
