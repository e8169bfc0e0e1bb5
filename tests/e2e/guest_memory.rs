//! Memory of guests: charged to their tenant as it grows, refused by name where there is no more, and given back.

use std::sync::Arc;

use mcpp::{
    config::Config,
    memory::{Account, MemoryUse},
    names::TenantId,
};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{TestHost, answer, folder, grant, guest, text_of, wat, with_module};

const KIB: u64 = 1 << 10;
/// The bytes that the stack of an instance counts for.
const STACK: u64 = 640 * KIB;
const PAGE: u64 = 64 * KIB;

fn account(host: &TestHost) -> Arc<Account> {
    Arc::clone(&host.host.registry().share(&TenantId::local()).expect("open").memory)
}

fn used(host: &TestHost) -> u64 {
    account(host).used(MemoryUse::Guests)
}

/// A tenant whose guests may have so many bytes.
fn guest_bytes(bytes: u64) -> impl FnOnce(&mut Config) {
    move |config| config.tenant_limits = toml::from_str(&format!("guest_bytes = {bytes}")).expect("limits")
}

async fn host(components: &[(&str, &[u8])], bytes: u64) -> TestHost {
    let host = TestHost::start_with(folder(components), guest_bytes(bytes)).await;
    assert_eq!(host.problems(), "");
    host
}

/// A component with a memory of so many pages.
fn large(pages: u64) -> Vec<u8> {
    with_module("large", &format!(r#"(memory {pages}) (func (export "f") (result i32) i32.const 1)"#))
}

/// Grows its memory page by page until that is refused; then does `after` with the number of pages.
fn grower(after: &str) -> Vec<u8> {
    let module = format!(
        r#"(memory 1)
        (func (export "f") (result i32)
            (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
            {after})"#
    );
    with_module("grow", &module)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_charged_while_an_instance_is_there_and_then_given_back() {
    let probe = guest("probe");
    let host = TestHost::start(&[("probe", &probe)]).await;
    assert_eq!(used(&host), 0, "what was asked at the load is given back");
    let sleep = || host.modern("tools/call", json!({ "name": "probe_sleep", "arguments": { "ms": 600_000 } })).send();
    let sleeping: Vec<_> = (0..3).map(|_| tokio::spawn(sleep())).collect();
    host.until("they sleep", async |host| host.host.registry().admission().waiting() == 3).await;
    let all = used(&host);
    assert!(all.is_multiple_of(3) && all / 3 > STACK + PAGE, "each of three has its stack and its memory: {all}");
    assert_eq!(host.host.registry().memory().used(MemoryUse::Guests), all, "it is the host's too");
    sleeping.iter().for_each(tokio::task::JoinHandle::abort);
    host.until("all is given back", async |host| used(host) == 0).await;
    assert_eq!(host.host.registry().memory().used(MemoryUse::Guests), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_a_tenant_grows_to_its_bound_and_no_further() {
    let pages = 20;
    let bytes = STACK + pages * PAGE;
    let host = host(&[("grow", &grower("(memory.size)"))], bytes).await;
    assert_eq!(host.text("grow", json!({})).await, format!(r#"{{"result":{pages}}}"#), "to the page");
    assert_eq!(used(&host), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_gives_up_for_want_of_memory_is_told_apart_from_a_broken_one() {
    let bytes = STACK + 20 * PAGE;
    let host = host(&[("grow", &grower("unreachable"))], bytes).await;
    let text = host.text("grow", json!({})).await;
    let why = format!("guest_bytes of this tenant are used up: it may have {bytes}");
    assert!(text.starts_with("error: the tool crashed: wasm trap"), "{text}");
    assert!(text.ends_with(&format!("it had asked for memory that it was not given: {why}")), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_never_fit_is_no_matter_of_waiting() {
    let table = with_module("table", r#"(table 100000 funcref) (func (export "f") (result i32) i32.const 1)"#);
    let host = host(&[("large", &large(17)), ("fits", &fits()), ("table", &table)], STACK + 16 * PAGE / 2).await;
    let bytes = STACK + 8 * PAGE;
    for tool in ["large", "table"] {
        let text = host.text(tool, json!({})).await;
        assert_eq!(text, format!("error: budget `guest_bytes` exceeded: the tool was stopped at {bytes}"), "{tool}");
    }
    assert_eq!(host.text("fits", json!({})).await, r#"{"result":1}"#, "to the byte");
    assert_eq!(used(&host), 0);
}

/// One whose memory is as large as half a megabyte.
fn fits() -> Vec<u8> {
    with_module("fits", r#"(memory 8) (func (export "f") (result i32) i32.const 1)"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_which_there_is_no_memory_now_has_not_run_and_may_come_again() {
    let probe = guest("probe");
    let measuring = TestHost::start(&[("probe", &probe)]).await;
    let sleep = |host: &TestHost| {
        tokio::spawn(host.modern("tools/call", json!({ "name": "probe_sleep", "arguments": { "ms": 600_000 } })).send())
    };
    let sleeping = sleep(&measuring);
    measuring.until("it sleeps", async |host| host.host.registry().admission().waiting() == 1).await;
    let one = used(&measuring);
    sleeping.abort();
    drop(measuring);

    let bytes = one + one / 2;
    let host = host(&[("probe", &probe)], bytes).await;
    let sleeping = sleep(&host);
    host.until("it sleeps", async |host| host.host.registry().admission().waiting() == 1).await;
    let call = || host.modern("tools/call", json!({ "name": "probe_add", "arguments": { "a": 1, "b": 2 } })).send();
    let refused = call().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    let says = format!("busy: {bytes} guest_bytes of this tenant are used already; try again in 1000 ms");
    assert_eq!(text_of(&answer(refused).await), format!("JSON-RPC error -32000: {says}"));
    sleeping.abort();
    host.until("it is over", async |host| used(host) == 0).await;
    assert_eq!(text_of(&answer(call().await.expect("an answer")).await), r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_may_have_had_effects_is_never_said_not_to_have_run() {
    // The first instance's start function calls the host; then there is no memory for the second.
    let acts = wat(r#"(component
            (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock (export "now" (func (result u64)))))
            (core func $now (canon lower (func $clock "now")))
            (core module $first (import "h" "now" (func $now (result i64))) (func $s (drop (call $now))) (start $s))
            (core module $second (memory 256) (func (export "f") (result i32) i32.const 1))
            (core instance $one (instantiate $first (with "h" (instance (export "now" (func $now))))))
            (core instance $two (instantiate $second))
            (func (export "act") (result u32) (canon lift (core func $two "f"))))"#);
    let host = host(&[("probe", &guest("probe")), ("act", &acts)], STACK + 260 * PAGE).await;
    assert_eq!(host.text("act", json!({})).await, r#"{"result":1}"#, "there is room for one");
    let sleep = json!({ "name": "probe_sleep", "arguments": { "ms": 600_000 } });
    let sleeping = tokio::spawn(host.modern("tools/call", sleep).send());
    host.until("it sleeps", async |host| host.host.registry().admission().waiting() == 1).await;
    let stopped = host.modern("tools/call", json!({ "name": "act", "arguments": {} })).send().await.expect("an answer");
    assert_eq!(stopped.status(), StatusCode::OK);
    assert!(!stopped.headers().contains_key("retry-after"));
    let text = text_of(&answer(stopped).await);
    assert!(text.starts_with("error: the call was stopped in the middle: "), "{text}");
    assert!(text.contains("guest_bytes of this tenant are used already; it may have had effects"), "{text}");
    assert!(host.metric("mcpp_calls_total").await.iter().any(|line| line.contains("interrupted")));
    sleeping.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_are_kept_count_and_make_room_for_those_that_run() {
    let pages = 32;
    let one = STACK + pages * PAGE;
    let files = folder(&[("kept", &renamed_large("kept", pages)), ("fresh", &renamed_large("fresh", pages))]);
    grant(&files, "[components.kept.reuse]\n");
    let host = TestHost::start_with(files, guest_bytes(one + one / 2)).await;
    assert_eq!(host.problems(), "");
    let kept = || host.host.registry().keeper().count().get(&TenantId::local()).copied().unwrap_or_default();
    assert_eq!(host.text("kept", json!({})).await, r#"{"result":1}"#);
    assert_eq!((kept(), used(&host)), (1, one), "it counts for as long as it stays");
    assert_eq!(host.text("fresh", json!({})).await, r#"{"result":1}"#, "it does not count against who runs");
    assert_eq!((kept(), used(&host)), (0, 0), "it has gone, and gave back what it had");
}

fn renamed_large(name: &str, pages: u64) -> Vec<u8> {
    with_module(name, &format!(r#"(memory {pages}) (func (export "f") (result i32) i32.const 1)"#))
}

/// A component whose result is a list of so many numbers.
fn numbers(count: u32) -> Vec<u8> {
    wat(&format!(
        r#"(component
            (core module $m (memory (export "memory") 4)
                (func (export "f") (result i32)
                    (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const {count})) (i32.const 16)))
            (core instance $i (instantiate $m))
            (func (export "numbers") (result (list u32)) (canon lift (core func $i "f") (memory (core memory $i "memory")))))"#
    ))
}

fn message_bytes(bytes: u64) -> impl FnOnce(&mut Config) {
    move |config| config.tenant_limits = toml::from_str(&format!("message_bytes = {bytes}")).expect("limits")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_for_which_there_is_no_memory_is_no_call_that_has_not_run() {
    // 40 KB of the guest's memory are 2.4 MB of JSON on the host's side.
    for (count, fits) in [(1_000, true), (10_000, false)] {
        let host = TestHost::start_with(folder(&[("numbers", &numbers(count))]), message_bytes(1 << 20)).await;
        assert_eq!(host.problems(), "");
        let text = host.text("numbers", json!({})).await;
        assert_eq!(text.starts_with(r#"{"result":[0,0,"#), fits, "{text}");
        if !fits {
            let why = "no room for its result: message_bytes of this tenant are used up: it may have 1048576";
            assert!(text.starts_with(&format!("error: the call was stopped in the middle: {why}")), "{text}");
        }
        host.until("all is given back", async |host| account(host).used(MemoryUse::Messages) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_of_nested_calls_are_charged_for_what_they_become() {
    let files = folder(&[("caller", &guest("caller")), ("probe", &guest("probe"))]);
    grant(&files, "[components.caller]\ncall = ['probe_add']\n");
    let host = TestHost::start_with(files, message_bytes(7 << 20)).await;
    let call = |zeros: usize| json!({ "tool": "probe_add", "arguments": { "a": 1, "b": 2, "more": vec![0; zeros] } });
    let few = host.text("caller_call", call(10)).await;
    assert!(!few.contains("Busy"), "{few}");
    // 20 KB of text; 5.8 MB for what the door makes of it, and 2.4 MB of values in the nested call.
    assert_eq!(host.text("caller_call", call(10_000)).await, "error: Busy");
    host.until("all is given back", async |host| account(host).used(MemoryUse::Messages) == 0).await;
}
