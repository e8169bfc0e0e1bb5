//! The protocols that a host speaks with others, in one behaviour of the swarm. Those that the operator did not open are not there.

use std::{num::NonZeroU32, time::Duration};

use libp2p::{
    StreamProtocol, autonat, dcutr, identify,
    identity::Keypair,
    kad, mdns, ping, relay, rendezvous,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use super::{
    MeshError,
    announcements::{self, Gossip},
    config::{DhtMode, NetworkConfig},
    gate::ConnectionGate,
    streams::Streams,
};

/// The name of the family of protocols, told by `identify`.
const FAMILY: &str = "/mcpp/1.0.0";
/// How often a peer's path is measured.
const PING_EVERY: Duration = Duration::from_secs(15);
/// A peer that does not answer for so long is gone.
const PING_TIME: Duration = Duration::from_secs(10);
/// Peers whose addresses `identify` keeps in memory.
const IDENTIFIED: usize = 128;

/// Keys of the DHT for which others have named providers to this host, and providers of one key.
const MAX_DHT_KEYS: usize = 1_024;
const MAX_DHT_PROVIDERS: usize = 20;
/// A message of the DHT, in bytes.
const MAX_DHT_MESSAGE: usize = 16 << 10;
const DHT_QUERY_TIME: Duration = Duration::from_secs(20);

/// Registrations at this host's rendezvous: of one peer, and in all. One takes up to about 2 KiB.
const MAX_REGISTRATIONS_PER_PEER: usize = 4;
const MAX_REGISTRATIONS: usize = 4_096;
const MAX_COOKIES: usize = 1_024;

/// What this host relays: reservations and circuits, in all and of one peer; each circuit in time and bytes.
const MAX_RESERVATIONS: usize = 256;
const MAX_RESERVATIONS_PER_PEER: usize = 2;
const RESERVATION_TIME: Duration = Duration::from_secs(3_600);
const MAX_CIRCUITS: usize = 256;
const MAX_CIRCUITS_PER_PEER: usize = 16;
const CIRCUIT_TIME: Duration = Duration::from_secs(3_600);
const CIRCUIT_BYTES: u64 = 256 << 20;
/// Circuits and reservations that one peer, or one IP address, asks for in the time given with it.
const ASKED_PER_PEER: NonZeroU32 = NonZeroU32::new(60).expect("not zero");
const ASKED_PER_IP: NonZeroU32 = NonZeroU32::new(240).expect("not zero");
const ASKED_TIME: Duration = Duration::from_secs(60);

/// All protocols together.
#[derive(NetworkBehaviour)]
pub(super) struct Protocols {
    // First: what it refuses, the others never see.
    pub(super) gate: ConnectionGate,
    pub(super) streams: Streams,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) relay_client: relay::client::Behaviour,
    pub(super) punch: dcutr::Behaviour,
    pub(super) relay_server: Toggle<relay::Behaviour>,
    pub(super) reach_client: Toggle<autonat::v2::client::Behaviour>,
    pub(super) reach_server: Toggle<autonat::v2::server::Behaviour>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) dht: Toggle<kad::Behaviour<kad::store::MemoryStore>>,
    pub(super) rendezvous_client: Toggle<rendezvous::client::Behaviour>,
    pub(super) rendezvous_server: Toggle<rendezvous::server::Behaviour>,
    pub(super) gossip: Toggle<Gossip>,
}

impl Protocols {
    pub(super) fn new(
        key: &Keypair,
        network: &NetworkConfig,
        gate: ConnectionGate,
        streams: Streams,
        relay_client: relay::client::Behaviour,
    ) -> Result<Self, MeshError> {
        let peer = key.public().to_peer_id();
        let agent = format!("mcpp/{}", env!("CARGO_PKG_VERSION"));
        let identify = identify::Config::new(FAMILY.into(), key.public())
            .with_agent_version(agent)
            .with_push_listen_addr_updates(true)
            .with_cache_size(IDENTIFIED);
        let ping = ping::Config::new().with_interval(PING_EVERY).with_timeout(PING_TIME);
        let mdns = match network.mdns {
            true => Some(mdns::tokio::Behaviour::new(mdns::Config::default(), peer).map_err(MeshError::Start)?),
            false => None,
        };
        let gossip = if network.announcements { Some(announcements::behaviour(key, network)?) } else { None };
        Ok(Self {
            gate,
            streams,
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            relay_client,
            punch: dcutr::Behaviour::new(peer),
            relay_server: network.relay_server.then(|| relay(peer)).into(),
            // Somebody has to try an address that this host believes to be its own; on one machine there is nothing to try.
            reach_client: network.asks_whether_reachable().then(autonat::v2::client::Behaviour::default).into(),
            reach_server: network.relay_server.then(autonat::v2::server::Behaviour::default).into(),
            mdns: mdns.into(),
            dht: dht(peer, network)?.into(),
            rendezvous_client: (!network.rendezvous.is_empty())
                .then(|| rendezvous::client::Behaviour::new(key.clone()))
                .into(),
            rendezvous_server: network.rendezvous_server.then(rendezvous_point).into(),
            gossip: gossip.into(),
        })
    }
}

fn relay(peer: libp2p::PeerId) -> relay::Behaviour {
    let config = relay::Config {
        max_reservations: MAX_RESERVATIONS,
        max_reservations_per_peer: MAX_RESERVATIONS_PER_PEER,
        reservation_duration: RESERVATION_TIME,
        reservation_rate_limiters: Vec::new(),
        max_circuits: MAX_CIRCUITS,
        max_circuits_per_peer: MAX_CIRCUITS_PER_PEER,
        max_circuit_duration: CIRCUIT_TIME,
        max_circuit_bytes: CIRCUIT_BYTES,
        circuit_src_rate_limiters: Vec::new(),
    };
    let config = config
        .reservation_rate_per_peer(ASKED_PER_PEER, ASKED_TIME)
        .reservation_rate_per_ip(ASKED_PER_IP, ASKED_TIME)
        .circuit_src_per_peer(ASKED_PER_PEER, ASKED_TIME)
        .circuit_src_per_ip(ASKED_PER_IP, ASKED_TIME);
    let mut relay = relay::Behaviour::new(peer, config);
    // The operator has said that it relays; without an external address the library would not believe it.
    relay.set_status(Some(relay::Status::Enable));
    relay
}

fn dht(
    peer: libp2p::PeerId,
    network: &NetworkConfig,
) -> Result<Option<kad::Behaviour<kad::store::MemoryStore>>, MeshError> {
    let mode = match network.dht {
        DhtMode::Off => return Ok(None),
        DhtMode::Auto => None,
        DhtMode::Client => Some(kad::Mode::Client),
        DhtMode::Server => Some(kad::Mode::Server),
    };
    let protocol = StreamProtocol::try_from_owned(network.dht_protocol.clone())
        .map_err(|error| MeshError::Config(format!("mesh.dht_protocol: {error}")))?;
    let mut config = kad::Config::new(protocol);
    config.set_query_timeout(DHT_QUERY_TIME);
    config.set_max_packet_size(MAX_DHT_MESSAGE);
    // Several paths that share no peer: a ring of false peers around a key does not hide the true ones.
    config.disjoint_query_paths(true);
    // Nobody's values are kept; providers are, when they were looked at.
    config.set_record_filtering(kad::StoreInserts::FilterBoth);
    let store = kad::store::MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: MAX_DHT_PROVIDERS,
        max_provided_keys: MAX_DHT_KEYS,
    };
    let mut dht = kad::Behaviour::with_config(peer, kad::store::MemoryStore::with_config(peer, store), config);
    dht.set_mode(mode);
    Ok(Some(dht))
}

fn rendezvous_point() -> rendezvous::server::Behaviour {
    let config = rendezvous::server::Config::default()
        .with_max_registration_per_peer(MAX_REGISTRATIONS_PER_PEER)
        .with_max_registration_total(MAX_REGISTRATIONS)
        .with_max_stored_cookies(MAX_COOKIES);
    rendezvous::server::Behaviour::new(config)
}
