//! Lists that change while a revision serves: the host lists them anew when the component says so, one time after the other, in the tenant's line.
//!
//! A component's word in its own listing does not count ([`unheard`]), and its listings have a growing pause while its lists change without one ([`pause`]).

mod pause;
mod unheard;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use self::{
    pause::{ListingPause, MAX_PAUSE},
    unheard::UnheardLists,
};
use super::{Registry, lists::ComponentLists, primitives::PrimitiveService};
use crate::{
    call::{CallError, GuestChange},
    names::TenantId,
    telemetry::known::may_log,
};

/// Whether a component's lists are being listed anew, and when they may be.
#[derive(Debug, Default)]
pub(super) struct Relisting(Mutex<RelistingState>);

#[derive(Debug, Default)]
struct RelistingState {
    /// There while they are listed; whether they are to be once more.
    again: Option<bool>,
    pause: ListingPause,
    /// Whether the component said in the last listing that its lists had changed.
    says_so_in_listing: bool,
}

impl Relisting {
    fn state(&self) -> MutexGuard<'_, RelistingState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for one more time; whether the caller has to do it.
    fn begin(&self) -> bool {
        let mut state = self.state();
        let is_running = state.again.is_some();
        state.again = Some(is_running);
        !is_running
    }

    /// Whether once more.
    fn again(&self) -> bool {
        let mut state = self.state();
        let again = state.again == Some(true);
        state.again = again.then_some(false);
        again
    }

    /// How long the next listing has to wait.
    fn left(&self) -> Duration {
        self.state().pause.left(Instant::now())
    }

    /// Notes a listing; whether the lists now count as ones that change without a pause.
    fn note(&self, began: Instant) -> bool {
        self.state().pause.note(Instant::now(), began.elapsed())
    }

    /// A listing begins, and covers all changes before it.
    fn forget_changes(&self) {
        let mut state = self.state();
        state.again = Some(false);
        state.says_so_in_listing = false;
    }

    /// The component says in a listing that its lists have changed.
    fn note_word_in_listing(&self) {
        self.state().says_so_in_listing = true;
    }

    /// The author's mistake that the host has to work around, for an operator.
    pub(super) fn problem(&self) -> Option<String> {
        let state = self.state();
        if state.pause.is_a_loop(Instant::now()) {
            let seconds = MAX_PAUSE.as_secs();
            return Some(format!(
                "a loop of changes: it says without a pause that its lists have changed, and the host lists them every {seconds} s"
            ));
        }
        let reason = "it says in its own listing that its lists have changed, and the host ignores that";
        state.says_so_in_listing.then(|| reason.to_owned())
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
        // On the guests' threads: a door may wait for neither a long list nor its check.
        drop(self.engine().spawn(async move { registry.relist_while_asked(&tenant, &service).await }));
    }

    /// Lists until the component has said nothing more, or does not serve any more.
    async fn relist_while_asked(&self, tenant: &TenantId, service: &Arc<PrimitiveService>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(service.relisting.left()) => {}
                () = self.stopping().cancelled() => return,
            }
            let live = self.catalog(tenant).component(service.component()).and_then(|live| live.primitives.clone());
            if live.is_none_or(|live| !Arc::ptr_eq(&live, service)) {
                return;
            }
            service.relisting.forget_changes();
            let (began, component) = (Instant::now(), service.component());
            if let Err(error) = self.list_anew(tenant, service).await
                && may_log(Some(tenant), error.len())
            {
                tracing::warn!(%tenant, component, error, "its lists stay as they were");
            }
            if service.relisting.note(began) && may_log(Some(tenant), 0) {
                tracing::warn!(
                    %tenant,
                    component,
                    pause_ms = MAX_PAUSE.as_millis(),
                    "a loop of changes: the component says without a pause that its lists have changed, and the host lists them after this pause alone"
                );
            }
            if !service.relisting.again() {
                return;
            }
        }
    }

    async fn list_anew(&self, tenant: &TenantId, service: &Arc<PrimitiveService>) -> Result<(), String> {
        let text = |error: CallError| error.to_string();
        let limits = service.limits();
        let name = service.powers().component.shared();
        let running = |what: &str| {
            let cause = format!("the list of {what} of {}", service.component());
            let dispatch = Arc::new(UnheardLists { registry: self.clone(), service: Arc::clone(service) });
            let mut running = self.running_by_itself(tenant, service.powers(), what, cause);
            running.dispatch = dispatch;
            running
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
