//! How nodes find each other, over loopback.

use super::*;

/// Waits until two nodes are connected.
async fn meet(what: &str, a: &Mesh, b: &Mesh) {
    until(what, || a.peers().iter().any(|peer| &peer.peer == b.id())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_peer_is_gone_back_to_after_it_died() {
    let identity = Identity::generate().expect("a key");
    let network = NetworkConfig { listen: vec!["127.0.0.1:0".into()], ..NetworkConfig::default() };
    let config = MeshConfig { network, identity, folder: None };
    let (b, _in_b) = Mesh::start(config.clone(), vec![ECHO]).await.expect("it starts");
    let at = address(&b, "/tcp/");
    let (a, _in_a) = node(|network| network.peers = vec![at.clone()]).await;
    meet("the named peer", &a, &b).await;
    b.leave().await;
    until("its loss", || a.peers().is_empty()).await;
    // It comes back where it was.
    let port = at.split('/').nth(4).expect("a port").to_owned();
    let mut again = config;
    again.network.listen = vec![format!("127.0.0.1:{port}")];
    let (b, _in_b) = Mesh::start(again, vec![ECHO]).await.expect("it starts again");
    meet("the peer that is back", &a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_find_each_other_at_a_rendezvous() {
    let (point, _in) = node(|network| network.rendezvous_server = true).await;
    let at = vec![address(&point, "/tcp/")];
    let (a, _in_a) = node(|network| network.rendezvous = at.clone()).await;
    let (b, _in_b) = node(|network| network.rendezvous = at.clone()).await;
    let (other, _in_o) = node(|network| {
        network.rendezvous = at.clone();
        network.namespace = "another".into();
    })
    .await;
    meet("the other node of the namespace", &b, &a).await;
    meet("the point", &other, &point).await;
    assert!(other.peers().iter().all(|peer| &peer.peer == point.id()), "{:?}", other.peers());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_find_each_other_in_the_table() {
    let (first, _in) = node(|network| network.dht = DhtMode::Server).await;
    let at = vec![address(&first, "/tcp/")];
    let join = |network: &mut NetworkConfig| {
        network.dht = DhtMode::Server;
        network.bootstrap = at.clone();
    };
    let ((a, _in_a), (b, _in_b)) = (node(join).await, node(join).await);
    until("each other", || {
        let sees = |x: &Mesh, y: &Mesh| x.peers().iter().any(|peer| &peer.peer == y.id());
        sees(&a, &b) || sees(&b, &a)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_finds_another_by_its_announce_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("announce.json");
    let (a, _in_a) = node(|network| network.bootstrap_file = Some(file.clone())).await;
    let (b, _in_b) = node(|network| network.announce_file = Some(file.clone())).await;
    meet("the node of the file", &a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_a_relay_outlives_the_move_to_a_direct_connection() {
    let (relay, _in) = node(|network| network.relay_server = true).await;
    let at = address(&relay, "/tcp/");
    // The nodes listen, so that both can be dialed once they have met over the relay.
    let (b, in_b) = node(|network| network.relays = vec![at.clone()]).await;
    let (a, _in_a) = node(|_| {}).await;
    echo(in_b);
    until("a place at the relay", || b.addresses().iter().any(|address| address.contains("p2p-circuit"))).await;
    let circuit = b.addresses().into_iter().find(|address| address.contains("p2p-circuit")).expect("it is there");
    let mut changes = a.changes();
    let peer = a.connect(&circuit, PATIENCE).await.expect("connected over the relay");
    assert_eq!(&peer, b.id());
    let mut stream = a.open(&peer, ECHO, PATIENCE).await.expect("a stream");
    round_trip(&mut stream, "before").await;
    let path = || a.peers().into_iter().find(|seen| &seen.peer == b.id()).map(|seen| (seen.path, seen.came));
    until("the direct path", || path().is_some_and(|(path, _)| path == PeerPath::Direct)).await;
    assert_eq!(path(), Some((PeerPath::Direct, Came::Punched)));
    round_trip(&mut stream, "after, on the old stream").await;
    let mut direct = a.open(&peer, ECHO, PATIENCE).await.expect("a stream on the direct path");
    round_trip(&mut direct, "on the new path").await;
    // Both connections stand while the old stream does; when it ends, the relayed one goes.
    assert_eq!(a.peers().iter().find(|seen| &seen.peer == b.id()).map(|seen| seen.addresses.len()), Some(2));
    drop(stream);
    until("the end of the relayed connection", || {
        a.peers().iter().find(|seen| &seen.peer == b.id()).is_some_and(|seen| seen.addresses.len() == 1)
    })
    .await;
    round_trip(&mut direct, "still").await;
    let mut events = Vec::new();
    while let Ok(change) = changes.try_recv() {
        if &change.peer == b.id() {
            events.push(change.event);
        }
    }
    assert_eq!(events, [PeerEvent::Connected(PeerPath::Relayed), PeerEvent::Moved(PeerPath::Direct)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_reach_the_nodes_of_the_namespace_and_keep_to_their_rate() {
    let open = |network: &mut NetworkConfig| network.announcements = true;
    let ((a, _in_a), (b, _in_b), (silent, _in_s)) = (node(open).await, node(open).await, node(|_| {}).await);
    assert_eq!(silent.announce(b"x".to_vec()).await, Err(AnnounceError::Off));
    assert_eq!(a.announce(vec![0; announcements::MAX_ANNOUNCEMENT_BYTES + 1]).await, Err(AnnounceError::TooLarge));
    let mut heard = b.announcements();
    a.connect(&address(&b, "/tcp/"), PATIENCE).await.expect("connected");
    let mut tries = 0;
    while a.announce(b"here".to_vec()).await == Err(AnnounceError::Nobody) {
        tries += 1;
        assert!(tries < 25, "the peer never listens");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let first = tokio::time::timeout(PATIENCE, heard.recv()).await.expect("in time").expect("heard");
    assert_eq!(first, Announcement { peer: a.id().clone(), data: b"here".to_vec() });
    let mut refused = false;
    for number in 0..40_u8 {
        refused |= a.announce(vec![number]).await == Err(AnnounceError::TooFast);
    }
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_mesh_is_open_to_those_it_knows() {
    let (b, _in_b) = node(|network| network.callers = Callers::Known).await;
    let (a, _in_a) = node(|_| {}).await;
    let at = address(&b, "/tcp/");
    let connected = a.connect(&at, PATIENCE).await;
    // The refusal comes after the handshake: the dialer may see a connection for a moment.
    until("the refusal", || a.peers().is_empty() && b.peers().is_empty()).await;
    drop(connected);
    b.know(a.id(), Bond::Known).expect("room");
    a.connect(&at, PATIENCE).await.expect("connected");
    until("the connection", || b.peers().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_a_secp256k1_key_is_a_peer() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = libp2p::identity::Keypair::generate_secp256k1();
    let bytes = key.to_protobuf_encoding().expect("encoded");
    crate::files::write_atomically(&folder.path().join(identity::KEY_NAME), &bytes).expect("written");
    let identity = Identity::open(folder.path()).expect("taken");
    let network = NetworkConfig { listen: vec!["127.0.0.1:0".into()], ..NetworkConfig::default() };
    let (a, in_a) = Mesh::start(MeshConfig { network, identity, folder: None }, vec![ECHO]).await.expect("it starts");
    echo(in_a);
    let (b, _in_b) = node(|_| {}).await;
    for transport in ["/tcp/", "/quic-v1"] {
        let peer = b.connect(&address(&a, transport), PATIENCE).await.expect("connected");
        let mut stream = b.open(&peer, ECHO, PATIENCE).await.expect("a stream");
        round_trip(&mut stream, "hello").await;
        b.disconnect(&peer).await;
        until("its end", || b.peers().is_empty()).await;
    }
}
