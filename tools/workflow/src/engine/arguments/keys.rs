//! The keys of a step with what their placeholders stand for. A transaction reads that for each step which begins, so it is little.

use std::collections::BTreeMap;

use mcpp_tool::store::{StoreError, View};
use serde_json::Value;

use super::{Bounds, Unfilled, Values};
use crate::{
    definition::{MAX_KEY_BYTES, Step},
    placeholder::{Placeholder, PlaceholderError, fill},
    run::{Node, Run, Turn},
};

/// What a key's placeholders may be taken from, and stand for, in bytes of memory. Nothing is read later.
const OF_KEYS: Bounds = Bounds { read: 256 << 10, filled: 16 << 10, is_first: false };

/// What a step waits for before it begins.
#[derive(Debug, PartialEq)]
pub(in crate::engine) enum Keys {
    /// No key: the step is not done at all, or fails, as its call will find.
    Free,
    /// These.
    Known(Turn),
    /// One of them cannot be had; why.
    Wrong(String),
}

/// The keys of a node that is ready, and the bytes of memory that were read for them.
pub(in crate::engine) fn keys(t: &View<'_>, run: &Run, of: &Node) -> Result<(Keys, usize), StoreError> {
    let mut values = Values { t, run, of, bounds: &OF_KEYS, seen: BTreeMap::new(), read: 0, filled: 0, broken: None };
    let keys = filled(&mut values, &of.step);
    let read = values.read;
    match values.broken.map_or(keys, Err) {
        Ok(keys) => Ok((keys, read)),
        Err(Unfilled::Store(error)) => Err(error),
        Err(Unfilled::Placeholder(error)) => Ok((Keys::Wrong(error.to_string()), read)),
        Err(Unfilled::Later) => Ok((Keys::Wrong("its keys are too large".into()), read)),
    }
}

fn filled(values: &mut Values<'_, '_>, step: &Step) -> Result<Keys, Unfilled> {
    let mut find = |placeholder: &Placeholder| values.find(placeholder);
    if let Some(when) = &step.when
        && !fill(&when.value, "/when/value", &mut find).is_ok_and(|value| when.holds(&value))
    {
        // What does not begin waits for no key.
        return Ok(Keys::Free);
    }
    let mut key = |at: &'static str, text: &String| key(at, fill(&Value::String(text.clone()), at, &mut find)?);
    let concurrency = step.concurrency.as_ref().map(|limit| key("/concurrency/key", &limit.key)).transpose()?;
    let rate = step.rate.as_ref().map(|rate| key("/rate/key", &rate.key)).transpose()?;
    Ok(Keys::Known(Turn { concurrency, rate, ..Turn::default() }))
}

/// A filled key as a text.
fn key(at: &'static str, value: Value) -> Result<String, PlaceholderError> {
    let wrong = |reason: String| Err(PlaceholderError { at: at.to_owned(), reason });
    let key = match value {
        Value::String(text) => text,
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => return wrong("a key is a text, a number or a boolean".into()),
    };
    match (1..=MAX_KEY_BYTES).contains(&key.len()) {
        true => Ok(key),
        false => wrong(format!("a key has 1 to {MAX_KEY_BYTES} bytes; this one has {}", key.len())),
    }
}
