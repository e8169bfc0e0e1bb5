//! A component that calls other tools: it loads only with a grant, and reaches only what the grant names.

use mcpp_tool::{Error, Output, call, call::CallError, tool};
use serde_json::Value;

/// Calls a tool and hands on its answer; the kind of error, if there is one.
#[tool]
fn caller_call(tool: String, arguments: Value) -> Result<Output, Error> {
    match call(&tool, &arguments) {
        Ok(output) => Ok(output),
        Err(error @ CallError::Failed(_)) => Err(Error::failed(format!("failed: {error}"))),
        Err(error) => Err(Error::failed(format!("{error:?}"))),
    }
}

/// Calls itself until it is refused; says how deep that was.
#[tool]
fn caller_recurse(depth: u32) -> Result<u32, Error> {
    match call("caller_recurse", &serde_json::json!({ "depth": depth + 1 })) {
        Ok(output) => {
            let deeper = output.structured.as_ref().and_then(|value| value.get("result")).and_then(Value::as_u64);
            u32::try_from(deeper.unwrap_or_default()).map_err(Error::from)
        }
        Err(CallError::TooDeep) => Ok(depth),
        Err(error) => Err(error.into()),
    }
}

mcpp_tool::export!(caller_call, caller_recurse);
