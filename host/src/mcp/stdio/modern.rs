//! Requests of the modern era: each is served alone, by a handler of its own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rmcp::{
    RoleServer,
    model::{ClientJsonRpcMessage, ClientRequest, JsonRpcRequest, RequestId},
    service::serve_directly_with_ct,
    transport::OneshotTransport,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::lines::Output;
use crate::mcp::{
    handler::Handler,
    in_flight::{IdClaim, answered},
};

/// The requests that are served now. As many as may be in flight.
#[derive(Debug, Clone, Default)]
pub(super) struct ModernRequests(Arc<Mutex<HashMap<RequestId, Served>>>);

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
        handler: Handler,
        request: JsonRpcRequest<ClientRequest>,
        claim: IdClaim,
        output: Output,
        tasks: &TaskTracker,
    ) {
        let id = request.id.clone();
        let cancel = CancellationToken::new();
        let is_subscription = matches!(request.request, ClientRequest::SubscriptionsListenRequest(_));
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
                if is_answered {
                    // The client may use the id again as soon as it has read the answer.
                    requests.served().remove(&id);
                    claim.release();
                }
                if output.send(&message).await.is_err() {
                    break;
                }
            }
            if !is_answered {
                requests.served().remove(&id);
            }
            drop(messages);
            if let Err(error) = service.waiting().await {
                tracing::debug!(%error, "a request's service ended badly");
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
