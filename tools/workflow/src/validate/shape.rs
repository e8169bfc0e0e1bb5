//! Whether a step by itself is as it should be: its numbers, its condition, its list, and the form of its action. What a placeholder stands for is not known yet; a handler looks
//! at it when the step runs.

use mcpp_tool::environment::now_ms;
use serde_json::{Map, Value};

use super::{Catalog, Problem, problem};
use crate::{
    definition::{
        Join, MAX_ATTEMPTS, MAX_DEPTH, MAX_ITEM_STEP_BYTES, MAX_ITEMS, MAX_TASK_TYPE_BYTES, MAX_TIME_S, Retry, Step,
        TASK, TASK_FIELDS, WAIT, WORKFLOW, Wait,
    },
    placeholder::{Source, placeholders, pointer},
};

/// Checks a step of a list that stands so deep within steps.
pub(super) fn check(step: &Step, depth: u8, catalog: &impl Catalog) -> Result<(), Problem> {
    numbers(step)?;
    condition(step)?;
    list(step)?;
    if step.plan && [WAIT, TASK, WORKFLOW].contains(&&*step.action) {
        return Err(problem(step, "/plan", "a planner is a tool".into()));
    }
    match &*step.action {
        WAIT => wait(step, catalog),
        TASK => task(step),
        WORKFLOW => workflow(step, depth, catalog),
        _ => Ok(()),
    }
}

/// Whether the numbers of a step are within their bounds.
fn numbers(step: &Step) -> Result<(), Problem> {
    let retries = [("/retry", Some(&step.retry)), ("/undo/retry", step.undo.as_ref().map(|undo| &undo.retry))];
    for (at, retry) in retries {
        let Some(Retry { max_attempts, backoff_s, factor, max_backoff_s, jitter, final_errors }) = retry else {
            continue;
        };
        let reason = if !(1..=MAX_ATTEMPTS).contains(max_attempts) {
            format!("max_attempts must be 1 to {MAX_ATTEMPTS}")
        } else if ![*backoff_s, *max_backoff_s].iter().all(|time| (0.0..=MAX_TIME_S).contains(time)) {
            "a wait must be 0 s to a year".into()
        } else if !(1.0..=100.0).contains(factor) {
            "factor must be 1 to 100".into()
        } else if !(0.0..=1.0).contains(jitter) {
            "jitter must be 0 to 1".into()
        } else if final_errors.len() > 100 {
            "at most 100 final errors are allowed".into()
        } else {
            continue;
        };
        return Err(problem(step, at, reason));
    }
    if step.timeout_s.is_some_and(|time| !(0.001..=MAX_TIME_S).contains(&time)) {
        return Err(problem(step, "/timeout_s", "must be 0.001 s to a year".into()));
    }
    if step.priority.is_some_and(|priority| !priority.is_finite()) {
        return Err(problem(step, "/priority", "must be a finite number".into()));
    }
    Ok(())
}

/// Whether the condition of a step can be one.
fn condition(step: &Step) -> Result<(), Problem> {
    let Some(when) = &step.when else { return Ok(()) };
    for (at, found) in placeholders(&when.value, "/when/value").unwrap_or_default() {
        if matches!(found.source, Source::Item | Source::Index) {
            let reason =
                format!("`${{{found}}}` has no value here: the condition is of the whole step, not of an item");
            return Err(problem(step, &at, reason));
        }
    }
    let other = [("/when/is", &when.is), ("/when/is_not", &when.is_not)];
    let open = other.into_iter().find(|(_, value)| value.as_ref().is_some_and(is_open));
    open.map_or(Ok(()), |(at, _)| Err(problem(step, at, "a placeholder stands only in `value`".into())))
}

/// Whether a step for each item of a list can be one.
fn list(step: &Step) -> Result<(), Problem> {
    let Some(for_each) = &step.for_each else { return Ok(()) };
    if !(1..=100).contains(&for_each.parallel) {
        return Err(problem(step, "/for_each/parallel", "must be 1 to 100".into()));
    }
    let (most, what) = match &for_each.items {
        Value::Array(items) if items.len() > MAX_ITEMS => {
            let reason = format!("{} items; at most {MAX_ITEMS} are allowed", items.len());
            return Err(problem(step, "/for_each/items", reason));
        }
        Value::Array(items) => (items.len(), "items are there"),
        // Any other text with a placeholder is a text when it is filled.
        Value::String(text) if text.starts_with("${") && text.find('}') == text.len().checked_sub(1) => {
            (MAX_ITEMS, "items are allowed")
        }
        _ => return Err(problem(step, "/for_each/items", "must be a list, or one placeholder for it".into())),
    };
    if let Join::AtLeast(needed) = for_each.join
        && usize::try_from(needed).is_ok_and(|needed| needed > most)
    {
        let reason = format!("{needed} items must succeed, and only {most} {what}");
        return Err(problem(step, "/for_each/join", reason));
    }
    let bytes = serde_json::to_string(&step.of_item()).map_or(usize::MAX, |text| text.len());
    if bytes > MAX_ITEM_STEP_BYTES {
        let reason = format!(
            "each item has the step again, which has {bytes} bytes; at most {MAX_ITEM_STEP_BYTES} are allowed: keep what is large in the run's input, and refer to it"
        );
        return Err(problem(step, "", reason));
    }
    Ok(())
}

/// Whether a step that waits knows what for.
fn wait(step: &Step, catalog: &impl Catalog) -> Result<(), Problem> {
    let names = ["seconds", "until", "signal", "webhook", "event", "form"];
    let (mut known, mut open) = (Map::new(), Vec::new());
    for (name, value) in &step.inputs {
        if !names.contains(&&**name) {
            let reason = format!("a step that waits has no {name:?}; it has {}", names.join(", "));
            return Err(problem(step, &format!("/inputs/{}", pointer(name)), reason));
        }
        if value.is_string() && is_open(value) {
            open.push(name.as_str());
        } else {
            known.insert(name.clone(), value.clone());
        }
    }
    if let Some(form) = known.get_mut("form").and_then(Value::as_object_mut)
        && form.get("schema").is_some_and(is_open)
    {
        form.remove("schema");
    }
    let event = known.get_mut("event").and_then(Value::as_object_mut);
    let is_known_topic = !event.is_some_and(close);
    let wait: Wait =
        serde_json::from_value(Value::Object(known)).map_err(|error| problem(step, "/inputs", error.to_string()))?;
    let could_be = open.iter().any(|name| *name != "form");
    if wait.count() > 1 || wait.count() == 0 && !could_be {
        return Err(problem(step, "/inputs", "exactly one of seconds, until, signal, webhook and event".into()));
    }
    // A signal that is not known yet has a name.
    let signal = wait.signal.clone().or_else(|| open.contains(&"signal").then(|| "signal".to_owned()));
    if let Some((field, reason)) = (Wait { signal: signal.clone(), ..wait.clone() }).fault(now_ms()) {
        return Err(problem(step, &format!("/inputs/{field}"), reason));
    }
    if let Some(reason) = wait.event.as_ref().filter(|_| is_known_topic).and_then(|event| catalog.event_refusal(event))
    {
        return Err(problem(step, "/inputs/event/topic", reason));
    }
    if step.retry.max_attempts > 1 {
        return Err(problem(step, "/retry", "a step that waits is tried once".into()));
    }
    let is_given = signal.is_some() || wait.webhook.is_some() || wait.event.is_some();
    let is_for_somebody = is_given || open.contains(&"webhook") || open.contains(&"event");
    if step.timeout_s.is_some() && !is_for_somebody {
        let reason = "a step that waits for a time has none: it ends at that time".into();
        return Err(problem(step, "/timeout_s", reason));
    }
    Ok(())
}

/// Puts something legal in the place of what is not known yet of an event; whether its topic is not.
fn close(event: &mut Map<String, Value>) -> bool {
    let is_open_topic = event.get("topic").is_some_and(is_open);
    if is_open_topic {
        event.insert("topic".into(), "any/topic".into());
    }
    if event.get("key").is_some_and(is_open) {
        event.remove("key");
    }
    is_open_topic
}

/// Whether a step of a worker says which type of task it is, and nothing that is not its own.
fn task(step: &Step) -> Result<(), Problem> {
    if let Some(name) = step.inputs.keys().find(|name| !TASK_FIELDS.contains(&name.as_str())) {
        let reason = format!("a `{TASK}` step has no {name:?}; it has {}", TASK_FIELDS.join(", "));
        return Err(problem(step, &format!("/inputs/{}", pointer(name)), reason));
    }
    let is_legal = match step.inputs.get("task_type") {
        Some(Value::String(name)) => {
            step.inputs.get("task_type").is_some_and(is_open) || (1..=MAX_TASK_TYPE_BYTES).contains(&name.len())
        }
        _ => false,
    };
    if is_legal {
        return Ok(());
    }
    let reason = format!("must be a text of 1 to {MAX_TASK_TYPE_BYTES} bytes");
    Err(problem(step, "/inputs/task_type", reason))
}

/// Whether a step that is a workflow by itself has steps that can be one.
fn workflow(step: &Step, depth: u8, catalog: &impl Catalog) -> Result<(), Problem> {
    if depth >= MAX_DEPTH {
        return Err(problem(step, "", format!("steps stand at most {MAX_DEPTH} deep within steps")));
    }
    if let Some(name) = step.inputs.keys().find(|name| !["steps", "input"].contains(&&***name)) {
        let reason = format!("a `{WORKFLOW}` step has no {name:?}; it has steps and input");
        return Err(problem(step, &format!("/inputs/{}", pointer(name)), reason));
    }
    if step.retry.max_attempts > 1 {
        let reason = format!("a `{WORKFLOW}` step is tried once; give `retry` to the steps within it");
        return Err(problem(step, "/retry", reason));
    }
    let steps = step.inputs.get("steps").and_then(Value::as_array);
    let steps = steps.ok_or_else(|| problem(step, "/inputs/steps", "must be a list of steps".into()))?;
    let inner = super::parse(steps).and_then(|steps| super::check(&steps, depth.saturating_add(1), catalog));
    inner.map(drop).map_err(|inner| Problem {
        step: Some(match &inner.step {
            Some(name) => format!("{}/{name}", step.step_id),
            None => step.step_id.clone(),
        }),
        ..inner
    })
}

/// Whether a value has a placeholder, so that it is not known yet.
fn is_open(value: &Value) -> bool {
    placeholders(value, "").map_or(true, |found| !found.is_empty())
}
