//! Calls of task-queue services of before MCP++'s bindings: the trace of their client, operation by operation, as this host makes it.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use mcpp::{
    call::{Call, CallError, ReachPeer as _, ToolResult, authorize},
    config::MeshDoorConfig,
    mcp::mesh::{LEGACY_PROTOCOL, PROTOCOL, remote::Remotes},
    mesh::{PeerId, PeerStream, Unreachable, dial::Dial},
    names::ToolName,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream},
    sync::mpsc,
};

use crate::{
    mesh_peers::{FramePeer, MeshHost, peer},
    mesh_remote::{join, request},
};

/// The way to a service whose end the test has: each stream with its protocol. Without frames it knows the lines alone.
#[derive(Debug)]
struct ToService {
    streams: mpsc::Sender<(&'static str, DuplexStream)>,
    has_frames: bool,
}

impl Dial for ToService {
    fn dial<'a>(
        &'a self,
        peer: &'a PeerId,
        protocol: &'static str,
        _: Duration,
    ) -> BoxFuture<'a, Result<PeerStream, Unreachable>> {
        Box::pin(async move {
            if protocol == PROTOCOL && !self.has_frames {
                return Err(Unreachable::Unsupported { peer: peer.clone(), protocol });
            }
            let (here, there) = tokio::io::duplex(64 << 10);
            let gone = |_| Unreachable::Failed { peer: peer.clone(), reason: "nobody is there".to_owned() };
            self.streams.send((protocol, there)).await.map_err(gone)?;
            let stream: PeerStream = Box::new(here);
            Ok(stream)
        })
    }
}

/// A host that calls the service as peer 5, and the service's streams.
async fn caller(has_frames: bool) -> (MeshHost, Remotes, mpsc::Receiver<(&'static str, DuplexStream)>) {
    let (streams, accepted) = mpsc::channel(4);
    let host = MeshHost::start(&[]).await;
    join(&host, &peer(5));
    let registry = host.test.host.registry().clone();
    let dial = Arc::new(ToService { streams, has_frames });
    let remotes = Remotes::new(dial, MeshDoorConfig::default(), Arc::clone(&host.peers), registry);
    (host, remotes, accepted)
}

async fn call(remotes: &Remotes, tool: &str, arguments: Value) -> Result<ToolResult, CallError> {
    let tool = ToolName::new(tool).expect("legal");
    let call = authorize(Call::new(request(), tool, arguments)).expect("authorized");
    remotes.reach(&peer(5), call).await.0
}

/// One stream of a service with frames, as upstream serves it: it must be greeted first, and its ids repeat. What it was asked, and whether it answered.
async fn serve(stream: DuplexStream, answer: Value) -> Option<Value> {
    let mut stream = FramePeer { stream };
    let first = stream.receive().await?;
    if first["method"] != "initialize" {
        let refused =
            json!({ "jsonrpc": "2.0", "id": first["id"], "error": { "code": -32000, "message": "init_required" } });
        stream.send(&refused).await;
        return None;
    }
    assert_eq!((&first["id"], &first["params"]["profiles"]), (&json!(1), &json!(["mcp++/p2p-transport"])), "{first}");
    assert!(first["params"].get("protocolVersion").is_none() && first["params"].get("capabilities").is_none());
    stream.send(&json!({ "jsonrpc": "2.0", "id": 1, "result": { "ok": true } })).await;
    let asked = stream.receive().await?;
    assert_eq!(
        (&asked["method"], &asked["id"], &asked["params"]["name"]),
        (&json!("tools/call"), &json!(1), &json!("task_queue.rpc"))
    );
    stream.send(&json!({ "jsonrpc": "2.0", "id": 1, "result": { "content": answer } })).await;
    Some(asked["params"]["arguments"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_wants_a_greeting_is_greeted_and_then_remembered() {
    let (_host, remotes, mut streams) = caller(true).await;
    let serving = async {
        let (protocol, stream) = streams.recv().await.expect("dialed");
        assert_eq!((protocol, serve(stream, json!({})).await), (PROTOCOL, None), "the current binding first");
        let mut asked = Vec::new();
        for answer in [
            json!({ "ok": true, "task_id": "a" }),
            json!({ "ok": true, "task": null }),
            json!([1]),
            json!({ "ok": false }),
        ] {
            let (_, stream) = streams.recv().await.expect("dialed");
            asked.push(serve(stream, answer).await.expect("greeted at once"));
        }
        asked
    };
    let requests = [
        json!({ "op": "submit", "task_type": "t", "payload": {} }),
        json!({ "op": "claim", "worker_id": "w" }),
        json!({ "op": "status" }),
        json!({ "op": "complete", "task_id": "x" }),
    ];
    let calls = async {
        let mut answers = Vec::new();
        for request in &requests {
            answers.push(call(&remotes, "task_queue.rpc", request.clone()).await);
        }
        answers
    };
    let (asked, answers) = tokio::join!(serving, calls);
    assert_eq!(asked, requests, "each request once");
    let structured = |at: usize| answers[at].as_ref().ok().and_then(|result| result.structured.clone());
    assert_eq!(structured(0), Some(json!({ "ok": true, "task_id": "a" })));
    assert_eq!(structured(1), Some(json!({ "ok": true, "task": null })));
    assert!(matches!(answers[2], Err(CallError::InvalidResult { .. })), "{:?}", answers[2]);
    assert_eq!(structured(3), Some(json!({ "ok": false })), "its own words");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_refuses_has_not_run_the_call_and_one_that_leaves_may_have() {
    let (_host, remotes, mut streams) = caller(true).await;
    let serving = async {
        let (_, stream) = streams.recv().await.expect("dialed");
        serve(stream, json!({})).await;
        // It leaves before it is greeted.
        drop(streams.recv().await.expect("dialed"));
        // It refuses the token.
        let (_, stream) = streams.recv().await.expect("dialed");
        let mut stream = FramePeer { stream };
        stream.receive().await.expect("a greeting");
        stream.send(&json!({ "jsonrpc": "2.0", "id": 1, "result": {} })).await;
        stream.receive().await.expect("a call");
        stream
            .send(&json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32001, "message": "unauthorized" } }))
            .await;
        // It leaves after it was called.
        let (_, stream) = streams.recv().await.expect("dialed");
        let mut stream = FramePeer { stream };
        stream.receive().await.expect("a greeting");
        stream.send(&json!({ "jsonrpc": "2.0", "id": 1, "result": {} })).await;
        stream.receive().await.expect("a call");
    };
    let calls = async {
        let mut errors = Vec::new();
        for _ in 0..3 {
            errors.push(call(&remotes, "task_queue.rpc", json!({ "op": "status" })).await.expect_err("refused"));
        }
        errors
    };
    let ((), errors) = tokio::join!(serving, calls);
    let has_not_run: Vec<_> = errors.iter().map(CallError::has_not_run).collect();
    assert_eq!(has_not_run, [true, true, false], "{errors:?}");
    let CallError::Unreachable { reason, .. } = &errors[1] else { panic!("{errors:?}") };
    assert!(reason.starts_with("unauthorized: "), "as the protocol has it: {reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_knows_lines_alone_is_spoken_to_in_lines() {
    let (_host, remotes, mut streams) = caller(false).await;
    let serving = async {
        for _ in 0..2 {
            let (protocol, stream) = streams.recv().await.expect("dialed");
            assert_eq!(protocol, LEGACY_PROTOCOL);
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("a line");
            let asked: Value = serde_json::from_str(&line).expect("JSON");
            let answer = json!({ "ok": true, "peer_id": "p", "asked": asked });
            stream.write_all(format!("{answer}\n").as_bytes()).await.expect("answered");
        }
    };
    let calls = async {
        for op in ["status", "list"] {
            let answer = call(&remotes, "task_queue.rpc", json!({ "op": op })).await.expect("an answer");
            assert_eq!(answer.structured, Some(json!({ "ok": true, "peer_id": "p", "asked": { "op": op } })));
        }
        // No other tool is asked of it.
        assert!(call(&remotes, "add", json!({})).await.expect_err("unsupported").has_not_run());
    };
    tokio::join!(serving, calls);
}
