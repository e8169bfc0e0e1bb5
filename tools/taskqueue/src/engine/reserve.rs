//! The reserve: the last bytes of the store's quota, which new work may not use. So a queue that is full of work can still give it out, end it and remove it.

use mcpp_tool::store::{StoreError, Transaction, Usage};
use scheduling::reserve::reserve_bytes;

use super::QueueError;

/// How much of the quota a change may use, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All but the reserve: new tasks, new workers and cached values.
    Work,
    /// Also half of the reserve: claims, reports and results. The other half is for the ends of what was claimed.
    Results,
    /// Everything: ends without a result, signs of life, removals, and the queue's own upkeep.
    All,
}

impl Part {
    /// Bytes of a quota that the part leaves alone.
    fn kept_bytes(self, quota_bytes: u64) -> u64 {
        match self {
            Self::Work => reserve_bytes(quota_bytes),
            Self::Results => reserve_bytes(quota_bytes) / 2,
            Self::All => 0,
        }
    }

    fn is_beyond(self, usage: Usage) -> bool {
        usage.free_bytes() < self.kept_bytes(usage.quota_bytes)
    }
}

/// A change that finds no room in its part of the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// The part.
    pub part: Part,
    /// The space before the change.
    usage: Usage,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Usage { used_bytes, quota_bytes } = self.usage;
        write!(f, "the queue's store has {used_bytes} of {quota_bytes} bytes, and this does not fit")?;
        let kept_bytes = self.part.kept_bytes(quota_bytes);
        match self.part {
            Part::Work => {
                write!(f, " before the last {kept_bytes}, the reserve for claims, results and ends of tasks")?
            }
            Part::Results => {
                write!(f, " before the last {kept_bytes}, the reserve for ends of tasks without a result")?
            }
            Part::All => {}
        }
        f.write_str("; remove tasks with `queue_clear`, or have the operator raise `quota_bytes` of the queue's grant")
    }
}

/// Whether new work finds no room at all.
pub(super) fn is_full(t: &Transaction<'_>) -> Result<bool, StoreError> {
    Ok(Part::Work.is_beyond(t.usage()?))
}

/// Does `work` in a transaction, and refuses it where it makes the space larger than its part of the quota. Work that adds nothing is never refused.
///
/// After [`QueueError::Full`] the transaction must not be committed.
pub(crate) fn within<T>(
    t: &Transaction<'_>,
    part: Part,
    work: impl FnOnce() -> Result<T, QueueError>,
) -> Result<T, QueueError> {
    if part == Part::All {
        return work();
    }
    let before = t.usage()?;
    let full = || QueueError::Full(Shortage { part, usage: before });
    let done = work().and_then(|done| Ok((done, t.usage()?)));
    match done {
        Ok((_, after)) if after.used_bytes > before.used_bytes && part.is_beyond(after) => Err(full()),
        Ok((done, _)) => Ok(done),
        Err(QueueError::Store(StoreError::QuotaExceeded)) => Err(full()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
