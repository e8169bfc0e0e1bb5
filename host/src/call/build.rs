//! One build of a component by name, for callers that need it after another has taken its place.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{
    names::{ComponentName, TenantId, ToolName},
    tenant::Principal,
};

/// Most builds that may be pinned in a tenant.
pub const MAX_PINNED: usize = 64;

/// Which build of which component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BuildId {
    /// The component.
    pub component: ComponentName,
    /// The digest of its bytes.
    pub digest: String,
}

impl std::fmt::Display for BuildId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.component, self.digest.get(..12).unwrap_or(&self.digest))
    }
}

/// Why builds are not pinned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The caller has no such tool.
    #[error("there is no tool `{0}`")]
    UnknownTool(ToolName),
    /// The tenant has as many as it may have.
    #[error("the tenant has {0} pinned already; `mcpp info` shows by whom")]
    TooMany(String),
    /// A build cannot be kept.
    #[error("the build cannot be kept: {0}")]
    Unavailable(String),
}

/// Where builds are pinned: the registry, as guests see it.
pub trait PinBuilds {
    /// Keeps the live builds of the components that have these tools, for a component of the tenant, until that gives them back.
    fn pin<'a>(
        &'a self,
        principal: &'a Principal,
        by: &'a str,
        tools: Vec<ToolName>,
    ) -> BoxFuture<'a, Result<Vec<BuildId>, PinError>>;

    /// Gives pinned builds back.
    fn unpin<'a>(&'a self, tenant: &'a TenantId, by: &'a str, builds: Vec<BuildId>) -> BoxFuture<'a, ()>;

    /// The builds that a component has pinned.
    fn pinned(&self, tenant: &TenantId, by: &str) -> Vec<BuildId>;
}
