//! Tools of which many calls are served at once: each answer says how many were.
#![allow(clippy::disallowed_methods, reason = "a guest has its thread to itself")]

use std::time::Duration;

use mcpp_tool::{
    Error,
    batch::OutcomeEach,
    caller::caller,
    store::{Map, StoreError, transact},
    tool,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often the work with a name was done.
const DONE: Map<String, u32> = Map::new("done");

/// What a call asks.
#[derive(Debug, Deserialize, JsonSchema)]
struct Work {
    /// Its name.
    name: String,
    /// How long it takes, in milliseconds.
    #[serde(default)]
    ms: u64,
    /// How long it waits after it is done, in milliseconds.
    #[serde(default)]
    after_ms: u64,
    /// What becomes of it: `fail` or `trap`; else it is done.
    #[serde(default)]
    end: String,
}

/// What a call did.
#[derive(Debug, Serialize, JsonSchema)]
struct Done {
    /// Its name.
    name: String,
    /// How many calls were served with it.
    together: usize,
    /// Who called.
    caller: String,
    /// How often the work of this name was done.
    times: u32,
}

/// Does some work, also with that of other calls.
#[tool(idempotent)]
fn batch_work(args: Work) -> Result<Done, Error> {
    each(vec![args]).remove(0)
}

/// The same, and may not be repeated.
#[tool]
fn batch_once(args: Work) -> Result<Done, Error> {
    each(vec![args]).remove(0)
}

fn each(calls: Vec<Work>) -> OutcomeEach<Done> {
    let (together, subject) = (calls.len(), caller().subject);
    let longest = calls.iter().map(|work| work.ms).max().unwrap_or_default();
    std::thread::sleep(Duration::from_millis(longest));
    assert!(calls.iter().all(|work| work.end != "trap"), "it is asked to trap");
    let longest_after = calls.iter().map(|work| work.after_ms).max().unwrap_or_default();
    let work = |Work { name, end, .. }: Work| {
        if end == "fail" {
            return Err(Error::failed(format!("{name} is asked to fail")));
        }
        let times = transact(|t| {
            let times = DONE.get(t, &name)?.unwrap_or_default().saturating_add(1);
            DONE.set(t, &name, &times)?;
            Ok::<_, StoreError>(times)
        })?;
        Ok(Done { name, together, caller: subject.clone(), times })
    };
    let outcomes = calls.into_iter().map(work).collect();
    std::thread::sleep(Duration::from_millis(longest_after));
    outcomes
}

/// One outcome less than there are calls.
fn too_few(mut calls: Vec<Work>) -> OutcomeEach<Done> {
    calls.pop();
    each(calls)
}

/// Does some work, and forgets the last of many.
#[tool(idempotent)]
fn batch_forget(args: Work) -> Result<Done, Error> {
    each(vec![args]).remove(0)
}

mcpp_tool::export! {
    tools: [batch_work, batch_once, batch_forget],
    batches: { batch_work => each, batch_once => each, batch_forget => too_few },
}
