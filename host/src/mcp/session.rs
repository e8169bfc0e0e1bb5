//! Sessions of legacy clients: bounded in number, bound to the principal that opened them, and cheap while nobody uses them.
//!
//! The protocol engine runs a worker for every session, some tens of kilobytes. A session without traffic is *parked*: its worker ends and a small record stays. The next
//! request restores the worker from the record, by the engine's own means for moving a session between hosts. A record without traffic expires.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use rmcp::{
    model::{ClientJsonRpcMessage, ServerJsonRpcMessage},
    transport::{
        WorkerTransport,
        streamable_http_server::session::{
            RestoreOutcome, ServerSseMessage, SessionId, SessionManager, SessionState, SessionStore,
            local::{LocalSessionHandle, LocalSessionManager, LocalSessionManagerError, LocalSessionWorker},
        },
    },
};
use tokio::time::Instant;

use crate::{
    call::{LogLevel, Session},
    config::SessionConfig,
    tenant::{Principal, TenantId, tokens::Authenticator},
};

/// Workers at once; above it the idle ones are parked without delay.
const MAX_WORKERS: usize = 256;
/// A session whose client left an answer unread is kept whole this long, so that it can come back for the rest.
const RESUME_TIME: Duration = Duration::from_secs(60);

tokio::task_local! {
    /// The principal of the HTTP request that is being handled.
    pub(super) static PRINCIPAL: Principal;
}

/// All sessions of one endpoint.
#[derive(Debug)]
pub(super) struct Sessions {
    config: SessionConfig,
    workers: LocalSessionManager,
    records: Mutex<HashMap<SessionId, Record>>,
}

/// What stays of a session while it is parked.
#[derive(Debug)]
struct Record {
    principal: Principal,
    /// What is kept for it goes with it.
    session: Session,
    /// The parameters of its `initialize`, as JSON.
    initialize: Option<Box<[u8]>>,
    log_level: Option<LogLevel>,
    /// The generation of the catalog that its client knows.
    generation: u64,
    last_seen: Instant,
    unread: bool,
    activity: Arc<AtomicUsize>,
    live: bool,
    /// Workers that were told to end and have not reported it.
    ending: usize,
}

/// Why a session is not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Full {
    #[error("this host has no room for more sessions")]
    Host,
    #[error("the tenant has {0} sessions already")]
    Tenant(u64),
    #[error("you have {0} sessions already; end some with DELETE")]
    Principal(usize),
}

impl Sessions {
    pub(super) fn new(config: SessionConfig) -> Arc<Self> {
        let mut workers = LocalSessionManager::default();
        // Parking is ours: the engine's own time-out would also end sessions with a call in flight.
        workers.session_config.keep_alive = None;
        Arc::new(Self { config, workers, records: Mutex::new(HashMap::new()) })
    }

    fn records(&self) -> MutexGuard<'_, HashMap<SessionId, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `principal`, of whose tenant there may be `of_tenant`, may open one more.
    pub(super) fn check_room(&self, principal: &Principal, of_tenant: u64) -> Result<(), Full> {
        let records = self.records();
        if records.len() >= self.config.max {
            return Err(Full::Host);
        }
        if u64::try_from(records.len()).unwrap_or(u64::MAX) >= of_tenant {
            let own = records.values().filter(|record| record.principal.tenant == principal.tenant).count();
            if u64::try_from(own).unwrap_or(u64::MAX) >= of_tenant {
                return Err(Full::Tenant(of_tenant));
            }
        }
        // Counting is only needed where the principal could have reached its limit.
        if records.len() >= self.config.max_per_principal {
            let own = records.values().filter(|record| record.principal == *principal).count();
            if own >= self.config.max_per_principal {
                return Err(Full::Principal(own));
            }
        }
        Ok(())
    }

    /// Whether there is such a session and `principal` opened it: somebody else's does not exist for you.
    pub(super) fn belongs_to(&self, id: &str, principal: &Principal) -> bool {
        self.records().get(id).is_some_and(|record| record.principal == *principal)
    }

    /// How many there are of each tenant.
    pub(super) fn by_tenant(&self) -> HashMap<TenantId, usize> {
        let mut counts: HashMap<TenantId, usize> = HashMap::new();
        for record in self.records().values() {
            let count = counts.entry(record.principal.tenant.clone()).or_default();
            *count = count.saturating_add(1);
        }
        counts
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.records().len()
    }

    /// Ends a session; whether there was one.
    pub(super) async fn end(&self, id: &str) -> bool {
        let id: SessionId = id.into();
        let existed = self.records().remove(&id).is_some();
        if existed {
            self.stop_worker(&id).await;
        }
        existed
    }

    /// Keeps a session from being parked while a call of it runs.
    pub(super) fn busy(&self, id: &str) -> Option<Busy> {
        let mut records = self.records();
        let record = records.get_mut(id)?;
        record.last_seen = Instant::now();
        Some(Busy::new(&record.activity))
    }

    /// What is kept for a session refers to this.
    pub(super) fn session(&self, id: &str) -> Option<Session> {
        self.records().get(id).map(|record| record.session.clone())
    }

    pub(super) fn log_level(&self, id: &str) -> Option<LogLevel> {
        self.records().get(id)?.log_level
    }

    pub(super) fn set_log_level(&self, id: &str, level: LogLevel) {
        if let Some(record) = self.records().get_mut(id) {
            record.log_level = Some(level);
        }
    }

    /// The generation of the catalog that the session's client knows.
    pub(super) fn generation(&self, id: &str) -> Option<u64> {
        self.records().get(id).map(|record| record.generation)
    }

    /// Notes that the session's client was told of `generation`.
    pub(super) fn set_generation(&self, id: &str, generation: u64) {
        if let Some(record) = self.records().get_mut(id) {
            record.generation = generation;
        }
    }

    /// Parks idle sessions, forgets expired ones and ends those whose principal may not come in any more, until the host stops.
    pub(super) async fn keep_tidy(self: Arc<Self>, authenticator: Arc<Authenticator>) {
        let park = Duration::from_millis(self.config.park_ms.max(1));
        let mut tick = tokio::time::interval((park / 2).clamp(Duration::from_millis(10), Duration::from_secs(5)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.park_idle(park).await;
            self.expire();
            self.end_strangers(&authenticator).await;
        }
    }

    async fn park_idle(&self, idle_for: Duration) {
        let mut workers = self.workers.sessions.write().await;
        let mut stopped: Vec<LocalSessionHandle> = Vec::new();
        for (id, record) in self.records().iter_mut() {
            if record.may_park(idle_for)
                && let Some(worker) = workers.remove(id)
            {
                record.live = false;
                record.ending = record.ending.saturating_add(1);
                stopped.push(worker);
            }
        }
        workers.shrink_to_fit();
        drop(workers);
        for worker in stopped {
            let _it_may_have_ended_by_itself = worker.close().await;
        }
    }

    /// Ends the streams of those whose token was revoked or has expired. A parked session needs nothing: its next request is refused.
    async fn end_strangers(&self, authenticator: &Authenticator) {
        let live = |(id, record): (&SessionId, &Record)| record.live.then(|| (id.clone(), record.principal.clone()));
        let live: Vec<_> = self.records().iter().filter_map(live).collect();
        for (id, _) in live.into_iter().filter(|(_, principal)| !authenticator.still_knows(principal)) {
            self.end(&id).await;
        }
    }

    fn expire(&self) {
        let expire = Duration::from_millis(self.config.expire_ms);
        let mut records = self.records();
        let before = records.len();
        records.retain(|_, record| record.live || record.last_seen.elapsed() < expire);
        if records.len() < before / 2 {
            records.shrink_to_fit();
        }
    }

    async fn stop_worker(&self, id: &SessionId) {
        let worker = self.workers.sessions.write().await.remove(id);
        if let Some(worker) = worker {
            let _it_may_have_ended_by_itself = worker.close().await;
        }
    }

    fn touch(&self, id: &SessionId) {
        if let Some(record) = self.records().get_mut(id) {
            record.last_seen = Instant::now();
        }
    }

    fn watched<S>(self: &Arc<Self>, id: &SessionId, stream: S) -> Watched<S> {
        let busy = self.records().get(id).map(|record| Busy::new(&record.activity));
        Watched { stream: Box::pin(stream), sessions: Arc::clone(self), id: id.clone(), ended: false, _busy: busy }
    }
}

impl Record {
    fn may_park(&self, idle_for: Duration) -> bool {
        let idle_for = if self.unread { idle_for.max(RESUME_TIME) } else { idle_for };
        self.live
            && self.initialize.is_some()
            && self.activity.load(Ordering::Relaxed) == 0
            && self.last_seen.elapsed() >= idle_for
    }
}

/// Something that goes on in a session.
#[derive(Debug)]
pub(super) struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(activity: &Arc<AtomicUsize>) -> Self {
        activity.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream to the client; while it is open, its session is not parked.
struct Watched<S> {
    stream: Pin<Box<S>>,
    sessions: Arc<Sessions>,
    id: SessionId,
    ended: bool,
    _busy: Option<Busy>,
}

impl<S: Stream> Stream for Watched<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let item = self.stream.as_mut().poll_next(context);
        if matches!(item, Poll::Ready(None)) {
            self.ended = true;
        }
        item
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        if let Some(record) = self.sessions.records().get_mut(&self.id) {
            record.last_seen = Instant::now();
            record.unread |= !self.ended;
        }
    }
}

/// The engine's view of [`Sessions`].
#[derive(Debug, Clone)]
pub(super) struct Manager(pub(super) Arc<Sessions>);

impl SessionManager for Manager {
    type Error = LocalSessionManagerError;
    type Transport = WorkerTransport<LocalSessionWorker>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let workers = self.0.workers.sessions.read().await.len();
        if workers >= MAX_WORKERS {
            self.0.park_idle(Duration::ZERO).await;
        }
        let (id, transport) = self.0.workers.create_session().await?;
        let record = Record {
            session: Session::default(),
            principal: PRINCIPAL.try_with(Clone::clone).unwrap_or_else(|_| Principal::local_user()),
            initialize: None,
            log_level: None,
            generation: 0,
            last_seen: Instant::now(),
            unread: false,
            activity: Arc::new(AtomicUsize::new(0)),
            live: true,
            ending: 0,
        };
        self.0.records().insert(id.clone(), record);
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.0.workers.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.0.touch(id);
        Ok(self.0.records().get(id).is_some_and(|record| record.live))
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
        self.0.touch(id);
        Ok(self.0.watched(id, self.0.workers.create_stream(id, message).await?))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.0.touch(id);
        self.0.workers.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.0.touch(id);
        Ok(self.0.watched(id, self.0.workers.create_standalone_stream(id).await?))
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.0.touch(id);
        Ok(self.0.watched(id, self.0.workers.resume(id, last_event_id).await?))
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        let outcome = self.0.workers.restore_session(id.clone()).await?;
        if let Some(record) = self.0.records().get_mut(&id) {
            record.live = true;
            record.unread = false;
            record.last_seen = Instant::now();
        }
        Ok(outcome)
    }
}

type StoreError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The records are the engine's store of sessions that have no worker here.
#[wasmtime_wasi::async_trait]
impl SessionStore for Manager {
    async fn load(&self, id: &str) -> Result<Option<SessionState>, StoreError> {
        let initialize = self.0.records().get(id).and_then(|record| record.initialize.clone());
        Ok(initialize.map(|json| serde_json::from_slice(&json)).transpose()?.map(SessionState::new))
    }

    async fn store(&self, id: &str, state: &SessionState) -> Result<(), StoreError> {
        let json = serde_json::to_vec(&state.initialize_params)?.into_boxed_slice();
        if let Some(record) = self.0.records().get_mut(id) {
            record.initialize = Some(json);
        }
        Ok(())
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        self.0.records().remove(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::TenantId;

    fn principal(tenant: &str, subject: &str) -> Principal {
        Principal { tenant: TenantId::new(tenant).expect("legal"), subject: subject.into(), ..Principal::local_user() }
    }

    #[tokio::test]
    async fn a_session_exists_for_its_principal_only() {
        let sessions = Sessions::new(SessionConfig { max_per_principal: 1, ..SessionConfig::default() });
        let (alice, eve, other) = (principal("a", "alice"), principal("a", "eve"), principal("b", "alice"));
        let opened = PRINCIPAL.scope(alice.clone(), Manager(Arc::clone(&sessions)).create_session()).await;
        let (id, _transport) = opened.expect("opened");
        assert!(sessions.belongs_to(&id, &alice));
        assert!(!sessions.belongs_to(&id, &eve), "an id alone is not enough");
        assert!(!sessions.belongs_to(&id, &other), "nor is the same name in another tenant");
        assert!(matches!(sessions.check_room(&alice, 100), Err(Full::Principal(1))));
        assert!(sessions.check_room(&eve, 100).is_ok(), "one principal's sessions are not another's");
    }

    #[tokio::test]
    async fn only_what_is_idle_is_parked() {
        let sessions = Sessions::new(SessionConfig::default());
        let manager = Manager(Arc::clone(&sessions));
        let (id, _transport) = manager.create_session().await.expect("opened");
        sessions.park_idle(Duration::ZERO).await;
        assert!(manager.has_session(&id).await.expect("known"), "it is not initialized yet");
        let state = serde_json::from_value(
            serde_json::json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "0" } }),
        );
        manager.store(&id, &SessionState::new(state.expect("parameters"))).await.expect("stored");
        let busy = sessions.busy(&id).expect("known");
        sessions.park_idle(Duration::ZERO).await;
        assert!(manager.has_session(&id).await.expect("known"), "a call of it runs");
        drop(busy);
        sessions.park_idle(Duration::ZERO).await;
        assert!(!manager.has_session(&id).await.expect("known"));
        assert!(manager.load(&id).await.expect("loaded").is_some(), "its record stays");
        // The worker that was parked reports its end: that is not the session's.
        manager.close_session(&id).await.expect("closed");
        assert_eq!(sessions.len(), 1);
    }
}
