//! The steps of a run's status: all of them, in the order in which a reader expects them, and each in words.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{ask, field};
use crate::mcp::client::Client;

/// Most further parts of a run's steps that a command asks for. A run has 10,000 steps, and a part has 2,000 unless they are large.
const MAX_STEP_PARTS: usize = 100;

/// The status of a run with all its steps.
pub(super) async fn whole(client: &Client, id: &str) -> anyhow::Result<Value> {
    let mut run = ask(client, "workflow_status", json!({ "workflow_id": id })).await?;
    let mut next = run.get("next_step").cloned().unwrap_or_default();
    for _ in 0..MAX_STEP_PARTS {
        if next.is_null() {
            break;
        }
        let part = ask(client, "workflow_status", json!({ "workflow_id": id, "from_step": next })).await?;
        let further = part.get("steps").and_then(Value::as_array).cloned().unwrap_or_default();
        if let Some(Value::Array(steps)) = run.get_mut("steps") {
            steps.extend(further);
        }
        next = part.get("next_step").cloned().unwrap_or_default();
    }
    run.insert("has_more_steps".to_owned(), json!(!next.is_null()));
    run.insert("next_step".to_owned(), next);
    Ok(Value::Object(run))
}

/// A step's path as the host gives it.
pub(super) fn path(step: &Value) -> &str {
    step.get("step_id").and_then(Value::as_str).unwrap_or_default()
}

/// In how many steps the step of a path stands.
pub(super) fn depth(path: &str) -> usize {
    path.matches('/').count()
}

/// The steps of a status: each behind the one in which it stands, those of one list in their order.
pub(super) fn in_order(run: &Value) -> Vec<&Value> {
    let mut steps: Vec<&Value> = run.get("steps").and_then(Value::as_array).into_iter().flatten().collect();
    let places: BTreeMap<&str, usize> = steps.iter().enumerate().map(|(place, step)| (path(step), place)).collect();
    let place = |path: &str| places.get(path).copied().unwrap_or(usize::MAX);
    steps.sort_by_cached_key(|step| {
        let path = path(step);
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        ends.map(|end| place(path.get(..end).unwrap_or_default())).collect::<Vec<_>>()
    });
    steps
}

/// Whether a step has a field that is not null.
pub(super) fn has(step: &Value, name: &str) -> bool {
    !step.get(name).is_none_or(Value::is_null)
}

/// The attempt, if it is not the first one.
pub(super) fn attempt(step: &Value) -> Option<String> {
    let is_another = step.get("attempts").and_then(Value::as_u64).is_some_and(|attempts| attempts > 1);
    is_another.then(|| format!("(attempt {})", field(step, "attempts")))
}

/// What a step waits for, in words that begin with a preposition.
pub(super) fn waits_for(step: &Value) -> Vec<String> {
    let Some(waits_for) = step.get("waits_for") else { return Vec::new() };
    let named = [("signal", "for the signal"), ("token", "for the token"), ("until", "until")];
    let named = named.into_iter().filter(|(name, _)| has(waits_for, name));
    named.map(|(name, what)| format!("{what} {}", field(waits_for, name))).collect()
}

/// Why a step failed, or did not run, on one line.
pub(super) fn why(step: &Value) -> Option<String> {
    // A step that its condition skips, or that waits for a key, has a reason, and no error.
    let name = ["error", "reason"].into_iter().find(|name| step.get(name).is_some_and(Value::is_string))?;
    Some(field(step, name).replace('\n', " "))
}

/// A step in a line.
pub(super) fn describe(step: &Value) -> String {
    let mut words = vec![field(step, "status")];
    words.extend(attempt(step));
    words.extend(step.get("duration_s").and_then(Value::as_f64).map(|seconds| format!("in {seconds} s")));
    words.extend(has(step, "host").then(|| format!("on {}", field(step, "host"))));
    words.extend(waits_for(step));
    let is_cached = step.get("cached") == Some(&Value::Bool(true));
    words.extend(is_cached.then(|| "with the result of an earlier step".to_owned()));
    let line = words.join(" ");
    match why(step) {
        Some(why) => format!("{line}: {why}"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_stands_behind_the_one_in_which_it_is_and_those_of_a_list_keep_their_order() {
        let paths = ["b", "a", "z", "b/2", "b/10", "a/x", "b/2/y"];
        let steps: Vec<Value> = paths.iter().map(|path| json!({ "step_id": path })).collect();
        let run = json!({ "steps": steps });
        let sorted: Vec<&str> = in_order(&run).into_iter().map(path).collect();
        assert_eq!(sorted, ["b", "b/2", "b/2/y", "b/10", "a", "a/x", "z"]);
    }

    #[test]
    fn a_step_in_a_line_says_how_it_is_where_it_ran_and_why() {
        for (step, line) in [
            (json!({ "status": "pending", "attempts": 0, "host": null }), "pending"),
            (
                json!({ "status": "completed", "attempts": 2, "duration_s": 0.5, "host": "here" }),
                "completed (attempt 2) in 0.5 s on here",
            ),
            (
                json!({ "status": "waiting", "waits_for": { "signal": "go", "token": null, "until": "9" } }),
                "waiting for the signal go until 9",
            ),
            (json!({ "status": "failed", "error": "a\nb\u{1b}[2J", "host": "12D3" }), "failed on 12D3: a b\u{fffd}[2J"),
            (json!({ "status": "skipped", "error": null, "reason": "no" }), "skipped: no"),
        ] {
            assert_eq!(describe(&step), line);
        }
    }
}
