//! The stdio door: one client, one message a line, nothing but MCP on standard output.
//!
//! Each line is checked and answered by itself. Requests of the modern era need no session: each is served alone, a plain one without the protocol engine. `initialize` opens the legacy session, to which everything
//! after it belongs. Until then responses and notifications mean nothing and are ignored. A request that cannot be read gets an error with its id, everything else silence.

mod legacy;
mod lines;
mod modern;

use std::time::Duration;

use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, GetExtensions as _, GetMeta as _, JsonRpcRequest,
    ProtocolVersion, RequestId,
};
use serde::Deserialize as _;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::lines::LineLimits;
use self::{
    legacy::LegacySession,
    lines::{Line, LineOutput},
    modern::{ModernRequests, PlainAnswer},
};
use super::{
    envelope::{self, Envelope},
    handler::Endpoint,
    in_flight::InFlight,
    straight::{self, Era, PlainRequest},
};
use crate::tenant::Principal;

/// A client that has closed its end gets the answers that are made within this time.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Calls that are stopped then have this long to end.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// Serves the client at `input` and `output` as `principal` until it closes its end or `stop` fires.
pub async fn serve(
    endpoint: &Endpoint,
    principal: Principal,
    limits: LineLimits,
    input: impl AsyncRead + Unpin + Send + 'static,
    output: impl AsyncWrite + Unpin + Send + 'static,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let output = LineOutput::new(output);
    let mut client = StdioClient {
        endpoint,
        principal,
        in_flight: InFlight::default(),
        modern: ModernRequests::default(),
        legacy: None,
        tasks: TaskTracker::new(),
        output: output.clone(),
    };
    let result = tokio::select! {
        result = client.read_all(BufReader::new(input), limits) => result,
        () = stop.cancelled() => Ok(()),
        // No client is left to answer.
        () = output.broken() => Ok(()),
    };
    client.leave(&stop).await;
    result
}

struct StdioClient<'a> {
    endpoint: &'a Endpoint,
    principal: Principal,
    in_flight: InFlight,
    modern: ModernRequests,
    legacy: Option<LegacySession>,
    tasks: TaskTracker,
    output: LineOutput,
}

impl StdioClient<'_> {
    async fn read_all(
        &mut self,
        mut input: impl tokio::io::AsyncBufRead + Unpin,
        limits: LineLimits,
    ) -> std::io::Result<()> {
        let mut line = Vec::new();
        loop {
            match lines::read(&mut input, limits.max_bytes, &mut line).await? {
                Line::End => return Ok(()),
                Line::TooLong => {
                    let reason = format!("the line has more than {} bytes", limits.max_bytes);
                    self.output.refuse(None, envelope::INVALID_REQUEST, &reason).await;
                }
                Line::Message => self.accept(envelope::without_mark(&line), limits).await,
            }
        }
    }

    async fn accept(&mut self, line: &[u8], limits: LineLimits) {
        let envelope = match envelope::read(line, limits.max_depth) {
            Ok(envelope) => envelope,
            Err(malformed) if malformed.is_unanswered => return,
            Err(malformed) => {
                return self.output.refuse(malformed.id.as_ref(), malformed.code, &malformed.reason).await;
            }
        };
        if let Some(plain) = self.plain(&envelope) {
            return self.answer(plain).await;
        }
        let message = match serde_json::from_slice(line) {
            Ok(message) => message,
            // The outside was checked already: this is a message whose inside is wrong.
            Err(error) => {
                if envelope.id.is_some() {
                    let reason = format!("the message is not valid: {error}");
                    self.output.refuse(envelope.id.as_ref(), envelope::INVALID_PARAMS, &reason).await;
                }
                return;
            }
        };
        match message {
            ClientJsonRpcMessage::Request(request) => self.request(request).await,
            ClientJsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) = &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                    && self.modern.cancel(id)
                {
                    return;
                }
                self.tell_legacy(ClientJsonRpcMessage::Notification(notification)).await;
            }
            response => self.tell_legacy(response).await,
        }
    }

    /// The request, with its id, if it is plain and of the modern era, and nothing but its answer is wanted. The protocol engine serves all others.
    fn plain<'a>(&self, envelope: &Envelope<'a>) -> Option<(RequestId, PlainRequest<'a>)> {
        if self.legacy.as_ref().is_some_and(|legacy| !legacy.is_over()) {
            return None;
        }
        let id = RequestId::deserialize(envelope.id.as_ref()?).ok()?;
        let plain = straight::read(envelope, Era::Modern, None).filter(|plain| !plain.may_speak())?;
        Some((id, plain))
    }

    async fn answer(&mut self, (id, plain): (RequestId, PlainRequest<'_>)) {
        match self.in_flight.claim(&id.clone().into_json_value()) {
            Ok(claim) => {
                let answer = PlainAnswer::begin(self.endpoint, &self.principal, &id, plain);
                self.modern.answer(id, answer, claim, self.output.clone(), &self.tasks);
            }
            Err(taken) => {
                let (id, reason) = (id.into_json_value(), taken.to_string());
                self.output.refuse(Some(&id), envelope::INVALID_REQUEST, &reason).await;
            }
        }
    }

    async fn request(&mut self, mut request: JsonRpcRequest<ClientRequest>) {
        let id = request.id.clone().into_json_value();
        let claim = match self.in_flight.claim(&id) {
            Ok(claim) => claim,
            Err(taken) => {
                return self.output.refuse(Some(&id), envelope::INVALID_REQUEST, &taken.to_string()).await;
            }
        };
        let initializes = matches!(request.request, ClientRequest::InitializeRequest(_));
        if initializes && self.legacy.as_ref().is_none_or(LegacySession::is_over) {
            let handler = self.endpoint.handler(self.principal.clone(), None);
            self.legacy = Some(LegacySession::open(handler, self.in_flight.clone(), self.output.clone(), &self.tasks));
        }
        if let Some(legacy) = self.legacy.as_ref().filter(|legacy| !legacy.is_over()) {
            // Free again when the answer goes out, or when the engine drops the request.
            request.request.extensions_mut().insert(claim);
            return legacy.tell(ClientJsonRpcMessage::Request(request)).await;
        }
        // A ping is all that may come before `initialize` without saying of which era it is.
        let missing = request.request.get_meta().missing_required_keys(&ProtocolVersion::V_2026_07_28);
        if !missing.is_empty() && !matches!(request.request, ClientRequest::PingRequest(_)) {
            let reason = format!("request _meta is missing or has malformed required fields: {}", missing.join(", "));
            return self.output.refuse(Some(&id), envelope::INVALID_PARAMS, &reason).await;
        }
        let handler = self.endpoint.handler(self.principal.clone(), None);
        self.modern.serve(handler, request, claim, self.output.clone(), &self.tasks);
    }

    async fn tell_legacy(&self, message: ClientJsonRpcMessage) {
        if let Some(legacy) = &self.legacy {
            legacy.tell(message).await;
        }
    }

    /// Waits for the last answers, unless `stop` has fired, and stops what still runs.
    async fn leave(&mut self, stop: &CancellationToken) {
        self.modern.end_subscriptions();
        if let Some(legacy) = &mut self.legacy {
            legacy.close();
        }
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => return,
            () = tokio::time::sleep(LAST_ANSWERS) => {}
            () = stop.cancelled() => {}
            () = self.output.broken() => {}
        }
        self.modern.cancel_all();
        if let Some(legacy) = &self.legacy {
            legacy.cancel();
        }
        let _rest_is_cut = tokio::time::timeout(LAST_STEPS, self.tasks.wait()).await;
    }
}
