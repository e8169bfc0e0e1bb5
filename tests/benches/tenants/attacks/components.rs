//! Components that are hard to compile, to check or to keep up with, saved into a tenant's folder.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::json;

use super::{Attack, Target};
use crate::{
    client::{Client, Era},
    host::{component, guest},
};

/// Makes every build another one.
static NONCE: AtomicU64 = AtomicU64::new(0);

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "builds with 40,000 locals in 300 nested loops",
        clients: 2,
        run: |to, number| save(to, number, locals),
    },
    Attack { name: "builds with 65,535 segments over 4 GiB", clients: 2, run: |to, number| save(to, number, segments) },
    Attack { name: "64 ordinary builds saved at once", clients: 64, run: |to, number| save(to, number, ordinary) },
    Attack { name: "a file that grows", clients: 1, run: |to, _| grow(to) },
    Attack {
        name: "files renamed without pause",
        clients: 4,
        run: |to, number| rename(to.builder.tools, number).boxed(),
    },
    Attack {
        name: "tools that come and go under new names",
        clients: 2,
        run: |to, number| save(to, number, many_names),
    },
    Attack { name: "a schema that is hard to check", clients: 4, run: |to, number| schema(to, number, &doubling()) },
    Attack {
        name: "a schema that is hard to compile",
        clients: 1,
        run: |to, number| schema(to, number, &unevaluated()),
    },
];

/// Whole, as careful installers do.
fn write(folder: &Path, name: &str, wasm: &[u8]) {
    let hidden = folder.join(format!(".{name}.new"));
    let written = fs::write(&hidden, wasm).and_then(|()| fs::rename(&hidden, folder.join(format!("{name}.wasm"))));
    written.expect("written");
}

fn save(target: Target, number: usize, make: fn(u64) -> Vec<u8>) -> BoxFuture<'static, ()> {
    async move {
        loop {
            let nonce = NONCE.fetch_add(1, Ordering::Relaxed);
            let wasm = tokio::task::spawn_blocking(move || make(nonce)).await.expect("made");
            write(&target.builder.tools, &format!("attack-{number}"), &wasm);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    .boxed()
}

fn locals(nonce: u64) -> Vec<u8> {
    let locals = format!("(local {})", "i32 ".repeat(40_000));
    let mut uses = String::new();
    for local in 0..40_000 {
        write!(uses, "(local.set {local} (i32.add (local.get {}) (i32.const 1)))", (local + 1) % 40_000)
            .expect("written");
    }
    let (open, close) = ("(loop ".repeat(300), ")".repeat(300));
    component(&[format!("f{nonce}")], &format!("{locals} {open} {uses} {close} i32.const {nonce}"))
}

fn segments(nonce: u64) -> Vec<u8> {
    let mut data = String::new();
    for segment in 0..65_535_u64 {
        write!(data, r#"(data (i32.const {}) "x")"#, segment * 65_536).expect("written");
    }
    let text = format!(
        r#"(component (core module $m (memory 65535) {data} (func (export "f") (result i32) i32.const {nonce}))
           (core instance $i (instantiate $m)) (func (export "f{nonce}") (result s32) (canon lift (core func $i "f"))))"#
    );
    wat::parse_str(text).expect("a component")
}

fn ordinary(nonce: u64) -> Vec<u8> {
    // As much code as a small tool of a real language has.
    let mut functions = String::new();
    for function in 0..400 {
        write!(functions, "(func $g{function} (param i32) (result i32) (i32.mul (i32.add (local.get 0) (i32.const {nonce})) (i32.const {function})))")
            .expect("written");
    }
    let calls: String = (0..400).map(|function| format!("(call $g{function})")).collect();
    let text = format!(
        r#"(component (core module $m {functions} (func (export "f") (result i32) i32.const 1 {calls}))
           (core instance $i (instantiate $m)) (func (export "g{nonce}") (result s32) (canon lift (core func $i "f"))))"#
    );
    wat::parse_str(text).expect("a component")
}

fn many_names(nonce: u64) -> Vec<u8> {
    let names: Vec<String> = (0..100).map(|name| format!("n{nonce}x{name}")).collect();
    component(&names, "i32.const 1")
}

fn grow(target: Target) -> BoxFuture<'static, ()> {
    async move {
        let path = target.builder.tools.join("attack-grow.wasm");
        fs::write(&path, b"\0asm").expect("written");
        loop {
            let mut file = fs::OpenOptions::new().append(true).open(&path).expect("there");
            std::io::Write::write_all(&mut file, b"x").expect("written");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    .boxed()
}

/// Gives a file in the folder another name, again and again.
pub(crate) async fn rename(folder: PathBuf, number: usize) {
    let wasm = component(&[format!("r{number}")], "i32.const 1");
    let names = ["a", "b"].map(|name| folder.join(format!("attack-{name}-{number}.wasm")));
    fs::write(&names[0], wasm).expect("written");
    let mut from = 0;
    loop {
        for _ in 0..1_000 {
            let _the_bench_may_clean = fs::rename(&names[from], &names[1 - from]);
            from = 1 - from;
        }
        tokio::task::yield_now().await;
    }
}

/// 40 definitions, each of which refers twice to the next.
fn doubling() -> String {
    let mut defs = serde_json::Map::new();
    for n in 0..40 {
        let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
        defs.insert(format!("d{n}"), json!({ "allOf": [next, next] }));
    }
    defs.insert("d40".into(), json!({ "type": "object" }));
    json!({ "type": "object", "$defs": defs, "allOf": [{ "$ref": "#/$defs/d0" }] }).to_string()
}

/// `unevaluatedProperties` over a chain of references.
fn unevaluated() -> String {
    let mut defs = serde_json::Map::new();
    for n in 0..24 {
        let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
        defs.insert(format!("d{n}"), json!({ "allOf": [next, next], "unevaluatedProperties": false }));
    }
    defs.insert("d24".into(), json!({ "type": "object" }));
    json!({ "type": "object", "$defs": defs, "$ref": "#/$defs/d0", "unevaluatedProperties": false }).to_string()
}

/// The hostile guest with another input schema.
fn with_schema(schema: &str) -> Vec<u8> {
    const BYTES: usize = 64 << 10;
    let mut wasm = guest("hostile");
    let marker = br#"{"title":"the schema that a test replaces""#;
    let at = wasm.windows(marker.len()).position(|window| window == marker).expect("a placeholder");
    assert!(schema.len() <= BYTES, "the schema is too long");
    let text = schema.to_owned() + &" ".repeat(BYTES - schema.len());
    wasm[at..at + BYTES].copy_from_slice(text.as_bytes());
    wasm
}

fn schema(target: Target, number: usize, schema: &str) -> BoxFuture<'static, ()> {
    let wasm = with_schema(schema);
    async move {
        if number == 0 {
            write(&target.builder.tools, "attack-schema", &wasm);
        }
        let client = Client::connect_as(target.url, Era::Modern, &target.builder.token).await;
        loop {
            client.try_call("hostile_checked", &json!({ "a": "x".repeat(1_000) })).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    .boxed()
}
