//! Peers that mean harm: the offender is limited, others do not notice, memory stays flat.

use libp2p::{
    Multiaddr, Swarm,
    futures::StreamExt as _,
    rendezvous,
    swarm::{NetworkBehaviour, SwarmEvent},
};

use super::*;

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// A swarm that speaks one protocol as its author likes.
fn raw<B: NetworkBehaviour>(behaviour: impl FnOnce(&libp2p::identity::Keypair) -> B) -> Swarm<B> {
    let key = libp2p::identity::Keypair::generate_secp256k1();
    let given = transport::GivenAddresses::default();
    let (transport, _relay) =
        transport::build(&key, given, transport::Told::Machine, transport::Traffic::default()).expect("a transport");
    let settings = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
    Swarm::new(transport, behaviour(&key), key.public().to_peer_id(), settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_of_one_peer_disturb_nobody() {
    let ((b, in_b), (evil, _in_e), (good, _in_g)) = (node(|_| {}).await, node(|_| {}).await, node(|_| {}).await);
    // Nobody reads what the evil peer sends; it keeps every stream that it gets.
    let (kept, mut evil_streams) = mpsc::channel(64);
    let evil_id = evil.id().clone();
    let (others, theirs) = mpsc::channel(64);
    let mut in_b = in_b;
    tokio::spawn(async move {
        while let Some(stream) = in_b.next().await {
            let to = if stream.peer == evil_id { &kept } else { &others };
            let _full = to.try_send(stream);
        }
    });
    echo(Incoming(theirs));
    evil.remember(b.id(), &b.addresses()).expect("its addresses");
    good.connect(&address(&b, "/tcp/"), PATIENCE).await.expect("connected");
    let mut calm = good.open(b.id(), ECHO, PATIENCE).await.expect("a stream");
    let before = resident();
    let mut asked = 0;
    let mut held = Vec::new();
    while asked < 10_000 {
        let opens = (0..50).map(|_| evil.open(b.id(), ECHO, PATIENCE));
        for opened in futures::future::join_all(opens).await {
            asked += 1;
            if let Ok(mut stream) = opened {
                let _or_reset = tokio::time::timeout(Duration::from_millis(1), stream.write_all(&[0; 1024])).await;
                if held.len() < 32 {
                    held.push(stream);
                }
            }
        }
        round_trip(&mut calm, "undisturbed").await;
        let streams = b.peers().iter().filter(|peer| &peer.peer == evil.id()).map(|peer| peer.streams).sum::<usize>();
        assert!(streams <= 4, "{streams} streams are open");
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
    let mut taken = 0;
    while evil_streams.try_recv().is_ok() {
        taken += 1;
    }
    assert!(taken > 0, "no stream was ever taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rendezvous_keeps_few_registrations_of_one_peer_and_few_cookies() {
    // GHSA-cqfx-gf56-8x59 and GHSA-v5hw-cv9c-rpg7: neither had a bound.
    let (point, _in) = node(|network| network.rendezvous_server = true).await;
    let mut swarm = raw(|key| rendezvous::client::Behaviour::new(key.clone()));
    swarm.add_external_address("/ip4/127.0.0.1/tcp/1".parse::<Multiaddr>().expect("an address"));
    swarm.dial(address(&point, "/tcp/").parse::<Multiaddr>().expect("an address")).expect("dialed");
    let id = point.id().to_network().expect("an id");
    let before = resident();
    let (mut registered, mut refused, mut answers) = (0, 0, 0);
    let finished = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => {
                    for number in 0..40 {
                        let name = rendezvous::Namespace::new(format!("n{number}")).expect("short");
                        swarm.behaviour_mut().register(name, id, None).expect("an address");
                    }
                }
                SwarmEvent::Behaviour(rendezvous::client::Event::Registered { .. }) => registered += 1,
                SwarmEvent::Behaviour(rendezvous::client::Event::RegisterFailed { .. }) => refused += 1,
                SwarmEvent::Behaviour(
                    rendezvous::client::Event::Discovered { .. } | rendezvous::client::Event::DiscoverFailed { .. },
                ) => answers += 1,
                _ => {}
            }
            if registered + refused >= 40 {
                if answers >= 3_000 {
                    break;
                }
                // Each answer makes a cookie.
                swarm.behaviour_mut().discover(None, None, None, id);
            }
        }
    };
    tokio::time::timeout(PATIENCE, finished).await.expect("it answers");
    assert_eq!((registered, refused), (4, 36));
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
}
