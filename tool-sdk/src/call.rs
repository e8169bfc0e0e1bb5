//! Calls to other tools of the same tenant. A component that uses this needs a grant: `call = ["TOOL"]`.

use serde::Serialize;

use crate::Output;

/// Why a nested call did not succeed.
#[derive(Debug, Clone, PartialEq)]
pub enum CallError {
    /// There is no such tool for this caller, or the grant does not name it.
    NotFound,
    /// The arguments do not match the tool's input schema; why.
    InvalidArguments(String),
    /// The tool answered with an error; its blocks.
    Failed(Output),
    /// The host has no room now; may be repeated later.
    Busy,
    /// Calls are nested too deeply.
    TooDeep,
    /// The call was stopped; why.
    Aborted(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such tool, or no grant to call it"),
            Self::InvalidArguments(reason) => f.write_str(reason),
            Self::Failed(_) => f.write_str("the called tool failed"),
            Self::Busy => f.write_str("the host has no room for another call now"),
            Self::TooDeep => f.write_str("calls are nested too deeply"),
            Self::Aborted(reason) => write!(f, "the called tool was stopped: {reason}"),
        }
    }
}

impl std::error::Error for CallError {}

/// Calls another tool as the same caller and waits for its answer, within what is left of this call's time.
///
/// # Errors
/// See [`CallError`]; in a native test there is nothing to call: [`CallError::NotFound`].
pub fn call(tool: &str, arguments: &impl Serialize) -> Result<Output, CallError> {
    let arguments = serde_json::to_string(arguments).map_err(|error| CallError::InvalidArguments(error.to_string()))?;
    #[cfg(target_arch = "wasm32")]
    {
        use crate::bindings::mcpp::endpoint::call as host;
        host::call(tool, &arguments).map(Output::from).map_err(CallError::from)
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _nothing_to_call = (tool, arguments);
        Err(CallError::NotFound)
    }
}

#[cfg(target_arch = "wasm32")]
impl From<crate::bindings::mcpp::endpoint::call::CallError> for CallError {
    fn from(error: crate::bindings::mcpp::endpoint::call::CallError) -> Self {
        use crate::bindings::mcpp::endpoint::call as host;
        match error {
            host::CallError::NotFound => Self::NotFound,
            host::CallError::InvalidArguments(reason) => Self::InvalidArguments(reason),
            host::CallError::Failed(result) => Self::Failed(result.into()),
            host::CallError::Busy => Self::Busy,
            host::CallError::TooDeep => Self::TooDeep,
            host::CallError::Aborted(reason) => Self::Aborted(reason),
        }
    }
}
