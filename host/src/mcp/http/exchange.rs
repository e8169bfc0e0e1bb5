//! One request to the MCP endpoint and its answer: what is checked before the protocol engine sees it, and what is made of what the engine says.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::BytesMut;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use serde_json::Value;

use super::{App, SESSION_HEADER, TRANSPORT_ERROR, failure};
use crate::{
    config::ServerConfig,
    mcp::{
        envelope::{self, Envelope},
        handler::RefusalSignal,
        session::PRINCIPAL,
    },
    tenant::{Principal, tokens::Stranger},
};

/// JSON-RPC code by which clients know that they need a new session.
const SESSION_NOT_FOUND: i64 = -32001;
/// An error text of the protocol engine is not longer than this.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Bytes of a body after which others are served.
const READ_AT_ONCE: usize = 128 << 10;
const VERSION_HEADER: &str = "mcp-protocol-version";
const METHOD_HEADER: &str = "mcp-method";
/// The first protocol version without sessions.
const MODERN: &str = "2026-07-28";

/// Who is at the door, or the answer that refuses. While no token was ever made only loopback is served (or what the operator vouches for), as the local user.
pub(super) fn authenticate(app: &App, headers: &HeaderMap) -> Result<Principal, Box<Response>> {
    let who = bearer(headers).and_then(|token| app.authenticator.check(token));
    match who {
        Ok(principal) if app.endpoint.registry().share(&principal.tenant).is_some() => Ok(principal),
        Ok(_) => Err(Box::new(suspended())),
        Err(stranger) => {
            metrics::counter!("mcpp_refused_total", "reason" => "token").increment(1);
            let (status, challenge) = match stranger {
                Stranger::Unreadable => (StatusCode::SERVICE_UNAVAILABLE, None),
                Stranger::NoToken => (StatusCode::UNAUTHORIZED, Some("Bearer realm=\"mcpp\"")),
                Stranger::Malformed => {
                    (StatusCode::BAD_REQUEST, Some("Bearer realm=\"mcpp\", error=\"invalid_request\""))
                }
                Stranger::Unknown | Stranger::Expired => {
                    (StatusCode::UNAUTHORIZED, Some("Bearer realm=\"mcpp\", error=\"invalid_token\""))
                }
            };
            let mut response = failure(status, None, TRANSPORT_ERROR, &stranger.to_string());
            if let Some(challenge) = challenge {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Err(Box::new(response))
        }
    }
}

fn suspended() -> Response {
    metrics::counter!("mcpp_refused_total", "reason" => "tenant").increment(1);
    failure(StatusCode::FORBIDDEN, None, TRANSPORT_ERROR, "the tenant is suspended or removed")
}

/// The token that a request shows, if it shows one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Stranger> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    match (shown.next(), shown.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Stranger::Malformed),
        (Some(value), None) => {
            let (scheme, token) =
                value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Stranger::Malformed)?;
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(Stranger::Malformed);
            }
            Ok(Some(token.trim()))
        }
    }
}

pub(super) async fn mcp(State(app): State<Arc<App>>, request: Request) -> Response {
    let principal = match authenticate(&app, request.headers()) {
        Ok(principal) => principal,
        Err(refused) => {
            app.strangers.hold_back().await;
            return *refused;
        }
    };
    let (tenant, signal) = (principal.tenant.clone(), RefusalSignal::default());
    let response = answer(&app, principal, &signal, request).await;
    let refused = !response.status().is_success() || signal.is_raised();
    if refused && let Some(share) = app.endpoint.registry().share(&tenant) {
        share.door.refusals.hold_back().await;
    }
    response
}

async fn answer(app: &App, principal: Principal, signal: &RefusalSignal, request: Request) -> Response {
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
        Method::POST => post(app, principal, signal, request).await,
        Method::GET => {
            let request = request.map(|_| Full::new(Bytes::new()));
            shape(PRINCIPAL.scope(principal, app.engine.handle(request)).await.map(Body::new), None).await
        }
        Method::DELETE => delete(app, request.headers()).await,
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

async fn post(app: &App, principal: Principal, signal: &RefusalSignal, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let body = match read_body(&app.config, body).await {
        Ok(body) => body,
        Err((status, reason)) => return failure(status, None, envelope::INVALID_REQUEST, &reason),
    };
    let Some(share) = app.endpoint.registry().share(&principal.tenant) else { return suspended() };
    let shared = app.endpoint.registry().admission().note(&principal.tenant);
    let place = share.door.enter(shared).await;
    let _left_at_the_end = place.guard();
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
        && let Err(full) = app.sessions.check_room(&principal, share.limits.sessions)
    {
        return busy(envelope.id.as_ref(), &full.to_string());
    }
    supply_method_header(&mut parts.headers, &envelope);
    parts.extensions.insert(signal.clone());
    parts.extensions.insert(place.clone());
    let request = Request::from_parts(parts, Full::new(body));
    let response = PRINCIPAL.scope(principal, app.engine.handle(request)).await;
    let mut response = shape(response.map(Body::new), Some(&envelope)).await;
    if let Some((retry_after, too_many)) = signal.retry() {
        let (status, reason) =
            if too_many { (StatusCode::TOO_MANY_REQUESTS, "rate") } else { (StatusCode::SERVICE_UNAVAILABLE, "busy") };
        metrics::counter!("mcpp_refused_total", "reason" => reason).increment(1);
        *response.status_mut() = status;
        let seconds = retry_after.as_millis().div_ceil(1_000).max(1);
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
    }
    response
}

async fn read_body(config: &ServerConfig, body: Body) -> Result<Bytes, (StatusCode, String)> {
    let limit = config.max_body_bytes;
    let too_large = || Err((StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {limit} bytes")));
    // What is announced need not come.
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return too_large();
    }
    let read = collect(Limited::new(body, limit));
    match tokio::time::timeout(Duration::from_millis(config.body_timeout_ms), read).await {
        Err(_) => {
            Err((StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {} ms", config.body_timeout_ms)))
        }
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if error.is::<LengthLimitError>() => too_large(),
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))),
    }
}

/// Reads a body, and lets others be served in between however fast it comes.
async fn collect(mut body: Limited<Body>) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let mut all = BytesMut::new();
    let mut since = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        all.extend_from_slice(&data);
        since = since.saturating_add(data.len());
        if since >= READ_AT_ONCE {
            since = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(all.freeze())
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
