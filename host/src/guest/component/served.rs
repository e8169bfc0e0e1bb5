//! What a component serves beside tools: linked where it exports it, and asked for its lists.

use std::sync::Arc;

use wasmtime::component::InstancePre;

use super::{Compiled, ComponentError, chain, loading};
use crate::{
    capability::{bindings::prompts::exports::mcpp::primitives::prompts::PromptInfo, state::State},
    control::admission::{Admission, Share},
    engine::Engine,
    guest::primitives::{self, CompletionExport, PromptExport, ResourceExport, ResourceLists},
};

/// The interface by which a component says that its lists change.
const CHANGED: &str = "mcpp:primitives/changed@";

/// What it exports beside tools, linked.
#[derive(Debug)]
pub(super) struct LinkedPrimitives {
    resources: Option<ResourceExport>,
    prompts: Option<PromptExport>,
    completions: Option<CompletionExport>,
}

/// What a component serves beside tools, as it describes it; nothing in it is checked yet.
#[derive(Debug, Default)]
pub struct LoadedPrimitives {
    /// Its resources.
    pub resources: Option<(ResourceExport, ResourceLists)>,
    /// Its prompts.
    pub prompts: Option<(PromptExport, Vec<PromptInfo>)>,
    /// Its completions of arguments.
    pub completions: Option<CompletionExport>,
    /// Whether it says when its lists change.
    pub tells_changes: bool,
}

impl LoadedPrimitives {
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_none() && self.prompts.is_none()
    }
}

impl LinkedPrimitives {
    /// Links what a component exports.
    pub(super) fn of(compiled: &Compiled, linked: &InstancePre<State>) -> Result<Self, ComponentError> {
        let link_error = |error: wasmtime::Error| ComponentError::Link(chain(&error));
        let exports = |interface| compiled.exports(interface);
        let resources = exports(primitives::RESOURCES)?.then(|| ResourceExport::new(linked.clone())).transpose();
        let prompts = exports(primitives::PROMPTS)?.then(|| PromptExport::new(linked.clone())).transpose();
        let completions = exports(primitives::COMPLETIONS)?.then(|| CompletionExport::new(linked.clone())).transpose();
        Ok(Self {
            resources: resources.map_err(link_error)?,
            prompts: prompts.map_err(link_error)?,
            completions: completions.map_err(link_error)?,
        })
    }

    /// Asks the component for its lists.
    pub(super) async fn list(
        self,
        engine: &Engine,
        admission: (&Admission, &Arc<Share>),
        compiled: &Compiled,
    ) -> Result<LoadedPrimitives, ComponentError> {
        let name = compiled.name.shared();
        let tells_changes = compiled.imports().iter().any(|import| import.starts_with(CHANGED));
        let mut loaded = LoadedPrimitives { completions: self.completions, tells_changes, ..Default::default() };
        if let Some(export) = self.resources {
            let control = loading(admission).await?;
            let lists = export.list(engine, &name, None, control).await.map_err(ComponentError::List)?;
            loaded.resources = Some((export, lists));
        }
        if let Some(export) = self.prompts {
            let control = loading(admission).await?;
            let prompts = export.list(engine, &name, None, control).await.map_err(ComponentError::List)?;
            loaded.prompts = Some((export, prompts));
        }
        Ok(loaded)
    }
}
