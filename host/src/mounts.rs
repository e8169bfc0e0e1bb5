//! Mounts: tools of other hosts in a tenant's catalog, each under the mount's name and as an operator accepted it.
//!
//! A mount names peers and tools ([`record`]). Each peer's list is followed ([`watch`]), checked as a component's is ([`offer`]), and held to what was accepted ([`plan`]); a call goes to
//! the less loaded of the peers that offer the tool so ([`route`]). Whether a tenant may call a peer is the matter of its membership there; without it a mount shows nothing.

mod mount;
mod offer;
mod plan;
pub mod record;
mod route;
pub mod rows;
mod watch;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;

use self::{
    mount::{Mount, MountOwner, MountParts},
    record::{MAX_MOUNTED_TOOLS, MountFile, MountFileError, MountName, MountRecord},
    rows::MountRow,
    watch::PeerWatch,
};
use crate::{
    limits::Limits,
    mcp::mesh::remote::Remotes,
    mesh::{ConfiguredMount, PeerId},
    names::{TenantId, ToolPattern},
    peers::known::KnownPeers,
    registry::Registry,
    reload::accept::Waiting,
    tenant::{Incarnation, home::Homes},
};

/// Mounts of one host that are followed.
pub const MAX_FOLLOWED: usize = 1_024;
/// How long a command waits for what the peers of a mount offer.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// Why a command about mounts failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such tenant, or it is suspended.
    #[error("there is no open tenant `{0}`")]
    NoTenant(TenantId),
    /// The tenant may call nothing there.
    #[error(
        "tenant `{tenant}` may call nothing of {peer}: its operator makes a ticket with `mcpp invite`, and `mcpp join TICKET --tenant {tenant}` redeems it here"
    )]
    NoMember {
        /// The tenant.
        tenant: TenantId,
        /// The peer.
        peer: PeerId,
    },
    /// There is such a mount already.
    #[error("there is a mount `{0}` already; `mcpp unmount {0}` removes it")]
    Exists(MountName),
    /// There is no such mount.
    #[error("there is no mount `{0}`; `mcpp mounts` shows those there are")]
    Unknown(MountName),
    /// A peer is named twice.
    #[error("the peer {0} is named twice")]
    Twice(PeerId),
    /// Nothing of that digest waits.
    #[error("no interface {digest:?} of mount `{mount}` waits to be accepted; look at what waits first")]
    NothingWaits {
        /// The mount.
        mount: MountName,
        /// The digest.
        digest: String,
    },
    /// The host follows as many mounts as it may.
    #[error("this host follows {MAX_FOLLOWED} mounts already")]
    TooMany,
    /// The records are not usable.
    #[error(transparent)]
    File(#[from] MountFileError),
    /// The host is stopping.
    #[error("the host is stopping")]
    Stopping,
}

/// The mounts of all tenants. Clones share them.
#[derive(Debug, Clone)]
pub struct Mounts(Arc<MountsState>);

#[derive(Debug)]
struct MountsState {
    parts: MountParts,
    homes: Homes,
    tenants: Mutex<BTreeMap<TenantId, TenantMounts>>,
    /// Held by the command that changes something.
    changing: tokio::sync::Mutex<()>,
    watches: Mutex<HashMap<(TenantId, PeerId), Weak<PeerWatch>>>,
}

/// The mounts of a tenant that is open.
#[derive(Debug)]
struct TenantMounts {
    incarnation: Incarnation,
    mounts: BTreeMap<MountName, Arc<Mount>>,
}

impl Mounts {
    /// Mounts that are not followed yet. `limits` are those of one call.
    pub fn new(registry: Registry, remotes: Remotes, peers: Arc<KnownPeers>, homes: Homes, limits: Limits) -> Self {
        describe();
        let parts = MountParts { registry, remotes, peers, limits };
        Self(Arc::new(MountsState {
            parts,
            homes,
            tenants: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            watches: Mutex::default(),
        }))
    }

    fn tenants(&self) -> MutexGuard<'_, BTreeMap<TenantId, TenantMounts>> {
        self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the mounts of all open tenants until `stop` fires; before that, keeps the records of `local` in line with what the configuration names.
    pub async fn serve(self, configured: BTreeMap<String, ConfiguredMount>, stop: CancellationToken) {
        let mut changes = self.0.parts.registry.tenant_changes();
        let local = TenantId::local();
        if !configured.is_empty()
            && let Err(error) = self.configure(&local, configured).await
        {
            let error = crate::error::chain(&error);
            tracing::error!(error, "the mounts of the configuration are not made");
        }
        loop {
            changes.mark_unchanged();
            {
                let _one_at_a_time = self.0.changing.lock().await;
                self.keep_up().await;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        stop.cancelled().await;
        self.tenants().clear();
    }

    /// Makes the mounts that the configuration names, and changes their peers and tools to what it names. What was accepted stays accepted, and nothing new is.
    async fn configure(&self, tenant: &TenantId, mounts: BTreeMap<String, ConfiguredMount>) -> Result<(), MountError> {
        let _one_at_a_time = self.0.changing.lock().await;
        // The configuration was checked: its names are legal.
        let named = mounts.into_iter().filter_map(|(name, mount)| Some((name.parse::<MountName>().ok()?, mount)));
        let named: Vec<_> = named.collect();
        // It is opened with the host, and has no other incarnation.
        let file = MountFile::new(&self.0.homes.of(tenant), Incarnation::default());
        let changing = apart(move || {
            file.change(|records| {
                for (name, mount) in named {
                    let peers = mount.all_peers();
                    let fresh = MountRecord {
                        since: SystemTime::now(),
                        peers: Vec::new(),
                        tools: Vec::new(),
                        accepted: BTreeMap::new(),
                    };
                    let record = records.entry(name).or_insert(fresh);
                    (record.peers, record.tools) = (peers, mount.tools);
                }
            })
        });
        changing.await
    }

    /// Begins with the tenants that were opened, and ends with those that were closed.
    async fn keep_up(&self) {
        let registry = &self.0.parts.registry;
        let open = registry.tenants().into_iter().filter_map(|tenant| Some((registry.incarnation(&tenant)?, tenant)));
        let open: Vec<(Incarnation, TenantId)> = open.collect();
        self.tenants().retain(|tenant, known| open.contains(&(known.incarnation.clone(), tenant.clone())));
        for (incarnation, tenant) in open {
            if self.tenants().contains_key(&tenant) {
                continue;
            }
            let file = MountFile::new(&self.0.homes.of(&tenant), incarnation.clone());
            let read = apart(move || file.read()).await;
            let records = read.unwrap_or_else(|error| {
                tracing::error!(%tenant, error = crate::error::chain(&error), "the tenant's mounts are not there");
                BTreeMap::new()
            });
            let known = TenantMounts { incarnation: incarnation.clone(), mounts: BTreeMap::new() };
            self.tenants().insert(tenant.clone(), known);
            for (name, record) in records {
                if let Err(error) = self.begin(&tenant, &incarnation, name.clone(), record) {
                    tracing::error!(%tenant, mount = %name, %error, "the mount is not followed");
                }
            }
        }
        self.count();
    }

    fn begin(
        &self,
        tenant: &TenantId,
        incarnation: &Incarnation,
        name: MountName,
        record: MountRecord,
    ) -> Result<Arc<Mount>, MountError> {
        let share = self.0.parts.registry.share(tenant).ok_or_else(|| MountError::NoTenant(tenant.clone()))?;
        let account = Arc::clone(&share.memory);
        let watches = record.peers.iter().map(|peer| self.watch(tenant, peer, &account)).collect();
        let owner = MountOwner { tenant: tenant.clone(), incarnation: incarnation.clone(), account };
        let mut tenants = self.tenants();
        if tenants.values().map(|known| known.mounts.len()).sum::<usize>() >= MAX_FOLLOWED {
            return Err(MountError::TooMany);
        }
        let known = tenants.get_mut(tenant).filter(|known| known.incarnation == *incarnation);
        let known = known.ok_or_else(|| MountError::NoTenant(tenant.clone()))?;
        let mount = Arc::new(Mount::begin(self.0.parts.clone(), owner, name.clone(), record, watches));
        known.mounts.insert(name, Arc::clone(&mount));
        Ok(mount)
    }

    /// The one watch of a peer for a tenant.
    fn watch(&self, tenant: &TenantId, peer: &PeerId, account: &Arc<crate::memory::Account>) -> Arc<PeerWatch> {
        let mut watches = self.0.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.clone(), peer.clone());
        if let Some(watch) = watches.get(&key).and_then(Weak::upgrade) {
            return watch;
        }
        watches.retain(|_, watch| watch.strong_count() > 0);
        let watch = Arc::new(PeerWatch::begin(self.0.parts.remotes.clone(), peer.clone(), Arc::clone(account)));
        watches.insert(key, Arc::downgrade(&watch));
        watch
    }

    /// Mounts tools of peers, none of which is accepted yet; waits a while for what the peers offer.
    pub async fn mount(
        &self,
        tenant: &TenantId,
        name: MountName,
        peers: Vec<PeerId>,
        tools: Vec<ToolPattern>,
    ) -> Result<MountRow, MountError> {
        let _one_at_a_time = self.0.changing.lock().await;
        let incarnation = self.incarnation(tenant)?;
        for (at, peer) in peers.iter().enumerate() {
            if self.0.parts.peers.membership(tenant, &incarnation, peer).is_none() {
                return Err(MountError::NoMember { tenant: tenant.clone(), peer: peer.clone() });
            }
            if peers.iter().take(at).any(|other| other == peer) {
                return Err(MountError::Twice(peer.clone()));
            }
        }
        // One that this command finds open just now is followed soon, and here already.
        self.keep_up().await;
        let record = MountRecord { peers, tools, since: SystemTime::now(), accepted: BTreeMap::new() };
        let file = MountFile::new(&self.0.homes.of(tenant), incarnation.clone());
        let (kept, new) = (record.clone(), name.clone());
        let added = apart(move || {
            file.change(|mounts| {
                let is_new = !mounts.contains_key(&new);
                if is_new {
                    mounts.insert(new, kept);
                }
                is_new
            })
        });
        if !added.await? {
            return Err(MountError::Exists(name));
        }
        let mount = self.begin(tenant, &incarnation, name, record)?;
        self.count();
        mount.settled(SETTLE_TIME).await;
        Ok(mount.row())
    }

    /// Takes a mount away. Calls that run end by themselves.
    pub async fn unmount(&self, tenant: &TenantId, name: &MountName) -> Result<(), MountError> {
        let _one_at_a_time = self.0.changing.lock().await;
        let incarnation = self.incarnation(tenant)?;
        let file = MountFile::new(&self.0.homes.of(tenant), incarnation);
        let gone = name.clone();
        if apart(move || file.change(|mounts| mounts.remove(&gone).is_none())).await? {
            return Err(MountError::Unknown(name.clone()));
        }
        let mount = self.tenants().get_mut(tenant).and_then(|known| known.mounts.remove(name));
        if let Some(mount) = mount {
            mount.end().await;
        }
        let unmounted = self.0.parts.registry.unmount(tenant, name.as_str());
        self.count();
        unmounted.map_err(|_| MountError::Stopping)
    }

    /// Accepts the interface of this digest, which waits.
    pub async fn accept(&self, tenant: &TenantId, name: &MountName, digest: &str) -> Result<MountRow, MountError> {
        let _one_at_a_time = self.0.changing.lock().await;
        let incarnation = self.incarnation(tenant)?;
        let mount = self.find(tenant, name)?;
        let nothing = || MountError::NothingWaits { mount: name.clone(), digest: digest.chars().take(80).collect() };
        let tools = mount.offered(digest).ok_or_else(nothing)?;
        let file = MountFile::new(&self.0.homes.of(tenant), incarnation);
        let (of, accepted) = (name.clone(), tools.clone());
        let kept = apart(move || {
            file.change(|mounts| {
                let record = mounts.get_mut(&of)?;
                record.accepted.extend(accepted);
                // Those that went long ago make room for those that come.
                (record.accepted.len() <= MAX_MOUNTED_TOOLS).then_some(())
            })
        });
        kept.await?.ok_or(MountError::File(MountFileError::Bounds))?;
        mount.accept(&tools);
        mount.settled(SETTLE_TIME).await;
        Ok(mount.row())
    }

    /// The mounts of a tenant.
    pub fn rows(&self, tenant: &TenantId) -> Vec<MountRow> {
        self.all(tenant).iter().map(|mount| mount.row()).collect()
    }

    /// What waits to be accepted in a tenant's mounts.
    pub fn waiting(&self, tenant: &TenantId) -> Vec<Waiting> {
        self.all(tenant).iter().flat_map(|mount| mount.waiting()).collect()
    }

    fn all(&self, tenant: &TenantId) -> Vec<Arc<Mount>> {
        self.tenants().get(tenant).map(|known| known.mounts.values().cloned().collect()).unwrap_or_default()
    }

    fn find(&self, tenant: &TenantId, name: &MountName) -> Result<Arc<Mount>, MountError> {
        let tenants = self.tenants();
        let mount = tenants.get(tenant).and_then(|known| known.mounts.get(name));
        mount.cloned().ok_or_else(|| MountError::Unknown(name.clone()))
    }

    fn incarnation(&self, tenant: &TenantId) -> Result<Incarnation, MountError> {
        self.0.parts.registry.incarnation(tenant).ok_or_else(|| MountError::NoTenant(tenant.clone()))
    }

    fn count(&self) {
        let mounts: usize = self.tenants().values().map(|known| known.mounts.len()).sum();
        metrics::gauge!("mcpp_mounts").set(f64::from(u32::try_from(mounts).unwrap_or(u32::MAX)));
    }
}

fn describe() {
    use metrics::{describe_counter, describe_gauge};
    describe_gauge!("mcpp_mounts", "Mounts of tools of other hosts, of all tenants");
    describe_counter!(
        "mcpp_mount_calls_elsewhere_total",
        "Refusals of peers to take a call of a mounted tool, by reason; the call goes to another peer if there is one"
    );
}

/// Reads and writes files, not on a thread of the doors.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MountFileError> + Send + 'static,
) -> Result<T, MountError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| MountError::Stopping)??)
}
