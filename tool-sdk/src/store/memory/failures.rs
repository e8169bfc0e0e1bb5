//! Failures of the store in memory, for tests of what a tool does then.

use std::cell::Cell;

use crate::store::StoreError;

/// How a commit fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing of the transaction is stored, and the tool learns this error.
    Lost(StoreError),
    /// All of the transaction is stored, and the tool learns [`StoreError::OutcomeUnknown`].
    Unheard,
}

thread_local! {
    static NEXT: Cell<Option<(usize, Failure)>> = const { Cell::new(None) };
}

/// Makes one commit of this thread fail: that after `after` others.
///
/// ```
/// use mcpp_tool::store::{Map, StoreError, memory::{self, Failure}, snapshot, transact};
///
/// const SEEN: Map<u64, u64> = Map::new("seen");
///
/// memory::fail_commit(1, Failure::Lost(StoreError::Unavailable));
/// transact(|t| SEEN.set(t, &1, &1))?;
/// assert_eq!(transact(|t| SEEN.set(t, &2, &2)), Err(StoreError::Unavailable));
/// assert_eq!(SEEN.get(&snapshot()?, &2)?, None);
/// # Ok::<(), StoreError>(())
/// ```
pub fn fail_commit(after: usize, failure: Failure) {
    NEXT.set(Some((after, failure)));
}

/// Takes back what [`fail_commit`] ordered; whether a commit has failed since.
pub fn mend() -> bool {
    NEXT.take().is_none()
}

/// The failure of the commit that comes now.
pub(super) fn next() -> Option<Failure> {
    let (after, failure) = NEXT.take()?;
    match after.checked_sub(1) {
        Some(left) => {
            NEXT.set(Some((left, failure)));
            None
        }
        None => Some(failure),
    }
}
