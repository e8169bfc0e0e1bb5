//! The legacy session of one client: the protocol engine's service, which begins with `initialize` and gets everything after it.

use rmcp::{
    RoleServer,
    model::{ClientJsonRpcMessage, ServerJsonRpcMessage},
    service::serve_server_with_ct,
    transport::{Transport, TransportAdapterIdentity},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::output::MessageOutput;
use crate::mcp::{
    handler::ProtocolHandler,
    in_flight::{Held, InFlight, answered},
};

/// Messages between the reader and the engine.
const INBOX: usize = 16;

/// An open session.
#[derive(Debug)]
pub(super) struct LegacySession {
    inbox: Option<mpsc::Sender<ClientJsonRpcMessage>>,
    cancel: CancellationToken,
}

impl LegacySession {
    /// Starts the engine, which waits for `initialize`.
    pub(super) fn open(
        handler: ProtocolHandler,
        in_flight: InFlight,
        output: MessageOutput,
        tasks: &TaskTracker,
    ) -> Self {
        let (inbox, messages) = mpsc::channel(INBOX);
        let cancel = CancellationToken::new();
        let transport = LegacyTransport { messages, in_flight, output };
        let stopping = cancel.clone();
        tasks.spawn(async move {
            let served =
                serve_server_with_ct::<ProtocolHandler, _, _, TransportAdapterIdentity>(handler, transport, stopping)
                    .await;
            match served {
                Ok(running) => {
                    if let Err(error) = running.waiting().await {
                        tracing::debug!(%error, "the session ended badly");
                    }
                }
                // The engine has told the client why.
                Err(error) => tracing::debug!(%error, "the client did not open a session"),
            }
        });
        Self { inbox: Some(inbox), cancel }
    }

    /// Whether the engine takes nothing any more.
    pub(super) fn is_over(&self) -> bool {
        self.inbox.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Hands on a message.
    pub(super) async fn tell(&self, message: ClientJsonRpcMessage) {
        if let Some(inbox) = &self.inbox
            && inbox.send(message).await.is_err()
        {
            tracing::debug!("a message came after the end of its session");
        }
    }

    /// Nothing more comes; what was asked is still answered.
    pub(super) fn close(&mut self) {
        self.inbox = None;
    }

    /// Ends the session with all that runs in it.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }
}

/// The engine's side.
struct LegacyTransport {
    messages: mpsc::Receiver<ClientJsonRpcMessage>,
    in_flight: InFlight,
    output: MessageOutput,
}

impl Transport<RoleServer> for LegacyTransport {
    type Error = std::io::Error;

    fn send(
        &mut self,
        message: ServerJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        // The client may use the id again as soon as it has read the answer.
        let held = match answered(&message) {
            Some(id) => self.in_flight.release(&id.clone().into_json_value()),
            None => Held::nothing(),
        };
        let output = self.output.clone();
        async move { output.send(message, None, held).await }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        self.messages.recv().await
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.messages.close();
        Ok(())
    }
}
