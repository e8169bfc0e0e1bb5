//! `mcpp inspect`: what a component is told to be, before it is loaded anywhere, and that it is so.

use serde_json::Value;

use crate::{
    command_line::{run, stderr, stdout},
    plain::with_section,
    support::{TestHost, add, folder, guest, wat},
};

/// `mcpp inspect` of these bytes as a component of this name.
fn inspect(name: &str, wasm: &[u8], arguments: &[&str]) -> (Option<i32>, String) {
    let files = folder(&[(name, wasm)]);
    let file = files.path().join(format!("tools/{name}.wasm")).display().to_string();
    let told = run(&[&["inspect", file.as_str()], arguments].concat(), &[]);
    assert!(told.status.code() != Some(1) || !stdout(&told).is_empty(), "{}", stderr(&told));
    (told.status.code(), stdout(&told))
}

fn json(name: &str, wasm: &[u8]) -> Value {
    serde_json::from_str(&inspect(name, wasm, &["--json"]).1).expect("JSON")
}

#[test]
fn a_component_is_explained() {
    let (code, told) = inspect("store", &guest("store"), &[]);
    assert_eq!(code, Some(0), "{told}");
    for says in [
        "  language: C11, Rust\n",
        "rustc 1.",
        " bytes: code ",
        "needs `call = [\"TOOL\"]` in grants/store.toml",
        "to be told of other/topic (needs `subscribe = [\"other/topic\"]` in grants/store.toml)",
        "\n  subscribe = [\"other/topic\"]\n",
        "    import mcpp:store/snapshots@0.1.2;\n",
        "    export mcpp:tool/tools@0.1.0;\n",
        "  store_add: Adds to a counter; the number then.\n    counter  string\n    delta    integer\n    gives {result: integer}\n",
    ] {
        assert!(told.contains(says), "{says:?} is not in {told}");
    }
    let (code, told) = inspect("sockets", &guest("sockets"), &[]);
    assert!(code == Some(0) && told.contains("linked, every operation denied (no component has this"), "{told}");
    let evil = wat(r#"(component (import "evil:host/escape" (instance (export "go" (func)))))"#);
    let told = json("evil", &evil);
    assert_eq!(
        (&told["imports"][0]["interface"], &told["imports"][0]["loads"], &told["grant"]),
        (&"evil:host/escape".into(), &false.into(), &Value::Null)
    );
    let (code, told) = inspect("evil", &evil, &[]);
    assert!(code == Some(1) && told.contains("No grant lets it load."), "{told}");
    assert!(stderr(&run(&["inspect", "/nowhere.wasm"], &[])).contains("cannot read /nowhere.wasm"));
}

#[test]
fn its_bytes_are_counted() {
    let wasm = guest("probe");
    let told = json("probe", &wasm);
    let size = |part: &str| told["size"][part].as_u64().unwrap_or_else(|| panic!("no {part} in {told}"));
    assert_eq!(size("total"), wasm.len() as u64);
    assert_eq!(size("code") + size("data") + size("custom") + size("other"), size("total"));
    assert!(size("code") > size("total") / 3 && size("data") > 0 && size("modules") > 0);
    // Their order is the linker's.
    let mut exports: Vec<&str> =
        told["world"]["exports"].as_array().expect("a list").iter().map(|name| name.as_str().expect("text")).collect();
    exports.sort_unstable();
    assert_eq!(exports, ["mcpp:tasks/support@0.1.1", "mcpp:tool/tools@0.1.0"]);
}

#[test]
fn its_whole_world_is_wit() {
    let (code, wit) = inspect("store", &guest("store"), &["--wit"]);
    assert_eq!(code, Some(0));
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("store.wit", &wit).expect("WIT");
    let world = resolve.select_world(&[package], None).expect("one world");
    let exports: Vec<String> = resolve.worlds[world].exports.keys().map(|key| resolve.name_world_key(key)).collect();
    assert!(exports.contains(&"mcpp:tool/tools@0.1.0".to_owned()), "{exports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_grant_is_enough_and_none_is_not() {
    let long = "x".repeat(130);
    let named = wat(&format!(
        r#"(component (core module $m (func (export "f") (result i32) i32.const 7)) (core instance $i (instantiate $m))
            (func (export "{long}") (result s32) (canon lift (core func $i "f"))))"#
    ));
    let names = ["probe", "caller", "store", "files", "standard", "web"];
    let mut components: Vec<(&str, Vec<u8>)> = names.into_iter().map(|name| (name, guest(name))).collect();
    components.push(("named", named));
    let borrowed: Vec<(&str, &[u8])> = components.iter().map(|(name, wasm)| (*name, wasm.as_slice())).collect();
    let (bare, granted) = (folder(&borrowed), folder(&borrowed));
    let grants = granted.path().join("data/grants");
    std::fs::create_dir_all(&grants).expect("made");
    let mut needy = Vec::new();
    for (name, wasm) in &components {
        let told = tokio::task::block_in_place(|| json(name, wasm));
        assert_eq!(told["notes"].as_array().map(Vec::len), Some(0), "{told}");
        if let Some(grant) = told["grant"].as_str() {
            std::fs::write(grants.join(format!("{name}.toml")), grant).expect("written");
            needy.push(*name);
        }
    }
    assert_eq!(needy, ["caller", "store", "standard", "web", "named"]);
    let host = TestHost::start_with(granted, |_| {}).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.text("named_1", serde_json::json!({})).await, r#"{"result":7}"#);
    let host = TestHost::start_with(bare, |_| {}).await;
    let refused: Vec<String> =
        host.problems().lines().filter_map(|line| Some(line.split_once(':')?.0.into())).collect();
    assert_eq!(
        refused.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(),
        needy.into_iter().collect()
    );
}

#[test]
fn what_a_component_says_of_itself_forges_nothing() {
    let said = "\u{1b}[2J\nIt loads without a grant.";
    // One field, `language`, with one value and its version.
    let mut producers = vec![1, 8];
    producers.extend_from_slice(b"language\x01");
    producers.push(said.len() as u8);
    producers.extend_from_slice(said.as_bytes());
    producers.push(0);
    let wasm = with_section(add(), "producers", &producers);
    let wasm = with_section(wasm, &format!("{said}-section"), b"x");
    let (_, told) = inspect("add", &wasm, &[]);
    assert!(told.contains("  language: \u{fffd}[2J It loads without a grant.\n"), "{told}");
    assert!(!told.contains('\u{1b}') && told.matches("\nIt loads").count() == 1, "{told}");
}
