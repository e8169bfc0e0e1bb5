//! The mesh: hosts that find each other and open streams to each other. This handle names no type of the network's library, so that another transport could stand behind it.
//!
//! One task owns the swarm; the handle sends it bounded commands, each with a deadline. Nothing here knows what runs over a stream, or what a peer may do: a [`PeerId`] says who is
//! at the other end, never more.

pub mod announcements;
pub mod config;
pub mod dial;
pub mod frame;
pub mod identity;
pub mod meters;
pub mod peer;
pub mod roster;
pub mod services;

mod address;
mod behaviour;
mod book;
mod gate;
mod streams;
mod swarm;
mod transport;

#[cfg(test)]
mod nodes;

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{broadcast, mpsc, oneshot},
};

pub use self::{
    address::{InvalidAddress, MAX_ADDRESS_BYTES},
    announcements::{AnnounceError, Announcement},
    config::{ConfiguredMount, DhtMode, MeshConfig, NetworkConfig},
    identity::{Identity, IdentityError},
    peer::{InvalidPeerId, PeerId},
    roster::{Bond, Callers},
};
use self::{
    streams::StreamOrder,
    swarm::{MeshCommand, MeshShared},
};

/// Commands that wait for the swarm's task. Each carries a deadline, and more are refused as [`Unreachable::Busy`].
const MAX_COMMANDS: usize = 256;
/// Time for the swarm's task to end connections in order, or to answer where the caller gives no time.
const LEAVE_TIME: Duration = Duration::from_secs(2);

/// Bytes to and from a peer.
pub trait Channel: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Channel for T {}

/// A stream to a peer, encrypted and proven to be the peer's.
pub type PeerStream = Box<dyn Channel>;

/// How a connection runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerPath {
    /// From host to host.
    Direct,
    /// Through a third peer, which sees only ciphertext.
    Relayed,
}

impl PeerPath {
    /// The path in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}

/// How a connection came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Came {
    /// This host dialed.
    Dialed,
    /// The peer dialed.
    Accepted,
    /// After they met over a relay: both dialed at once, through their NATs.
    Punched,
}

/// A peer with an open connection.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Connected {
    /// The peer.
    pub peer: PeerId,
    /// The addresses at the other ends of its connections.
    pub addresses: Vec<String>,
    /// The path that new streams take.
    pub path: PeerPath,
    /// How the connection of that path came to be.
    pub came: Came,
    /// The round trip; none before it was measured.
    pub rtt: Option<Duration>,
    /// When that connection was made.
    pub since: SystemTime,
    /// Streams of the host's own protocols that are open.
    pub streams: usize,
    /// Bytes received on streams, since the oldest of its open connections was made.
    pub received_bytes: u64,
    /// Bytes sent on streams.
    pub sent_bytes: u64,
    /// The name of the peer's program, as the peer says; at most 64 printable characters.
    pub agent: Option<String>,
}

/// What changed about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEvent {
    /// Its first connection stands.
    Connected(PeerPath),
    /// New streams take another path.
    Moved(PeerPath),
    /// Its last connection has ended.
    Disconnected,
}

/// A change of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerChange {
    /// The peer.
    pub peer: PeerId,
    /// The change.
    pub event: PeerEvent,
}

/// Why there is no mesh.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// A value of the configuration does not work.
    #[error("{0}")]
    Config(String),
    /// The host cannot listen there.
    #[error("the mesh cannot listen on {address}; is another host running? choose another address with mesh.listen")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The network cannot be used at all.
    #[error("the mesh cannot be started")]
    Start(#[source] std::io::Error),
}

/// Why there is no stream or connection to a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// No address of it is known.
    #[error("no address of peer {peer} is known; connect to it by an address first, or turn on a way to find peers")]
    NoAddress {
        /// The peer.
        peer: PeerId,
    },
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// It is this host.
    #[error("{0} is this host itself")]
    Myself(PeerId),
    /// It did not work.
    #[error("peer {peer} cannot be reached: {reason}")]
    Failed {
        /// The peer.
        peer: PeerId,
        /// Why not, in at most 512 bytes.
        reason: String,
    },
    /// Nothing that answers at an address without a peer's id was reached.
    #[error("nothing can be reached at {address}: {reason}")]
    Nothing {
        /// The address.
        address: String,
        /// Why not, in at most 512 bytes.
        reason: String,
    },
    /// The peer does not speak the protocol.
    #[error("peer {peer} does not speak {protocol}")]
    Unsupported {
        /// The peer.
        peer: PeerId,
        /// The protocol.
        protocol: &'static str,
    },
    /// The time was over.
    #[error("peer {peer} did not answer in time")]
    TimedOut {
        /// The peer.
        peer: PeerId,
    },
    /// The time was over before the peer was known.
    #[error("nothing answered at {address} in time")]
    Late {
        /// The address.
        address: String,
    },
    /// This host has disconnected it.
    #[error("this host has disconnected peer {peer}")]
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// Too much is being asked of the mesh.
    #[error("the mesh has too much to do; try again")]
    Busy,
    /// The mesh has ended.
    #[error("the mesh has stopped")]
    Stopped,
}

impl Unreachable {
    /// The reason in one word, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoAddress { .. } => "no-address",
            Self::Address(_) => "address",
            Self::Myself(_) => "myself",
            Self::Failed { .. } | Self::Nothing { .. } => "failed",
            Self::Unsupported { .. } => "unsupported",
            Self::TimedOut { .. } | Self::Late { .. } => "timed-out",
            Self::Disconnected { .. } => "disconnected",
            Self::Busy => "busy",
            Self::Stopped => "stopped",
        }
    }
}

/// The peer's table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this host knows as many peers as it may ({} of them)", roster::MAX_KNOWN_PEERS)]
pub struct TooManyPeers;

/// A stream that a peer opened.
pub struct IncomingStream {
    /// The peer.
    pub peer: PeerId,
    /// The path of the connection that carries it.
    pub path: PeerPath,
    /// The protocol, one of those that the mesh was started with.
    pub protocol: &'static str,
    /// The stream.
    pub stream: PeerStream,
}

impl std::fmt::Debug for IncomingStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IncomingStream({} from {})", self.protocol, self.peer)
    }
}

/// The streams that peers open. While nobody takes them at most [`Incoming::MAX_WAITING`] wait; further ones are reset.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<IncomingStream>);

impl Incoming {
    /// Streams that wait to be taken. A stream that waits holds what its peer has sent, up to 256 KiB.
    pub const MAX_WAITING: usize = 128;

    /// The next one; none when the mesh has ended.
    pub async fn next(&mut self) -> Option<IncomingStream> {
        self.0.recv().await
    }
}

/// The mesh as the rest of the host sees it.
#[derive(Clone)]
pub struct Mesh {
    commands: mpsc::Sender<MeshCommand>,
    shared: Arc<MeshShared>,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mesh({})", self.shared.id)
    }
}

impl Mesh {
    /// Starts the mesh, which listens when this returns. `protocols` are those whose streams [`Incoming`] gives.
    pub async fn start(config: MeshConfig, protocols: Vec<&'static str>) -> Result<(Self, Incoming), MeshError> {
        let (incoming, taken) = mpsc::channel(Incoming::MAX_WAITING);
        let (commands, ordered) = mpsc::channel(MAX_COMMANDS);
        let shared = swarm::start(config, &protocols, incoming, ordered).await?;
        Ok((Self { commands, shared }, Incoming(taken)))
    }

    /// Who this host is.
    pub fn id(&self) -> &PeerId {
        &self.shared.id
    }

    /// Where peers reach this host: what it listens on and what it is known by from outside, each with its id. At most 64.
    pub fn addresses(&self) -> Vec<String> {
        self.shared.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a stream to a peer: on its open connection, or else on one that is made to its known addresses.
    ///
    /// # Errors
    /// [`Unreachable`]. The peer has seen no byte of the stream then.
    pub async fn open(
        &self,
        peer: &PeerId,
        protocol: &'static str,
        within: Duration,
    ) -> Result<PeerStream, Unreachable> {
        let deadline = Instant::now() + within;
        let (reply, answer) = oneshot::channel();
        let command = MeshCommand::Open { peer: peer.clone(), order: StreamOrder { protocol, deadline, reply } };
        let opened = self.ask(command, answer, within, || Unreachable::TimedOut { peer: peer.clone() }).await;
        opened.inspect_err(meters::unreachable)
    }

    /// Connects to an address, with or without a peer's id at its end. A connection to that peer that is open already will do.
    pub async fn connect(&self, address: &str, within: Duration) -> Result<PeerId, Unreachable> {
        let parsed = address::parse(address)?;
        let (reply, answer) = oneshot::channel();
        let late = || Unreachable::Late { address: address.to_owned() };
        self.ask(MeshCommand::Connect { address: parsed, reply }, answer, within, late).await
    }

    /// Ends all connections to a peer. Its streams end before this waits for anything.
    pub async fn disconnect(&self, peer: &PeerId) {
        self.shared.cut(peer);
        let (reply, answer) = oneshot::channel();
        let command = MeshCommand::Disconnect { peer: peer.clone(), reply };
        let _or_it_has_ended = self.ask(command, answer, LEAVE_TIME, || Unreachable::Stopped).await;
    }

    /// Notes addresses of a peer that the operator gave, or somebody with the operator's authority. They outlast the process.
    ///
    /// # Errors
    /// The first address that is none, or is another peer's. None is noted then.
    pub fn remember(&self, peer: &PeerId, addresses: &[String]) -> Result<(), InvalidAddress> {
        let parsed = addresses.iter().map(|text| address::parse_of(text, peer)).collect::<Result<Vec<_>, _>>()?;
        for address in &parsed {
            self.shared.give(peer, address);
        }
        Ok(())
    }

    /// The peers with open connections, by id.
    pub fn peers(&self) -> Vec<Connected> {
        self.shared.peers()
    }

    /// Changes of peers from now on. A receiver that falls behind by 256 is told so, and asks [`Mesh::peers`].
    pub fn changes(&self) -> broadcast::Receiver<PeerChange> {
        self.shared.changes.subscribe()
    }

    /// Says who may connect from now on. Connections that are open stay.
    pub fn allow(&self, callers: Callers) {
        self.shared.roster.set_callers(callers);
    }

    /// Makes a peer known to the network: it has room when strangers have used theirs up, its connection stays open, and the host goes back to a [`Bond::Kept`] one.
    ///
    /// # Errors
    /// The table is full.
    pub fn know(&self, peer: &PeerId, bond: Bond) -> Result<(), TooManyPeers> {
        if self.shared.know(peer, bond) { Ok(()) } else { Err(TooManyPeers) }
    }

    /// Makes a peer a stranger again. Its connections stay until [`Mesh::disconnect`].
    pub fn forget(&self, peer: &PeerId) {
        self.shared.forget(peer);
    }

    /// Tells all connected hosts of the namespace that listen; they pass it on. None is promised to hear it.
    ///
    /// # Errors
    /// [`AnnounceError`]; nobody has heard it then.
    pub async fn announce(&self, data: Vec<u8>) -> Result<(), AnnounceError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(MeshCommand::Announce { data, reply }).map_err(|_| AnnounceError::Busy)?;
        let answered = tokio::time::timeout(LEAVE_TIME, answer).await;
        answered.ok().and_then(Result::ok).unwrap_or(Err(AnnounceError::Busy))
    }

    /// Announcements of others from now on. A receiver that falls behind by 256 loses the oldest.
    pub fn announcements(&self) -> broadcast::Receiver<Announcement> {
        self.shared.announcements.subscribe()
    }

    /// Ends all connections in order, and the mesh. Peers notice at once.
    pub async fn leave(&self) {
        let (reply, answer) = oneshot::channel();
        let _or_it_has_ended =
            self.ask(MeshCommand::Leave { reply }, answer, LEAVE_TIME, || Unreachable::Stopped).await;
    }

    async fn ask<T>(
        &self,
        command: MeshCommand,
        answer: oneshot::Receiver<Result<T, Unreachable>>,
        within: Duration,
        late: impl FnOnce() -> Unreachable,
    ) -> Result<T, Unreachable> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unreachable::Busy,
            mpsc::error::TrySendError::Closed(_) => Unreachable::Stopped,
        })?;
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Unreachable::Stopped),
            Err(_) => Err(late()),
        }
    }
}
