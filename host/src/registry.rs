//! The one way to a tool: each tenant's catalog of live revisions, and [`Registry::call`], where every door ends.
//!
//! A catalog is an immutable value behind one pointer; a swap replaces the pointer. A call takes the tool from the catalog it sees and runs on that revision to its
//! end, whatever is swapped meanwhile. A name belongs to one component until that component gives it up.

mod batches;
mod builds;
mod calls;
pub mod catalog;
pub mod changes;
mod deferred;
mod deliver;
mod endowment;
pub mod error;
pub mod gate;
pub mod hooks;
pub mod lists;
mod offer;
mod opening;
pub mod pins;
mod presence;
pub mod primitives;
pub mod rate;
mod relist;
pub mod remote;
pub mod request;
mod template;
pub mod tool;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::{
    catalog::{Catalog, Problem, Revision, mounted::MountedTools},
    changes::{ResourceChanges, ResourceListener},
    error::InstallError,
    pins::Pins,
    rate::Rate,
    tool::Tool,
};
use crate::{
    call::{build::BuildId, hook::HookTokens},
    capability::{container::ContainerEngine, http::Outbound, mesh::handle::GuestMesh, state::MakeRoom},
    control::admission::{Admission, Share},
    engine::Engine,
    events::subscriptions::Subscriptions,
    grants::ledger::Ledger,
    guest::{component::Origin, kept::Keeper},
    limits::TenantLimits,
    memory::HostMemory,
    names::TenantId,
    permits::TenantPermits,
    store::Store,
    telemetry::known::TenantTelemetry,
    tenant::Incarnation,
};

/// Deliveries of events and timers at once, of the whole host; more wait, each in its tenant's line.
const MAX_DELIVERIES: usize = 32;

/// All tenants' catalogs, and the engine on which their tools run. Clones share both.
#[derive(Debug, Clone)]
pub struct Registry(Arc<RegistryState>);

#[derive(Debug)]
struct RegistryState {
    engine: Engine,
    admission: Admission,
    store: Arc<dyn Store>,
    subscriptions: Arc<Subscriptions>,
    outbound: Arc<Outbound>,
    /// The host's own tools, for tenants that have use for them.
    host_tools: OnceLock<Vec<Arc<Tool>>>,
    /// The mesh for guests, whose owner has this registry.
    mesh: OnceLock<Weak<dyn GuestMesh>>,
    /// The container engine, if this host has one.
    containers: OnceLock<ContainerEngine>,
    /// The tokens of hooks, if they are open.
    hooks: OnceLock<Arc<HookTokens>>,
    ledger: Arc<Ledger>,
    keeper: Keeper,
    /// The same, as guests know it.
    resting: Arc<dyn MakeRoom>,
    deliveries: TenantPermits,
    memory: Arc<HostMemory>,
    tenants: ArcSwap<BTreeMap<TenantId, Arc<TenantCatalog>>>,
    /// Counts openings and closings of tenants.
    tenants_changed: watch::Sender<u64>,
    /// Whether the host has loaded what it has to before it takes work.
    ready: AtomicBool,
    /// The host's notice to clients.
    notice: ArcSwapOption<String>,
    calls: tokio_util::task::TaskTracker,
    /// Fires when the host begins to stop.
    stopping: CancellationToken,
}

/// A registry, as long as somebody else has it.
#[derive(Debug, Clone)]
pub struct WeakRegistry(Weak<RegistryState>);

impl WeakRegistry {
    /// The registry, if it is still there.
    pub fn upgrade(&self) -> Option<Registry> {
        self.0.upgrade().map(Registry)
    }
}

/// How often each list of a tenant has changed as clients see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Generations {
    /// The list of tools.
    pub tools: u64,
    /// The lists of resources and templates.
    pub resources: u64,
    /// The list of prompts.
    pub prompts: u64,
}

/// One tenant that is open: its catalog, and its share of the host.
#[derive(Debug)]
struct TenantCatalog {
    share: ArcSwap<Share>,
    telemetry: TenantTelemetry,
    rate: Rate,
    catalog: ArcSwap<Catalog>,
    changed: watch::Sender<Generations>,
    /// Who is told when a resource changes.
    resources: Arc<ResourceChanges>,
    swapping: Mutex<()>,
    /// Which of the tenants that ever had this name it is.
    incarnation: Incarnation,
    /// Whether everything of it was looked at since it was opened.
    opened: watch::Sender<bool>,
    /// Calls that wait for a tool that may still be loaded.
    early: Arc<Semaphore>,
    /// Where builds are kept that somebody needs after others have taken their place.
    pins: OnceLock<Arc<Pins>>,
    /// Fires when the tenant is removed: nothing of it runs on.
    gone: CancellationToken,
}

impl Registry {
    /// A registry without tenants.
    pub fn new(
        engine: Engine,
        admission: Admission,
        store: Arc<dyn Store>,
        subscriptions: Arc<Subscriptions>,
        outbound: Arc<Outbound>,
        keeper: Keeper,
        memory: Arc<HostMemory>,
    ) -> Self {
        let calls = tokio_util::task::TaskTracker::new();
        Self(Arc::new(RegistryState {
            engine,
            admission,
            store,
            subscriptions,
            outbound,
            host_tools: OnceLock::new(),
            mesh: OnceLock::new(),
            containers: OnceLock::new(),
            hooks: OnceLock::new(),
            ledger: Arc::default(),
            resting: Arc::new(keeper.clone()),
            keeper,
            deliveries: TenantPermits::new(MAX_DELIVERIES),
            memory,
            tenants: ArcSwap::default(),
            tenants_changed: watch::Sender::new(0),
            ready: AtomicBool::new(false),
            notice: ArcSwapOption::empty(),
            calls,
            stopping: CancellationToken::new(),
        }))
    }

    /// Opens a tenant with an empty catalog, or gives one that is open other limits.
    pub fn open(&self, id: &TenantId, incarnation: &Incarnation, limits: TenantLimits) {
        if let Some(tenant) = self.tenant(id) {
            if tenant.share.load().limits != limits {
                let memory = Arc::clone(&tenant.share.load().memory);
                memory.set_limits(limits.memory());
                tenant.share.store(Share::new(id.clone(), limits, memory));
                tenant.rate.set(limits.calls_per_minute);
                tenant.telemetry.set_limits(&limits);
            }
            return;
        }
        let tenant = Arc::new(TenantCatalog {
            share: ArcSwap::from(Share::new(id.clone(), limits, self.0.memory.account(limits.memory()))),
            telemetry: TenantTelemetry::open(id, &limits),
            rate: Rate::new(limits.calls_per_minute),
            catalog: ArcSwap::from_pointee(Catalog::default()),
            changed: watch::Sender::default(),
            resources: Arc::default(),
            swapping: Mutex::new(()),
            incarnation: incarnation.clone(),
            opened: watch::Sender::new(false),
            early: Arc::new(Semaphore::new(opening::MAX_EARLY_CALLS)),
            pins: OnceLock::new(),
            gone: CancellationToken::new(),
        });
        self.0.store.readmit(id);
        self.0.subscriptions.open(id);
        self.change_tenants(|tenants| drop(tenants.insert(id.clone(), Arc::clone(&tenant))));
    }

    /// Closes a tenant: its principals find no tool any more. Calls that run end by themselves.
    pub fn close(&self, id: &TenantId) {
        self.change_tenants(|tenants| drop(tenants.remove(id)));
    }

    fn change_tenants(&self, change: impl Fn(&mut BTreeMap<TenantId, Arc<TenantCatalog>>)) {
        self.0.tenants.rcu(|tenants| {
            let mut next = BTreeMap::clone(tenants);
            change(&mut next);
            next
        });
        let shared = self.0.tenants.load().len() > 1;
        self.0.admission.set_shared(shared);
        self.0.outbound.set_shared(shared);
        if let Some(engine) = self.0.containers.get() {
            engine.set_shared(shared);
        }
        self.0.deliveries.set_shared(shared);
        self.0.tenants_changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Tells when a tenant was opened or closed.
    pub fn tenant_changes(&self) -> watch::Receiver<u64> {
        self.0.tenants_changed.subscribe()
    }

    /// The tenants that are open.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.0.tenants.load().keys().cloned().collect()
    }

    fn tenant(&self, id: &TenantId) -> Option<Arc<TenantCatalog>> {
        self.0.tenants.load().get(id).cloned()
    }

    /// A tenant's share of the host; none if it is not open.
    pub fn share(&self, tenant: &TenantId) -> Option<Arc<Share>> {
        self.tenant(tenant).map(|tenant| tenant.share.load_full())
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The store in which components keep their data.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// Components' uses of their grants, and their denials.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }

    /// The topics to which components are subscribed.
    pub fn subscriptions(&self) -> &Arc<Subscriptions> {
        &self.0.subscriptions
    }

    /// The host's memory for what it does for others.
    pub fn memory(&self) -> &Arc<HostMemory> {
        &self.0.memory
    }

    /// The places for instances.
    pub fn admission(&self) -> &Admission {
        &self.0.admission
    }

    /// The present catalog of `tenant`; empty for a tenant that this host does not know.
    pub fn catalog(&self, tenant: &TenantId) -> Arc<Catalog> {
        self.0.tenants.load().get(tenant).map(|tenant| tenant.catalog.load_full()).unwrap_or_default()
    }

    /// Tells when a list of `tenant` has changed as clients see it.
    pub fn watch(&self, tenant: &TenantId) -> watch::Receiver<Generations> {
        match self.tenant(tenant) {
            Some(tenant) => tenant.changed.subscribe(),
            None => watch::channel(Generations::default()).1,
        }
    }

    /// A listener for changes of the resources of `tenant`; none if it is not open.
    pub fn listener(&self, tenant: &TenantId) -> Option<Arc<ResourceListener>> {
        self.tenant(tenant).map(|tenant| tenant.resources.listener())
    }

    /// Makes `revision` the live one of its component, if `may_serve` says so while nothing else can change. Fails, and changes nothing, if it would take another
    /// component's names or the tenant has too many.
    pub fn install_if<E: From<InstallError>>(
        &self,
        tenant: &TenantId,
        revision: Revision,
        may_serve: impl FnOnce(&Revision) -> Result<(), E>,
    ) -> Result<(), E> {
        let most = self.share(tenant).ok_or(InstallError::Stopping)?.limits.components;
        let changing = revision.primitives.clone().filter(|service| service.tells_changes);
        self.swap::<E>(tenant, |catalog| {
            if let Origin::File(_) = revision.origin {
                catalog.check_room(revision.name.as_str(), most)?;
            }
            may_serve(&revision)?;
            Ok(catalog.with(revision)?)
        })?;
        // At its load it had no power to look at what it has.
        if let Some(service) = changing {
            self.relist(tenant, service);
        }
        Ok(())
    }

    /// Takes a component away; its running calls end on their revision.
    pub fn remove(&self, tenant: &TenantId, component: &str) -> Result<(), InstallError> {
        self.swap(tenant, |catalog| Ok(catalog.without(component)))
    }

    /// Notes why a component's newest build is not live; the build before it, if any, goes on serving.
    pub fn report(&self, tenant: &TenantId, problem: Problem) -> Result<(), InstallError> {
        self.swap(tenant, |catalog| Ok(catalog.with_problem(problem)))
    }

    /// Puts the tools of a mount in the place of those that it had. Tools of components keep their names.
    pub fn mount(
        &self,
        tenant: &TenantId,
        incarnation: &Incarnation,
        mounted: MountedTools,
    ) -> Result<(), InstallError> {
        if !self.is_open(tenant, incarnation) {
            return Err(InstallError::Stopping);
        }
        self.swap(tenant, |catalog| Ok(catalog.with_mount(mounted)))
    }

    /// Takes the tools of a mount away.
    pub fn unmount(&self, tenant: &TenantId, mount: &str) -> Result<(), InstallError> {
        self.swap(tenant, |catalog| Ok(catalog.without_mount(mount)))
    }

    fn swap<E: From<InstallError>>(
        &self,
        tenant: &TenantId,
        change: impl FnOnce(&Catalog) -> Result<Catalog, E>,
    ) -> Result<(), E> {
        let Some(tenant) = self.tenant(tenant) else { return Err(InstallError::Stopping.into()) };
        let _one_at_a_time = tenant.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tenant.catalog.load_full();
        let is_held = |build: &BuildId| tenant.pins.get().is_some_and(|pins| pins.is_held(build));
        let after = change(&before)?.without_unneeded(is_held);
        let after = after.with_host_tools(self.0.host_tools.get().map_or(&[], Vec::as_slice));
        let (tools, lists) = after.difference(&before);
        tenant.telemetry.set_names(after.names());
        tenant.catalog.store(Arc::new(after));
        if tools || lists.resources || lists.prompts {
            let next = |generation: &mut u64, changed| *generation = generation.wrapping_add(u64::from(changed));
            tenant.changed.send_modify(|generations| {
                next(&mut generations.tools, tools);
                next(&mut generations.resources, lists.resources);
                next(&mut generations.prompts, lists.prompts);
            });
        }
        Ok(())
    }

    /// The way out over HTTP.
    pub fn outbound(&self) -> &Outbound {
        &self.0.outbound
    }

    /// Gives guests a mesh, for as long as somebody keeps it; the first stays.
    pub fn set_guest_mesh(&self, mesh: Weak<dyn GuestMesh>) {
        let _only_once = self.0.mesh.set(mesh);
    }

    /// Gives guests a container engine, before there is a tenant; the first stays.
    pub fn set_containers(&self, engine: ContainerEngine) {
        let _only_once = self.0.containers.set(engine);
    }

    /// The container engine, if there is one.
    pub fn containers(&self) -> Option<&ContainerEngine> {
        self.0.containers.get()
    }

    /// Gives tenants tools of the host itself, from their next change of the catalog on; the first stay.
    pub fn set_host_tools(&self, tools: Vec<Arc<Tool>>) {
        let _only_once = self.0.host_tools.set(tools);
    }

    /// The mesh for guests, if there is one.
    fn guest_mesh(&self) -> Option<Arc<dyn GuestMesh>> {
        self.0.mesh.get().and_then(Weak::upgrade)
    }

    /// The guests that stay.
    pub fn keeper(&self) -> &Keeper {
        &self.0.keeper
    }

    /// Fires when the host begins to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// The same, for what the registry itself owns.
    pub fn downgrade(&self) -> WeakRegistry {
        WeakRegistry(Arc::downgrade(&self.0))
    }

    /// Tells running calls that the host stops. Waits until no call runs any more, or until `patience` is over; whether all ended.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.0.stopping.cancel();
        self.0.calls.close();
        tokio::time::timeout(patience, self.0.calls.wait()).await.is_ok()
    }

    /// Calls that run or queue now.
    pub fn calls(&self) -> usize {
        self.0.calls.len()
    }
}
