//! The state of a running host, as an operator reads it: gathered here, whatever carries it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    capability::{self, Access, Capability},
    config::Config,
    engine::EngineConfig,
    events::parked::{self, StoppedLoop},
    grants::ComponentGrant,
    guest::component::Origin,
    limits::Reuse,
    memory::MemoryUse,
    mounts::rows::MountRow,
    names::TenantId,
    registry::{Registry, catalog::Revision},
    reload::LoadsNow,
    store::Space,
    tenants::Tenants,
};

/// The state of a running host, for an operator.
#[derive(Debug, Serialize, Deserialize)]
pub struct Info {
    /// The program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// The MCP endpoint, or `stdio` for a host without one.
    pub url: String,
    /// Legacy sessions.
    pub sessions: usize,
    /// Calls that run or queue.
    pub calls: usize,
    /// Instances that run, wait, and calls that queue for one.
    pub instances: Instances,
    /// How many there may be.
    pub engine: EngineConfig,
    /// The host's memory for what it does for others.
    pub memory: Vec<PoolInfo>,
    /// The default limits of one call.
    pub limits: serde_json::Value,
    /// The tenant whose components these are.
    pub tenant: TenantInfo,
    /// Live components.
    pub components: Vec<ComponentInfo>,
    /// Mounts of tools of other hosts.
    #[serde(default)]
    pub mounts: Vec<MountRow>,
    /// Components whose newest build is not live, mounts of which some tools are not there, and live components whose lists change in a loop.
    pub problems: Vec<ProblemInfo>,
    /// Loads of the tenant that go on now; none if the tenant is not open.
    #[serde(default)]
    pub loads: Option<LoadsNow>,
    /// The tenants of which not everything was looked at since they were opened.
    #[serde(default)]
    pub opening: Vec<TenantId>,
}

/// Instances now.
#[derive(Debug, Serialize, Deserialize)]
pub struct Instances {
    /// That compute.
    pub running: usize,
    /// That wait.
    pub waiting: usize,
    /// Calls that queue.
    pub queued: usize,
    /// That stay after a call, for their resources or for reuse.
    pub kept: usize,
}

/// One tenant.
#[derive(Debug, Serialize, Deserialize)]
pub struct TenantInfo {
    /// Its name.
    pub name: TenantId,
    /// Whether it is open: not suspended.
    pub open: bool,
    /// Its limits.
    pub limits: serde_json::Value,
    /// Its instances, and its calls that queue.
    pub instances: Instances,
    /// The tenant's part of the host's memory.
    pub memory: Vec<PoolInfo>,
}

/// Memory for one use.
#[derive(Debug, Serialize, Deserialize)]
pub struct PoolInfo {
    /// The use, by the name of its bound.
    pub pool: String,
    /// Bytes that are used.
    pub used_bytes: u64,
    /// How many may be.
    pub bound_bytes: u64,
}

/// One live component.
#[derive(Debug, Serialize, Deserialize)]
pub struct ComponentInfo {
    /// Its name.
    pub name: String,
    /// Which build.
    pub digest: String,
    /// Its size, in bytes.
    pub bytes: usize,
    /// Where it is from.
    pub origin: String,
    /// Its tools, each with its limits in force.
    pub tools: Vec<ToolInfo>,
    /// The capabilities and folders that the grant gives to the component.
    pub granted: Vec<String>,
    /// Its store; none if it has no grant for one.
    pub store: Option<StoreInfo>,
    /// The topics of which it is told.
    pub topics: Vec<String>,
    /// Notes for the component's author.
    pub notes: Vec<String>,
    /// Its builds that components have pinned.
    #[serde(default)]
    pub pinned: Vec<PinnedInfo>,
}

/// One pinned build.
#[derive(Debug, Serialize, Deserialize)]
pub struct PinnedInfo {
    /// Which build.
    pub digest: String,
    /// Whether it is the live one.
    pub live: bool,
    /// Whether it is there, live or not.
    pub loaded: bool,
    /// The components that have pinned it.
    pub by: Vec<String>,
}

/// One component's store.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoreInfo {
    /// Bytes of keys and values; none if the store cannot be read now.
    pub used_bytes: Option<u64>,
    /// How many there may be.
    pub quota_bytes: u64,
    /// The format of its data.
    pub format: u32,
}

/// One tool.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToolInfo {
    /// Its name.
    pub name: String,
    /// Its limits in force.
    pub limits: serde_json::Value,
    /// How its instances are used again; none if they are not.
    pub reuse: Option<Reuse>,
}

/// One component whose newest build is not live, or whose lists change in a loop.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProblemInfo {
    /// The component.
    pub component: String,
    /// Where the build is.
    pub origin: String,
    /// The error.
    pub error: String,
    /// Whether an older build goes on serving.
    pub old_build_serves: bool,
    /// Whether the build itself is live: the problem is what it does.
    #[serde(default)]
    pub is_live: bool,
}

impl Info {
    /// Gathers the state, with the components of one tenant. `url` is where the host serves, with `sessions` legacy sessions.
    pub async fn of(config: &Config, tenants: &Tenants, tenant: TenantId, url: String, sessions: usize) -> Self {
        let registry = tenants.registry();
        let catalog = registry.catalog(&tenant);
        let admission = registry.admission();
        let kept = registry.keeper().count();
        let problems = catalog.problems().map(|problem| ProblemInfo {
            component: problem.component.clone(),
            origin: origin(&problem.origin),
            error: problem.error.clone(),
            old_build_serves: catalog.component(&problem.component).is_some(),
            is_live: false,
        });
        let problems = problems.chain(catalog.components().filter_map(listing_problem));
        let host = registry.memory();
        Info {
            loads: tenants.reloader().now(&tenant).await,
            opening: tenants.opening(),
            components: components(registry, &tenant).await,
            tenant: tenant_info(registry, tenant, &kept),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            url,
            sessions,
            calls: registry.calls(),
            instances: Instances {
                running: admission.running(),
                waiting: admission.waiting(),
                queued: admission.queued(),
                kept: kept.values().sum(),
            },
            engine: config.engine.clone(),
            memory: pools(|of| (host.used(of), host.bound(of))),
            limits: json(&config.limits()),
            problems: problems.collect(),
            mounts: Vec::new(),
        }
    }
}

fn tenant_info(registry: &Registry, name: TenantId, kept: &BTreeMap<TenantId, usize>) -> TenantInfo {
    let (running, waiting, queued) = registry.admission().of(&name);
    let share = registry.share(&name);
    let memory = share.as_ref().map(|share| pools(|of| (share.memory.used(of), share.memory.limit(of))));
    TenantInfo {
        open: share.is_some(),
        limits: share.map(|share| json(&share.limits)).unwrap_or_default(),
        instances: Instances { running, waiting, queued, kept: kept.get(&name).copied().unwrap_or_default() },
        memory: memory.unwrap_or_default(),
        name,
    }
}

fn pools(of: impl Fn(MemoryUse) -> (u64, u64)) -> Vec<PoolInfo> {
    let pool = |pool: MemoryUse| {
        let (used_bytes, bound_bytes) = of(pool);
        PoolInfo { pool: pool.to_string(), used_bytes, bound_bytes }
    };
    MemoryUse::ALL.map(pool).into()
}

/// The problem of a live component whose lists change in a loop.
fn listing_problem(revision: &Arc<Revision>) -> Option<ProblemInfo> {
    let error = revision.primitives.as_ref()?.listing_problem()?;
    let (component, origin) = (revision.name.to_string(), origin(&revision.origin));
    Some(ProblemInfo { component, origin, error, old_build_serves: false, is_live: true })
}

/// A tenant's live components.
async fn components(registry: &Registry, tenant: &TenantId) -> Vec<ComponentInfo> {
    let catalog = registry.catalog(tenant);
    let loops = parked::loops(&**registry.store(), tenant).await.unwrap_or_default();
    let mut components = Vec::new();
    let pins = registry.pins(tenant);
    for revision in catalog.components() {
        let pinned = pins.iter().flat_map(|pins| pins.of(revision.name.as_str()));
        let pinned = pinned.map(|(build, by)| PinnedInfo {
            live: build.digest == revision.digest,
            loaded: catalog.has_build(&build),
            digest: build.digest,
            by,
        });
        let own = loops.iter().filter(|stopped| stopped.from == revision.name);
        let notes = own.map(|StoppedLoop { to, topic, .. }| {
            format!("a loop of events was stopped: {to} is told of `{topic}` again and again (`mcpp events` shows what is parked)")
        });
        let notes = revision.notes.iter().cloned().chain(notes).collect();
        let tools = revision.tools.iter();
        components.push(ComponentInfo {
            pinned: pinned.collect(),
            granted: granted(&revision.grant),
            store: store_info(registry, tenant, revision).await,
            topics: revision.topics.iter().map(ToString::to_string).collect(),
            name: revision.name.to_string(),
            digest: revision.digest.clone(),
            bytes: revision.bytes,
            origin: origin(&revision.origin),
            tools: tools
                .map(|tool| ToolInfo {
                    name: tool.name.to_string(),
                    limits: json(&tool.service.limits),
                    reuse: tool.reuse,
                })
                .collect(),
            notes,
        });
    }
    components
}

async fn store_info(registry: &Registry, tenant: &TenantId, revision: &Revision) -> Option<StoreInfo> {
    let quota_bytes = revision.powers.quota_bytes?;
    let space = Space { tenant: tenant.clone(), component: revision.name.clone() };
    let used_bytes = registry.store().used_bytes(&space).await.ok();
    Some(StoreInfo { used_bytes, quota_bytes, format: revision.format() })
}

/// The capabilities and folders of a grant, in words.
fn granted(grant: &ComponentGrant) -> Vec<String> {
    let given = |capability: &&Capability| matches!(capability.access, Access::Granted { given, .. } if given(grant));
    let capabilities = capability::TABLE.iter().filter(given).map(|capability| capability.name.to_owned());
    let folders = grant.files.iter().map(|folder| format!("files {} ({})", folder.path.display(), folder.mode));
    capabilities.chain(folders).collect()
}

fn origin(origin: &Origin) -> String {
    match origin {
        Origin::BuiltIn => "built in".into(),
        Origin::File(path) => path.display().to_string(),
        Origin::Mount => "other hosts".into(),
    }
}

fn json(limits: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(limits).unwrap_or_default()
}
