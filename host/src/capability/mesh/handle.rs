//! The mesh as guests reach it: for one tenant, and without a type of the network's library.

use std::{fmt, time::Duration};

use futures::future::BoxFuture;

use crate::{
    call::{Call, CallError, ToolResult},
    grants::mesh::MayConnect,
    mesh::{Connected, PeerId, PeerPath},
    names::{ComponentName, ToolPattern, Topic},
    tenant::{Authorized, Principal},
};

/// Peers that one page of them has.
pub const MAX_PAGE: usize = 64;

/// Why the mesh did not do what a guest asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeshRefusal {
    /// This host is part of no mesh, or has this way of it off.
    #[error("the mesh, or this part of it, is off")]
    Off,
    /// The tenant knows no such peer.
    #[error("this tenant knows no such peer")]
    NotFound,
    /// The tenant asked too often; when it may again.
    #[error("too often; once more in {} ms", .0.as_millis())]
    TooOften(Duration),
    /// There is no room now.
    #[error("there is no room for this now")]
    Busy,
    /// The peer was not reached.
    #[error("{0}")]
    Unreachable(String),
    /// Others use the connection.
    #[error("others use this connection")]
    InUse,
    /// No peer listens.
    #[error("no connected peer listens")]
    Nobody,
    /// The argument is too large.
    #[error("this is too large")]
    TooLarge,
}

/// A peer with which a tenant deals.
#[derive(Debug, Clone)]
pub struct DealtPeer {
    /// The peer.
    pub id: PeerId,
    /// Its connection, if it has one.
    pub connected: Option<Connected>,
    /// The tools that the tenant may call there.
    pub tools_there: Vec<ToolPattern>,
    /// The tools of the tenant that the peer may call.
    pub tools_here: Vec<ToolPattern>,
}

/// One tenant's calls of one peer, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallTally {
    /// Calls that were begun.
    pub requests: u64,
    /// Those without an answer of the tool.
    pub failures: u64,
    /// Bytes of their messages.
    pub sent_bytes: u64,
    /// Bytes of the answers.
    pub received_bytes: u64,
}

/// What was measured of a peer.
#[derive(Debug, Clone, Default)]
pub struct PeerMeasures {
    /// The path of its connection.
    pub path: Option<PeerPath>,
    /// The last round trip.
    pub round_trip: Option<Duration>,
    /// What a call takes beyond the peer's own time.
    pub call: Option<Duration>,
    /// The tenant's calls; none if it made none.
    pub tally: Option<CallTally>,
}

/// What is known of a connection beside its measures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerLink {
    /// The addresses at its other ends.
    pub addresses: Vec<String>,
    /// The name of the peer's program, as the peer says.
    pub program: Option<String>,
}

/// An announcement that this host heard on a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardAnnouncement {
    /// Rises from one to the next.
    pub number: u64,
    /// Who made it.
    pub peer: PeerId,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// When it was heard, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
}

/// An answer that may take a while.
pub type MeshAnswer<'a, T> = BoxFuture<'a, Result<T, MeshRefusal>>;

/// The mesh for guests. The grant was asked before; the tenant's own rights are asked here.
pub trait GuestMesh: fmt::Debug + Send + Sync {
    /// This host's id and addresses.
    fn identify(&self) -> Result<(PeerId, Vec<String>), MeshRefusal>;

    /// The peers with which the tenant deals, by id, from the first after `after`; at most [`MAX_PAGE`].
    fn known(&self, of: &Principal, after: Option<&PeerId>) -> Result<Vec<DealtPeer>, MeshRefusal>;

    /// What was measured of one of them.
    fn measures(&self, of: &Principal, peer: &PeerId) -> Result<PeerMeasures, MeshRefusal>;

    /// The connection to one of them, if there is one.
    fn link(&self, of: &Principal, peer: &PeerId) -> Result<Option<PeerLink>, MeshRefusal>;

    /// Connects to a peer, as far as the grant says `may`.
    fn connect<'a>(
        &'a self,
        of: &'a Principal,
        peer: &'a PeerId,
        may: MayConnect,
        within: Duration,
    ) -> MeshAnswer<'a, PeerPath>;

    /// Ends the connections to a peer.
    fn disconnect<'a>(&'a self, of: &'a Principal, peer: &'a PeerId, may: MayConnect) -> MeshAnswer<'a, ()>;

    /// Says for so long that this host provides a service.
    fn provide<'a>(&'a self, of: &'a Principal, service: &'a ComponentName, lease: Duration) -> MeshAnswer<'a, ()>;

    /// Ends the tenant's lease; whether there was one.
    fn withdraw(&self, of: &Principal, service: &ComponentName) -> Result<bool, MeshRefusal>;

    /// The hosts that say they provide a service.
    fn discover<'a>(
        &'a self,
        of: &'a Principal,
        service: &'a ComponentName,
        within: Duration,
    ) -> MeshAnswer<'a, Vec<PeerId>>;

    /// Tells all that listen.
    fn announce<'a>(&'a self, of: &'a Principal, topic: &'a Topic, payload: &'a [u8]) -> MeshAnswer<'a, ()>;

    /// What was heard on a topic, with a number above `after`.
    fn heard(&self, topic: &Topic, after: u64) -> Result<Vec<HeardAnnouncement>, MeshRefusal>;

    /// Calls a tool of a peer; none if there is no mesh.
    fn call<'a>(
        &'a self,
        peer: &'a PeerId,
        call: Authorized<Call>,
    ) -> BoxFuture<'a, Option<Result<ToolResult, CallError>>>;
}
