//! Guests that spin, grow, recurse, flood and lie: each is stopped at its budget with the name of it, and harms nobody else.

use std::time::{Duration, Instant};

use mcpp::config::Config;
use serde_json::json;

use crate::support::{TestHost, add, folder, guest, number, two_modules, wat, with_module};

/// Calls the hostile tool `h`; its error.
async fn attack(wasm: &[u8], change: impl FnOnce(&mut Config)) -> String {
    let host = TestHost::start_with(folder(&[("h", wasm), ("add", &add())]), change).await;
    assert_eq!(host.problems(), "");
    let tool = host.tools().await.into_iter().find(|tool| tool != "add").expect("the hostile tool");
    let text = host.text(&tool, json!({})).await;
    assert_eq!(host.text("add", json!({ "a": 40, "b": 2 })).await, r#"{"result":42}"#, "the others go on");
    // Stopped from inside: the last resort, dropping the guest after a grace, was not needed.
    let dropped = host.metric("mcpp_guests_dropped_total").await;
    assert!(dropped.is_empty(), "{dropped:?}");
    text
}

fn limits(text: &str) -> impl FnOnce(&mut Config) {
    let config = Config::parse(&format!("[limits]\n{text}")).expect("valid limits");
    move |target| target.limits = config.limits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_ends_at_its_deadline() {
    let text = attack(&number("run", "(loop (br 0)) i32.const 1"), limits("deadline_ms = 100")).await;
    assert_eq!(text, "error: budget `deadline_ms` exceeded: the tool was stopped at 100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_in_a_start_function_ends_at_its_deadline() {
    let module = r#"(func $s (loop (br 0))) (start $s) (func (export "f") (result i32) i32.const 1)"#;
    let text = attack(&with_module("run", module), limits("deadline_ms = 100")).await;
    assert_eq!(text, "error: budget `deadline_ms` exceeded: the tool was stopped at 100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_grows_to_its_limit_and_no_further() {
    let module = r#"(memory 1)
        (func (export "f") (result i32) (local $pages i32)
            (loop $more
                (if (i32.ne (memory.grow (i32.const 16)) (i32.const -1))
                    (then (local.set $pages (i32.add (local.get $pages) (i32.const 16))) (br $more))))
            (local.get $pages))"#;
    let text = attack(&with_module("run", module), limits("memory_bytes = 2097152")).await;
    assert_eq!(text, r#"{"result":16}"#, "1 page, then 16 more; the next 16 would pass 2 MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memories_count_together() {
    let two = two_modules(10, r#"(memory 10) (func (export "f") (result i32) i32.const 1)"#);
    let text = attack(&two, limits("memory_bytes = 1048576")).await;
    assert_eq!(text, "error: budget `memory_bytes` exceeded: the tool was stopped at 1048576");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_grows_to_its_limit_and_no_further() {
    let module = r#"(table 1 funcref)
        (func (export "f") (result i32) (table.grow (ref.null func) (i32.const 1000)))"#;
    let text = attack(&with_module("run", module), limits("table_elements = 100")).await;
    assert_eq!(text, r#"{"result":4294967295}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_starts_too_large_is_refused() {
    let module = r#"(table 1000 funcref) (func (export "f") (result i32) i32.const 1)"#;
    let text = attack(&with_module("run", module), limits("table_elements = 100")).await;
    assert_eq!(text, "error: budget `table_elements` exceeded: the tool was stopped at 100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recursion_ends_with_the_stack() {
    let module = r#"(func $r (param i32) (result i32) (i32.add (call $r (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
        (func (export "f") (result i32) (call $r (i32.const 0)))"#;
    let text = attack(&with_module("run", module), |_| {}).await;
    assert_eq!(text, "error: budget `stack_bytes` exceeded: the tool was stopped at 524288");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_is_the_tools_own() {
    for (body, says) in [
        ("unreachable", "wasm trap: wasm `unreachable` instruction executed"),
        ("(i32.div_u (i32.const 1) (i32.const 0))", "wasm trap: integer divide by zero"),
    ] {
        assert_eq!(attack(&number("run", body), |_| {}).await, format!("error: the tool crashed: {says}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_instances_are_refused() {
    let instances: String = (0..40).map(|n| format!("(core instance $i{n} (instantiate $m))")).collect();
    let component = format!(
        r#"(component (core module $m (func (export "f") (result i32) i32.const 1)) {instances}
            (func (export "run") (result u32) (canon lift (core func $i0 "f"))))"#
    );
    let text = attack(&wat(&component), limits("core_instances = 8")).await;
    assert_eq!(text, "error: budget `core_instances` exceeded: the tool was stopped at 8");
}

/// A component that calls `get-random-bytes(LENGTH)` `TIMES` times.
fn storm(length: u64, times: u32) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (import "wasi:random/random@0.2.0" (instance $random (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
            (core module $libc (memory (export "memory") 32)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
            (core instance $libc (instantiate $libc))
            (core func $get (canon lower (func $random "get-random-bytes") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
            (core module $m
                (import "h" "get" (func $get (param i64 i32)))
                (func (export "f") (result i32) (local $n i32)
                    (loop $again
                        (call $get (i64.const {length}) (i32.const 16))
                        (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if $again (i32.lt_u (local.get $n) (i32.const {times}))))
                    (local.get $n)))
            (core instance $i (instantiate $m (with "h" (instance (export "get" (func $get))))))
            (func (export "run") (result u32) (canon lift (core func $i "f"))))"#
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_host_calls_ends_at_its_limit() {
    assert_eq!(attack(&storm(8, 50), limits("host_calls = 1000")).await, r#"{"result":50}"#);
    let text = attack(&storm(8, 1_000_000), limits("host_calls = 1000")).await;
    assert_eq!(text, "error: budget `host_calls` exceeded: the tool was stopped at 1000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_call_does_not_make_the_host_allocate_what_the_guest_says() {
    let text = attack(&storm(1 << 40, 1), |_| {}).await;
    assert!(text.starts_with("error: the tool crashed: "), "{text}");
}

/// A component that waits for one handle, named so many times.
fn poller(times: u32) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (import "wasi:io/poll@0.2.0" (instance $poll
                (export "pollable" (type $p (sub resource)))
                (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
            (alias export $poll "pollable" (type $pollable))
            (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
                (alias outer 1 $pollable (type $outer))
                (export "pollable" (type $p (eq $outer)))
                (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
            (core module $libc (memory (export "memory") 32)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 524288))
            (core instance $libc (instantiate $libc))
            (core func $subscribe (canon lower (func $clock "subscribe-duration")))
            (core func $poll (canon lower (func $poll "poll") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
            (core module $m
                (import "libc" "memory" (memory 1))
                (import "h" "subscribe" (func $subscribe (param i64) (result i32)))
                (import "h" "poll" (func $poll (param i32 i32 i32)))
                (func (export "f") (result i32) (local $n i32) (local $handle i32)
                    (local.set $handle (call $subscribe (i64.const 1000000)))
                    (loop $again
                        (i32.store (i32.add (i32.const 65536) (i32.mul (local.get $n) (i32.const 4))) (local.get $handle))
                        (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if $again (i32.lt_u (local.get $n) (i32.const {times}))))
                    (call $poll (i32.const 65536) (i32.const {times}) (i32.const 16))
                    (i32.load (i32.const 20))))
            (core instance $i (instantiate $m (with "libc" (instance $libc))
                (with "h" (instance (export "subscribe" (func $subscribe)) (export "poll" (func $poll))))))
            (func (export "run") (result u32) (canon lift (core func $i "f"))))"#
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_waits_for_so_many_handles_at_once() {
    assert_eq!(attack(&poller(10_000), |_| {}).await, r#"{"result":10000}"#);
    let text = attack(&poller(10_001), |_| {}).await;
    assert_eq!(text, "error: the tool crashed: it waits for more than 10000 handles at once");
}

/// A component that writes `BYTES` bytes to standard output.
pub fn log_bomb(bytes: u32, times: u32) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
            (alias export $error "error" (type $error-type))
            (import "wasi:io/streams@0.2.0" (instance $streams
                (export "output-stream" (type $out (sub resource)))
                (alias outer 1 $error-type (type $e))
                (export "error" (type $err (eq $e)))
                (type $stream-error (variant (case "last-operation-failed" (own $err)) (case "closed")))
                (export "stream-error" (type $se (eq $stream-error)))
                (export "[method]output-stream.write" (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $se)))))))
            (alias export $streams "output-stream" (type $out))
            (import "wasi:cli/stdout@0.2.0" (instance $stdout
                (alias outer 1 $out (type $o))
                (export "output-stream" (type $os (eq $o)))
                (export "get-stdout" (func (result (own $os))))))
            (core module $libc (memory (export "memory") 32)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
            (core instance $libc (instantiate $libc))
            (core func $get (canon lower (func $stdout "get-stdout")))
            (core func $write (canon lower (func $streams "[method]output-stream.write") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
            (core module $m
                (import "h" "get" (func $get (result i32)))
                (import "h" "write" (func $write (param i32 i32 i32 i32)))
                (func (export "f") (result i32) (local $n i32) (local $out i32)
                    (local.set $out (call $get))
                    (loop $again
                        (call $write (local.get $out) (i32.const 4096) (i32.const {bytes}) (i32.const 16))
                        (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if $again (i32.lt_u (local.get $n) (i32.const {times}))))
                    (local.get $n)))
            (core instance $i (instantiate $m (with "h" (instance (export "get" (func $get)) (export "write" (func $write))))))
            (func (export "run") (result u32) (canon lift (core func $i "f"))))"#
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_bomb_ends_at_its_limit() {
    assert_eq!(attack(&log_bomb(100, 10), limits("log_bytes = 4096")).await, r#"{"result":10}"#);
    let text = attack(&log_bomb(1000, 100_000), limits("log_bytes = 4096")).await;
    assert_eq!(text, "error: budget `log_bytes` exceeded: the tool was stopped at 4096");
}

/// A component whose result is a list of `count` items of `size` bytes that the guest never made.
fn lying_list(item: &str, count: u32) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (core module $m (memory (export "memory") 1024)
                (func (export "f") (result i32)
                    (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const {count})) (i32.const 16)))
            (core instance $i (instantiate $m))
            (func (export "run") (result (list {item})) (canon lift (core func $i "f") (memory (core memory $i "memory")))))"#
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_result_is_refused_before_it_is_copied() {
    let text = attack(&lying_list("u8", 60_000_000), |_| {}).await;
    assert_eq!(text, "error: budget `output_bytes` exceeded: the tool was stopped at 4194304");
    // Small in the guest, large in the host: every item costs, not only its bytes.
    let text = attack(&lying_list("bool", 60_000_000), |_| {}).await;
    assert_eq!(text, "error: budget `output_bytes` exceeded: the tool was stopped at 4194304");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_beyond_the_guests_memory_traps() {
    let text = attack(&lying_list("u32", 1_000_000_000), limits("output_bytes = 268435456")).await;
    assert!(text.starts_with("error: the tool crashed: "), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looping_tools_do_not_stop_the_host() {
    let spin = number("run", "(loop (br 0)) i32.const 1");
    let host = TestHost::start_with(folder(&[("h", &spin), ("add", &add())]), limits("deadline_ms = 1500")).await;
    let started = Instant::now();
    let loops: Vec<_> =
        (0..4).map(|_| tokio::spawn(host.modern("tools/call", json!({ "name": "h_run" })).send())).collect();
    host.until("they run", async |host| host.host.registry().admission().running() == 4).await;
    let mut served = 0;
    while started.elapsed() < Duration::from_millis(1000) {
        assert_eq!(host.text("add", json!({ "a": served, "b": 1 })).await, format!(r#"{{"result":{}}}"#, served + 1));
        let health = host.http.get(format!("http://{}/health", host.host.address())).send().await.expect("an answer");
        assert_eq!(health.status(), 200);
        served += 1;
    }
    assert!(served > 10, "only {served} calls were served beside the loops");
    for running in loops {
        let answer = crate::support::answer(running.await.expect("joined").expect("an answer")).await;
        assert_eq!(
            crate::support::text_of(&answer),
            "error: budget `deadline_ms` exceeded: the tool was stopped at 1500"
        );
    }
    assert_eq!(host.host.registry().admission().running(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_guest_ends_at_its_deadline() {
    let host = TestHost::start_with(folder(&[("probe", &guest("probe"))]), limits("deadline_ms = 200")).await;
    let text = host.text("probe_sleep", json!({ "ms": 60_000 })).await;
    assert_eq!(text, "error: budget `deadline_ms` exceeded: the tool was stopped at 200");
    assert_eq!(host.host.registry().admission().waiting(), 0);
    let dropped = host.metric("mcpp_guests_dropped_total").await;
    assert!(dropped.is_empty(), "it was not woken but dropped: {dropped:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_logged_and_the_next_call_is_fine() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    assert_eq!(
        host.text("probe_panic", json!({})).await,
        "error: the tool crashed: wasm trap: wasm `unreachable` instruction executed"
    );
    assert_eq!(host.text("probe_add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_from_one_call_to_the_next() {
    let module = r#"(global $n (mut i32) (i32.const 0)) (memory 1)
        (func (export "f") (result i32)
            (global.set $n (i32.add (global.get $n) (i32.const 1)))
            (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 10)))
            (i32.add (global.get $n) (i32.load (i32.const 0))))"#;
    let host = TestHost::start(&[("h", &with_module("run", module))]).await;
    for _ in 0..20 {
        assert_eq!(host.text("h_run", json!({})).await, r#"{"result":11}"#);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_out_over_sockets_is_denied() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    tcp.set_nonblocking(true).expect("a mode");
    let port = tcp.local_addr().expect("an address").port();
    let udp = std::net::UdpSocket::bind(("127.0.0.1", port)).expect("a socket");
    udp.set_nonblocking(true).expect("a mode");
    let host = TestHost::start(&[("sockets", &guest("sockets"))]).await;
    assert_eq!(host.problems(), "");
    let answer = host.call("by_library", json!({ "port": port })).await;
    let denied = "permission denied";
    let said = json!([denied, denied, denied, denied, denied, denied, "not found"]);
    assert_eq!(answer["result"]["structuredContent"]["result"], said, "{answer}");
    let answer = host.call("by_interface", json!({ "port": port })).await;
    assert_eq!(answer["result"]["structuredContent"]["result"], json!(vec!["access-denied"; 8]), "{answer}");
    let stopped = host.text("hoard", json!({})).await;
    assert!(stopped.starts_with("error: the tool crashed: "), "{stopped}");
    assert!(tcp.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "somebody connected");
    let nothing = udp.recv_from(&mut [0; 8]).expect_err("somebody sent");
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}
