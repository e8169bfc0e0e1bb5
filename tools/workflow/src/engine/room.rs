//! Room for what ends runs: a new run leaves the reserve of the store's quota alone, and signals and results half of it.

use mcpp_tool::store::{StoreError, Usage, View};
use scheduling::reserve::reserve_bytes;

use super::WorkflowError;

/// Refuses new work where the store, with all that this transaction has written, has no more room than the reserve. The caller lets the transaction go then.
///
/// # Errors
/// [`WorkflowError::Full`]; those of the store.
pub fn leave_reserve(t: &View<'_>) -> Result<(), WorkflowError> {
    leave(t, 1)
}

/// Refuses a signal or a result where there is no more room than half of the reserve: the other half is for the ends of steps and runs, and for what cancels and removes them.
///
/// # Errors
/// [`WorkflowError::Full`]; those of the store.
pub(super) fn leave_half(t: &View<'_>) -> Result<(), WorkflowError> {
    leave(t, 2)
}

fn leave(t: &View<'_>, part: u64) -> Result<(), WorkflowError> {
    let (usage, has_fitted) = match t.usage() {
        Ok(usage) => (usage, true),
        Err(StoreError::QuotaExceeded) => (t.usage()?, false),
        Err(error) => return Err(error.into()),
    };
    let Usage { quota_bytes, .. } = usage;
    let kept_bytes = reserve_bytes(quota_bytes).checked_div(part).unwrap_or_default();
    if has_fitted && usage.free_bytes() >= kept_bytes {
        return Ok(());
    }
    Err(WorkflowError::Full { quota_bytes, kept_bytes })
}

#[cfg(test)]
mod tests;
