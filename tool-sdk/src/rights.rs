//! Work for a caller after its call has ended: the caller's rights, kept with the work, and calls within them. A component that uses this needs a grant: `call = ["TOOL"]`.
//!
//! A handler runs as `system:<component>` and may use all of the tenant's tools that its grant names. The caller for whom it works may perhaps not.
//!
//! ```
//! use mcpp_tool::{Error, rights::{self, Rights}, store::{Map, transact}, tool};
//!
//! const WAITING: Map<String, (String, Rights)> = Map::new("waiting");
//!
//! /// Has a tool called later.
//! #[tool]
//! fn later(name: String, tool: String) -> Result<(), Error> {
//!     let rights = rights::of_caller();  // before a handler is `system:…`
//!     transact(|t| {
//!         WAITING.set(t, &name, &(tool.clone(), rights.clone()))?;
//!         Ok(t.wake_at(&name, 0, b"")?)
//!     })
//! }
//!
//! /// What a timer's handler does.
//! fn now((tool, rights): (String, Rights)) -> Result<(), Error> {
//!     rights.call(&tool, &serde_json::json!({}), None)?;
//!     Ok(())
//! }
//! # mcpp_tool::export!(later);
//! # fn main() {}
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Output, builds::Build, call::CallError};

/// The tools that a caller may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights(
    /// Names, and prefixes that end in `*`; none for all of the tenant's.
    pub Option<Vec<String>>,
);

/// What the catalog says of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The JSON Schema of its arguments.
    pub input: Value,
    /// The JSON Schema of its result, if the tool has one.
    pub output: Option<Value>,
}

impl Description {
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn read(input: String, output: Option<String>) -> Option<Self> {
        let schema = |text: String| serde_json::from_str(&text).ok();
        Some(Self { input: schema(input)?, output: output.and_then(schema) })
    }
}

/// The rights of the running call; in a native test, all.
pub fn of_caller() -> Rights {
    #[cfg(target_arch = "wasm32")]
    return Rights(crate::bindings::mcpp::delegation::rights::tools());
    #[cfg(not(target_arch = "wasm32"))]
    Rights(None)
}

/// What the catalog says of a tool that both the caller and this component may call; in a native test there is none.
pub fn describe(tool: &str) -> Option<Description> {
    #[cfg(target_arch = "wasm32")]
    {
        let found = crate::bindings::mcpp::delegation::rights::describe(tool)?;
        Description::read(found.input_schema, found.output_schema)
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _no_catalog = tool;
        None
    }
}

/// What ends a call early.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// It ends when this entry of the component's own store has another version: its key, as [`Table::key`](crate::store::Table::key) gives it, and its version.
    pub entry: Option<(Vec<u8>, u64)>,
    /// It ends when the host begins to stop.
    pub host_stops: bool,
}

/// Why a call under [`Limits`] did not succeed.
#[derive(Debug, Clone, PartialEq)]
pub enum LimitedError {
    /// As without limits.
    Other(CallError),
    /// The entry changed. The call may have run; it is cancelled.
    Changed,
    /// The host stops. The call may have run; it is cancelled.
    HostStops,
}

/// Whether the host has begun to stop; in a native test it has not.
pub fn host_stops() -> bool {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::mcpp::delegation::rights::host_stops();
    #[cfg(not(target_arch = "wasm32"))]
    false
}

impl Rights {
    /// As [`Rights::call`], until one of the limits ends it.
    ///
    /// # Errors
    /// See [`LimitedError`]; in a native test there is nothing to call: [`CallError::NotFound`].
    pub fn call_until(
        &self,
        limits: &Limits,
        tool: &str,
        arguments: &impl Serialize,
        timeout: Option<Duration>,
    ) -> Result<Output, LimitedError> {
        let invalid = |error: serde_json::Error| LimitedError::Other(CallError::InvalidArguments(error.to_string()));
        let arguments = serde_json::to_string(arguments).map_err(invalid)?;
        #[cfg(target_arch = "wasm32")]
        {
            use crate::bindings::mcpp::delegation::rights as host;
            let terms = self.terms(None, timeout);
            let entry = limits.entry.clone().map(|(key, version)| host::Entry { key, version });
            let limits = host::Limits { entry, host_stops: limits.host_stops };
            host::call_until(&terms, &limits, tool, &arguments).map(Output::from).map_err(|error| match error {
                host::LimitedError::Other(error) => LimitedError::Other(error.into()),
                host::LimitedError::Changed => LimitedError::Changed,
                host::LimitedError::HostStops => LimitedError::HostStops,
            })
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _nothing_to_call = (tool, arguments, limits, timeout);
            Err(LimitedError::Other(CallError::NotFound))
        }
    }

    /// Whether a tool is within them.
    pub fn allow(&self, tool: &str) -> bool {
        let covers = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => tool.starts_with(prefix),
            None => pattern == tool,
        };
        self.0.as_ref().is_none_or(|tools| tools.iter().any(covers))
    }

    /// Calls another tool within these rights, and within those of the running call. It ends after `timeout`, if that is sooner than the running call's deadline.
    ///
    /// # Errors
    /// See [`CallError`]; in a native test there is nothing to call: [`CallError::NotFound`].
    pub fn call(&self, tool: &str, arguments: &impl Serialize, timeout: Option<Duration>) -> Result<Output, CallError> {
        self.call_under(None, tool, arguments, timeout)
    }

    /// As [`Rights::call`], and `effect` (1 to 512 bytes) names what the call does outside: calls with the same text have one effect, as far as the tool and the servers that it
    /// asks know the [key](crate::caller::idempotency_key). Give a text that only repetitions of one call have.
    ///
    /// # Errors
    /// As [`Rights::call`].
    pub fn call_for_effect(
        &self,
        effect: &str,
        tool: &str,
        arguments: &impl Serialize,
        timeout: Option<Duration>,
    ) -> Result<Output, CallError> {
        self.call_under(Some(effect), tool, arguments, timeout)
    }

    /// As [`Rights::call`], on the one of these builds that has the tool (none: today's), with a name of its effect as in [`Rights::call_for_effect`].
    ///
    /// # Errors
    /// As [`Rights::call`]; [`CallError::Aborted`] if the build cannot be had.
    pub fn call_on(
        &self,
        builds: &[Build],
        effect: Option<&str>,
        tool: &str,
        arguments: &impl Serialize,
        timeout: Option<Duration>,
    ) -> Result<Output, CallError> {
        let arguments =
            serde_json::to_string(arguments).map_err(|error| CallError::InvalidArguments(error.to_string()))?;
        #[cfg(target_arch = "wasm32")]
        {
            use crate::bindings::mcpp::delegation::builds as host;
            host::call_on(&self.terms(effect, timeout), &crate::builds::to_host(builds), tool, &arguments)
                .map(Output::from)
                .map_err(CallError::from)
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _nothing_to_call = (builds, effect, tool, arguments, timeout);
            Err(CallError::NotFound)
        }
    }

    /// The terms of a call under these rights.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn terms(
        &self,
        effect: Option<&str>,
        timeout: Option<Duration>,
    ) -> crate::bindings::mcpp::delegation::rights::Terms {
        let (timeout_ms, effect) = (timeout.map(crate::environment::millis), effect.map(str::to_owned));
        crate::bindings::mcpp::delegation::rights::Terms { tools: self.0.clone(), timeout_ms, effect }
    }

    fn call_under(
        &self,
        effect: Option<&str>,
        tool: &str,
        arguments: &impl Serialize,
        timeout: Option<Duration>,
    ) -> Result<Output, CallError> {
        let arguments =
            serde_json::to_string(arguments).map_err(|error| CallError::InvalidArguments(error.to_string()))?;
        #[cfg(target_arch = "wasm32")]
        {
            use crate::bindings::mcpp::delegation::rights as host;
            host::call_under(&self.terms(effect, timeout), tool, &arguments).map(Output::from).map_err(CallError::from)
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _nothing_to_call = (effect, tool, arguments, timeout);
            Err(CallError::NotFound)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_allow_what_a_pattern_covers() {
        let some = Rights(Some(vec!["text_*".into(), "add".into()]));
        let allowed = ["text_hash", "add", "addition", "tex"].map(|tool| some.allow(tool));
        assert_eq!(allowed, [true, true, false, false]);
        assert!(Rights::default().allow("anything"));
    }
}
