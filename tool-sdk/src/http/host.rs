//! Sending a request through `wasi:http`.

use super::{HttpError, Request, Response, Url};
use crate::bindings::wasi::{
    http::{
        outgoing_handler,
        types::{
            ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody,
            OutgoingRequest, RequestOptions, Scheme, http_error_code,
        },
    },
    io::streams::{InputStream, OutputStream, StreamError},
};

/// The part of a body that is read at once, in bytes.
const CHUNK_BYTES: u64 = 64 << 10;

pub(super) fn send(request: &Request, url: &Url<'_>) -> Result<Response, HttpError> {
    let outgoing = head(request, url)?;
    let options = RequestOptions::new();
    let timeout = request.timeout.map(|timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
    let set = [
        options.set_connect_timeout(timeout),
        options.set_first_byte_timeout(timeout),
        options.set_between_bytes_timeout(timeout),
    ];
    if set.iter().any(Result::is_err) {
        return Err(HttpError::Invalid("the timeout is not one".into()));
    }
    let body = if request.body.is_empty() { None } else { outgoing.body().ok() };
    let future = outgoing_handler::handle(outgoing, Some(options)).map_err(explain)?;
    if let Some(body) = body {
        // A host that takes no more of the body has an answer already, or a reason.
        if let Ok(stream) = body.write() {
            if write(&stream, &request.body).is_ok() {
                drop(stream);
                let _the_answer_says_more = OutgoingBody::finish(body, None);
            }
        }
    }
    receive(wait(&future)?)
}

fn head(request: &Request, url: &Url<'_>) -> Result<OutgoingRequest, HttpError> {
    let fields = Fields::new();
    for (name, value) in &request.headers {
        fields
            .append(name, value)
            .map_err(|error| HttpError::Invalid(format!("the header {name:?} cannot be set: {error}")))?;
    }
    if !request.body.is_empty() && !fields.has("content-length") {
        let length = request.body.len().to_string();
        fields
            .append("content-length", length.as_bytes())
            .map_err(|error| HttpError::Invalid(format!("the body's length cannot be set: {error}")))?;
    }
    let outgoing = OutgoingRequest::new(fields);
    let scheme = match url.scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => return Err(HttpError::Invalid(format!("the scheme {other:?} is neither http nor https"))),
    };
    let set = [
        ("method", outgoing.set_method(&method(&request.method))),
        ("scheme", outgoing.set_scheme(Some(&scheme))),
        ("host", outgoing.set_authority(Some(url.authority))),
        ("path", outgoing.set_path_with_query(Some(&url.target))),
    ];
    for (what, set) in set {
        set.map_err(|()| HttpError::Invalid(format!("its {what} is not one")))?;
    }
    Ok(outgoing)
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "PATCH" => Method::Patch,
        "OPTIONS" => Method::Options,
        other => Method::Other(other.to_owned()),
    }
}

fn write(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        let room = usize::try_from(stream.check_write()?).unwrap_or(usize::MAX);
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        stream.write(now)?;
        bytes = rest;
    }
    stream.flush()
}

fn wait(future: &FutureIncomingResponse) -> Result<IncomingResponse, HttpError> {
    loop {
        match future.get() {
            Some(Ok(answer)) => return answer.map_err(explain),
            Some(Err(())) => return Err(HttpError::Protocol("the answer was taken already".into())),
            None => future.subscribe().block(),
        }
    }
}

fn receive(response: IncomingResponse) -> Result<Response, HttpError> {
    let status = response.status();
    let headers = response.headers().entries();
    let taken = || HttpError::Protocol("the body was taken already".into());
    let body: IncomingBody = response.consume().map_err(|()| taken())?;
    let stream = body.stream().map_err(|()| taken())?;
    Ok(Response { status, headers, body: read(&stream)? })
}

fn read(stream: &InputStream) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(CHUNK_BYTES) {
            Ok(chunk) => body.extend_from_slice(&chunk),
            Err(StreamError::Closed) => return Ok(body),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match http_error_code(&error) {
                    Some(code) => explain(code),
                    None => broken(&error.to_debug_string()),
                });
            }
        }
    }
}

/// Why a body broke off, where the host says it in words only.
fn broken(words: &str) -> HttpError {
    if words.to_ascii_lowercase().contains("timeout") {
        HttpError::Timeout("the rest of the answer did not come".into())
    } else {
        HttpError::Connection(format!("the answer broke off: {words}"))
    }
}

fn explain(code: ErrorCode) -> HttpError {
    let words = format!("{code:?}");
    match code {
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => HttpError::Denied,
        ErrorCode::DnsTimeout | ErrorCode::DnsError(_) | ErrorCode::DestinationNotFound => HttpError::Dns(words),
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => HttpError::Timeout(words),
        ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionRefused
        | ErrorCode::ConnectionTerminated
        | ErrorCode::ConnectionLimitReached => HttpError::Connection(words),
        ErrorCode::TlsProtocolError | ErrorCode::TlsCertificateError | ErrorCode::TlsAlertReceived(_) => {
            HttpError::Tls(words)
        }
        ErrorCode::HttpRequestMethodInvalid | ErrorCode::HttpRequestUriInvalid => HttpError::Invalid(words),
        ErrorCode::InternalError(reason) => HttpError::Connection(reason.unwrap_or_default()),
        ErrorCode::HttpRequestBodySize(_)
        | ErrorCode::HttpRequestUriTooLong
        | ErrorCode::HttpRequestHeaderSectionSize(_)
        | ErrorCode::HttpRequestHeaderSize(_)
        | ErrorCode::HttpResponseHeaderSectionSize(_)
        | ErrorCode::HttpResponseHeaderSize(_)
        | ErrorCode::HttpResponseBodySize(_) => HttpError::TooLarge(words),
        _ => HttpError::Protocol(words),
    }
}
