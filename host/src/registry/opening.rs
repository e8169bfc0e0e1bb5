//! The time between the opening of a tenant, or of the host, and the end of its first look at everything: clients are served meanwhile with what there is.
//!
//! A call of a tool that may still come waits for it, for a bounded time and in a bounded number. A list waits a moment, as some clients never ask again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{Registry, TenantCatalog, catalog::Catalog};
use crate::{
    call::{CallError, Request},
    names::{TenantId, ToolName},
};

/// How long a call waits for a tool while everything of its tenant is loaded for the first time.
pub(super) const EARLY_CALL_WAIT: Duration = Duration::from_secs(30);
/// How long a list waits for it. Many clients list once and never again, and built-in tools that were never compiled take seconds.
const EARLY_LIST_WAIT: Duration = Duration::from_secs(10);
/// Calls of one tenant that may wait for a tool.
pub(super) const MAX_EARLY_CALLS: usize = 64;

impl Registry {
    /// Notes that everything of a tenant was looked at: a tool that is not there does not come by waiting.
    pub fn opened(&self, tenant: &TenantId) {
        if let Some(tenant) = self.tenant(tenant) {
            tenant.opened.send_replace(true);
            if let Some(pins) = tenant.pins.get() {
                pins.sweep();
            }
        }
    }

    /// Whether everything of a tenant was looked at; also if there is no such tenant.
    pub fn is_opened(&self, tenant: &TenantId) -> bool {
        self.tenant(tenant).is_none_or(|tenant| *tenant.opened.borrow())
    }

    /// Waits a moment for the tools of a tenant of which not everything was looked at.
    pub async fn settle(&self, tenant: &TenantId) {
        if let Some(tenant) = self.tenant(tenant) {
            let mut opened = tenant.opened.subscribe();
            let _or_not = tokio::time::timeout(EARLY_LIST_WAIT, opened.wait_for(|opened| *opened)).await;
        }
    }

    /// Waits a moment for a tool that may still be loaded. Where too many wait already it does not wait: the call is refused then.
    pub async fn meet(&self, tenant: &TenantId, tool: &ToolName) {
        let Some(tenant) = self.tenant(tenant) else { return };
        let (mut changed, mut opened) = (tenant.changed.subscribe(), tenant.opened.subscribe());
        let until = Instant::now() + EARLY_CALL_WAIT;
        let Ok(_permit) = tenant.early.try_acquire() else { return };
        while !*opened.borrow_and_update() && tenant.catalog.load().tool(tool).is_none() {
            tokio::select! {
                _ = changed.changed() => {}
                _ = opened.changed() => {}
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// Whether the host has loaded what it has to before it takes work.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    /// Notes that the host has.
    pub fn set_ready(&self) {
        self.0.ready.store(true, Ordering::Relaxed);
    }

    /// The host's notice to clients, besides its tools.
    pub fn notice(&self) -> Option<Arc<String>> {
        self.0.notice.load_full()
    }

    /// Tells clients something from now on, or nothing any more.
    pub fn set_notice(&self, notice: Option<String>) {
        self.0.notice.store(notice.map(Arc::new));
    }

    /// Waits for the next change of the catalog of a tenant of which not everything was looked at; of another's, what is not there is unknown.
    pub(super) async fn wait_for_more<S>(
        &self,
        tenant: &TenantCatalog,
        request: &Request,
        until: Instant,
        find: impl Fn(&Catalog) -> Option<Arc<S>>,
        unknown: impl Fn() -> CallError,
    ) -> Result<(), CallError> {
        let (mut changed, mut opened) = (tenant.changed.subscribe(), tenant.opened.subscribe());
        if *opened.borrow_and_update() {
            return Err(unknown());
        }
        let retry_after = Duration::from_secs(1);
        let Ok(_permit) = tenant.early.try_acquire() else {
            return Err(CallError::Busy {
                what: "calls wait for tools that are loaded",
                limit: MAX_EARLY_CALLS,
                retry_after,
            });
        };
        // It may have come since it was looked for.
        if find(&tenant.catalog.load()).is_some() {
            return Ok(());
        }
        tokio::select! {
            _ = changed.changed() => Ok(()),
            _ = opened.changed() => Ok(()),
            () = request.cancel.cancelled() => Err(CallError::Cancelled),
            () = tokio::time::sleep_until(until) => Err(unknown()),
        }
    }
}
