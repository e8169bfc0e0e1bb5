//! Exceptions, structs and arrays: what lives outside of linear memory is the engine's to collect, and counts as memory.

use serde_json::json;

use crate::support::{TestHost, folder, grant, wat};

/// A component whose functions throw, catch, and keep arrays of a mebibyte in a list.
fn component() -> Vec<u8> {
    wat(r#"(component
        (core module $m
            (type $bytes (array (mut i8)))
            (type $node (struct (field (ref null $node)) (field (ref $bytes))))
            (tag $thrown (param i32))
            (func (export "caught") (param $n i32) (result i32)
                (block $caught (result i32)
                    (try_table (result i32) (catch $thrown $caught)
                        (throw $thrown (i32.add (local.get $n) (i32.const 1))))))
            (func (export "thrown") (param $n i32) (result i32) (throw $thrown (local.get $n)))
            (func (export "kept") (param $n i32) (result i32) (local $list (ref null $node)) (local $i i32)
                (loop $more
                    (local.set $list (struct.new $node (local.get $list) (array.new_default $bytes (i32.const 1048576))))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $more (i32.lt_u (local.get $i) (local.get $n))))
                (array.len (struct.get $node 1 (local.get $list))))
            (func (export "dropped") (param $n i32) (result i32) (local $last (ref null $bytes)) (local $i i32)
                (loop $more
                    (local.set $last (array.new_default $bytes (i32.const 1048576)))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $more (i32.lt_u (local.get $i) (local.get $n))))
                (array.len (local.get $last))))
        (core instance $i (instantiate $m))
        (func (export "caught") (param "n" u32) (result u32) (canon lift (core func $i "caught")))
        (func (export "thrown") (param "n" u32) (result u32) (canon lift (core func $i "thrown")))
        (func (export "kept") (param "n" u32) (result u32) (canon lift (core func $i "kept")))
        (func (export "dropped") (param "n" u32) (result u32) (canon lift (core func $i "dropped"))))"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exceptions_and_what_is_collected_work_within_the_memory_budget() {
    let files = folder(&[("c", &component())]);
    grant(&files, "[components.c.limits]\nmemory_bytes = 16777216\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    let call = async |tool: &str, n: u32| host.text(&format!("c_{tool}"), json!({ "n": n })).await;
    assert_eq!(call("caught", 6).await, r#"{"result":7}"#);
    let thrown = call("thrown", 6).await;
    assert!(thrown.contains("exception"), "{thrown}");
    assert_eq!(call("kept", 8).await, r#"{"result":1048576}"#);
    // An object to which nothing refers any more makes room.
    assert_eq!(call("dropped", 200).await, r#"{"result":1048576}"#);
    let kept = call("kept", 200).await;
    assert_eq!(kept, "error: budget `memory_bytes` exceeded: the tool was stopped at 16777216");
    assert_eq!(call("caught", 1).await, r#"{"result":2}"#, "the next call has memory of its own");
}
