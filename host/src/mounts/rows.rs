//! Mounts as an operator reads them.

use serde::{Deserialize, Serialize};

use super::{record::MountName, watch::PeerOffer};
use crate::{mcp::mesh::remote::Health, mesh::PeerId, names::ToolName};

/// A mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountRow {
    /// Its name.
    pub name: MountName,
    /// Its tools in the tenant's catalog, by their names here; also those in `hidden`.
    pub tools: Vec<ToolName>,
    /// Those that have no place there, as something else has their names.
    pub hidden: Vec<ToolName>,
    /// Tools that were accepted, and that every peer offers otherwise now.
    pub withheld: Vec<ToolName>,
    /// Its peers.
    pub peers: Vec<MountedPeer>,
    /// Why some of its tools are not there.
    pub problem: Option<String>,
}

/// One peer of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountedPeer {
    /// The peer.
    pub peer: PeerId,
    /// How it does.
    pub state: MountedPeerState,
    /// Why nothing of it is served now.
    pub trouble: Option<String>,
    /// Tools that it serves now.
    pub serves: usize,
    /// The digest of what waits to be accepted, and how many tools that is.
    pub waiting: Option<(String, usize)>,
    /// A mean of what a call there takes beyond the tool's own time, in microseconds.
    pub call_us: Option<u64>,
    /// Calls in flight to it.
    pub in_flight: usize,
}

/// How a peer of a mount does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountedPeerState {
    /// It takes calls.
    Ready,
    /// It said that it has no room, or that it stops.
    Busy,
    /// It gave no sign of life while calls waited.
    Silent,
    /// It is not known what it offers now.
    Unknown,
    /// The tenant may call nothing there.
    NoMember,
}

impl MountedPeerState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Silent => "silent",
            Self::Unknown => "not reached",
            Self::NoMember => "not joined",
        }
    }
}

impl MountedPeer {
    pub(super) fn new(
        peer: PeerId,
        health: &Health,
        offer: &PeerOffer,
        is_member: bool,
        serves: usize,
        waiting: Option<(String, usize)>,
    ) -> Self {
        let state = match (is_member, offer.is_fresh) {
            (false, _) => MountedPeerState::NoMember,
            (true, false) => MountedPeerState::Unknown,
            (true, true) if health.is_silent() => MountedPeerState::Silent,
            (true, true) if health.is_busy() => MountedPeerState::Busy,
            (true, true) => MountedPeerState::Ready,
        };
        Self {
            peer,
            state,
            trouble: offer.trouble.clone(),
            serves,
            waiting,
            call_us: health.latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            in_flight: health.in_flight,
        }
    }
}
