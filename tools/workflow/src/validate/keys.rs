//! Whether the keys of a step, and its cached result, are as they should be.

use serde_json::Value;

use super::{Problem, problem};
use crate::{
    definition::{
        CACHE_TTL_S, MAX_CONCURRENCY, MAX_KEY_TEXT_BYTES, MAX_RATE, RATE_PERIOD_S, Step, TASK, WAIT, WORKFLOW,
    },
    placeholder::{Placeholder, PlaceholderError, placeholders},
};

/// The keys of a step as they are written, and where they stand.
fn keys(step: &Step) -> impl Iterator<Item = (&'static str, &String)> {
    let concurrency = step.concurrency.iter().map(|concurrency| ("/concurrency/key", &concurrency.key));
    concurrency.chain(step.rate.iter().map(|rate| ("/rate/key", &rate.key)))
}

/// The placeholders of a step's keys.
pub(super) fn placeholders_of(step: &Step) -> Result<Vec<(String, Placeholder)>, PlaceholderError> {
    let mut found = Vec::new();
    for (at, key) in keys(step) {
        found.extend(placeholders(&Value::String(key.clone()), at)?);
    }
    Ok(found)
}

/// Checks the keys of a step, and its cached result.
pub(super) fn check(step: &Step) -> Result<(), Problem> {
    let is_tool = ![WAIT, WORKFLOW].contains(&&*step.action);
    let given = [
        ("/concurrency", step.concurrency.is_some()),
        ("/rate", step.rate.is_some()),
        ("/cache", step.cache.is_some()),
    ];
    if let Some((at, _)) = given.iter().find(|(_, is_given)| *is_given && !is_tool) {
        return Err(problem(step, at, format!("a `{}` step has none: only a step that calls a tool has", step.action)));
    }
    for (at, key) in keys(step) {
        if !(1..=MAX_KEY_TEXT_BYTES).contains(&key.len()) {
            let reason = format!("a key is written in 1 to {MAX_KEY_TEXT_BYTES} bytes; this one has {}", key.len());
            return Err(problem(step, at, reason));
        }
    }
    if step.concurrency.as_ref().is_some_and(|concurrency| !(1..=MAX_CONCURRENCY).contains(&concurrency.limit)) {
        return Err(problem(step, "/concurrency/limit", format!("must be 1 to {MAX_CONCURRENCY}")));
    }
    if let Some(rate) = &step.rate {
        if !(1..=MAX_RATE).contains(&rate.limit) {
            return Err(problem(step, "/rate/limit", format!("must be 1 to {MAX_RATE}")));
        }
        if !(RATE_PERIOD_S.0..=RATE_PERIOD_S.1).contains(&rate.per_s) {
            let reason = format!("must be {} s to {} s", RATE_PERIOD_S.0, RATE_PERIOD_S.1);
            return Err(problem(step, "/rate/per_s", reason));
        }
    }
    cache(step)
}

fn cache(step: &Step) -> Result<(), Problem> {
    let Some(cache) = &step.cache else { return Ok(()) };
    if !(CACHE_TTL_S.0..=CACHE_TTL_S.1).contains(&cache.ttl_s) {
        let reason = format!("must be {} s to {} s", CACHE_TTL_S.0, CACHE_TTL_S.1);
        return Err(problem(step, "/cache/ttl_s", reason));
    }
    if step.action == TASK {
        let reason = format!("a `{TASK}` step has none: a worker does its task");
        return Err(problem(step, "/cache", reason));
    }
    if step.plan {
        return Err(problem(step, "/cache", "a planner has none: its steps are made anew for each run".into()));
    }
    if step.undo.is_some() {
        return Err(problem(
            step,
            "/cache",
            "a step with `undo` has none: a cached result has no effect to undo".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
