use serde_json::{Value, json};

use super::super::{Blind, Graph, check as check_all, parse};

fn said(more: Value) -> Result<Graph, String> {
    let mut step = json!({ "step_id": "s", "action": "free" });
    more.as_object().expect("an object").iter().for_each(|(name, value)| step[name] = value.clone());
    let steps = json!([{ "step_id": "before", "action": "free" }, step]);
    let steps = parse(steps.as_array().expect("a list")).map_err(|problem| problem.to_string())?;
    check_all(&steps, 0, &Blind).map_err(|problem| problem.to_string())
}

#[test]
fn keys_and_cached_results_have_bounds_and_stand_only_in_steps_that_call_tools() {
    let key = |key: &str, limit: u32| json!({ "concurrency": { "key": key, "limit": limit } });
    let rate = |limit: u32, per_s: f64| json!({ "rate": { "key": "k", "limit": limit, "per_s": per_s } });
    let cache = |ttl_s: f64| json!({ "cache": { "ttl_s": ttl_s } });
    let task = || json!({ "action": "task", "inputs": { "task_type": "render" } });
    let with = |mut one: Value, more: Value| {
        more.as_object().expect("an object").iter().for_each(|(name, value)| one[name] = value.clone());
        one
    };
    let wait = || json!({ "action": "wait", "inputs": { "signal": "go" } });
    let inner = json!([{ "step_id": "a", "action": "free" }]);
    let workflow = || json!({ "action": "workflow", "inputs": { "steps": inner } });
    for (step, error) in [
        (key("", 1), "/concurrency/key: a key is written in 1 to 1024 bytes; this one has 0"),
        (key(&"k".repeat(1_025), 1), "/concurrency/key: a key is written"),
        (key("k", 0), "/concurrency/limit: must be 1 to 10000"),
        (key("k", 10_001), "/concurrency/limit: must be"),
        (key("${result}", 1), "/concurrency/key: `${result}` stands only in an undo"),
        (key("${item}", 1), "/concurrency/key: `${item}` stands only in a step with `for_each`"),
        (key("${steps.no.result}", 1), "/concurrency/key: `${steps.no.result}` refers to non-existent"),
        (key("${no", 1), "/concurrency/key: \"${no\" has no `}`"),
        (rate(0, 1.0), "/rate/limit: must be 1 to 1000000"),
        (rate(1_000_001, 1.0), "/rate/limit: must be"),
        (rate(1, 0.0), "/rate/per_s: must be 0.001 s to 86400 s"),
        (rate(1, 86_401.0), "/rate/per_s: must be"),
        (cache(0.9), "/cache/ttl_s: must be 1 s to 2592000 s"),
        (cache(2_592_001.0), "/cache/ttl_s: must be"),
        (with(cache(9.0), json!({ "plan": true })), "/cache: a planner has none"),
        (with(cache(9.0), json!({ "undo": { "action": "free" } })), "/cache: a step with `undo` has none"),
        (with(wait(), key("k", 1)), "/concurrency: a `wait` step has none"),
        (with(wait(), rate(1, 1.0)), "/rate: a `wait` step has none"),
        (with(workflow(), key("k", 1)), "/concurrency: a `workflow` step has none"),
        (with(workflow(), cache(9.0)), "/cache: a `workflow` step has none"),
        (with(task(), cache(9.0)), "/cache: a `task` step has none"),
    ] {
        let said = said(step.clone()).expect_err(error);
        assert!(said.starts_with(&format!("step 's' at {error}")), "{said}\nnot\n{error}");
    }
    for step in [
        with(with(key(&"k".repeat(1_024), 10_000), rate(1_000_000, 0.001)), cache(2_592_000.0)),
        with(with(key("k", 1), rate(1, 86_400.0)), json!({ "plan": true, "undo": { "action": "free" } })),
        with(key("k-${item}-${index}", 1), json!({ "for_each": { "items": [1] } })),
    ] {
        assert_eq!(said(step.clone()).map(drop), Ok(()), "{step}");
    }
    let graph = said(key("k-${steps.before.result.x}", 1)).expect("it fits together");
    assert_eq!(graph.depends_on, [vec![], vec![0]], "a step in a key is waited for");
}
