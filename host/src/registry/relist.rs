//! Lists that change while a revision serves: the host lists them anew when the component says so, one time after the other, in the tenant's line.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::{Registry, lists::ComponentLists, primitives::PrimitiveService};
use crate::{
    call::{CallError, GuestChange},
    names::TenantId,
};

/// Whether a component's lists are being listed anew, and whether they are to be once more.
#[derive(Debug, Default)]
pub(super) struct Relisting(Mutex<Option<bool>>);

impl Relisting {
    /// Asks for one more time; whether the caller has to do it.
    fn begin(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_running = state.is_some();
        *state = Some(is_running);
        !is_running
    }

    /// Whether once more.
    fn again(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let again = *state == Some(true);
        *state = again.then_some(false);
        again
    }
}

impl Registry {
    /// A component says that something of its own has changed.
    pub(super) fn note_change(&self, tenant: &TenantId, component: &str, change: GuestChange<'_>) {
        let Some(open) = self.tenant(tenant) else { return };
        match change {
            GuestChange::Resource(uri) => {
                // Whom a change is told of is decided by the catalog, not by who tells.
                let is_own = || {
                    let catalog = open.catalog.load();
                    catalog.lists().owner(uri).is_some_and(|owner| owner.component() == component)
                };
                if open.resources.is_wanted(uri) && is_own() {
                    open.resources.updated(uri);
                }
            }
            GuestChange::ResourceList | GuestChange::PromptList => {
                let catalog = open.catalog.load();
                if let Some(service) = catalog.component(component).and_then(|revision| revision.primitives.clone()) {
                    self.relist(tenant, service);
                }
            }
        }
    }

    /// Lists a component's resources and prompts anew.
    pub(super) fn relist(&self, tenant: &TenantId, service: Arc<PrimitiveService>) {
        if service.lists_are_fixed() {
            tracing::debug!(component = service.component(), "its lists were accepted as they are, and stay so");
            return;
        }
        if !service.relisting.begin() {
            return;
        }
        let (registry, tenant) = (self.clone(), tenant.clone());
        tokio::spawn(async move {
            loop {
                if let Err(error) = registry.list_anew(&tenant, &service).await {
                    let component = service.component();
                    tracing::warn!(%tenant, component, %error, "its lists stay as they were");
                }
                if !service.relisting.again() {
                    return;
                }
            }
        });
    }

    async fn list_anew(&self, tenant: &TenantId, service: &Arc<PrimitiveService>) -> Result<(), String> {
        let text = |error: CallError| error.to_string();
        let limits = service.limits();
        let name = service.powers().component.shared();
        let running = |what: &str| {
            self.running_by_itself(
                tenant,
                service.powers(),
                what,
                format!("the list of {what} of {}", service.component()),
            )
        };
        let admit = async || {
            self.count(tenant).await.map_err(|error| error.to_string())?;
            self.control(tenant, limits, &Arc::new(Semaphore::new(1))).await.map_err(text)
        };
        let (mut resources, mut prompts) = (None, None);
        if let Some(export) = &service.resources {
            let control = admit().await?;
            let lists = export.list(self.engine(), &name, Some(running("resources")), control).await;
            resources = Some(lists.map_err(text)?);
        }
        if let Some(export) = &service.prompts {
            let control = admit().await?;
            let listed = export.list(self.engine(), &name, Some(running("prompts")), control).await;
            prompts = Some(listed.map_err(text)?);
        }
        let lists = ComponentLists::check(service, resources, prompts).map_err(|error| error.to_string())?;
        let lists = Arc::new(lists);
        self.swap(tenant, |catalog| catalog.with_lists(service, lists)).map_err(|error| error.to_string())
    }
}
