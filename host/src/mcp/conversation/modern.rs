//! Requests of the modern era: each is served alone, a plain one straight and any other by a handler of its own.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::BoxFuture;
use rmcp::{
    RoleServer,
    model::{ClientJsonRpcMessage, ClientRequest, JsonRpcRequest, RequestId},
    service::serve_directly_with_ct,
    transport::OneshotTransport,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::output::MessageOutput;
use crate::{
    mcp::{
        handler::{Endpoint, ProtocolHandler},
        in_flight::{Held, IdClaim, answered},
        straight::{self, Era, PlainRequest},
        tasks::TaskCaller,
        tools,
        written::ResultWriter,
    },
    tasks::EntryRight,
    tenant::Principal,
};

/// The requests that are served now. As many as may be in flight.
#[derive(Debug, Clone, Default)]
pub(super) struct ModernRequests(Arc<Mutex<HashMap<RequestId, Served>>>);

/// The answer to a plain request, which somebody has to wait for.
pub(super) struct PlainAnswer {
    line: BoxFuture<'static, Option<Vec<u8>>>,
    cancel: CancellationToken,
}

impl PlainAnswer {
    /// Begins to answer a request of the modern era.
    pub(super) fn begin(
        endpoint: &Endpoint,
        (principal, right): (&Principal, EntryRight),
        id: &RequestId,
        request: PlainRequest<'_>,
        writer: Option<ResultWriter>,
    ) -> Self {
        let (endpoint, principal, id) = (endpoint.clone(), principal.clone(), id.clone().into_json_value());
        let call = match request {
            PlainRequest::Call(call) => call,
            PlainRequest::List(cursor) => {
                let cursor = cursor.map(Cow::into_owned);
                let list =
                    async move { straight::list(&endpoint, &principal, &id, Era::Modern, cursor.as_deref()).await };
                return Self { line: Box::pin(list), cancel: CancellationToken::new() };
            }
        };
        match endpoint.begin_call(&principal, *call, None) {
            Ok(mut running) => {
                let cancel = running.cancel_token().clone();
                let answer = async move {
                    let outcome = loop {
                        if let Some(outcome) = running.end_in_silence(None).await {
                            break outcome;
                        }
                        let round = running.take_round()?;
                        match endpoint.park(TaskCaller { principal: &principal, right }, running, round) {
                            Ok(required) => {
                                return straight::write(&id, Era::Modern, Ok(required.into())).ok();
                            }
                            Err(goes_on) => running = *goes_on,
                        }
                    };
                    let share = endpoint.registry().share(&principal.tenant);
                    let undeclared = running.client().undeclared();
                    let answer =
                        tools::answer(outcome, running.wants_receipt, undeclared, writer.as_ref(), share, None).await;
                    straight::write(&id, Era::Modern, straight::completed(answer)).ok()
                };
                Self { line: Box::pin(answer), cancel }
            }
            Err(refused) => {
                let line = straight::write(&id, Era::Modern, Err(refused)).ok();
                Self { line: Box::pin(std::future::ready(line)), cancel: CancellationToken::new() }
            }
        }
    }
}

#[derive(Debug)]
struct Served {
    cancel: CancellationToken,
    is_subscription: bool,
}

impl ModernRequests {
    fn served(&self) -> MutexGuard<'_, HashMap<RequestId, Served>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a request beside all others.
    pub(super) fn serve(
        &self,
        handler: ProtocolHandler,
        (request, is_subscription): (JsonRpcRequest<ClientRequest>, bool),
        claim: IdClaim,
        output: MessageOutput,
        tasks: &TaskTracker,
    ) {
        let id = request.id.clone();
        let cancel = CancellationToken::new();
        self.served().insert(id.clone(), Served { cancel: cancel.clone(), is_subscription });
        let requests = self.clone();
        tasks.spawn(async move {
            let (transport, mut messages) = OneshotTransport::<RoleServer>::new(ClientJsonRpcMessage::Request(request));
            let service = serve_directly_with_ct(handler, transport, None, cancel.clone());
            let mut is_answered = false;
            while !is_answered {
                let message = tokio::select! {
                    biased;
                    // A cancelled request has no answer.
                    () = cancel.cancelled() => break,
                    message = messages.recv() => message,
                };
                let Some(message) = message else { break };
                is_answered = answered(&message).is_some();
                let mut held = Held::nothing();
                if is_answered {
                    // The client may use the id again as soon as it has read the answer.
                    requests.served().remove(&id);
                    held = claim.release();
                }
                if output.send(message, Some(&id), held).await.is_err() {
                    break;
                }
            }
            if !is_answered {
                requests.served().remove(&id);
                // The engine waits for its own last word, which nobody takes any more.
                cancel.cancel();
            }
            drop(messages);
            if let Err(error) = service.waiting().await {
                tracing::debug!(%error, "a request's service ended badly");
            }
        });
    }

    /// Answers a plain request beside all others.
    pub(super) fn answer(
        &self,
        id: RequestId,
        answer: PlainAnswer,
        claim: IdClaim,
        output: MessageOutput,
        tasks: &TaskTracker,
    ) {
        let PlainAnswer { line, cancel } = answer;
        self.served().insert(id.clone(), Served { cancel: cancel.clone(), is_subscription: false });
        let requests = self.clone();
        tasks.spawn(async move {
            // A cancelled call ends soon, by itself.
            let line = line.await;
            // The client may use the id again as soon as it has read the answer.
            requests.served().remove(&id);
            let held = claim.release();
            // A cancelled request has no answer.
            if let Some(line) = line.filter(|_| !cancel.is_cancelled())
                && let Err(error) = output.write(line, held).await
            {
                tracing::debug!(%error, "an answer could not be written");
            }
        });
    }

    /// Cancels a request; whether there was one with this id.
    pub(super) fn cancel(&self, id: &RequestId) -> bool {
        match self.served().get(id) {
            Some(served) => {
                served.cancel.cancel();
                true
            }
            None => false,
        }
    }

    /// Cancels those that would go on for as long as the client is there.
    pub(super) fn end_subscriptions(&self) {
        for served in self.served().values().filter(|served| served.is_subscription) {
            served.cancel.cancel();
        }
    }

    /// Cancels all.
    pub(super) fn cancel_all(&self) {
        for served in self.served().values() {
            served.cancel.cancel();
        }
    }
}
