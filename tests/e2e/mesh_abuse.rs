//! The abuse cases of the transport's specification, by their names there, over real streams of the mesh's door.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::{
    doors::text,
    mesh_peers::{FramePeer, MeshHost, peer},
    support::{TestHost, add, binary, folder, grant, guest, initialize_message, modern_message, text_of},
};

/// A host whose peer 0 may call everything.
async fn host() -> MeshHost {
    let host = MeshHost::start(&[("add", &add())]).await;
    host.grant(&peer(0), "*");
    host
}

fn call(id: u64, a: u64) -> Value {
    let mut message = modern_message("tools/call", json!({ "name": "add", "arguments": { "a": a, "b": 2 } }));
    message["id"] = json!(id);
    message
}

fn reason(answer: &Value) -> &str {
    answer["error"]["data"]["reason"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_are_in_flight_on_one_stream_in_both_bindings() {
    let host = host().await;
    let mut stream = host.open(&peer(0));
    for id in 0..40 {
        stream.send(&call(id, id)).await;
    }
    let mut sums = Vec::new();
    for _ in 0..40 {
        let answer = stream.receive().await.expect("an answer");
        let id = answer["id"].as_u64().expect("an id");
        assert_eq!(text_of(&answer), format!(r#"{{"result":{}}}"#, id + 2));
        sums.push(id);
    }
    sums.sort_unstable();
    assert_eq!(sums, (0..40).collect::<Vec<_>>());
    let mut legacy = host.open(&peer(0));
    let initialized = legacy.ask(&initialize_message()).await;
    assert_eq!(initialized["result"]["protocolVersion"], "2025-11-25");
    assert_eq!(initialized["result"]["capabilities"]["mcp++"]["bindingId"], "mcp-binding/legacy-2024-11-05");
    legacy.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
    let bare = json!({ "jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": { "name": "add", "arguments": { "a": 1, "b": 2 } } });
    assert_eq!(text_of(&legacy.ask(&bare).await), r#"{"result":3}"#);
    // A message that names its version belongs to the current binding, session or not.
    assert_eq!(text_of(&legacy.ask(&call(7, 1)).await), r#"{"result":3}"#);
    assert_eq!(reason(&legacy.ask(&initialize_message()).await), "silent_downgrade_rejected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_door_publishes_its_bounds() {
    let host = host().await;
    let discovered = host.open(&peer(0)).ask(&modern_message("server/discover", json!({}))).await;
    let result = &discovered["result"];
    assert_eq!(result["capabilities"]["mcp++"]["bindingId"], "mcp-binding/2026-07-28", "{discovered}");
    assert_eq!(result["limits"]["max_frame_bytes"], 4 << 20);
    for bound in
        ["max_streams_per_peer", "max_in_flight_per_peer", "rate_capacity", "rate_refill_per_sec", "idle_timeout_sec"]
    {
        assert!(result["limits"][bound].as_u64().is_some_and(|bound| bound > 0), "{bound}: {discovered}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized() {
    let host = host().await;
    let mut stream = host.open(&peer(0));
    stream.send_raw(&((4 << 20) + 1_u32).to_be_bytes()).await;
    let refused = stream.receive().await.expect("an error");
    assert_eq!(refused["error"]["message"], "frame_too_large: incoming frame too large: 4194305 > 4194304");
    assert_eq!(
        refused["error"]["data"],
        json!({ "reason": "frame_too_large", "frameLen": 4_194_305, "maxFrameBytes": 4_194_304 })
    );
    stream.closes().await;
    // The largest that is legal is read.
    let mut stream = host.open(&peer(0));
    let mut message = call(1, 1).to_string();
    message.push_str(&" ".repeat((4 << 20) - message.len()));
    stream.send_body(message.as_bytes()).await;
    assert_eq!(text_of(&stream.receive().await.expect("an answer")), r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated() {
    let host = MeshHost::start(&[("short", &binary("short", "local.get 0"))]).await;
    host.grant(&peer(0), "*");
    let whole = modern_message("tools/call", json!({ "name": "short", "arguments": { "a": 1, "b": 2 } })).to_string();
    for bytes in [&b"\0\0"[..], &[&[0, 0, 1, 0][..], &whole.as_bytes()[..40]].concat()] {
        let mut stream = host.open(&peer(0));
        stream.send_raw(bytes).await;
        stream.stream.shutdown().await.expect("closed");
        stream.closes().await;
    }
    let calls =
        async || host.test.metric("mcpp_calls_total").await.iter().filter(|line| line.contains("short")).count();
    assert_eq!(calls().await, 0, "nothing was delivered");
    let mut stream = host.open(&peer(0));
    stream.send_body(whole.as_bytes()).await;
    assert_eq!(text_of(&stream.receive().await.expect("an answer")), r#"{"result":1}"#);
    assert_eq!(calls().await, 1, "so it would be seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_length() {
    let host = host().await;
    let whole = call(1, 1).to_string();
    for (length, name) in [(0, "invalid_json"), (40, "invalid_json")] {
        let mut stream = host.open(&peer(0));
        let body = &whole.as_bytes()[..length];
        stream.send_body(body).await;
        assert_eq!(reason(&stream.receive().await.expect("an error")), name, "{length}");
        stream.closes().await;
    }
    for (body, name) in
        [(&b"\"\xff\""[..], "invalid_utf8"), (b"[]", "payload_not_object"), (b"7", "payload_not_object")]
    {
        let mut stream = host.open(&peer(0));
        stream.send_body(body).await;
        assert_eq!(reason(&stream.receive().await.expect("an error")), name);
        stream.closes().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_before_negotiation() {
    let host = host().await;
    let mut stream = host.open(&peer(0));
    for method in ["tools/list", "tools/call", "ping"] {
        let refused = stream.ask(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": {} })).await;
        assert_eq!((reason(&refused), &refused["id"]), ("path_ambiguous", &json!(1)), "{method}");
    }
    assert_eq!(text_of(&stream.ask(&call(2, 1)).await), r#"{"result":3}"#, "the stream goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_version() {
    let host = host().await;
    let mut stream = host.open(&peer(0));
    let with = |key: &str, value: &str| {
        let mut message = call(1, 1);
        message["params"]["_meta"][key] = json!(value);
        message
    };
    let refused = stream.ask(&with("io.modelcontextprotocol/protocolVersion", "2999-01-01")).await;
    assert_eq!(refused["error"]["code"], -32022, "{refused}");
    let refused = stream.ask(&with("io.mcplusplus/bindingId", "mcp-binding/legacy-2024-11-05")).await;
    assert_eq!(reason(&refused), "binding_id_mismatch");
    let mut claim = initialize_message();
    claim["params"]["capabilities"] = json!({ "mcp++": { "bindingId": "mcp-binding/legacy-2024-11-05" } });
    let refused = stream.ask(&claim).await;
    assert_eq!(refused["error"]["code"], -32022, "the legacy binding has one version: {refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_method() {
    let host = host().await;
    let mut stream = host.open(&peer(0));
    let refused = stream.ask(&modern_message("tools/forge", json!({}))).await;
    assert_eq!(refused["error"]["code"], -32601, "{refused}");
    assert_eq!(text_of(&stream.ask(&call(2, 1)).await), r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay() {
    let host = MeshHost::start(&[("add", &add()), ("probe", &guest("probe"))]).await;
    host.grant(&peer(0), "*");
    let mut stream = host.open(&peer(0));
    let mut spin = modern_message("tools/call", json!({ "name": "probe_spin", "arguments": {} }));
    spin["id"] = json!(1);
    stream.send(&spin).await;
    // The same id while its request is in flight: refused, and the first keeps its answer.
    let refused = stream.ask(&call(1, 1)).await;
    assert!(refused["error"]["message"].as_str().expect("text").contains("in flight already"), "{refused}");
    stream.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } })).await;
    // Answered or cancelled, the id is free: clients of before MCP++ use one for all their requests.
    let mut again = stream.ask(&call(1, 1)).await;
    while again.get("error").is_some() {
        again = stream.ask(&call(1, 1)).await;
    }
    assert_eq!(text_of(&again), r#"{"result":3}"#);
    assert_eq!(text_of(&stream.ask(&call(1, 2)).await), r#"{"result":4}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood() {
    let test = TestHost::start(&[("add", &add())]).await;
    let host = MeshHost::start_with(test, |config| config.frames_per_second = 50);
    host.grant(&peer(0), "*");
    host.grant(&peer(1), "*");
    let mut flooding = host.open(&peer(0));
    let flood = tokio::spawn(async move {
        let mut sent = 0_u64;
        // Whoever does not read his answers is stopped by the pipe.
        while flooding.stream.write_all(&frame(&call(sent, 1))).await.is_ok() {
            sent += 1;
        }
    });
    host.test
        .until("the host reads the flood no faster than it may", async |test| {
            !test.metric("mcpp_mesh_frames_paced_total").await.is_empty()
        })
        .await;
    let mut other = host.open(&peer(1));
    for id in 0..20 {
        assert_eq!(text_of(&other.ask(&call(id, 1)).await), r#"{"result":3}"#, "another peer is served");
    }
    flood.abort();
}

fn frame(message: &Value) -> Vec<u8> {
    let body = message.to_string().into_bytes();
    [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], &body].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_the_bound_are_refused_and_have_not_run() {
    let test = TestHost::start(&[("probe", &guest("probe"))]).await;
    let host = MeshHost::start_with(test, |config| config.in_flight_per_peer = 2);
    host.grant(&peer(0), "*");
    let mut stream = host.open(&peer(0));
    for id in 0..2 {
        let mut spin = modern_message("tools/call", json!({ "name": "probe_spin", "arguments": {} }));
        spin["id"] = json!(id);
        stream.send(&spin).await;
    }
    host.test.until("both run", async |test| test.host.registry().calls() == 2).await;
    // On another stream of the same peer: the bound is the peer's.
    let mut other = host.open(&peer(0));
    let refused = other.ask(&modern_message("tools/list", json!({}))).await;
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["data"]["error"]),
        (&json!(-32000), &json!("busy")),
        "{refused}"
    );
    assert!(refused["error"]["data"]["retryAfterMs"].is_u64());
    drop(stream);
    host.test
        .until("the calls of the stream that ended are stopped", async |_| {
            other.ask(&modern_message("tools/list", json!({}))).await.get("result").is_some()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_place_of_a_request_is_free_when_its_answer_is_read() {
    let test = TestHost::start(&[("add", &add())]).await;
    let host = MeshHost::start_with(test, |config| config.in_flight_per_peer = 1);
    host.grant(&peer(0), "*");
    let mut current = host.open(&peer(0));
    let mut legacy = host.open(&peer(0));
    assert!(legacy.ask(&initialize_message()).await.get("result").is_some());
    let bare = json!({ "jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": { "name": "add", "arguments": { "a": 1, "b": 2 } } });
    for id in 0..500 {
        assert_eq!(text_of(&current.ask(&call(id, 1)).await), r#"{"result":3}"#);
        let listed = current.ask(&modern_message("tools/list", json!({}))).await;
        assert!(listed.get("result").is_some(), "{listed}");
        assert_eq!(text_of(&legacy.ask(&bare).await), r#"{"result":3}"#);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn excessive_streams() {
    let test = TestHost::start(&[("add", &add())]).await;
    let host = MeshHost::start_with(test, |config| {
        (config.streams_per_peer, config.new_streams_per_second) = (4, 1_000);
    });
    host.grant(&peer(0), "*");
    let mut open: Vec<FramePeer> = (0..4).map(|_| host.open(&peer(0))).collect();
    for _ in 0..10 {
        host.open(&peer(0)).closes().await;
    }
    for stream in &mut open {
        assert_eq!(text_of(&stream.ask(&call(1, 1)).await), r#"{"result":3}"#);
    }
    drop(open);
    host.test.until("streams that ended make room", async |_| host.door.streams() == 0).await;
    assert_eq!(text_of(&host.open(&peer(0)).ask(&call(1, 1)).await), r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn valid_peerid_invalid_ucan() {
    let host = host().await;
    // A peer whose id is proven, and that nobody gave anything. What it shows besides changes nothing.
    let mut forged = call(1, 1);
    forged["params"]["_meta"]["ucan"] = json!("a.b.c");
    forged["params"]["_meta"]["proof_cid"] = json!("bafy");
    for message in [call(1, 1), forged, modern_message("tools/list", json!({})), initialize_message()] {
        let mut stream = host.open(&peer(1));
        let refused = stream.ask(&message).await;
        assert_eq!(refused["error"]["code"], -32001, "{refused}");
        assert!(refused["error"]["message"].as_str().expect("text").contains("no grant here"), "{refused}");
        assert_eq!(refused["id"], message["id"]);
        stream.closes().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_sees_and_calls_only_what_its_grant_names() {
    let two = folder(&[("add", &add()), ("probe", &guest("probe"))]);
    let host = MeshHost::start_with(TestHost::start_with(two, |_| {}).await, |_| {});
    host.grant(&peer(0), "probe_*");
    let mut stream = host.open(&peer(0));
    let listed = stream.ask(&modern_message("tools/list", json!({}))).await;
    let names = listed["result"]["tools"].as_array().expect("tools");
    assert!(!names.is_empty() && names.iter().all(|tool| tool["name"].as_str().expect("a name").starts_with("probe_")));
    let refused = stream.ask(&call(2, 1)).await;
    assert_eq!(refused["error"]["message"], "unknown tool `add`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_fence() {
    let host = MeshHost::start(&[("add", &add()), ("probe", &guest("probe"))]).await;
    host.grant(&peer(0), "*");
    let mut stream = host.open(&peer(0));
    assert_eq!(text_of(&stream.ask(&call(1, 1)).await), r#"{"result":3}"#);
    // A right that another has replaced counts no more, on no stream that is open.
    host.grant(&peer(0), "probe_*");
    let refused = stream.receive().await.expect("an error");
    assert!(refused["error"]["message"].as_str().expect("text").contains("was changed"), "{refused}");
    stream.closes().await;
    assert_eq!(host.open(&peer(0)).ask(&call(1, 1)).await["error"]["message"], "unknown tool `add`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_stops_what_runs_at_once() {
    let host = MeshHost::start(&[("probe", &guest("probe"))]).await;
    host.grant(&peer(0), "*");
    let mut stream = host.open(&peer(0));
    let listed = stream.ask(&modern_message("tools/list", json!({}))).await;
    assert!(listed["result"]["tools"].is_array());
    let mut spin = modern_message("tools/call", json!({ "name": "probe_spin", "arguments": {} }));
    spin["id"] = json!(2);
    stream.send(&spin).await;
    host.test.until("the call runs", async |test| test.host.registry().calls() == 1).await;
    host.peers.revoke(peer(0).as_str()).expect("revoked");
    let refused = stream.receive().await.expect("an error");
    assert_eq!(refused["error"]["code"], -32001, "{refused}");
    stream.closes().await;
    host.test.until("the call has ended", async |test| test.host.registry().calls() == 0).await;
    assert_eq!(host.open(&peer(0)).ask(&call(1, 1)).await["error"]["code"], -32001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_stops_the_tasks_of_a_peer_that_has_left() {
    let files = folder(&[("conformance", &guest("conformance"))]);
    grant(&files, "[components.conformance.limits]\ntask_after_ms = 0\n");
    let host = MeshHost::start_with(TestHost::start_with(files, |_| {}).await, |_| {});
    let capabilities = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } });
    for known in [peer(0), peer(1)] {
        host.grant(&known, "*");
        let mut slow =
            modern_message("tools/call", json!({ "name": "slow_compute", "arguments": { "seconds": 3_600 } }));
        slow["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities.clone();
        let made = host.open(&known).ask(&slow).await;
        assert_eq!(made["result"]["resultType"], "task", "{made}");
    }
    let running = |host: &MeshHost| host.test.host.registry().calls();
    assert_eq!(running(&host), 2);
    host.peers.revoke(peer(0).as_str()).expect("revoked");
    host.test.until("its task has stopped", async |test| test.host.registry().calls() == 1).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(running(&host), 1, "the task of the other goes on");
    host.peers.revoke(peer(1).as_str()).expect("revoked");
    host.test.until("both have stopped", async |test| test.host.registry().calls() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_writers_and_readers_and_idle_streams_end() {
    let test = TestHost::start(&[("add", &add())]).await;
    let host = MeshHost::start_with(test, |config| {
        (config.frame_timeout_ms, config.idle_timeout_ms) = (300, 300);
        config.in_flight_per_peer = 1_000;
    });
    host.grant(&peer(0), "*");
    // One that announces a frame and does not send it.
    let mut slow = host.open(&peer(0));
    slow.send_raw(b"\0\0\x01\0{").await;
    assert_eq!(reason(&slow.receive().await.expect("an error")), "timeout");
    slow.closes().await;
    // One that says nothing.
    host.open(&peer(0)).closes().await;
    // One that asks and does not read.
    let mut deaf = host.open(&peer(0));
    let asking = tokio::spawn(async move {
        let mut sent = 0;
        while deaf.stream.write_all(&frame(&call(sent, 1))).await.is_ok() {
            sent += 1;
        }
    });
    tokio::time::timeout(crate::support::PATIENCE, asking).await.expect("its stream ends").expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_holds_up_no_large_message_of_another() {
    let test = TestHost::start(&[("text", &text()), ("probe", &guest("probe"))]).await;
    let host = MeshHost::start_with(test, |_| {});
    host.grant(&peer(0), "*");
    host.grant(&peer(1), "*");
    let large = |id: u64| {
        let params =
            json!({ "name": "text", "arguments": { "bytes": 1 }, "_meta": { "padding": "x".repeat(100_000) } });
        let mut message = modern_message("tools/call", params);
        message["id"] = json!(id);
        message
    };
    let mut deaf = host.open(&peer(0));
    let mut answer = modern_message("tools/call", json!({ "name": "text", "arguments": { "bytes": 1_000_000 } }));
    answer["id"] = json!(1);
    deaf.send(&answer).await;
    let mut sleep = modern_message("tools/call", json!({ "name": "probe_sleep", "arguments": { "ms": 60_000 } }));
    sleep["id"] = json!(2);
    deaf.send(&sleep).await;
    host.test.until("one is answered and the other runs", async |test| test.host.registry().calls() == 1).await;
    // Its id is taken: the refusal stands behind the answer that nobody reads.
    let refused = frame(&large(2));
    let sending = tokio::spawn(async move {
        let _until_the_stream_is_full = deaf.stream.write_all(&refused).await;
        std::future::pending::<()>().await;
    });
    let mut other = host.open(&peer(1));
    for id in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(text_of(&other.ask(&large(id)).await), "\"");
    }
    sending.abort();
}
