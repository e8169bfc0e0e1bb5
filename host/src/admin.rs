//! The operator's door: a Unix socket in the data directory, open to the user who runs the host and to nobody else.
//!
//! Operators' acts (reloads, parked deliveries, backups) and views (problems, limits) are only here; no tool and no network client reaches them.

pub mod components;
pub mod data;
pub mod mounts;
pub mod peers;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, Query, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use self::peers::OperatedMesh;
use crate::{
    components::fetch::Fetcher,
    config::Config,
    grants::ledger::Notes,
    info::Info,
    mcp::{Endpoint, http::HttpDoor},
    mounts::Mounts,
    names::{ComponentName, InvalidComponentName, TenantId},
    store::Store,
    tenants::Tenants,
};

/// The socket's name in the data directory.
pub const SOCKET: &str = "mcpp.sock";

/// A component's uses of its grant, and its denials.
#[derive(Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Why its newest build is not live.
    pub problem: Option<String>,
    /// Uses of the grant by the component's calls, and their denials, since the host started.
    pub notes: Notes,
}

/// Why the host cannot explain a component.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error(transparent)]
    Name(#[from] InvalidComponentName),
    #[error("tenant `{0}` has no component `{1}`; `mcpp info --tenant {0}` lists the components it has")]
    Unknown(TenantId, ComponentName),
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
    pub store: Arc<dyn Store>,
    /// Its mesh.
    pub mesh: OperatedMesh,
    /// Its tenants' mounts.
    pub mounts: Mounts,
    /// The way to components of peers.
    pub fetcher: Fetcher,
}

impl Operated {
    async fn explain(&self, tenant: &TenantId, component: &str) -> Result<Explanation, ExplainError> {
        let (name, registry) = (ComponentName::new(component)?, self.endpoint.registry());
        // A component that is being loaded is in no catalog yet, and those of a suspended tenant are in none.
        let loads = self.tenants.reloader().now(tenant).await;
        let is_settled = loads.is_some_and(|now| !now.opening && now.loading.is_none() && now.queued == 0);
        let catalog = registry.catalog(tenant);
        let problem = catalog.problems().find(|problem| problem.component == component);
        let notes = registry.ledger().of(tenant, &name);
        let is_known = problem.is_some() || catalog.component(component).is_some() || notes != Notes::default();
        if is_settled && !is_known {
            return Err(ExplainError::Unknown(tenant.clone(), name));
        }
        Ok(Explanation { problem: problem.map(|problem| problem.error.clone()), notes })
    }
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
            .route("/reload/all", post(reload_all))
            .route("/notes/{component}", get(notes))
            .route("/waiting", get(waiting))
            .route("/accept", post(accept))
            .route("/tenants/refresh", post(refresh))
            .route("/tokens/look", post(look_at_tokens))
            .route("/tenants/remove", post(remove_tenant))
            .route("/events", get(data::list_events))
            .route("/events/settle", post(data::settle_events))
            .route("/backup", post(data::backup))
            .route("/peers", get(peers::list))
            .route("/peers/invite", post(peers::invite))
            .route("/peers/join", post(peers::join))
            .route("/peers/revoke", post(peers::revoke))
            .route("/peers/call", post(peers::call))
            .route("/components/offers", post(components::offers))
            .route("/components/fetch", post(components::fetch))
            .route("/mounts", get(mounts::list).post(mounts::mount))
            .route("/mounts/waiting", get(mounts::waiting))
            .route("/mounts/accept", post(mounts::accept))
            .route("/mounts/unmount", post(mounts::unmount))
            .layer(middleware::from_fn_with_state(Arc::clone(&self.0), of_a_tenant))
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

/// Refuses each command for a tenant that does not exist.
async fn of_a_tenant(
    State(shared): State<Arc<Operated>>,
    Query(Of { tenant }): Query<Of>,
    request: Request,
    next: Next,
) -> Response {
    match shared.tenants.homes().find(&tenant) {
        Ok(_) => next.run(request).await,
        Err(unknown) => answer::<()>(Err(unknown)),
    }
}

/// The answer to a command.
fn answer<T: Serialize>(result: Result<T, impl std::error::Error + 'static>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, crate::error::chain(&error)).into_response(),
    }
}

async fn reload(State(shared): State<Arc<Operated>>, Query(Of { tenant }): Query<Of>) -> Response {
    answer(shared.tenants.reload(&tenant).await)
}

async fn reload_all(State(shared): State<Arc<Operated>>) -> Response {
    answer(shared.tenants.reload_all().await)
}

async fn notes(
    State(shared): State<Arc<Operated>>,
    UrlPath(component): UrlPath<String>,
    Query(Of { tenant }): Query<Of>,
) -> Response {
    answer(shared.explain(&tenant, &component).await)
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

async fn look_at_tokens(State(shared): State<Arc<Operated>>) {
    shared.http.look_at_tokens().await;
}

async fn remove_tenant(
    State(shared): State<Arc<Operated>>,
    Json(Removal { tenant, export }): Json<Removal>,
) -> Response {
    answer(shared.tenants.remove(&tenant, export.as_deref()).await)
}

async fn info(State(shared): State<Arc<Operated>>, Query(Of { tenant }): Query<Of>) -> Response {
    let (url, sessions) = (shared.config.server.url(shared.address), shared.http.sessions());
    let mounts = shared.mounts.rows(&tenant);
    let info = Info::of(&shared.config, &shared.tenants, tenant, url, sessions).await;
    Json(Info { mounts, ..info }).into_response()
}
