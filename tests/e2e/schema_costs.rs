//! Schemas that cost too much: to compile, or to hold a value to.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::support::{TestHost, add, answer, folder, text_of};

/// An SDK component of one tool with these schemas, which answers every call with `structured`.
fn tool(name: &str, input: &Value, output: Option<&Value>, structured: &str) -> Vec<u8> {
    let (mut data, mut texts) = (String::new(), Vec::new());
    let mut at = 1_024;
    for text in
        [name.to_owned(), input.to_string(), output.map(Value::to_string).unwrap_or_default(), structured.to_owned()]
    {
        let escaped = text.bytes().fold(String::new(), |mut escaped, byte| {
            write!(escaped, "\\{byte:02x}").expect("written");
            escaped
        });
        writeln!(data, "(data (i32.const {at}) \"{escaped}\")").expect("written");
        texts.push((at, text.len()));
        at += text.len().next_multiple_of(8) + 8;
    }
    let word = |place: usize, value: usize| format!("(i32.store (i32.const {place}) (i32.const {value}))");
    let pair = |place: usize, (at, length): (usize, usize)| format!("{} {}", word(place, at), word(place + 4, length));
    // The list's pointer and length; its one tool, field by field; and the result of a call.
    let stores = [
        pair(0, (16, 1)),
        pair(16, texts[0]),
        pair(36, texts[0]),
        pair(44, texts[1]),
        word(52, usize::from(output.is_some())),
        pair(56, texts[2]),
        word(204, 0),
        word(208, 0),
        word(212, 1),
        pair(216, texts[3]),
    ];
    let module = format!(
        r#"(module (memory (export "memory") 512) {data} (global $next (mut i32) (i32.const {heap}))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
              (local $at i32)
              (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
              (global.set $next (i32.add (local.get $at) (local.get 3)))
              (local.get $at))
            (func $fill {stores})
            (func (export "mcpp:tool/tools@0.1.0#list") (result i32) (call $fill) (i32.const 0))
            (func (export "mcpp:tool/tools@0.1.0#call") (param i32 i32 i32 i32) (result i32) (call $fill) (i32.const 200)))"#,
        heap = at.next_multiple_of(65_536),
        stores = stores.join(" "),
    );
    let mut resolve = Resolve::default();
    let wit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/tool");
    let (package, _) = resolve.push_path(wit).expect("WIT");
    let world = resolve.select_world(&[package], Some("tool-component")).expect("a world");
    let mut module = wat::parse_str(module).expect("a module");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("embedded");
    ComponentEncoder::default().module(&module).expect("a module").encode().expect("a component")
}

/// Each of so many definitions is two references to the next.
fn definitions(length: usize) -> Value {
    let each = (0..length).map(|n| {
        let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
        (format!("d{n}"), json!({ "allOf": [next.clone(), next] }))
    });
    Value::Object(each.chain([(format!("d{length}"), json!({}))]).collect::<Map<_, _>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_that_cost_too_much_are_refused_when_they_are_loaded() {
    let patterns = (0..4_000).map(|n| (format!("^[a-z]+{n}$"), json!({ "type": "integer" }))).collect::<Map<_, _>>();
    let chain = json!({ "type": "object", "$ref": "#/$defs/d0", "$defs": definitions(25) });
    let unevaluated =
        json!({ "type": "object", "$ref": "#/$defs/d0", "unevaluatedProperties": false, "$defs": definitions(25) });
    let deep = json!({ "type": "object", "$ref": "#/$defs/d0", "$defs": definitions(40) });
    let patterns = json!({ "type": "object", "patternProperties": patterns });
    let plain = json!({ "type": "object" });
    let files = folder(&[
        ("chain", &tool("chain", &chain, None, "{}")),
        ("deep", &tool("deep", &deep, None, "{}")),
        ("unevaluated", &tool("unevaluated", &unevaluated, None, "{}")),
        ("patterns", &tool("patterns", &patterns, None, "{}")),
        ("output", &tool("output", &plain, Some(&unevaluated), "{}")),
        ("plain", &tool("plain", &plain, Some(&plain), r#"{"a":1}"#)),
    ]);
    let host = TestHost::start_with(files, |_| {}).await;
    let said = host.problems();
    for line in [
        "chain: its tool `chain` is refused: its input schema: with its references followed, it costs too much to hold even an empty object to it",
        "deep: its tool `deep` is refused: its input schema: its subschemas apply one another to the same value too deep",
        "unevaluated: its tool `unevaluated` is refused: its input schema: with its references followed, it is too large to compile",
        "patterns: its tool `patterns` is refused: its input schema: it has more than 100 patterns",
        "output: its tool `output` is refused: its output schema: with its references followed, it is too large to compile",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(host.text("plain", json!({})).await, r#"{"a":1}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_could_take_more_than_the_call_may_is_refused_before_it_runs() {
    let below = json!({ "type": "object", "properties": { "x": { "$ref": "#/$defs/d0" } }, "$defs": definitions(25) });
    let patterns = (0..100).map(|n| (format!("^([a-z]+|{n})*{n}$"), json!(true))).collect::<Map<_, _>>();
    let patterns = json!({ "type": "object", "patternProperties": patterns });
    let plain = json!({ "type": "object" });
    let files = folder(&[
        ("below", &tool("below", &below, None, r#"{"x":1}"#)),
        ("patterns", &tool("patterns", &patterns, None, "{}")),
        ("result", &tool("result", &plain, Some(&below), r#"{"x":1}"#)),
        ("add", &add()),
    ]);
    let host = TestHost::start_with(files, |config| {
        config.limits = toml::from_str("cpu_ms = 1000").expect("limits");
        config.server.max_body_bytes = 4 << 20;
    })
    .await;
    assert_eq!(host.problems(), "");
    let refusal = "to hold it to its schema could take more processor time than the call has (`cpu_ms`, 1000)";
    assert_eq!(host.text("below", json!({})).await, r#"{"x":1}"#, "what costs little is called");
    let said = host.text("below", json!({ "x": 1 })).await;
    assert!(said.contains(&format!("invalid argument: {refusal}")), "{said}");
    let names = (0..20_000).map(|n| (format!("{}{n}", "a".repeat(60)), json!(1))).collect::<Map<_, _>>();
    let said = host.text("patterns", Value::Object(names)).await;
    assert!(said.contains(refusal), "{said}");
    let said = host.text("result", json!({})).await;
    assert!(said.contains(&format!("the tool's result is invalid: {refusal}")), "{said}");
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_check_is_the_calls_own_processor_time_and_finds_what_is_wrong() {
    let numbers = json!({ "type": "object", "properties": { "n": { "type": "array", "items": { "type": "integer", "minimum": 0 } } } });
    let many = |last: i64| json!({ "n": (0..60_000).chain([last]).collect::<Vec<i64>>() });
    let files = folder(&[
        ("in", &tool("in", &numbers, None, "{}")),
        ("good", &tool("good", &json!({ "type": "object" }), Some(&numbers), &many(1).to_string())),
        ("bad", &tool("bad", &json!({ "type": "object" }), Some(&numbers), &many(-1).to_string())),
    ]);
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.text("in", many(1)).await, "{}");
    let call = json!({ "name": "in", "arguments": many(-1), "_meta": { "mcpp/cost": true } });
    let refused = answer(host.modern("tools/call", call).send().await.expect("an answer")).await;
    let said = text_of(&refused);
    assert!(said.contains("invalid argument at `/n/60000`"), "{}", &said[..said.len().min(300)]);
    // No guest has run: the time is that of the check.
    let cost = &refused["result"]["_meta"]["mcpp/cost"];
    assert!(cost["cpu_ms"].as_f64().is_some_and(|time| time > 0.0), "{cost}");
    assert!(host.text("good", json!({})).await.starts_with(r#"{"n":[0,1,2"#));
    let said = host.text("bad", json!({})).await;
    assert!(said.contains("the tool's result is invalid at `/n/60000`"), "{}", &said[..said.len().min(300)]);
}

/// The processor time of a call, in milliseconds: the least of a few, as a machine that does other things adds to it.
async fn cpu_ms(host: &TestHost, tool: &str) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let call = json!({ "name": tool, "arguments": {}, "_meta": { "mcpp/cost": true } });
        let done = answer(host.modern("tools/call", call).send().await.expect("an answer")).await;
        assert_ne!(done["result"]["isError"], true, "{}", text_of(&done));
        least = least.min(done["result"]["_meta"]["mcpp/cost"]["cpu_ms"].as_f64().expect("a number"));
    }
    least
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_of_a_long_result_is_the_calls_own_processor_time() {
    // Each number is held to a hundred rules, so that the check is most of the work.
    let cases = (0..100).map(|n| json!({ "not": { "const": -1 - n } })).collect::<Vec<_>>();
    let numbers = json!({ "type": "object", "properties": { "n": { "type": "array", "items": { "allOf": cases } } } });
    let result = json!({ "n": (0..5_000).collect::<Vec<i64>>() }).to_string();
    let object = json!({ "type": "object" });
    let files = folder(&[
        ("held", &tool("held", &object, Some(&numbers), &result)),
        ("free", &tool("free", &object, Some(&object), &result)),
    ]);
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    let (held, free) = (cpu_ms(&host, "held").await, cpu_ms(&host, "free").await);
    assert!(held > free * 2.0, "{held} ms with the check, {free} ms without");
}
