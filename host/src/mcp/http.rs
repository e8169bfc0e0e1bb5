//! The HTTP door: Streamable HTTP for both eras on one path, and the host's own `/health`, `/live`, `/ready` and `/metrics` beside it.
//!
//! Everything a client can make us hold has a bound here: connections, the time for a head, a body and an answer, a body's size and depth, sessions, streams, and the memory
//! that all of these take. Every answer that is not a success is a JSON-RPC error that says what is wrong.

mod answer;
mod body;
mod compat;
mod connection;
mod credentials;
mod exchange;
mod hooks;
mod keeping;
mod linger;
mod media;
mod pace;
mod refusals;
mod room;
mod straight;
mod subscription;
mod websocket;
mod wire;

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{self, any, get},
};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use metrics::Counter;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::cors::{AllowOrigin, CorsLayer};

use self::{
    connection::{Connection, Connections},
    refusals::{TRANSPORT_ERROR, failure},
    room::ConnectionRoom,
};
use super::{
    guard::Guard,
    handler::{Endpoint, ProtocolHandler},
    headers::SESSION_HEADER,
    lane::Lanes,
    session::{Sessions, engine::Manager, visit::VISIT},
    streams::OpenStreams,
    written::WrittenResults,
};
use crate::{
    auth::Authenticator,
    config::{ServerConfig, SessionConfig},
    memory::MemoryUse,
    names::TenantId,
    telemetry,
    tenant::{Principal, SCOPE_METRICS, door::Refusals},
};

/// Paths that anyone is answered at, for every Host and when all else is full: they say nothing that matters.
const PROBES: [&str; 3] = ["/live", "/ready", "/health"];

/// The HTTP door of one host.
#[derive(Debug)]
pub struct HttpDoor {
    config: ServerConfig,
    app: Arc<App>,
    stop: CancellationToken,
}

type ProtocolEngine = StreamableHttpService<ProtocolHandler, Manager>;

struct App {
    config: ServerConfig,
    endpoint: Endpoint,
    guard: Guard,
    sessions: Arc<Sessions>,
    /// The open streams, so that the host ends them when their principal loses the right to come in.
    open: Arc<OpenStreams>,
    authenticator: Authenticator,
    /// Limits refusals to unauthenticated clients.
    strangers: Refusals,
    engine: ProtocolEngine,
    results: WrittenResults,
    /// Answers that are made or written.
    answers: TaskTracker,
    room: Arc<ConnectionRoom>,
    ready: AtomicBool,
    meters: WayMeters,
}

/// Counters of the requests on either way. The host finds each series once.
#[derive(Default)]
struct WayMeters {
    straight: OnceLock<Counter>,
    engine: OnceLock<Counter>,
}

impl WayMeters {
    fn count(&self, is_straight: bool) {
        let (counter, way) = if is_straight { (&self.straight, "straight") } else { (&self.engine, "engine") };
        counter.get_or_init(|| metrics::counter!("mcpp_requests_total", "way" => way)).increment(1);
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl HttpDoor {
    /// A door to `endpoint` that will listen on `address`. `stop` ends its streams and sessions.
    pub fn new(
        config: ServerConfig,
        sessions: SessionConfig,
        endpoint: Endpoint,
        authenticator: Authenticator,
        address: SocketAddr,
        stop: CancellationToken,
    ) -> Self {
        let sessions = Sessions::new(sessions);
        let guard = Guard::new(address, &config.allowed_hosts, &config.allowed_origins);
        let results = WrittenResults::new(Some(endpoint.registry().engine().clone()));
        let engine = engine(&config, &guard, &endpoint, &sessions, stop.clone());
        let app = App {
            config: config.clone(),
            endpoint,
            guard,
            sessions,
            open: Arc::default(),
            authenticator,
            strangers: Refusals::default(),
            engine,
            results,
            answers: TaskTracker::new(),
            room: ConnectionRoom::new(config.max_connections),
            ready: AtomicBool::new(true),
            meters: WayMeters::default(),
        };
        Self { config, app: Arc::new(app), stop }
    }

    /// Legacy sessions now.
    pub fn sessions(&self) -> usize {
        self.app.sessions.len()
    }

    /// Looks for changes of the tokens now, instead of within the fifth of a second. What changed is in force when it returns.
    pub async fn look_at_tokens(&self) {
        let app = Arc::clone(&self.app);
        let _stopping = tokio::task::spawn_blocking(move || app.authenticator.look()).await;
    }

    /// From now on `/ready` says that this host takes no more work.
    pub fn not_ready(&self) {
        self.app.ready.store(false, Ordering::Relaxed);
    }

    /// Waits until all answers to calls are written, or until `patience` is over.
    pub async fn answered(&self, patience: Duration) {
        self.app.answers.close();
        let _or_not = tokio::time::timeout(patience, self.app.answers.wait()).await;
    }

    /// Serves connections until `stop`; then waits until they have ended.
    pub async fn serve(&self, listener: TcpListener, closing: CancellationToken) {
        let lanes = match Lanes::start() {
            Ok(lanes) => lanes,
            Err(error) => return tracing::error!(%error, "the HTTP door has no threads"),
        };
        connection::allow_open_files(self.config.max_connections);
        let app = Arc::clone(&self.app);
        let keeping = tokio::spawn(async move { keeping::keep(&app).await });
        let routes = Routes { router: router(&self.config, Arc::clone(&self.app)), app: Arc::clone(&self.app) };
        let connections = TaskTracker::new();
        let accepting = Connections::new(self.config.clone(), routes, Arc::clone(&self.app.room));
        let accepted = accepting.accept(listener, Arc::clone(&lanes), closing, connections.clone());
        if let Err(error) = lanes.in_lobby(accepted).await {
            tracing::error!(%error, "the HTTP door accepts no more connections");
        }
        connections.close();
        self.stop.cancelled().await;
        let _rest_is_cut = tokio::time::timeout(Duration::from_secs(2), connections.wait()).await;
        keeping.abort();
    }
}

fn engine(
    config: &ServerConfig,
    guard: &Guard,
    endpoint: &Endpoint,
    sessions: &Arc<Sessions>,
    stop: CancellationToken,
) -> ProtocolEngine {
    let manager = Manager(Arc::clone(sessions));
    let mut engine = StreamableHttpServerConfig::default()
        .with_json_response(true)
        .with_cancellation_token(stop)
        .with_max_request_body_bytes(config.max_body_bytes)
        // The guard has checked Host already, against a list that the engine's form of list cannot say.
        .disable_allowed_hosts()
        .with_allowed_origins(guard.origins())
        .enforce_origin_validation();
    // Sessions say where to resume only to clients that know it.
    engine.sse_retry = None;
    engine.session_store = Some(Arc::new(manager.clone()));
    let (endpoint, sessions) = (endpoint.clone(), Arc::clone(sessions));
    let handler = move || {
        let principal = VISIT.try_with(|visit| visit.principal.clone()).map_err(std::io::Error::other)?;
        Ok(endpoint.handler(principal, Some(Arc::clone(&sessions))))
    };
    StreamableHttpService::new(handler, Arc::new(manager), engine)
}

/// The way of a request to its handler.
#[derive(Debug, Clone)]
struct Routes {
    router: Router,
    app: Arc<App>,
}

impl Routes {
    fn is_endpoint<B>(&self, request: &axum::http::Request<B>) -> bool {
        self.app.config.is_endpoint(request.uri().path())
    }

    /// Answers a request that the guard lets in. Most requests are for the endpoint and from no web page: they need no router, and no answer to the browser's questions.
    async fn answer(&self, mut request: Request) -> Response {
        match self.app.guard.check(request.uri(), request.headers()) {
            Ok(()) => {}
            // Load balancers and kubelets name an address of their own, or none.
            Err(_) if PROBES.contains(&request.uri().path()) => drop(request.extensions_mut().insert(Unvouched)),
            Err(reason) => {
                metrics::counter!("mcpp_refused_total", "reason" => "host_or_origin").increment(1);
                return failure(StatusCode::FORBIDDEN, None, TRANSPORT_ERROR, &reason);
            }
        }
        if self.is_endpoint(&request) && !request.headers().contains_key(header::ORIGIN) {
            return exchange::mcp(State(Arc::clone(&self.app)), request).await;
        }
        let Ok(response) = TowerToHyperService::new(self.router.clone()).call(request).await;
        response
    }
}

/// A probe for a name, or from a web page, that the guard does not know.
#[derive(Debug, Clone, Copy)]
struct Unvouched;

fn router(config: &ServerConfig, app: Arc<App>) -> Router {
    let cors_app = Arc::clone(&app);
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| {
            origin.to_str().is_ok_and(|origin| cors_app.guard.allows_origin(origin))
        }))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(tower_http::cors::AllowHeaders::mirror_request())
        .expose_headers([SESSION_HEADER.clone(), header::WWW_AUTHENTICATE, header::RETRY_AFTER]);
    let mut router = Router::new().route(&config.mount_path, any(exchange::mcp));
    if !config.mount_path.ends_with('/') {
        router = router.route(&format!("{}/", config.mount_path), any(exchange::mcp));
    }
    // The endpoint may be at one of these paths.
    for (path, answers) in compat::routes().into_iter().filter(|(path, _)| !config.is_endpoint(path)) {
        router = router.route(path, answers);
    }
    if !config.hooks.is_empty() {
        router = router.route("/hooks/{token}", routing::post(hooks::post));
    }
    router
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .layer(cors)
        .with_state(app)
}

async fn not_found(State(app): State<Arc<App>>, request: Request) -> Response {
    let reason = format!("there is nothing at {}; the MCP endpoint is {}", request.uri().path(), app.config.mount_path);
    failure(StatusCode::NOT_FOUND, None, TRANSPORT_ERROR, &reason)
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    if !app.ready.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
    } else if !app.endpoint.registry().is_ready() {
        (StatusCode::SERVICE_UNAVAILABLE, "loading components\n").into_response()
    } else {
        "ready\n".into_response()
    }
}

/// Whether the host is well. Where a token is needed, what it holds is nobody's business who has none.
async fn health(State(app): State<Arc<App>>, unvouched: Option<Extension<Unvouched>>, headers: HeaderMap) -> Response {
    let registry = app.endpoint.registry();
    let status = match (app.ready.load(Ordering::Relaxed), registry.is_ready()) {
        (false, _) => "stopping",
        (true, false) => "loading",
        (true, true) => "ok",
    };
    let may_see = unvouched.is_none()
        && (!app.authenticator.is_on()
            || credentials::authenticate(&app, &headers).is_ok_and(|(who, _)| may_measure(&who)));
    if !may_see {
        return axum::Json(serde_json::json!({ "status": status })).into_response();
    }
    let catalog = registry.catalog(&TenantId::local());
    axum::Json(serde_json::json!({
        "status": status,
        "version": env!("CARGO_PKG_VERSION"),
        "tools": catalog.tools().len(),
        "components": catalog.components().len(),
        "problems": catalog.problems().len(),
        "calls": registry.calls(),
        "sessions": app.sessions.len(),
    }))
    .into_response()
}

fn may_measure(principal: &Principal) -> bool {
    principal.scopes.contains(SCOPE_METRICS)
}

/// The host's metrics, of all tenants: for the local user, and for tokens with the scope `metrics`.
async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    match credentials::authenticate(&app, &headers) {
        Err(refused) => return *refused,
        Ok((principal, _)) if !may_measure(&principal) => {
            return failure(StatusCode::FORBIDDEN, None, TRANSPORT_ERROR, "the token lacks the scope `metrics`");
        }
        Ok(_) => {}
    }
    let admission = app.endpoint.registry().admission();
    for (state, count) in
        [("running", admission.running()), ("waiting", admission.waiting()), ("queued", admission.queued())]
    {
        metrics::gauge!("mcpp_instances", "state" => state).set(count as f64);
    }
    metrics::gauge!("mcpp_parked_calls").set(app.endpoint.parked().len() as f64);
    metrics::gauge!("mcpp_session_workers").set(app.sessions.live() as f64);
    let by_tenant = app.sessions.by_tenant();
    let kept = app.endpoint.registry().keeper().count();
    metrics::gauge!("mcpp_instances", "state" => "kept").set(kept.values().sum::<usize>() as f64);
    for tenant in app.endpoint.registry().tenants() {
        let sessions = by_tenant.get(&tenant).copied().unwrap_or_default();
        let (running, waiting, queued) = admission.of(&tenant);
        let kept = kept.get(&tenant).copied().unwrap_or_default();
        for (state, count) in [("running", running), ("waiting", waiting), ("queued", queued), ("kept", kept)] {
            metrics::gauge!("mcpp_tenant_instances", "tenant" => tenant.to_string(), "state" => state)
                .set(count as f64);
        }
        metrics::gauge!("mcpp_sessions", "tenant" => tenant.to_string()).set(sessions as f64);
        measure_share(&app, &tenant);
    }
    let memory = app.endpoint.registry().memory();
    for of in MemoryUse::ALL {
        metrics::gauge!("mcpp_memory_bytes", "tenant" => "", "pool" => of.as_str()).set(memory.used(of) as f64);
        metrics::gauge!("mcpp_memory_bound_bytes", "pool" => of.as_str()).set(memory.bound(of) as f64);
    }
    for (kind, count) in app.room.counts() {
        metrics::gauge!("mcpp_connections", "kind" => kind).set(count as f64);
    }
    match telemetry::render().await {
        Some(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Measures one tenant's part of the host's memory, of its connections and of its rates.
fn measure_share(app: &App, tenant: &TenantId) {
    let Some(share) = app.endpoint.registry().share(tenant) else { return };
    for of in MemoryUse::ALL {
        metrics::gauge!("mcpp_memory_bytes", "tenant" => tenant.to_string(), "pool" => of.as_str())
            .set(share.memory.used(of) as f64);
    }
    metrics::gauge!("mcpp_tenant_connections", "tenant" => tenant.to_string()).set(app.room.of(tenant) as f64);
    metrics::gauge!("mcpp_tenant_streams", "tenant" => tenant.to_string()).set(share.door.streams() as f64);
    for (rate, held_back) in [("traffic", share.traffic.held_back()), ("notices", share.notices.held_back())] {
        metrics::counter!("mcpp_tenant_held_back_total", "tenant" => tenant.to_string(), "rate" => rate)
            .absolute(held_back);
    }
}
