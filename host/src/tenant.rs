//! Callers, and their rights.
//!
//! Every key, cache, session and metric carries a [`TenantId`]. A [`Principal`] identifies the caller at the door ([`tokens`]);
//! only [`Authorized::check`] makes the [`Authorized`] call that the registry accepts, so an unauthenticated or unauthorized call cannot reach a tool.

pub mod door;
pub mod home;
pub mod tokens;

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    call::{ComponentName, ToolName},
    grants::ToolPattern,
};

/// A tenant: 1 to 64 characters of `a-z 0-9 -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

/// A tenant name that breaks the rule.
#[derive(Debug, thiserror::Error)]
#[error("tenant name {0:?} is not 1 to 64 characters of `a-z`, `0-9` and `-`")]
pub struct InvalidTenantId(String);

impl TenantId {
    /// The one tenant of a host without configuration.
    pub fn local() -> Self {
        Self("local".into())
    }

    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, InvalidTenantId> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err(InvalidTenantId(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether no tenant but the host's own user may be made with this name: `local` is that user, and the others have meant the host itself.
    pub fn is_reserved(&self) -> bool {
        RESERVED.contains(&self.as_str())
    }
}

/// Names by which the host means itself, in folders, labels and messages.
const RESERVED: [&str; 4] = ["local", "built-in", "host", "mcpp"];

/// Which of the tenants that ever had a name: made at random when the tenant is. Those that were made before there were incarnations, and `local`, have none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Option<String>", into = "Option<String>")]
pub struct Incarnation(Option<Arc<str>>);

impl From<Option<String>> for Incarnation {
    fn from(text: Option<String>) -> Self {
        Self(text.map(Into::into))
    }
}

impl From<Incarnation> for Option<String> {
    fn from(incarnation: Incarnation) -> Self {
        incarnation.0.map(|text| text.as_ref().to_owned())
    }
}

impl Incarnation {
    /// A new one.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(Some(format!("{:032x}", u128::from_be_bytes(bytes)).into())))
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl TryFrom<String> for TenantId {
    type Error = InvalidTenantId;

    fn try_from(name: String) -> Result<Self, InvalidTenantId> {
        Self::new(&name)
    }
}

impl From<TenantId> for String {
    fn from(tenant: TenantId) -> Self {
        tenant.as_str().to_owned()
    }
}

impl std::str::FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(name: &str) -> Result<Self, InvalidTenantId> {
        Self::new(name)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The scope that lets a principal list and call tools.
pub const SCOPE_TOOLS: &str = "tools";
/// The scope that lets a principal read the metrics of the whole host.
pub const SCOPE_METRICS: &str = "metrics";
/// All scopes.
pub const SCOPES: [&str; 2] = [SCOPE_TOOLS, SCOPE_METRICS];

/// A caller: an authenticated identity within a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The tenant in whose catalog this principal's calls run.
    pub tenant: TenantId,
    /// Which of the tenants that ever had that name.
    pub incarnation: Incarnation,
    /// The caller's name within the tenant.
    pub subject: Arc<str>,
    /// The principal's scopes.
    pub scopes: Arc<BTreeSet<String>>,
    /// The tools that it may see and call; none for all of the tenant's.
    pub tools: Option<Arc<[ToolPattern]>>,
}

impl Principal {
    /// Whether `tool` is there for this principal.
    pub fn may_use(&self, tool: &ToolName) -> bool {
        self.tools.as_ref().is_none_or(|tools| tools.iter().any(|pattern| pattern.matches(tool)))
    }

    /// The user of this machine: stdio, and loopback while no authentication is configured.
    pub fn local_user() -> Self {
        Self {
            tenant: TenantId::local(),
            incarnation: Incarnation::default(),
            subject: "local-user".into(),
            scopes: Arc::new(BTreeSet::from(SCOPES.map(str::to_owned))),
            tools: None,
        }
    }
}

impl Principal {
    /// A component of a tenant, for work that the host began by itself.
    pub fn system(tenant: TenantId, component: &ComponentName) -> Self {
        let subject = format!("system:{component}").into();
        let incarnation = Incarnation::default();
        Self { tenant, incarnation, subject, scopes: Arc::new(BTreeSet::from([SCOPE_TOOLS.to_owned()])), tools: None }
    }
}

/// Proof that the principal inside may do what the value says.
#[derive(Debug)]
pub struct Authorized<T>(T);

impl<T> Authorized<T> {
    /// Checks that `principal` has `scope`; only then there is an authorized `value`.
    pub fn check(value: T, principal: &Principal, scope: &'static str) -> Result<Self, Denied> {
        if !principal.scopes.contains(scope) {
            return Err(Denied { subject: Arc::clone(&principal.subject), scope });
        }
        Ok(Self(value))
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// The value, for good.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// The principal may not do this.
#[derive(Debug, thiserror::Error)]
#[error("{subject} lacks the scope `{scope}`")]
pub struct Denied {
    subject: Arc<str>,
    scope: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_names_are_checked() {
        for (name, legal) in
            [("local", true), ("team-7", true), ("", false), ("Team", false), ("a/b", false), (&"a".repeat(65), false)]
        {
            assert_eq!(TenantId::new(name).is_ok(), legal, "{name:?}");
        }
    }
}
