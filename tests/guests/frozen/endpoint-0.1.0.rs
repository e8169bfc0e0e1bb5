//! The source of `endpoint-0.1.0.wasm`, for the record: it is not built any more.

use mcpp_tool::{Error, Output, call, call::CallError, caller, log, progress, tool};
use serde_json::Value;

/// Calls itself until it is refused; says how deep that was.
#[tool]
fn frozen_recurse(depth: u32) -> Result<u32, Error> {
    match call("frozen_recurse", &serde_json::json!({ "depth": depth + 1 })) {
        Ok(output) => {
            let deeper = output.structured.as_ref().and_then(|value| value.get("result")).and_then(Value::as_u64);
            u32::try_from(deeper.unwrap_or_default()).map_err(Error::from)
        }
        Err(CallError::TooDeep) => Ok(depth),
        Err(error) => Err(error.into()),
    }
}

/// Uses every function of the endpoint and says what it saw.
#[tool]
fn frozen_look() -> Output {
    log::info("looking");
    progress::report(1.0, None, None);
    let principal = caller();
    Output::text(format!(
        "{} {} {} {:?} {}",
        principal.tenant,
        principal.subject,
        caller::traceparent(),
        caller::remaining(),
        caller::cancelled()
    ))
}

mcpp_tool::export!(frozen_recurse, frozen_look);
