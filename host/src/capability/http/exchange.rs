//! One request and its answer, step by step: the rules, the secrets' grants, the addresses, the connection, the head of the answer.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, header, uri::PathAndQuery};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::{
    HttpAccess, MAX_FIELDS, Requester, Sent,
    connection::{self, AnswerBody},
    substitute::{self, Values},
};
use crate::{
    control::Control,
    grants::http::{DeniedRequest, Scheme, UrlHost, UrlOrigin, split_authority},
    secrets::SecretName,
};

/// Bytes of an answer's head, and of the part of its body that the host reads ahead.
const MAX_READ_AHEAD_BYTES: usize = 64 << 10;
/// How long a connection may take if the guest does not say: a name with several addresses has then time left for the next.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// A request that the rules allow, on its way.
pub(super) struct Exchange {
    request: Request<WasiBody>,
    way: RequestWay,
    places: Arc<Semaphore>,
    patience: RequestPatience,
}

/// Destination of a request, and the permissions and secrets for it.
struct RequestWay {
    method: http::Method,
    path: String,
    origin: UrlOrigin,
    secrets: Vec<SecretName>,
    access: HttpAccess,
    requester: Requester,
    control: Arc<Control>,
}

/// How long each step may take; never beyond the call's deadline, which ends it anyway.
struct RequestPatience {
    turn: Duration,
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Exchange {
    /// Checks a request as the guest wrote it.
    pub(super) fn check(
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
        access: HttpAccess,
        requester: Requester,
        control: Arc<Control>,
        places: Arc<Semaphore>,
    ) -> Result<Self, Error> {
        let origin = allowed(&request, &access).map_err(|denied| deny(&requester, &denied))?;
        if request.headers().len() > MAX_FIELDS {
            return Err(Error::HttpRequestHeaderSectionSize(u32::try_from(request.headers().len()).ok()));
        }
        let secrets = secrets(&request, &origin, &access, &requester)?;
        let (method, path) = (request.method(), request.uri().path());
        requester.witness.used(format!("[[http]]\nurl = \"{origin}{path}\"\nmethods = [\"{method}\"]"));
        for name in &secrets {
            requester.witness.used(format!("[secrets]\n{name} = [\"{origin}\"]"));
        }
        name_effect(&mut request, &origin, &access, &requester);
        let host = HeaderValue::from_str(&origin.authority()).map_err(|_| Error::HttpRequestUriInvalid)?;
        request.headers_mut().insert(header::HOST, host);
        // One connection for one request: nothing of an answer can be taken for a part of the next.
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let left = control.deadline().saturating_duration_since(Instant::now());
        let asked =
            |get: fn(&RequestOptions) -> Option<Duration>| options.as_ref().and_then(get).unwrap_or(left).min(left);
        let patience = RequestPatience {
            turn: asked(|options| options.connect_timeout),
            connect: asked(|options| options.connect_timeout).min(CONNECT_PATIENCE),
            first_byte: asked(|options| options.first_byte_timeout),
            between_bytes: asked(|options| options.between_bytes_timeout),
        };
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let way = RequestWay { method, path, origin, secrets, access, requester, control };
        Ok(Self { request, way, places, patience })
    }

    /// Sends the request. Dropping the future ends it.
    pub(super) async fn run(mut self) -> Result<Sent, Error> {
        // The request waits for a permit of its own call, then for one of its tenant. It waits as long as the call may take, unless the guest limited the time
        // to connect.
        let RequestWay { control, access, requester, .. } = &self.way;
        let turn_until = Instant::now() + self.patience.turn;
        let own = timeout_at(turn_until, self.places.clone().acquire_owned());
        let own = own.await.map_err(|_| Error::ConnectionLimitReached)?;
        let permit = timeout_at(turn_until, access.outbound.connections.take(&requester.tenant));
        let permit = permit.await.map_err(|_| Error::ConnectionLimitReached)?;
        let over = control.over();
        let connect_until = Instant::now() + self.patience.connect;
        self.put_in_secrets().await?;
        let addresses = timeout_at(connect_until, self.way.addresses()).await.map_err(|_| Error::DnsTimeout)??;
        let RequestWay { access, origin, control, .. } = &self.way;
        let (outbound, origin, control) = (Arc::clone(&access.outbound), origin.clone(), Arc::clone(control));
        let connecting = async move { connection::connect(&outbound, &origin, &addresses, &control).await };
        let stream = timeout_at(connect_until, access.outbound.run(connecting)).await;
        let stream = stream.map_err(|_| Error::ConnectionTimeout)?.map_err(|_| Error::ConnectionTerminated)??;
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_buf_size(MAX_READ_AHEAD_BYTES).max_headers(MAX_FIELDS);
        let handshake = builder.handshake(hyper_util::rt::TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| connection::explain(&error))?;
        let endless = connection::bound_interim(&mut self.request);
        let ends = endless.clone();
        let worker = access.outbound.run(async move {
            let _until_the_end = (own, permit);
            tokio::select! {
                _its_error_is_the_bodys = connection => {}
                // The instance may stay with its open handles. Its connections end with the call.
                () = over.cancelled() => {}
                () = ends.cancelled() => {}
            }
        });
        let Self { request, way: RequestWay { control, .. }, patience, .. } = self;
        let answer = tokio::time::timeout(patience.first_byte, sender.send_request(request)).await;
        let answer = answer.map_err(|_| Error::ConnectionReadTimeout)?.map_err(|error| {
            if endless.is_cancelled() { Error::HttpProtocolError } else { connection::explain(&error) }
        })?;
        let (mut parts, body) = answer.into_parts();
        parts.headers = redacted(parts.headers, &control);
        let body = AnswerBody::boxed(body, patience.between_bytes, control);
        let work = async move {
            let _its_end = worker.await;
            Ok(())
        };
        Ok((http::Response::from_parts(parts, body), Box::new(work)))
    }

    /// Replaces the placeholders, and the URL by the form for a request's first line.
    async fn put_in_secrets(&mut self) -> Result<(), Error> {
        let values = self.way.open().await?;
        substitute::hide(&values, self.way.control.redactor());
        let unfit = || {
            deny(&self.way.requester, &DeniedRequest::never("a secret cannot stand in a header or query".to_owned()))
        };
        let mut headers = HeaderMap::with_capacity(self.request.headers().len());
        for (name, value) in self.request.headers() {
            headers.append(name, substitute::header(value, &values).ok_or_else(unfit)?);
        }
        let uri = self.request.uri();
        let target = match uri.query() {
            None => uri.path().to_owned(),
            Some(query) => format!("{}?{}", uri.path(), *substitute::query(query, &values).ok_or_else(unfit)?),
        };
        let target = PathAndQuery::from_maybe_shared(target).map_err(|_| Error::HttpRequestUriTooLong)?;
        *self.request.headers_mut() = headers;
        *self.request.uri_mut() = target.into();
        Ok(())
    }
}

impl RequestWay {
    /// The addresses of the host, all of them allowed.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Error> {
        let found = match &self.origin.host {
            UrlHost::Address(address) => vec![*address],
            UrlHost::Name(name) => {
                self.access.outbound.resolve(&self.requester.tenant, name).await.map_err(|error| {
                    tracing::info!(name, %error, "a name was not found");
                    Error::DnsError { rcode: Some("not found".into()), info_code: None }
                })?
            }
        };
        let rules = &self.access.grant.rules;
        for address in &found {
            let allowed = rules.allows_address(self.method.as_str(), &self.origin, &self.path, *address);
            allowed.map_err(|denied| deny(&self.requester, &denied))?;
        }
        if found.is_empty() {
            return Err(Error::DnsError { rcode: Some("no address".into()), info_code: None });
        }
        Ok(found.into_iter().map(|address| SocketAddr::new(address, self.origin.port)).collect())
    }

    /// Values of the request's secrets.
    async fn open(&self) -> Result<Values, Error> {
        if self.secrets.is_empty() {
            return Ok(Values::new());
        }
        let (secrets, names) = (Arc::clone(&self.access.secrets), self.secrets.clone());
        let opening = tokio::task::spawn_blocking(move || {
            names.into_iter().map(|name| secrets.open(&name).map(|value| (name, value))).collect::<Result<Values, _>>()
        });
        match opening.await {
            Ok(Ok(values)) => Ok(values),
            Ok(Err(error)) => Err(deny(&self.requester, &DeniedRequest::never(crate::error::chain(&error)))),
            Err(_) => Err(Error::HttpRequestDenied),
        }
    }
}

/// Origin of the request's URL, if a rule allows the request.
fn allowed(request: &Request<WasiBody>, access: &HttpAccess) -> Result<UrlOrigin, DeniedRequest> {
    let uri = request.uri();
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let Some((host, port)) = split_authority(authority) else {
        return Err(DeniedRequest::never(format!("{authority:?} is not a host and perhaps a port")));
    };
    access.grant.rules.check(request.method().as_str(), scheme, host, port, uri.path())?;
    if substitute::in_path(uri.path()) {
        return Err(DeniedRequest::never(
            "a secret's placeholder may stand in a header or the query, not in the path".to_owned(),
        ));
    }
    let (Some(scheme), Ok(host)) = (Scheme::parse(scheme), UrlHost::parse(host)) else {
        return Err(DeniedRequest::never("the URL is not one".to_owned()));
    };
    Ok(UrlOrigin { scheme, host, port: port.unwrap_or(scheme.port()) })
}

/// Secrets that a request has placeholders of, all granted for its destination.
fn secrets(
    request: &Request<WasiBody>,
    origin: &UrlOrigin,
    access: &HttpAccess,
    requester: &Requester,
) -> Result<Vec<SecretName>, Error> {
    let names = substitute::named(request.headers(), request.uri().query());
    let names = names.map_err(|error| deny(requester, &DeniedRequest::never(error.to_string())))?;
    match names.iter().find(|name| !access.grant.secrets.allow(name, origin)) {
        None => Ok(names.into_iter().collect()),
        Some(name) => {
            let Requester { tenant, component, tool, witness, .. } = requester;
            let add = format!("[secrets]\n{name} = [\"{origin}\"]");
            let reason = format!("the secret {name} is not granted for {origin}");
            tracing::warn!(%tenant, %component, %tool, reason, add, "an HTTP request was denied");
            witness.denied(Some(add), reason);
            Err(Error::HttpRequestDenied)
        }
    }
}

/// Adds the key of its effect to a request that may have one, in the header that the rule names. A key that the guest wrote itself stays.
fn name_effect(request: &mut Request<WasiBody>, origin: &UrlOrigin, access: &HttpAccess, requester: &Requester) {
    let (method, path) = (request.method().as_str(), request.uri().path());
    if ["GET", "HEAD", "OPTIONS"].contains(&method) {
        return;
    }
    let Some(name) = access.grant.rules.idempotency_header(method, origin, path).cloned() else { return };
    let query = request.uri().query().unwrap_or_default();
    let Some(key) = requester.effects.next(&["http", method, &origin.to_string(), path, query]) else { return };
    if let (http::header::Entry::Vacant(header), Ok(key)) =
        (request.headers_mut().entry(name), HeaderValue::from_str(&key.to_string()))
    {
        header.insert(key);
    }
}

/// Notes for the operator why the host denies a request, and which rule would allow it. The guest learns neither.
fn deny(requester: &Requester, denied: &DeniedRequest) -> Error {
    let Requester { tenant, component, tool, witness, .. } = requester;
    let (reason, add) = (denied.to_string(), denied.advice());
    tracing::warn!(%tenant, %component, %tool, reason, add, "an HTTP request was denied");
    witness.denied(add, reason);
    Error::HttpRequestDenied
}

/// Fields in which no secret of the call is repeated.
pub(super) fn redacted(headers: HeaderMap, control: &Control) -> HeaderMap {
    let mut clean = HeaderMap::with_capacity(headers.len());
    let mut last = None;
    for (name, value) in headers {
        last = name.or(last);
        let bytes = control.redactor().bytes(value.as_bytes().to_vec());
        if let (Some(name), Ok(value)) = (&last, HeaderValue::from_bytes(&bytes)) {
            clean.append(name.clone(), value);
        }
    }
    clean
}
