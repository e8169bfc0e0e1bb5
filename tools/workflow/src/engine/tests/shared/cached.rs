//! Results that steps take from earlier ones: whose, for how long, and how many are kept.

use mcpp_tool::builds::memory::set_live;

use super::*;
use crate::engine::rehearsal::Script;

fn cached(inputs: &Value) -> Value {
    json!([{ "step_id": "s", "action": "echo", "inputs": inputs, "cache": { "ttl_s": 60 } }])
}

/// Runs a run to its end; whether the tool was called for it.
fn calls(draft: &Draft) -> bool {
    let before = effects().len();
    start(draft);
    run_all();
    assert_eq!(shown(&draft.id).0, "completed", "{:?}", shown(&draft.id));
    effects().len() > before
}

fn status(run: &str) -> Value {
    let node = NODES.get(&snapshot().expect("a snapshot"), &(run.to_owned(), 0)).expect("read").expect("there");
    crate::tools::step(&node)["cached"].clone()
}

/// Keys of the store that are of kept results.
fn kept() -> usize {
    memory::entries().iter().filter(|(key, _)| key.starts_with(b"cached-values")).count()
}

#[test]
fn a_step_has_the_result_of_an_earlier_one_with_the_same_tool_build_arguments_and_rights() {
    clear();
    let build = |digest: &str| Build { component: "text".into(), digest: digest.into() };
    set_live("echo", build("1"));
    let some = |tools: &[&str]| Rights(Some(tools.iter().map(|tool| (*tool).to_owned()).collect()));
    let given = json!({ "n": 1, "m": { "a": [1, "${input}"], "b": 2 } });
    assert!(calls(&draft("first", cached(&given), json!(5))));
    assert!(!calls(&draft("second", cached(&json!({ "m": { "b": 2, "a": [1, 5] }, "n": 1 })), Value::Null)));
    assert_eq!((result("first", 0), status("first")), (json!({ "n": 1, "m": { "a": [1, 5], "b": 2 } }), json!(false)));
    assert_eq!((result("second", 0), status("second")), (result("first", 0), json!(true)));
    assert!(calls(&draft("input", cached(&given), json!(6))), "other arguments");
    assert!(calls(&Draft { rights: some(&["echo"]), ..draft("rights", cached(&given), json!(5)) }), "other rights");
    assert!(!calls(&Draft { rights: some(&["echo"]), ..draft("same", cached(&given), json!(5)) }));
    assert!(calls(&Draft { rights: some(&["ech*"]), ..draft("wide", cached(&given), json!(5)) }), "others again");
    set_live("echo", build("2"));
    assert!(calls(&draft("build", cached(&given), json!(5))), "another build");
    let uncached = json!([{ "step_id": "s", "action": "echo", "inputs": given }]);
    assert!(calls(&draft("uncached", uncached, json!(5))), "who does not ask has none");
    assert_eq!(status("uncached"), Value::Null);
    let request =
        ForkRequest { run: "second".into(), id: "fork".into(), step: Some("s".into()), ..ForkRequest::default() };
    set_live("echo", build("1"));
    let forked = fork(&snapshot().expect("a snapshot"), &request).expect("it has ended");
    assert!(!calls(&forked), "a fork too");
    let items = json!([{ "step_id": "s", "action": "echo", "inputs": { "n": "${item}" }, "for_each": { "items": [1, 1, 2], "parallel": 1 }, "cache": { "ttl_s": 60 } }]);
    let before = effects().len();
    assert!(calls(&draft("items", items, Value::Null)));
    assert_eq!((effects().len() - before, result("items", 0)), (2, json!([{ "n": 1 }, { "n": 1 }, { "n": 2 }])));
}

#[test]
fn failures_rehearsals_and_results_that_are_too_large_are_not_kept() {
    clear();
    let step = |tool: &str| json!([{ "step_id": "s", "action": tool, "cache": { "ttl_s": 60 } }]);
    start(&draft("no", step("no"), Value::Null));
    start(&draft("large", step("large"), Value::Null));
    let script = Script::default();
    start(&Draft { script: Some(script.clone()), ..draft("rehearsal", step("echo"), Value::Null) });
    run_all();
    assert_eq!(
        (shown("no").0, shown("large").0, shown("rehearsal").0, kept()),
        ("failed", "completed", "completed", 0)
    );
    assert!(calls(&draft("first", step("echo"), Value::Null)), "a rehearsal keeps none");
    assert!(calls(&Draft { script: Some(script), ..draft("again", step("echo"), Value::Null) }), "and takes none");
    assert_eq!(kept(), 1);
    let long = "x".repeat((256 << 10) - 10);
    assert!(calls(&draft("most", cached(&json!({ "t": long.clone() + "xx" })), Value::Null)));
    assert_eq!(kept(), 2, "256 KiB are kept");
    assert!(calls(&draft("more", cached(&json!({ "t": long + "xxx" })), Value::Null)));
    assert_eq!(kept(), 2);
}

#[test]
fn a_result_is_taken_for_as_long_as_both_steps_say_and_leaves_then() {
    clear();
    let key = |ttl_s: f64| {
        let (cache, arguments) = (crate::definition::Cache { ttl_s }, Map::new());
        cache::CacheKey::of(&cache, (&Rights(None), &[]), "echo", &arguments).expect("a key")
    };
    let now = 1_000_000;
    transact(|t| cache::keep(t, &key(10.0), &json!(7), now)).expect("kept");
    assert_eq!(cache::look_up(&key(10.0), now + 9_999), Some(json!(7)));
    assert_eq!(cache::look_up(&key(100.0), now + 9_999), Some(json!(7)));
    assert_eq!(cache::look_up(&key(100.0), now + 10_000), None, "it is kept no longer");
    assert_eq!(cache::look_up(&key(2.0), now + 2_000), None, "it is too old");
    assert_eq!(memory::timers()["cache"].at_ms, now + 10_000);
    cache::ring(now + 9_999).expect("rung");
    assert_eq!((kept(), memory::timers()["cache"].at_ms), (1, now + 10_999));
    memory::take_timer("cache");
    wake("cache", "timer cache").expect("rung");
    let left = memory::entries().iter().filter(|(key, _)| key.starts_with(b"cached")).count();
    assert_eq!((left, memory::timers().contains_key("cache")), (0, false), "nothing is left");
}

#[test]
fn the_oldest_results_leave_where_there_are_too_many_or_too_large_ones() {
    clear();
    let key = |number: usize| {
        let arguments = json!({ "n": number }).as_object().expect("an object").clone();
        let cache = crate::definition::Cache { ttl_s: 1e6 };
        cache::CacheKey::of(&cache, (&Rights(None), &[]), "echo", &arguments).expect("a key")
    };
    let keep = |number: usize, value: &Value| {
        transact(|t| cache::keep(t, &key(number), value, 1_000 + number as u64)).expect("kept");
    };
    let is_kept = |number: usize| cache::look_up(&key(number), 20_000).is_some();
    // A small one counts as 4 KiB: 8,192 of them are as many bytes as may be.
    for number in 0..8_200 {
        keep(number, &json!(number));
    }
    assert_eq!((kept(), is_kept(7), is_kept(8), is_kept(8_199)), (8_192, false, true, true));
    // 256 KiB are in the place of 64 of them.
    let large = json!("x".repeat((256 << 10) - 2));
    memory::spent();
    keep(8_200, &large);
    let spent = memory::spent();
    assert!(spent.writes < 1_000 && spent.bytes < 2 << 20, "{spent:?}");
    assert_eq!((kept(), is_kept(71), is_kept(72), is_kept(8_200)), (8_192 - 64 + 1, false, true, true));
    // The same one anew takes no other one's place.
    keep(8_200, &large);
    assert_eq!((kept(), is_kept(72)), (8_192 - 64 + 1, true));
}

#[test]
fn a_key_stands_for_one_list_of_texts() {
    let key = |tool: &str, arguments: Value, rights: &Rights| {
        let cache = crate::definition::Cache { ttl_s: 1.0 };
        let arguments = arguments.as_object().expect("an object").clone();
        cache::CacheKey::of(&cache, (rights, &[]), tool, &arguments).expect("a key")
    };
    let all = Rights(None);
    assert_eq!(
        key("a", json!({ "x": 1, "y": [{ "p": 1, "q": 2 }] }), &all),
        key("a", json!({ "y": [{ "q": 2, "p": 1 }], "x": 1 }), &all)
    );
    for (other, arguments) in [
        ("a", json!({ "x": "1" })),
        ("a", json!({ "x": [1] })),
        ("a", json!({ "x": 1, "y": null })),
        ("a", json!({ "x": 1.0 })),
        ("ab", json!({ "x": 1 })),
    ] {
        assert_ne!(key("a", json!({ "x": 1 }), &all), key(other, arguments, &all));
    }
    assert_ne!(key("a", json!({ "x": "b\",\"y\":\"c" }), &all), key("a", json!({ "x": "b", "y": "c" }), &all));
    assert_ne!(key("a", json!({}), &Rights(Some(vec![]))), key("a", json!({}), &all));
}
