//! The source of `container-0.1.0.wasm`, which also holds `mcpp:delegation` 0.1.2 to its word. For the record: it is not built any more.

use std::time::Duration;

use mcpp_tool::{
    Error, Output, caller,
    container::{Event, Order, Source, run},
    rights::{self, Limits, Rights},
    store, tool,
};
use serde_json::Value;

/// Runs a container; all that it says and how it ends.
#[tool]
fn frozen_container(image: String, command: Vec<String>, timeout_ms: u64) -> Output {
    let order = Order { command, timeout: Duration::from_millis(timeout_ms), ..Order::new(Source::Image(image)) };
    let mut container = match run(&order) {
        Ok(container) => container,
        Err(error) => return Output::text(format!("{error:?}")),
    };
    let mut told = Vec::new();
    loop {
        match container.next(Duration::from_secs(5)) {
            Ok(Some(Event::Ended(ending))) => {
                told.push(format!("{:?} {:?}", ending.outcome, ending.exit_code));
                return Output::text(told.join("; "));
            }
            Ok(Some(Event::Output(origin, bytes))) => {
                told.push(format!("{origin:?} {:?}", String::from_utf8_lossy(&bytes)));
                if bytes.starts_with(b"kill me") {
                    container.kill();
                }
            }
            Ok(Some(Event::Phase(phase))) => told.push(format!("{phase:?}")),
            Ok(None) => told.push("nothing".to_owned()),
            Err(error) => return Output::text(format!("{error:?}")),
        }
    }
}

/// Starts a container and forgets its handle, so that nothing in the component ends it.
#[tool]
fn frozen_forget(image: String, command: Vec<String>) -> Output {
    let order = Order { command, timeout: Duration::from_secs(60), ..Order::new(Source::Image(image)) };
    let Ok(mut container) = run(&order) else { return Output::text("it did not start") };
    let seen = format!("{:?}", container.next(Duration::from_secs(30)));
    std::mem::forget(container);
    Output::text(seen)
}

/// Calls a tool within rights, for an effect.
#[tool]
fn frozen_effect(tools: Option<Vec<String>>, effect: String, tool: String, arguments: Value) -> Result<Output, Error> {
    Ok(Rights(tools).call_for_effect(&effect, &tool, &arguments, Some(Duration::from_secs(5)))?)
}

/// The key of this call's effect.
#[tool]
fn frozen_key() -> Output {
    Output::text(format!("{:?} {}", caller::idempotency_key(), rights::host_stops()))
}

/// Sets the entry that `frozen_until` looks at.
#[tool]
fn frozen_change(value: String) -> Result<Output, Error> {
    store::transact(|writing| writing.set(b"entry", value.as_bytes()).map_err(Error::from))?;
    Ok(Output::text("changed"))
}

/// Calls a tool until the entry changes.
#[tool]
fn frozen_until(tool: String, arguments: Value) -> Output {
    let version = store::snapshot().ok().and_then(|seen| seen.get(b"entry").ok().flatten()).map_or(0, |entry| entry.version);
    let limits = Limits { entry: Some((b"entry".to_vec(), version)), host_stops: true };
    match Rights(None).call_until(&limits, &tool, &arguments, None) {
        Ok(output) => output,
        Err(error) => Output::text(format!("{error:?}")),
    }
}

mcpp_tool::export!(frozen_container, frozen_forget, frozen_effect, frozen_key, frozen_change, frozen_until);
