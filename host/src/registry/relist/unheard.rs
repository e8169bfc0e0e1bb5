//! What a component that is listed reaches of the registry: all but a listener for changes of the lists that it is just listing.

use futures::future::BoxFuture;

use super::Registry;
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
pub(super) struct UnheardLists(pub(super) Registry);

impl Dispatch for UnheardLists {
    fn dispatch(&self, call: Authorized<Call>) -> BoxFuture<'_, Result<ToolResult, CallError>> {
        self.0.dispatch(call)
    }

    fn changed(&self, tenant: &TenantId, component: &str, change: GuestChange<'_>) {
        match change {
            GuestChange::Resource(_) => self.0.changed(tenant, component, change),
            GuestChange::ResourceList | GuestChange::PromptList => {
                tracing::debug!(%tenant, component, "a component says in its listing that its lists have changed");
            }
        }
    }

    fn describe(&self, principal: &Principal, tool: &ToolName, builds: &[BuildId]) -> Option<ToolSchemas> {
        self.0.describe(principal, tool, builds)
    }
}

impl PinBuilds for UnheardLists {
    fn pin<'a>(
        &'a self,
        principal: &'a Principal,
        by: &'a str,
        tools: Vec<ToolName>,
    ) -> BoxFuture<'a, Result<Vec<BuildId>, PinError>> {
        self.0.pin(principal, by, tools)
    }

    fn unpin<'a>(&'a self, tenant: &'a TenantId, by: &'a str, builds: Vec<BuildId>) -> BoxFuture<'a, ()> {
        self.0.unpin(tenant, by, builds)
    }

    fn pinned(&self, tenant: &TenantId, by: &str) -> Vec<BuildId> {
        self.0.pinned(tenant, by)
    }
}
