//! Builds with which runs begin.

use mcpp_tool::builds::{memory::set_live, pinned};

use super::*;

fn build(component: &str, digest: &str) -> Build {
    Build { component: component.into(), digest: digest.into() }
}

fn begun_with(id: &str) -> Vec<Build> {
    find(&snapshot().expect("a snapshot"), id).expect("there").builds
}

/// The builds on which the calls so far were made.
fn called_on() -> Vec<Vec<Build>> {
    BUILDS.with_borrow(Clone::clone)
}

fn waiting() -> Value {
    json!([
        { "step_id": "a", "action": "echo" },
        { "step_id": "go", "action": "wait", "inputs": { "signal": "go" }, "depends_on": ["a"] },
        { "step_id": "b", "action": "echo", "depends_on": ["go"], "undo": { "action": "other" } }
    ])
}

fn go(id: &str) {
    transact(|t| give(t, id, ("go", &Value::Null), Origin::Client, now_ms())).expect("given");
    run_all();
}

#[test]
fn a_run_keeps_the_builds_it_began_with_and_the_last_that_names_one_lets_it_go() {
    clear();
    let (old, new, other) = (build("text", "1"), build("text", "2"), build("more", "1"));
    set_live("echo", old.clone());
    set_live("other", other.clone());
    start(&draft("one", waiting(), Value::Null));
    start(&draft("two", waiting(), Value::Null));
    run_all();
    set_live("echo", new.clone());
    assert_eq!(begun_with("one"), [other.clone(), old.clone()], "also that of an undo");
    let named = || {
        let reply = crate::tools::builds::workflow_builds().into_result().expect("counted");
        reply["builds"].as_array().expect("a list").iter().map(|build| build["runs"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(named(), [2, 2]);
    go("one");
    assert_eq!(shown("one").0, "completed");
    let on_old = [other.clone(), old.clone()];
    assert_eq!(called_on(), [on_old.clone(), on_old.clone(), on_old], "twice `a`, and the `b` of one");
    assert_eq!(pinned(), [other.clone(), old.clone()], "`two` names them");
    // What is done anew is done by today's tools.
    let request =
        ForkRequest { run: "one".into(), id: "one-2".into(), step: Some("b".into()), ..ForkRequest::default() };
    start(&fork(&snapshot().expect("a snapshot"), &request).expect("it has ended"));
    assert_eq!(begun_with("one-2"), [other.clone(), new.clone()]);
    run_all();
    assert_eq!(called_on().last(), Some(&vec![other.clone(), new.clone()]));
    assert_eq!(pinned(), [other.clone(), old], "the fork has ended");
    assert_eq!(named(), [1, 1]);
    go("two");
    assert_eq!((pinned(), named()), (vec![], vec![]), "no unfinished run names any");
}

#[test]
fn a_plan_adds_builds_of_other_components_and_none_of_those_that_the_run_has() {
    clear();
    set_live("plan", build("text", "1"));
    set_live("echo", build("text", "1"));
    let inner = json!([
        { "step_id": "x", "action": "echo" },
        { "step_id": "y", "action": "other", "depends_on": ["x"] }
    ]);
    let steps = json!([
        { "step_id": "go", "action": "wait", "inputs": { "signal": "go" } },
        { "step_id": "p", "action": "plan", "plan": true, "inputs": { "steps": inner }, "depends_on": ["go"] }
    ]);
    start(&draft("r", steps, Value::Null));
    run_all();
    // `other` comes later, and the component of `echo` is swapped.
    set_live("other", build("more", "1"));
    set_live("echo", build("text", "2"));
    go("r");
    assert_eq!(shown("r").0, "completed", "{:?}", shown("r"));
    assert_eq!(called_on().last(), Some(&vec![build("text", "1"), build("more", "1")]));
    assert_eq!(pinned(), []);
}

#[test]
fn builds_that_a_submission_left_behind_go_with_the_watch() {
    clear();
    set_live("echo", build("text", "1"));
    // Its transaction never came: the host was killed.
    draft("r", json!([{ "step_id": "a", "action": "echo" }]), Value::Null).check(&Blind).expect("it fits together");
    assert_eq!(pinned().len(), 1);
    wake("watch", "timer watch").expect("rung");
    assert_eq!(pinned(), []);
}
