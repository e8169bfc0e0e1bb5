//! Authenticates requests by their tokens, and makes the answer to a client that may not come in.

use std::sync::Arc;

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};

use super::{
    App,
    refusals::{TRANSPORT_ERROR, failure},
};
use crate::{auth::Stranger, control::admission::Share, tenant::Principal};

/// The principal of a request and the tenant's share of the host, or the answer that refuses the request. While no token was ever made the host serves only loopback (or the
/// proxy that the operator vouches for), as the local user.
pub(super) fn authenticate(app: &App, headers: &HeaderMap) -> Result<(Principal, Arc<Share>), Box<Response>> {
    // Where no token was ever made the header is for another program: a proxy, or an unset variable left it there.
    let shown = if app.authenticator.is_on() { bearer(headers) } else { Ok(None) };
    let who = shown.and_then(|token| app.authenticator.check(token));
    match who {
        Ok(principal) => match app.endpoint.registry().share_of(&principal) {
            Some(share) => Ok((principal, share)),
            None => Err(Box::new(suspended())),
        },
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
