//! The one way to a tool: each tenant's catalog of live revisions, and [`Registry::call`], where every door ends.
//!
//! A catalog is an immutable value behind one pointer; a swap replaces the pointer. A call takes the tool from the catalog it sees and runs on that revision to its
//! end, whatever is swapped meanwhile. A name belongs to one component until that component gives it up.

pub mod catalog;
mod deliver;
mod endowment;
pub mod error;
pub mod gate;
mod offer;
mod opening;
mod presence;
pub mod rate;
pub mod schema;
pub mod tool;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::future::BoxFuture;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    catalog::{Catalog, Problem, Revision},
    error::InstallError,
    gate::Pass,
    rate::Rate,
    tool::{STEPS_PER_MS, Tool},
};
use crate::{
    call::{Budget, Call, CallError, Cost, Dispatch, Receipt, ToolResult},
    capability::{
        http::Outbound,
        state::{MakeRoom, Running},
    },
    control::{
        Control,
        admission::{Admission, Share},
        apart::apart,
    },
    engine::Engine,
    events::subscriptions::Subscriptions,
    grants::ledger::Ledger,
    guest::{component::Origin, instance, kept::Keeper},
    limits::TenantLimits,
    memory::HostMemory,
    names::TenantId,
    permits::TenantPermits,
    store::Store,
    telemetry::{known::TenantTelemetry, meters::CallMeters},
    tenant::{Authorized, Incarnation},
};

/// Steps of a check that are done where the call came in: less than a millisecond.
const STEPS_AT_THE_DOOR: u64 = STEPS_PER_MS;
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
    ledger: Arc<Ledger>,
    keeper: Keeper,
    /// The same, as guests know it.
    resting: Arc<dyn MakeRoom>,
    deliveries: TenantPermits,
    memory: Arc<HostMemory>,
    tenants: ArcSwap<BTreeMap<TenantId, Arc<TenantCatalog>>>,
    /// Whether the host has loaded what it has to before it takes work.
    ready: AtomicBool,
    /// The host's notice to clients.
    notice: ArcSwapOption<String>,
    calls: tokio_util::task::TaskTracker,
}

/// One tenant that is open: its catalog, and its share of the host.
#[derive(Debug)]
struct TenantCatalog {
    share: ArcSwap<Share>,
    telemetry: TenantTelemetry,
    rate: Rate,
    catalog: ArcSwap<Catalog>,
    changed: watch::Sender<u64>,
    swapping: Mutex<()>,
    /// Which of the tenants that ever had this name it is.
    incarnation: Incarnation,
    /// Whether everything of it was looked at since it was opened.
    opened: watch::Sender<bool>,
    /// Calls that wait for a tool that may still be loaded.
    early: Arc<Semaphore>,
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
            ledger: Arc::default(),
            resting: Arc::new(keeper.clone()),
            keeper,
            deliveries: TenantPermits::new(MAX_DELIVERIES),
            memory,
            tenants: ArcSwap::default(),
            ready: AtomicBool::new(false),
            notice: ArcSwapOption::empty(),
            calls,
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
            changed: watch::Sender::new(0),
            swapping: Mutex::new(()),
            incarnation: incarnation.clone(),
            opened: watch::Sender::new(false),
            early: Arc::new(Semaphore::new(opening::MAX_EARLY_CALLS)),
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
        self.0.deliveries.set_shared(shared);
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

    /// Tells when the tools of `tenant` have changed as clients see them. The number is the catalog's generation.
    pub fn watch(&self, tenant: &TenantId) -> watch::Receiver<u64> {
        match self.tenant(tenant) {
            Some(tenant) => tenant.changed.subscribe(),
            None => watch::channel(0).1,
        }
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
        self.swap(tenant, |catalog| {
            if let Origin::File(_) = revision.origin {
                catalog.check_room(revision.name.as_str(), most)?;
            }
            may_serve(&revision)?;
            Ok(catalog.with(revision)?)
        })
    }

    /// Takes a component away; its running calls end on their revision.
    pub fn remove(&self, tenant: &TenantId, component: &str) -> Result<(), InstallError> {
        self.swap(tenant, |catalog| Ok(catalog.without(component)))
    }

    /// Notes why a component's newest build is not live; the build before it, if any, goes on serving.
    pub fn report(&self, tenant: &TenantId, problem: Problem) -> Result<(), InstallError> {
        self.swap(tenant, |catalog| Ok(catalog.with_problem(problem)))
    }

    fn swap<E: From<InstallError>>(
        &self,
        tenant: &TenantId,
        change: impl FnOnce(&Catalog) -> Result<Catalog, E>,
    ) -> Result<(), E> {
        let Some(tenant) = self.tenant(tenant) else { return Err(InstallError::Stopping.into()) };
        let _one_at_a_time = tenant.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tenant.catalog.load_full();
        let after = change(&before)?;
        let visible = !after.lists_the_same(&before);
        tenant.telemetry.set_names(after.names());
        tenant.catalog.store(Arc::new(after));
        if visible {
            tenant.changed.send_modify(|generation| *generation = generation.wrapping_add(1));
        }
        Ok(())
    }

    /// Runs a call to its end: finds the tool, checks the arguments, waits for a place, runs, checks the result.
    pub async fn call(&self, call: Authorized<Call>) -> Result<ToolResult, CallError> {
        self.call_metered(call).await.0
    }

    /// As [`Registry::call`], with what the call cost.
    pub async fn call_metered(&self, call: Authorized<Call>) -> (Result<ToolResult, CallError>, Receipt) {
        let call = call.into_inner();
        let (tool, _pass) = match self.enter(&call).await {
            Ok(entered) => entered,
            Err(error) => return (Err(error), Receipt::default()),
        };
        let tenant = call.principal.tenant.clone();
        let started = Instant::now();
        let _counted = self.0.calls.token();
        let (result, cost) = self.run_while_there(&tool, call).await;
        let receipt = Receipt { duration: started.elapsed(), cost };
        tool.meters.get_or_init(|| CallMeters::new(&tenant, &tool.name)).call_ended(result.as_ref(), receipt);
        (result, receipt)
    }

    /// The tool and the pass through its revision's gate; waits while the component's data is migrated.
    async fn enter(&self, call: &Call) -> Result<(Arc<Tool>, Pass), CallError> {
        // A call of what is not there counts too.
        if let Some(tenant) = self.tenant(&call.principal.tenant) {
            tenant.rate.take("tenant")?;
        }
        let early = Instant::now() + opening::EARLY_CALL_WAIT;
        loop {
            let found = self.catalog(&call.principal.tenant).tool(&call.tool);
            let Some(tool) = found.filter(|_| call.principal.may_use(&call.tool)) else {
                self.wait_for_tools(call, call.deadline.map_or(early, |callers| callers.min(early))).await?;
                continue;
            };
            if let Some(pass) = tool.powers.gate.enter(call.depth > 0) {
                return Ok((tool, pass));
            }
            let own = Instant::now() + Duration::from_millis(tool.limits.deadline_ms);
            tokio::select! {
                () = tool.powers.gate.opened() => {}
                () = call.cancel.cancelled() => return Err(CallError::Cancelled),
                () = tokio::time::sleep_until(call.deadline.map_or(own, |callers| callers.min(own))) => {
                    return Err(CallError::BudgetExceeded { budget: Budget::Deadline, limit: tool.limits.deadline_ms });
                }
            }
        }
    }

    async fn run(&self, tool: &Arc<Tool>, mut call: Call) -> (Result<ToolResult, CallError>, Cost) {
        let nothing = |error| (Err(error), Cost::default());
        let steps = match tool.steps_of_arguments(&call.arguments) {
            Ok(steps) => steps,
            Err(error) => return nothing(error),
        };
        let is_short = steps.whether <= STEPS_AT_THE_DOOR;
        if is_short && let Err(error) = tool.check_arguments(&call.arguments) {
            return nothing(error);
        }
        let (control, weight) = match self.admit(tool, &call).await {
            Ok(control) => (control, &tool.weight),
            Err(error) => return nothing(error),
        };
        if !is_short {
            let (checking, arguments) = (Arc::clone(tool), std::mem::take(&mut call.arguments));
            let check = move || checking.check_arguments(&arguments).map(|()| arguments);
            match apart(&self.0.engine, &control, check).await.and_then(|(checked, _)| checked) {
                Ok(arguments) => call.arguments = arguments,
                Err(error) => return (Err(error), control.cost(0)),
            }
        }
        // A long check means that the arguments are also long to make into values.
        if weight.is_heavy() || control.is_crowded() || !is_short {
            control.note_slice();
        }
        let cause = format!("tool {} by {}", tool.name, call.principal.subject);
        let keeping = self.keeping(tool, &call.principal.tenant);
        let running = Running {
            trace: call.trace,
            observer: call.observer,
            depth: call.depth,
            chain: call.chain,
            session: call.session,
            ..self.running(&tool.powers, call.principal, tool.name.as_str().into(), cause.into())
        };
        let (target, shared) = (tool.target.clone(), Arc::clone(&control));
        let (result, mut cost) = instance::call(&self.0.engine, target, call.arguments, running, keeping, shared).await;
        weight.note(cost.processor_time);
        let result = match result {
            Ok(result) => self.check_result(tool, &control, result, &mut cost).await,
            Err(error) => Err(error),
        };
        (result, cost)
    }

    /// Holds a result to the output schema; where guests run if that may take long.
    async fn check_result(
        &self,
        tool: &Arc<Tool>,
        control: &Control,
        result: ToolResult,
        cost: &mut Cost,
    ) -> Result<ToolResult, CallError> {
        let steps = tool.steps_of_result(&result)?;
        if steps.is_none_or(|steps| steps.whether <= STEPS_AT_THE_DOOR) {
            return tool.check_result(result);
        }
        let checking = Arc::clone(tool);
        let (checked, took) = apart(&self.0.engine, control, move || checking.check_result(result)).await?;
        cost.processor_time = cost.processor_time.saturating_add(took);
        checked
    }

    /// Counts a call against the rates, and waits for a place.
    async fn admit(&self, tool: &Tool, call: &Call) -> Result<Arc<Control>, CallError> {
        let own = Instant::now() + Duration::from_millis(tool.limits.deadline_ms);
        let deadline = call.deadline.map_or(own, |callers| callers.min(own));
        let unknown = || CallError::UnknownTool(call.tool.clone());
        let tenant = self.tenant(&call.principal.tenant).ok_or_else(unknown)?;
        tool.rate.take("tool")?;
        let share = tenant.share.load_full();
        let slot = self.0.admission.admit(&share, &tool.places, tool.concurrency(), deadline, &call.cancel).await?;
        Ok(Control::new(tool.limits, deadline, call.cancel.clone(), slot))
    }

    /// The way out over HTTP.
    pub fn outbound(&self) -> &Outbound {
        &self.0.outbound
    }

    /// The guests that stay.
    pub fn keeper(&self) -> &Keeper {
        &self.0.keeper
    }

    /// Waits until no call runs any more, or until `patience` is over; whether all ended.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.0.calls.close();
        tokio::time::timeout(patience, self.0.calls.wait()).await.is_ok()
    }

    /// Calls that run or queue now.
    pub fn calls(&self) -> usize {
        self.0.calls.len()
    }
}

impl Dispatch for Registry {
    fn dispatch(&self, call: Authorized<Call>) -> BoxFuture<'_, Result<ToolResult, CallError>> {
        Box::pin(self.call(call))
    }
}
