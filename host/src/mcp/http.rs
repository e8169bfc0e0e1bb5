//! The HTTP door: Streamable HTTP for both eras on one path, and the host's own `/health`, `/live`, `/ready` and `/metrics` beside it.
//!
//! Everything a client can make us hold has a bound here: connections, the time for a head and a body, a body's size and depth, sessions. Every answer that is
//! not a success is a JSON-RPC error that says what is wrong.

mod exchange;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{
    envelope,
    guard::Guard,
    handler::{Endpoint, Handler},
    session::{Manager, PRINCIPAL, Sessions},
};
use crate::{
    config::{ServerConfig, SessionConfig},
    telemetry,
    tenant::{Principal, SCOPE_METRICS, TenantId, door::Refusals, tokens::Authenticator},
};

/// JSON-RPC code of transport errors that have none of their own.
const TRANSPORT_ERROR: i64 = -32000;

const SESSION_HEADER: &str = "mcp-session-id";

/// The HTTP door of one host.
#[derive(Debug)]
pub struct HttpDoor {
    config: ServerConfig,
    app: Arc<App>,
    stop: CancellationToken,
}

type Engine = StreamableHttpService<Handler, Manager>;

struct App {
    config: ServerConfig,
    endpoint: Endpoint,
    guard: Guard,
    sessions: Arc<Sessions>,
    authenticator: Arc<Authenticator>,
    /// What those are refused who are nobody's.
    strangers: Refusals,
    engine: Engine,
    ready: AtomicBool,
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
        let engine = engine(&config, &guard, &endpoint, &sessions, stop.clone());
        let app = App {
            config: config.clone(),
            endpoint,
            guard,
            sessions,
            authenticator: Arc::new(authenticator),
            strangers: Refusals::default(),
            engine,
            ready: AtomicBool::new(true),
        };
        Self { config, app: Arc::new(app), stop }
    }

    /// Legacy sessions now.
    pub fn sessions(&self) -> usize {
        self.app.sessions.len()
    }

    /// From now on `/ready` says that this host takes no more work.
    pub fn not_ready(&self) {
        self.app.ready.store(false, Ordering::Relaxed);
    }

    /// Serves connections until `stop`; then waits until they have ended.
    pub async fn serve(&self, listener: TcpListener, closing: CancellationToken) {
        let tidy = tokio::spawn(Arc::clone(&self.app.sessions).keep_tidy(Arc::clone(&self.app.authenticator)));
        let router = router(&self.config, Arc::clone(&self.app));
        let room = Arc::new(Semaphore::new(self.config.max_connections));
        let connections = TaskTracker::new();
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = closing.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: accepting again at once would only spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot switch off Nagle's algorithm");
            }
            let connection = serve_connection(stream, router.clone(), self.config.header_timeout_ms, closing.clone());
            connections.spawn(async move {
                metrics::gauge!("mcpp_connections").increment(1);
                connection.await;
                metrics::gauge!("mcpp_connections").decrement(1);
                drop(permit);
            });
        }
        connections.close();
        self.stop.cancelled().await;
        let _rest_is_cut = tokio::time::timeout(Duration::from_secs(2), connections.wait()).await;
        tidy.abort();
    }
}

async fn serve_connection(
    stream: tokio::net::TcpStream,
    router: Router,
    header_timeout_ms: u64,
    closing: CancellationToken,
) {
    let service = hyper_util::service::TowerToHyperService::new(router);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(header_timeout_ms))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

fn engine(
    config: &ServerConfig,
    guard: &Guard,
    endpoint: &Endpoint,
    sessions: &Arc<Sessions>,
    stop: CancellationToken,
) -> Engine {
    let manager = Manager(Arc::clone(sessions));
    let mut engine = StreamableHttpServerConfig::default()
        .with_json_response(true)
        .with_cancellation_token(stop)
        .with_max_request_body_bytes(config.max_body_bytes)
        // The guard has checked Host already, against a list that the engine's form of list cannot say.
        .disable_allowed_hosts()
        .with_allowed_origins(guard.origins())
        .enforce_origin_validation();
    engine.session_store = Some(Arc::new(manager.clone()));
    let (endpoint, sessions) = (endpoint.clone(), Arc::clone(sessions));
    let handler = move || {
        let principal = PRINCIPAL.try_with(Clone::clone).map_err(std::io::Error::other)?;
        Ok(endpoint.handler(principal, Some(Arc::clone(&sessions))))
    };
    StreamableHttpService::new(handler, Arc::new(manager), engine)
}

fn router(config: &ServerConfig, app: Arc<App>) -> Router {
    let cors_app = Arc::clone(&app);
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| {
            origin.to_str().is_ok_and(|origin| cors_app.guard.allows_origin(origin))
        }))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(tower_http::cors::AllowHeaders::mirror_request())
        .expose_headers([
            header::HeaderName::from_static(SESSION_HEADER),
            header::WWW_AUTHENTICATE,
            header::RETRY_AFTER,
        ]);
    Router::new()
        .route(&config.mount_path, any(exchange::mcp))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .layer(cors)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), check_origin))
        .with_state(app)
}

async fn check_origin(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match app.guard.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(reason) => {
            metrics::counter!("mcpp_refused_total", "reason" => "host_or_origin").increment(1);
            failure(StatusCode::FORBIDDEN, None, TRANSPORT_ERROR, &reason)
        }
    }
}

async fn not_found(State(app): State<Arc<App>>, request: Request) -> Response {
    let reason = format!("there is nothing at {}; the MCP endpoint is {}", request.uri().path(), app.config.mount_path);
    failure(StatusCode::NOT_FOUND, None, TRANSPORT_ERROR, &reason)
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.ready.load(Ordering::Relaxed) {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
    }
}

/// Whether the host is well. Where a token is needed, what it holds is nobody's business who has none.
async fn health(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let registry = app.endpoint.registry();
    let status = if app.ready.load(Ordering::Relaxed) { "ok" } else { "stopping" };
    if app.authenticator.is_on() && !exchange::authenticate(&app, &headers).is_ok_and(|who| may_measure(&who)) {
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
    match exchange::authenticate(&app, &headers) {
        Err(refused) => return *refused,
        Ok(principal) if !may_measure(&principal) => {
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
    }
    match telemetry::metrics() {
        Some(handle) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// An answer that is no success: a JSON-RPC error that says what is wrong.
fn failure(status: StatusCode, id: Option<&Value>, code: i64, message: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], envelope::error(id, code, message).to_string())
        .into_response()
}
