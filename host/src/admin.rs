//! The operator's door: a Unix socket in the data directory, open to the user who runs the host and to nobody else.
//!
//! Operators' acts (reloads, parked deliveries, backups) and views (problems, limits) are only here; no tool and no network client reaches them.

pub mod data;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::{
    capability::{self, Access, Capability},
    config::Config,
    engine::EngineConfig,
    events::parked::{self, StoppedLoop},
    grants::{ComponentGrant, ledger::Notes},
    guest::component::Origin,
    limits::Reuse,
    mcp::{Endpoint, http::HttpDoor},
    memory::MemoryUse,
    names::{ComponentName, TenantId},
    registry::{Registry, catalog::Revision},
    reload::LoadsNow,
    store::{Space, embedded::EmbeddedStore},
    tenants::Tenants,
};

/// The socket's name in the data directory.
pub const SOCKET: &str = "mcpp.sock";

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
    /// Components whose newest build is not live.
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

/// A component's uses of its grant, and its denials.
#[derive(Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Why its newest build is not live.
    pub problem: Option<String>,
    /// Uses of the grant by the component's calls, and their denials, since the host started.
    pub notes: Notes,
}

/// A build to accept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// The component.
    pub component: String,
    /// The build that was looked at, by its digest.
    pub digest: String,
}

/// A tenant to remove.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Which.
    pub tenant: TenantId,
    /// A folder to make, for what it had.
    pub export: Option<PathBuf>,
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

/// One component whose newest build is not live.
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
}

/// The operator's door of one host.
#[derive(Debug)]
pub struct AdminDoor(Arc<Operated>);

/// The state that the operator's commands reach.
#[derive(Debug)]
pub struct Operated {
    /// The configuration in force.
    pub config: Config,
    /// Where the host listens.
    pub address: SocketAddr,
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// Its tenants.
    pub tenants: Arc<Tenants>,
    /// Its HTTP door.
    pub http: Arc<HttpDoor>,
    /// Its store.
    pub store: EmbeddedStore,
}

impl AdminDoor {
    /// A door that is not open yet.
    pub fn new(shared: Operated) -> Self {
        Self(Arc::new(shared))
    }

    /// Serves on `socket` until `stop`. A host without it still serves; only `mcpp reload` and `mcpp info` miss it.
    pub async fn serve(self, socket: PathBuf, stop: CancellationToken) {
        let listener = match bind(&socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(socket = %socket.display(), %error, "`mcpp reload` and `mcpp info` will not find this host");
                return;
            }
        };
        let router = Router::new()
            .route("/info", get(info))
            .route("/reload", post(reload))
            .route("/notes/{component}", get(notes))
            .route("/waiting", get(waiting))
            .route("/accept", post(accept))
            .route("/tenants/refresh", post(refresh))
            .route("/tenants/remove", post(remove_tenant))
            .route("/events", get(data::list_events))
            .route("/events/settle", post(data::settle_events))
            .route("/backup", post(data::backup))
            .with_state(self.0);
        let serve = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serve.await {
            tracing::error!(%error, "the operator's door broke");
        }
        let _it_may_be_gone = std::fs::remove_file(&socket);
    }
}

/// A socket that only this user may open. One that a dead host left behind is replaced; a living host's is not.
fn bind(socket: &std::path::Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(std::io::Error::other("another host with this data directory is running"));
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // It is made where nobody else can reach it, and gets its name when it is this user's only.
    let hidden = socket.with_extension("new");
    match std::fs::remove_dir_all(&hidden) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    crate::files::new_folder(&hidden)?;
    let unnamed = hidden.join("s");
    let listener = UnixListener::bind(&unnamed)?;
    std::fs::set_permissions(&unnamed, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&unnamed, socket)?;
    std::fs::remove_dir(&hidden)?;
    Ok(listener)
}

/// Of which tenant something is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Of {
    /// The tenant.
    pub tenant: TenantId,
}

/// The answer to a command.
fn answer<T: Serialize>(result: Result<T, impl std::error::Error + 'static>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, crate::error::chain(&error)).into_response(),
    }
}

async fn reload(State(shared): State<Arc<Operated>>) -> Response {
    answer(shared.tenants.reload_all().await)
}

async fn notes(
    State(shared): State<Arc<Operated>>,
    UrlPath(component): UrlPath<String>,
    Query(Of { tenant }): Query<Of>,
) -> Response {
    let registry = shared.endpoint.registry();
    let catalog = registry.catalog(&tenant);
    let problem = catalog.problems().find(|problem| problem.component == component);
    let notes = ComponentName::new(&component).map(|component| registry.ledger().of(&tenant, &component));
    answer(notes.map(|notes| Explanation { problem: problem.map(|problem| problem.error.clone()), notes }))
}

async fn waiting(State(shared): State<Arc<Operated>>, Query(of): Query<Of>) -> Response {
    answer(shared.tenants.waiting(&of.tenant))
}

async fn accept(State(shared): State<Arc<Operated>>, Query(of): Query<Of>, Json(build): Json<Acceptance>) -> Response {
    answer(shared.tenants.accept(&of.tenant, &build.component, &build.digest).await)
}

async fn refresh(State(shared): State<Arc<Operated>>) -> Response {
    answer(shared.tenants.refresh(Arc::new(|| {})).await)
}

async fn remove_tenant(
    State(shared): State<Arc<Operated>>,
    Json(Removal { tenant, export }): Json<Removal>,
) -> Response {
    answer(shared.tenants.remove(&tenant, export.as_deref(), &shared.store).await)
}

async fn info(State(shared): State<Arc<Operated>>, Query(Of { tenant }): Query<Of>) -> Response {
    if let Err(unknown) = shared.tenants.homes().find(&tenant) {
        return answer::<()>(Err(unknown));
    }
    let registry = shared.endpoint.registry();
    let catalog = registry.catalog(&tenant);
    let admission = registry.admission();
    let kept = registry.keeper().count();
    let problems = catalog.problems().map(|problem| ProblemInfo {
        component: problem.component.clone(),
        origin: origin(&problem.origin),
        error: problem.error.clone(),
        old_build_serves: catalog.component(&problem.component).is_some(),
    });
    let host = registry.memory();
    let info = Info {
        loads: shared.tenants.reloader().now(&tenant).await,
        opening: shared.tenants.opening(),
        components: components(registry, &tenant).await,
        tenant: tenant_info(registry, tenant, &kept),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        url: shared.config.server.url(shared.address),
        sessions: shared.http.sessions(),
        calls: registry.calls(),
        instances: Instances {
            running: admission.running(),
            waiting: admission.waiting(),
            queued: admission.queued(),
            kept: kept.values().sum(),
        },
        engine: shared.config.engine.clone(),
        memory: pools(|of| (host.used(of), host.bound(of))),
        limits: json(&shared.config.limits()),
        problems: problems.collect(),
    };
    Json(info).into_response()
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

/// A tenant's live components.
async fn components(registry: &Registry, tenant: &TenantId) -> Vec<ComponentInfo> {
    let catalog = registry.catalog(tenant);
    let loops = parked::loops(&**registry.store(), tenant).await.unwrap_or_default();
    let mut components = Vec::new();
    for revision in catalog.components() {
        let own = loops.iter().filter(|stopped| stopped.from == revision.name);
        let notes = own.map(|StoppedLoop { to, topic, .. }| {
            format!("a loop of events was stopped: {to} is told of `{topic}` again and again (`mcpp events` shows what is parked)")
        });
        let notes = revision.notes.iter().cloned().chain(notes).collect();
        let tools = revision.tools.iter();
        components.push(ComponentInfo {
            granted: granted(&revision.grant),
            store: store_info(registry, tenant, revision).await,
            topics: revision.topics.iter().map(ToString::to_string).collect(),
            name: revision.name.to_string(),
            digest: revision.digest.clone(),
            bytes: revision.bytes,
            origin: origin(&revision.origin),
            tools: tools
                .map(|tool| ToolInfo { name: tool.name.to_string(), limits: json(&tool.limits), reuse: tool.reuse })
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
    }
}

fn json(limits: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(limits).unwrap_or_default()
}
