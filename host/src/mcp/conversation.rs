//! One client at two ends of a connection, whose messages come one after the other: lines on standard input, frames of a mesh peer.
//!
//! Each message is checked and answered by itself. Requests of the modern era need no session: each is served alone, a plain one without the protocol engine. `initialize` opens the
//! legacy session. On lines everything after it belongs to that session; on frames each message says to which binding it belongs ([`super::binding`]). The door reads the messages,
//! bounds them, and decides what becomes of a client whose message cannot be read.

mod legacy;
mod modern;
mod output;

use std::time::Duration;

use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, GetExtensions as _, GetMeta as _, JsonRpcRequest,
    ProtocolVersion, RequestId,
};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) use self::output::{Framing, MessageOutput, OF_REQUEST};
use self::{
    legacy::LegacySession,
    modern::{ModernRequests, PlainAnswer},
};
use super::{
    binding::{Binding, Dual},
    convert,
    envelope::{self, Envelope, Malformed},
    handler::Endpoint,
    in_flight::{Held, InFlight},
    listening::{self, LISTEN, ListenPass},
    session::opening,
    straight::{self, Era, PlainParams, PlainRequest},
};
use crate::{
    call::CallError,
    tasks::EntryRight,
    tenant::{Principal, door::StreamPermit},
};

/// A client that has closed its end gets the answers that are made within this time.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// A client that asks for one stream too many may try again after this.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Calls that are stopped then have this long to end.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// How a message finds its era.
#[derive(Debug)]
pub(super) enum BindingRule {
    /// As ordinary MCP clients speak: once a legacy session is open everything belongs to it.
    Ordinary,
    /// Both bindings of MCP++ on one stream.
    Dual(Dual),
}

/// Lets requests in: one that a door has no room for is refused, and has not run.
pub(super) trait Admit: Send {
    /// What the request holds until its answer is written.
    fn admit(&mut self) -> Result<Held, CallError>;
}

/// Of a door with one client.
impl Admit for () {
    fn admit(&mut self) -> Result<Held, CallError> {
        Ok(Held::nothing())
    }
}

/// A message that was read.
pub(super) enum ReadMessage<'a> {
    /// It asks for nothing, and has no answer.
    Nothing,
    /// It is not taken, and this is the answer.
    Refused(Value),
    /// A plain request.
    Plain(RequestId, PlainRequest<'a>, Held),
    /// Any other request.
    Request(JsonRpcRequest<ClientRequest>, Binding, Held),
    /// A notification, or a response.
    Told(ClientJsonRpcMessage),
}

/// One client and everything that it has open.
pub(super) struct Conversation {
    endpoint: Endpoint,
    principal: Principal,
    right: EntryRight,
    rule: BindingRule,
    max_depth: usize,
    in_flight: InFlight,
    modern: ModernRequests,
    legacy: Option<LegacySession>,
    tasks: TaskTracker,
    output: MessageOutput,
}

impl Conversation {
    /// A conversation with a caller that writes to `output`.
    pub(super) fn new(
        endpoint: Endpoint,
        (principal, right): (Principal, EntryRight),
        rule: BindingRule,
        max_depth: usize,
        output: MessageOutput,
    ) -> Self {
        let (in_flight, modern, tasks) = Default::default();
        Self { endpoint, principal, right, rule, max_depth, in_flight, modern, legacy: None, tasks, output }
    }

    /// Whether nothing that was asked is still to be answered.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Takes a message, and answers it beside all others, if the door admits it. Fails if the message cannot be read and an error is its answer.
    pub(super) async fn accept(&mut self, message: &[u8], door: &mut dyn Admit) -> Result<(), Malformed> {
        let read = self.read(message, door)?;
        self.take(read).await;
        Ok(())
    }

    /// Reads a message, and waits for nothing: nobody else has to wait for this client.
    pub(super) fn read<'a>(&mut self, message: &'a [u8], door: &mut dyn Admit) -> Result<ReadMessage<'a>, Malformed> {
        let envelope = match envelope::read(message, self.max_depth) {
            Ok(envelope) => envelope,
            Err(malformed) if malformed.is_unanswered => return Ok(ReadMessage::Nothing),
            Err(malformed) => return Err(malformed),
        };
        let binding = match self.choose(&envelope) {
            Ok(binding) => binding,
            Err(refusal) => return Ok(ReadMessage::Refused(refusal)),
        };
        let held = match &envelope.id {
            None => Held::nothing(),
            Some(id) => match door.admit() {
                Ok(held) => held,
                Err(full) => return Ok(ReadMessage::Refused(no_room(id, full))),
            },
        };
        if let Some((id, plain)) = self.plain(&envelope, binding) {
            return Ok(ReadMessage::Plain(id, plain, held));
        }
        if let Some(subscription) = subscription(&envelope, binding) {
            return Ok(match self.stream() {
                Ok(stream) => ReadMessage::Request(subscription, binding, Held::of((held, stream))),
                Err(full) => ReadMessage::Refused(no_room(&subscription.id.into_json_value(), full)),
            });
        }
        Ok(match serde_json::from_slice(message) {
            Ok(ClientJsonRpcMessage::Request(request)) => ReadMessage::Request(request, binding, held),
            Ok(told) => ReadMessage::Told(told),
            // The outside was checked already: this is a message whose inside is wrong.
            Err(error) if envelope.id.is_some() => {
                let reason = format!("the message is not valid: {error}");
                ReadMessage::Refused(envelope::error(envelope.id.as_ref(), envelope::INVALID_PARAMS, &reason))
            }
            Err(_) => ReadMessage::Nothing,
        })
    }

    /// Does what a message asks for, beside all others. May wait until the client takes what was written before.
    pub(super) async fn take(&mut self, read: ReadMessage<'_>) {
        match read {
            ReadMessage::Nothing => {}
            ReadMessage::Refused(refusal) => self.output.tell(&refusal).await,
            ReadMessage::Plain(id, plain, held) => self.answer((id, plain), held).await,
            ReadMessage::Request(request, binding, held) => self.request(request, binding, held).await,
            ReadMessage::Told(ClientJsonRpcMessage::Notification(notification)) => {
                if let ClientNotification::CancelledNotification(cancelled) = &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                    && self.modern.cancel(id)
                {
                    return;
                }
                self.tell_legacy(ClientJsonRpcMessage::Notification(notification)).await;
            }
            ReadMessage::Told(response) => self.tell_legacy(response).await,
        }
    }

    /// Being one of the tenant's streams.
    fn stream(&self) -> Result<StreamPermit, CallError> {
        let busy = |limit| CallError::Busy { what: "streams of this tenant are open", limit, retry_after: TRY_AGAIN };
        let Some(share) = self.endpoint.registry().share(&self.principal.tenant) else { return Err(busy(0)) };
        let limit = share.limits.streams;
        share.door.stream(limit).ok_or_else(|| busy(usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    fn has_session(&self) -> bool {
        self.legacy.as_ref().is_some_and(|legacy| !legacy.is_over())
    }

    /// The binding to which a message belongs; the answer to one that belongs to none.
    fn choose(&mut self, envelope: &Envelope<'_>) -> Result<Binding, Value> {
        let has_session = self.has_session();
        match &mut self.rule {
            BindingRule::Dual(dual) => dual.choose(envelope, has_session),
            BindingRule::Ordinary if has_session || envelope.method.as_deref() == Some("initialize") => {
                Ok(Binding::Legacy)
            }
            BindingRule::Ordinary => Ok(Binding::Current),
        }
    }

    /// The request, with its id, if it is plain and of the modern era, and nothing but its answer is wanted. The protocol engine serves all others.
    fn plain<'a>(&self, envelope: &Envelope<'a>, binding: Binding) -> Option<(RequestId, PlainRequest<'a>)> {
        if binding == Binding::Legacy {
            return None;
        }
        let id = RequestId::deserialize(envelope.id.as_ref()?).ok()?;
        let plain = straight::read(envelope, PlainParams::of(envelope)?, Era::Modern, None)
            .filter(|plain| !plain.may_speak())?;
        let catalog = self.endpoint.registry().catalog(&self.principal.tenant);
        let tool = plain.tool(&catalog);
        let may_be_task = plain.may_be_task(self.endpoint.registry(), &catalog, tool.as_deref(), &self.principal);
        (!may_be_task).then_some((id, plain))
    }

    async fn answer(&mut self, (id, plain): (RequestId, PlainRequest<'_>), held: Held) {
        match self.in_flight.claim(&id.clone().into_json_value()) {
            Ok(claim) => {
                claim.keep(held);
                let writer = self.output.result_writer();
                let answer = PlainAnswer::begin(&self.endpoint, (&self.principal, self.right), &id, plain, writer);
                self.modern.answer(id, answer, claim, self.output.clone(), &self.tasks);
            }
            Err(taken) => {
                let (id, reason) = (id.into_json_value(), taken.to_string());
                self.output.refuse(Some(&id), envelope::INVALID_REQUEST, &reason).await;
            }
        }
    }

    async fn request(&mut self, mut request: JsonRpcRequest<ClientRequest>, binding: Binding, held: Held) {
        let id = request.id.clone().into_json_value();
        let claim = match self.in_flight.claim(&id) {
            Ok(claim) => claim,
            Err(taken) => {
                return self.output.refuse(Some(&id), envelope::INVALID_REQUEST, &taken.to_string()).await;
            }
        };
        claim.keep(held);
        request.request.extensions_mut().insert(self.right);
        if let Some(writer) = self.output.result_writer() {
            request.request.extensions_mut().insert(writer);
        }
        let initializes = if let ClientRequest::InitializeRequest(initialize) = &mut request.request {
            // The session keeps them for as long as the client is there.
            initialize.params = opening::reduced(&initialize.params);
            true
        } else {
            false
        };
        if initializes && !self.has_session() {
            let handler = self.endpoint.handler(self.principal.clone(), None);
            self.legacy = Some(LegacySession::open(handler, self.in_flight.clone(), self.output.clone(), &self.tasks));
        }
        if binding == Binding::Legacy
            && let Some(legacy) = self.legacy.as_ref().filter(|legacy| !legacy.is_over())
        {
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
        let listens = request.request.extensions().get::<ListenPass>().is_some();
        self.modern.serve(handler, (request, listens), claim, self.output.clone(), &self.tasks);
    }

    async fn tell_legacy(&self, message: ClientJsonRpcMessage) {
        if let Some(legacy) = &self.legacy {
            legacy.tell(message).await;
        }
    }

    /// Waits for the last answers, unless `stop` has fired, and stops what still runs.
    pub(super) async fn leave(&mut self, stop: &CancellationToken) {
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

/// The subscription of the modern era that a message is, as the engine takes it.
fn subscription(envelope: &Envelope<'_>, binding: Binding) -> Option<JsonRpcRequest<ClientRequest>> {
    if binding == Binding::Legacy || envelope.method.as_deref() != Some(LISTEN) {
        return None;
    }
    listening::request(envelope.id.as_ref()?, envelope.params)
}

/// The answer to a request that the door has no room for.
pub(super) fn no_room(id: &Value, full: CallError) -> Value {
    match convert::error(full) {
        Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error }),
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
    }
}
