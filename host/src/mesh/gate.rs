//! How many connections there may be, and whose: asked before anything of a connection is read, and again when its peer is proven.
//!
//! Peers that the host does not know have a bound of their own, so that they leave room for those that it knows.

mod memory;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::IpAddr,
    task::{Context, Poll},
    time::Instant,
};

use libp2p::{
    Multiaddr,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished, dummy,
    },
};

pub(super) use self::memory::ProcessMemory;
use super::{PeerId, address, meters, roster::Roster};

/// Connections of one peer: TCP and QUIC at once from both sides, or a direct one beside a relayed one.
const MAX_PER_PEER: usize = 4;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionBounds {
    /// In all.
    pub(super) total: usize,
    /// With peers that the host does not know, inbound.
    pub(super) strangers: usize,
    /// Inbound and not yet proven.
    pub(super) pending_in: usize,
    /// Outbound and not yet proven.
    pub(super) pending_out: usize,
    /// Inbound of one range of addresses: an IPv4 /24, an IPv6 /48, or all circuits. This machine is no range.
    pub(super) per_range: usize,
}

/// Where inbound connections come from, as far as they are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum AddressRange {
    V4([u8; 3]),
    V6([u16; 3]),
    /// Through a relay: what is there of an address is the relay's.
    Circuit,
    /// This machine: whoever is on it could as well open the host's files.
    Machine,
}

impl AddressRange {
    fn of(remote: &Multiaddr) -> Self {
        if address::is_relayed(remote) {
            return Self::Circuit;
        }
        match address::ip_of(remote) {
            Some(ip) if ip.is_loopback() => Self::Machine,
            Some(IpAddr::V4(ip)) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, ..] = ip.segments();
                Self::V6([a, b, c])
            }
            None => Self::Circuit,
        }
    }
}

/// A connection that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum GateRefusal {
    #[error("this host has as many connections as it may")]
    Total,
    #[error("this host has as many connections with strangers as it may")]
    Strangers,
    #[error("too many connections are being made")]
    Pending,
    #[error("too many connections come from that range of addresses")]
    Range,
    #[error("the peer has as many connections as it may")]
    Peer,
    #[error("this host takes connections only from peers that it knows")]
    Unknown,
    #[error("this host has no memory left for connections")]
    Memory,
}

impl GateRefusal {
    fn label(self) -> &'static str {
        match self {
            Self::Total => "connections",
            Self::Strangers => "strangers",
            Self::Pending => "pending",
            Self::Range => "range",
            Self::Peer => "per-peer",
            Self::Unknown => "unknown",
            Self::Memory => "memory",
        }
    }
}

/// An established connection.
#[derive(Debug)]
struct AdmittedConnection {
    peer: libp2p::PeerId,
    /// For inbound ones.
    range: Option<AddressRange>,
    stranger: bool,
}

/// Counts connections, and refuses those beyond the bounds.
#[derive(Debug)]
pub(super) struct ConnectionGate {
    bounds: ConnectionBounds,
    memory: ProcessMemory,
    roster: Roster,
    pending_in: HashMap<ConnectionId, AddressRange>,
    pending_out: HashMap<ConnectionId, ()>,
    admitted: HashMap<ConnectionId, AdmittedConnection>,
    ranges: HashMap<AddressRange, usize>,
    peers: HashMap<libp2p::PeerId, usize>,
    strangers: usize,
}

impl ConnectionGate {
    pub(super) fn new(bounds: ConnectionBounds, memory: ProcessMemory, roster: Roster) -> Self {
        Self {
            bounds,
            memory,
            roster,
            pending_in: HashMap::new(),
            pending_out: HashMap::new(),
            admitted: HashMap::new(),
            ranges: HashMap::new(),
            peers: HashMap::new(),
            strangers: 0,
        }
    }

    fn arrives(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), GateRefusal> {
        let range = AddressRange::of(remote);
        if self.memory.is_full(Instant::now()) {
            return Err(GateRefusal::Memory);
        }
        if self.pending_in.len() >= self.bounds.pending_in {
            return Err(GateRefusal::Pending);
        }
        let in_range = self.ranges.get(&range).copied().unwrap_or_default();
        if range != AddressRange::Machine && in_range >= self.bounds.per_range {
            return Err(GateRefusal::Range);
        }
        self.pending_in.insert(id, range);
        increment(&mut self.ranges, range);
        Ok(())
    }

    fn proves(&self, peer: &libp2p::PeerId) -> Result<(), GateRefusal> {
        if self.admitted.len() >= self.bounds.total {
            return Err(GateRefusal::Total);
        }
        if self.peers.get(peer).is_some_and(|count| *count >= MAX_PER_PEER) {
            return Err(GateRefusal::Peer);
        }
        Ok(())
    }

    fn proves_inbound(&self, peer: &libp2p::PeerId) -> Result<(), GateRefusal> {
        let id = PeerId::from_network(peer);
        // A peer to which the host has a connection of its own making may add one: hole punching does.
        let connected = self.peers.contains_key(peer);
        if !connected && !self.roster.admits(&id) {
            return Err(GateRefusal::Unknown);
        }
        if !connected && !self.roster.is_known(&id) && self.strangers >= self.bounds.strangers {
            return Err(GateRefusal::Strangers);
        }
        self.proves(peer)
    }

    fn established(&mut self, id: ConnectionId, peer: libp2p::PeerId) {
        self.pending_out.remove(&id);
        let range = self.pending_in.remove(&id);
        let stranger = range.is_some() && !self.roster.is_known(&PeerId::from_network(&peer));
        if stranger {
            self.strangers = self.strangers.saturating_add(1);
        }
        increment(&mut self.peers, peer);
        self.admitted.insert(id, AdmittedConnection { peer, range, stranger });
    }

    fn failed(&mut self, id: ConnectionId) {
        self.pending_out.remove(&id);
        if let Some(range) = self.pending_in.remove(&id) {
            decrement(&mut self.ranges, range);
        }
    }

    fn closed(&mut self, id: ConnectionId) {
        let Some(AdmittedConnection { peer, range, stranger }) = self.admitted.remove(&id) else { return };
        decrement(&mut self.peers, peer);
        if let Some(range) = range {
            decrement(&mut self.ranges, range);
        }
        if stranger {
            self.strangers = self.strangers.saturating_sub(1);
        }
    }
}

fn increment<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    let count = counts.entry(key).or_default();
    *count = count.saturating_add(1);
}

fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() = entry.get().saturating_sub(1);
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

fn denied(refusal: GateRefusal) -> ConnectionDenied {
    meters::refused(refusal.label());
    ConnectionDenied::new(refusal)
}

impl NetworkBehaviour for ConnectionGate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.arrives(id, remote).map_err(denied)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: libp2p::PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.proves_inbound(&peer).map_err(denied)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: Option<libp2p::PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.pending_out.len() >= self.bounds.pending_out {
            return Err(denied(GateRefusal::Pending));
        }
        self.pending_out.insert(id, ());
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: libp2p::PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.proves(&peer).map_err(denied)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.established(connection_id, peer_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => self.closed(connection_id),
            FromSwarm::ListenFailure(failure) => self.failed(failure.connection_id),
            FromSwarm::DialFailure(failure) => self.failed(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: libp2p::PeerId, _: ConnectionId, never: THandlerOutEvent<Self>) {
        match never {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::roster::{Bond, Callers};

    const BOUNDS: ConnectionBounds =
        ConnectionBounds { total: 6, strangers: 2, pending_in: 3, pending_out: 2, per_range: 2 };

    fn remote(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    /// The outcome of a whole inbound connection.
    fn inbound(gate: &mut ConnectionGate, number: usize, from: &str, peer: libp2p::PeerId) -> Result<(), GateRefusal> {
        let id = ConnectionId::new_unchecked(number);
        gate.arrives(id, &remote(from))?;
        match gate.proves_inbound(&peer) {
            Ok(()) => {
                gate.established(id, peer);
                Ok(())
            }
            Err(refusal) => {
                gate.failed(id);
                Err(refusal)
            }
        }
    }

    #[test]
    fn a_range_of_addresses_has_a_bound_and_gets_it_back() {
        let mut gate = ConnectionGate::new(
            ConnectionBounds { strangers: 9, ..BOUNDS },
            ProcessMemory::new(u64::MAX),
            Roster::default(),
        );
        let peer = libp2p::PeerId::random;
        assert_eq!(inbound(&mut gate, 1, "/ip4/192.0.2.1/tcp/1", peer()), Ok(()));
        assert_eq!(inbound(&mut gate, 2, "/ip4/192.0.2.200/tcp/1", peer()), Ok(()));
        assert_eq!(inbound(&mut gate, 3, "/ip4/192.0.2.3/tcp/1", peer()), Err(GateRefusal::Range));
        assert_eq!(inbound(&mut gate, 4, "/ip4/192.0.3.3/tcp/1", peer()), Ok(()));
        gate.closed(ConnectionId::new_unchecked(1));
        assert_eq!(inbound(&mut gate, 5, "/ip4/192.0.2.3/tcp/1", peer()), Ok(()));
        for number in [2, 4, 5] {
            gate.closed(ConnectionId::new_unchecked(number));
        }
        assert!(gate.ranges.is_empty() && gate.peers.is_empty() && gate.admitted.is_empty(), "{gate:?}");
    }

    #[test]
    fn strangers_leave_room_for_those_that_the_host_knows() {
        let roster = Roster::default();
        let mut gate = ConnectionGate::new(BOUNDS, ProcessMemory::new(u64::MAX), roster.clone());
        let from = "/ip4/127.0.0.1/tcp/1";
        for number in 1..=2 {
            assert_eq!(inbound(&mut gate, number, from, libp2p::PeerId::random()), Ok(()));
        }
        assert_eq!(inbound(&mut gate, 3, from, libp2p::PeerId::random()), Err(GateRefusal::Strangers));
        let known = libp2p::PeerId::random();
        assert!(roster.know(&PeerId::from_network(&known), Bond::Known));
        for number in 4..=7 {
            assert_eq!(inbound(&mut gate, number, from, known), Ok(()), "{number}");
        }
        assert_eq!(inbound(&mut gate, 8, from, known), Err(GateRefusal::Total));
        gate.closed(ConnectionId::new_unchecked(1));
        assert_eq!(inbound(&mut gate, 9, from, known), Err(GateRefusal::Peer));
        assert_eq!(gate.strangers, 1);
    }

    #[test]
    fn a_closed_mesh_takes_only_those_that_it_knows() {
        let roster = Roster::default();
        roster.set_callers(Callers::Known);
        let mut gate = ConnectionGate::new(BOUNDS, ProcessMemory::new(u64::MAX), roster.clone());
        let peer = libp2p::PeerId::random();
        let from = "/ip4/127.0.0.1/tcp/1";
        assert_eq!(inbound(&mut gate, 1, from, peer), Err(GateRefusal::Unknown));
        roster.know(&PeerId::from_network(&peer), Bond::Known);
        assert_eq!(inbound(&mut gate, 2, from, peer), Ok(()));
    }

    #[test]
    fn connections_that_prove_nothing_are_few() {
        let mut gate = ConnectionGate::new(BOUNDS, ProcessMemory::new(u64::MAX), Roster::default());
        let arrives = |gate: &mut ConnectionGate, number| {
            gate.arrives(ConnectionId::new_unchecked(number), &remote("/ip4/127.0.0.1/tcp/1"))
        };
        assert!((1..=3).all(|number| arrives(&mut gate, number).is_ok()));
        assert_eq!(arrives(&mut gate, 4), Err(GateRefusal::Pending));
        gate.failed(ConnectionId::new_unchecked(2));
        assert_eq!(arrives(&mut gate, 5), Ok(()));
    }

    #[test]
    fn a_process_without_memory_takes_no_further_connection() {
        let full = ProcessMemory::of(9, || Some(10));
        let mut gate = ConnectionGate::new(BOUNDS, full, Roster::default());
        let peer = libp2p::PeerId::random();
        assert_eq!(inbound(&mut gate, 1, "/ip4/127.0.0.1/tcp/1", peer), Err(GateRefusal::Memory));
        assert!(gate.proves(&peer).is_ok(), "its own dials go on");
    }
}
