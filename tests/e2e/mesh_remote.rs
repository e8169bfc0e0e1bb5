//! Calling out: a host's calls of a peer's tools, against doors of real hosts and against peers that do wrong.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use mcpp::{
    call::{Call, CallError, CallEvent, LogLevel, MAX_HOPS, Observer, ReachPeer as _, Request, ToolResult, authorize},
    config::MeshDoorConfig,
    mcp::mesh::{MeshDoor, PROTOCOL, remote::Remotes},
    mesh::{PeerId, PeerStream, dial::Dial},
    names::{TenantId, ToolName},
    peers::Membership,
    tenant::{Incarnation, Principal},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    mesh_peers::{FramePeer, MeshHost, peer},
    support::{PATIENCE, TestHost, add, guest},
};

/// The way to a door in the same process, as peer 0; or to nobody.
#[derive(Debug)]
struct ToDoor(Option<MeshDoor>);

impl Dial for ToDoor {
    fn dial<'a>(
        &'a self,
        peer: &'a PeerId,
        protocol: &'static str,
        _: Duration,
    ) -> BoxFuture<'a, Result<PeerStream, mcpp::mesh::Unreachable>> {
        Box::pin(async move {
            let Some(door) = &self.0 else { return Err(unreachable(peer)) };
            let (here, there) = tokio::io::duplex(64 << 10);
            door.accept(crate::mesh_peers::peer(0), protocol, Box::new(there));
            let stream: PeerStream = Box::new(here);
            Ok(stream)
        })
    }
}

/// The way to a peer whose end the test has.
#[derive(Debug)]
struct ToTest(mpsc::Sender<FramePeer>);

impl Dial for ToTest {
    fn dial<'a>(
        &'a self,
        peer: &'a PeerId,
        protocol: &'static str,
        _: Duration,
    ) -> BoxFuture<'a, Result<PeerStream, mcpp::mesh::Unreachable>> {
        Box::pin(async move {
            assert_eq!(protocol, PROTOCOL);
            let (here, there) = tokio::io::duplex(64 << 10);
            self.0.send(FramePeer { stream: there }).await.map_err(|_| unreachable(peer))?;
            let stream: PeerStream = Box::new(here);
            Ok(stream)
        })
    }
}

fn unreachable(peer: &PeerId) -> mcpp::mesh::Unreachable {
    mcpp::mesh::Unreachable::Failed { peer: peer.clone(), reason: "nobody is there".to_owned() }
}

/// A host that calls peer 5, which lets it call everything.
async fn caller(dial: impl Dial + 'static) -> (MeshHost, Remotes) {
    let host = MeshHost::start(&[]).await;
    join(&host, &peer(5));
    let registry = host.test.host.registry().clone();
    let remotes = Remotes::new(Arc::new(dial), MeshDoorConfig::default(), Arc::clone(&host.peers), registry);
    (host, remotes)
}

/// Lets the host's tenant `local` call every tool of a peer.
pub(crate) fn join(host: &MeshHost, peer: &PeerId) {
    let membership = Membership {
        peer: peer.clone(),
        tenant: TenantId::local(),
        incarnation: Incarnation::default(),
        tools: vec!["*".parse().expect("a pattern")],
        calls_per_minute: None,
        since: std::time::SystemTime::now(),
        expires: None,
        addresses: Vec::new(),
    };
    host.peers.join(membership).expect("joined");
}

/// A request of the local user.
pub(crate) fn request() -> Request {
    Request { deadline: Some(Instant::now() + PATIENCE), ..Request::of(Principal::local_user()) }
}

async fn call(remotes: &Remotes, request: Request, tool: &str, arguments: Value) -> Result<ToolResult, CallError> {
    let tool = ToolName::new(tool).expect("legal");
    let call = authorize(Call::new(request, tool, arguments)).expect("authorized");
    remotes.reach(&peer(5), call).await.0
}

fn sum(result: &Result<ToolResult, CallError>) -> Option<i64> {
    result.as_ref().ok()?.structured.as_ref()?["result"].as_i64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_in_flight_together_and_cost_comes_back() {
    let there = MeshHost::start(&[("add", &add())]).await;
    there.grant(&peer(0), "*");
    let (_here, remotes) = caller(ToDoor(Some(there.door.clone()))).await;
    let calls = (0..100).map(|a| call(&remotes, request(), "add", json!({ "a": a, "b": 1 })));
    let sums: Vec<_> =
        futures::future::join_all(calls).await.iter().map(|result| sum(result).expect("a sum")).collect();
    assert_eq!(sums, (1..=100).collect::<Vec<_>>());
    let asked = authorize(Call {
        request: request(),
        tool: ToolName::new("add").expect("legal"),
        arguments: json!({ "a": 1, "b": 1 }),
        interface: None,
        builds: Vec::new(),
    });
    let (_, receipt) = remotes.reach(&peer(5), asked.expect("authorized")).await;
    assert!(receipt.cost.memory_bytes > 0 || receipt.cost.processor_time > Duration::ZERO, "{receipt:?}");
    assert_eq!(there.door.streams(), 1, "one stream for all of them");
    let tools = remotes.tools(&peer(5)).await.expect("listed");
    assert_eq!(tools.len(), 1);
    let health = remotes.health(&peer(5));
    assert!(health.latency.is_some() && health.in_flight == 0 && !health.rests(), "{health:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_named_and_say_whether_the_call_has_run() {
    let there = MeshHost::start(&[("add", &add())]).await;
    let (_here, remotes) = caller(ToDoor(Some(there.door.clone()))).await;
    let refused = call(&remotes, request(), "add", json!({ "a": 1, "b": 1 })).await.expect_err("no grant there");
    assert!(refused.has_not_run() && refused.to_string().contains("no grant here"), "{refused}");
    there.grant(&peer(0), "add");
    for (tool, arguments, kind) in [
        ("other", json!({}), "unknown_tool"),
        ("add", json!({ "a": "x", "b": 1 }), "ok"),
        ("add", json!({ "a": 1, "b": 1 }), "ok"),
    ] {
        let result = call(&remotes, request(), tool, arguments).await;
        assert_eq!(result.as_ref().err().map_or("ok", CallError::kind), kind, "{result:?}");
    }
    there.closing.cancel();
    let busy = call(&remotes, request(), "add", json!({ "a": 1, "b": 1 })).await.expect_err("it stops");
    assert!(busy.has_not_run() && busy.kind() == "busy", "{busy}");
    let stranger = Principal { tenant: TenantId::new("team").expect("legal"), ..Principal::local_user() };
    let of_others = call(&remotes, Request { principal: stranger, ..request() }, "add", json!({})).await;
    assert_eq!(of_others.expect_err("not this tenant's").kind(), "unknown_tool");
    let far = call(&remotes, Request { hops: MAX_HOPS, ..request() }, "add", json!({})).await;
    assert_eq!(far.expect_err("around and around").kind(), "too_deep");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_and_a_cancellation_stop_the_call_at_the_peer() {
    let there = MeshHost::start(&[("probe", &guest("probe"))]).await;
    there.grant(&peer(0), "*");
    let (_here, remotes) = caller(ToDoor(Some(there.door.clone()))).await;
    let soon = Request { deadline: Some(Instant::now() + Duration::from_millis(300)), ..request() };
    let late = call(&remotes, soon, "probe_spin", json!({})).await;
    let text = format!("{late:?}");
    assert!(text.contains("deadline") || text.contains("Deadline"), "{text}");
    there.test.until("the call has ended there", async |test| test.host.registry().calls() == 0).await;
    let cancelled = request();
    let cancel = cancelled.cancel.clone();
    let (result, ()) = tokio::join!(call(&remotes, cancelled, "probe_spin", json!({})), async {
        there.test.until("the call runs there", async |test| test.host.registry().calls() == 1).await;
        cancel.cancel();
    });
    assert_eq!(result.expect_err("cancelled").kind(), "cancelled");
    there.test.until("the call has ended there", async |test| test.host.registry().calls() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_records_and_progress_come_back_to_the_call_they_belong_to() {
    let there = MeshHost::start(&[("probe", &guest("probe"))]).await;
    there.grant(&peer(0), "*");
    let (here, remotes) = caller(ToDoor(Some(there.door.clone()))).await;
    let account = here.test.host.registry().share(&TenantId::local()).map(|share| Arc::clone(&share.memory));
    let watch = || Observer::new(Some(LogLevel::Debug), true, account.clone());
    let ((first, mut heard), (second, mut other)) = (watch(), watch());
    let print = |text: &str, observer| {
        call(&remotes, Request { observer, ..request() }, "probe_print", json!({ "text": text }))
    };
    let (a, b) = tokio::join!(print("of the first", first), print("of the second", second));
    assert!(a.is_ok() && b.is_ok());
    for (events, text) in [(&mut heard, "of the first"), (&mut other, "of the second")] {
        let waiting = events.recv().await.expect("a record");
        let CallEvent::Log { message, .. } = waiting.event else { panic!("{waiting:?}") };
        assert!(message.contains(text), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_a_handler_carries_the_length_of_its_chain_of_events() {
    let (to_test, mut streams) = mpsc::channel(4);
    let (_here, remotes) = caller(ToTest(to_test)).await;
    let peer = async {
        let mut stream = streams.recv().await.expect("dialed");
        for chain in [json!(7), Value::Null] {
            let message = stream.receive().await.expect("a request");
            assert_eq!(message["params"]["_meta"]["mcpp/chain"], chain, "{message}");
            stream.send(&answer(message["id"].as_u64().expect("an id"), 1)).await;
        }
        stream
    };
    let calls = async {
        for chain in [7, 0] {
            let request = Request { chain, ..request() };
            assert_eq!(sum(&call(&remotes, request, "t", json!({})).await), Some(1));
        }
    };
    let ((), _stream) = tokio::join!(calls, peer);
}

/// The id of the request that a peer has read.
async fn asked(stream: &mut FramePeer) -> u64 {
    stream.receive().await.expect("a request")["id"].as_u64().expect("an id")
}

fn answer(id: u64, number: i64) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": { "resultType": "complete", "content": [], "structuredContent": { "result": number } } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_success_on_transport_failure() {
    let (to_test, mut streams) = mpsc::channel(4);
    let (_here, remotes) = caller(ToTest(to_test)).await;
    let peer_leaves = async {
        let mut stream = streams.recv().await.expect("dialed");
        asked(&mut stream).await;
        drop(stream);
        // The next call goes over another stream.
        let mut stream = streams.recv().await.expect("dialed again");
        let id = asked(&mut stream).await;
        stream.send(&answer(id, 7)).await;
        stream
    };
    let calls = async {
        let broken = call(&remotes, request(), "t", json!({})).await.expect_err("no success");
        assert_eq!(broken.kind(), "interrupted");
        assert!(!broken.has_not_run(), "it may have run: {broken}");
        // It was reached before: nothing keeps the next call from it for longer than a moment.
        loop {
            match call(&remotes, request(), "t", json!({})).await {
                Err(error) if error.has_not_run() => tokio::time::sleep(Duration::from_millis(5)).await,
                result => break assert_eq!(sum(&result), Some(7), "{result:?}"),
            }
        }
    };
    let ((), _stream) = tokio::join!(calls, peer_leaves);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_gives_no_sign_of_life_ends_the_calls_that_wait_there() {
    let (to_test, mut streams) = mpsc::channel(4);
    let (_here, remotes) = caller(ToTest(to_test)).await;
    // It takes the call, keeps the stream open, and answers nothing any more, as a machine does that lost its power.
    let peer_freezes = async {
        let mut stream = streams.recv().await.expect("dialed");
        asked(&mut stream).await;
        stream
    };
    let patient = Request { deadline: Some(Instant::now() + Duration::from_secs(600)), ..request() };
    let (result, _stream) = tokio::join!(call(&remotes, patient, "t", json!({})), peer_freezes);
    let gone = result.expect_err("no success");
    assert!(!gone.has_not_run() && gone.to_string().contains("no sign of life"), "{gone}");
    // One that only takes long gives signs: its call goes on.
    let peer_works = async {
        let mut stream = streams.recv().await.expect("dialed again");
        let id = asked(&mut stream).await;
        for _ in 0..8 {
            let ping = stream.receive().await.expect("a question");
            assert_eq!(ping["method"], "ping", "{ping}");
            stream.send(&json!({ "jsonrpc": "2.0", "id": ping["id"], "result": {} })).await;
        }
        stream.send(&answer(id, 7)).await;
        stream
    };
    let calls = async {
        loop {
            match call(&remotes, request(), "t", json!({})).await {
                Err(error) if error.has_not_run() => tokio::time::sleep(Duration::from_millis(5)).await,
                result => break assert_eq!(sum(&result), Some(7), "{result:?}"),
            }
        }
    };
    let ((), _stream) = tokio::join!(calls, peer_works);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_response() {
    let (to_test, mut streams) = mpsc::channel(4);
    let (_here, remotes) = caller(ToTest(to_test)).await;
    let peer = async {
        let mut stream = streams.recv().await.expect("dialed");
        let first = asked(&mut stream).await;
        stream.send(&answer(first, 1)).await;
        stream.send(&answer(first, 666)).await;
        let second = asked(&mut stream).await;
        stream.send(&answer(first, 666)).await;
        stream.send(&answer(second, 2)).await;
        stream
    };
    let calls = async {
        assert_eq!(sum(&call(&remotes, request(), "t", json!({})).await), Some(1));
        assert_eq!(sum(&call(&remotes, request(), "t", json!({})).await), Some(2));
    };
    let ((), _stream) = tokio::join!(calls, peer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_correlation_id() {
    let (to_test, mut streams) = mpsc::channel(4);
    let (_here, remotes) = caller(ToTest(to_test)).await;
    let peer = async {
        let mut stream = streams.recv().await.expect("dialed");
        let id = asked(&mut stream).await;
        stream.send(&answer(id + 1, 666)).await;
        stream.send(&json!({ "jsonrpc": "2.0", "id": id.to_string(), "result": {} })).await;
        // The caller gives up, and says so.
        let cancelled = stream.receive().await.expect("a notification");
        assert_eq!(
            (&cancelled["method"], &cancelled["params"]["requestId"]),
            (&json!("notifications/cancelled"), &json!(id))
        );
        stream
    };
    let soon = Request { deadline: Some(Instant::now() + Duration::from_millis(300)), ..request() };
    let (result, _stream) = tokio::join!(call(&remotes, soon, "t", json!({})), peer);
    assert_eq!(result.expect_err("no answer").kind(), "budget_exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_the_bound_or_that_is_no_message_ends_the_stream_as_a_failure() {
    let (to_test, mut streams) = mpsc::channel(4);
    let (_here, remotes) = caller(ToTest(to_test)).await;
    for bytes in [&(17_u32 << 20).to_be_bytes()[..], b"\0\0\0\x01{", b"\0\0\0\x02"] {
        let peer = async {
            let mut stream = streams.recv().await.expect("dialed");
            asked(&mut stream).await;
            stream.send_raw(bytes).await;
            // Cut, where there is more to come.
        };
        let calls = async {
            loop {
                match call(&remotes, request(), "t", json!({})).await {
                    Err(error) if error.has_not_run() => tokio::time::sleep(Duration::from_millis(5)).await,
                    result => break result,
                }
            }
        };
        let (result, ()) = tokio::join!(calls, peer);
        assert_eq!(result.expect_err("a failure").kind(), "interrupted", "{bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_cannot_be_reached_is_left_alone_for_a_while() {
    let (_here, remotes) = caller(ToDoor(None)).await;
    let first = call(&remotes, request(), "t", json!({})).await.expect_err("nobody");
    assert!(first.has_not_run() && first.to_string().contains("nobody is there"), "{first}");
    let health = remotes.health(&peer(5));
    assert!(health.failures == 1 && health.rests_until.is_some(), "{health:?}");
    let test = TestHost::start(&[]).await;
    test.until("it was tried several times, with pauses", async |_| {
        let _refused = call(&remotes, request(), "t", json!({})).await;
        remotes.health(&peer(5)).failures >= 3
    })
    .await;
    let left_alone = call(&remotes, request(), "t", json!({})).await.expect_err("it rests");
    assert!(left_alone.to_string().contains("left alone"), "{left_alone}");
}
