//! Room for the workers of sessions: how many there may be, how many of one tenant's, and the memory that they take.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{RECORD_BYTES, Record, Sessions};
use crate::{
    memory::{Account, MemoryUse, NoMemory, Reservation},
    tenant::Principal,
};

/// Workers at once. Only a stream, a call or an answer that its client left unread keeps a session from being parked, so that these are twice the connections of a host.
const MAX_WORKERS: usize = 2_048;
/// A tenant has at most half of them.
const MAX_TENANT_WORKERS: usize = MAX_WORKERS / 2;
/// Above so many workers those that are idle are parked at the next request that needs one.
const MANY_WORKERS: usize = 256;
/// The memory of a worker, in bytes: its task, its channels and the engine's service, measured at 43 KiB a session.
const WORKER_BYTES: u64 = 48 << 10;

/// Why a session is not opened or not restored.
#[derive(Debug, thiserror::Error)]
pub(in crate::mcp) enum NoRoom {
    #[error("this host has no room for more sessions")]
    Host,
    #[error("the tenant has {0} sessions already")]
    Tenant(u64),
    #[error("you have {0} sessions already; end some with DELETE")]
    Principal(usize),
    #[error("{MAX_WORKERS} sessions of this host have streams or calls open")]
    Workers,
    #[error("{MAX_TENANT_WORKERS} sessions of the tenant have streams or calls open")]
    TenantWorkers,
    #[error("there is no memory for the session: {0}")]
    Memory(#[from] NoMemory),
}

/// Room for one worker.
#[derive(Debug)]
pub(super) struct WorkerPermit {
    _counted: OwnedSemaphorePermit,
    _memory: Reservation,
}

/// The room that is left.
#[derive(Debug)]
pub(super) struct Workers(Arc<Semaphore>);

impl Default for Workers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_WORKERS)))
    }
}

impl Sessions {
    /// Room for a worker of one of `principal`'s sessions. Where there are many, idle ones are parked first.
    pub(super) async fn worker(&self, principal: &Principal, account: &Arc<Account>) -> Result<WorkerPermit, NoRoom> {
        let memory = match account.reserve(MemoryUse::Messages, WORKER_BYTES) {
            Ok(memory) => memory,
            Err(_) => {
                let own = |record: &Record| record.principal.tenant == principal.tenant;
                self.park(|record| own(record) && record.may_park(Duration::ZERO)).await;
                account.reserve(MemoryUse::Messages, WORKER_BYTES)?
            }
        };
        let used = MAX_WORKERS.saturating_sub(self.permits.0.available_permits());
        if used >= MANY_WORKERS {
            self.park(|record| record.may_park(Duration::ZERO)).await;
        }
        if used >= MAX_TENANT_WORKERS && self.workers_of(principal) >= MAX_TENANT_WORKERS {
            // Now also those whose client left an answer unread.
            self.park(|record| record.principal.tenant == principal.tenant).await;
            if self.workers_of(principal) >= MAX_TENANT_WORKERS {
                return Err(NoRoom::TenantWorkers);
            }
        }
        let take = || Arc::clone(&self.permits.0).try_acquire_owned();
        let counted = match take() {
            Ok(counted) => counted,
            Err(_) => {
                self.park(|_| true).await;
                take().map_err(|_| NoRoom::Workers)?
            }
        };
        Ok(WorkerPermit { _counted: counted, _memory: memory })
    }

    fn workers_of(&self, principal: &Principal) -> usize {
        let own = |record: &&Record| record.worker.is_some() && record.principal.tenant == principal.tenant;
        self.records().values().filter(own).count()
    }

    /// Room for one more session of `principal`, of whose tenant there may be `of_tenant`.
    pub(super) async fn opening(
        &self,
        principal: &Principal,
        of_tenant: u64,
        account: &Arc<Account>,
    ) -> Result<(WorkerPermit, Reservation), NoRoom> {
        self.check_room(principal, of_tenant)?;
        let record = account.reserve(MemoryUse::Messages, RECORD_BYTES)?;
        Ok((self.worker(principal, account).await?, record))
    }

    /// Whether `principal`, of whose tenant there may be `of_tenant`, may open one more.
    pub(super) fn check_room(&self, principal: &Principal, of_tenant: u64) -> Result<(), NoRoom> {
        let records = self.records();
        if records.len() >= self.config.max {
            return Err(NoRoom::Host);
        }
        if u64::try_from(records.len()).unwrap_or(u64::MAX) >= of_tenant {
            let own = records.values().filter(|record| record.principal.tenant == principal.tenant).count();
            if u64::try_from(own).unwrap_or(u64::MAX) >= of_tenant {
                return Err(NoRoom::Tenant(of_tenant));
            }
        }
        // Counting is only needed where the principal could have reached its limit.
        if records.len() >= self.config.max_per_principal {
            let own = records.values().filter(|record| record.principal == *principal).count();
            if own >= self.config.max_per_principal {
                return Err(NoRoom::Principal(own));
            }
        }
        Ok(())
    }
}
