//! Room for what ends runs: a new run leaves the reserve of the store's quota alone.

use mcpp_tool::store::{StoreError, Usage, View};
use scheduling::reserve::reserve_bytes;

use super::WorkflowError;

/// Refuses new work where the store, with all that this transaction has written, has no more room than the reserve. The caller lets the transaction go then.
///
/// # Errors
/// [`WorkflowError::Full`]; those of the store.
pub fn leave_reserve(t: &View<'_>) -> Result<(), WorkflowError> {
    let (usage, has_fitted) = match t.usage() {
        Ok(usage) => (usage, true),
        Err(StoreError::QuotaExceeded) => (t.usage()?, false),
        Err(error) => return Err(error.into()),
    };
    let Usage { quota_bytes, .. } = usage;
    let kept_bytes = reserve_bytes(quota_bytes);
    if has_fitted && usage.free_bytes() >= kept_bytes {
        return Ok(());
    }
    Err(WorkflowError::Full { quota_bytes, kept_bytes })
}

#[cfg(test)]
mod tests;
