//! Callers, and their rights.
//!
//! Every key, cache, session and metric carries a [`TenantId`]. A [`Principal`] identifies the caller at the door ([`crate::auth`]);
//! only [`Authorized::check`] makes the [`Authorized`] call that the registry accepts, so an unauthenticated or unauthorized call cannot reach a tool.

pub mod door;
pub mod home;
pub mod rates;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};

use crate::names::{ComponentName, TenantId, ToolName, ToolPattern};

/// Which of the tenants that ever had a name: made at random when the tenant is. Those that were made before there were incarnations, and `local`, have none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

    /// Whether the tenant's resources and prompts are there for this principal: for one that may use all tools.
    pub fn may_read(&self) -> bool {
        self.tools.as_ref().is_none_or(|tools| tools.iter().any(|pattern| String::from(pattern.clone()) == "*"))
    }

    /// The same caller with no more than the tools that `bound` allows.
    #[must_use]
    pub fn within(&self, bound: &[ToolPattern]) -> Self {
        // A set: patterns that nest would else give one for each pair.
        let tools: HashSet<ToolPattern> = match &self.tools {
            None => bound.iter().cloned().collect(),
            Some(own) => own.iter().flat_map(|own| bound.iter().filter_map(|bound| own.meet(bound))).collect(),
        };
        let tools: Vec<ToolPattern> = tools.into_iter().collect();
        Self { tools: Some(tools.into()), ..self.clone() }
    }

    /// The user of this machine: stdio, and loopback while no authentication is configured.
    pub fn local_user() -> Self {
        static LOCAL_USER: LazyLock<Principal> = LazyLock::new(|| Principal {
            tenant: TenantId::local(),
            incarnation: Incarnation::default(),
            subject: "local-user".into(),
            scopes: Arc::new(BTreeSet::from(SCOPES.map(str::to_owned))),
            tools: None,
        });
        LOCAL_USER.clone()
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

/// Proof that the principal inside may do what the value says. The value is boxed: on its way it goes through many futures, each of which would hold and copy it.
#[derive(Debug)]
pub struct Authorized<T>(Box<T>);

impl<T> Authorized<T> {
    /// Checks that `principal` has `scope`; only then there is an authorized `value`.
    pub fn check(value: T, principal: &Principal, scope: &'static str) -> Result<Self, Denied> {
        if !principal.scopes.contains(scope) {
            return Err(Denied { subject: Arc::clone(&principal.subject), scope });
        }
        Ok(Self(Box::new(value)))
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// The value, for good.
    pub fn into_inner(self) -> Box<T> {
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

    fn tools(patterns: &[&str]) -> Vec<ToolPattern> {
        patterns.iter().map(|pattern| pattern.parse().expect("a pattern")).collect()
    }

    #[test]
    fn a_bound_never_widens_what_a_caller_may_use() {
        let all = Principal::local_user();
        let some = Principal { tools: Some(tools(&["text_*", "add"]).into()), ..all.clone() };
        let names =
            ["text_hash", "text_join", "add", "addition", "other"].map(|name| ToolName::new(name).expect("legal"));
        for bound in [&["*"] as &[_], &["text_hash", "other"], &["te*", "a*"], &["text_*"], &["add"], &[]] {
            let bound = tools(bound);
            for principal in [&all, &some] {
                let within = principal.within(&bound);
                for name in &names {
                    let allowed = principal.may_use(name) && bound.iter().any(|pattern| pattern.matches(name));
                    assert_eq!(within.may_use(name), allowed, "{name} within {bound:?}");
                }
            }
        }
    }

    #[test]
    fn patterns_that_nest_do_not_multiply() {
        let nested: Vec<String> = (1..=100).map(|length| "a".repeat(length) + "*").collect();
        let nested = tools(&nested.iter().map(String::as_str).collect::<Vec<_>>());
        let mut principal = Principal::local_user();
        for _ in 0..8 {
            principal = principal.within(&nested);
        }
        assert_eq!(principal.tools.map(|tools| tools.len()), Some(100));
    }
}
