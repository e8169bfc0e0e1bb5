//! Fuel: counted exactly where the operator asks for it, and nowhere else.

use serde_json::{Value, json};

use crate::{
    command_line::{run, stdout},
    support::{TestHost, add, folder, grant, guest, text_of, wat},
};

/// A component with two tools: `c_count` adds up to `to`, `c_other` gives 1.
fn counter() -> Vec<u8> {
    wat(r#"(component
        (core module $m
            (func (export "count") (param $to i32) (result i32) (local $n i32)
                (loop $more
                    (local.set $n (i32.add (local.get $n) (i32.const 1)))
                    (br_if $more (i32.lt_u (local.get $n) (local.get $to))))
                (local.get $n))
            (func (export "other") (result i32) i32.const 1))
        (core instance $i (instantiate $m))
        (func (export "count") (param "to" u32) (result u32) (canon lift (core func $i "count")))
        (func (export "other") (result u32) (canon lift (core func $i "other"))))"#)
}

/// The text of the answer, and the fuel in its receipt.
async fn call(host: &TestHost, tool: &str, arguments: Value) -> (String, Value) {
    let params = json!({ "name": tool, "arguments": arguments, "_meta": { "mcpp/cost": true } });
    let answer = crate::support::answer(host.modern("tools/call", params).send().await.expect("an answer")).await;
    let cost = &answer["result"]["_meta"]["mcpp/cost"];
    assert!(cost["cpu_ms"].is_number(), "{answer}");
    (text_of(&answer), cost["fuel"].clone())
}

async fn host(grants: &str) -> TestHost {
    let files = folder(&[("c", &counter()), ("add", &add()), ("probe", &guest("probe"))]);
    grant(&files, grants);
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn fuel_is_counted_exactly_where_it_is_limited() {
    let host = host("[components.c.limits]\nfuel = 100000\n[components.probe.limits]\nfuel = 1000000000\n").await;
    let (text, fuel) = call(&host, "c_count", json!({ "to": 1_000 })).await;
    assert_eq!(text, r#"{"result":1000}"#);
    let used = fuel.as_u64().expect("counted");
    assert!((4_000..20_000).contains(&used), "{used} for 1,000 rounds of about 8 instructions");
    for _ in 0..3 {
        assert_eq!(call(&host, "c_count", json!({ "to": 1_000 })).await.1, fuel, "the same call costs the same");
    }
    let more = call(&host, "c_count", json!({ "to": 2_000 })).await.1.as_u64().expect("counted");
    let (least, most) = (used * 19 / 10, used * 2);
    assert!((least..=most).contains(&more), "{used} for 1,000 rounds and {more} for 2,000");
    let (text, fuel) = call(&host, "c_count", json!({ "to": 1_000_000 })).await;
    assert_eq!(text, "error: budget `fuel` exceeded: the tool was stopped at 100000");
    assert_eq!(fuel, json!(100_000), "it stops at the limit");
    // An SDK tool too: it is asked for its tools when it is loaded, and that is not limited.
    let (text, fuel) = call(&host, "probe_add", json!({ "a": 40, "b": 2 })).await;
    assert!(!text.starts_with("error") && fuel.as_u64().is_some_and(|fuel| fuel > 1_000), "{text} {fuel}");
    assert_eq!(call(&host, "add", json!({ "a": 40, "b": 2 })).await, (r#"{"result":42}"#.to_owned(), Value::Null));
    let counted = host.metric("mcpp_call_fuel_total").await;
    assert!(counted.iter().any(|line| line.contains("c_count")), "{counted:?}");
    assert!(counted.iter().all(|line| !line.contains(r#"tool="add""#)), "{counted:?}");
    let data = host.folder.path().join("data").display().to_string();
    let info = tokio::task::block_in_place(|| stdout(&run(&["info", "--data", &data], &[])));
    let limited: Vec<Vec<&str>> = info
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(1) == Some(&"fuel"))
        .collect();
    assert!(limited.contains(&vec!["c_count", "fuel", "100000"]), "{info}");
    assert!(limited.iter().all(|words| words[0] != "add"), "{info}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_key_nothing_is_counted_any_more() {
    let host = host("[components.c.tools.c_count.limits]\nfuel = 100000\n").await;
    let (text, fuel) = call(&host, "c_other", json!({})).await;
    assert!(text == r#"{"result":1}"# && fuel.is_u64(), "of one component, what is not limited is counted too: {fuel}");
    assert!(call(&host, "c_count", json!({ "to": 1_000_000 })).await.0.contains("budget `fuel` exceeded"));
    grant(&host.folder, "[components.c]\n");
    host.host.reload().await.expect("reloaded");
    let answer = call(&host, "c_count", json!({ "to": 1_000_000 })).await;
    assert_eq!(answer, (r#"{"result":1000000}"#.to_owned(), Value::Null));
    grant(&host.folder, "[components.c.limits]\nfuel = 100000\n");
    host.host.reload().await.expect("reloaded");
    assert!(call(&host, "c_count", json!({ "to": 1_000_000 })).await.0.contains("budget `fuel` exceeded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_have_fuel_together() {
    let spins = crate::tasks::component("(loop (br 0)) (i32.const 0)", "(i32.const 0)");
    let yields = crate::tasks::component("(i32.const 1)", "(i32.const 1)");
    let files = folder(&[("spins", &spins), ("yields", &yields)]);
    grant(&files, "[components.spins.limits]\nfuel = 5000\n[components.yields.limits]\nfuel = 5000\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    for tool in ["spins_run", "yields_run"] {
        let (text, fuel) = call(&host, tool, json!({ "ms": 1 })).await;
        assert_eq!(text, "error: budget `fuel` exceeded: the tool was stopped at 5000", "{tool}");
        assert_eq!(fuel, json!(5_000), "{tool}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_built_in_component_is_counted_for_who_asks_for_it() {
    let files = folder(&[]);
    grant(&files, "[components.text.limits]\nfuel = 50000000\n");
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    let (_, fuel) = call(&host, "text_hash", json!({ "text": "hello" })).await;
    assert!(fuel.is_u64(), "{fuel}");
}
