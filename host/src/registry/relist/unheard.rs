//! What a component that is listed reaches of the registry: all but a listener for changes of the lists that it is just listing.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{PrimitiveService, Registry};
use crate::{
    call::{
        Call, CallError, Dispatch, GuestChange, ToolResult, ToolSchemas,
        build::{BuildId, PinBuilds, PinError},
    },
    names::{TenantId, ToolName},
    tenant::{Authorized, Principal},
};

/// The registry for a component that lists. If its word counted, a component that says so in each listing would be listed for ever.
#[derive(Debug)]
pub(super) struct UnheardLists {
    pub(super) registry: Registry,
    /// The component that lists.
    pub(super) service: Arc<PrimitiveService>,
}

impl Dispatch for UnheardLists {
    fn dispatch(&self, call: Authorized<Call>) -> BoxFuture<'_, Result<ToolResult, CallError>> {
        self.registry.dispatch(call)
    }

    fn changed(&self, tenant: &TenantId, component: &str, change: GuestChange<'_>) {
        match change {
            GuestChange::Resource(_) => self.registry.changed(tenant, component, change),
            GuestChange::ResourceList | GuestChange::PromptList => {
                tracing::debug!(%tenant, component, "a component says in its listing that its lists have changed");
                if component == self.service.component() {
                    self.service.relisting.note_word_in_listing();
                }
            }
        }
    }

    fn describe(&self, principal: &Principal, tool: &ToolName, builds: &[BuildId]) -> Option<ToolSchemas> {
        self.registry.describe(principal, tool, builds)
    }
}

impl PinBuilds for UnheardLists {
    fn pin<'a>(
        &'a self,
        principal: &'a Principal,
        by: &'a str,
        tools: Vec<ToolName>,
    ) -> BoxFuture<'a, Result<Vec<BuildId>, PinError>> {
        self.registry.pin(principal, by, tools)
    }

    fn unpin<'a>(&'a self, tenant: &'a TenantId, by: &'a str, builds: Vec<BuildId>) -> BoxFuture<'a, ()> {
        self.registry.unpin(tenant, by, builds)
    }

    fn pinned(&self, tenant: &TenantId, by: &str) -> Vec<BuildId> {
        self.registry.pinned(tenant, by)
    }
}
