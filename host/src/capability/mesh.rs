//! `mcpp:mesh`: this host's peers, as far as a component's grant and its tenant's own rights go.
//!
//! This module holds a guest's requests to the grant and to their form; a [`GuestMesh`] carries them out. Nothing here waits while a transaction of the store is open.

mod calls;
pub mod handle;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use wasmtime::component::{HasData, Linker};

use self::handle::{DealtPeer, GuestMesh, MeshRefusal};
use crate::{
    capability::{
        bindings::mcpp::mesh::{announcements, calls as call_interface, connections, peers, services, types},
        state::{Running, State},
    },
    control::Control,
    grants::mesh::{MayConnect, MeshGrant},
    limits::millis,
    memory::MemoryUse,
    mesh::{Came, Connected, PeerId, PeerPath},
    names::{ComponentName, Topic},
};

/// The longest that an order about a connection or a service is waited for.
const LONGEST_ORDER: Duration = Duration::from_secs(30);
/// The shortest and longest lease of a service, in seconds.
const LEASE_S: std::ops::RangeInclusive<u32> = 60..=3_600;
/// The largest announcement of a guest, in bytes. Its topic goes with it.
pub const MAX_PAYLOAD_BYTES: usize = 3 << 10;
/// Addresses of a connection that a guest is shown.
const MAX_LINK_ADDRESSES: usize = 16;
/// The longest reason that a guest is given, in bytes.
const MAX_REASON_BYTES: usize = 512;

type MeshResult<T> = wasmtime::Result<Result<T, types::MeshError>>;

/// The mesh of an instance whose grant gives it something there.
#[derive(Debug, Clone)]
pub struct MeshAccess {
    /// What the grant gives.
    pub grant: Arc<MeshGrant>,
    /// The mesh; none where this host has none for guests.
    pub mesh: Option<Arc<dyn GuestMesh>>,
}

/// The part of an instance's state that the mesh's interfaces see.
#[derive(Debug)]
pub struct MeshView<'a> {
    /// Controls of the call.
    pub control: &'a Control,
    /// The call; absent while the host only asks the component for its tools.
    pub running: Option<&'a Running>,
    /// Whether the guest has a transaction of its store open.
    pub transaction_open: bool,
}

impl HasData for MeshView<'static> {
    type Data<'a> = MeshView<'a>;
}

/// Links the types that the interfaces share. They give nothing.
pub(super) fn link_types(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, MeshView<'static>>(linker, State::mesh)
}

/// Links the peers and their measures.
pub(super) fn link_peers(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    peers::add_to_linker::<State, MeshView<'static>>(linker, State::mesh)
}

/// Links connections.
pub(super) fn link_connections(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    connections::add_to_linker::<State, MeshView<'static>>(linker, State::mesh)
}

/// Links services.
pub(super) fn link_services(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    services::add_to_linker::<State, MeshView<'static>>(linker, State::mesh)
}

/// Links announcements.
pub(super) fn link_announcements(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    announcements::add_to_linker::<State, MeshView<'static>>(linker, State::mesh)
}

/// Links calls of peers' tools.
pub(super) fn link_calls(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    call_interface::add_to_linker::<State, MeshView<'static>>(linker, State::mesh)
}

/// What a request needs: the call, its grant, and the mesh.
#[derive(Debug, Clone, Copy)]
struct Meshed<'a> {
    running: &'a Running,
    grant: &'a MeshGrant,
    mesh: &'a dyn GuestMesh,
}

impl MeshView<'_> {
    fn meshed(&self) -> Result<Meshed<'_>, types::MeshError> {
        let running = self.running.ok_or(types::MeshError::Off)?;
        let access = running.mesh.as_ref().ok_or(types::MeshError::Off)?;
        let mesh = access.mesh.as_deref().ok_or(types::MeshError::Off)?;
        Ok(Meshed { running, grant: &access.grant, mesh })
    }

    /// The same, for what may wait.
    fn meshed_to_wait(&self) -> Result<Meshed<'_>, types::MeshError> {
        if self.transaction_open { Err(types::MeshError::TransactionOpen) } else { self.meshed() }
    }

    /// The time that an order may take: what the guest says, and not longer than its call.
    fn order_time(&self, timeout_ms: u64) -> Duration {
        let left = self.control.deadline().saturating_duration_since(Instant::now());
        Duration::from_millis(timeout_ms).min(LONGEST_ORDER).min(left)
    }
}

/// Notes whether the grant allowed a use of the mesh, by the line that does.
fn judge(running: &Running, allowed: bool, line: String, what: &str) -> Result<(), types::MeshError> {
    if allowed {
        running.witness.used(line);
        return Ok(());
    }
    running.witness.denied(Some(line), format!("it may not {what}"));
    Err(types::MeshError::NotFound)
}

fn peer(text: &str) -> Result<PeerId, types::MeshError> {
    PeerId::new(text).map_err(|_| types::MeshError::Invalid)
}

fn mesh_name(text: &str) -> Result<ComponentName, types::MeshError> {
    ComponentName::new(text).map_err(|_| types::MeshError::Invalid)
}

/// The most of a reason that a guest is given.
fn short(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn since_epoch(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis)
}

impl From<MeshRefusal> for types::MeshError {
    fn from(refusal: MeshRefusal) -> Self {
        match refusal {
            MeshRefusal::Off => Self::Off,
            MeshRefusal::NotFound => Self::NotFound,
            MeshRefusal::TooOften(wait) => Self::TooOften(millis(wait).max(1)),
            MeshRefusal::Busy => Self::Busy,
            MeshRefusal::Unreachable(reason) => Self::Unreachable(short(reason)),
            MeshRefusal::InUse => Self::InUse,
            MeshRefusal::Nobody => Self::Nobody,
            MeshRefusal::TooLarge => Self::Invalid,
        }
    }
}

impl From<PeerPath> for types::Path {
    fn from(path: PeerPath) -> Self {
        match path {
            PeerPath::Direct => Self::Direct,
            PeerPath::Relayed => Self::Relayed,
        }
    }
}

impl From<&Connected> for peers::Connection {
    fn from(connected: &Connected) -> Self {
        let origin = match connected.came {
            Came::Dialed => peers::Origin::Dialed,
            Came::Accepted => peers::Origin::Accepted,
            Came::Punched => peers::Origin::Punched,
        };
        Self { path: connected.path.into(), origin, since_ms: since_epoch(connected.since) }
    }
}

impl From<DealtPeer> for peers::Peer {
    fn from(peer: DealtPeer) -> Self {
        Self {
            id: peer.id.into(),
            connection: peer.connected.as_ref().map(peers::Connection::from),
            tools_there: peer.tools_there.into_iter().map(String::from).collect(),
            tools_here: peer.tools_here.into_iter().map(String::from).collect(),
        }
    }
}

impl types::Host for MeshView<'_> {}

const SEE: &str = "mesh.see = true";

impl peers::Host for MeshView<'_> {
    fn identify(&mut self) -> MeshResult<peers::ThisHost> {
        Ok(self.see(|meshed| {
            let (id, addresses) = meshed.mesh.identify()?;
            Ok(peers::ThisHost { id: id.into(), addresses })
        }))
    }

    fn known(&mut self, after: Option<String>) -> MeshResult<Vec<peers::Peer>> {
        Ok(self.see(|meshed| {
            let after = after.as_deref().map(peer).transpose()?;
            let page = meshed.mesh.known(&meshed.running.principal, after.as_ref())?;
            let page: Vec<_> = page.into_iter().map(peers::Peer::from).collect();
            let tools = page.iter().flat_map(|peer| peer.tools_there.iter().chain(&peer.tools_here));
            let bytes = tools.map(String::len).fold(page.len().saturating_mul(256), usize::saturating_add);
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            // The page is there twice for a moment: here, and in the guest.
            let _held =
                self.control.memory().reserve(MemoryUse::Messages, bytes).map_err(|_| types::MeshError::Busy)?;
            Ok(page)
        }))
    }

    fn metrics(&mut self, of: String) -> MeshResult<peers::Measures> {
        Ok(self.see(|meshed| {
            let measured = meshed.mesh.measures(&meshed.running.principal, &peer(&of)?)?;
            Ok(peers::Measures {
                path: measured.path.map(types::Path::from),
                round_trip_us: measured.round_trip.map(micros),
                call_us: measured.call.map(micros),
                requests: measured.tally.map(|tally| tally.requests),
                failures: measured.tally.map(|tally| tally.failures),
                sent_bytes: measured.tally.map(|tally| tally.sent_bytes),
                received_bytes: measured.tally.map(|tally| tally.received_bytes),
            })
        }))
    }

    fn link_of(&mut self, of: String) -> MeshResult<Option<peers::Link>> {
        Ok(self.seen_link(&of))
    }
}

impl MeshView<'_> {
    /// The peer's connection, as the guest may see it: bounded, as the peer's own words are among it.
    fn seen_link(&self, of: &str) -> Result<Option<peers::Link>, types::MeshError> {
        self.see(|meshed| {
            let link = meshed.mesh.link(&meshed.running.principal, &peer(of)?)?;
            Ok(link.map(|link| peers::Link {
                addresses: link.addresses.into_iter().take(MAX_LINK_ADDRESSES).map(short).collect(),
                program: link.program,
            }))
        })
    }

    fn see<T>(&self, look: impl FnOnce(Meshed<'_>) -> Result<T, types::MeshError>) -> Result<T, types::MeshError> {
        let meshed = self.meshed()?;
        judge(meshed.running, meshed.grant.see, SEE.into(), "see the mesh")?;
        look(meshed)
    }

    /// The peer, and how far the grant lets the component connect it.
    fn connectable(&self, of: &str) -> Result<(Meshed<'_>, PeerId, MayConnect), types::MeshError> {
        let meshed = self.meshed_to_wait()?;
        let peer = peer(of)?;
        let may = meshed.grant.connect.of(&peer);
        judge(meshed.running, may != MayConnect::No, format!("mesh.connect = [\"{peer}\"]"), "connect this peer")?;
        Ok((meshed, peer, may))
    }
}

impl connections::Host for MeshView<'_> {
    async fn connect(&mut self, of: String, timeout_ms: u64) -> MeshResult<types::Path> {
        let (meshed, peer, may) = match self.connectable(&of) {
            Ok(connectable) => connectable,
            Err(error) => return Ok(Err(error)),
        };
        let connecting = meshed.mesh.connect(&meshed.running.principal, &peer, may, self.order_time(timeout_ms));
        Ok(self.control.wait(connecting).await?.map(types::Path::from).map_err(types::MeshError::from))
    }

    async fn disconnect(&mut self, of: String) -> MeshResult<()> {
        let (meshed, peer, may) = match self.connectable(&of) {
            Ok(connectable) => connectable,
            Err(error) => return Ok(Err(error)),
        };
        let ending = meshed.mesh.disconnect(&meshed.running.principal, &peer, may);
        Ok(self.control.wait(ending).await?.map_err(types::MeshError::from))
    }
}

impl MeshView<'_> {
    fn providable(&self, service: &str) -> Result<(Meshed<'_>, ComponentName), types::MeshError> {
        let meshed = self.meshed_to_wait()?;
        let service = mesh_name(service)?;
        let line = format!("mesh.provide = [\"{service}\"]");
        judge(meshed.running, meshed.grant.provide.has(&service), line, "provide this service")?;
        Ok((meshed, service))
    }
}

impl services::Host for MeshView<'_> {
    async fn provide(&mut self, service: String, lease_s: u32) -> MeshResult<()> {
        let (meshed, service) = match self.providable(&service) {
            Ok(_) if !LEASE_S.contains(&lease_s) => return Ok(Err(types::MeshError::Invalid)),
            Ok(providable) => providable,
            Err(error) => return Ok(Err(error)),
        };
        let lease = Duration::from_secs(lease_s.into());
        let providing = meshed.mesh.provide(&meshed.running.principal, &service, lease);
        Ok(self.control.wait(providing).await?.map_err(types::MeshError::from))
    }

    async fn withdraw(&mut self, service: String) -> MeshResult<bool> {
        Ok(self.providable(&service).and_then(|(meshed, service)| {
            meshed.mesh.withdraw(&meshed.running.principal, &service).map_err(types::MeshError::from)
        }))
    }

    async fn discover(&mut self, service: String, timeout_ms: u64) -> MeshResult<Vec<String>> {
        let looked_for = self.meshed_to_wait().and_then(|meshed| {
            let service = mesh_name(&service)?;
            let line = format!("mesh.discover = [\"{service}\"]");
            judge(meshed.running, meshed.grant.discover.has(&service), line, "look for this service")?;
            Ok((meshed, service))
        });
        let (meshed, service) = match looked_for {
            Ok(looked_for) => looked_for,
            Err(error) => return Ok(Err(error)),
        };
        let looking = meshed.mesh.discover(&meshed.running.principal, &service, self.order_time(timeout_ms));
        let found = self.control.wait(looking).await?;
        Ok(found.map(|found| found.into_iter().map(String::from).collect()).map_err(types::MeshError::from))
    }
}

impl announcements::Host for MeshView<'_> {
    async fn announce(&mut self, topic: String, payload: Vec<u8>) -> MeshResult<()> {
        let announced = self.meshed_to_wait().and_then(|meshed| {
            let name = mesh_name(&topic)?;
            let component = ComponentName::new(&meshed.running.component).map_err(|_| types::MeshError::Invalid)?;
            let line = format!("mesh.announce = [\"{name}\"]");
            judge(meshed.running, meshed.grant.announce.has(&name), line, "announce on this topic")?;
            if payload.len() > MAX_PAYLOAD_BYTES {
                return Err(types::MeshError::Invalid);
            }
            Ok((meshed, Topic { component, name }))
        });
        let (meshed, topic) = match announced {
            Ok(announced) => announced,
            Err(error) => return Ok(Err(error)),
        };
        let telling = meshed.mesh.announce(&meshed.running.principal, &topic, &payload);
        Ok(self.control.wait(telling).await?.map_err(types::MeshError::from))
    }

    async fn heard(&mut self, topic: String, after: u64) -> MeshResult<Vec<announcements::Announcement>> {
        Ok(self.meshed().and_then(|meshed| {
            let component = ComponentName::new(&meshed.running.component).map_err(|_| types::MeshError::Invalid)?;
            let topic = Topic::parse(&topic, &component).ok_or(types::MeshError::Invalid)?;
            let line = format!("mesh.hear = [\"{topic}\"]");
            judge(meshed.running, meshed.grant.hear.has(&topic), line, "hear this topic")?;
            let heard = meshed.mesh.heard(&topic, after)?.into_iter().map(|heard| announcements::Announcement {
                number: heard.number,
                peer: heard.peer.into(),
                payload: heard.payload,
                time_ms: heard.time_ms,
            });
            Ok(heard.collect())
        }))
    }
}
