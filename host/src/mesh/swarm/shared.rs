//! What the swarm's task and the handle both see.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use libp2p::Multiaddr;
use tokio::sync::broadcast;

use crate::mesh::{
    Announcement, Bond, Connected, PeerChange, PeerEvent, PeerId, PeerPath,
    book::AddressBook,
    roster::Roster,
    streams::Links,
    transport::{GivenAddresses, Traffic},
};

/// Changes, and announcements, that a slow receiver may lie behind. These hold up to 1 MiB.
const MAX_CHANGES: usize = 256;
/// The longest name of a peer's program that is kept, in characters.
const MAX_AGENT: usize = 64;

/// What the swarm's task and the handle both see.
pub(in crate::mesh) struct MeshShared {
    pub(in crate::mesh) id: PeerId,
    pub(in crate::mesh) links: Links,
    pub(in crate::mesh) roster: Roster,
    pub(in crate::mesh) traffic: Traffic,
    pub(in crate::mesh) given: GivenAddresses,
    pub(in crate::mesh) book: Mutex<AddressBook>,
    pub(in crate::mesh) addresses: Mutex<Vec<String>>,
    pub(in crate::mesh) changes: broadcast::Sender<PeerChange>,
    pub(in crate::mesh) announcements: broadcast::Sender<Announcement>,
    /// Names of the programs of connected peers.
    agents: Mutex<HashMap<libp2p::PeerId, String>>,
}

impl MeshShared {
    pub(super) fn new(id: PeerId, book: AddressBook) -> Self {
        let given = GivenAddresses::default();
        for address in book.given() {
            given.add(&address);
        }
        Self {
            id,
            links: Links::default(),
            roster: Roster::default(),
            traffic: Traffic::default(),
            given,
            book: Mutex::new(book),
            addresses: Mutex::default(),
            changes: broadcast::channel(MAX_CHANGES).0,
            announcements: broadcast::channel(MAX_CHANGES).0,
            agents: Mutex::default(),
        }
    }

    /// Ends the streams of a peer, and refuses new ones on its connections.
    pub(in crate::mesh) fn cut(&self, peer: &PeerId) {
        for link in peer.to_network().map(|peer| self.links.of(&peer)).unwrap_or_default() {
            link.cut();
        }
    }

    /// Notes an address that somebody with authority gave.
    pub(in crate::mesh) fn give(&self, peer: &PeerId, address: &Multiaddr) {
        self.given.add(address);
        self.book.lock().unwrap_or_else(PoisonError::into_inner).note(peer, address, true);
    }

    /// Makes a peer known. Whether there was room.
    pub(in crate::mesh) fn know(&self, peer: &PeerId, bond: Bond) -> bool {
        let room = self.roster.know(peer, bond);
        self.tell_links(peer, room);
        room
    }

    /// Makes a peer a stranger.
    pub(in crate::mesh) fn forget(&self, peer: &PeerId) {
        self.roster.forget(peer);
        self.tell_links(peer, false);
    }

    fn tell_links(&self, peer: &PeerId, known: bool) {
        for link in peer.to_network().map(|peer| self.links.of(&peer)).unwrap_or_default() {
            link.set_known(known);
        }
    }

    /// The peers with open connections, by id.
    pub(in crate::mesh) fn peers(&self) -> Vec<Connected> {
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut peers: Vec<Connected> = Vec::new();
        for (peer, links) in self.links.all() {
            let Some(best) = links.iter().max_by_key(|link| (link.path == PeerPath::Direct, link.since)) else {
                continue;
            };
            let (received_bytes, sent_bytes) =
                self.traffic.of(&peer).map(|traffic| traffic.bytes()).unwrap_or_default();
            peers.push(Connected {
                peer: best.peer.clone(),
                addresses: links.iter().map(|link| link.address.to_string()).collect(),
                path: best.path,
                came: best.came,
                rtt: best.rtt(),
                since: best.since,
                streams: links.iter().map(|link| link.open_streams()).sum(),
                received_bytes,
                sent_bytes,
                agent: agents.get(&peer).cloned(),
            });
        }
        peers.sort_by(|a, b| a.peer.cmp(&b.peer));
        peers
    }

    pub(super) fn tell(&self, peer: &PeerId, event: PeerEvent) {
        // Nobody listens: nothing is lost.
        let _unheard = self.changes.send(PeerChange { peer: peer.clone(), event });
    }

    /// Keeps the name that a peer gives its program, without what a terminal would obey.
    pub(super) fn set_agent(&self, peer: libp2p::PeerId, agent: &str) {
        let printable = agent.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_AGENT).collect();
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, printable);
    }

    pub(super) fn forget_agent(&self, peer: &libp2p::PeerId) {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }
}
