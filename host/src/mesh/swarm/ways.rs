//! The ways in which this host finds peers: those that the operator named, a file, mDNS, a rendezvous, the DHT.
//!
//! A peer that was found is a stranger with an address; nothing follows from it but a connection.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::PoisonError,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr,
    core::transport::ListenerId,
    kad::{self, store::RecordStore as _},
    multiaddr::Protocol,
    rendezvous,
    swarm::dial_opts::{DialOpts, PeerCondition},
};

use super::{SwarmTask, files};
use crate::mesh::{
    Bond, MeshError, NetworkConfig, PeerId, PeerPath,
    address::{self, AddressReach},
    config::DhtMode,
    meters,
};

/// How often a rendezvous and the DHT are asked for peers.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// How soon they are asked again after something has changed that they may know of.
const ASK_SOON: Duration = Duration::from_secs(2);
/// How long a registration at a rendezvous lasts, in seconds; the MCP++ task queues register for as long.
const REGISTERED_S: u64 = 7_200;
/// How often the bootstrap file is looked at.
const FILE_EVERY: Duration = Duration::from_secs(5);
/// How soon a relay is asked again after its reservation was lost.
const RELAY_AGAIN: Duration = Duration::from_secs(10);
/// A peer that was found is dialed so often at the most.
const FOUND_AGAIN: Duration = Duration::from_secs(30);
/// Peers that were found and are remembered as dialed.
const MAX_FOUND: usize = 1_024;
/// With so many peers connected the host dials no further ones that it merely found.
const ENOUGH_PEERS: usize = 64;
/// Addresses of one found peer that are dialed.
const MAX_FOUND_ADDRESSES: usize = 8;
/// Registrations of one answer that are looked at.
const MAX_REGISTRATIONS: u64 = 64;
/// Keys of the DHT for which one peer is kept as a provider, and peers for whom that is counted.
const MAX_KEYS_PER_PROVIDER: usize = 16;
const MAX_PROVIDERS: usize = 2_048;
/// How long that count lasts.
const PROVIDERS_FOR: Duration = Duration::from_secs(3_600);

/// A relay at which this host wants to be reached.
#[derive(Debug)]
struct RelayPlace {
    peer: libp2p::PeerId,
    address: Multiaddr,
    listener: Option<ListenerId>,
    again: Instant,
}

/// What the host knows of its ways.
#[derive(Debug)]
pub(super) struct Ways {
    namespace: String,
    points: HashSet<libp2p::PeerId>,
    relays: Vec<RelayPlace>,
    has_dht: bool,
    lends: bool,
    bootstrap_file: Option<PathBuf>,
    file_due: Instant,
    ask_points: Instant,
    ask_dht: Instant,
    provides: bool,
    found: HashMap<libp2p::PeerId, Instant>,
    providers: HashMap<libp2p::PeerId, HashSet<kad::RecordKey>>,
    providers_since: Instant,
}

impl Ways {
    pub(super) fn new(network: &NetworkConfig) -> Result<Self, MeshError> {
        let now = Instant::now();
        let read = |name: &str, list: &[String]| {
            let parsed = list.iter().map(|text| address::parse_with_peer(text)).collect::<Result<Vec<_>, _>>();
            parsed.map_err(|error| MeshError::Config(format!("mesh.{name}: {error}")))
        };
        let relays = read("relays", &network.relays)?.into_iter();
        Ok(Self {
            namespace: network.namespace.clone(),
            points: read("rendezvous", &network.rendezvous)?.into_iter().map(|(peer, _)| peer).collect(),
            relays: relays.map(|(peer, address)| RelayPlace { peer, address, listener: None, again: now }).collect(),
            has_dht: network.dht != DhtMode::Off,
            lends: network.external_addresses.is_empty(),
            bootstrap_file: network.bootstrap_file.clone(),
            file_due: now,
            ask_points: now,
            ask_dht: now,
            provides: false,
            found: HashMap::new(),
            providers: HashMap::new(),
            providers_since: now,
        })
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The key under which the hosts of a namespace are found in the DHT.
    fn key(&self) -> kad::RecordKey {
        kad::RecordKey::new(&blake3::hash(format!("mcpp namespace {}", self.namespace).as_bytes()).as_bytes())
    }

    /// Whether a peer may be kept as a provider of one more key.
    fn admits_provider(&mut self, peer: libp2p::PeerId, key: &kad::RecordKey) -> bool {
        if self.providers_since.elapsed() >= PROVIDERS_FOR {
            self.providers.clear();
            self.providers_since = Instant::now();
        }
        if self.providers.len() >= MAX_PROVIDERS && !self.providers.contains_key(&peer) {
            return false;
        }
        let keys = self.providers.entry(peer).or_default();
        let room = keys.len() < MAX_KEYS_PER_PROVIDER || keys.contains(key);
        room && {
            keys.insert(key.clone());
            true
        }
    }
}

impl SwarmTask {
    /// Notes the peers that the operator named.
    pub(super) fn begin_ways(&mut self, network: &NetworkConfig) -> Result<(), MeshError> {
        let named = [&network.peers, &network.bootstrap, &network.rendezvous, &network.relays];
        for text in named.into_iter().flatten() {
            let (peer, address) =
                address::parse_with_peer(text).map_err(|error| MeshError::Config(error.to_string()))?;
            self.keep(peer, &address);
        }
        Ok(())
    }

    /// Goes back to a peer for as long as the mesh runs.
    fn keep(&mut self, peer: libp2p::PeerId, address: &Multiaddr) {
        if peer == *self.swarm.local_peer_id() {
            return;
        }
        let name = PeerId::from_network(&peer);
        self.shared.give(&name, address);
        if !self.shared.know(&name, Bond::Kept) {
            tracing::warn!(peer = %name, "the host knows as many peers as it may, and does not go back to this one");
        }
    }

    pub(super) fn tend_ways(&mut self, now: Instant) {
        self.read_bootstrap_file(now);
        self.tend_relays(now);
        if self.ways.ask_points <= now {
            self.ways.ask_points = now + ASK_EVERY;
            let points: Vec<_> = self.ways.points.iter().copied().collect();
            for point in points.into_iter().filter(|point| self.swarm.is_connected(point)).collect::<Vec<_>>() {
                self.ask_point(point);
            }
        }
        if self.ways.has_dht && self.ways.ask_dht <= now {
            self.ways.ask_dht = now + ASK_EVERY;
            let (key, provides) = (self.ways.key(), self.ways.provides);
            if let Some(dht) = self.swarm.behaviour_mut().dht.as_mut() {
                let _nobody_yet = dht.bootstrap();
                let started = provides || dht.start_providing(key.clone()).is_ok();
                dht.get_providers(key);
                self.ways.provides = started;
            }
            if !provides {
                self.provide_again();
            }
        }
    }

    fn read_bootstrap_file(&mut self, now: Instant) {
        let Some(path) = self.ways.bootstrap_file.clone().filter(|_| self.ways.file_due <= now) else { return };
        self.ways.file_due = now + FILE_EVERY;
        let told = self.from_files.clone();
        tokio::task::spawn_blocking(move || {
            // The task takes them when it looks; if it has not taken the last ones, these can wait.
            let _later = told.try_send(files::read_bootstrap(&path));
        });
    }

    /// Takes the addresses that a bootstrap file had.
    pub(super) fn on_file(&mut self, addresses: Vec<(libp2p::PeerId, Multiaddr)>) {
        for (peer, address) in addresses {
            if !self.shared.roster.is_known(&PeerId::from_network(&peer)) {
                meters::discovered("file");
            }
            self.keep(peer, &address);
        }
    }

    /// Asks relays for a place, over connections that are there: a dial of the library's for it would fail beside the host's own.
    pub(super) fn tend_relays(&mut self, now: Instant) {
        for place in &mut self.ways.relays {
            if place.listener.is_some() || place.again > now || !self.swarm.is_connected(&place.peer) {
                continue;
            }
            place.again = now + RELAY_AGAIN;
            let address = place.address.clone().with(Protocol::P2pCircuit);
            match self.swarm.listen_on(address) {
                Ok(id) => place.listener = Some(id),
                Err(error) => tracing::warn!(relay = %place.address, %error, "the relay cannot be asked"),
            }
        }
    }

    /// Whether a listener that has ended was one at a relay, which is asked again then.
    pub(super) fn lost_relay(&mut self, id: ListenerId) -> bool {
        let lost = self.ways.relays.iter_mut().find(|place| place.listener == Some(id));
        let Some(place) = lost else { return false };
        tracing::info!(relay = %place.address, "the place at the relay is lost; it is asked again");
        place.listener = None;
        place.again = Instant::now() + RELAY_AGAIN;
        true
    }

    /// A peer is connected and has told which protocols it speaks and where it listens.
    pub(super) fn meets(&mut self, peer: libp2p::PeerId, at: &Multiaddr, speaks_dht: bool, told: &[Multiaddr]) {
        let is_point = self.ways.points.contains(&peer);
        if is_point || speaks_dht {
            self.lend_addresses(at);
        }
        if is_point {
            self.ask_point(peer);
        }
        if let Some(dht) = self.swarm.behaviour_mut().dht.as_mut().filter(|_| speaks_dht) {
            for address in told {
                dht.add_address(&peer, address.clone());
            }
            self.ways.ask_dht = self.ways.ask_dht.min(Instant::now() + ASK_SOON);
        }
    }

    /// Takes for addresses of its own, in the eyes of others, those at which it listens within the reach of a peer that it has met. Nobody has to try those: that peer is as near.
    fn lend_addresses(&mut self, at: &Multiaddr) {
        let near = address::reach(at).filter(|reach| matches!(reach, AddressReach::Machine | AddressReach::Site));
        let Some(near) = near.filter(|_| self.ways.lends && !address::is_relayed(at)) else { return };
        let listens: Vec<_> = self.swarm.listeners().filter(|own| address::reach(own) == Some(near)).cloned().collect();
        for own in listens {
            self.swarm.add_external_address(own);
        }
    }

    fn ask_point(&mut self, point: libp2p::PeerId) {
        let Ok(namespace) = rendezvous::Namespace::new(self.ways.namespace.clone()) else { return };
        let Some(client) = self.swarm.behaviour_mut().rendezvous_client.as_mut() else { return };
        if let Err(error) = client.register(namespace.clone(), point, Some(REGISTERED_S)) {
            tracing::debug!(%point, %error, "not registered at the rendezvous yet");
        }
        client.discover(Some(namespace), None, Some(MAX_REGISTRATIONS), point);
    }

    pub(super) fn on_rendezvous(&mut self, event: rendezvous::client::Event) {
        match event {
            rendezvous::client::Event::Discovered { rendezvous_node, registrations, .. } => {
                let teller = self.shared.links.best(&rendezvous_node).map(|link| link.address.clone());
                let Some(teller) = teller else { return };
                for registration in registrations {
                    let addresses = registration.record.addresses().iter();
                    // A circuit begins with its relay, which is as far as the teller may know.
                    let addresses = addresses.filter(|told| address::may_tell(&teller, told)).cloned().collect();
                    self.found(registration.record.peer_id(), addresses, "rendezvous");
                }
            }
            rendezvous::client::Event::Registered { rendezvous_node, ttl, .. } => {
                tracing::debug!(point = %rendezvous_node, ttl, "registered at the rendezvous");
            }
            rendezvous::client::Event::RegisterFailed { rendezvous_node, error, .. } => {
                tracing::warn!(point = %rendezvous_node, ?error, "the rendezvous refused to register this host");
            }
            rendezvous::client::Event::DiscoverFailed { rendezvous_node, error, .. } => {
                tracing::warn!(point = %rendezvous_node, ?error, "the rendezvous refused to tell of peers");
            }
            rendezvous::client::Event::Expired { .. } => {}
        }
    }

    pub(super) fn on_dht(&mut self, event: kad::Event) {
        if self.on_search(&event) {
            return;
        }
        match event {
            kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })),
                ..
            } => {
                for peer in providers {
                    self.found(peer, Vec::new(), "dht");
                }
            }
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(record) } } => {
                if !self.ways.admits_provider(record.provider, &record.key) {
                    return meters::refused("dht-provider");
                }
                if let Some(dht) = self.swarm.behaviour_mut().dht.as_mut()
                    && dht.store_mut().add_provider(record).is_err()
                {
                    meters::refused("dht-keys");
                }
            }
            kad::Event::InboundRequest { request: kad::InboundRequest::PutRecord { .. } } => {
                meters::refused("dht-value");
            }
            kad::Event::RoutingUpdated { is_new_peer: true, .. } => {
                self.ways.provides = false;
                self.ways.ask_dht = self.ways.ask_dht.min(Instant::now() + ASK_SOON);
            }
            _ => {}
        }
    }

    /// Connects to a peer that was found, unless there are enough.
    pub(super) fn found(&mut self, peer: libp2p::PeerId, mut addresses: Vec<Multiaddr>, way: &'static str) {
        if peer == *self.swarm.local_peer_id() || self.swarm.is_connected(&peer) {
            return;
        }
        let now = Instant::now();
        self.ways.found.retain(|_, dialed| now.duration_since(*dialed) < FOUND_AGAIN);
        let connected = self.swarm.connected_peers().count();
        if self.ways.found.contains_key(&peer) || self.ways.found.len() >= MAX_FOUND || connected >= ENOUGH_PEERS {
            return;
        }
        self.ways.found.insert(peer, now);
        meters::discovered(way);
        tracing::info!(%peer, way, ?addresses, "a peer is found");
        addresses.truncate(MAX_FOUND_ADDRESSES);
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "a peer that was found is not dialed");
        }
    }

    /// Dials the peers to go back to.
    pub(super) fn go_back(&mut self, now: Instant) {
        let links = self.shared.links.clone();
        let kept = self.shared.roster.kept();
        for peer in &kept {
            let link = peer.to_network().and_then(|peer| links.best(&peer));
            if link.is_some_and(|link| link.age() >= super::keeper::STEADY) {
                self.keeper.steady(peer);
            }
        }
        let connected = |peer: &PeerId| peer.to_network().is_none_or(|peer| links.best(&peer).is_some());
        for name in self.keeper.due(kept, connected, now) {
            if let Some(peer) = name.to_network() {
                self.dial(&name, peer);
            }
        }
    }

    /// How many peers have a direct connection, how many a relayed one only, and their streams.
    pub(super) fn count_open(&self) -> (usize, usize, usize) {
        let (mut direct, mut relayed, mut streams) = (0_usize, 0_usize, 0_usize);
        for (_, links) in self.shared.links.all() {
            let path = links.iter().any(|link| link.path == PeerPath::Direct);
            *(if path { &mut direct } else { &mut relayed }) += 1;
            streams = links.iter().map(|link| link.open_streams()).fold(streams, usize::saturating_add);
        }
        (direct, relayed, streams)
    }

    /// Writes this host's own announce file, if it has one and its addresses changed.
    pub(super) fn write_announce_file(&self) {
        let Some(path) = self.announce_file.clone() else { return };
        let addresses = self.shared.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = addresses.first().cloned() else { return };
        drop(addresses);
        let peer = self.shared.id.clone();
        tokio::task::spawn_blocking(move || files::write_announce(&path, &peer, &first));
    }
}
