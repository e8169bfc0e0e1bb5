//! The source of `delegation-0.1.0.wasm`, for the record: it is not built any more.

use mcpp_tool::{Error, Output, rights, rights::Rights, tool};
use serde_json::Value;

/// What the caller may use, and whether a tool is there for it.
#[tool]
fn frozen_rights(tool: String) -> Output {
    let described = rights::describe(&tool).map(|found| (found.input["type"].clone(), found.output.is_some()));
    Output::text(format!("{:?} {described:?}", rights::of_caller().0))
}

/// Calls a tool within bounds.
#[tool]
fn frozen_within(tools: Option<Vec<String>>, tool: String, arguments: Value) -> Result<Output, Error> {
    Ok(Rights(tools).call(&tool, &arguments, Some(std::time::Duration::from_secs(5)))?)
}

mcpp_tool::export!(frozen_rights, frozen_within);
