//! What all doors of a host share: the registry behind them, and what waits for clients.

use std::sync::Arc;

use super::{
    pages::ListPages,
    parked::ParkedCalls,
    tasks::{McpTasks, wait},
};
use crate::registry::Registry;

/// The state that all handlers of a host share.
#[derive(Debug, Clone)]
pub struct Endpoint(Arc<EndpointState>);

#[derive(Debug)]
struct EndpointState {
    registry: Registry,
    name: String,
    page_size: usize,
    pages: ListPages,
    parked: ParkedCalls,
    tasks: McpTasks,
}

impl Endpoint {
    /// An endpoint that serves `registry`'s tools under a name.
    pub fn new(registry: Registry, name: String, page_size: usize) -> Self {
        let tasks = McpTasks::new(&registry);
        match wait::tool(&tasks) {
            Ok(tool) => registry.set_host_tools(vec![Arc::new(tool)]),
            Err(error) => tracing::error!(error = crate::error::chain(&error), "the host's own tools are not there"),
        }
        Self(Arc::new(EndpointState {
            registry,
            name,
            page_size,
            pages: ListPages::default(),
            parked: ParkedCalls::default(),
            tasks,
        }))
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(super) fn page_size(&self) -> usize {
        self.0.page_size
    }

    /// Pages of the list of tools that are kept as JSON.
    pub(super) fn pages(&self) -> &ListPages {
        &self.0.pages
    }

    /// Calls that wait for their clients' next request.
    pub(super) fn parked(&self) -> &ParkedCalls {
        &self.0.parked
    }

    /// Calls that go on after their request was answered.
    pub(super) fn tasks(&self) -> &McpTasks {
        &self.0.tasks
    }

    /// The server's name.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }
}
