//! The HTTP door: Streamable HTTP for both eras on one path, and the host's own `/health`, `/live`, `/ready` and `/metrics` beside it.
//!
//! Everything a client can make us hold has a bound here: connections, the time for a head and a body, a body's size and depth, sessions. Every answer that is
//! not a success is a JSON-RPC error that says what is wrong.

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
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{
    envelope::{self, Envelope},
    guard::Guard,
    handler::{BusySignal, Endpoint, Handler},
    session::{Manager, PRINCIPAL, Sessions},
};
use crate::{
    config::{ServerConfig, SessionConfig},
    telemetry,
    tenant::Principal,
};

/// JSON-RPC code of transport errors that have none of their own.
const TRANSPORT_ERROR: i64 = -32000;
/// JSON-RPC code by which clients know that they need a new session.
const SESSION_NOT_FOUND: i64 = -32001;
/// An error text of the protocol engine is not longer than this.
const MAX_ERROR_BYTES: usize = 64 << 10;

const SESSION_HEADER: &str = "mcp-session-id";
const VERSION_HEADER: &str = "mcp-protocol-version";
const METHOD_HEADER: &str = "mcp-method";
/// The first protocol version without sessions.
const MODERN: &str = "2026-07-28";

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
        address: SocketAddr,
        stop: CancellationToken,
    ) -> Self {
        let sessions = Sessions::new(sessions);
        let guard = Guard::new(address, &config.allowed_hosts, &config.allowed_origins);
        let engine = engine(&config, &guard, &endpoint, &sessions, stop.clone());
        let app = App { config: config.clone(), endpoint, guard, sessions, engine, ready: AtomicBool::new(true) };
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
        let tidy = tokio::spawn(Arc::clone(&self.app.sessions).keep_tidy());
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
        .route(&config.mount_path, any(mcp))
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

async fn health(State(app): State<Arc<App>>) -> Response {
    let registry = app.endpoint.registry();
    let catalog = registry.catalog(&Principal::local_user().tenant);
    let status = if app.ready.load(Ordering::Relaxed) { "ok" } else { "stopping" };
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

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let admission = app.endpoint.registry().admission();
    for (state, count) in
        [("running", admission.running()), ("waiting", admission.waiting()), ("queued", admission.queued())]
    {
        metrics::gauge!("mcpp_instances", "state" => state).set(count as f64);
    }
    metrics::gauge!("mcpp_sessions", "tenant" => "local").set(app.sessions.len() as f64);
    match telemetry::metrics() {
        Some(handle) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Who is at the door. Without configured authentication only loopback is served (or what the operator vouches for), as the local user.
fn authenticate(_headers: &HeaderMap) -> Principal {
    Principal::local_user()
}

async fn mcp(State(app): State<Arc<App>>, request: Request) -> Response {
    let principal = authenticate(request.headers());
    if let Some(id) = request.headers().get(SESSION_HEADER).filter(|_| !is_modern(request.headers())) {
        let own = id.to_str().is_ok_and(|id| app.sessions.belongs_to(id, &principal));
        if !own {
            return failure(
                StatusCode::NOT_FOUND,
                None,
                SESSION_NOT_FOUND,
                "there is no such session; open a new one with `initialize`",
            );
        }
    }
    match *request.method() {
        Method::POST => post(&app, principal, request).await,
        Method::GET => {
            let request = request.map(|_| Full::new(Bytes::new()));
            shape(PRINCIPAL.scope(principal, app.engine.handle(request)).await.map(Body::new), None).await
        }
        Method::DELETE => delete(&app, request.headers()).await,
        _ => {
            let mut response = failure(
                StatusCode::METHOD_NOT_ALLOWED,
                None,
                TRANSPORT_ERROR,
                "the MCP endpoint knows POST, GET and DELETE",
            );
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
            response
        }
    }
}

fn is_modern(headers: &HeaderMap) -> bool {
    headers.get(VERSION_HEADER).and_then(|version| version.to_str().ok()).is_some_and(|version| version >= MODERN)
}

async fn delete(app: &App, headers: &HeaderMap) -> Response {
    if is_modern(headers) {
        return failure(
            StatusCode::METHOD_NOT_ALLOWED,
            None,
            TRANSPORT_ERROR,
            "this protocol version has no sessions to end",
        );
    }
    match headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok()) {
        None => failure(StatusCode::BAD_REQUEST, None, TRANSPORT_ERROR, "the Mcp-Session-Id header is missing"),
        Some(id) if app.sessions.end(id).await => StatusCode::NO_CONTENT.into_response(),
        Some(_) => failure(StatusCode::NOT_FOUND, None, SESSION_NOT_FOUND, "there is no such session"),
    }
}

async fn post(app: &App, principal: Principal, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let body = match read_body(&app.config, body).await {
        Ok(body) => body,
        Err((status, reason)) => return failure(status, None, envelope::INVALID_REQUEST, &reason),
    };
    if let Err((status, reason)) = check_media_types(&mut parts.headers) {
        return failure(status, None, TRANSPORT_ERROR, &reason);
    }
    let envelope = match envelope::read(&body, app.config.max_body_depth) {
        Ok(envelope) => envelope,
        Err(malformed) => {
            return failure(StatusCode::BAD_REQUEST, malformed.id.as_ref(), malformed.code, &malformed.reason);
        }
    };
    if envelope.method.as_deref() == Some("initialize")
        && let Err(full) = app.sessions.check_room(&principal)
    {
        return busy(envelope.id.as_ref(), &full.to_string());
    }
    supply_method_header(&mut parts.headers, &envelope);
    let signal = BusySignal::default();
    parts.extensions.insert(signal.clone());
    let request = Request::from_parts(parts, Full::new(body));
    let response = PRINCIPAL.scope(principal, app.engine.handle(request)).await;
    let mut response = shape(response.map(Body::new), Some(&envelope)).await;
    if let Some(retry_after_ms) = signal.raised() {
        metrics::counter!("mcpp_refused_total", "reason" => "busy").increment(1);
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1000)));
    }
    response
}

async fn read_body(config: &ServerConfig, body: Body) -> Result<Bytes, (StatusCode, String)> {
    let limit = config.max_body_bytes;
    let read = Limited::new(body, limit).collect();
    match tokio::time::timeout(Duration::from_millis(config.body_timeout_ms), read).await {
        Err(_) => {
            Err((StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {} ms", config.body_timeout_ms)))
        }
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {limit} bytes")))
        }
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))),
    }
}

/// A client that takes anything takes both of our forms: the engine wants them by name.
fn check_media_types(headers: &mut HeaderMap) -> Result<(), (StatusCode, String)> {
    let json = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
    });
    if !json {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json".into()));
    }
    let anything = match headers.get(header::ACCEPT) {
        None => true,
        Some(accept) => accept.to_str().is_ok_and(|accept| {
            accept.split(',').any(|range| range.split(';').next().is_some_and(|r| r.trim() == "*/*"))
        }),
    };
    if anything {
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    }
    Ok(())
}

/// The headers of a notification are not defined; the engine wants the method there.
fn supply_method_header(headers: &mut HeaderMap, envelope: &Envelope) {
    if let (None, Some(method)) = (&envelope.id, &envelope.method)
        && !headers.contains_key(METHOD_HEADER)
        && let Ok(method) = HeaderValue::from_str(method)
    {
        headers.insert(METHOD_HEADER, method);
    }
}

/// Turns an error text of the protocol engine into a JSON-RPC error with the request's id.
async fn shape(response: Response, envelope: Option<&Envelope>) -> Response {
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if is_json || response.status().is_success() || response.status().is_informational() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = match Limited::new(body, MAX_ERROR_BYTES).collect().await {
        Ok(text) => String::from_utf8_lossy(&text.to_bytes()).into_owned(),
        Err(_) => String::new(),
    };
    let (status, code) = match parts.status {
        StatusCode::NOT_FOUND => (StatusCode::NOT_FOUND, SESSION_NOT_FOUND),
        // The outside was checked already: what does not parse now is a message whose inside is wrong.
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (StatusCode::BAD_REQUEST, envelope::INVALID_PARAMS),
        status => (status, if status.is_server_error() { -32603 } else { TRANSPORT_ERROR }),
    };
    let id = envelope.and_then(|envelope| envelope.id.as_ref());
    let initializes = envelope.is_some_and(|envelope| envelope.method.as_deref() == Some("initialize"));
    let mut shaped = if initializes && status == StatusCode::BAD_REQUEST {
        // The engine did not recognize it, and so asked for the session that it would have opened.
        failure(status, id, envelope::INVALID_PARAMS, "the params of `initialize` are not valid")
    } else {
        failure(status, id, code, text.trim())
    };
    if let Some(allow) = parts.headers.get(header::ALLOW) {
        shaped.headers_mut().insert(header::ALLOW, allow.clone());
    }
    shaped
}

fn busy(id: Option<&Value>, reason: &str) -> Response {
    metrics::counter!("mcpp_refused_total", "reason" => "sessions").increment(1);
    let mut response = failure(StatusCode::SERVICE_UNAVAILABLE, id, TRANSPORT_ERROR, reason);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    response
}

fn failure(status: StatusCode, id: Option<&Value>, code: i64, message: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], envelope::error(id, code, message).to_string())
        .into_response()
}
