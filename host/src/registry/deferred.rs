//! Requests about answers that calls have put off. Each finds the live revision of the tool, goes through its gate, and counts against its limits.

use std::sync::Arc;

use super::{Registry, catalog::Catalog, request::Ticket, tool::Tool};
use crate::{
    call::{CallError, Cost, Request, asks::DeferredCall},
    capability::store::store_key,
    engine::Engine,
    guest::deferred::{Deferred, DeferredExport, DeferredWork, FormAnswer},
    names::ComponentName,
    store::{Space, StoreError},
    tenant::{Authorized, Principal},
};

impl Registry {
    /// How the work is that an answer waits for, and the component that knows.
    pub async fn look_at_deferred(&self, asked: Authorized<DeferredCall>) -> Result<(Deferred, Arc<str>), CallError> {
        let (ticket, export, request, handle) = self.enter_for_deferred(*asked.into_inner()).await?;
        let (registry, tool) = (self.clone(), Arc::clone(&ticket.served));
        let has_store = tool.service.powers.quota_bytes.is_some();
        let look = |engine: Engine, running, control| async move {
            match export.look(&engine, handle, running, Arc::clone(&control)).await? {
                Deferred::Running(work) => {
                    let changes = work.changes.filter(|_| has_store);
                    Ok(Deferred::Running(DeferredWork { changes, ..work }))
                }
                Deferred::Ended(result) => {
                    let checked = registry.check_result(&tool, &control, result, &mut Cost::default()).await;
                    checked.map(Deferred::Ended)
                }
                other => Ok(other),
            }
        };
        let looked = self.serve(&ticket, request, "deferred", look).await?;
        Ok((looked, Arc::clone(&ticket.served.component)))
    }

    /// Gives the answer to a form that such work has asked.
    pub async fn reply_to_deferred(
        &self,
        asked: Authorized<DeferredCall>,
        (form, answer): (String, FormAnswer),
    ) -> Result<(), CallError> {
        let (ticket, export, request, handle) = self.enter_for_deferred(*asked.into_inner()).await?;
        let reply = |engine: Engine, running, control| async move {
            export.reply(&engine, (handle, form, answer), running, control).await
        };
        self.serve(&ticket, request, "deferred", reply).await
    }

    /// Says that nobody wants the answer any more.
    pub async fn cancel_deferred(&self, asked: Authorized<DeferredCall>) -> Result<(), CallError> {
        let (ticket, export, request, handle) = self.enter_for_deferred(*asked.into_inner()).await?;
        let cancel =
            |engine: Engine, running, control| async move { export.cancel(&engine, handle, running, control).await };
        self.serve(&ticket, request, "deferred", cancel).await
    }

    async fn enter_for_deferred(
        &self,
        asked: DeferredCall,
    ) -> Result<(Ticket<Tool>, DeferredExport, Request, String), CallError> {
        let DeferredCall { request, tool, handle } = asked;
        let unknown = || CallError::UnknownTool(tool.clone());
        let find = |catalog: &Catalog| catalog.tool(&tool);
        let ticket = self.enter(&request, request.principal.may_use(&tool), find, unknown).await?;
        let export = ticket.served.deferred.clone().ok_or_else(unknown)?;
        Ok((ticket, export, request, handle))
    }

    /// Resolves when an entry of the store of a component is another one than it was. Never, if there can be no such entry.
    pub async fn deferred_changes(
        &self,
        principal: &Principal,
        component: &str,
        (key, version): (&[u8], u64),
    ) -> Result<(), StoreError> {
        let (Ok(component), Some(key)) = (ComponentName::new(component), store_key(key)) else {
            return std::future::pending().await;
        };
        let space = Space { tenant: principal.tenant.clone(), component };
        self.store().wait(&space, &key, version).await.map(drop)
    }
}
