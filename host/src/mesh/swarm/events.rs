//! What the swarm tells.

use std::{collections::BTreeMap, sync::PoisonError, time::Instant};

use libp2p::{
    Multiaddr,
    core::ConnectedPoint,
    dcutr, gossipsub, identify, mdns, ping, relay, rendezvous,
    swarm::{
        ConnectionId, DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{SwarmTask, direction, orders};
use crate::mesh::{
    PeerEvent, PeerId, PeerPath,
    address::{self, AddressReach},
    behaviour::ProtocolsEvent,
    meters,
};

/// Addresses that a peer tells of itself and the host keeps.
const MAX_TOLD: usize = 8;
/// Addresses of one answer on the link that are looked at.
const MAX_ON_LINK: usize = 128;

impl SwarmTask {
    pub(super) fn on_event(&mut self, event: SwarmEvent<ProtocolsEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_protocol(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established, endpoint, cause, .. } => {
                let cause = cause.map(|cause| cause.to_string());
                tracing::debug!(peer = %peer_id, direction = direction(&endpoint), ?cause, "a connection has ended");
                self.disconnected(peer_id, num_established == 0, &endpoint);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.not_connected(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(from = %send_back_addr, %error, "a connection of a peer failed");
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                if !self.lost_relay(listener_id) {
                    tracing::warn!(?addresses, ?reason, "the mesh no longer listens there");
                }
                self.publish_addresses();
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                if self.relays && !address::is_relayed(&address) {
                    // Who reserves a place here is told where it is.
                    self.swarm.add_external_address(address);
                }
                self.publish_addresses();
            }
            SwarmEvent::ExpiredListenAddr { .. }
            | SwarmEvent::ExternalAddrConfirmed { .. }
            | SwarmEvent::ExternalAddrExpired { .. } => self.publish_addresses(),
            _ => {}
        }
    }

    fn connected(&mut self, peer: libp2p::PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let name = PeerId::from_network(&peer);
        let address = endpoint.get_remote_address();
        let path = if endpoint.is_relayed() { PeerPath::Relayed } else { PeerPath::Direct };
        meters::connected(path, direction(endpoint));
        let others = self.shared.links.of(&peer).into_iter().filter(|link| link.connection != id);
        let before = others.map(|link| link.path).collect::<Vec<_>>();
        if before.is_empty() {
            // Strangers come and go as often as they like.
            let (shown, direction) = (path.as_str(), direction(endpoint));
            match self.shared.roster.is_known(&name) {
                true => tracing::info!(peer = %name, %address, path = shown, direction, "connected"),
                false => tracing::debug!(peer = %name, %address, path = shown, direction, "connected"),
            }
            self.shared.tell(&name, PeerEvent::Connected(path));
        } else if path == PeerPath::Direct && !before.contains(&PeerPath::Direct) {
            tracing::info!(peer = %name, %address, "a direct connection stands beside the relayed one");
            self.shared.tell(&name, PeerEvent::Moved(path));
        }
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner).saw(&name);
        self.tend_relays(Instant::now());
        if let Some((given, reply)) = self.dials.remove(&id) {
            self.shared.give(&name, &given);
            let _gone = reply.send(Ok(name));
        }
        for order in self.orders.remove(&peer).unwrap_or_default() {
            if let Err(order) = self.swarm.behaviour_mut().streams.order(peer, order) {
                self.orders.entry(peer).or_default().push(order);
            }
        }
    }

    fn disconnected(&mut self, peer: libp2p::PeerId, last: bool, endpoint: &ConnectedPoint) {
        let name = PeerId::from_network(&peer);
        if last {
            match self.shared.roster.is_known(&name) {
                true => tracing::info!(peer = %name, "disconnected"),
                false => tracing::debug!(peer = %name, "disconnected"),
            }
            self.shared.forget_agent(&peer);
            self.shared.tell(&name, PeerEvent::Disconnected);
            // Who asked for a stream while the last connection was ending waits for a new one.
            if self.orders.contains_key(&peer) {
                self.dial(&name, peer);
            }
            return;
        }
        let was_direct = !endpoint.is_relayed();
        let still_direct = self.shared.links.of(&peer).iter().any(|link| link.path == PeerPath::Direct);
        if was_direct && !still_direct {
            tracing::info!(peer = %name, "the direct connection is lost; the relayed one carries on");
            self.shared.tell(&name, PeerEvent::Moved(PeerPath::Relayed));
        }
    }

    fn not_connected(&mut self, id: ConnectionId, peer: Option<libp2p::PeerId>, error: &DialError) {
        meters::dial_failed();
        tracing::debug!(?peer, reason = orders::reason(error), "a dial failed");
        if let Some((address, reply)) = self.dials.remove(&id) {
            let named = address::peer_of(&address);
            let _gone = reply.send(Err(orders::not_there(named, &address, error)));
        }
        if let Some(peer) = peer.filter(|peer| !self.swarm.is_connected(peer)) {
            self.unreachable(peer, error);
        }
    }

    fn on_protocol(&mut self, event: ProtocolsEvent) {
        match event {
            ProtocolsEvent::Identify(identify::Event::Received { peer_id, info, connection_id }) => {
                self.identified(peer_id, connection_id, &info);
            }
            ProtocolsEvent::Identify(_) => {}
            ProtocolsEvent::Ping(ping::Event { peer, connection, result }) => {
                let links = self.shared.links.of(&peer);
                if let (Some(link), Ok(rtt)) = (links.iter().find(|link| link.connection == connection), result) {
                    link.set_rtt(rtt);
                }
            }
            ProtocolsEvent::Punch(dcutr::Event { remote_peer_id, result }) => self.punched(remote_peer_id, result),
            ProtocolsEvent::RelayClient(event) => on_relay(&event),
            ProtocolsEvent::RelayServer(event) => self.on_relayed(&event),
            ProtocolsEvent::ReachClient(event) => {
                let outcome = if event.result.is_ok() { "reachable" } else { "unreachable" };
                meters::tried(outcome);
                tracing::info!(address = %event.tested_addr, by = %event.server, outcome, "an address of this host was tried");
            }
            ProtocolsEvent::ReachServer(event) => {
                tracing::debug!(client = %event.client, address = %event.tested_addr, "an address of a peer was tried");
            }
            ProtocolsEvent::Mdns(mdns::Event::Discovered(found)) => self.on_link(found),
            ProtocolsEvent::Mdns(mdns::Event::Expired(_)) => {}
            ProtocolsEvent::Dht(event) => self.on_dht(event),
            ProtocolsEvent::RendezvousClient(event) => self.on_rendezvous(event),
            ProtocolsEvent::RendezvousServer(event) => on_rendezvous_point(&event),
            ProtocolsEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                let (acceptance, announcement) = self.rates.judge(propagation_source, message);
                if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
                    let _or_forgotten =
                        gossip.report_message_validation_result(&message_id, &propagation_source, acceptance);
                }
                if let Some(announcement) = announcement {
                    let _unheard = self.shared.announcements.send(announcement);
                }
            }
            ProtocolsEvent::Gossip(_) => {}
            ProtocolsEvent::Gate(never) | ProtocolsEvent::Streams(never) => match never {},
        }
    }

    /// Keeps what a peer says of itself, as far as it is the peer's to say.
    fn identified(&mut self, peer: libp2p::PeerId, id: ConnectionId, info: &identify::Info) {
        let links = self.shared.links.of(&peer);
        let Some(link) = links.iter().find(|link| link.connection == id) else { return };
        self.shared.set_agent(peer, &info.agent_version);
        let told = info.listen_addrs.iter().filter(|told| address::may_tell(&link.address, told));
        let told: Vec<_> = told.take(MAX_TOLD).cloned().collect();
        let dht = self.swarm.behaviour().dht.as_ref();
        let speaks_dht = dht.is_some_and(|dht| info.protocols.iter().any(|name| dht.protocol_names().contains(name)));
        self.meets(peer, &link.address, speaks_dht, &told);
        let is_direct = links.iter().any(|link| link.path == PeerPath::Direct);
        if !told.is_empty() && !is_direct && link.leaves_first() {
            self.leave_relay(peer, told.clone());
        }
        // A stranger's addresses would fill the book.
        if self.shared.roster.is_known(&link.peer) {
            let mut book = self.shared.book.lock().unwrap_or_else(PoisonError::into_inner);
            for told in &told {
                book.note(&link.peer, told, false);
            }
        }
    }

    /// Dials a peer, that was met over a relay, where it says that everybody reaches it. Punching is for those that nobody reaches.
    fn leave_relay(&mut self, peer: libp2p::PeerId, addresses: Vec<Multiaddr>) {
        let direct = addresses.into_iter().filter(|address| !address::is_relayed(address)).collect::<Vec<_>>();
        if direct.is_empty() {
            return;
        }
        tracing::info!(%peer, addresses = ?direct, "the relayed peer is dialed directly");
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(direct).build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "the relayed peer is not dialed");
        }
    }

    fn punched(&mut self, peer: libp2p::PeerId, result: Result<ConnectionId, dcutr::Error>) {
        match result {
            Ok(_) => {
                meters::punched("direct");
                tracing::info!(%peer, "a direct connection was punched through");
            }
            Err(error) => {
                meters::punched("failed");
                tracing::info!(%peer, %error, "no direct connection could be punched through; the relay carries on");
                self.swarm.behaviour_mut().streams.not_punched(&peer);
            }
        }
    }

    fn on_link(&mut self, found: Vec<(libp2p::PeerId, Multiaddr)>) {
        let mut by_peer: BTreeMap<libp2p::PeerId, Vec<Multiaddr>> = BTreeMap::new();
        // One packet names few; somebody who floods the link names many.
        for (peer, at) in found.into_iter().take(MAX_ON_LINK) {
            if matches!(address::reach(&at), Some(AddressReach::Site | AddressReach::World)) {
                by_peer.entry(peer).or_default().push(at);
            }
        }
        for (peer, addresses) in by_peer {
            self.found(peer, addresses, "mdns");
        }
    }

    /// What this host relays for others.
    fn on_relayed(&mut self, event: &relay::Event) {
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, renewed: false } => {
                meters::relay("reserved-here");
                tracing::info!(peer = %src_peer_id, "a peer has a place at this relay");
            }
            relay::Event::ReservationReqDenied { .. } => meters::relay("reservation-denied-here"),
            relay::Event::CircuitReqDenied { .. } => meters::relay("circuit-denied-here"),
            relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id } => {
                self.circuits = self.circuits.saturating_add(1);
                meters::relay("circuit-here");
                tracing::info!(from = %src_peer_id, to = %dst_peer_id, "this host relays a connection");
            }
            relay::Event::CircuitClosed { src_peer_id, dst_peer_id, .. } => {
                self.circuits = self.circuits.saturating_sub(1);
                tracing::info!(from = %src_peer_id, to = %dst_peer_id, "a relayed connection has ended");
            }
            _ => {}
        }
        meters::circuits(self.circuits);
    }
}

/// What a relay does for this host.
fn on_relay(event: &relay::client::Event) {
    match event {
        relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. } => {
            meters::relay("reserved");
            if !renewal {
                tracing::info!(relay = %relay_peer_id, "this host is reached through a relay");
            }
        }
        relay::client::Event::OutboundCircuitEstablished { .. } => meters::relay("circuit-out"),
        relay::client::Event::InboundCircuitEstablished { .. } => meters::relay("circuit-in"),
    }
}

/// What this host does as a rendezvous point.
fn on_rendezvous_point(event: &rendezvous::server::Event) {
    match event {
        rendezvous::server::Event::PeerRegistered { peer, .. } => {
            tracing::debug!(%peer, "a peer is registered at this rendezvous");
        }
        rendezvous::server::Event::PeerNotRegistered { .. } => meters::refused("registration"),
        rendezvous::server::Event::DiscoverNotServed { .. } => meters::refused("discovery"),
        _ => {}
    }
}
