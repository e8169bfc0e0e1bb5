//! From compiled code to a revision whose every word is checked.

use std::{sync::Arc, time::Instant};

use super::Loader;
use crate::{
    control::admission::Share,
    grants::ComponentGrant,
    guest::component::{Compiled, ComponentError, Origin},
    memory::MemoryUse,
    registry::catalog::Revision,
    reload::error::LoadError,
};

impl Loader {
    /// Links a compiled component with what it is granted, and checks what it says; whether its code came from the cache, and when it had said all.
    pub(super) async fn check(
        &self,
        compiled: Compiled,
        origin: Origin,
        grant: &ComponentGrant,
        share: &Arc<Share>,
    ) -> Result<(Revision, bool, Instant), LoadError> {
        let admitted = compiled.admit(grant)?;
        let loaded = admitted.load(self.registry.engine(), (self.registry.admission(), share)).await?;
        let (cached, listed_at) = (loaded.cached, Instant::now());
        for note in &loaded.notes {
            tracing::warn!(component = %loaded.name, "{note}");
        }
        // Tool by tool, as each is made: all of them together may be more than there is.
        let refuse = |source, bytes| ComponentError::Memory { of: "the schemas of its tools", bytes, source };
        let mut held = share.memory.reserve(MemoryUse::Code, 0).map_err(|full| refuse(full, 0))?;
        let is_shipped = matches!(origin, Origin::BuiltIn);
        let charge = |bytes| match is_shipped {
            false => held.grow(bytes).map_err(|full| LoadError::from(refuse(full, bytes))),
            true => Ok(()),
        };
        let mut revision = Revision::check(loaded, origin, grant, &self.config.limits, charge)?;
        revision.schema_memory = Some(held);
        Ok((revision, cached, listed_at))
    }
}
