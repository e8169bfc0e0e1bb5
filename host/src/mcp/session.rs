//! Sessions of legacy clients: bounded in number and in bytes, bound to the principal that opened them, and cheap while nobody uses them.
//!
//! The protocol engine runs a worker for every session, some tens of kilobytes. A session without traffic is *parked*: its worker ends and a small record stays. The next
//! request restores the worker from the record, by the engine's own means for moving a session between hosts. A record without traffic expires. Every request that names a
//! session comes through [`visit::Visit`], which knows who asks; [`engine::Manager`] checks it once more wherever the engine asks for a session.

pub(super) mod engine;
pub(super) mod visit;

pub(super) mod opening;
mod watched;
mod worker;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rmcp::transport::streamable_http_server::session::{
    SessionId,
    local::{LocalSessionHandle, LocalSessionManager},
};
use tokio::time::Instant;

use self::{
    watched::{Busy, StandingHolder},
    worker::{WorkerPermit, Workers},
};
use super::{in_flight::InFlight, streams::distinct};
use crate::{
    call::{LogLevel, Session, inputs::Abilities},
    config::SessionConfig,
    memory::Reservation,
    names::TenantId,
    registry::{Generations, changes::ResourceListener},
    tenant::Principal,
};

/// A session whose client left an answer unread is kept whole this long, so that it can come back for the rest.
const RESUME_TIME: Duration = Duration::from_secs(60);
/// How long a worker is asked to end.
const CLOSE_TIME: Duration = Duration::from_secs(5);
/// The memory of a record, in bytes: ids, the principal that opened it, and the parameters that [`opening`] keeps, of which [`opening::MAX_KEPT_BYTES`] is the larger part.
const RECORD_BYTES: u64 = 4 << 10;

/// All sessions of one endpoint.
#[derive(Debug)]
pub(super) struct Sessions {
    config: SessionConfig,
    workers: LocalSessionManager,
    permits: Workers,
    records: Mutex<HashMap<SessionId, Record>>,
}

/// The record of a session, which stays while the session is parked.
#[derive(Debug)]
struct Record {
    principal: Principal,
    /// The session's data in the host go when this goes.
    session: Session,
    /// The parameters of `initialize` that the host needs to restore the session, as JSON.
    initialize: Option<Box<[u8]>>,
    /// Whether its client has said that it is ready.
    is_ready: bool,
    /// Whether its client knows events that only say where to resume.
    takes_priming: bool,
    log_level: Option<LogLevel>,
    /// The lists that its client knows.
    generations: Generations,
    /// The resources of which its client wants to know, also while it is parked.
    listener: Option<Arc<ResourceListener>>,
    /// What its client may be asked.
    abilities: Abilities,
    last_seen: Instant,
    unread: bool,
    activity: Arc<AtomicUsize>,
    in_flight: InFlight,
    /// The holder of the session's stream that answers no request.
    standing: Arc<tokio::sync::Mutex<StandingHolder>>,
    /// Held by the one request that restores it.
    restoring: Arc<tokio::sync::Mutex<()>>,
    /// The room that its worker takes; none while it is parked.
    worker: Option<WorkerPermit>,
    /// Workers that were told to end and have not reported it.
    ending: usize,
    _memory: Reservation,
}

impl Record {
    fn new(principal: Principal, worker: WorkerPermit, memory: Reservation) -> Self {
        Self {
            principal,
            session: Session::default(),
            initialize: None,
            is_ready: false,
            takes_priming: false,
            log_level: None,
            generations: Generations::default(),
            listener: None,
            abilities: Abilities::default(),
            last_seen: Instant::now(),
            unread: false,
            activity: Arc::new(AtomicUsize::new(0)),
            in_flight: InFlight::default(),
            standing: Arc::default(),
            restoring: Arc::default(),
            worker: Some(worker),
            ending: 0,
            _memory: memory,
        }
    }

    fn is_busy(&self) -> bool {
        self.activity.load(Ordering::Relaxed) > 0
    }

    /// Whether it can be restored, and nothing goes on in it.
    fn can_be_parked(&self) -> bool {
        self.worker.is_some() && self.initialize.is_some() && !self.is_busy()
    }

    fn may_park(&self, idle_for: Duration) -> bool {
        let idle_for = if self.unread { idle_for.max(RESUME_TIME) } else { idle_for };
        self.can_be_parked() && self.last_seen.elapsed() >= idle_for
    }
}

impl Sessions {
    pub(super) fn new(config: SessionConfig) -> Arc<Self> {
        let mut workers = LocalSessionManager::default();
        // Parking is ours: the engine's own time-out would also end sessions with a call in flight.
        workers.session_config.keep_alive = None;
        Arc::new(Self { config, workers, permits: Workers::default(), records: Mutex::new(HashMap::new()) })
    }

    fn records(&self) -> MutexGuard<'_, HashMap<SessionId, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// How many of them have a worker; the others are parked.
    pub(super) fn live(&self) -> usize {
        self.records().values().filter(|record| record.worker.is_some()).count()
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

    /// The handle to which the session's data in the host refer.
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

    /// The lists that the session's client knows.
    pub(super) fn generations(&self, id: &str) -> Option<Generations> {
        self.records().get(id).map(|record| record.generations)
    }

    /// Notes that the session's client is ready and was told of `generations`.
    pub(super) fn set_generations(&self, id: &str, generations: Generations) {
        if let Some(record) = self.records().get_mut(id) {
            record.generations = generations;
            record.is_ready = true;
        }
    }

    /// The resources of which the session's client wants to know; `make` makes what a new session has.
    pub(super) fn listener(
        &self,
        id: &str,
        make: impl FnOnce() -> Option<Arc<ResourceListener>>,
    ) -> Option<Arc<ResourceListener>> {
        let mut records = self.records();
        let record = records.get_mut(id)?;
        if record.listener.is_none() {
            record.listener = make();
        }
        record.listener.clone()
    }

    /// The principals that have sessions, each once.
    pub(super) fn principals(&self) -> Vec<Principal> {
        distinct(self.records().values().map(|record| &record.principal))
    }

    /// Ends all sessions of a principal, parked ones as well.
    pub(super) async fn end_all(&self, principal: &Principal) {
        let of_principal = |(id, record): (&SessionId, &Record)| (record.principal == *principal).then(|| id.clone());
        let ids: Vec<SessionId> = self.records().iter().filter_map(of_principal).collect();
        for id in ids {
            self.end(&id).await;
        }
    }

    /// How often sessions are looked at.
    pub(super) fn tidy_every(&self) -> Duration {
        (Duration::from_millis(self.config.park_ms) / 2).clamp(Duration::from_millis(10), Duration::from_secs(5))
    }

    /// Parks sessions that were idle for as long as is configured, and forgets expired ones.
    pub(super) async fn tidy(&self) {
        let idle_for = Duration::from_millis(self.config.park_ms);
        self.park(|record| record.may_park(idle_for)).await;
        self.expire();
    }

    /// Parks the sessions that `which` picks among those in which nothing goes on.
    async fn park(&self, which: impl Fn(&Record) -> bool) {
        let mut workers = self.workers.sessions.write().await;
        let mut stopped: Vec<LocalSessionHandle> = Vec::new();
        for (id, record) in self.records().iter_mut() {
            if record.can_be_parked()
                && which(record)
                && let Some(worker) = workers.remove(id)
            {
                record.worker = None;
                record.ending = record.ending.saturating_add(1);
                stopped.push(worker);
            }
        }
        workers.shrink_to_fit();
        drop(workers);
        stopped.into_iter().for_each(close);
    }

    fn expire(&self) {
        let expire = Duration::from_millis(self.config.expire_ms);
        let mut records = self.records();
        let before = records.len();
        records.retain(|_, record| record.worker.is_some() || record.is_busy() || record.last_seen.elapsed() < expire);
        if records.len() < before / 2 {
            records.shrink_to_fit();
        }
    }

    async fn stop_worker(&self, id: &SessionId) {
        let worker = self.workers.sessions.write().await.remove(id);
        worker.into_iter().for_each(close);
    }
}

/// Tells a worker to end. A worker waits for a client that does not read its stream, and then takes nothing from its full queue: nobody may wait for it. Without its handle it
/// ends as soon as its streams do.
fn close(worker: LocalSessionHandle) {
    tokio::spawn(async move {
        let _it_may_have_ended_by_itself = tokio::time::timeout(CLOSE_TIME, worker.close()).await;
    });
}

#[cfg(test)]
mod tests;
