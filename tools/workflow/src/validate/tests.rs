use serde_json::json;

use super::*;

/// `add` takes a and b; `free` is not seen; others are missing.
struct Tools;

impl Catalog for Tools {
    fn tool(&self, name: &str) -> Known {
        match name {
            "add" => Known::Tool {
                input: json!({ "type": "object", "properties": { "a": { "type": "number" }, "b": { "type": "number" } }, "required": ["a", "b"], "additionalProperties": false }),
                output: Some(json!({ "type": "object", "properties": { "sum": { "type": "number" } } })),
            },
            "free" => Known::Unseen,
            _ => Known::Missing,
        }
    }
}

fn said(steps: Value) -> Result<Graph, String> {
    let steps = parse(steps.as_array().expect("a list")).map_err(|problem| problem.to_string())?;
    check(&steps, 0, &Tools).map_err(|problem| problem.to_string())
}

#[test]
fn a_graph_is_what_the_steps_say_and_what_their_placeholders_name() {
    let graph = said(json!([
        { "step_id": "c", "action": "add", "inputs": { "a": "${steps.b.result.sum}", "b": 1 }, "depends_on": ["a"] },
        { "step_id": "a", "action": "free" },
        { "step_id": "b", "action": "add", "inputs": { "a": 1, "b": "${input.x}" } }
    ]))
    .expect("fits");
    assert_eq!(graph.depends_on, [vec![1, 2], vec![], vec![]]);
    assert_eq!(graph.dependents, [vec![], vec![0], vec![0]]);
    assert_eq!(graph.order, [1, 2, 0]);
    assert_eq!(graph.names[0], BTreeMap::from([("b".to_owned(), 2)]));
}

#[test]
fn the_first_thing_that_is_wrong_is_named_with_its_step_and_place() {
    let step = |id: &str, more: Value| {
        let mut step = json!({ "step_id": id, "action": "free" });
        more.as_object().expect("an object").iter().for_each(|(name, value)| step[name] = value.clone());
        step
    };
    for (steps, error) in [
        (json!([]), "a workflow has at least one step"),
        (json!([{ "step_id": "a" }]), "Invalid step structure — missing step_id or action: {\"step_id\":\"a\"}"),
        (json!([step("a", json!({ "retries": 1 }))]), "step 'a': unknown field `retries`"),
        (json!([step("a b", json!({}))]), "step 'a b' at /step_id: a step's id has 1 to 64"),
        (json!([step("a", json!({})), step("a", json!({}))]), "step 'a' at /step_id: another step has this id"),
        (
            json!([step("a", json!({ "depends_on": ["x"] }))]),
            "step 'a' at /depends_on/0: Step 'a' depends on non-existent step 'x'",
        ),
        (
            json!([step("a", json!({ "depends_on": ["a"] }))]),
            "step 'a' at /depends_on: Workflow contains cycle: a -> a",
        ),
        (
            json!([
                step("z", json!({ "depends_on": ["a"] })),
                step("a", json!({ "depends_on": ["b"] })),
                step("b", json!({ "inputs": { "x": "${steps.c.result}" } })),
                step("c", json!({ "depends_on": ["a"] }))
            ]),
            "step 'a' at /depends_on: Workflow contains cycle: a -> c -> b -> a",
        ),
        (
            json!([step("a", json!({ "inputs": { "x": "${steps.b.result}" } }))]),
            "step 'a' at /inputs/x: `${steps.b.result}` refers to non-existent step 'b'",
        ),
        (
            json!([step("a", json!({ "inputs": { "x": "${item}" } }))]),
            "step 'a' at /inputs/x: `${item}` stands only in a step with `for_each`",
        ),
        (
            json!([step("a", json!({ "inputs": { "x": "${result}" } }))]),
            "step 'a' at /inputs/x: `${result}` stands only in an undo",
        ),
        (json!([step("a", json!({ "action": "other" }))]), "step 'a' at /action: there is no tool `other`"),
        (
            json!([step("a", json!({ "undo": { "action": "other" } }))]),
            "step 'a' at /undo/action: there is no tool `other`",
        ),
        (
            json!([step("a", json!({ "action": "add", "inputs": { "a": 1 } }))]),
            "step 'a' at /inputs/b: \"b\" is missing",
        ),
        (
            json!([step("a", json!({ "action": "add", "inputs": { "a": 1, "b": "x" } }))]),
            "step 'a' at /inputs/b: must be of type number, and is a string",
        ),
        (
            json!([
                step("a", json!({ "action": "add", "inputs": { "a": 1, "b": 2 } })),
                step("b", json!({ "inputs": { "x": ["${steps.a.result.total}"] } }))
            ]),
            "step 'b' at /inputs/x/0: `${steps.a.result.total}`: the result of `add` has no \"total\"",
        ),
        (
            json!([step("a", json!({ "action": "wait", "inputs": { "seconds": 1, "signal": "s" } }))]),
            "step 'a' at /inputs: exactly one of",
        ),
        (
            json!([step(
                "a",
                json!({ "action": "workflow", "inputs": { "steps": [step("b", json!({ "depends_on": ["x"] }))] } })
            )]),
            "step 'a/b' at /depends_on/0: ",
        ),
        (
            json!([step("a", json!({ "retry": { "max_attempts": 0 } }))]),
            "step 'a' at /retry: max_attempts must be 1 to 1000",
        ),
        (
            json!([step("a", json!({ "for_each": { "items": [], "parallel": 0 } }))]),
            "step 'a' at /for_each/parallel: must be 1 to 100",
        ),
    ] {
        let said = said(steps.clone()).expect_err(error);
        assert!(said.starts_with(error), "{said}\nnot\n{error}");
    }
}

#[test]
fn steps_stand_only_so_deep_within_steps() {
    let mut step = json!({ "step_id": "s", "action": "free" });
    for _ in 0..MAX_DEPTH {
        step = json!({ "step_id": "s", "action": "workflow", "inputs": { "steps": [step], "input": "${input}" } });
    }
    said(json!([step])).expect("as deep as may be");
    let step = json!({ "step_id": "s", "action": "workflow", "inputs": { "steps": [step] } });
    assert!(said(json!([step])).expect_err("too deep").contains("stand at most 4 deep"));
}
