//! The protocol engine's view of [`Sessions`]. Wherever it names a session, the principal of the request must be the one that opened it.

use std::sync::Arc;

use futures::Stream;
use rmcp::{
    model::{ClientJsonRpcMessage, ClientRequest, JsonRpcMessage, ServerJsonRpcMessage, ServerResult},
    transport::{
        WorkerTransport,
        streamable_http_server::session::{
            RestoreOutcome, ServerSseMessage, SessionId, SessionManager, SessionState, SessionStore,
            local::{LocalSessionManagerError, LocalSessionWorker, SessionError},
        },
    },
};
use tokio::{sync::Mutex, time::Instant};

use super::{
    Record, Sessions, opening,
    visit::{VISIT, Visit},
    watched::{Standing, StandingHolder, Watched},
};
use crate::mcp::inputs;

/// The first version whose clients know events that only say where to resume.
const PRIMING_SINCE: &str = "2025-11-25";

/// The engine's view of [`Sessions`].
#[derive(Debug, Clone)]
pub(in crate::mcp) struct Manager(pub(in crate::mcp) Arc<Sessions>);

impl Manager {
    /// Notes traffic of a session; fails if it is not the requester's.
    fn touch(&self, id: &SessionId) -> Result<(), LocalSessionManagerError> {
        let touched = self.0.own(id, |record| record.last_seen = Instant::now());
        touched.ok_or_else(|| LocalSessionManagerError::SessionNotFound(id.clone()))
    }

    fn standing(&self, id: &SessionId) -> Result<Arc<Mutex<StandingHolder>>, LocalSessionManagerError> {
        let standing = self.0.own(id, |record| Arc::clone(&record.standing));
        standing.ok_or_else(|| LocalSessionManagerError::SessionNotFound(id.clone()))
    }
}

/// A request got as far as the engine without the room that it needs: the door has a hole.
fn no_room() -> LocalSessionManagerError {
    LocalSessionManagerError::SessionError(SessionError::SessionServiceTerminated)
}

impl SessionManager for Manager {
    type Error = LocalSessionManagerError;
    type Transport = WorkerTransport<LocalSessionWorker>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let room = |visit: &Visit| Some((visit.principal.clone(), visit.take_worker()?, visit.take_record()?));
        let (principal, worker, memory) = VISIT.try_with(room).ok().flatten().ok_or_else(no_room)?;
        let (id, transport) = self.0.workers.create_session().await?;
        self.0.records().insert(id.clone(), Record::new(principal, worker, memory));
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        mut message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.touch(id)?;
        if let JsonRpcMessage::Request(request) = &mut message
            && let ClientRequest::InitializeRequest(initialize) = &mut request.request
        {
            initialize.params = opening::reduced(&initialize.params);
            let abilities = inputs::abilities(&initialize.params.capabilities);
            self.0.own(id, |record| record.abilities = abilities);
        }
        let answer = self.0.workers.initialize_session(id, message).await?;
        if let JsonRpcMessage::Response(response) = &answer
            && let ServerResult::InitializeResult(result) = &response.result
        {
            let takes_priming = result.protocol_version.as_str() >= PRIMING_SINCE;
            self.0.own(id, |record| record.takes_priming = takes_priming);
        }
        Ok(answer)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        let live = self.0.own(id, |record| {
            record.last_seen = Instant::now();
            record.worker.is_some()
        });
        Ok(live.unwrap_or(false))
    }

    /// Called when a worker has ended. One that was parked leaves its record; one that ended by itself takes the session with it.
    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        {
            let mut records = self.0.records();
            match records.get_mut(id) {
                Some(record) if record.ending > 0 => {
                    record.ending = record.ending.saturating_sub(1);
                    return Ok(());
                }
                Some(_) => drop(records.remove(id)),
                None => {}
            }
        }
        self.0.stop_worker(id).await;
        Ok(())
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.touch(id)?;
        Ok(Watched::new(&self.0, id, self.0.workers.create_stream(id, message).await?))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.touch(id)?;
        let accepted = self.0.workers.accept_message(id, message).await;
        // The last message of the handshake by which a session is restored comes here, too.
        let _where_there_is_one = VISIT.try_with(Visit::let_others_in);
        accepted
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.touch(id)?;
        let holder = self.standing(id)?;
        let mut holder = holder.lock().await;
        holder.leave();
        let standing = holder.take_over(self.0.workers.create_standalone_stream(id).await?);
        Ok(Watched::new(&self.0, id, standing).primed())
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.touch(id)?;
        // An event of an answer names its request behind a slash.
        if last_event_id.contains('/') {
            return Ok(Watched::new(&self.0, id, Standing::new(self.0.workers.resume(id, last_event_id).await?)));
        }
        let holder = self.standing(id)?;
        let mut holder = holder.lock().await;
        holder.leave();
        let standing = holder.take_over(self.0.workers.resume(id, last_event_id).await?);
        Ok(Watched::new(&self.0, id, standing))
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        self.touch(&id)?;
        let worker = VISIT.try_with(Visit::take_worker).ok().flatten().ok_or_else(no_room)?;
        let outcome = self.0.workers.restore_session(id.clone()).await?;
        self.0.own(&id, |record| {
            record.worker = Some(worker);
            record.unread = false;
        });
        Ok(outcome)
    }
}

type SessionStoreError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The records are the engine's store of sessions that have no worker here.
#[wasmtime_wasi::async_trait]
impl SessionStore for Manager {
    async fn load(&self, id: &str) -> Result<Option<SessionState>, SessionStoreError> {
        let initialize = self.0.own(id, |record| record.initialize.clone()).flatten();
        Ok(initialize.map(|json| serde_json::from_slice(&json)).transpose()?.map(SessionState::new))
    }

    async fn store(&self, id: &str, state: &SessionState) -> Result<(), SessionStoreError> {
        let json = opening::to_json(&state.initialize_params)?;
        self.0.own(id, |record| record.initialize = json);
        Ok(())
    }

    async fn delete(&self, id: &str) -> Result<(), SessionStoreError> {
        self.0.own(id, |_| ()).is_some().then(|| self.0.records().remove(id));
        Ok(())
    }
}
