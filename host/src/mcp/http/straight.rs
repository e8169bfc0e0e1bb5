//! Plain requests, answered in the task of their connection ([`crate::mcp::straight`]).

use std::{sync::Arc, task::Poll, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use rmcp::model::{ErrorCode, ErrorData, ProtocolVersion, ServerResult};
use serde_json::Value;

use super::{App, exchange::is_modern, media};
use crate::{
    call::CallError,
    control::admission::Share,
    mcp::{
        envelope::Envelope,
        handler::{HandedOver, RefusalSignal},
        headers::{METHOD_HEADER, NAME_HEADER, TRACE_HEADER, VERSION_HEADER, text},
        in_flight::IdClaim,
        running::RunningCall,
        session::visit::Visit,
        straight::{self, Era, MODERN, PlainParams, PlainRequest},
        tools,
        written::ResultWriter,
    },
    registry::tool::Tool,
    tenant::door::DoorPermit,
};

/// A legacy client may come back for the answer of a call that takes longer than this.
const SOON: Duration = Duration::from_millis(100);
const PARAM_HEADERS: &str = "mcp-param-";

/// A request's context on its way.
pub(super) struct Way<'a> {
    pub(super) app: &'a App,
    pub(super) visit: &'a Visit,
    pub(super) share: &'a Arc<Share>,
    pub(super) signal: &'a RefusalSignal,
    pub(super) place: &'a DoorPermit,
    pub(super) writer: &'a ResultWriter,
    pub(super) claim: Option<&'a IdClaim>,
}

impl Way<'_> {
    /// Answers the request, if it is plain. Else the engine does; a call that runs by then is among the `parts`.
    pub(super) async fn answer(
        &self,
        envelope: &Envelope<'_>,
        params: PlainParams<'_>,
        parts: &mut Parts,
    ) -> Option<Response<Bytes>> {
        let era = self.era(&parts.headers)?;
        let traceparent = text(&parts.headers, &TRACE_HEADER);
        let request = straight::read(envelope, params, era, traceparent)?;
        let registry = self.app.endpoint.registry();
        let catalog = registry.catalog(&self.share.tenant);
        let tool = request.tool(&catalog);
        if !is_plain(&request, tool.as_deref(), era, &parts.headers)
            || request.may_be_task(registry, &catalog, tool.as_deref(), &self.visit.principal)
        {
            return None;
        }
        drop((tool, catalog));
        let result = match request {
            PlainRequest::List(cursor) => {
                let (endpoint, principal) = (&self.app.endpoint, &self.visit.principal);
                let page = straight::list(endpoint, principal, envelope.id.as_ref()?, era, cursor.as_deref()).await;
                return page.map(json);
            }
            PlainRequest::Call(request) => match self.app.endpoint.begin_call(&self.visit.principal, *request, None) {
                Ok(running) => match self.run(Box::new(running), era).await {
                    Run::Ended(result) => *result,
                    Run::Cancelled => return Some(unanswered()),
                    Run::GoesOn(running) => {
                        parts.extensions.insert(HandedOver::new(*running));
                        return None;
                    }
                },
                Err(refused) => Err(refused),
            },
        };
        written(envelope.id.as_ref()?, era, result)
    }

    fn era(&self, headers: &HeaderMap) -> Option<Era<'_>> {
        if is(headers, &VERSION_HEADER, Some(MODERN)) {
            return Some(Era::Modern);
        }
        // A later version the engine refuses.
        if is_modern(headers) {
            return None;
        }
        let known = |version: &HeaderValue| {
            ProtocolVersion::KNOWN_VERSIONS.iter().any(|known| known.as_str().as_bytes() == version.as_bytes())
        };
        headers.get(&VERSION_HEADER).is_none_or(known).then(|| self.visit.live_session().map(Era::Legacy)).flatten()
    }

    /// Waits for the call's answer; gives the call back if more than an answer is needed. A modern client that goes away takes its call with it, a legacy one does not.
    async fn run(&self, running: Box<RunningCall>, era: Era<'_>) -> Run {
        let patience = match era {
            Era::Legacy(_) => Some(SOON),
            Era::Modern => None,
        };
        if let Some(claim) = self.claim {
            claim.is_stopped_by(running.cancel_token());
        }
        let (wants_receipt, client) = (running.wants_receipt, running.client().clone());
        let mut attended = Attended { running: Some(running), era, claim: self.claim };
        let outcome = match &mut attended.running {
            Some(running) => {
                let mut ending = std::pin::pin!(running.end_in_silence(patience));
                match futures::poll!(&mut ending) {
                    Poll::Ready(outcome) => outcome,
                    // As long as it computes here no other request of its tenant is served; one that waits stands in nobody's way.
                    Poll::Pending => {
                        self.place.leave();
                        ending.await
                    }
                }
            }
            None => None,
        };
        let Some(running) = attended.running.take() else { return Run::Cancelled };
        let Some(outcome) = outcome else { return Run::GoesOn(running) };
        if running.cancel_token().is_cancelled() && matches!(outcome.0, Err(CallError::Cancelled)) {
            return Run::Cancelled;
        }
        let share = Some(Arc::clone(self.share));
        let undeclared = client.undeclared().filter(|_| matches!(era, Era::Modern));
        let answer =
            tools::answer(outcome, wants_receipt, undeclared, Some(self.writer), share, Some(self.signal)).await;
        Run::Ended(Box::new(straight::completed(answer)))
    }
}

/// The state of a call.
enum Run {
    Ended(Box<Result<ServerResult, ErrorData>>),
    /// Its client has said that it wants no answer.
    Cancelled,
    /// It is to be waited for in another way.
    GoesOn(Box<RunningCall>),
}

/// The end of a request that gets no answer: a stream without a message, as the engine's.
fn unanswered() -> Response<Bytes> {
    response("text/event-stream", Bytes::new())
}

/// Whether the headers say what the message says, and the client takes JSON.
fn is_plain(request: &PlainRequest<'_>, tool: Option<&Tool>, era: Era<'_>, headers: &HeaderMap) -> bool {
    if headers.get(header::ACCEPT).is_none_or(|accepted| accepted.as_bytes() != media::BOTH.as_bytes()) {
        return false;
    }
    let Era::Modern = era else { return true };
    let (method, name) = match request {
        PlainRequest::List(_) => ("tools/list", None),
        PlainRequest::Call(call) => ("tools/call", Some(call.tool.as_str())),
    };
    !tool.is_some_and(|tool| tool.names_headers)
        && is(headers, &METHOD_HEADER, Some(method))
        && is(headers, &NAME_HEADER, name)
        && !headers.keys().any(|header| header.as_str().starts_with(PARAM_HEADERS))
}

/// Whether a header says this, once.
fn is(headers: &HeaderMap, name: &HeaderName, expected: Option<&str>) -> bool {
    let mut values = headers.get_all(name).iter();
    values.next().map(HeaderValue::as_bytes) == expected.map(str::as_bytes) && values.next().is_none()
}

/// A call that somebody waits for.
struct Attended<'a> {
    running: Option<Box<RunningCall>>,
    era: Era<'a>,
    claim: Option<&'a IdClaim>,
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        match self.era {
            Era::Modern => running.cancel_token().cancel(),
            Era::Legacy(session) => {
                let kept = (session.busy(), self.claim.cloned());
                tokio::spawn(async move {
                    let _kept = kept;
                    running.run_unheard().await;
                });
            }
        }
    }
}

fn written(id: &Value, era: Era<'_>, result: Result<ServerResult, ErrorData>) -> Option<Response<Bytes>> {
    let status = match &result {
        Err(error) if error.code == ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    };
    let mut response = straight::write(id, era, result).ok().map(json)?;
    *response.status_mut() = status;
    Some(response)
}

fn json(text: Vec<u8>) -> Response<Bytes> {
    response("application/json", text.into())
}

fn response(media_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
