//! Two nodes in one process: what the mesh does, over loopback.

mod certificates;
mod floods;
mod ways;

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const ECHO: &str = "/mcpp-test/echo/1.0.0";
const OTHER: &str = "/mcpp-test/other/1.0.0";
/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node that listens on loopback.
async fn node(change: impl FnOnce(&mut NetworkConfig)) -> (Mesh, Incoming) {
    let mut network = NetworkConfig { listen: vec!["127.0.0.1:0".into()], ..NetworkConfig::default() };
    change(&mut network);
    let identity = Identity::generate().expect("a key");
    Mesh::start(MeshConfig { network, identity, folder: None }, vec![ECHO]).await.expect("it starts")
}

/// Sends back whatever peers send.
fn echo(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(IncomingStream { stream, .. }) = incoming.next().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(stream);
                let _until_it_ends = tokio::io::copy(&mut read, &mut write).await;
                let _done = write.shutdown().await;
            });
        }
    });
}

/// The address of a node over one of its transports.
fn address(mesh: &Mesh, transport: &str) -> String {
    mesh.addresses().into_iter().find(|address| address.contains(transport)).expect("it listens there")
}

async fn round_trip(stream: &mut PeerStream, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("sent");
    stream.flush().await.expect("sent");
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await.expect("an answer");
    assert_eq!(back, text.as_bytes());
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not come to be"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_meet_over_each_transport_and_carry_bytes() {
    for transport in ["/tcp/", "/quic-v1"] {
        let ((a, _in_a), (b, in_b)) = (node(|_| {}).await, node(|_| {}).await);
        echo(in_b);
        let peer = a.connect(&address(&b, transport), PATIENCE).await.expect("connected");
        assert_eq!(&peer, b.id());
        let mut stream = a.open(&peer, ECHO, PATIENCE).await.expect("a stream");
        round_trip(&mut stream, "over the mesh").await;
        let seen = a.peers();
        let [seen] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!((&seen.peer, seen.path, seen.came, seen.streams), (b.id(), PeerPath::Direct, Came::Dialed, 1));
        assert!(seen.sent_bytes >= 13 && seen.received_bytes >= 13, "{seen:?}");
        assert!(seen.addresses.iter().all(|address| address.contains(transport)), "{seen:?}");
        until("the agent's name", || {
            a.peers().iter().any(|peer| peer.agent.as_deref().is_some_and(|a| a.starts_with("mcpp/")))
        })
        .await;
        until("the measured round trip", || {
            b.peers().iter().any(|peer| peer.rtt.is_some() && peer.came == Came::Accepted)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_refused_by_name_and_a_peer_that_nobody_knows_has_no_address() {
    let ((a, _in_a), (b, in_b)) = (node(|_| {}).await, node(|_| {}).await);
    echo(in_b);
    let unknown = Identity::generate().expect("a key").peer();
    let error = a.open(&unknown, ECHO, PATIENCE).await.err().expect("nobody");
    assert!(matches!(error, Unreachable::NoAddress { .. }), "{error}");
    a.remember(b.id(), &b.addresses()).expect("its addresses");
    let error = a.open(b.id(), OTHER, PATIENCE).await.err().expect("not spoken");
    assert_eq!(error, Unreachable::Unsupported { peer: b.id().clone(), protocol: OTHER });
    assert!(matches!(a.open(a.id(), ECHO, PATIENCE).await.err(), Some(Unreachable::Myself(_))));
    let wrong = address(&b, "/tcp/").replace(b.id().as_str(), unknown.as_str());
    let error = a.connect(&wrong, PATIENCE).await.expect_err("another peer").to_string();
    assert!(error.contains("answers there") && error.contains(b.id().as_str()), "{error}");
    assert!(a.remember(b.id(), &[wrong]).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_disconnected_loses_its_open_streams_at_once() {
    let ((a, _in_a), (b, mut in_b)) = (node(|_| {}).await, node(|_| {}).await);
    a.remember(b.id(), &b.addresses()).expect("its addresses");
    let mut changes = b.changes();
    let mut ours = a.open(b.id(), ECHO, PATIENCE).await.expect("a stream");
    ours.write_all(b"x").await.expect("sent");
    ours.flush().await.expect("sent");
    let mut theirs = in_b.next().await.expect("the stream");
    assert_eq!(&theirs.peer, a.id());
    let mut byte = [0];
    theirs.stream.read_exact(&mut byte).await.expect("the byte");
    // One waits for bytes while the host disconnects the peer.
    let waiting = tokio::spawn(async move { theirs.stream.read_exact(&mut [0]).await });
    b.disconnect(a.id()).await;
    let cut = tokio::time::timeout(PATIENCE, waiting).await.expect("it ends").expect("no panic").expect_err("cut");
    assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionAborted);
    assert!(ours.read_exact(&mut byte).await.is_err());
    until("the end of the connection", || a.peers().is_empty() && b.peers().is_empty()).await;
    let events = [changes.recv().await, changes.recv().await].map(|change| change.expect("a change").event);
    assert_eq!(events, [PeerEvent::Connected(PeerPath::Direct), PeerEvent::Disconnected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_notice_that_a_node_leaves() {
    let ((a, _in_a), (b, _in_b)) = (node(|_| {}).await, node(|_| {}).await);
    for transport in ["/tcp/", "/quic-v1"] {
        let (c, _in_c) = node(|_| {}).await;
        c.connect(&address(&a, transport), PATIENCE).await.expect("connected");
        c.connect(&address(&b, transport), PATIENCE).await.expect("connected");
        until("both connections", || a.peers().len() == 1 && b.peers().len() == 1).await;
        c.leave().await;
        until("their ends", || a.peers().is_empty() && b.peers().is_empty()).await;
        assert_eq!(c.open(a.id(), ECHO, PATIENCE).await.err(), Some(Unreachable::Stopped));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_opens_streams_without_end_is_held_to_its_number() {
    let (b, mut in_b) = node(|network| network.max_streams_per_stranger = 3).await;
    let (a, _in_a) = node(|_| {}).await;
    a.remember(b.id(), &b.addresses()).expect("its addresses");
    let mut kept = Vec::new();
    for _ in 0..20 {
        let mut stream = a.open(b.id(), ECHO, PATIENCE).await.expect("negotiated");
        let _or_reset = stream.write_all(b"x").await;
        kept.push(stream);
    }
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(in_b.next().await.expect("a stream"));
    }
    assert_eq!(b.peers().first().map(|peer| peer.streams), Some(3));
    // One that ends makes room for one.
    drop(taken.pop());
    until("room", || b.peers().first().is_some_and(|peer| peer.streams == 2)).await;
    let mut stream = a.open(b.id(), ECHO, PATIENCE).await.expect("negotiated");
    stream.write_all(b"y").await.expect("sent");
    stream.flush().await.expect("sent");
    let mut last = in_b.next().await.expect("a stream");
    let mut byte = [0];
    last.stream.read_exact(&mut byte).await.expect("a byte");
    assert_eq!(&byte, b"y");
    // A known peer may have more.
    b.know(a.id(), Bond::Known).expect("room");
    let mut more = a.open(b.id(), ECHO, PATIENCE).await.expect("negotiated");
    more.write_all(b"z").await.expect("sent");
    more.flush().await.expect("sent");
    let mut last = in_b.next().await.expect("a stream");
    last.stream.read_exact(&mut byte).await.expect("a byte");
    assert_eq!(&byte, b"z");
}
