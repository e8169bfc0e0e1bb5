//! What the handle orders: streams and connections, and their ends.

use std::time::{Duration, Instant};

use libp2p::{
    Multiaddr, gossipsub,
    swarm::{
        DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{ConnectionWaiter, MAX_PENDING, MeshCommand, SwarmTask};
use crate::mesh::{
    PeerId, Unreachable, address,
    announcements::{AnnounceError, MAX_ANNOUNCEMENT_BYTES},
    streams::{StreamOrder, refuse, refuse_all},
};

/// Streams that wait for a connection to one peer.
const MAX_ORDERS_PER_PEER: usize = 64;
/// For so long after the start of the mesh, who asks for a stream waits for a known peer without a known address to come by itself.
const COMING_BACK: Duration = Duration::from_secs(10);
/// The longest reason that is given, in characters.
const MAX_REASON: usize = 512;

/// Why a dial failed, in one line.
pub(super) fn reason(error: &DialError) -> String {
    let text = match error {
        DialError::Transport(failures) => {
            let failures = failures.iter().map(|(address, error)| format!("{address}: {}", chain(error)));
            failures.collect::<Vec<_>>().join("; ")
        }
        DialError::WrongPeerId { obtained, .. } => format!("peer {obtained} answers there"),
        DialError::Denied { cause } => chain(cause),
        other => other.to_string(),
    };
    text.chars().take(MAX_REASON).collect()
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

impl SwarmTask {
    pub(super) fn on_command(&mut self, command: MeshCommand) {
        match command {
            MeshCommand::Open { peer, order } => self.open(&peer, order),
            MeshCommand::Connect { address, reply } => self.connect(address, reply),
            MeshCommand::Disconnect { peer, reply } => {
                if let Some(peer) = peer.to_network() {
                    let gone = Unreachable::Disconnected { peer: PeerId::from_network(&peer) };
                    refuse_all(self.orders.remove(&peer).unwrap_or_default(), &gone);
                    let _or_gone = self.swarm.disconnect_peer_id(peer);
                }
                let _gone = reply.send(Ok(()));
            }
            MeshCommand::Announce { data, reply } => drop(reply.send(self.announce(data))),
            MeshCommand::Service(order) => self.on_service(order),
            MeshCommand::Leave { reply } => drop(reply.send(Ok(()))),
        }
    }

    fn open(&mut self, name: &PeerId, order: StreamOrder) {
        let Some(peer) = name.to_network() else {
            return refuse(order, Unreachable::NoAddress { peer: name.clone() });
        };
        if peer == *self.swarm.local_peer_id() {
            return refuse(order, Unreachable::Myself(name.clone()));
        }
        let Err(order) = self.swarm.behaviour_mut().streams.order(peer, order) else { return };
        let waiting = self.orders.entry(peer).or_default();
        if waiting.len() >= MAX_ORDERS_PER_PEER {
            return refuse(order, Unreachable::Busy);
        }
        waiting.push(order);
        self.dial(name, peer);
    }

    /// Dials a peer at all addresses that are known of it, unless it is being dialed.
    pub(super) fn dial(&mut self, name: &PeerId, peer: libp2p::PeerId) {
        let known = self.shared.book.lock().unwrap_or_else(std::sync::PoisonError::into_inner).addresses(name);
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(known)
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            // It is being dialed already, or a connection that the host has ended is not gone yet: the outcome of that decides.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.unreachable(peer, &error),
        }
    }

    /// Tells those who wait for a peer that it cannot be reached.
    pub(super) fn unreachable(&mut self, peer: libp2p::PeerId, error: &DialError) {
        let name = PeerId::from_network(&peer);
        // A peer that knows this host's address comes back by itself, where both were started again.
        let may_come = self.started.elapsed() < COMING_BACK && self.shared.roster.is_known(&name);
        if may_come && matches!(error, DialError::NoAddresses) {
            return;
        }
        let why = match error {
            DialError::NoAddresses => Unreachable::NoAddress { peer: name },
            error => Unreachable::Failed { peer: name, reason: reason(error) },
        };
        refuse_all(self.orders.remove(&peer).unwrap_or_default(), &why);
    }

    fn announce(&mut self, data: Vec<u8>) -> Result<(), AnnounceError> {
        let own = *self.swarm.local_peer_id();
        let topic = self.announcements.hash();
        let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() else { return Err(AnnounceError::Off) };
        if data.len() > MAX_ANNOUNCEMENT_BYTES {
            return Err(AnnounceError::TooLarge);
        }
        if !self.rates.admits(own) {
            return Err(AnnounceError::TooFast);
        }
        gossip.publish(topic, data).map(drop).map_err(|error| match error {
            gossipsub::PublishError::NoPeersSubscribedToTopic => AnnounceError::Nobody,
            gossipsub::PublishError::MessageTooLarge => AnnounceError::TooLarge,
            _ => AnnounceError::Busy,
        })
    }

    fn connect(&mut self, address: Multiaddr, reply: ConnectionWaiter) {
        let named = address::peer_of(&address);
        if named == Some(*self.swarm.local_peer_id()) {
            return drop(reply.send(Err(Unreachable::Myself(self.shared.id.clone()))));
        }
        let connected = named.and_then(|peer| self.shared.links.best(&peer));
        if let Some(link) = connected {
            self.shared.give(&link.peer, &address);
            return drop(reply.send(Ok(link.peer.clone())));
        }
        if self.dials.len() >= MAX_PENDING {
            return drop(reply.send(Err(Unreachable::Busy)));
        }
        self.shared.given.add(&address);
        let options = match named {
            Some(peer) => {
                DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address.clone()]).build()
            }
            None => DialOpts::unknown_peer_id().address(address.clone()).build(),
        };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => drop(self.dials.insert(id, (address, reply))),
            Err(error) => drop(reply.send(Err(not_there(named, &address, &error)))),
        }
    }

    /// Lets go of what nobody waits for any more.
    pub(super) fn forget_orders(&mut self) {
        let now = Instant::now();
        self.orders.retain(|_, waiting| {
            waiting.retain(|order| !order.reply.is_closed() && order.deadline > now);
            !waiting.is_empty()
        });
        self.dials.retain(|_, (_, reply)| !reply.is_closed());
    }
}

/// Why there is no connection to an address.
pub(super) fn not_there(named: Option<libp2p::PeerId>, address: &Multiaddr, error: &DialError) -> Unreachable {
    let reason = reason(error);
    match named {
        Some(peer) => Unreachable::Failed { peer: PeerId::from_network(&peer), reason },
        None => Unreachable::Nothing { address: address.to_string(), reason },
    }
}
