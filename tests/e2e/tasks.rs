//! Async functions: their tasks wait side by side, within the same budgets as all else, and give their place up while they wait.

use std::time::{Duration, Instant};

use futures::future::join_all;
use mcpp::{config::Config, engine::EngineConfig};
use serde_json::json;

use crate::support::{TestHost, add, folder, guest, text_of, wat};

/// A component whose async function `run` takes a number and gives one. `start` is its body; `resumed` that of its callback, which gets the event, what it is about, and its state.
/// Both say how it goes on: 0 it is done, 1 it lets others run, 2 and a set it waits.
pub(crate) fn component(start: &str, resumed: &str) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
                (export "wait-for" (func async (param "how-long" u64)))))
            (import "wasi:cli/types@0.3.0" (instance $types
                (type $code (enum "io" "illegal-byte-sequence" "pipe"))
                (export "error-code" (type (eq $code)))))
            (alias export $types "error-code" (type $code))
            (import "wasi:cli/stdout@0.3.0" (instance $stdout
                (alias outer 1 $code (type $outer))
                (export "error-code" (type $code (eq $outer)))
                (type $written (result (error $code)))
                (type $bytes (stream u8))
                (type $done (future $written))
                (export "write-via-stream" (func (param "data" $bytes) (result $done)))))
            (type $bytes (stream u8))
            (core module $libc (memory (export "memory") 1) (data (i32.const 64) "said by a task\n"))
            (core instance $libc (instantiate $libc))
            (core func $wait (canon lower (func $clock "wait-for") async))
            (core func $stay (canon lower (func $clock "wait-for")))
            (core func $say (canon lower (func $stdout "write-via-stream")))
            (core func $return (canon task.return (result u32)))
            (core func $set (canon waitable-set.new))
            (core func $join (canon waitable.join))
            (core func $drop (canon subtask.drop))
            (core func $stream (canon stream.new $bytes))
            (core func $write (canon stream.write $bytes async (memory (core memory $libc "memory"))))
            (core func $close (canon stream.drop-writable $bytes))
            (core module $m
                (import "h" "memory" (memory 1))
                (import "h" "wait" (func $wait (param i64) (result i32)))
                (import "h" "stay" (func $stay (param i64)))
                (import "h" "say" (func $say (param i32) (result i32)))
                (import "h" "return" (func $return (param i32)))
                (import "h" "set" (func $set (result i32)))
                (import "h" "join" (func $join (param i32 i32)))
                (import "h" "drop" (func $drop (param i32)))
                (import "h" "stream" (func $stream (result i64)))
                (import "h" "write" (func $write (param i32 i32 i32) (result i32)))
                (import "h" "close" (func $close (param i32)))
                (global $ms (mut i32) (i32.const 0))
                (global $open (mut i32) (i32.const 0))
                (global $left (mut i32) (i32.const 0))
                (global $all (mut i32) (i32.const 0))
                ;; Begins to wait for so many milliseconds; the task.
                (func $begin (param $ms i32) (result i32)
                    (i32.shr_u
                        (call $wait (i64.mul (i64.extend_i32_u (local.get $ms)) (i64.const 1000000)))
                        (i32.const 4)))
                ;; Waits until something of the set is ready.
                (func $until (result i32) (i32.or (i32.const 2) (i32.shl (global.get $all) (i32.const 4))))
                ;; Writes as many lines as there are still to be written, or until a line has to wait.
                (func $speak (result i32)
                    (loop $more
                        (if (i32.ge_u (global.get $left) (global.get $ms)) (then
                            (call $join (global.get $open) (i32.const 0))
                            (call $close (global.get $open))
                            (call $return (global.get $left))
                            (return (i32.const 0))))
                        (if (i32.eq (call $write (global.get $open) (i32.const 64) (i32.const 15)) (i32.const -1))
                            (then (return (call $until))))
                        (global.set $left (i32.add (global.get $left) (i32.const 1)))
                        (br $more))
                    unreachable)
                (func (export "f") (param $ms i32) (result i32) (local $n i32) (local $ends i64)
                    (global.set $ms (local.get $ms))
                    (global.set $all (call $set))
                    {start})
                (func (export "cb") (param $event i32) (param $which i32) (param $state i32) (result i32)
                    {resumed}))
            (core instance $i (instantiate $m (with "h" (instance
                (export "memory" (memory $libc "memory"))
                (export "wait" (func $wait)) (export "stay" (func $stay)) (export "say" (func $say))
                (export "return" (func $return)) (export "set" (func $set)) (export "join" (func $join))
                (export "drop" (func $drop)) (export "stream" (func $stream)) (export "write" (func $write))
                (export "close" (func $close))))))
            (func (export "run") async (param "ms" u32) (result u32)
                (canon lift (core func $i "f") async (callback (core func $i "cb")))))"#
    ))
}

/// Waits, then gives back how long.
const NAP: (&str, &str) = (
    "(call $join (call $begin (local.get $ms)) (global.get $all)) (call $until)",
    "(call $drop (local.get $which)) (call $return (global.get $ms)) (i32.const 0)",
);

async fn host(wasm: &[u8], settings: &str) -> TestHost {
    let config = Config::parse(settings).expect("valid settings");
    let host = TestHost::start_with(folder(&[("h", wasm), ("add", &add())]), move |target| {
        target.limits = config.limits;
        // Few of everything, as hosts of one test may overlap: each of many stacks takes mappings of the process.
        let few = EngineConfig { max_running: 8, max_waiting: 100, ..EngineConfig::default() };
        target.engine = if config.engine == EngineConfig::default() { few } else { config.engine };
    })
    .await;
    assert_eq!(host.problems(), "");
    host
}

/// Calls it once; the others go on, and it did not have to be dropped.
async fn attack(wasm: &[u8], settings: &str) -> String {
    let host = host(wasm, settings).await;
    let text = host.text("h_run", json!({ "ms": 3_600_000 })).await;
    assert_eq!(host.text("add", json!({ "a": 40, "b": 2 })).await, r#"{"result":42}"#, "the others go on");
    let dropped = host.metric("mcpp_guests_dropped_total").await;
    assert!(dropped.is_empty(), "{dropped:?}");
    assert_eq!(host.host.registry().admission().running() + host.host.registry().admission().waiting(), 0);
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_async_function_is_a_tool() {
    let host = host(&component(NAP.0, NAP.1), "").await;
    let begun = Instant::now();
    assert_eq!(host.text("h_run", json!({ "ms": 60 })).await, r#"{"result":60}"#);
    assert!(begun.elapsed() >= Duration::from_millis(60), "{:?}", begun.elapsed());
    assert!(host.text("h_run", json!({ "ms": "long" })).await.starts_with("error: "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rusts_tool_chain_makes_of_async_functions_are_tools() {
    let host = TestHost::start(&[("waiting", &guest("waiting"))]).await;
    assert_eq!(host.problems(), "");
    for (tool, arguments, says) in [
        ("waiting_together", json!({ "ms": 20, "times": 8 }), "{\"result\":8}"),
        ("waiting_in-turn", json!({ "ms": 1, "times": 8 }), "{\"result\":1}"),
        ("waiting_echo", json!({ "text": "again" }), "again"),
        ("waiting_now", json!({ "text": "at once" }), "at once"),
    ] {
        assert_eq!(host.text(tool, arguments).await, says, "{tool}");
    }
    let refused = host.call("waiting_echo", json!({ "text": "" })).await;
    assert!(refused["result"]["isError"] == true && text_of(&refused).ends_with("nothing to say"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_one_call_wait_side_by_side() {
    let wasm = component(
        "(global.set $left (i32.const 100))
        (loop $more
            (call $join (call $begin (local.get $ms)) (global.get $all))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 100))))
        (call $until)",
        "(call $drop (local.get $which))
        (global.set $left (i32.sub (global.get $left) (i32.const 1)))
        (if (global.get $left) (then (return (call $until))))
        (call $return (global.get $ms)) (i32.const 0)",
    );
    let host = host(&wasm, "").await;
    let begun = Instant::now();
    assert_eq!(host.text("h_run", json!({ "ms": 200 })).await, r#"{"result":200}"#);
    assert!(begun.elapsed() < Duration::from_secs(10), "one after the other it would be 20 s: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_leaves_its_place_to_others() {
    let host = host(&component(NAP.0, NAP.1), "[engine]\nmax_running = 2\nmax_waiting = 100").await;
    let begun = Instant::now();
    let naps: Vec<_> = (0..60)
        .map(|_| {
            tokio::spawn(host.modern("tools/call", json!({ "name": "h_run", "arguments": { "ms": 1_000 } })).send())
        })
        .collect();
    host.until("all wait", async |host| host.host.registry().admission().waiting() == 60).await;
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
    for nap in join_all(naps).await {
        let answer = crate::support::answer(nap.expect("joined").expect("an answer")).await;
        assert_eq!(crate::support::text_of(&answer), r#"{"result":1000}"#);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "two at a time it would be 30 s: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_async_call_that_never_ends_is_stopped_at_its_deadline() {
    let deadline = "error: budget `deadline_ms` exceeded: the tool was stopped at 150";
    let limits = "[limits]\ndeadline_ms = 150";
    assert_eq!(attack(&component(NAP.0, NAP.1), limits).await, deadline, "in its callback");
    let stays = component("(call $stay (i64.const 3600000000000)) (i32.const 0)", NAP.1);
    assert_eq!(attack(&stays, limits).await, deadline, "in the middle of its stack");
    let after = component(NAP.0, "(loop (br 0)) (i32.const 0)");
    let host = host(&after, limits).await;
    assert_eq!(host.text("h_run", json!({ "ms": 1 })).await, deadline, "computing, after it waited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_wait_for_nothing_are_a_trap() {
    let text = attack(&component("(call $until)", NAP.1), "").await;
    assert!(text.starts_with("error: the tool crashed: wasm trap: deadlock"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_async_call_that_computes_for_ever_ends_at_its_budget() {
    let cpu = "error: budget `cpu_ms` exceeded: the tool was stopped at 80";
    let limits = "[limits]\ncpu_ms = 80";
    assert_eq!(attack(&component("(loop (br 0)) (i32.const 0)", NAP.1), limits).await, cpu);
    let yields = component("(i32.const 1)", "(i32.const 1)");
    assert_eq!(attack(&yields, limits).await, cpu, "it does nothing but let others run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_have_a_bound() {
    let wasm = component("(loop $more (drop (call $begin (local.get $ms))) (br $more)) (i32.const 0)", NAP.1);
    assert_eq!(attack(&wasm, "").await, "error: budget `tasks` exceeded: the tool was stopped at 1000");
    let calls = "[limits]\nhost_calls = 500";
    assert_eq!(attack(&wasm, calls).await, "error: budget `host_calls` exceeded: the tool was stopped at 500");
    let streams = component("(loop $more (drop (call $stream)) (br $more)) (i32.const 0)", NAP.1);
    assert_eq!(attack(&streams, "").await, "error: budget `tasks` exceeded: the tool was stopped at 1000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_stops_an_async_call() {
    let host = host(&component(NAP.0, NAP.1), "").await;
    let params = json!({ "name": "h_run", "arguments": { "ms": 60_000 } });
    let call = tokio::spawn(host.modern("tools/call", params).send());
    host.until("it waits", async |host| host.host.registry().admission().waiting() == 1).await;
    call.abort();
    host.until("it is gone", async |host| host.host.registry().admission().waiting() == 0).await;
}

/// Writes a line to standard output, as many times as it is told, in one stream.
fn speaker() -> Vec<u8> {
    component(
        "(local.set $ends (call $stream))
        (drop (call $say (i32.wrap_i64 (local.get $ends))))
        (global.set $open (i32.wrap_i64 (i64.shr_u (local.get $ends) (i64.const 32))))
        (call $join (global.get $open) (global.get $all))
        (call $speak)",
        "(global.set $left (i32.add (global.get $left) (i32.const 1)))
        (call $speak)",
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tasks_write_is_a_log_record_within_the_budget() {
    let speaker = host(&speaker(), "[limits]\nlog_bytes = 150").await;
    let params = json!({
        "name": "h_run", "arguments": { "ms": 3 }, "_meta": { "io.modelcontextprotocol/logLevel": "debug" },
    });
    let messages =
        crate::support::messages(speaker.modern("tools/call", params).send().await.expect("an answer")).await;
    let records = messages.iter().filter(|message| message["method"] == "notifications/message");
    let said: Vec<String> = records.map(|record| record["params"]["data"].to_string()).collect();
    assert_eq!(said.len(), 3, "{messages:?}");
    assert!(said.iter().all(|line| line.contains("said by a task")), "{said:?}");
    let text = speaker.text("h_run", json!({ "ms": 1_000 })).await;
    assert_eq!(text, "error: budget `log_bytes` exceeded: the tool was stopped at 150");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_with_a_stack_of_its_own_is_refused() {
    let stackful = wat(r#"(component
            (core module $m (func (export "f")))
            (core instance $i (instantiate $m))
            (func (export "run") async (canon lift (core func $i "f") async)))"#);
    let host = TestHost::start(&[("h", &stackful)]).await;
    assert!(host.problems().contains("requires the component model async stackful feature"), "{}", host.problems());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_with_tasks_left_is_not_used_again() {
    // It counts its calls, and leaves the set behind in which it could wait.
    let counts =
        "(global.set $left (i32.add (global.get $left) (i32.const 1))) (call $return (global.get $left)) (i32.const 0)";
    let files = folder(&[("h", &component(counts, NAP.1))]);
    crate::support::grant(&files, "[components.h.reuse]\ncalls = 100\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    for _ in 0..3 {
        assert_eq!(host.text("h_run", json!({ "ms": 1 })).await, r#"{"result":1}"#);
    }
}
