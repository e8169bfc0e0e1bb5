//! Values of plain components: what small arguments become, and what small types say.

use std::fmt::Write as _;

use mcpp::{config::Config, memory::MemoryUse, names::TenantId};
use serde_json::{Value, json};

use crate::support::{TestHost, folder, grant, guest, text_of, wat};

/// A component with these types and functions, over a module whose functions do nothing.
fn component(types: &str, functions: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
            {types}
            (core module $m
                (memory (export "memory") 100)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 65536)
                (func (export "one") (param i32) (result i32) i32.const 1)
                (func (export "two") (param i32 i32) (result i32) i32.const 1))
            (core instance $i (instantiate $m))
            (alias core export $i "memory" (core memory $memory))
            (alias core export $i "realloc" (core func $realloc))
            {functions})"#
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arguments_become_is_charged_before_it_is_made() {
    let name = "a".repeat(60_000);
    let lift = r#"(canon lift (core func $i "two") (memory $memory) (realloc (core func $realloc)))"#;
    let wasm = component(
        &format!(r#"(type $r (record (field "{name}" (option (tuple u8 u8))))) (export $record "record" (type $r))"#),
        &format!(
            r#"(func (export "records") (param "x" (list $record)) (result s32) {lift})
            (func (export "bytes") (param "x" (list u8)) (result s32) {lift})"#
        ),
    );
    let bounded =
        |config: &mut Config| config.tenant_limits = toml::from_str("message_bytes = 16777216").expect("limits");
    let host = TestHost::start_with(folder(&[("values", &wasm)]), bounded).await;
    assert_eq!(host.problems(), "");
    let told = |answer: &Value| (answer["result"]["isError"].clone(), text_of(answer));
    let records = |number: usize| json!({ "x": vec![json!({}); number] });
    let bytes = |number: usize| json!({ "x": "AAAA".repeat(number / 3) });
    for (tool, few, many) in
        [("values_records", records(100), records(1_000)), ("values_bytes", bytes(30_000), bytes(900_000))]
    {
        let (is_error, text) = told(&host.call(tool, many).await);
        assert_eq!(is_error, true, "{tool}");
        assert!(text.contains("the values that they become take"), "{tool}: {text}");
        assert_eq!(told(&host.call(tool, few).await), (json!(false), r#"{"result":1}"#.to_owned()), "{tool}");
    }
    // The host looks for errors in values too, but not where they would be many.
    for (number, is_deep) in [(10, true), (1_000, false)] {
        let mut wrong = records(number);
        wrong["x"][number - 1][&name] = json!([1, "two"]);
        let (is_error, text) = told(&host.call("values_records", wrong).await);
        assert_eq!((is_error, text.contains("a/1")), (json!(true), is_deep), "{}", text.replace(&name, "…"));
    }
    let account = host.host.registry().share(&TenantId::local()).expect("open").memory.clone();
    host.until("all is given back", async |_| account.used(MemoryUse::Messages) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_do_not_fit_are_not_described_without_end() {
    let mut cases = String::new();
    (0..9_000).for_each(|n| write!(cases, r#" "e{n}""#).expect("written"));
    let mut functions = String::new();
    for n in 0..100 {
        let lift = r#"(canon lift (core func $i "one"))"#;
        write!(functions, r#"(func (export "f{n}") (param "x" $large) (result $large) {lift})"#).expect("written");
    }
    // It would fit beside the others, were there not so many that did not.
    functions += r#"(func (export "last") (param "x" u8) (result s32) (canon lift (core func $i "one")))"#;
    let types = format!(r#"(type $e (enum{cases})) (export $large "large" (type $e))"#);
    let host = TestHost::start(&[("many", &component(&types, &functions))]).await;
    assert_eq!(host.problems(), "");
    let tools = host.tools().await;
    let offered = |name: &str| tools.iter().any(|tool| tool == name);
    assert!(offered("many_f0") && offered("many_f20"), "{tools:?}");
    assert!(!offered("many_f99") && !offered("many_last"), "{tools:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_of_many_names_are_charged_for_what_they_take() {
    let mut cases = String::new();
    (0..9_000).for_each(|n| write!(cases, r#" "e{n}""#).expect("written"));
    let lift = r#"(canon lift (core func $i "one"))"#;
    let types = format!(r#"(type $e (enum{cases})) (export $large "large" (type $e))"#);
    let functions = |number: usize| {
        (0..number)
            .map(|n| format!(r#"(func (export "f{n}") (param "x" $large) (result s32) {lift})"#))
            .collect::<String>()
    };
    // Some 6 MB a function.
    let bounded = |config: &mut Config| {
        config.tenant_limits = toml::from_str("code_bytes = 67108864").expect("limits");
    };
    let (few, many) = (component(&types, &functions(3)), component(&types, &functions(30)));
    let host = TestHost::start_with(folder(&[("few", &few), ("many", &many)]), bounded).await;
    let problems = host.problems();
    assert!(problems.starts_with("many: ") && problems.contains("the schemas of its tools"), "{problems}");
    assert_eq!(host.tools().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_refuses_an_argument_in_a_few_words() {
    let components = folder(&[("hostile", &guest("hostile"))]);
    grant(
        &components,
        "[components.hostile]\nstore = {}\n[[components.hostile.http]]\nurl = 'http://127.0.0.1:9'\naddresses = ['127.0.0.1/32']",
    );
    let host = TestHost::start_with(components, |_| {}).await;
    assert_eq!(host.problems(), "");
    let answer = host.call("hostile_refuse", json!({ "bytes": 1 << 20 })).await;
    assert_eq!(answer["result"]["isError"], true);
    let text = text_of(&answer);
    assert!(text.starts_with("error: invalid argument") && text.ends_with('é'), "{}", &text[..40]);
    assert!(text.len() > 16 << 10 && text.len() < 17 << 10, "{}", text.len());
}
