//! Kept results, read again: a client chooses how large they are and how often it asks.
//!
//! The host reads and parses a large one on the guests' threads, at their priority: one of a tenant at a time, and few in all. Its processor time counts with that of the
//! tenant's guests.

use std::sync::Arc;

use rmcp::model::CallToolResult;

use super::McpTasks;
use crate::{
    control::admission::{Admission, Share},
    engine::Engine,
    mcp::written::LARGE_RESULT_BYTES,
    memory::{MemoryUse, json_bytes},
    names::TenantId,
    store::StoreError,
    tasks::TaskId,
    threads::Metered,
};

/// Why a kept result cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    #[error("the kept result cannot be read")]
    Store(#[from] StoreError),
    #[error("the kept result is not as it was written")]
    Broken(#[from] serde_json::Error),
    /// It can be asked for again.
    #[error("there is no room for the kept result now")]
    NoMemory(#[from] std::io::Error),
    #[error("the tenant is gone, or the host stops")]
    Gone,
}

impl McpTasks {
    /// Reads the result of a task, which has `bytes` bytes of JSON, and makes of it what its reader needs.
    pub(super) async fn kept<T: Send + 'static>(
        &self,
        tenant: &TenantId,
        (id, bytes): (TaskId, u64),
        make: impl FnOnce(CallToolResult) -> T + Send + 'static,
    ) -> Result<T, KeptError> {
        let registry = self.registry.upgrade().ok_or(KeptError::Gone)?;
        let share = registry.share(tenant).ok_or(KeptError::Gone)?;
        let (store, of, account) = (self.store.clone(), tenant.clone(), Arc::clone(&share.memory));
        let read = async move {
            let json = store.result(&of, id).await?;
            let takes = std::str::from_utf8(&json).map_or(0, json_bytes);
            let _as_values = account.reserve(MemoryUse::Messages, takes).map_err(std::io::Error::other)?;
            Ok(make(serde_json::from_slice(&json)?))
        };
        if bytes <= LARGE_RESULT_BYTES {
            return read.await;
        }
        apart(registry.engine(), registry.admission(), &share, read).await.ok_or(KeptError::Gone)?
    }
}

/// Reads on the guests' threads when it is the tenant's turn; nothing if the host stops.
async fn apart<T: Send + 'static>(
    engine: &Engine,
    admission: &Admission,
    share: &Share,
    read: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    // Those who wait for these take no thread. Neither is ever closed.
    let _own = share.door.writers.acquire().await;
    let any = engine.works().acquire_owned().await;
    let reading = engine.spawn(async move {
        let (_until_it_is_read, mut read) = (any, Metered::new(read));
        ((&mut read).await, read.used())
    });
    let (read, used) = reading.await.ok()?;
    admission.note_used(&share.tenant, used);
    Some(read)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use super::*;
    use crate::{
        engine::EngineConfig,
        limits::TenantLimits,
        threads::{processors, thread_time},
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_large_kept_result_is_read_on_the_guests_threads_one_of_a_tenant_at_a_time_and_counts_with_its_guests() {
        let config = EngineConfig { max_running: 1, max_waiting: 0, guest_threads: 2, ..EngineConfig::default() };
        let (engine, admission) = (Engine::new(&config).expect("an engine"), Admission::new(&config));
        let share = Share::alone(TenantLimits::default());
        let other = TenantId::new("other").expect("legal");
        let both_are_here = || [&share.tenant, &other].map(|tenant| admission.note(tenant));
        // More than a quarter of the processors' time in a tenth of a second.
        let long = Duration::from_millis(30).saturating_mul(u32::try_from(processors()).expect("few"));
        let (at_once, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let read = || {
            let (at_once, most) = (Arc::clone(&at_once), Arc::clone(&most));
            async move {
                most.fetch_max(at_once.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let began = thread_time();
                while thread_time().saturating_sub(began) < long {}
                tokio::task::yield_now().await;
                at_once.fetch_sub(1, Ordering::Relaxed);
                std::thread::current().name().map(str::to_owned)
            }
        };
        both_are_here();
        assert!(admission.turn_if_crowded(&share.tenant).await.is_none());
        let (one, two) =
            tokio::join!(apart(&engine, &admission, &share, read()), apart(&engine, &admission, &share, read()));
        let on_a_guests = Some(Some("mcpp-guest".to_owned()));
        assert_eq!((one, two, most.load(Ordering::Relaxed)), (on_a_guests.clone(), on_a_guests, 1));
        both_are_here();
        assert!(admission.turn_if_crowded(&share.tenant).await.is_some(), "it stands in its line from now on");
    }
}
