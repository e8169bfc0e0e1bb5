//! What carries connections: TCP with Noise and yamux, QUIC, and circuits through relays. There is no other encryption and no other multiplexer.

mod guard;
mod muxer;
mod traffic;

use std::{io, time::Duration};

use libp2p::{
    PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, OrTransport, upgrade::Version},
    },
    dns,
    identity::Keypair,
    noise, quic, relay, tcp,
};

use self::{
    guard::GuardedTransport,
    muxer::{MAX_STREAMS, YamuxUpgrade},
};
pub(super) use self::{
    guard::{GivenAddresses, Told},
    traffic::Traffic,
};

/// Time for a connection to be made, with encryption and all.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Connections that the kernel holds until the swarm takes them.
const BACKLOG: u32 = 256;
/// Bytes of a TCP connection that the kernel holds, each way; it would keep up to 6 MiB.
const KERNEL_BYTES: usize = 256 << 10;
/// Bytes of one QUIC stream, and of one QUIC connection, that the host holds because nobody has read them.
const QUIC_STREAM_BYTES: u32 = 1 << 20;
const QUIC_CONNECTION_BYTES: u32 = 4 << 20;
/// After this long without a packet a QUIC connection is dead, in milliseconds; a living one sends one every five seconds.
const QUIC_SILENCE_MS: u32 = 15_000;

/// What carries connections, with their peers proven.
pub(super) type PeerTransport = Boxed<(PeerId, StreamMuxerBox)>;

/// Makes the transport, and the client of relays if it has one.
pub(super) fn build(
    key: &Keypair,
    given: GivenAddresses,
    told: Told,
    traffic: Traffic,
) -> io::Result<(PeerTransport, relay::client::Behaviour)> {
    let noise = noise::Config::new(key).map_err(io::Error::other)?;
    let (circuits, relay_client) = relay::client::new(key.public().to_peer_id());
    let circuits = circuits.upgrade(Version::V1Lazy).authenticate(noise.clone()).multiplex(YamuxUpgrade::default());
    let by_circuit = traffic.clone();
    let circuits = circuits.map(move |(peer, muxer), _| (peer, StreamMuxerBox::new(by_circuit.count(peer, muxer))));

    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true).listen_backlog(BACKLOG));
    let tcp = tcp.map(|stream, _| {
        bound_kernel(&stream.0);
        stream
    });
    let tcp = tcp.upgrade(Version::V1Lazy).authenticate(noise).multiplex(YamuxUpgrade::default());
    let by_tcp = traffic.clone();
    let tcp = tcp.map(move |(peer, muxer), _| (peer, StreamMuxerBox::new(by_tcp.count(peer, muxer))));

    let quic = quic::tokio::Transport::new(quic_config(key));
    let quic = quic.map(move |(peer, muxer), _| (peer, StreamMuxerBox::new(traffic.count(peer, muxer))));

    let networks = tcp.or_transport(quic).map(|either, _| either.into_inner()).boxed();
    let named = match dns::tokio::Transport::system(networks) {
        Ok(named) => named.boxed(),
        Err(error) => return Err(io::Error::other(format!("cannot read how this machine resolves names: {error}"))),
    };
    let guarded = GuardedTransport { inner: named, given, told };
    let all = OrTransport::new(circuits, guarded).map(|either, _| either.into_inner());
    let timed = libp2p::core::transport::timeout::TransportTimeout::new(all, CONNECT_TIME);
    Ok((timed.boxed(), relay_client))
}

fn quic_config(key: &Keypair) -> quic::Config {
    let mut config = quic::Config::new(key);
    config.handshake_timeout = CONNECT_TIME;
    config.max_idle_timeout = QUIC_SILENCE_MS;
    config.max_concurrent_stream_limit = u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX);
    config.max_stream_data = QUIC_STREAM_BYTES;
    config.max_connection_data = QUIC_CONNECTION_BYTES;
    config
}

/// Bounds what the kernel holds for a connection. A kernel that does not take the bound has its own.
fn bound_kernel(stream: &tokio::net::TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let bounded = socket.set_recv_buffer_size(KERNEL_BYTES).and_then(|()| socket.set_send_buffer_size(KERNEL_BYTES));
    if let Err(error) = bounded {
        tracing::debug!(%error, "the kernel keeps its own bounds for a connection");
    }
}
