//! The tools of a component, as it lists or exports them.

use std::sync::Arc;

use wasmtime::component::InstancePre;

use super::{Compiled, ComponentError, LoadedTool, chain, loading};
use crate::{
    capability::{
        bindings::{ComponentIndices, ComponentPre, exports::mcpp::tool::tools::Tool as WitTool},
        state::State,
    },
    control::admission::{Admission, Share},
    engine::Engine,
    guest::instance::{self, Target},
    limits::TaskSupport,
    plain,
};

/// Asks an SDK component for its tools.
pub(super) async fn list_sdk(
    engine: &Engine,
    admission: (&Admission, &Arc<Share>),
    name: &Arc<str>,
    component: ComponentPre<State>,
) -> Result<Vec<LoadedTool>, ComponentError> {
    let control = loading(admission).await?;
    let listings = instance::list(engine, name, component.clone(), control).await.map_err(ComponentError::List)?;
    let exports = ComponentIndices::new(component.instance_pre());
    let exports = Arc::new(exports.map_err(|error| ComponentError::Link(chain(&error)))?);
    let tool = |listing: WitTool| {
        let (component, exports) = (component.clone(), Arc::clone(&exports));
        let target = Target::Sdk { component, exports, tool: listing.name.clone() };
        LoadedTool { listing, target, task: TaskSupport::default(), deferred: None, batch: None }
    };
    Ok(listings.into_iter().map(tool).collect())
}

/// Makes tools of the functions that a plain component exports; and remarks on those that are none.
pub(super) fn list_plain(
    compiled: &Compiled,
    linked: InstancePre<State>,
) -> Result<(Vec<LoadedTool>, Vec<String>), ComponentError> {
    let (name, component) = (compiled.name.as_str(), &compiled.component);
    let (functions, notes) =
        plain::functions(name, component, component.engine(), &compiled.docs).map_err(ComponentError::TooManyTools)?;
    let tool = |function: plain::PlainFunction| {
        let (listing, function) = function.listed();
        let target = Target::Plain { component: linked.clone(), function: Arc::new(function) };
        LoadedTool { listing, target, task: TaskSupport::default(), deferred: None, batch: None }
    };
    Ok((functions.into_iter().map(tool).collect(), notes))
}
