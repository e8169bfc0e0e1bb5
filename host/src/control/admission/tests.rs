//! Sharing of places. Each test's name states its property.

use super::*;

fn config(max_running: usize, max_waiting: usize, max_queued: usize) -> EngineConfig {
    EngineConfig { max_running, max_waiting, max_queued, queue_ms: 50, guest_threads: 1, ..EngineConfig::default() }
}

fn share(tenant: &str) -> Arc<Share> {
    let memory = HostMemory::new(&MemoryConfig::default()).account(TenantLimits::default().memory());
    Share::new(TenantId::new(tenant).expect("legal"), TenantLimits::default(), memory)
}

fn tool(most: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(most))
}

async fn admit(admission: &Admission, share: &Arc<Share>, tool: &Arc<Semaphore>) -> Result<Slot, CallError> {
    admission.admit(share, tool, 9, Instant::now() + Duration::from_secs(5), &CancellationToken::new()).await
}

#[tokio::test]
async fn a_waiting_call_makes_room_and_comes_back() {
    let admission = Admission::new(&config(1, 1, 1));
    let (me, tool) = (share("me"), tool(9));
    let outer = admit(&admission, &me, &tool).await.expect("room");
    assert!(matches!(admit(&admission, &me, &tool).await, Err(CallError::Busy { what: "instances run", .. })));
    let parked = outer.park().expect("room to wait");
    let inner = admit(&admission, &me, &tool).await.expect("the nested call runs");
    assert!(inner.park().is_none(), "it waits where it is");
    assert_eq!((admission.running(), admission.waiting()), (1, 1));
    assert_eq!((admission.running(), admission.waiting()), (1, 1));
    drop(inner);
    parked.resume().await;
    assert_eq!((admission.running(), admission.waiting()), (1, 0));
    drop(outer);
    assert_eq!((admission.running(), admission.queued()), (0, 0));
    assert!(admission.state().tenants.is_empty(), "an idle tenant is forgotten");
}

#[tokio::test]
async fn the_queue_has_a_bound() {
    let admission = Admission::new(&config(1, 0, 1));
    let (me, tool) = (share("me"), tool(9));
    let _running = admit(&admission, &me, &tool).await.expect("room");
    let (first, second) = tokio::join!(admit(&admission, &me, &tool), admit(&admission, &me, &tool));
    assert!(matches!(first, Err(CallError::Busy { what: "instances run", .. })), "{first:?}");
    assert!(matches!(second, Err(CallError::Busy { what: "calls queue", .. })), "{second:?}");
    assert_eq!(admission.queued(), 0);
}

#[tokio::test]
async fn one_tool_cannot_take_all_places() {
    let admission = Admission::new(&config(4, 0, 4));
    let (me, tool) = (share("me"), tool(1));
    let _first = admit(&admission, &me, &tool).await.expect("room");
    assert!(matches!(
        admit(&admission, &me, &tool).await,
        Err(CallError::Busy { what: "instances of this tool run", .. })
    ));
}

#[tokio::test]
async fn calls_of_a_tool_queue_for_each_other() {
    let admission = Admission::new(&EngineConfig { queue_ms: 5_000, ..config(4, 0, 8) });
    let (me, tool) = (share("me"), tool(1));
    let call = || async {
        let slot = admit(&admission, &me, &tool).await?;
        tokio::task::yield_now().await;
        drop(slot);
        Ok::<_, CallError>(())
    };
    let (first, rest) = tokio::join!(call(), futures::future::join_all((0..8).map(|_| call())));
    assert!(first.is_ok() && rest.iter().all(Result::is_ok), "{rest:?}");
    assert_eq!((admission.running(), admission.queued(), admission.of(&me.tenant)), (0, 0, (0, 0, 0)));
}

#[tokio::test]
async fn one_tenant_cannot_fill_the_queue() {
    let admission = Admission::new(&config(8, 0, 8));
    let (greedy, modest) = (share("greedy"), share("modest"));
    admission.set_shared(true);
    let (busy, other) = (tool(1), tool(1));
    let _running = admit(&admission, &greedy, &busy).await.expect("room");
    let _runs_too = admit(&admission, &modest, &other).await.expect("room");
    let flood = futures::future::join_all((0..8).map(|_| admit(&admission, &greedy, &busy)));
    let (flood, modest) = tokio::join!(flood, admit(&admission, &modest, &other));
    let of = |what: &str| {
        flood.iter().filter(|end| matches!(end, Err(CallError::Busy { what: why, .. }) if *why == what)).count()
    };
    assert_eq!((of("instances of this tool run"), of("calls queue")), (6, 2), "a quarter is kept for others");
    assert!(matches!(modest, Err(CallError::Busy { what: "instances of this tool run", .. })), "it queued: {modest:?}");
}

#[tokio::test]
async fn one_tenant_cannot_take_all_places() {
    let admission = Admission::new(&config(8, 0, 8));
    let (greedy, modest, tool) = (share("greedy"), share("modest"), tool(99));
    admission.set_shared(true);
    let mut held = Vec::new();
    while let Ok(slot) = admit(&admission, &greedy, &tool).await {
        held.push(slot);
    }
    assert_eq!(held.len(), 6, "a quarter is kept for others");
    let _own = admit(&admission, &modest, &tool).await.expect("room for who has none");
}

#[tokio::test]
async fn a_tenants_own_bounds_hold() {
    let limits = TenantLimits { running: 2, waiting: 1, queued: 1, ..TenantLimits::default() };
    let admission = Admission::new(&config(8, 8, 8));
    let (me, tool) = (Share::alone(limits), tool(99));
    let first = admit(&admission, &me, &tool).await.expect("room");
    let second = admit(&admission, &me, &tool).await.expect("room");
    let (third, fourth) = tokio::join!(admit(&admission, &me, &tool), admit(&admission, &me, &tool));
    let says = |result: Result<Slot, CallError>| result.expect_err("no room").to_string();
    assert!(says(third).starts_with("busy: 2 instances of this tenant run"));
    assert!(says(fourth).starts_with("busy: 1 calls of this tenant queue"));
    let _parked = first.park().expect("room to wait");
    assert!(second.park().is_none(), "the second waits in its place among the running");
    assert_eq!(admission.of(&me.tenant), (1, 1, 0));
}

#[tokio::test]
async fn a_freed_place_goes_to_who_has_the_fewest() {
    let admission = Admission::new(&EngineConfig { queue_ms: 5_000, ..config(2, 0, 100) });
    let (greedy, modest, tool) = (share("greedy"), share("modest"), tool(99));
    let mut held = vec![admit(&admission, &greedy, &tool).await.expect("room")];
    held.push(admit(&admission, &greedy, &tool).await.expect("room"));
    let mut queued = Vec::new();
    for _ in 0..20 {
        let (admission, greedy, tool) = (admission.clone(), Arc::clone(&greedy), Arc::clone(&tool));
        queued.push(tokio::spawn(async move { admit(&admission, &greedy, &tool).await }));
    }
    let modest = {
        let (admission, tool) = (admission.clone(), Arc::clone(&tool));
        tokio::spawn(async move { admit(&admission, &modest, &tool).await })
    };
    while admission.queued() < 21 {
        tokio::task::yield_now().await;
    }
    // One place, and no call gives it back: the latecomer gets it, as its tenant has nothing yet.
    let given = held.pop();
    drop(given);
    let modest = modest.await.expect("no panic").expect("the first free place");
    assert_eq!(admission.of(&modest.share.tenant).0, 1);
    drop((held, modest));
    for call in queued {
        drop(call.await.expect("no panic").expect("a place in the end"));
    }
    assert_eq!((admission.running(), admission.queued()), (0, 0));
    assert!(admission.state().tenants.is_empty());
}

#[tokio::test]
async fn who_goes_away_leaves_no_trace() {
    let admission = Admission::new(&EngineConfig { queue_ms: 5_000, ..config(1, 1, 100) });
    let (me, tool) = (share("me"), tool(99));
    let slot = admit(&admission, &me, &tool).await.expect("room");
    for _ in 0..50 {
        let mut queueing = Box::pin(admit(&admission, &me, &tool));
        assert!(futures::poll!(&mut queueing).is_pending());
    }
    assert_eq!(admission.queued(), 0);
    // An instance that the host stops while it returns gives its new place back.
    let parked = slot.park().expect("room to wait");
    let other = admit(&admission, &me, &tool).await.expect("room");
    let mut returning = Box::pin(parked.resume());
    assert!(futures::poll!(&mut returning).is_pending());
    drop(other);
    drop(returning);
    drop(slot);
    assert_eq!((admission.running(), admission.waiting(), admission.queued()), (0, 0, 0));
    assert!(admit(&admission, &me, &tool).await.is_ok());
}

#[tokio::test]
async fn waiting_calls_of_greedy_tenants_leave_waiting_places_to_the_others() {
    let admission = Admission::new(&config(64, 16, 0));
    admission.set_shared(true);
    let limits = TenantLimits { waiting: 8, ..TenantLimits::default() };
    let memory = HostMemory::new(&MemoryConfig::default()).account(limits.memory());
    let of = |tenant: &str| Share::new(TenantId::new(tenant).expect("legal"), limits, Arc::clone(&memory));
    let tool = tool(99);
    let shares = [of("one"), of("two"), of("modest")];
    let mut slots = Vec::new();
    for (share, calls) in shares.iter().zip([9, 9, 1]) {
        for _ in 0..calls {
            slots.push(admit(&admission, share, &tool).await.expect("room"));
        }
    }
    let parked: Vec<_> = slots.iter().map(Slot::park).collect();
    let had: Vec<_> = shares.iter().map(|share| admission.of(&share.tenant)).collect();
    // The ninth of each and four of the second wait where they run, because they may not take the last quarter.
    assert_eq!(had, [(1, 8, 0), (5, 4, 0), (0, 1, 0)]);
    for parked in parked.into_iter().flatten() {
        parked.resume().await;
    }
    drop(slots);
    assert_eq!((admission.running(), admission.waiting()), (0, 0));
    assert!(admission.state().tenants.is_empty());
}

#[tokio::test]
async fn the_hosts_work_for_a_tenant_that_delays_others_stands_in_its_line() {
    let admission = Admission::new(&config(1, 0, 1));
    let [me, other] = ["me", "other"].map(|name| TenantId::new(name).expect("legal"));
    for tenant in [&me, &other] {
        admission.note(tenant);
    }
    assert!(admission.turn_if_crowded(&me).await.is_none(), "it has used nothing yet");
    let all: Vec<Turn> = std::iter::from_fn(|| admission.0.turns.try_take(&other)).take(999).collect();
    admission.note_used(&me, Duration::from_secs(3_600));
    assert!(admission.turn_if_crowded(&other).await.is_none(), "who delays nobody goes on at once");
    let mut mine = Box::pin(admission.turn_if_crowded(&me));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut mine).await.is_err(), "all turns are taken");
    drop(all);
    assert!(mine.await.is_some());
}
