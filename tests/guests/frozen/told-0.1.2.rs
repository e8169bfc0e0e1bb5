//! The source of `told-0.1.2.wasm`, which holds what the host tells a component to its word: `usage` of `mcpp:store` 0.1.2, `subscribed` of `mcpp:events` 0.1.2, and the place of a call of
//! `mcpp:delegation` 0.1.4. For the record: it is not built any more.

use mcpp_tool::{
    Error, Output,
    builds::Place,
    events::{self, Event},
    rights,
    store::{Map, snapshot, transact},
    tool,
};
use serde_json::Value;

const TEXTS: Map<String, String> = Map::new("texts");

/// Writes a text; the size and the quota of the space in the transaction, and the size in a snapshot behind it.
#[tool]
fn frozen_usage(key: String, text: String) -> Result<Output, Error> {
    let within = transact(|t| {
        TEXTS.set(t, &key, &text)?;
        Ok::<_, Error>(t.usage()?)
    })?;
    let behind = snapshot()?.usage()?;
    Ok(Output::text(format!("{} {} {}", within.used_bytes, within.quota_bytes, behind.used_bytes)))
}

/// The topics of which the host tells this component.
#[tool]
fn frozen_subscribed() -> Output {
    Output::text(events::subscribed().join(", "))
}

/// Calls a tool; where it ran.
#[tool]
fn frozen_placed(tool: String, arguments: Value) -> Output {
    let called = rights::of_caller().call_placed(&[], None, &tool, &arguments, None);
    let place = match called.place {
        None => "nowhere".to_owned(),
        Some(Place::Here) => "here".to_owned(),
        Some(Place::Peer(id)) => id,
    };
    Output::text(format!("{place}: {}", called.answer.is_ok()))
}

/// Without a handler the host tells a component of nothing.
fn on_event(_: Event) -> Result<(), Error> {
    Ok(())
}

mcpp_tool::export! {
    tools: [frozen_usage, frozen_subscribed, frozen_placed],
    events: { "*" => on_event },
}
