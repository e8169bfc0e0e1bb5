//! Many calls of one tool in one call of its component, where that exports `mcpp:batch/tools`.

use std::{collections::HashSet, sync::Arc};

use wasmtime::{
    Store,
    component::{Instance, InstancePre},
};

use super::{
    component::{ComponentError, LoadedTool, loading},
    instance::{Failure, run},
    leave_the_door, new_store, sdk_outcome, structured_bytes,
};
use crate::{
    call::{CallError, ToolResult},
    capability::{
        bindings::{
            batch::{BatchingIndices, BatchingPre},
            exports::mcpp::tool::tools::Annotations,
        },
        state::State,
    },
    control::{Control, admission::Admission, admission::Share},
    engine::Engine,
};

/// The interface by which the host knows that a component serves many calls at once, without its version.
pub(super) const INTERFACE: &str = "mcpp:batch/tools";

/// What a linked component exports to serve many calls at once.
#[derive(Clone)]
pub struct BatchExport {
    component: BatchingPre<State>,
    indices: Arc<BatchingIndices>,
}

impl std::fmt::Debug for BatchExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchExport").finish_non_exhaustive()
    }
}

/// The outcome of each call of a batch, in their order.
pub(super) type Outcomes = Vec<Result<ToolResult, CallError>>;

impl BatchExport {
    pub(super) fn new(linked: InstancePre<State>) -> wasmtime::Result<Self> {
        let indices = Arc::new(BatchingIndices::new(&linked)?);
        Ok(Self { component: BatchingPre::new(linked)?, indices })
    }

    /// Asks the component for the tools of which it serves many calls at once, and notes it at those that may run again.
    pub(super) async fn mark(
        self,
        tools: &mut [LoadedTool],
        engine: &Engine,
        component: &Arc<str>,
        admission: (&Admission, &Arc<Share>),
    ) -> Result<(), ComponentError> {
        let control = loading(admission).await?;
        let mut store = new_store(self.component.engine(), component, &control, None);
        let linked = self.component.clone();
        let guest = async move {
            let instance = linked.instantiate_async(&mut store).await?;
            Ok::<_, Failure>(instance.mcpp_batch_tools().call_of_tools(&mut store).await?)
        };
        let said = run(engine, guest, control).await.map_err(ComponentError::List)?;
        let said: HashSet<String> = said.into_iter().collect();
        for tool in tools {
            let Annotations { read_only, idempotent, .. } = tool.listing.annotations;
            let may_run_again = read_only == Some(true) || idempotent == Some(true);
            if may_run_again && said.contains(&tool.listing.name) {
                tool.batch = Some(self.clone());
            }
        }
        Ok(())
    }

    /// Calls a tool once for each of `arguments`. Where the component has not as many outcomes, there is none.
    pub(super) async fn call(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
        tool: &str,
        arguments: &[String],
        control: &Arc<Control>,
    ) -> Result<Result<Outcomes, CallError>, Failure> {
        let batching = self.indices.load(&mut *store, instance)?;
        let answers = batching.mcpp_batch_tools().call_call_many(&mut *store, tool, arguments).await?;
        if answers.len() != arguments.len() {
            let reason = format!("the component has {} outcomes for {} calls", answers.len(), arguments.len());
            return Ok(Err(CallError::InvalidResult { path: String::new(), reason }));
        }
        leave_the_door(control, answers.iter().map(structured_bytes).fold(0, u64::saturating_add)).await;
        Ok(Ok(answers.into_iter().map(|answer| sdk_outcome(tool, answer, control)).collect()))
    }
}
