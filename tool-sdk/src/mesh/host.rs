//! The mesh as the host has it.

use std::time::Duration;

use super::{Announcement, Connection, Link, Measures, MeshError, Origin, Path, Peer, PeerCallError, ThisHost};
use crate::{
    Output,
    bindings::mcpp::mesh::{announcements, calls, connections, peers, services, types},
    environment::millis,
};

pub(super) fn identify() -> Result<ThisHost, MeshError> {
    let peers::ThisHost { id, addresses } = peers::identify()?;
    Ok(ThisHost { id, addresses })
}

pub(super) fn known(after: Option<&str>) -> Result<Vec<Peer>, MeshError> {
    Ok(peers::known(after)?.into_iter().map(Peer::from).collect())
}

pub(super) fn metrics(peer: &str) -> Result<Measures, MeshError> {
    let measures = peers::metrics(peer)?;
    Ok(Measures {
        path: measures.path.map(Path::from),
        round_trip: measures.round_trip_us.map(Duration::from_micros),
        call: measures.call_us.map(Duration::from_micros),
        requests: measures.requests,
        failures: measures.failures,
        sent_bytes: measures.sent_bytes,
        received_bytes: measures.received_bytes,
    })
}

pub(super) fn link(peer: &str) -> Result<Option<Link>, MeshError> {
    Ok(peers::link_of(peer)?.map(|peers::Link { addresses, program }| Link { addresses, program }))
}

pub(super) fn connect(peer: &str, within: Duration) -> Result<Path, MeshError> {
    Ok(connections::connect(peer, millis(within))?.into())
}

pub(super) fn disconnect(peer: &str) -> Result<(), MeshError> {
    Ok(connections::disconnect(peer)?)
}

pub(super) fn provide(service: &str, lease: Duration) -> Result<(), MeshError> {
    Ok(services::provide(service, u32::try_from(lease.as_secs()).unwrap_or(u32::MAX))?)
}

pub(super) fn withdraw(service: &str) -> Result<bool, MeshError> {
    Ok(services::withdraw(service)?)
}

pub(super) fn discover(service: &str, within: Duration) -> Result<Vec<String>, MeshError> {
    Ok(services::discover(service, millis(within))?)
}

pub(super) fn announce(topic: &str, payload: &[u8]) -> Result<(), MeshError> {
    Ok(announcements::announce(topic, payload)?)
}

pub(super) fn heard(topic: &str, after: u64) -> Result<Vec<Announcement>, MeshError> {
    let heard = announcements::heard(topic, after)?.into_iter();
    let heard = heard.map(|announcements::Announcement { number, peer, payload, time_ms }| Announcement {
        number,
        peer,
        payload,
        time_ms,
    });
    Ok(heard.collect())
}

pub(super) fn call(peer: &str, tool: &str, arguments: &str, within: Option<Duration>) -> Result<Output, PeerCallError> {
    calls::call(peer, tool, arguments, within.map(millis)).map(Output::from).map_err(PeerCallError::from)
}

impl From<types::Path> for Path {
    fn from(path: types::Path) -> Self {
        match path {
            types::Path::Direct => Self::Direct,
            types::Path::Relayed => Self::Relayed,
        }
    }
}

impl From<peers::Peer> for Peer {
    fn from(peer: peers::Peer) -> Self {
        let connection = peer.connection.map(|connection| Connection {
            path: connection.path.into(),
            origin: match connection.origin {
                peers::Origin::Dialed => Origin::Dialed,
                peers::Origin::Accepted => Origin::Accepted,
                peers::Origin::Punched => Origin::Punched,
            },
            since_ms: connection.since_ms,
        });
        Self { id: peer.id, connection, tools_there: peer.tools_there, tools_here: peer.tools_here }
    }
}

impl From<types::MeshError> for MeshError {
    fn from(error: types::MeshError) -> Self {
        match error {
            types::MeshError::Off => Self::Off,
            types::MeshError::NotFound => Self::NotFound,
            types::MeshError::Invalid => Self::Invalid,
            types::MeshError::TransactionOpen => Self::TransactionOpen,
            types::MeshError::TooOften(ms) => Self::TooOften(Duration::from_millis(ms)),
            types::MeshError::Busy => Self::Busy,
            types::MeshError::Unreachable(reason) => Self::Unreachable(reason),
            types::MeshError::InUse => Self::InUse,
            types::MeshError::Nobody => Self::Nobody,
        }
    }
}

impl From<calls::CallError> for PeerCallError {
    fn from(error: calls::CallError) -> Self {
        match error {
            calls::CallError::Off => Self::Off,
            calls::CallError::NotFound => Self::NotFound,
            calls::CallError::InvalidArguments(reason) => Self::InvalidArguments(reason),
            calls::CallError::Failed(result) => Self::Failed(result.into()),
            calls::CallError::Busy(ms) => Self::Busy(Duration::from_millis(ms)),
            calls::CallError::Unreachable(reason) => Self::Unreachable(reason),
            calls::CallError::TimedOut => Self::TimedOut,
            calls::CallError::Interrupted(reason) => Self::Interrupted(reason),
            calls::CallError::TooDeep => Self::TooDeep,
            calls::CallError::TransactionOpen => Self::TransactionOpen,
        }
    }
}
