//! What a task may call: the common part of several lists of tools.

use mcpp_tool::rights::Rights;
use serde_json::Value;

/// Most entries of a bound: as many as a call within rights takes. What is cut off is not allowed.
const MAX_ENTRIES: usize = 1_000;

/// The narrower of two patterns, if one covers the other; none if they have no tool in common.
fn narrower<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    let covers = |wide: &str, narrow: &str| match wide.strip_suffix('*') {
        Some(prefix) => narrow.strip_suffix('*').unwrap_or(narrow).starts_with(prefix),
        None => wide == narrow,
    };
    match (covers(a, b), covers(b, a)) {
        (true, _) => Some(b),
        (false, true) => Some(a),
        (false, false) => None,
    }
}

/// The tools that are in both.
pub fn common(a: &Rights, b: &Rights) -> Rights {
    let (Rights(Some(a)), Rights(Some(b))) = (a, b) else {
        return Rights(a.0.clone().or_else(|| b.0.clone()));
    };
    let mut both: Vec<String> = Vec::new();
    for pattern in a.iter().flat_map(|a| b.iter().filter_map(|b| narrower(a, b))) {
        if both.len() == MAX_ENTRIES {
            break;
        }
        if both.iter().all(|known| known != pattern) {
            both.push(pattern.to_owned());
        }
    }
    Rights(Some(both))
}

/// What the queue says of the submitter of a claimed task: none if it does not say that all, or which, tools are allowed.
pub fn of_submitter(task: &Value) -> Option<Rights> {
    match task.get("reach")? {
        Value::String(word) if word == "all" => Some(Rights(None)),
        Value::Object(reach) => {
            let tools = reach.get("only")?.as_array()?;
            tools
                .iter()
                .map(|tool| tool.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .map(|tools| Rights(Some(tools)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn some(tools: &[&str]) -> Rights {
        Rights(Some(tools.iter().map(|tool| (*tool).to_owned()).collect()))
    }

    #[test]
    fn a_bound_never_allows_what_one_of_the_lists_does_not() {
        let lists = [
            Rights(None),
            some(&[]),
            some(&["*"]),
            some(&["text_*", "add"]),
            some(&["text_hash", "add*"]),
            some(&["a", "text_hash*", "b*"]),
        ];
        let tools = ["a", "add", "addition", "b", "bee", "text_", "text_hash", "text_hashes", "text_count", "other"];
        for a in &lists {
            for b in &lists {
                for tool in tools {
                    assert_eq!(common(a, b).allow(tool), a.allow(tool) && b.allow(tool), "{tool} by {a:?} and {b:?}");
                }
            }
        }
    }

    #[test]
    fn only_a_clear_word_of_the_queue_is_a_right() {
        assert_eq!(of_submitter(&json!({ "reach": "all" })), Some(Rights(None)));
        assert_eq!(of_submitter(&json!({ "reach": { "only": ["add"] } })), Some(some(&["add"])));
        for unclear in [
            json!({}),
            json!({ "reach": "unknown" }),
            json!({ "reach": null }),
            json!({ "reach": { "only": [1] } }),
            json!({ "reach": { "only": "add" } }),
            json!({ "reach": [] }),
        ] {
            assert_eq!(of_submitter(&unclear), None, "{unclear}");
        }
    }
}
