//! Builds that components of a tenant pin, so that they can call them after a swap: workflows do, for their runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use super::{
    Registry,
    catalog::Revision,
    error::InstallError,
    pins::{BuildToHold, Pins},
};
use crate::{
    call::build::{BuildId, PinBuilds, PinError},
    names::{TenantId, ToolName},
    tenant::Principal,
};

/// How often, and after which waits, a build is looked for whose bytes are not kept yet: it went live a moment ago.
const LOOKS: u32 = 40;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Registry {
    /// Has a tenant keep its pinned builds there; the first stays.
    pub fn set_pins(&self, tenant: &TenantId, pins: Arc<Pins>) {
        if let Some(tenant) = self.tenant(tenant) {
            let _only_once = tenant.pins.set(pins);
        }
    }

    /// Where a tenant keeps its pinned builds.
    pub fn pins(&self, tenant: &TenantId) -> Option<Arc<Pins>> {
        self.tenant(tenant)?.pins.get().cloned()
    }

    /// Makes a build callable that is pinned and not live, if `may_serve` says so while nothing else can change.
    pub fn install_pinned_if<E: From<InstallError>>(
        &self,
        tenant: &TenantId,
        revision: Revision,
        may_serve: impl FnOnce(&Revision) -> Result<(), E>,
    ) -> Result<(), E> {
        self.swap(tenant, |catalog| {
            may_serve(&revision)?;
            Ok(catalog.with_pinned(Arc::new(revision)))
        })
    }

    /// Takes a component away with all of its builds: something was revoked.
    pub fn revoke(&self, tenant: &TenantId, component: &str) -> Result<(), InstallError> {
        self.swap(tenant, |catalog| Ok(catalog.without_all(component)))
    }

    async fn pin_builds(
        &self,
        principal: &Principal,
        by: &str,
        tools: Vec<ToolName>,
    ) -> Result<Vec<BuildId>, PinError> {
        let pins = self.pins(&principal.tenant);
        let pins = pins.ok_or_else(|| PinError::Unavailable("this host keeps no builds of the tenant".into()))?;
        for _ in 0..LOOKS {
            // What is live, afresh each time: another build may have taken the place of one before it was held.
            let builds = self.live_builds(principal, &tools)?;
            let new: Vec<BuildToHold> = builds
                .iter()
                .filter(|(build, _)| !pins.is_held_by(build, by))
                .map(|(build, revision)| (build.clone(), revision.shipped))
                .collect();
            if !new.is_empty() {
                let (pins, by) = (Arc::clone(&pins), by.to_owned());
                let hold = tokio::task::spawn_blocking(move || pins.hold(&by, &new));
                if !hold.await.map_err(|error| PinError::Unavailable(error.to_string()))?? {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                builds.values().try_for_each(|build| self.keep_callable(principal, build))?;
            }
            return Ok(builds.into_keys().collect());
        }
        Err(PinError::Unavailable("its bytes do not come to the disk".into()))
    }

    /// The builds that have these tools for a caller. Tools of other hosts, and the host's own, have none here.
    fn live_builds(
        &self,
        principal: &Principal,
        tools: &[ToolName],
    ) -> Result<BTreeMap<BuildId, Arc<Revision>>, PinError> {
        let catalog = self.catalog(&principal.tenant);
        let mut builds = BTreeMap::new();
        for tool in tools {
            let found = catalog.tool(tool).filter(|found| found.is_for(principal));
            let found = found.ok_or_else(|| PinError::UnknownTool(tool.clone()))?;
            if let Some(revision) = catalog.component(&found.component) {
                builds.insert(revision.build(), Arc::clone(revision));
            }
        }
        Ok(builds)
    }

    /// Keeps a held build callable: another may have taken its place while nobody held it yet.
    fn keep_callable(&self, principal: &Principal, revision: &Arc<Revision>) -> Result<(), PinError> {
        let kept = self.swap::<InstallError>(&principal.tenant, |catalog| {
            // Something may also have been revoked: then it is loaded again, with what is left.
            let live = catalog.component(revision.name.as_str());
            let is_in_force = live.is_some_and(|live| live.grant == revision.grant);
            Ok(if is_in_force { catalog.with_pinned(Arc::clone(revision)) } else { catalog.clone_maps() })
        });
        kept.map_err(|error| PinError::Unavailable(error.to_string()))
    }

    async fn unpin_builds(&self, tenant: &TenantId, by: &str, builds: Vec<BuildId>) {
        let Some(pins) = self.pins(tenant).filter(|pins| builds.iter().any(|build| pins.is_held_by(build, by))) else {
            return;
        };
        let holder = by.to_owned();
        let release = tokio::task::spawn_blocking(move || pins.release(&holder, &builds));
        match release.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%tenant, by, %error, "pinned builds are not given back"),
            Err(error) => tracing::warn!(%tenant, by, %error, "pinned builds are not given back"),
        }
        let _stopping = self.swap::<InstallError>(tenant, |catalog| Ok(catalog.clone_maps()));
    }
}

impl PinBuilds for Registry {
    fn pin<'a>(
        &'a self,
        principal: &'a Principal,
        by: &'a str,
        tools: Vec<ToolName>,
    ) -> BoxFuture<'a, Result<Vec<BuildId>, PinError>> {
        Box::pin(self.pin_builds(principal, by, tools))
    }

    fn unpin<'a>(&'a self, tenant: &'a TenantId, by: &'a str, builds: Vec<BuildId>) -> BoxFuture<'a, ()> {
        Box::pin(self.unpin_builds(tenant, by, builds))
    }

    fn pinned(&self, tenant: &TenantId, by: &str) -> Vec<BuildId> {
        self.pins(tenant).map(|pins| pins.by(by)).unwrap_or_default()
    }
}
