//! A request on its way to the protocol engine: who asks, in which session, and the room that the session needs.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize};

use rmcp::transport::streamable_http_server::session::SessionId;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::{
    Record, Sessions,
    watched::Busy,
    worker::{NoRoom, WorkerPermit},
};
use crate::{
    call::{LogLevel, Session, inputs::Abilities},
    mcp::in_flight::{ClaimError, IdClaim, InFlight},
    memory::{Account, Reservation},
    tenant::Principal,
};

tokio::task_local! {
    /// The HTTP request that is being handled.
    pub(in crate::mcp) static VISIT: Visit;
}

/// One HTTP request. While it is handled, its session is neither parked nor forgotten.
#[derive(Debug)]
pub(in crate::mcp) struct Visit {
    pub(in crate::mcp) principal: Principal,
    session: Option<Visited>,
    /// Taken by the engine when it makes the worker, which may be never.
    worker: Mutex<Option<WorkerPermit>>,
    record: Mutex<Option<Reservation>>,
    claim: Mutex<Option<IdClaim>>,
    /// While it restores the session, and the worker has not got the handshake.
    restoring: Mutex<Option<OwnedMutexGuard<()>>>,
}

/// The session that a request names.
#[derive(Debug)]
struct Visited {
    id: SessionId,
    in_flight: InFlight,
    /// Whether it has to be restored, or is being restored by another request.
    is_parked: bool,
    live: Option<LiveSession>,
    restoring: Arc<tokio::sync::Mutex<()>>,
    _busy: Busy,
}

/// A session whose client has said that it is ready.
#[derive(Debug, Clone)]
pub(in crate::mcp) struct LiveSession {
    /// The host's data for the session refer to this.
    pub(in crate::mcp) session: Session,
    /// The least level of log records that the client asked for.
    pub(in crate::mcp) log_level: Option<LogLevel>,
    /// What the client may be asked.
    pub(in crate::mcp) abilities: Abilities,
    activity: Arc<AtomicUsize>,
}

impl LiveSession {
    /// Keeps the session from being parked.
    pub(in crate::mcp) fn busy(&self) -> Busy {
        Busy::new(&self.activity)
    }
}

impl Visit {
    /// A request of `principal` outside of any session.
    pub(in crate::mcp) fn of(principal: Principal) -> Self {
        Self {
            principal,
            session: None,
            worker: Mutex::default(),
            record: Mutex::default(),
            claim: Mutex::default(),
            restoring: Mutex::default(),
        }
    }

    /// Whether the request names a session.
    pub(in crate::mcp) fn is_in_session(&self) -> bool {
        self.session.is_some()
    }

    /// Takes the id of a request, so that no other request of the session can have it meanwhile.
    pub(in crate::mcp) fn claim_id(&self, id: &Value) -> Result<Option<IdClaim>, ClaimError> {
        let Some(session) = &self.session else { return Ok(None) };
        let claim = session.in_flight.claim(id)?;
        *lock(&self.claim) = Some(claim.clone());
        Ok(Some(claim))
    }

    /// The session, if it needs nothing before it is used.
    pub(in crate::mcp) fn live_session(&self) -> Option<&LiveSession> {
        self.session.as_ref()?.live.as_ref()
    }

    /// Stops the request that has `id` in the session, if it can be stopped here.
    pub(in crate::mcp) fn cancel(&self, id: &Value) {
        if let Some(session) = &self.session {
            session.in_flight.cancel(id);
        }
    }

    pub(super) fn take_worker(&self) -> Option<WorkerPermit> {
        lock(&self.worker).take()
    }

    pub(super) fn take_record(&self) -> Option<Reservation> {
        lock(&self.record).take()
    }

    /// The worker has the handshake in its queue: what comes now stands behind it.
    pub(super) fn let_others_in(&self) {
        drop(lock(&self.restoring).take());
    }

    pub(super) fn take_claim(&self) -> Option<IdClaim> {
        lock(&self.claim).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// A request of `principal` in the session `id`; none if there is no such session of `principal`: somebody else's does not exist for it.
    pub(in crate::mcp) fn visit(&self, principal: &Principal, id: &str) -> Option<Visit> {
        let mut records = self.records();
        let record = records.get_mut(id).filter(|record| record.principal == *principal)?;
        let is_parked = record.worker.is_none() || record.restoring.try_lock().is_err();
        let visited = Visited {
            id: id.into(),
            in_flight: record.in_flight.clone(),
            is_parked,
            live: (!is_parked && record.is_ready).then(|| LiveSession {
                session: record.session.clone(),
                log_level: record.log_level,
                abilities: record.abilities,
                activity: Arc::clone(&record.activity),
            }),
            restoring: Arc::clone(&record.restoring),
            _busy: Busy::new(&record.activity),
        };
        record.last_seen = tokio::time::Instant::now();
        Some(Visit { session: Some(visited), ..Visit::of(principal.clone()) })
    }

    /// Finds the room to restore the visit's session, if it is parked. One request does so, and the others wait for it: the new worker takes what comes first for its handshake.
    pub(in crate::mcp) async fn prepare(&self, visit: &Visit, account: &Arc<Account>) -> Result<(), NoRoom> {
        let Some(session) = visit.session.as_ref().filter(|session| session.is_parked) else { return Ok(()) };
        let restoring = Arc::clone(&session.restoring).lock_owned().await;
        if self.records().get(&session.id).is_none_or(|record| record.worker.is_some()) {
            return Ok(());
        }
        *lock(&visit.worker) = Some(self.worker(&visit.principal, account).await?);
        *lock(&visit.restoring) = Some(restoring);
        Ok(())
    }

    /// Finds the room to open a session.
    pub(in crate::mcp) async fn prepare_opening(
        &self,
        visit: &Visit,
        of_tenant: u64,
        account: &Arc<Account>,
    ) -> Result<(), NoRoom> {
        let (worker, record) = self.opening(&visit.principal, of_tenant, account).await?;
        *lock(&visit.worker) = Some(worker);
        *lock(&visit.record) = Some(record);
        Ok(())
    }

    /// A session's record, if the request that is being handled is of the principal that opened it.
    pub(super) fn own<T>(&self, id: &str, with: impl FnOnce(&mut Record) -> T) -> Option<T> {
        VISIT
            .try_with(|visit| {
                let mut records = self.records();
                records.get_mut(id).filter(|record| record.principal == visit.principal).map(with)
            })
            .ok()
            .flatten()
    }
}
