//! The mesh: other hosts, their tools, and what was measured of them. A component that uses this needs a grant for each part: `mesh = { see = true, call = ["PEER: TOOL"] }`.
//!
//! ```
//! use mcpp_tool::{Error, Output, mesh, tool};
//!
//! /// Renders a scene on the nearest host that lets this tenant do so.
//! #[tool]
//! fn render(scene: String) -> Result<Output, Error> {
//!     let mut nearest = None;
//!     for peer in mesh::peers()? {
//!         let round_trip = mesh::metrics(&peer.id)?.round_trip.unwrap_or(std::time::Duration::MAX);
//!         if peer.may_call("render_scene") && nearest.as_ref().is_none_or(|(best, _)| round_trip < *best) {
//!             nearest = Some((round_trip, peer.id));
//!         }
//!     }
//!     let (_, peer) = nearest.ok_or_else(|| Error::failed("no host renders"))?;
//!     Ok(mesh::call(&peer, "render_scene", &serde_json::json!({ "scene": scene }))?)
//! }
//! # mcpp_tool::export!(render);
//! # fn main() {
//! #     use mesh::memory;
//! #     memory::start("12D3KooWme");
//! #     memory::add_tool("12D3KooWpeer", "render_scene", |_| Ok(Output::text("a picture")));
//! #     assert_eq!(render("a house".into()), Ok(Output::text("a picture")));
//! # }
//! ```
//!
//! In a native test there is no mesh until [`memory::start`] makes one in memory.

#[cfg(target_arch = "wasm32")]
mod host;
#[cfg(not(target_arch = "wasm32"))]
pub mod memory;

use std::time::Duration;

use serde::Serialize;

#[cfg(target_arch = "wasm32")]
use self::host as there;
#[cfg(not(target_arch = "wasm32"))]
use self::memory as there;
use crate::Output;

/// Why the mesh did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MeshError {
    /// This host is part of no mesh, or has this way of it off.
    Off,
    /// The grant does not name it, or this tenant knows no such peer.
    NotFound,
    /// An argument is not of its form, or longer than it may be.
    Invalid,
    /// Not while a transaction of the store is open.
    TransactionOpen,
    /// This tenant asked too often; when it may again.
    TooOften(Duration),
    /// There is no room for more of this now; may be repeated later.
    Busy,
    /// The peer was not reached in time; why.
    Unreachable(String),
    /// Others use this connection.
    InUse,
    /// No connected peer listens.
    Nobody,
}

impl std::fmt::Display for MeshError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("the mesh, or this part of it, is off"),
            Self::NotFound => f.write_str("there is no such peer, or no grant for this"),
            Self::Invalid => f.write_str("an argument is not of its form, or too long"),
            Self::TransactionOpen => f.write_str("commit or drop the open transaction first"),
            Self::TooOften(wait) => write!(f, "too often; once more in {} ms", wait.as_millis()),
            Self::Busy => f.write_str("there is no room for this now"),
            Self::Unreachable(reason) => write!(f, "the peer was not reached: {reason}"),
            Self::InUse => f.write_str("others use this connection"),
            Self::Nobody => f.write_str("no connected peer listens"),
        }
    }
}

impl std::error::Error for MeshError {}

/// Why a call of a peer's tool did not succeed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PeerCallError {
    /// This host is part of no mesh. The call has not run.
    Off,
    /// There is no such peer or tool for this caller and this component, or the peer lets this host call nothing any more. The call has not run.
    NotFound,
    /// The arguments do not match the tool's input schema; why.
    InvalidArguments(String),
    /// The tool answered with an error; its blocks.
    Failed(Output),
    /// There is no room; the call has not run and may be repeated after this time.
    Busy(Duration),
    /// The peer was not reached, or does not take the call now; why. The call has not run and may be repeated.
    Unreachable(String),
    /// The time was over. The call may have run; it is cancelled at the peer.
    TimedOut,
    /// The connection broke under the call, or the answer was no answer; why. The call may have run.
    Interrupted(String),
    /// The call has gone over too many hosts, or calls are nested too deeply.
    TooDeep,
    /// Not while a transaction of the store is open.
    TransactionOpen,
}

impl PeerCallError {
    /// Whether the call cannot have run, so that it may be made again or elsewhere.
    pub fn has_not_run(&self) -> bool {
        !matches!(self, Self::Failed(_) | Self::TimedOut | Self::Interrupted(_))
    }
}

impl std::fmt::Display for PeerCallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("this host is part of no mesh"),
            Self::NotFound => f.write_str("there is no such peer or tool, or no right to call it"),
            Self::InvalidArguments(reason) => f.write_str(reason),
            Self::Failed(_) => f.write_str("the called tool failed"),
            Self::Busy(wait) => write!(f, "there is no room for the call; once more in {} ms", wait.as_millis()),
            Self::Unreachable(reason) => write!(f, "the peer does not take the call: {reason}"),
            Self::TimedOut => f.write_str("the peer did not answer in time; the call may have run"),
            Self::Interrupted(reason) => write!(f, "the call broke off and may have run: {reason}"),
            Self::TooDeep => f.write_str("the call has gone over too many hosts, or calls are nested too deeply"),
            Self::TransactionOpen => f.write_str("commit or drop the open transaction first"),
        }
    }
}

impl std::error::Error for PeerCallError {}

/// How a connection runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// From host to host.
    Direct,
    /// Through a third peer.
    Relayed,
}

/// How a connection came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This host dialed.
    Dialed,
    /// The peer dialed.
    Accepted,
    /// Both dialed at once, through their NATs.
    Punched,
}

/// This host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThisHost {
    /// Its id.
    pub id: String,
    /// The addresses at which peers reach it; at most 64.
    pub addresses: Vec<String>,
}

/// A connection that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The path of new streams.
    pub path: Path,
    /// How it came to be.
    pub origin: Origin,
    /// When it was made, in milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
}

/// A peer with which this tenant deals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: String,
    /// Its connection; none if it is not connected.
    pub connection: Option<Connection>,
    /// The tools that this tenant may call there: names, or prefixes that end in `*`.
    pub tools_there: Vec<String>,
    /// The tools of this tenant that the peer may call.
    pub tools_here: Vec<String>,
}

impl Peer {
    /// Whether this tenant may call a tool there, as far as this host knows. The component's grant is another matter.
    pub fn may_call(&self, tool: &str) -> bool {
        let covers = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => tool.starts_with(prefix),
            None => tool == pattern,
        };
        self.tools_there.iter().any(covers)
    }
}

/// What was measured of a peer. A value that was not measured is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measures {
    /// The path of its connection; none if it is not connected.
    pub path: Option<Path>,
    /// The last round trip.
    pub round_trip: Option<Duration>,
    /// A moving mean of what a call takes beyond the peer's own time for it.
    pub call: Option<Duration>,
    /// Calls of this tenant.
    pub requests: Option<u64>,
    /// Of those, the ones without an answer of the tool.
    pub failures: Option<u64>,
    /// Bytes of the messages of those calls.
    pub sent_bytes: Option<u64>,
    /// Bytes of the answers to them.
    pub received_bytes: Option<u64>,
}

/// What is known of a connection beside its measures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The addresses at its other ends; at most 16.
    pub addresses: Vec<String>,
    /// The name of the peer's program, as the peer says.
    pub program: Option<String>,
}

/// An announcement of another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Rises from one to the next.
    pub number: u64,
    /// The host that made it.
    pub peer: String,
    /// At most 3,072 bytes.
    pub payload: Vec<u8>,
    /// When this host heard it, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
}

/// This host. Grant: `mesh.see = true`.
///
/// # Errors
/// [`MeshError`].
pub fn identify() -> Result<ThisHost, MeshError> {
    there::identify()
}

/// All peers with which this tenant deals, by id. Grant: `mesh.see = true`.
///
/// # Errors
/// [`MeshError`].
pub fn peers() -> Result<Vec<Peer>, MeshError> {
    let mut peers: Vec<Peer> = Vec::new();
    loop {
        let page = there::known(peers.last().map(|last| last.id.as_str()))?;
        if page.is_empty() {
            return Ok(peers);
        }
        peers.extend(page);
    }
}

/// What was measured of one of those peers. Grant: `mesh.see = true`.
///
/// # Errors
/// [`MeshError`].
pub fn metrics(peer: &str) -> Result<Measures, MeshError> {
    there::metrics(peer)
}

/// The connection to one of those peers; none if it is not connected. Grant: `mesh.see = true`.
///
/// # Errors
/// [`MeshError`].
pub fn link(peer: &str) -> Result<Option<Link>, MeshError> {
    there::link(peer)
}

/// Connects to a peer, within a time of at most 30 s. Grant: `mesh.connect = ["PEER"]`.
///
/// # Errors
/// [`MeshError`].
pub fn connect(peer: &str, within: Duration) -> Result<Path, MeshError> {
    there::connect(peer, within)
}

/// Ends all connections to a peer, with the calls on them. Grant: `mesh.connect = ["PEER"]`.
///
/// # Errors
/// [`MeshError`].
pub fn disconnect(peer: &str) -> Result<(), MeshError> {
    there::disconnect(peer)
}

/// Has this host say for 60 to 3,600 seconds that it provides a service. Grant: `mesh.provide = ["SERVICE"]`.
///
/// # Errors
/// [`MeshError`].
pub fn provide(service: &str, lease: Duration) -> Result<(), MeshError> {
    there::provide(service, lease)
}

/// Ends this tenant's lease; whether there was one. Grant: `mesh.provide = ["SERVICE"]`.
///
/// # Errors
/// [`MeshError`].
pub fn withdraw(service: &str) -> Result<bool, MeshError> {
    there::withdraw(service)
}

/// The hosts that say they provide a service, as far as they are found within a time of at most 30 s. Grant: `mesh.discover = ["SERVICE"]`.
///
/// # Errors
/// [`MeshError`].
pub fn discover(service: &str, within: Duration) -> Result<Vec<String>, MeshError> {
    there::discover(service, within)
}

/// Announces to all that listen, on a topic of this component. Grant: `mesh.announce = ["TOPIC"]`.
///
/// # Errors
/// [`MeshError`].
pub fn announce(topic: &str, payload: &[u8]) -> Result<(), MeshError> {
    there::announce(topic, payload)
}

/// What other hosts announced on `<component>/<topic>`, with a number above `after`; at most 64. Grant: `mesh.hear = ["COMPONENT/TOPIC"]`.
///
/// # Errors
/// [`MeshError`].
pub fn heard(topic: &str, after: u64) -> Result<Vec<Announcement>, MeshError> {
    there::heard(topic, after)
}

/// Calls a tool of a peer as the same caller, within what is left of this call's time. Grant: `mesh.call = ["PEER: TOOL"]`.
///
/// # Errors
/// [`PeerCallError`].
pub fn call(peer: &str, tool: &str, arguments: &impl Serialize) -> Result<Output, PeerCallError> {
    let arguments = json(arguments)?;
    there::call(peer, tool, &arguments, None)
}

/// The same, within a time.
///
/// # Errors
/// [`PeerCallError`].
pub fn call_within(
    peer: &str,
    tool: &str,
    arguments: &impl Serialize,
    within: Duration,
) -> Result<Output, PeerCallError> {
    let arguments = json(arguments)?;
    there::call(peer, tool, &arguments, Some(within))
}

fn json(arguments: &impl Serialize) -> Result<String, PeerCallError> {
    serde_json::to_string(arguments).map_err(|error| PeerCallError::InvalidArguments(error.to_string()))
}
