//! Calls that compute, grow, wait, log, make requests or feed themselves.

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};

use super::{Attack, Target};
use crate::client::{Client, Era};

pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "64 calls that never end", clients: 64, run: |to, _| calls(to, "forever", json!({})) },
    Attack { name: "64 clients with calls of some 10 ms", clients: 64, run: |to, _| calls(to, "busy", json!({})) },
    Attack { name: "32 clients with short calls", clients: 32, run: |to, _| calls(to, "short", json!({})) },
    Attack {
        name: "64 calls that take all the memory they may",
        clients: 64,
        run: |to, _| calls(to, "memory", json!({})),
    },
    Attack { name: "64 calls that recurse without end", clients: 64, run: |to, _| calls(to, "recurse", json!({})) },
    Attack { name: "64 calls that answer with too much", clients: 64, run: |to, _| calls(to, "huge", json!({})) },
    Attack { name: "64 clients calling what is not there", clients: 64, run: |to, _| calls(to, "nothing", json!({})) },
    Attack {
        name: "256 calls that touch 48 MiB and wait",
        clients: 256,
        run: |to, _| calls(to, "hostile_hold", json!({ "bytes": 48 << 20, "ms": 20_000 })),
    },
    Attack {
        name: "192 calls that wait",
        clients: 192,
        run: |to, _| calls(to, "hostile_hold", json!({ "bytes": 1, "ms": 20_000 })),
    },
    Attack {
        name: "75 calls with 8 requests each to a silent upstream",
        clients: 75,
        run: |to, _| {
            let arguments = json!({ "authority": to.silent.to_string(), "at_once": 8 });
            calls(to, "hostile_requests", arguments)
        },
    },
    Attack {
        name: "16 calls that log all they may",
        clients: 16,
        run: |to, _| calls(to, "hostile_log", json!({ "bytes": 4_000, "times": 60 })),
    },
    Attack {
        name: "a handler that emits two events for each",
        clients: 4,
        run: |to, _| calls(to, "hostile_loop", json!({})),
    },
    Attack {
        name: "64 calls that have an effect and wait",
        clients: 64,
        run: |to, _| calls(to, "hostile_effect", json!({ "key": "k", "ms": 100 })),
    },
];

fn calls(target: Target, tool: &'static str, arguments: Value) -> BoxFuture<'static, ()> {
    async move {
        let client = Client::connect_as(target.url, Era::Modern, &target.greedy.token).await;
        loop {
            // They may be refused or stopped; that is the attacker's own affair.
            if client.try_call(tool, &arguments).await.is_none() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
    .boxed()
}

/// Computes for some 10 ms.
pub(super) const BUSY: &str = "(local $n i32) (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 8000000)))) i32.const 1";

/// Takes all the memory that it may have, and touches it.
pub(super) const MEMORY: &str = r#"(component
    (core module $m
        (memory 1)
        (func (export "f") (result i32) (local $at i32)
            (loop $l
                (if (i32.ne (memory.grow (i32.const 16)) (i32.const -1)) (then
                    (memory.fill (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1048576)) (i32.const 1) (i32.const 1048576))
                    (br $l))))
            i32.const 1))
    (core instance $i (instantiate $m))
    (func (export "memory") (result s32) (canon lift (core func $i "f"))))"#;

/// Answers with more than it may.
pub(super) const HUGE: &str = r#"(component
    (core module $m
        (memory (export "memory") 256)
        (func (export "f") (result i32)
            (memory.fill (i32.const 16) (i32.const 120) (i32.const 16000000))
            (i32.store (i32.const 0) (i32.const 16))
            (i32.store (i32.const 4) (i32.const 16000000))
            i32.const 0))
    (core instance $i (instantiate $m))
    (alias core export $i "memory" (core memory $memory))
    (func (export "huge") (result string) (canon lift (core func $i "f") (memory $memory))))"#;
