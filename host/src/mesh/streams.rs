//! Streams of the host's own protocols on all connections: which connection carries a new one, and what ends them.
//!
//! Three machines, one file each: [`bytes`] is one stream, [`connection`] one connection, this file all of them. A direct connection comes before a relayed one; a relayed one
//! that a direct one has replaced carries no new streams, and is closed when its last one has ended.

mod bytes;
mod connection;
mod link;
mod renewal;
mod reverse;

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished,
    },
};
use tokio::sync::mpsc;

use self::{connection::LinkHandler, link::PeerLoad, renewal::Renewals, reverse::ReverseDials};
pub(super) use self::{
    connection::{StreamOrder, refuse},
    link::Link,
};
use super::{Came, IncomingStream, PeerId, PeerPath, Unreachable, address, meters, roster::Roster};

/// How long a direct connection stands before the relayed one that it replaces is closed: some die young.
const PROVEN: Duration = Duration::from_secs(5);

/// How many streams there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamBounds {
    /// Of a peer that the host knows.
    pub(super) per_peer: usize,
    /// Of any other peer.
    pub(super) per_stranger: usize,
}

/// All open connections, by peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Links(Arc<Mutex<HashMap<libp2p::PeerId, Vec<Arc<Link>>>>>);

impl Links {
    fn lock(&self) -> MutexGuard<'_, HashMap<libp2p::PeerId, Vec<Arc<Link>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of a peer.
    pub(super) fn of(&self, peer: &libp2p::PeerId) -> Vec<Arc<Link>> {
        self.lock().get(peer).cloned().unwrap_or_default()
    }

    /// All.
    pub(super) fn all(&self) -> Vec<(libp2p::PeerId, Vec<Arc<Link>>)> {
        self.lock().iter().map(|(peer, links)| (*peer, links.clone())).collect()
    }

    /// The one that a new stream of a peer takes: direct before relayed, then the newest.
    pub(super) fn best(&self, peer: &libp2p::PeerId) -> Option<Arc<Link>> {
        let links = self.lock();
        let usable = links.get(peer)?.iter().filter(|link| !link.is_cut());
        usable.max_by_key(|link| (link.path == PeerPath::Direct, link.since)).cloned()
    }
}

/// The streams of all connections.
pub(super) struct Streams {
    names: Arc<[&'static str]>,
    bounds: StreamBounds,
    incoming: mpsc::Sender<IncomingStream>,
    roster: Roster,
    links: Links,
    /// Connections that the other behaviours may still refuse.
    arriving: HashMap<ConnectionId, Arc<Link>>,
    loads: HashMap<libp2p::PeerId, Arc<PeerLoad>>,
    reverse: ReverseDials,
    renewals: Renewals,
    queue: VecDeque<ToSwarm<Infallible, StreamOrder>>,
    waker: Option<Waker>,
}

impl Streams {
    pub(super) fn new(
        names: &[&'static str],
        bounds: StreamBounds,
        incoming: mpsc::Sender<IncomingStream>,
        roster: Roster,
        links: Links,
    ) -> Self {
        Self {
            names: names.into(),
            bounds,
            incoming,
            roster,
            links,
            arriving: HashMap::new(),
            loads: HashMap::new(),
            reverse: ReverseDials::default(),
            renewals: Renewals::default(),
            queue: VecDeque::new(),
            waker: None,
        }
    }

    /// Opens a stream on the best connection of a peer. The order comes back if there is none.
    pub(super) fn order(&mut self, peer: libp2p::PeerId, order: StreamOrder) -> Result<(), StreamOrder> {
        let Some(link) = self.links.best(&peer) else { return Err(order) };
        let handler = NotifyHandler::One(link.connection);
        self.push(ToSwarm::NotifyHandler { peer_id: peer, handler, event: order });
        Ok(())
    }

    /// Notes that the two ends of a relayed connection could not tell each other where to punch. The end that dialed it tries again.
    pub(super) fn not_punched(&mut self, peer: &libp2p::PeerId) {
        let links = self.links.of(peer);
        let is_mine = |link: &&Arc<Link>| link.path == PeerPath::Relayed && link.came == Came::Dialed && !link.is_cut();
        if let Some(link) = links.iter().find(is_mine) {
            self.renewals.note(*peer, &link.address, Instant::now());
        }
    }

    /// Dials peers for which a punch alone does not do. Closes relayed connections that another one has replaced and that carry nothing any more.
    pub(super) fn tend(&mut self) {
        let links = self.links.clone();
        let path = |peer: &libp2p::PeerId| links.best(peer).map(|link| link.path);
        for opts in self.reverse.due(Instant::now(), |peer| path(peer) == Some(PeerPath::Direct)) {
            meters::punched("dialed");
            tracing::info!(peer = ?opts.get_peer_id(), "the relayed peer is dialed where the punch went");
            self.push(ToSwarm::Dial { opts });
        }
        for opts in self.renewals.due(Instant::now(), |peer| path(peer) == Some(PeerPath::Relayed)) {
            meters::punched("again");
            tracing::info!(peer = ?opts.get_peer_id(), "the relayed peer is called once more, to punch again");
            self.push(ToSwarm::Dial { opts });
        }
        for (peer_id, links) in self.links.all() {
            for link in links.iter().filter(|link| links.iter().any(|other| link.is_replaced_by(other, PROVEN))) {
                if link.open_streams() == 0 && !link.is_cut() {
                    link.cut();
                    tracing::info!(peer = %link.peer, "the relayed connection is closed; another one has replaced it");
                    let connection = CloseConnection::One(link.connection);
                    self.push(ToSwarm::CloseConnection { peer_id, connection });
                }
            }
        }
    }

    fn push(&mut self, action: ToSwarm<Infallible, StreamOrder>) {
        self.queue.push_back(action);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn arrive(&mut self, id: ConnectionId, peer: libp2p::PeerId, address: &Multiaddr, came: Came) -> LinkHandler {
        let path = if address::is_relayed(address) { PeerPath::Relayed } else { PeerPath::Direct };
        // A direct connection beside a relayed one is what hole punching makes.
        let relayed = self.links.of(&peer).iter().any(|link| link.path == PeerPath::Relayed);
        let came = if relayed && path == PeerPath::Direct { Came::Punched } else { came };
        let load = Arc::clone(self.loads.entry(peer).or_default());
        let name = PeerId::from_network(&peer);
        let link = Arc::new(Link::new(name, id, address.clone(), (path, came), load));
        link.set_known(self.roster.is_known(&link.peer));
        self.arriving.insert(id, Arc::clone(&link));
        LinkHandler::new(link, Arc::clone(&self.names), self.bounds, self.incoming.clone())
    }

    fn established(&mut self, peer: libp2p::PeerId, id: ConnectionId) {
        if let Some(link) = self.arriving.remove(&id) {
            self.links.lock().entry(peer).or_default().push(link);
        }
        self.forget_loads();
    }

    fn closed(&mut self, peer: libp2p::PeerId, id: ConnectionId) {
        let mut links = self.links.lock();
        let Some(of_peer) = links.get_mut(&peer) else { return };
        of_peer.retain(|link| {
            let stays = link.connection != id;
            if !stays {
                link.cut();
            }
            stays
        });
        if of_peer.is_empty() {
            links.remove(&peer);
        }
        drop(links);
        self.forget_loads();
    }

    /// Lets go of connections that were refused, and of the loads of peers that have none.
    fn forget_loads(&mut self) {
        // Only this map holds the link of a connection that another behaviour refused.
        self.arriving.retain(|_, link| Arc::strong_count(link) > 1);
        if self.loads.len() > self.links.lock().len().saturating_mul(2) {
            self.loads.retain(|_, load| Arc::strong_count(load) > 1);
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = LinkHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<libp2p::PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        // Only a punch dials as a listener.
        if let (Some(peer), Endpoint::Listener) = (peer, role) {
            self.reverse.note(peer, addresses, Instant::now());
        }
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: libp2p::PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // The other end of an inbound circuit has no address but the relay's, which is this end's.
        let address = if address::is_relayed(local) { local } else { remote };
        Ok(self.arrive(id, peer, address, Came::Accepted))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: libp2p::PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.arrive(id, peer, address, Came::Dialed))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.established(peer_id, connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.closed(peer_id, connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: libp2p::PeerId, _: ConnectionId, never: THandlerOutEvent<Self>) {
        match never {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        if let Some(action) = self.queue.pop_front() {
            return Poll::Ready(action);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Tells who ordered a stream why there is none.
pub(super) fn refuse_all(orders: impl IntoIterator<Item = StreamOrder>, reason: &Unreachable) {
    for order in orders {
        refuse(order, reason.clone());
    }
}
