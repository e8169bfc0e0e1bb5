use serde_json::json;

use super::*;
use crate::definition::{MAX_DEPTH, MAX_ITEM_STEP_BYTES};

/// `add` takes a and b; `free` is not seen; others are missing.
struct Tools;

impl Catalog for Tools {
    fn tool(&self, name: &str) -> Known {
        match name {
            "add" => Known::Tool {
                input: json!({ "type": "object", "properties": { "a": { "type": "number" }, "b": { "type": "number" } }, "required": ["a", "b"], "additionalProperties": false }),
                output: Some(json!({ "type": "object", "properties": { "sum": { "type": "number" } } })),
            },
            "task_submit" => Known::Tool {
                input: json!({ "type": "object", "properties": {
                    "task_id": { "type": "string" }, "task_type": { "type": "string" }, "payload": { "type": "object" },
                    "priority": { "type": "number" }, "notify": { "type": "boolean" }
                }, "required": ["task_id", "task_type", "payload"], "additionalProperties": false }),
                output: Some(json!({ "type": "object", "properties": { "queue_position": { "type": "number" } } })),
            },
            // A tool with the name of an action is none of a step's.
            "task" => Known::Tool {
                input: json!({ "required": ["z"] }),
                output: Some(json!({ "type": "object", "properties": {}, "additionalProperties": false })),
            },
            "free" => Known::Unseen,
            _ => Known::Missing,
        }
    }

    fn event_refusal(&self, event: &EventWanted) -> Option<String> {
        (event.topic != "orders/paid").then(|| format!("not told of {}", event.topic))
    }
}

#[test]
fn a_step_of_a_worker_is_held_to_the_tool_that_submits_and_a_step_that_waits_to_what_is_granted() {
    let task = |inputs: Value| json!([{ "step_id": "a", "action": "task", "inputs": inputs }]);
    let wait = |event: Value| json!([{ "step_id": "a", "action": "wait", "inputs": { "event": event } }]);
    let mut planner = task(json!({ "task_type": "t" }));
    planner[0]["plan"] = json!(true);
    let mut seconds = wait(json!({ "topic": "orders/paid" }));
    seconds[0]["inputs"]["seconds"] = json!(1);
    for (steps, error) in [
        (task(json!({})), "step 'a' at /inputs/task_type: must be a text of 1 to 200 bytes"),
        (task(json!({ "task_type": "" })), "step 'a' at /inputs/task_type: must be a text of 1 to 200 bytes"),
        (
            task(json!({ "task_type": "x".repeat(201) })),
            "step 'a' at /inputs/task_type: must be a text of 1 to 200 bytes",
        ),
        (task(json!({ "task_type": 7 })), "step 'a' at /inputs/task_type: must be a text of 1 to 200 bytes"),
        (
            task(json!({ "task_type": "t", "task_id": "x" })),
            "step 'a' at /inputs/task_id: a `task` step has no \"task_id\"",
        ),
        (task(json!({ "task_type": "t", "priority": "x" })), "step 'a' at /inputs/priority"),
        (planner, "step 'a' at /plan: a planner is a tool"),
        (wait(json!({ "topic": "orders" })), "step 'a' at /inputs/event: \"orders\" is no topic"),
        (wait(json!({ "topic": "orders/*" })), "step 'a' at /inputs/event: \"orders/*\" is no topic"),
        (
            wait(json!({ "topic": "orders/paid", "key": "k".repeat(257) })),
            "step 'a' at /inputs/event: the key of an event has at most 256",
        ),
        (wait(json!({ "topic": "orders/paid", "kind": 1 })), "step 'a' at /inputs: unknown field `kind`"),
        (wait(json!({ "topic": "orders/sent" })), "step 'a' at /inputs/event/topic: not told of orders/sent"),
        (seconds, "step 'a' at /inputs: exactly one of seconds, until, signal, webhook and event"),
    ] {
        let said = said(steps.clone()).expect_err("it is wrong");
        assert!(said.starts_with(error), "{said} is not {error}");
    }
    let timed = json!([{ "step_id": "a", "action": "wait", "inputs": { "event": { "topic": "orders/paid" } }, "timeout_s": 5 }]);
    for right in [
        task(json!({ "task_type": "x".repeat(200) })),
        task(json!({ "task_type": "${input.kind}", "priority": "${input.priority}", "payload": "${input.payload}" })),
        wait(json!({ "topic": "orders/paid", "key": "k".repeat(256) })),
        wait(json!({ "topic": "orders/paid", "key": 7 })),
        wait(json!({ "topic": "${input.topic}", "key": "${input.key}" })),
        wait(json!("${input.event}")),
        timed,
    ] {
        said(right).expect("it is right");
    }
    // The result is the task's, not the answer of the tool that submits it.
    let mut two = task(json!({ "task_type": "t" }));
    two.as_array_mut()
        .expect("steps")
        .push(json!({ "step_id": "b", "action": "free", "inputs": { "x": "${steps.a.result.pixels}" } }));
    said(two).expect("it is right");
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

#[test]
fn a_step_is_refused_for_all_that_is_known_before_it_runs() {
    let inner = json!([{ "step_id": "b", "action": "free" }]);
    let long = "s".repeat(201);
    for (step, error) in [
        (
            json!({ "action": "wait", "inputs": { "signal": long } }),
            "/inputs/signal: a signal's name has 1 to 200 bytes",
        ),
        (json!({ "action": "wait", "inputs": { "signal": "" } }), "/inputs/signal: a signal's name has 1 to 200 bytes"),
        (json!({ "action": "wait", "inputs": { "until": "banana" } }), "/inputs/until: \"banana\" is no time"),
        (
            json!({ "action": "wait", "inputs": { "until": "9999-01-01T00:00:00Z" } }),
            "/inputs/until: a wait ends within",
        ),
        (json!({ "action": "wait", "inputs": { "webhook": false } }), "/inputs/webhook: it is true"),
        (json!({ "action": "wait", "inputs": { "seconds": 1e300 } }), "/inputs/seconds: a wait ends within ten years"),
        (
            json!({ "action": "wait", "inputs": { "second": 1, "x": "${input}" } }),
            "/inputs/second: a step that waits has no",
        ),
        (json!({ "action": "wait", "inputs": { "seconds": true, "signal": "${input}" } }), "/inputs: invalid type"),
        (json!({ "action": "wait", "inputs": { "form": "${input}" } }), "/inputs: exactly one of"),
        (
            json!({ "action": "wait", "inputs": { "seconds": 1, "form": { "message": "x" } } }),
            "/inputs/form: a form needs",
        ),
        (
            json!({ "action": "wait", "inputs": { "signal": "s", "form": { "message": "" } } }),
            "/inputs/form: a form's message",
        ),
        (
            json!({ "action": "wait", "inputs": { "seconds": 2 }, "timeout_s": 0.5 }),
            "/timeout_s: a step that waits for a time",
        ),
        (
            json!({ "action": "wait", "inputs": { "until": "${input}" }, "timeout_s": 1 }),
            "/timeout_s: a step that waits",
        ),
        (
            json!({ "action": "wait", "inputs": { "signal": "s" }, "retry": { "max_attempts": 3 } }),
            "/retry: a step that waits is tried once",
        ),
        (
            json!({ "action": "workflow", "inputs": { "steps": inner }, "retry": { "max_attempts": 3 } }),
            "/retry: a `workflow` step is tried once",
        ),
        (
            json!({ "action": "workflow", "inputs": { "steps": inner, "inputs": 1 } }),
            "/inputs/inputs: a `workflow` step has no",
        ),
        (json!({ "for_each": { "items": "abc" } }), "/for_each/items: must be a list"),
        (json!({ "for_each": { "items": "n: ${input}" } }), "/for_each/items: must be a list"),
        (json!({ "for_each": { "items": { "a": 1 } } }), "/for_each/items: must be a list"),
        (json!({ "for_each": { "items": vec![0; 1_001] } }), "/for_each/items: 1001 items; at most 1000"),
        (
            json!({ "for_each": { "items": [1], "join": { "at_least": 5 } } }),
            "/for_each/join: 5 items must succeed, and only 1",
        ),
        (json!({ "for_each": { "items": "${input}", "join": { "at_least": 1_001 } } }), "/for_each/join: 1001 items"),
        (
            json!({ "for_each": { "items": [1] }, "inputs": { "text": "x".repeat(MAX_ITEM_STEP_BYTES) } }),
            ": each item has the step again",
        ),
        (
            json!({ "for_each": { "items": [1] }, "when": { "value": "${item.x}" } }),
            "/when/value: `${item.x}` has no value here",
        ),
        (
            json!({ "for_each": { "items": [1] }, "when": { "value": ["${index}"] } }),
            "/when/value/0: `${index}` has no value here",
        ),
        (json!({ "when": { "value": 1, "is": "${input}" } }), "/when/is: a placeholder stands only in `value`"),
    ] {
        let mut whole = step.clone();
        whole["step_id"] = json!("a");
        whole["action"] = step.get("action").cloned().unwrap_or(json!("free"));
        let said = said(json!([whole])).expect_err(error);
        let place = if error.starts_with('/') { format!("step 'a' at {error}") } else { format!("step 'a'{error}") };
        assert!(said.starts_with(&place), "{said}\nnot\n{place}");
    }
}

#[test]
fn a_step_that_may_be_right_is_taken() {
    for step in [
        json!({ "action": "wait", "inputs": { "signal": "s".repeat(200) }, "timeout_s": 1 }),
        json!({ "action": "wait", "inputs": { "seconds": 315_000_000.0 } }),
        json!({ "action": "wait", "inputs": { "until": "2020-01-01T00:00:00Z", "signal": null } }),
        json!({ "action": "wait", "inputs": { "seconds": "${input.s}", "signal": "${input.n}" }, "timeout_s": 1 }),
        json!({ "action": "wait", "inputs": { "webhook": "${input.w}" }, "timeout_s": 1 }),
        json!({ "action": "wait", "inputs": { "signal": "${input}", "form": { "message": "${input}", "schema": "${input}" } } }),
        json!({ "for_each": { "items": "${input.list}", "join": { "at_least": 1_000 } } }),
        json!({ "for_each": { "items": ["x".repeat(MAX_ITEM_STEP_BYTES)] }, "inputs": { "x": "${item}" } }),
        json!({ "for_each": { "items": [] }, "when": { "value": "${input}", "is": null } }),
        json!({ "action": "workflow", "inputs": { "steps": [{ "step_id": "b", "action": "free" }] }, "timeout_s": 1 }),
    ] {
        let mut whole = step.clone();
        whole["step_id"] = json!("a");
        whole["action"] = step.get("action").cloned().unwrap_or(json!("free"));
        assert_eq!(said(json!([whole])).map(drop), Ok(()), "{step}");
    }
}
