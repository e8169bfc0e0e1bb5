use rmcp::transport::{
    WorkerTransport,
    streamable_http_server::session::{
        RestoreOutcome, SessionManager as _, SessionState, SessionStore as _, local::LocalSessionWorker,
    },
};
use serde_json::json;

use super::{
    engine::Manager,
    visit::{VISIT, Visit},
    worker::NoRoom,
    *,
};
use crate::memory::{Account, AccountLimits, HostMemory, MemoryConfig, MemoryUse};

fn principal(tenant: &str, subject: &str) -> Principal {
    Principal { tenant: TenantId::new(tenant).expect("legal"), subject: subject.into(), ..Principal::local_user() }
}

fn account() -> Arc<Account> {
    let config = MemoryConfig { guest_bytes: 1, code_bytes: 1, message_bytes: 1 << 30 };
    HostMemory::new(&config).account(AccountLimits::default())
}

fn initialize() -> SessionState {
    let params =
        json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "0" } });
    SessionState::new(serde_json::from_value(params).expect("parameters"))
}

/// A session that can be parked, and what keeps its worker alive.
async fn open(
    sessions: &Arc<Sessions>,
    principal: &Principal,
    account: &Arc<Account>,
) -> (SessionId, WorkerTransport<LocalSessionWorker>) {
    let manager = Manager(Arc::clone(sessions));
    let visit = Visit::of(principal.clone());
    sessions.prepare_opening(&visit, 1_000_000, account).await.expect("room");
    VISIT
        .scope(visit, async {
            let (id, transport) = manager.create_session().await.expect("opened");
            manager.store(&id, &initialize()).await.expect("stored");
            (id, transport)
        })
        .await
}

fn as_user<F: Future>(principal: &Principal, does: F) -> impl Future<Output = F::Output> {
    VISIT.scope(Visit::of(principal.clone()), does)
}

#[tokio::test]
async fn a_session_exists_for_its_principal_only() {
    let sessions = Sessions::new(SessionConfig { max_per_principal: 1, ..SessionConfig::default() });
    let (alice, eve, other) = (principal("a", "alice"), principal("a", "eve"), principal("b", "alice"));
    let (id, _transport) = open(&sessions, &alice, &account()).await;
    assert!(sessions.visit(&alice, &id).is_some());
    assert!(sessions.visit(&eve, &id).is_none(), "an id alone is not enough");
    assert!(sessions.visit(&other, &id).is_none(), "nor is the same name in another tenant");
    assert!(matches!(sessions.check_room(&alice, 100), Err(NoRoom::Principal(1))));
    assert!(sessions.check_room(&eve, 100).is_ok(), "one principal's sessions are not another's");
}

#[tokio::test]
async fn the_engine_finds_a_session_for_its_principal_only_and_restores_it_for_nobody_else() {
    let sessions = Sessions::new(SessionConfig::default());
    let manager = Manager(Arc::clone(&sessions));
    let (alice, eve) = (principal("a", "alice"), principal("b", "eve"));
    let (id, _transport) = open(&sessions, &alice, &account()).await;
    assert!(!as_user(&eve, manager.has_session(&id)).await.expect("asked"), "it is not eve's");
    sessions.park(|_| true).await;
    assert_eq!(sessions.live(), 0, "it is parked");
    assert!(as_user(&eve, manager.load(&id)).await.expect("asked").is_none());
    assert!(as_user(&eve, manager.restore_session(id.clone())).await.is_err());
    assert!(manager.load(&id).await.expect("asked").is_none(), "without a request there is no session");
    as_user(&eve, manager.delete(&id)).await.expect("asked");
    assert_eq!(sessions.len(), 1, "eve cannot end it");
    let visit = sessions.visit(&alice, &id).expect("hers");
    sessions.prepare(&visit, &account()).await.expect("room");
    let restored = VISIT.scope(visit, async {
        assert!(manager.load(&id).await.expect("asked").is_some());
        manager.restore_session(id.clone()).await
    });
    assert!(matches!(restored.await, Ok(RestoreOutcome::Restored(_))));
    assert_eq!(sessions.live(), 1);
}

#[tokio::test]
async fn only_what_is_idle_is_parked() {
    let sessions = Sessions::new(SessionConfig::default());
    let manager = Manager(Arc::clone(&sessions));
    let alice = principal("a", "alice");
    let visit = Visit::of(alice.clone());
    sessions.prepare_opening(&visit, 1, &account()).await.expect("room");
    let (id, _transport) = VISIT.scope(visit, manager.create_session()).await.expect("opened");
    sessions.park(|_| true).await;
    assert_eq!(sessions.live(), 1, "it is not initialized yet");
    as_user(&alice, manager.store(&id, &initialize())).await.expect("stored");
    let busy = sessions.busy(&id).expect("known");
    sessions.park(|_| true).await;
    assert_eq!(sessions.live(), 1, "a call of it runs");
    drop(busy);
    let visit = sessions.visit(&alice, &id).expect("hers");
    sessions.park(|_| true).await;
    assert_eq!(sessions.live(), 1, "a request of it is handled");
    drop(visit);
    sessions.park(|_| true).await;
    assert_eq!(sessions.live(), 0);
    assert!(as_user(&alice, manager.load(&id)).await.expect("loaded").is_some(), "its record stays");
    // The worker that was parked reports its end: that is not the session's.
    manager.close_session(&id).await.expect("closed");
    assert_eq!(sessions.len(), 1);
}

#[tokio::test]
async fn workers_have_a_bound_for_a_tenant_and_for_the_host_also_when_sessions_are_restored() {
    let sessions = Sessions::new(SessionConfig::default());
    let account = account();
    let mut kept = Vec::new();
    let mut busy = Vec::new();
    let fill = async |tenant: &str, kept: &mut Vec<_>, busy: &mut Vec<_>| {
        let user = principal(tenant, "u");
        loop {
            let visit = Visit::of(user.clone());
            if let Err(full) = sessions.prepare_opening(&visit, 1_000_000, &account).await {
                return full;
            }
            drop(visit);
            let (id, transport) = open(&sessions, &user, &account).await;
            busy.push(sessions.busy(&id).expect("known"));
            kept.push((id, transport));
        }
    };
    let parked = {
        let (id, _transport) = open(&sessions, &principal("c", "u"), &account).await;
        sessions.park(|_| true).await;
        assert_eq!(sessions.live(), 0, "it is parked");
        id
    };
    assert!(matches!(fill("a", &mut kept, &mut busy).await, NoRoom::TenantWorkers));
    assert_eq!(sessions.live(), 1_024);
    assert!(matches!(fill("b", &mut kept, &mut busy).await, NoRoom::TenantWorkers));
    assert_eq!(sessions.live(), 2_048);
    let visit = sessions.visit(&principal("c", "u"), &parked).expect("its own");
    assert!(matches!(sessions.prepare(&visit, &account).await, Err(NoRoom::Workers)));
    // One that is idle makes room.
    busy.pop();
    sessions.prepare(&visit, &account).await.expect("room");
    assert_eq!(sessions.live(), 2_047);
}

#[tokio::test]
async fn sessions_are_paid_for_parked_or_not() {
    let sessions = Sessions::new(SessionConfig::default());
    let account = account();
    let alice = principal("a", "alice");
    let (id, _transport) = open(&sessions, &alice, &account).await;
    let live = account.used(MemoryUse::Messages);
    sessions.park(|_| true).await;
    assert_eq!(sessions.live(), 0, "it is parked");
    let parked = account.used(MemoryUse::Messages);
    assert!(parked > 0 && parked < live, "{parked} {live}");
    assert!(sessions.end(&id).await);
    assert_eq!(account.used(MemoryUse::Messages), 0);
    let poor = HostMemory::new(&MemoryConfig { guest_bytes: 1, code_bytes: 1, message_bytes: 2 * live });
    let poor = poor.account(AccountLimits::default());
    let _first = open(&sessions, &alice, &poor).await;
    let refused = sessions.prepare_opening(&Visit::of(alice), 10, &poor).await.expect_err("no memory");
    assert!(matches!(refused, NoRoom::Memory(_)), "{refused}");
}
