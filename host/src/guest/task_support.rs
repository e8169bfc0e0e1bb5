//! What a component says of its tools as tasks; the host asks once, at its load.

use std::{collections::HashMap, sync::Arc};

use wasmtime::component::InstancePre;

use super::{
    component::LoadedTool,
    instance::{Failure, run},
    new_store,
};
use crate::{
    call::CallError,
    capability::{
        bindings::task_support::{SupportingPre, exports::mcpp::tasks::support::When},
        state::State,
    },
    control::Control,
    engine::Engine,
    limits::TaskSupport,
};

/// The interface by which the host knows that a component says it, without its version.
pub(super) const INTERFACE: &str = "mcpp:tasks/support";

/// A linked component that says how its tools run.
pub(super) struct TaskExport(SupportingPre<State>);

impl std::fmt::Debug for TaskExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskExport").finish_non_exhaustive()
    }
}

impl TaskExport {
    pub(super) fn new(linked: InstancePre<State>) -> wasmtime::Result<Self> {
        SupportingPre::new(linked).map(Self)
    }

    /// Asks it, and notes what it says at its tools.
    pub(super) async fn mark(
        self,
        tools: &mut [LoadedTool],
        engine: &Engine,
        component: &Arc<str>,
        control: Arc<Control>,
    ) -> Result<(), CallError> {
        let Self(export) = self;
        let mut store = new_store(export.engine(), component, &control, None);
        let guest = async move {
            let instance = export.instantiate_async(&mut store).await?;
            Ok::<_, Failure>(instance.mcpp_tasks_support().call_of_tools(&mut store).await?)
        };
        let said = run(engine, guest, control).await?;
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
