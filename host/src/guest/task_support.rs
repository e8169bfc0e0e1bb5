//! What a component exports about tasks: what it says of its tools, which the host asks once, at its load, and the answers that its calls put off.

use std::{collections::HashMap, sync::Arc};

use wasmtime::component::InstancePre;

use super::{
    component::{Compiled, ComponentError, LoadedTool, chain, loading},
    deferred::{self, DeferredExport},
    instance::{Failure, run},
    new_store,
};
use crate::{
    capability::{
        bindings::task_support::{SupportingPre, exports::mcpp::tasks::support::When},
        state::State,
    },
    control::admission::{Admission, Share},
    engine::Engine,
    limits::TaskSupport,
};

/// The interface by which the host knows that a component says how its tools run, without its version.
const SUPPORT: &str = "mcpp:tasks/support";

/// What a linked component exports about tasks.
pub(super) struct TaskExports {
    support: Option<SupportingPre<State>>,
    deferred: Option<DeferredExport>,
}

impl std::fmt::Debug for TaskExports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskExports").field("deferred", &self.deferred).finish_non_exhaustive()
    }
}

impl TaskExports {
    /// Links what a component exports.
    pub(super) fn of(compiled: &Compiled, linked: &InstancePre<State>) -> Result<Self, ComponentError> {
        let link_error = |error: wasmtime::Error| ComponentError::Link(chain(&error));
        let support = compiled.exports(SUPPORT)?.then(|| SupportingPre::new(linked.clone())).transpose();
        let deferred = compiled.exports(deferred::INTERFACE)?.then(|| DeferredExport::new(linked.clone())).transpose();
        Ok(Self { support: support.map_err(link_error)?, deferred: deferred.map_err(link_error)? })
    }

    /// Asks it, and notes what it says at its tools.
    pub(super) async fn mark(
        self,
        tools: &mut [LoadedTool],
        engine: &Engine,
        component: &Arc<str>,
        admission: (&Admission, &Arc<Share>),
    ) -> Result<(), ComponentError> {
        for tool in &mut *tools {
            tool.deferred.clone_from(&self.deferred);
        }
        let Some(export) = self.support else { return Ok(()) };
        let control = loading(admission).await?;
        let mut store = new_store(export.engine(), component, &control, None);
        let guest = async move {
            let instance = export.instantiate_async(&mut store).await?;
            Ok::<_, Failure>(instance.mcpp_tasks_support().call_of_tools(&mut store).await?)
        };
        let said = run(engine, guest, control).await.map_err(ComponentError::List)?;
        let when = |when| match when {
            When::Never => TaskSupport::Never,
            When::May => TaskSupport::May,
            When::Must => TaskSupport::Must,
        };
        let said: HashMap<String, TaskSupport> = said.into_iter().map(|one| (one.tool, when(one.when))).collect();
        for tool in tools {
            tool.task = said.get(&tool.listing.name).copied().unwrap_or(tool.task);
        }
        Ok(())
    }
}
