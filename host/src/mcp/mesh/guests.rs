//! The mesh for guests: each tenant's orders within its own bounds, and nothing of another tenant's peers.
//!
//! The grant of the component was asked before ([`crate::capability::mesh`]). Here the tenant's dealings with a peer decide, and its rates: one tenant's orders never use up another's.

mod heard;
mod leases;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::{heard::Heard, leases::Leases};
use super::{PROTOCOL, remote::Remotes};
use crate::{
    call::{Call, CallError, ReachPeer as _, ToolResult},
    capability::mesh::handle::{
        DealtPeer, GuestMesh, HeardAnnouncement, MAX_PAGE, MeshAnswer, MeshRefusal, PeerLink, PeerMeasures,
    },
    grants::mesh::MayConnect,
    mesh::{
        Connected, Mesh, PeerId, PeerPath, Unreachable, announcements::AnnounceError, dial::LateMesh,
        services::ServicesError,
    },
    names::{ComponentName, TenantId, Topic},
    peers::known::KnownPeers,
    registry::{Registry, rate::Rate},
    tenant::{Authorized, Incarnation, Principal},
};

/// Orders about connections and services that a tenant gives in a minute.
const ORDERS_PER_MINUTE: u64 = 60;
/// Orders of a tenant that are waited for at the same time.
const MAX_WAITING: usize = 4;
/// Announcements of a tenant in a minute; a host makes 30.
const ANNOUNCEMENTS_PER_MINUTE: u64 = 6;
/// How often leases are looked at.
const TEND_EVERY: Duration = Duration::from_secs(5);

/// Whom a rate or a lease belongs to.
type TenantKey = (TenantId, Incarnation);

/// What one tenant may still order.
#[derive(Debug)]
struct TenantOrders {
    orders: Rate,
    announcements: Rate,
    waiting: Arc<Semaphore>,
}

impl TenantOrders {
    fn new() -> Self {
        Self {
            orders: Rate::new(ORDERS_PER_MINUTE),
            announcements: Rate::new(ANNOUNCEMENTS_PER_MINUTE),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }
}

/// The mesh of a host as its guests reach it.
#[derive(Debug)]
pub struct MeshOfGuests {
    mesh: LateMesh,
    peers: Arc<KnownPeers>,
    remotes: Remotes,
    registry: Registry,
    /// The peers that the host's configuration names: their connections are the host's own.
    named: BTreeSet<PeerId>,
    orders: Mutex<HashMap<TenantKey, Arc<TenantOrders>>>,
    leases: Mutex<Leases>,
    heard: Mutex<Heard>,
}

impl MeshOfGuests {
    /// A mesh for the guests of `registry`. `named` are the peers that the configuration names.
    pub fn new(
        mesh: LateMesh,
        peers: Arc<KnownPeers>,
        remotes: Remotes,
        registry: Registry,
        named: BTreeSet<PeerId>,
    ) -> Arc<Self> {
        let guests = Arc::new(Self {
            mesh,
            peers,
            remotes,
            registry,
            named,
            orders: Mutex::default(),
            leases: Mutex::default(),
            heard: Mutex::default(),
        });
        let weak = Arc::downgrade(&guests);
        guests.registry.set_guest_mesh(weak);
        guests
    }

    /// Hears announcements, and ends leases, for as long as it is let.
    pub async fn tend(&self, mesh: &Mesh) {
        let mut announcements = mesh.announcements();
        let mut clock = tokio::time::interval(TEND_EVERY);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                announced = announcements.recv() => match announced {
                    Ok(announced) => lock(&self.heard).take(announced.peer, &announced.data),
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
                },
                _ = clock.tick() => {
                    let is_open = |(tenant, incarnation): &TenantKey| self.registry.is_open(tenant, incarnation);
                    for service in lock(&self.leases).end_late(Instant::now(), is_open) {
                        mesh.withdraw(service.as_str());
                    }
                }
            }
        }
    }

    fn mesh(&self) -> Result<&Mesh, MeshRefusal> {
        self.mesh.get().ok_or(MeshRefusal::Off)
    }

    /// What a tenant may still order. A tenant that is gone has nothing.
    fn orders_of(&self, of: &Principal) -> Result<Arc<TenantOrders>, MeshRefusal> {
        let mut orders = lock(&self.orders);
        let key = (of.tenant.clone(), of.incarnation.clone());
        if let Some(known) = orders.get(&key) {
            return Ok(Arc::clone(known));
        }
        if !self.registry.admits(of) {
            return Err(MeshRefusal::NotFound);
        }
        // So there are never more than open tenants, and one.
        orders.retain(|(tenant, incarnation), _| self.registry.is_open(tenant, incarnation));
        Ok(Arc::clone(orders.entry(key).or_insert_with(|| Arc::new(TenantOrders::new()))))
    }

    /// Counts an order of a tenant and waits for nobody: a place among the tenant's own, or a refusal.
    fn order(&self, of: &Principal) -> Result<(&Mesh, OwnedSemaphorePermit), MeshRefusal> {
        let mesh = self.mesh()?;
        let orders = self.orders_of(of)?;
        let place = Arc::clone(&orders.waiting).try_acquire_owned().map_err(|_| MeshRefusal::Busy)?;
        within_rate(&orders.orders)?;
        Ok((mesh, place))
    }

    /// Whether the tenant may have this peer's connections ordered.
    fn may_order(&self, of: &Principal, peer: &PeerId, may: &MayConnect) -> Result<(), MeshRefusal> {
        let is_allowed = match may {
            MayConnect::No => false,
            MayConnect::IfKnown => self.peers.dealings(of, peer).is_some(),
            MayConnect::At(_) => true,
        };
        if is_allowed { Ok(()) } else { Err(MeshRefusal::NotFound) }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn within_rate(rate: &Rate) -> Result<(), MeshRefusal> {
    rate.take("tenant").map_err(|error| MeshRefusal::TooOften(error.retry_after().unwrap_or_default()))
}

fn connected(mesh: &Mesh, peer: &PeerId) -> Option<Connected> {
    mesh.peers().into_iter().find(|connected| connected.peer == *peer)
}

impl From<ServicesError> for MeshRefusal {
    fn from(error: ServicesError) -> Self {
        match error {
            ServicesError::Off => Self::Off,
            ServicesError::Busy => Self::Busy,
        }
    }
}

impl From<AnnounceError> for MeshRefusal {
    fn from(error: AnnounceError) -> Self {
        match error {
            AnnounceError::Off => Self::Off,
            AnnounceError::TooLarge => Self::TooLarge,
            // The whole host announces that much.
            AnnounceError::TooFast | AnnounceError::Busy => Self::Busy,
            AnnounceError::Nobody => Self::Nobody,
        }
    }
}

impl GuestMesh for MeshOfGuests {
    fn identify(&self) -> Result<(PeerId, Vec<String>), MeshRefusal> {
        let mesh = self.mesh()?;
        Ok((mesh.id().clone(), mesh.addresses()))
    }

    fn known(&self, of: &Principal, after: Option<&PeerId>) -> Result<Vec<DealtPeer>, MeshRefusal> {
        let mut open: HashMap<PeerId, Connected> =
            self.mesh()?.peers().into_iter().map(|connected| (connected.peer.clone(), connected)).collect();
        let page = self.peers.dealt(of, after, MAX_PAGE).into_iter();
        let peers = page.map(|(id, dealings)| DealtPeer {
            connected: open.remove(&id),
            id,
            tools_there: dealings.there,
            tools_here: dealings.here,
        });
        Ok(peers.collect())
    }

    fn measures(&self, of: &Principal, peer: &PeerId) -> Result<PeerMeasures, MeshRefusal> {
        let mesh = self.mesh()?;
        self.peers.dealings(of, peer).ok_or(MeshRefusal::NotFound)?;
        let connected = connected(mesh, peer);
        Ok(PeerMeasures {
            path: connected.as_ref().map(|connected| connected.path),
            round_trip: connected.and_then(|connected| connected.rtt),
            call: self.remotes.health(peer).latency,
            tally: self.remotes.tally(of, peer),
        })
    }

    fn link(&self, of: &Principal, peer: &PeerId) -> Result<Option<PeerLink>, MeshRefusal> {
        let mesh = self.mesh()?;
        self.peers.dealings(of, peer).ok_or(MeshRefusal::NotFound)?;
        let link = |connected: Connected| PeerLink { addresses: connected.addresses, program: connected.agent };
        Ok(connected(mesh, peer).map(link))
    }

    fn connect<'a>(
        &'a self,
        of: &'a Principal,
        peer: &'a PeerId,
        may: MayConnect,
        within: Duration,
    ) -> MeshAnswer<'a, PeerPath> {
        Box::pin(async move {
            self.may_order(of, peer, &may)?;
            let (mesh, _place) = self.order(of)?;
            if let MayConnect::At(addresses) = &may {
                mesh.remember(peer, addresses).map_err(|error| MeshRefusal::Unreachable(error.to_string()))?;
            }
            // A stream is opened and let go: so the mesh connects to a peer at all addresses that it knows.
            match mesh.open(peer, PROTOCOL, within).await {
                Ok(_) | Err(Unreachable::Unsupported { .. }) => {}
                Err(Unreachable::Myself(_)) => return Err(MeshRefusal::NotFound),
                Err(Unreachable::Busy) => return Err(MeshRefusal::Busy),
                Err(Unreachable::Stopped) => return Err(MeshRefusal::Off),
                Err(error) => return Err(MeshRefusal::Unreachable(error.to_string())),
            }
            let gone = || MeshRefusal::Unreachable("the connection ended at once".to_owned());
            connected(mesh, peer).map(|connected| connected.path).ok_or_else(gone)
        })
    }

    fn disconnect<'a>(&'a self, of: &'a Principal, peer: &'a PeerId, may: MayConnect) -> MeshAnswer<'a, ()> {
        Box::pin(async move {
            self.may_order(of, peer, &may)?;
            if self.named.contains(peer) || self.peers.others_deal(of, peer) {
                return Err(MeshRefusal::InUse);
            }
            let (mesh, _place) = self.order(of)?;
            mesh.disconnect(peer).await;
            Ok(())
        })
    }

    fn provide<'a>(&'a self, of: &'a Principal, service: &'a ComponentName, lease: Duration) -> MeshAnswer<'a, ()> {
        Box::pin(async move {
            let (mesh, _place) = self.order(of)?;
            let key = (of.tenant.clone(), of.incarnation.clone());
            if !lock(&self.leases).take(&key, service, Instant::now() + lease) {
                return Err(MeshRefusal::Busy);
            }
            mesh.provide(service.as_str()).await.map_err(|error| {
                lock(&self.leases).end(&key, service);
                MeshRefusal::from(error)
            })
        })
    }

    fn withdraw(&self, of: &Principal, service: &ComponentName) -> Result<bool, MeshRefusal> {
        let mesh = self.mesh()?;
        let ended = lock(&self.leases).end(&(of.tenant.clone(), of.incarnation.clone()), service);
        if ended == Some(leases::Last::Yes) {
            mesh.withdraw(service.as_str());
        }
        Ok(ended.is_some())
    }

    fn discover<'a>(
        &'a self,
        of: &'a Principal,
        service: &'a ComponentName,
        within: Duration,
    ) -> MeshAnswer<'a, Vec<PeerId>> {
        Box::pin(async move {
            let (mesh, _place) = self.order(of)?;
            Ok(mesh.find_service(service.as_str(), within).await?)
        })
    }

    fn announce<'a>(&'a self, of: &'a Principal, topic: &'a Topic, payload: &'a [u8]) -> MeshAnswer<'a, ()> {
        Box::pin(async move {
            let mesh = self.mesh()?;
            within_rate(&self.orders_of(of)?.announcements)?;
            Ok(mesh.announce(heard::write(topic, payload).ok_or(MeshRefusal::TooLarge)?).await?)
        })
    }

    fn heard(&self, topic: &Topic, after: u64) -> Result<Vec<HeardAnnouncement>, MeshRefusal> {
        self.mesh()?;
        Ok(lock(&self.heard).on(topic, after))
    }

    fn call<'a>(
        &'a self,
        peer: &'a PeerId,
        call: Authorized<Call>,
    ) -> BoxFuture<'a, Option<Result<ToolResult, CallError>>> {
        Box::pin(async move {
            self.mesh.get()?;
            if let Err(error) = self.registry.charge_call(&call.get().request.principal) {
                return Some(Err(error));
            }
            Some(self.remotes.reach(peer, call).await.0)
        })
    }
}
