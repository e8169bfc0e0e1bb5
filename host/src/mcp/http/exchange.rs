//! One request to the MCP endpoint and its answer: the checks before the protocol engine sees the request, and the host's changes to the engine's answer.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::Value;

use super::{
    App, Connection,
    answer::{self, AnswerHold},
    body::{self, LEAST_BYTES, NoBody, ReadBody},
    credentials::authenticate,
    media,
    refusals::{
        INTERNAL_ERROR, SESSION_NOT_FOUND, TRANSPORT_ERROR, busy, encoded_body, failure, no_connection, no_memory,
        no_session, no_stream, two_versions,
    },
    straight::Way,
    subscription, websocket,
};
use crate::{
    control::admission::Share,
    mcp::{
        envelope::{self, Envelope},
        handler::RefusalSignal,
        headers::{METHOD_HEADER, SESSION_HEADER, VERSION_HEADER, text},
        lane::{Lane, LaneSwitch},
        listening::LISTEN,
        session::visit::{VISIT, Visit},
        straight::{self, MODERN},
    },
    memory::{MemoryUse, Reservation},
    tenant::{Principal, door::StreamPermit},
};

/// An error text of the protocol engine is not longer than this.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// A list of more tools than this is a large message: a tool is about a kilobyte.
const LONG_LIST: usize = 50;

pub(super) async fn mcp(State(app): State<Arc<App>>, mut request: Request) -> Response {
    // The protocol engine keeps what is in a request, and would keep the connection open in our books.
    let connection = request.extensions_mut().remove::<Arc<Connection>>();
    let (principal, share) = match authenticate(&app, request.headers()) {
        Ok(known) => known,
        Err(refused) => {
            app.strangers.hold_back().await;
            return *refused;
        }
    };
    let Some(connection) = connection else { return no_connection("the request came over no connection") };
    if let Err(full) = connection.assign(&share, app.authenticator.is_on()) {
        metrics::counter!("mcpp_refused_total", "reason" => "connections").increment(1);
        return no_connection(&full.to_string());
    }
    let lane = &connection.lane;
    lane.change_to(Lane::for_request(request.headers())).await;
    if websocket::is_asked(&request) {
        let response = websocket::open(&app, principal, &share, &connection, request);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            share.door.refusals.hold_back().await;
        }
        return response;
    }
    let signal = RefusalSignal::default();
    let open = connection.note(&app.open, &principal);
    let answered = tokio::select! {
        biased;
        response = answer(&app, principal, &share, &signal, lane, request) => Some(response),
        () = open.ended() => None,
    };
    let response = match answered {
        Some(response) => open.until_ended(response),
        None => failure(StatusCode::UNAUTHORIZED, None, TRANSPORT_ERROR, "the right to call was taken away meanwhile"),
    };
    if !response.status().is_success() || signal.is_raised() {
        share.door.refusals.hold_back().await;
    }
    response
}

async fn answer(
    app: &App,
    principal: Principal,
    share: &Arc<Share>,
    signal: &RefusalSignal,
    lane: &LaneSwitch,
    mut request: Request,
) -> Response {
    // A POST is refused when its id is known.
    if *request.method() != Method::POST && has_two_versions(request.headers()) {
        return two_versions(None);
    }
    let visit = visit(app, &principal, request.headers_mut());
    match (request.method(), visit) {
        // It may open a session, and may then name one that is gone.
        (&Method::POST, visit) => post(app, principal, visit, share, signal, lane, request).await,
        (_, None) => no_session(None),
        (&Method::GET, Some(visit)) => Box::pin(get(app, visit, share, request)).await,
        (&Method::DELETE, _) => delete(app, request.headers()).await,
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

/// The requester and its session; none if the session is not the requester's. Where the version has no sessions, the session header means nothing.
fn visit(app: &App, principal: &Principal, headers: &mut HeaderMap) -> Option<Box<Visit>> {
    if is_modern(headers) {
        headers.remove(&SESSION_HEADER);
        return Some(Box::new(Visit::of(principal.clone())));
    }
    let mut named = headers.get_all(&SESSION_HEADER).iter();
    match (named.next(), named.next()) {
        (None, _) => Some(Box::new(Visit::of(principal.clone()))),
        (Some(id), None) => id.to_str().ok().and_then(|id| app.sessions.visit(principal, id)).map(Box::new),
        (Some(_), Some(_)) => None,
    }
}

pub(super) fn is_modern(headers: &HeaderMap) -> bool {
    text(headers, &VERSION_HEADER).is_some_and(|version| version >= MODERN)
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
    match text(headers, &SESSION_HEADER) {
        None => failure(StatusCode::BAD_REQUEST, None, TRANSPORT_ERROR, "the Mcp-Session-Id header is missing"),
        Some(id) if app.sessions.end(id).await => StatusCode::NO_CONTENT.into_response(),
        Some(_) => failure(StatusCode::NOT_FOUND, None, SESSION_NOT_FOUND, "there is no such session"),
    }
}

/// A stream of a session.
async fn get(app: &App, visit: Box<Visit>, share: &Arc<Share>, mut request: Request) -> Response {
    media::name_accepted_types(request.headers_mut());
    let held = match share.memory.reserve(MemoryUse::Messages, LEAST_BYTES) {
        Ok(held) => held,
        Err(full) => return no_memory(None, &full),
    };
    let Some(stream) = share.door.stream(share.limits.streams) else { return no_stream(None, share) };
    if let Err(full) = app.sessions.prepare(&visit, &share.memory).await {
        return busy(None, "sessions", &full.to_string());
    }
    let request = request.map(|_| Full::new(Bytes::new()));
    let response = VISIT.scope(*visit, app.engine.handle(request)).await.map(Body::new);
    let hold = hold(app, share, held, Some(stream), true);
    answer::hold(shape(response, None).await, hold).await.unwrap_or_else(|full| no_memory(None, &full))
}

fn hold(app: &App, share: &Share, held: Reservation, stream: Option<StreamPermit>, resumable: bool) -> AnswerHold {
    AnswerHold {
        tenant: share.tenant.clone(),
        account: Arc::clone(&share.memory),
        held,
        results: app.results.clone(),
        writer: app.results.writer(resumable),
        _answer: stream.is_none().then(|| app.answers.token()),
        _stream: stream,
    }
}

async fn post(
    app: &App,
    principal: Principal,
    visit: Option<Box<Visit>>,
    share: &Arc<Share>,
    signal: &RefusalSignal,
    lane: &LaneSwitch,
    request: Request,
) -> Response {
    let (mut parts, body) = request.into_parts();
    if media::is_encoded(&parts.headers) {
        return encoded_body();
    }
    let ReadBody { bytes: body, held } =
        match body::read(&app.config, &share.memory, &share.door.readers, lane, body).await {
            Ok(read) => read,
            Err(NoBody::NoMemory(full)) => return no_memory(None, &full),
            Err(error) => return failure(error.status(), None, envelope::INVALID_REQUEST, &error.to_string()),
        };
    let shared = app.endpoint.registry().admission().note(&principal.tenant);
    let place = share.door.enter(shared).await;
    let _left_at_the_end = place.guard();
    if let Err((status, reason)) = check_media_types(&mut parts.headers) {
        return failure(status, None, TRANSPORT_ERROR, &reason);
    }
    let body = body.slice_ref(envelope::without_mark(&body));
    let (envelope, params) = match straight::open(&body, app.config.max_body_depth) {
        Ok(opened) => opened,
        Err(malformed) => {
            return failure(StatusCode::BAD_REQUEST, malformed.id.as_ref(), malformed.code, &malformed.reason);
        }
    };
    let id = envelope.id.as_ref();
    if has_two_versions(&parts.headers) {
        return two_versions(id);
    }
    let initializes = envelope.method.as_deref() == Some("initialize");
    let visit = match visit {
        Some(visit) => visit,
        // The client has lost its session, and asks for another as it was told to.
        None if initializes => {
            parts.headers.remove(&SESSION_HEADER);
            Box::new(Visit::of(principal))
        }
        None => return no_session(id),
    };
    if initializes && asks_for_a_version(&envelope) {
        // The version is what is being negotiated: the header has no meaning before.
        parts.headers.remove(&VERSION_HEADER);
    }
    let opens = initializes && !visit.is_in_session();
    let room = if opens {
        app.sessions.prepare_opening(&visit, share.limits.sessions, &share.memory).await
    } else {
        app.sessions.prepare(&visit, &share.memory).await
    };
    if let Err(full) = room {
        return busy(id, "sessions", &full.to_string());
    }
    let listens = envelope.id.as_ref().filter(|_| envelope.method.as_deref() == Some(LISTEN));
    let stream = match envelope.method.as_deref() {
        Some(LISTEN) => match share.door.stream(share.limits.streams) {
            Some(stream) => Some(stream),
            None => return no_stream(id, share),
        },
        _ => None,
    };
    // A client cannot come back for an answer that is no stream.
    let mut hold = hold(app, share, held, stream, false);
    let mut claim = None;
    if let (Some(id), Some(_)) = (&envelope.id, &envelope.method) {
        match visit.claim_id(id) {
            Ok(claimed) => claim = claimed,
            Err(taken) => {
                return failure(StatusCode::BAD_REQUEST, Some(id), envelope::INVALID_REQUEST, &taken.to_string());
            }
        }
    }
    let way = Way { app, visit: &visit, share, signal, place: &place, writer: &hold.writer, claim: claim.as_ref() };
    let straight = match params {
        Some(params) => way.answer(&envelope, params, &mut parts).await,
        None => None,
    };
    app.meters.count(straight.is_some());
    if let Some(response) = straight {
        // The client may use the id again as soon as it has read the answer.
        if let Some(claim) = claim {
            drop(claim.release());
        }
        return answer::finish(answer::hold_whole(response, hold), signal, lane, &envelope).await;
    }
    hold.writer = app.results.writer(!is_modern(&parts.headers));
    // The claim goes where the request goes, and is over when its handler is.
    if let Some(claim) = claim {
        parts.extensions.insert(claim);
    }
    if let Some(id) = cancelled(&envelope) {
        visit.cancel(&id);
    }
    supply_method_header(&mut parts.headers, &envelope);
    parts.extensions.insert(signal.clone());
    parts.extensions.insert(place.clone());
    parts.extensions.insert(hold.writer.clone());
    let body = match listens.filter(|_| is_modern(&parts.headers)) {
        Some(id) => subscription::message(id, &envelope, &mut parts),
        None => body.clone(),
    };
    let request = Request::from_parts(parts, Full::new(body));
    let many = match envelope.method.as_deref() {
        Some("tools/list") => app.endpoint.registry().catalog(&share.tenant).tools().len() > LONG_LIST,
        // Their texts and contents have other bounds than a tool's.
        Some("resources/list" | "resources/templates/list" | "resources/read" | "prompts/list" | "prompts/get") => true,
        _ => false,
    };
    if many {
        lane.change_to(Lane::Bulk).await;
    }
    // Boxed, so that a request on the straight way does not carry the engine's state along.
    let response = Box::pin(VISIT.scope(*visit, app.engine.handle(request))).await;
    let response = shape(response.map(Body::new), Some(&envelope)).await;
    answer::finish(answer::hold(response, hold).await, signal, lane, &envelope).await
}

/// Whether the params of `initialize` say a version. Without one it is no handshake, and the modern era has no such method.
fn asks_for_a_version(envelope: &Envelope<'_>) -> bool {
    let params = envelope.params.and_then(|params| serde_json::from_str::<Value>(params.get()).ok());
    params.is_some_and(|params| params.get("protocolVersion").is_some_and(Value::is_string))
}

/// The id of the request that a notification cancels.
fn cancelled(envelope: &Envelope<'_>) -> Option<Value> {
    if envelope.method.as_deref() != Some("notifications/cancelled") {
        return None;
    }
    serde_json::from_str::<Value>(envelope.params?.get()).ok()?.get_mut("requestId").map(Value::take)
}

/// Whether a proxy in front and this host could take the request for one of different versions.
fn has_two_versions(headers: &HeaderMap) -> bool {
    let mut versions = headers.get_all(&VERSION_HEADER).iter();
    versions.next().is_some_and(|first| versions.any(|other| other != first))
}

fn check_media_types(headers: &mut HeaderMap) -> Result<(), (StatusCode, String)> {
    let json = text(headers, &header::CONTENT_TYPE).is_some_and(|value| {
        value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
    });
    if !json {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json".into()));
    }
    media::name_accepted_types(headers);
    Ok(())
}

/// The headers of a notification are not defined; the engine wants the method there.
fn supply_method_header(headers: &mut HeaderMap, envelope: &Envelope<'_>) {
    if let (None, Some(method)) = (&envelope.id, &envelope.method)
        && !headers.contains_key(&METHOD_HEADER)
        && let Ok(method) = HeaderValue::from_str(method)
    {
        headers.insert(&METHOD_HEADER, method);
    }
}

/// Turns an error text of the protocol engine into a JSON-RPC error with the request's id.
async fn shape(response: Response, envelope: Option<&Envelope<'_>>) -> Response {
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
        status => (status, if status.is_server_error() { INTERNAL_ERROR } else { TRANSPORT_ERROR }),
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
