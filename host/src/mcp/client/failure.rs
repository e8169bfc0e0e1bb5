//! A failure of the transport, in words for the client's user: rmcp's own words name its Rust types.

use std::error::Error;

use reqwest::StatusCode;
use rmcp::{
    service::{ClientInitializeError, ServiceError},
    transport::{DynamicTransportError, streamable_http_client::StreamableHttpError},
};

use super::ClientError;

/// Most characters of a server's own words in an error.
const MAX_WORDS: usize = 300;

type HttpError = StreamableHttpError<reqwest::Error>;

/// Why no conversation with the server at `url` began.
pub(super) fn of_connection(url: &str, error: ClientInitializeError) -> ClientError {
    let broken = |reason: String| ClientError::Connect { url: url.to_owned(), reason: shown(&reason) };
    match error {
        ClientInitializeError::JsonRpcError(error) => error.into(),
        // The server knows neither beginning; its answer to the second one says why.
        ClientInitializeError::LegacyFallbackFailed { fallback, .. } => of_connection(url, *fallback),
        ClientInitializeError::TransportError { error, .. } => match http(&error) {
            Some(error) => of_http(url, error).unwrap_or_else(|| broken(cause(error))),
            None => broken(cause(error.error.as_ref())),
        },
        ClientInitializeError::ConnectionClosed(reason) => broken(reason),
        other => ClientError::NotMcp { url: url.to_owned(), reason: shown(&other.to_string()) },
    }
}

/// Why a request of a conversation with the server at `url` has no answer.
pub(super) fn of_request(url: &str, error: ServiceError) -> ClientError {
    match error {
        ServiceError::McpError(error) => error.into(),
        ServiceError::TransportSend(error) => {
            let known = http(&error).and_then(|error| of_http(url, error));
            known.unwrap_or_else(|| ClientError::Broken(shown(&cause(error.error.as_ref()))))
        }
        error => ClientError::Broken(shown(&crate::error::chain(&error))),
    }
}

/// The failure of HTTP in an error of the transport, if it is one.
fn http(error: &DynamicTransportError) -> Option<&HttpError> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error.error.as_ref());
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The failure of HTTP, where the server answered and its answer says that repeating the request is of no use.
fn of_http(url: &str, error: &HttpError) -> Option<ClientError> {
    let url = url.to_owned();
    match error {
        StreamableHttpError::AuthRequired(_) => Some(ClientError::NoAdmission),
        StreamableHttpError::UnexpectedServerResponse(words) => Some(match status_in(words) {
            Some(StatusCode::UNAUTHORIZED) => ClientError::NoAdmission,
            Some(StatusCode::NOT_FOUND) => ClientError::NoEndpoint { url },
            _ => ClientError::NotMcp { url, reason: shown(words) },
        }),
        StreamableHttpError::UnexpectedContentType(_)
        | StreamableHttpError::Deserialize(_)
        | StreamableHttpError::InsufficientScope(_) => {
            Some(ClientError::NotMcp { url, reason: shown(&error.to_string()) })
        }
        _ => None,
    }
}

/// The status in rmcp's `HTTP 404 Not Found: BODY`.
fn status_in(words: &str) -> Option<StatusCode> {
    words.strip_prefix("HTTP ")?.get(..3)?.parse().ok()
}

/// The words of the innermost error.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut error = match error.downcast_ref::<HttpError>() {
        // It does not name this error as its source.
        Some(StreamableHttpError::Client(error)) => error as &(dyn Error + 'static),
        _ => error,
    };
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Words from elsewhere: bounded, and in one line.
fn shown(words: &str) -> String {
    let words = words.trim().trim_end_matches(':');
    let line = words.chars().take(MAX_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    if words.chars().nth(MAX_WORDS).is_some() { line + "…" } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(error: HttpError) -> String {
        let error = DynamicTransportError::from_parts("rmcp::Worker<T>", std::any::TypeId::of::<()>(), Box::new(error));
        let error = ClientInitializeError::TransportError { error, context: "send discover request".into() };
        of_connection("http://127.0.0.1:1/mcp", error).to_string()
    }

    #[test]
    fn a_failure_is_said_in_words_and_not_in_types() {
        let unexpected = |words: &str| StreamableHttpError::UnexpectedServerResponse(words.to_owned().into());
        for (error, says) in [
            (unexpected("HTTP 401 Unauthorized: "), "it needs a token (--token, MCPP_TOKEN)"),
            (unexpected("HTTP 404 Not Found: "), "there is no MCP endpoint at http://127.0.0.1:1/mcp (404)"),
            (unexpected("HTTP 403 Forbidden: this host\nis not known"), "MCP server: HTTP 403 Forbidden: this host is"),
            (std::io::Error::other("refused").into(), "cannot reach http://127.0.0.1:1/mcp: "),
        ] {
            let said = said(error);
            assert!(said.contains(says) && !said.contains("rmcp"), "{said}");
        }
        let long = said(unexpected(&format!("HTTP 400 Bad Request: {}", "x".repeat(1 << 16))));
        assert!(long.len() < 2 * MAX_WORDS, "{long}");
    }
}
