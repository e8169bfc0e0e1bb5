//! Reasons for which the store refuses or fails an operation.

use std::{path::PathBuf, sync::Arc};

use super::{MAX_TRANSACTION_BYTES, MAX_TRANSACTION_WRITES};
use crate::names::TenantId;

/// Reason for which the store refused or failed an operation.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The space would outgrow its quota.
    #[error("the space would outgrow its quota of {limit} bytes")]
    QuotaExceeded {
        /// The quota.
        limit: u64,
    },
    /// The transaction writes too much.
    #[error("the transaction has more than {MAX_TRANSACTION_WRITES} writes or {MAX_TRANSACTION_BYTES} bytes of them")]
    TransactionTooLarge,
    /// The transaction was open for too long and is aborted.
    #[error("the transaction was open for too long")]
    TooLong,
    /// Entries that the transaction had read changed or were lost.
    #[error("the transaction conflicts with another one")]
    Conflict,
    /// The host does not know whether the transaction has committed.
    #[error("the store broke during the commit: the transaction has either committed or not")]
    OutcomeUnknown,
    /// The store cannot be read or written.
    #[error("the store is not available")]
    Unavailable(#[source] Arc<Unavailable>),
}

/// Reason for which the host cannot read or write the store. The host overwrote nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The disk does not read or write.
    #[error("cannot read or write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is not a store, or is damaged.
    #[error(
        "{path} is not a store of mcpp, or is damaged; it is left as it is. Move it away, or put a backup in its place"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The fault.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is of a newer version.
    #[error("{path} has store format {found}; this host writes {known}. It is left as it is: run the newer host")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that this host knows.
        known: u64,
    },
    /// Another process has the file.
    #[error("{path} is open in another process; is another host running with this data directory?")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The store has let go of the snapshot.
    #[error("the snapshot of {path} was held for too long")]
    Expired {
        /// The file.
        path: PathBuf,
    },
    /// The tenant was removed with all of its data.
    #[error("the tenant `{tenant}` was removed")]
    Removed {
        /// The tenant.
        tenant: TenantId,
    },
    /// The host is stopping, or the file failed in another call and the host opens it anew.
    #[error("{path} was closed after a failure")]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    /// Whether the tenant is gone, so that a repeat changes nothing.
    pub fn is_removed(&self) -> bool {
        matches!(self, Self::Unavailable(why) if matches!(**why, Unavailable::Removed { .. }))
    }
}

impl From<Unavailable> for StoreError {
    fn from(reason: Unavailable) -> Self {
        Self::Unavailable(Arc::new(reason))
    }
}
