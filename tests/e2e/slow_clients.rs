//! A client that does not read: its guests go on, its events are bounded and then dropped, and its answer is what remains.

use mcpp::{memory::MemoryUse, names::TenantId};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    field::Pipe,
    support::{PATIENCE, TestHost, folder, grant, modern_message, wat},
};

/// A component that reports progress with texts of `bytes`, `times` times, and then either gives `times` or computes for ever.
fn talker() -> Vec<u8> {
    wat(r#"(component
        (import "mcpp:endpoint/progress@0.1.0" (instance $progress
            (export "report" (func (param "done" f64) (param "total" (option f64)) (param "message" (option string))))))
        (core module $libc (memory (export "memory") 80)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
        (core instance $libc (instantiate $libc))
        (core func $report (canon lower (func $progress "report") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
        (core module $m
            (import "h" "report" (func $report (param f64 i32 f64 i32 i32 i32)))
            (func (export "f") (param $bytes i32) (param $times i32) (param $spin i32) (result i32) (local $n i32)
                (loop $again
                    (local.set $n (i32.add (local.get $n) (i32.const 1)))
                    (call $report (f64.convert_i32_u (local.get $n)) (i32.const 0) (f64.const 0) (i32.const 1) (i32.const 4096) (local.get $bytes))
                    (br_if $again (i32.lt_u (local.get $n) (local.get $times))))
                (if (local.get $spin) (then (loop $ever (br $ever))))
                (local.get $n)))
        (core instance $i (instantiate $m (with "h" (instance (export "report" (func $report))))))
        (func (export "talk") (param "bytes" u32) (param "times" u32) (param "spin" u32) (result u32) (canon lift (core func $i "f"))))"#)
}

async fn host(limits: &str) -> TestHost {
    let files = folder(&[("t", &talker())]);
    grant(&files, &format!("[components.t.limits]\n{limits}\n"));
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    host
}

fn talk(bytes: u32, times: u32, spin: bool) -> Value {
    let arguments = json!({ "bytes": bytes, "times": times, "spin": u32::from(spin) });
    json!({ "name": "t_talk", "arguments": arguments, "_meta": { "progressToken": 1 } })
}

/// A connection whose client reads nothing, on which the call was sent.
async fn call_and_do_not_read(host: &TestHost, params: Value) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("small");
    let mut stream = socket.connect(host.host.address()).await.expect("connected");
    let body = modern_message("tools/call", params).to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: t_talk\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    stream
}

fn messages(host: &TestHost) -> u64 {
    host.host.registry().share(&TenantId::local()).expect("open").memory.used(MemoryUse::Messages)
}

/// Waits until the call has run and ended.
async fn has_ended(host: &TestHost, how: &str) {
    host.until("the guest has ended", async |host| {
        let calls = host.metric("mcpp_calls_total").await;
        calls.iter().any(|line| line.contains(r#"tool="t_talk""#) && line.contains(how))
    })
    .await;
}

async fn read_all(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("in time").expect("read");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_does_not_wait_for_a_client_that_does_not_read_and_its_answer_remains() {
    let host = host("log_bytes = 67108864").await;
    // 60 MB of progress.
    let stream = call_and_do_not_read(&host, talk(60_000, 1_000, false)).await;
    has_ended(&host, r#"outcome="ok""#).await;
    // 64 wait for it here, as many as the engine's queue has places there.
    let used = messages(&host);
    assert!(used <= 96 * 61_000, "{used} bytes wait for the client");
    let told = read_all(stream).await;
    let events = told.matches("notifications/progress").count();
    assert!((1..900).contains(&events), "some are dropped: {events}");
    let answer = told.rsplit("data:").next().expect("a last event");
    assert!(answer.contains(r#""result":1000"#), "the answer comes last: {}", &answer[..answer.len().min(200)]);
    host.until("nothing is kept for it", async |host| messages(host) == 0).await;
    assert!(host.metric("mcpp_call_events_dropped_total").await.iter().any(|line| line.contains("slow")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_does_not_take_its_guest_past_the_deadline() {
    let host = host("log_bytes = 67108864\ndeadline_ms = 2000\ncpu_ms = 60000").await;
    let _stream = call_and_do_not_read(&host, talk(60_000, 1_000, true)).await;
    has_ended(&host, "budget_exceeded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_without_having_read_stops_its_guest() {
    let host = host("log_bytes = 67108864\ndeadline_ms = 86400000\ncpu_ms = 86400000").await;
    let stream = call_and_do_not_read(&host, talk(60_000, 1_000, true)).await;
    host.until("events wait", async |host| messages(host) > 60 * 60_000).await;
    drop(stream);
    has_ended(&host, "cancelled").await;
    host.until("nothing is kept for it", async |host| messages(host) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_stdio_a_guest_does_not_wait_either() {
    let host = host("log_bytes = 67108864").await;
    let mut pipe = Pipe::open(&host);
    pipe.initialize().await;
    let call = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": talk(60_000, 1_000, false) });
    pipe.send(&call.to_string()).await;
    has_ended(&host, r#"outcome="ok""#).await;
    let mut events = 0;
    let answer = loop {
        let message = pipe.receive().await;
        if message["id"] == 7 {
            break message;
        }
        events += 1;
    };
    assert_eq!(answer["result"]["structuredContent"]["result"], 1_000);
    assert!((1..900).contains(&events), "some are dropped: {events}");
    pipe.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_texts_of_progress_count_as_log_and_are_cut_at_their_bound() {
    let host = host("log_bytes = 200000").await;
    let call = async |bytes: u32, times: u32| {
        crate::support::messages(host.modern("tools/call", talk(bytes, times, false)).send().await.expect("an answer"))
            .await
    };
    let told = call(100_000, 2).await;
    let texts: Vec<usize> =
        told.iter().filter_map(|message| Some(message["params"]["message"].as_str()?.len())).collect();
    assert_eq!(texts, [65_536, 65_536]);
    let told = call(100_000, 3).await;
    let answer = crate::support::text_of(told.last().expect("an answer"));
    assert_eq!(answer, "error: budget `log_bytes` exceeded: the tool was stopped at 200000");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_find_no_memory_are_dropped_and_the_call_goes_on() {
    let files = folder(&[("t", &talker())]);
    // There is room for the request, and not for the text of an event.
    let limits = toml::from_str("message_bytes = 120000").expect("limits");
    let host = TestHost::start_with(files, |config| config.tenant_limits = limits).await;
    let told =
        crate::support::messages(host.modern("tools/call", talk(65_536, 3, false)).send().await.expect("an answer"))
            .await;
    assert_eq!(told.len(), 1, "only the answer: {told:?}");
    assert_eq!(told[0]["result"]["structuredContent"]["result"], 3);
    assert!(host.metric("mcpp_call_events_dropped_total").await.iter().any(|line| line.contains("memory")));
}
