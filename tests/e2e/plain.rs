//! Plain components: what their tools are called, what is said of them, and components that try to be too much.

use std::path::Path;

use mcpp::plain::docs::{Docs, embed};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

use crate::{
    command_line::{run, stderr, stdout},
    support::{TestHost, add, answer, folder, grant, number, wat},
};

const SHAPES: &str = r"
package example:shapes@1.2.0;

/// What every shape is made of.
interface parts {
    /// A point in the plane.
    record point {
        /// From the left, in millimeters.
        x: s32,
        y: s32,
    }
    /// What it looks like.
    enum color {
        /// Like blood.
        red,
        green,
    }
    flags style { bold, /// Leaning over.
        italic }
}

interface measure {
    use parts.{point, color, style};

    /// What is measured.
    variant shape {
        /// Its radius.
        circle(u32),
        none,
    }

    /// How far a point is from another.
    ///
    /// In millimeters.
    distance: func(a: point, b: option<point>) -> u32;
    paint: func(what: shape, color: color, style: style) -> result<point, color>;
}

world shapes {
    export measure;
    /// How many there are.
    export count: func() -> u32;
    /// Whether there are any.
    export any: func() -> bool;
}
";

/// A component for a world that is given as WIT, as tool chains make one; its functions trap.
fn from_wit(wit: &str) -> (Vec<u8>, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("world.wit"), wit).expect("written");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(folder.path()).expect("WIT");
    let world = resolve.select_world(&[package], None).expect("one world");
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("embedded");
    let component = ComponentEncoder::default().module(&module).expect("a module").encode().expect("a component");
    (component, folder)
}

/// A component with one more custom section.
pub fn with_section(mut wasm: Vec<u8>, name: &str, data: &[u8]) -> Vec<u8> {
    let number = |mut number: usize| {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    };
    let content = [number(name.len()), name.as_bytes().to_vec(), data.to_vec()].concat();
    wasm.push(0);
    wasm.extend(number(content.len()));
    wasm.extend(content);
    wasm
}

fn with_docs(wasm: Vec<u8>, docs: &str) -> Vec<u8> {
    with_section(wasm, "package-docs", &[b"\x01", docs.as_bytes()].concat())
}

async fn listing(host: &TestHost) -> Vec<Value> {
    let response = host.modern("tools/list", json!({})).send().await.expect("an answer");
    answer(response).await["result"]["tools"].as_array().cloned().expect("a list")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doc_comments_are_descriptions() {
    let (bare, wit) = from_wit(SHAPES);
    let documented = embed(&bare, wit.path()).expect("embedded");
    assert_eq!(embed(&documented, wit.path()).expect("embedded"), documented, "what was there is replaced");
    let host = TestHost::start(&[("shapes", &documented), ("bare", &bare)]).await;
    assert_eq!(host.problems(), "");
    let tools = listing(&host).await;
    let (bare, documented): (Vec<_>, Vec<_>) =
        tools.into_iter().partition(|tool| tool["name"].as_str().is_some_and(|name| name.starts_with("bare_")));
    assert!(bare.iter().all(|tool| !tool.to_string().contains("millimeters")), "{bare:?}");
    assert_eq!(bare.len(), documented.len());
    insta::assert_json_snapshot!(documented);
    // The function would trap; it is not asked. Of `oneOf` the schema alone says only that nothing fits.
    let wrong = json!({ "what": { "circle": "round" }, "color": "red", "style": [] });
    let refused = host.text("shapes_measure_paint", wrong).await;
    assert!(refused.starts_with("error: invalid argument at `/what/circle`: must be an integer"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_documents_a_component() {
    let (bare, wit) = from_wit(SHAPES);
    let file = wit.path().join("shapes.wasm");
    std::fs::write(&file, bare).expect("written");
    let (file, wit) = (file.display().to_string(), wit.path().join("world.wit").display().to_string());
    let done = run(&["document", &file, "--wit", &wit], &[]);
    assert!(done.status.success(), "{}", stderr(&done));
    let shown = stdout(&run(&["inspect", "--json", &file], &[]));
    assert!(shown.contains("How many there are."), "{shown}");
    let refused = run(&["document", &wit, "--wit", &wit], &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("is not a WebAssembly component"), "{}", stderr(&refused));
    let refused = run(&["document", &file, "--wit", "nowhere.wit"], &[]);
    assert!(stderr(&refused).contains("cannot read the WIT"), "{}", stderr(&refused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docs_that_cannot_be_read_cost_nothing_but_themselves() {
    let many = (0..70).fold(add(), |wasm, _| with_docs(wasm, "{}"));
    let deep = format!(r#"{{"worlds":{}{}}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let huge = format!(r#"{{"worlds":{{"w":{{"funcs":{{"add":{{"docs":"{}"}}}}}}}}}}"#, "x".repeat(2 << 20));
    let long = format!(r#"{{"worlds":{{"w":{{"funcs":{{"add":{{"docs":"{}"}}}}}}}}}}"#, "é".repeat(100_000));
    let components = [
        ("c-empty", with_section(add(), "package-docs", b""), "it is empty"),
        ("c-version", with_section(add(), "package-docs", b"\x07{}"), "version 7"),
        ("c-not-json", with_docs(add(), "{"), "EOF"),
        ("c-not-text", with_section(add(), "package-docs", b"\x01{\"worlds\":{\"\xff\":{}}}"), "cannot be read"),
        ("c-wrong-types", with_docs(add(), r#"{"worlds":[1]}"#), "invalid type"),
        ("c-deep", with_docs(add(), &deep), "cannot be read"),
        ("c-huge", with_docs(add(), &huge), "the rest is left out"),
        ("c-many", many, "the rest is left out"),
        ("c-long", with_docs(add(), &long), ""),
        ("c-unknown", with_docs(add(), r#"{"worlds":{"w":{"funcs":{"other":"?"},"types":{"t":{}}}},"x":1}"#), ""),
        ("c-old", with_section(add(), "package-docs", br#" {"worlds":{"w":{"funcs":{"add":"Adds."}}}}"#), "version 32"),
        (
            "c-first-form",
            with_section(add(), "package-docs", b"\0{\"worlds\":{\"w\":{\"funcs\":{\"add\":\"Adds.\"}}}}"),
            "",
        ),
    ];
    let borrowed: Vec<(&str, &[u8])> = components.iter().map(|(name, wasm, _)| (*name, wasm.as_slice())).collect();
    let host = TestHost::start(&borrowed).await;
    assert_eq!(host.problems(), "");
    let catalog = host.host.registry().catalog(&mcpp::names::TenantId::local());
    for (name, _, says) in &components {
        assert_eq!(host.text(&format!("{name}_add"), json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
        let notes = catalog.component(name).expect("live").notes.join("\n");
        assert!(notes.contains(says) && notes.is_empty() == says.is_empty(), "{name}: {notes:?}");
    }
    let tools = listing(&host).await;
    let description = |name: &str| {
        let tool = tools.iter().find(|tool| tool["name"] == name).expect("listed");
        tool["description"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(description("c-first-form_add"), "Adds.");
    let long = description("c-long_add");
    assert!(long.len() < 5_000 && long.ends_with("é…"), "{} bytes", long.len());
    assert_eq!(description("c-unknown_add"), "");
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd_to_look_for_docs_in(start in 0_usize..400, noise in proptest::collection::vec(any::<u8>(), 0..60)) {
        let (wasm, noisy) = (with_docs(add(), r#"{"worlds":{"w":{"funcs":{"add":"Adds."}}}}"#), noise.len());
        let head: Vec<u8> = wasm.iter().copied().take(start).collect();
        let tail: Vec<u8> = wasm.iter().copied().skip(start + noisy).collect();
        let spoiled = [head, noise, tail].concat();
        let _whatever_it_finds = Docs::read(&spoiled);
        let _whatever_it_says = embed(&spoiled, Path::new("nowhere"));
    }
}

/// A component with the functions `f`, which takes one of `types`, and `g`, which takes nothing.
fn taking(types: &str, ty: &str, core_params: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component {types}
            (core module $m
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
                (func (export "f") (param {core_params}))
                (func (export "g") (result i32) i32.const 7))
            (core instance $i (instantiate $m))
            (func (export "f") (param "x" {ty})
                (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
            (func (export "g") (result u32) (canon lift (core func $i "g"))))"#
    ))
}

/// The function takes 2^`times` lists; it takes a few lines to say so.
fn doubled(times: usize) -> Vec<u8> {
    let types: String = (0..times).map(|n| format!("(type $t{} (tuple $t{n} $t{n}))", n + 1)).collect();
    let core_params = if times > 3 { "i32".to_owned() } else { "i32 i32 ".repeat(1 << times) };
    taking(&format!("(type $t0 (list u32)){types}"), &format!("$t{times}"), &core_params)
}

/// The function takes an option of an option of an option.
fn nested(times: usize) -> Vec<u8> {
    let types: String = (0..times).map(|n| format!("(type $t{} (option $t{n}))", n + 1)).collect();
    taking(&format!("(type $t0 (list u32)){types}"), &format!("$t{times}"), "i32")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_of_resources_have_names_of_their_own() {
    let (stock, files) = from_wit(
        r"
        package example:stock;

        interface shop {
            /// A basket.
            resource basket {
                /// Makes an empty one.
                constructor(owner: string);
                /// Puts something in.
                put: func(what: string) -> u32;
                of: static func(owner: string) -> result<basket, string>;
                drop: func();
            }
            all: func() -> list<basket>;
            pay: func(basket: basket) -> u32;
        }
        interface looking {
            use shop.{basket};
            look: func(basket: borrow<basket>) -> string;
        }
        interface sealed {
            resource never-given { read: func() -> u32; }
        }

        world stock { export shop; export looking; export sealed; }
        ",
    );
    let stock = embed(&stock, files.path()).expect("documented");
    let host = TestHost::start(&[("s", &stock)]).await;
    assert_eq!(
        host.tools().await,
        [
            "s_looking_look",
            "s_sealed_never-given_read",
            "s_shop_all",
            "s_shop_basket_new",
            "s_shop_basket_of",
            "s_shop_basket_put",
            "s_shop_drop_basket_drop",
            "s_shop_method_basket_drop",
            "s_shop_pay",
        ],
        "{}",
        host.problems()
    );
    let listed = answer(host.modern("tools/list", json!({})).send().await.expect("an answer")).await;
    let tool = |name: &str| {
        let tools = listed["result"]["tools"].as_array().expect("tools");
        tools.iter().find(|tool| tool["name"] == name).expect("listed").clone()
    };
    assert_eq!(tool("s_shop_basket_put")["description"], "Puts something in.");
    let handle = json!({
        "type": "string",
        "pattern": "^h_[A-Za-z0-9_-]{22}$",
        "description": "a handle of a `basket` of shop, as another tool of this component gave it",
    });
    assert_eq!(tool("s_shop_basket_put")["inputSchema"]["properties"]["self"], handle);
    assert_eq!(tool("s_looking_look")["inputSchema"]["properties"]["basket"], handle);
    assert_eq!(tool("s_shop_all")["outputSchema"]["properties"]["result"]["items"], handle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_grows_without_end_is_not_offered() {
    let host = TestHost::start(&[("wide", &doubled(15)), ("fits", &doubled(3)), ("deep", &nested(40))]).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.tools().await, ["deep_g", "fits_f", "fits_g", "wide_g"]);
    let catalog = host.host.registry().catalog(&mcpp::names::TenantId::local());
    assert_eq!(
        catalog.component("wide").expect("live").notes,
        ["function `wide_f` is not offered: its schema would have more than 204800 bytes"]
    );
    assert_eq!(host.text("wide_g", json!({})).await, r#"{"result":7}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docs_that_make_a_schema_too_large_are_left_out() {
    let params = (0..60).map(|n| format!("c{n}: color")).collect::<Vec<_>>().join(", ");
    let long = "x".repeat(4_000);
    let (bare, wit) = from_wit(&format!(
        "package a:b; interface i {{ /// {long}\n enum color {{ red }} /// Few.\n few: func(c: color); /// Many.\n many: func({params}); }} world w {{ export i; }}"
    ));
    let host = TestHost::start(&[("t", &embed(&bare, wit.path()).expect("embedded"))]).await;
    let tools = listing(&host).await;
    assert_eq!(tools[0]["inputSchema"]["properties"]["c"]["description"], long.as_str());
    assert_eq!((&tools[1]["name"], &tools[1]["description"]), (&json!("t_i_many"), &json!("Many.")));
    assert_eq!(tools[1]["inputSchema"]["properties"]["c0"], json!({ "type": "string", "enum": ["red"] }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_schemas_are_not_all_offered() {
    let types: String = (0..10).map(|n| format!("(type $t{} (tuple $t{n} $t{n}))", n + 1)).collect();
    let exports: String = (0..60).map(|n| format!(r#"(export "f{n}" (func $f))"#)).collect();
    let component = wat(&format!(
        r#"(component (type $t0 (list u32)){types}
            (core module $m
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
                (func (export "f") (param i32)))
            (core instance $i (instantiate $m))
            (func $f (param "x" $t10)
                (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
            {exports})"#
    ));
    let host = TestHost::start(&[("t", &component)]).await;
    let catalog = host.host.registry().catalog(&mcpp::names::TenantId::local());
    let live = catalog.component("t").unwrap_or_else(|| panic!("{}", host.problems()));
    assert!(
        (11..60).contains(&live.tools.len()) && live.tools.len() + live.notes.len() == 60,
        "{} tools",
        live.tools.len()
    );
    assert!(live.notes.iter().all(|note| note.ends_with("are too large together")), "{:?}", live.notes);
}

/// Two interfaces with one name, each with the function `go`.
fn twins() -> Vec<u8> {
    wat(r#"(component
        (core module $m (func (export "f") (result i32) i32.const 1) (func (export "g") (result i32) i32.const 2))
        (core instance $i (instantiate $m))
        (func $f (result u32) (canon lift (core func $i "f")))
        (func $g (result u32) (canon lift (core func $i "g")))
        (instance $a (export "go" (func $f)))
        (instance $b (export "go" (func $g)))
        (export "one:pkg/twin@1.0.0" (instance $a))
        (export "two:pkg/twin" (instance $b)))"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_legal_and_unlike_each_other() {
    let long = "x".repeat(70);
    let host = TestHost::start(&[("t", &twins()), (&"n".repeat(64), &number(&long, "i32.const 1"))]).await;
    assert_eq!(host.tools().await, ["t_one_pkg_twin_1.0.0_go", "t_two_pkg_twin_go"]);
    assert_eq!(host.text("t_two_pkg_twin_go", json!({})).await, r#"{"result":2}"#);
    let problem = host.problems();
    assert!(problem.contains("is not 1 to 128 characters"), "{problem}");
    let advice = format!("give it another name with `rename = {{ \"{}_{long}\" = \"…\" }}`", "n".repeat(64));
    assert!(problem.contains(&advice), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_says_which_tools_are_offered_and_how_they_are_called() {
    let long = "x".repeat(70);
    let name = "n".repeat(64);
    let (add, twins, long_named) = (add(), twins(), number(&long, "i32.const 1"));
    let files = folder(&[
        ("add", &add),
        ("t", &twins),
        (&name, &long_named),
        ("typo", &add),
        ("gone", &add),
        ("same", &twins),
        ("other", &number("go", "i32.const 3")),
        ("none", &twins),
    ]);
    let grants = format!(
        r#"
        [components.add]
        rename = {{ add = "sum" }}
        [components.add.tools.sum.limits]
        output_bytes = 4096
        [components.t]
        expose = ["t_one_*"]
        rename = {{ "t_one_pkg_twin_1.0.0_go" = "first" }}
        [components.{name}]
        rename = {{ "{name}_{long}" = "short" }}
        [components.typo]
        rename = {{ typo_sub = "minus" }}
        [components.gone]
        expose = ["gone_sub"]
        [components.same]
        rename = {{ "same_one_pkg_twin_1.0.0_go" = "same", "same_two_pkg_twin_go" = "same" }}
        [components.none]
        expose = []
    "#
    );
    grant(&files, &grants);
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.tools().await, ["first", "other_go", "short", "sum"]);
    assert_eq!(host.text("sum", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
    assert_eq!(host.text("first", json!({})).await, r#"{"result":1}"#);
    let unknown = host.text("t_two_pkg_twin_go", json!({})).await;
    assert!(unknown.starts_with("JSON-RPC error"), "{unknown}");
    let mut problems: Vec<String> = host.problems().lines().map(str::to_owned).collect();
    problems.sort();
    assert_eq!(
        problems,
        [
            "gone: `expose` in its grant names `gone_sub`, which is none of its tools (gone_add)",
            "same: its tool `same_two_pkg_twin_go` is refused: another of its tools is called `same` too; give it another name with `rename = { \"same_two_pkg_twin_go\" = \"…\" }` in `grants/same.toml`",
            "typo: `rename` in its grant names `typo_sub`, which is none of its tools (typo_add)",
        ]
    );
    // A tool that is taken back is gone at once, and a tool that is given is there.
    let grants = host.folder.path().join("data/grants/t.toml");
    std::fs::write(grants, "version = 1\nexpose = ['t_two_*']\n").expect("written");
    host.host.reload().await.expect("reloaded");
    assert_eq!(host.tools().await, ["other_go", "short", "sum", "t_two_pkg_twin_go"]);
}
