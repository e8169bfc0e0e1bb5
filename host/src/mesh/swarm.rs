//! The task that owns the swarm. Nothing is awaited in its loop but the swarm, the commands and the clock.

mod events;
mod files;
mod keeper;
mod orders;
mod services;
mod shared;
mod ways;

use std::{
    collections::HashMap,
    io,
    num::NonZeroU8,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{Multiaddr, Swarm, core::ConnectedPoint, gossipsub, multiaddr::Protocol, swarm::ConnectionId};
use tokio::{
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};

pub(super) use self::shared::MeshShared;
use self::{keeper::PeerKeeper, services::ServiceDesk, ways::Ways};
use super::{
    IncomingStream, MeshConfig, MeshError, NetworkConfig, PeerId, Unreachable,
    address::{self, AddressReach},
    announcements::{self, AnnounceError, AnnouncementRates},
    behaviour::Protocols,
    book::AddressBook,
    gate::{ConnectionBounds, ConnectionGate, ProcessMemory},
    meters,
    services::ServiceOrder,
    streams::{StreamBounds, StreamOrder, Streams},
    transport::{self, Told},
};
use crate::memory::memory_bytes;

/// How often the task looks after what nothing tells it of.
const TICK: Duration = Duration::from_millis(250);
/// How often the address book is written, if it changed.
const BOOK_EVERY: Duration = Duration::from_secs(2);
/// Addresses that are dialed at the same time for one peer.
const DIALS_AT_ONCE: NonZeroU8 = NonZeroU8::new(8).expect("not zero");
/// Streams of one connection that a peer has opened and not yet named a protocol for.
const MAX_NEGOTIATING: usize = 16;
/// A connection of a peer that the host does not know, with nothing on it, is closed after this long.
const IDLE: Duration = Duration::from_secs(300);
/// Time for connections to end in order when the mesh ends.
const CLOSE_TIME: Duration = Duration::from_millis(500);
/// Time for the host to begin to listen.
const LISTEN_TIME: Duration = Duration::from_secs(2);
/// Connections of one peer that are being made for somebody.
const MAX_PENDING: usize = 1_024;

/// An order to the swarm's task.
#[derive(Debug)]
pub(super) enum MeshCommand {
    /// Open a stream.
    Open { peer: PeerId, order: StreamOrder },
    /// Make a connection.
    Connect { address: Multiaddr, reply: oneshot::Sender<Result<PeerId, Unreachable>> },
    /// End a peer's connections.
    Disconnect { peer: PeerId, reply: oneshot::Sender<Result<(), Unreachable>> },
    /// Tell everybody.
    Announce { data: Vec<u8>, reply: oneshot::Sender<Result<(), AnnounceError>> },
    /// Provide or find a service.
    Service(ServiceOrder),
    /// End everything.
    Leave { reply: oneshot::Sender<Result<(), Unreachable>> },
}

/// Somebody who waits for a connection.
type ConnectionWaiter = oneshot::Sender<Result<PeerId, Unreachable>>;

/// The owner of the swarm.
struct SwarmTask {
    swarm: Swarm<Protocols>,
    commands: mpsc::Receiver<MeshCommand>,
    shared: Arc<MeshShared>,
    folder: Option<PathBuf>,
    started: Instant,
    book_due: Instant,
    /// Streams that wait for a connection to their peer.
    orders: HashMap<libp2p::PeerId, Vec<StreamOrder>>,
    /// Who waits for a connection, with the address that was dialed.
    dials: HashMap<ConnectionId, (Multiaddr, ConnectionWaiter)>,
    keeper: PeerKeeper,
    ways: Ways,
    services: ServiceDesk,
    /// What threads that read files found.
    from_files: mpsc::Sender<Vec<(libp2p::PeerId, Multiaddr)>>,
    files: mpsc::Receiver<Vec<(libp2p::PeerId, Multiaddr)>>,
    announce_file: Option<PathBuf>,
    announcements: gossipsub::IdentTopic,
    rates: AnnouncementRates,
    /// Circuits that this host relays.
    circuits: usize,
    /// Whether the addresses at which it listens are its addresses for everybody.
    relays: bool,
}

/// Starts the task, and waits until it listens.
pub(super) async fn start(
    config: MeshConfig,
    protocols: &[&'static str],
    incoming: mpsc::Sender<IncomingStream>,
    commands: mpsc::Receiver<MeshCommand>,
) -> Result<Arc<MeshShared>, MeshError> {
    let MeshConfig { network, identity, folder } = config;
    network.check().map_err(MeshError::Config)?;
    let book = folder.as_deref().map(|folder| {
        AddressBook::read(folder).unwrap_or_else(|error| {
            tracing::warn!(%error, folder = %folder.display(), "the address book cannot be read; the mesh begins a new one");
            AddressBook::default()
        })
    });
    let shared = Arc::new(MeshShared::new(identity.peer(), book.unwrap_or_default()));
    shared.roster.set_callers(network.callers);
    let listen = listen_addresses(&network)?;
    let told = if listen.iter().any(|address| address::reach(address) == Some(AddressReach::Machine)) {
        Told::Machine
    } else {
        Told::Networks
    };
    let key = identity.keypair();
    let (transport, relay_client) =
        transport::build(key, shared.given.clone(), told, shared.traffic.clone()).map_err(MeshError::Start)?;
    let memory = memory_bytes().saturating_mul(network.max_memory_percent).div_ceil(100);
    let gate = ConnectionGate::new(connection_bounds(&network), ProcessMemory::new(memory), shared.roster.clone());
    let bounds =
        StreamBounds { per_peer: network.max_streams_per_peer, per_stranger: network.max_streams_per_stranger };
    let streams = Streams::new(protocols, bounds, incoming, shared.roster.clone(), shared.links.clone());
    let settings = libp2p::swarm::Config::with_tokio_executor()
        .with_dial_concurrency_factor(DIALS_AT_ONCE)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING)
        .with_idle_connection_timeout(IDLE);
    let behaviour = Protocols::new(key, &network, gate, streams, relay_client)?;
    let mut swarm = Swarm::new(transport, behaviour, key.public().to_peer_id(), settings);
    listen_on(&mut swarm, &network, &listen)?;
    for text in &network.external_addresses {
        swarm.add_external_address(address::parse(text).map_err(|error| MeshError::Config(error.to_string()))?);
    }
    let (from_files, files) = mpsc::channel(1);
    let mut task = SwarmTask {
        swarm,
        commands,
        shared: Arc::clone(&shared),
        folder,
        started: Instant::now(),
        book_due: Instant::now(),
        orders: HashMap::new(),
        dials: HashMap::new(),
        keeper: PeerKeeper::default(),
        ways: Ways::new(&network)?,
        services: ServiceDesk::default(),
        from_files,
        files,
        announce_file: network.announce_file.clone(),
        announcements: announcements::topic(&network),
        rates: AnnouncementRates::default(),
        circuits: 0,
        relays: network.relay_server && network.external_addresses.is_empty(),
    };
    task.begin_ways(&network)?;
    task.listens(listen.len()).await?;
    tracing::info!(peer = %shared.id, addresses = ?shared.addresses.lock().unwrap_or_else(PoisonError::into_inner), "the mesh listens");
    tokio::spawn(task.run());
    Ok(shared)
}

fn connection_bounds(network: &NetworkConfig) -> ConnectionBounds {
    ConnectionBounds {
        total: network.max_connections,
        strangers: network.max_strangers,
        // As many as may become strangers; the rest waits in the kernel's backlog.
        pending_in: network.max_strangers.max(64),
        pending_out: 128,
        per_range: network.max_per_range,
    }
}

fn listen_addresses(network: &NetworkConfig) -> Result<Vec<Multiaddr>, MeshError> {
    let parsed = network.listen.iter().map(|text| address::parse_listen(text));
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(|error| MeshError::Config(error.to_string()))?;
    Ok(parsed.into_iter().flatten().collect())
}

/// Listens. Where the operator named no port and the usual one is taken, any will do.
fn listen_on(swarm: &mut Swarm<Protocols>, network: &NetworkConfig, addresses: &[Multiaddr]) -> Result<(), MeshError> {
    for address in addresses {
        let listening = free(address)
            .map_err(libp2p::TransportError::Other)
            .and_then(|()| swarm.listen_on(address.clone()))
            .or_else(|error| if network.listens_anywhere() { swarm.listen_on(any_port(address)) } else { Err(error) });
        listening.map_err(|error| MeshError::Listen {
            address: address.to_string(),
            source: match error {
                libp2p::TransportError::Other(error) => error,
                unsupported => io::Error::new(io::ErrorKind::Unsupported, unsupported),
            },
        })?;
    }
    Ok(())
}

/// Whether nobody listens there. The library shares a port with another process of the same user, which would get half of the connections.
fn free(address: &Multiaddr) -> io::Result<()> {
    match (address::ip_of(address), address.iter().nth(1)) {
        (Some(ip), Some(Protocol::Tcp(port))) => std::net::TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

fn any_port(address: &Multiaddr) -> Multiaddr {
    let parts = address.iter().map(|part| match part {
        Protocol::Tcp(_) => Protocol::Tcp(0),
        Protocol::Udp(_) => Protocol::Udp(0),
        other => other,
    });
    parts.collect()
}

impl SwarmTask {
    /// Waits until as many listeners have told their addresses.
    async fn listens(&mut self, listeners: usize) -> Result<(), MeshError> {
        let until = tokio::time::Instant::now() + LISTEN_TIME;
        while self.swarm.listeners().count() < listeners {
            match tokio::time::timeout_at(until, self.swarm.select_next_some()).await {
                Ok(event) => self.on_event(event),
                Err(_) => break,
            }
        }
        self.publish_addresses();
        Ok(())
    }

    async fn run(mut self) {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = self.commands.recv() => match command {
                    Some(MeshCommand::Leave { reply }) => {
                        self.leave().await;
                        let _gone = reply.send(Ok(()));
                        return;
                    }
                    Some(command) => self.on_command(command),
                    // Nobody holds a handle any more.
                    None => return self.leave().await,
                },
                Some(found) = self.files.recv() => self.on_file(found),
                _ = clock.tick() => self.on_tick(),
            }
        }
    }

    fn on_tick(&mut self) {
        self.swarm.behaviour_mut().streams.tend();
        self.forget_orders();
        self.write_book();
        let now = Instant::now();
        self.tend_ways(now);
        self.tend_searches(now);
        self.go_back(now);
        let (direct, relayed, streams) = self.count_open();
        meters::open(direct, relayed, streams);
    }

    /// Writes the address book, on a thread that may wait for the disk.
    fn write_book(&mut self) {
        if self.book_due > Instant::now() {
            return;
        }
        let Some(folder) = self.folder.clone() else { return };
        let text = self.shared.book.lock().unwrap_or_else(PoisonError::into_inner).take_changes();
        if let Some(text) = text {
            self.book_due = Instant::now() + BOOK_EVERY;
            tokio::task::spawn_blocking(move || save_book(&folder, &text));
        }
    }

    /// Ends all connections so that peers notice at once.
    async fn leave(&mut self) {
        self.commands.close();
        for (peer, links) in self.shared.links.all() {
            links.iter().for_each(|link| link.cut());
            let _or_gone = self.swarm.disconnect_peer_id(peer);
        }
        let until = tokio::time::Instant::now() + CLOSE_TIME;
        while self.swarm.connected_peers().next().is_some() {
            if tokio::time::timeout_at(until, self.swarm.select_next_some()).await.is_err() {
                break;
            }
        }
        if let Some(folder) = self.folder.take() {
            let text = self.shared.book.lock().unwrap_or_else(PoisonError::into_inner).take_changes();
            if let Some(text) = text {
                let _done = tokio::task::spawn_blocking(move || save_book(&folder, &text)).await;
            }
        }
        tracing::info!("the mesh has ended");
    }

    fn publish_addresses(&self) {
        const MAX_SHOWN: usize = 64;
        let id = *self.swarm.local_peer_id();
        let all = self.swarm.external_addresses().chain(self.swarm.listeners());
        let mut addresses: Vec<String> = Vec::new();
        for address in all {
            let text = address::without_peer(address.clone()).with(Protocol::P2p(id)).to_string();
            if addresses.len() < MAX_SHOWN && !addresses.contains(&text) {
                addresses.push(text);
            }
        }
        let before = std::mem::replace(
            &mut *self.shared.addresses.lock().unwrap_or_else(PoisonError::into_inner),
            addresses.clone(),
        );
        if before != addresses {
            self.write_announce_file();
        }
    }
}

fn save_book(folder: &std::path::Path, text: &str) {
    if let Err(error) = AddressBook::write(folder, text) {
        tracing::warn!(%error, folder = %folder.display(), "the address book cannot be written");
    }
}

/// Whether this host dialed.
fn direction(endpoint: &ConnectedPoint) -> &'static str {
    if endpoint.is_dialer() { "out" } else { "in" }
}
