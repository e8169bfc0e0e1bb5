//! HookTokens: a component's tokens with which somebody outside may call one of its tools.

use std::{io, path::Path, sync::Arc};

use super::Registry;
use crate::{
    call::hook::{HookTarget, HookTokens},
    names::{ComponentName, TenantId, ToolName, ToolPattern},
    tenant::{Incarnation, Principal, SCOPE_TOOLS},
};

/// The call that a token allows.
#[derive(Debug)]
pub struct Hook {
    /// For whom: one that may call the tool and nothing else.
    pub principal: Principal,
    /// The tool.
    pub tool: ToolName,
}

impl Registry {
    /// Opens hooks to some components, if to any, before there is a tenant. The key of their tokens is in the data directory.
    ///
    /// # Errors
    /// The key cannot be read, or made.
    pub fn open_hooks(&self, components: &[String], data: &Path) -> io::Result<()> {
        if !components.is_empty() {
            let hooks = HookTokens::open(&data.join("hooks.key"), components.iter().cloned())?;
            let _only_once = self.0.hooks.set(Arc::new(hooks));
        }
        Ok(())
    }

    /// The tokens of a component of a tenant; none if hooks are closed.
    pub(super) fn hooks_of(&self, tenant: &TenantId) -> Option<(Arc<HookTokens>, Incarnation)> {
        let hooks = self.0.hooks.get()?;
        Some((Arc::clone(hooks), self.tenant(tenant)?.incarnation.clone()))
    }

    /// The call that a token allows; none if it is none of ours, or the component does not have the tool any more.
    pub fn hook(&self, token: &str) -> Option<Hook> {
        let incarnation = |tenant: &TenantId| Some(self.tenant(tenant)?.incarnation.clone());
        let HookTarget { tenant, component, tool } = self.0.hooks.get()?.read(token, incarnation)?;
        let owns = |component: &ComponentName| {
            self.catalog(&tenant).tool(&tool).is_some_and(|found| *found.component == *component.as_str())
        };
        if !owns(&component) {
            return None;
        }
        let principal = Principal {
            incarnation: incarnation(&tenant)?,
            tenant,
            subject: "hook".into(),
            scopes: Arc::new([SCOPE_TOOLS.to_owned()].into()),
            tools: Some([ToolPattern::try_from(tool.as_str().to_owned()).ok()?].into()),
        };
        Some(Hook { principal, tool })
    }
}
