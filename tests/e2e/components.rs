//! Files that are no loadable components, each with its exact error; and components of many kinds that are.

use std::fmt::Write as _;

use serde_json::json;

use crate::support::{TestHost, add, binary, folder, guest, two_modules, wat};

/// A component with an import that nobody has.
fn importing(import: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (import "{import}" (instance (export "go" (func))))
            (core module $m (func (export "f") (result i32) i32.const 1))
            (core instance $i (instantiate $m))
            (func (export "run") (result u32) (canon lift (core func $i "f"))))"#
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_loaded_says_why() {
    let cut: Vec<u8> = add().into_iter().take(61).collect();
    let mut flipped = add();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("a-empty", Vec::new()),
        ("b-text", b"(component)".to_vec()),
        ("c-elf", b"\x7fELF and so on".to_vec()),
        ("d-core-module", wat("(module)")),
        ("e-cut", cut),
        ("f-flipped", flipped),
        ("g-no-exports", wat("(component)")),
        ("h-only-types", wat(r#"(component (type $t (record (field "a" u8))) (export "t" (type $t)))"#)),
        ("i-unknown-import", importing("evil:host/escape@1.0.0")),
        ("j-sockets", importing("wasi:sockets/types@0.3.0")),
        ("k-http", importing("wasi:http/outgoing-handler@0.2.0")),
        ("l-call-without-grant", guest("caller")),
        ("m-newer-endpoint", importing("mcpp:endpoint/log@0.9.0")),
        ("n-wrong-type", importing("wasi:cli/exit@0.2.0")),
        (
            "o-root-import",
            wat(r#"(component (import "run" (func)) (core module $m (func (export "f") (result i32) i32.const 1))
            (core instance $i (instantiate $m)) (func (export "r") (result u32) (canon lift (core func $i "f"))))"#),
        ),
        ("p-newer-tools", wat(r#"(component (instance $tools) (export "mcpp:tool/tools@0.9.0" (instance $tools)))"#)),
        (
            "q-tools-without-functions",
            wat(r#"(component (instance $tools) (export "mcpp:tool/tools@0.1.0" (instance $tools)))"#),
        ),
        ("r name with spaces", add()),
        (
            "s-start-needs-much-memory",
            two_modules(1_000, r#"(memory 1000) (func (export "f") (result i32) i32.const 1)"#),
        ),
    ];
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(name, wasm)| (*name, wasm.as_slice())).collect();
    let host = TestHost::start(&borrowed).await;
    let mut seen = String::new();
    for (component, error) in &host.report.failed {
        let error = error.replace(&host.folder.path().display().to_string(), "FOLDER");
        writeln!(seen, "{component}: {error}").expect("written");
    }
    writeln!(seen, "loaded: {:?}", host.report.loaded).expect("written");
    let call = host.text("s-start-needs-much-memory_run", json!({})).await;
    writeln!(seen, "called: {call}").expect("written");
    insta::assert_snapshot!(seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_and_a_huge_file_are_refused() {
    let folder = folder(&[]);
    std::fs::create_dir(folder.path().join("tools/dir.wasm")).expect("made");
    let huge = std::fs::File::create(folder.path().join("tools/huge.wasm")).expect("made");
    huge.set_len((256 << 20) + 1).expect("a sparse file");
    let host = TestHost::start_with(folder, |_| {}).await;
    assert!(host.report.failed["dir"].contains("it is not a regular file"), "{:?}", host.report);
    assert_eq!(host.report.failed["huge"], "the file has 268435457 bytes; at most 268435456 are loaded");
}

/// A component that reads random numbers and a clock of these releases of WASI, and calls what `added` imports besides.
fn of_releases(random: &str, clock: &str, added: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (import "wasi:random/random@{random}" (instance $random (export "get-random-u64" (func (result u64))) {added}))
            (import "wasi:clocks/monotonic-clock@{clock}" (instance $clock (export "now" (func (result u64)))))
            (core func $random (canon lower (func $random "get-random-u64")))
            (core func $now (canon lower (func $clock "now")))
            (core module $m
                (import "h" "random" (func $random (result i64)))
                (import "h" "now" (func $now (result i64)))
                (func (export "f") (result i32)
                    (i32.and (i64.ne (call $random) (call $random)) (i64.le_u (call $now) (call $now)))))
            (core instance $i (instantiate $m (with "h" (instance
                (export "random" (func $random)) (export "now" (func $now))))))
            (func (export "run") (result u32) (canon lift (core func $i "f"))))"#
    ))
}

/// The host links one release of WASI 0.2 and one of 0.3; components of earlier and later ones say the same with what they use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_of_a_later_release_serves_if_it_uses_nothing_that_is_new() {
    let new = r#"(export "get-random-later" (func (result u64)))"#;
    let host = TestHost::start(&[
        ("first", &of_releases("0.2.0", "0.2.0", "")),
        ("later", &of_releases("0.2.13", "0.2.99", "")),
        ("tasks", &of_releases("0.3.1", "0.3.1", "")),
        ("new", &of_releases("0.2.13", "0.2.13", new)),
        ("newest", &of_releases("0.3.1", "0.3.1", new)),
    ])
    .await;
    assert_eq!(host.report.failed.keys().collect::<Vec<_>>(), ["new", "newest"]);
    for tool in ["first_run", "later_run", "tasks_run"] {
        assert_eq!(host.text(tool, json!({})).await, r#"{"result":1}"#, "{tool}");
    }
    for component in ["new", "newest"] {
        let says = &host.report.failed[component];
        assert!(says.contains("get-random-later"), "{component}: {says}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_components_cannot_have_one_tool() {
    // `a` has the tool `a_b_c` from its interface's function, `a_b` from its world's.
    let first = wat(r#"(component
            (core module $m (func (export "f") (result i32) i32.const 1))
            (core instance $i (instantiate $m))
            (func $f (result u32) (canon lift (core func $i "f")))
            (instance $b (export "c" (func $f)))
            (export "x:y/b" (instance $b)))"#);
    let host = TestHost::start(&[("a", &first)]).await;
    assert_eq!(host.tools().await, ["a_b_c"]);
    host.write("a_b", &binary("c", "local.get 0"));
    host.until("the second is refused", async |host| !host.problems().is_empty()).await;
    assert_eq!(
        host.problems(),
        "a_b: tool `a_b_c` already belongs to component `a`; rename the tool of one of them with `rename` in its grant"
    );
    assert_eq!(host.text("a_b_c", json!({})).await, r#"{"result":1}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_cannot_take_the_place_of_a_built_in_component() {
    let host = TestHost::start_with(folder(&[("text", &add())]), |config| config.tools.builtin = true).await;
    assert_eq!(
        host.problems(),
        "text: component `text` already comes from this program itself; rename this file or remove the other"
    );
    assert!(host.text("text_hash", json!({ "text": "abc" })).await.contains("ba7816bf"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wit_types_go_both_ways() {
    let echo = wat(r#"(component
            (core module $libc
                (memory (export "memory") 2)
                (global $at (mut i32) (i32.const 1024))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (local $p i32)
                    (local.set $p (i32.and (i32.add (global.get $at) (i32.sub (local.get 2) (i32.const 1))) (i32.sub (i32.const 0) (local.get 2))))
                    (global.set $at (i32.add (local.get $p) (local.get 3)))
                    (local.get $p)))
            (core instance $libc (instantiate $libc))
            (core module $m
                (import "libc" "memory" (memory 2))
                (func (export "shout") (param i32 i32) (result i32)
                    (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1)) (i32.const 16))
                (func (export "halve") (param i32) (result i32)
                    (if (result i32) (i32.and (local.get 0) (i32.const 1))
                        (then (i32.store8 (i32.const 32) (i32.const 1)) (i32.store (i32.const 36) (i32.const 64)) (i32.store (i32.const 40) (i32.const 3))
                              (i32.store (i32.const 64) (i32.const 0x64646f)) (i32.const 32))
                        (else (i32.store8 (i32.const 32) (i32.const 0)) (i32.store (i32.const 36) (i32.shr_u (local.get 0) (i32.const 1))) (i32.const 32))))
                (func (export "pick") (param i32) (result i32) (local.get 0)))
            (core instance $i (instantiate $m (with "libc" (instance $libc))))
            (type $color (enum "red" "green"))
            (export $color-out "color" (type $color))
            (func (export "shout") (param "text" string) (result string)
                (canon lift (core func $i "shout") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
            (func (export "halve") (param "n" u32) (result (result u32 (error string)))
                (canon lift (core func $i "halve") (memory (core memory $libc "memory"))))
            (func (export "pick") (param "color" $color-out) (result $color-out) (canon lift (core func $i "pick"))))"#);
    let host = TestHost::start(&[("t", &echo)]).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.tools().await, ["t_halve", "t_pick", "t_shout"]);
    assert_eq!(host.text("t_shout", json!({ "text": "h\u{e9}" })).await, "h\u{e9}");
    assert_eq!(host.text("t_halve", json!({ "n": 8 })).await, r#"{"result":4}"#);
    // The `err` of a `result` is the tool's error.
    assert_eq!(host.text("t_halve", json!({ "n": 7 })).await, "error: odd");
    assert_eq!(host.text("t_pick", json!({ "color": "green" })).await, r#"{"result":"green"}"#);
    let refused = host.text("t_pick", json!({ "color": "blue" })).await;
    assert!(refused.starts_with("error: invalid argument at `/color`"), "{refused}");
}
