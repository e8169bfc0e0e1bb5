//! Builds that somebody has pinned: their bytes are kept while they are live, and they are loaded again when they are not in memory any more, after a restart or a revocation.

use std::sync::Arc;

use bytes::Bytes;

use super::Loader;
use crate::{
    call::build::BuildId,
    engine::features::Code,
    guest::component::{self, Origin},
    memory::MemoryUse,
    names::ComponentName,
    registry::pins::{Pins, build_of},
    reload::error::LoadError,
};

impl Loader {
    /// Keeps the bytes of a build that went live from a file, so that somebody can pin it.
    pub(super) async fn keep_bytes(&self, build: BuildId, wasm: Bytes) {
        let Some(pins) = self.registry.pins(&self.config.tenant) else { return };
        let component = build.component.clone();
        let saved = tokio::task::spawn_blocking(move || pins.save(&build, &wasm)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%component, %error, "the bytes of the build cannot be kept: nothing can pin it");
        }
    }

    /// Lets the bytes go that were kept for a component which is not live any more.
    pub(super) async fn forget_bytes(&self, component: ComponentName) {
        let Some(pins) = self.registry.pins(&self.config.tenant) else { return };
        let _stopping = tokio::task::spawn_blocking(move || pins.taken_away(component.as_str())).await;
    }

    /// Loads the pinned builds of a component that are not in memory, with today's grant. What cannot be loaded is missing for those who call it, and for nobody else.
    pub(super) async fn load_pinned(&self, component: &ComponentName) {
        let Some(pins) = self.registry.pins(&self.config.tenant) else { return };
        for (build, by) in pins.of(component.as_str()) {
            if self.registry.catalog(&self.config.tenant).has_build(&build) {
                continue;
            }
            match self.load_build(&pins, &build).await {
                Ok(()) => tracing::info!(%build, ?by, "a pinned build is loaded"),
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::error!(%build, ?by, error, "a pinned build cannot be loaded; those who pinned it cannot call it");
                }
            }
        }
    }

    async fn load_build(&self, pins: &Arc<Pins>, build: &BuildId) -> Result<(), LoadError> {
        let tenant = &self.config.tenant;
        let share = self.registry.share(tenant).ok_or(LoadError::Stopping)?;
        let path = pins.path(build).ok_or(LoadError::NotThatBuild)?;
        let unreadable = |source| LoadError::Read { path: path.clone(), source };
        let bytes = tokio::fs::metadata(&path).await.map_err(unreadable)?.len();
        let _room = share.memory.reserve(MemoryUse::Code, bytes)?;
        let wasm = Bytes::from(tokio::fs::read(&path).await.map_err(unreadable)?);
        if build_of(&build.component, &wasm) != *build {
            return Err(LoadError::NotThatBuild);
        }
        let grant = self.grant(build.component.as_str())?;
        let source = self.source(build.component.clone(), wasm, &grant, Code::Optimized, &share);
        let compiled = component::compile(self.registry.engine(), &self.builds, source).await?;
        let (revision, ..) = self.check(compiled, Origin::File(path.clone()), &grant, &share).await?;
        self.registry.install_pinned_if(tenant, revision, |revision| self.may_serve(revision))
    }
}
