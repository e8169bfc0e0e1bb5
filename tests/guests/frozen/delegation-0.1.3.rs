//! The source of `delegation-0.1.3.wasm`, which also holds `mcpp:hooks` 0.1.0 to its word. For the record: it is not built any more.

use mcpp_tool::{Error, Output, builds, caller, hooks, rights, tool};
use serde_json::Value;

/// Pins the builds that these tools have now; which components they are of.
#[tool]
fn frozen_pin(tools: Vec<String>) -> Result<Output, Error> {
    let pinned = builds::pin(tools)?;
    Ok(Output::text(pinned.iter().map(|build| format!("{} {}", build.component, build.digest.len())).collect::<Vec<_>>().join(", ")))
}

/// How many builds are pinned, and whether one of them has the tool.
#[tool]
fn frozen_pinned(tool: String) -> Output {
    let pinned = builds::pinned();
    let found = builds::describe(&pinned, &tool).is_some();
    Output::text(format!("{} {found}", pinned.len()))
}

/// Calls a tool of what is pinned, or today's.
#[tool]
fn frozen_call(tool: String, arguments: Value, is_pinned: bool) -> Result<Output, Error> {
    let builds = if is_pinned { builds::pinned() } else { Vec::new() };
    Ok(rights::of_caller().call_on(&builds, Some("one effect"), &tool, &arguments, None)?)
}

/// Unpins all.
#[tool]
fn frozen_unpin() -> Output {
    builds::unpin(&builds::pinned());
    Output::text(builds::pinned().len().to_string())
}

/// A token for a tool of this component.
#[tool]
fn frozen_token(tool: String, name: String) -> Output {
    Output::text(hooks::token(&tool, &name).unwrap_or_else(|| "none".to_owned()))
}

/// Takes a hook.
#[tool]
fn frozen_hook(token: String, payload: Value) -> Output {
    Output::text(format!("{} {payload}", token.len()))
}

/// The length of the key that this call's effect has.
#[tool]
fn frozen_effect() -> Output {
    Output::text(caller::idempotency_key().map_or(0, |key| key.len()).to_string())
}

mcpp_tool::export!(frozen_pin, frozen_pinned, frozen_call, frozen_unpin, frozen_token, frozen_hook, frozen_effect);
