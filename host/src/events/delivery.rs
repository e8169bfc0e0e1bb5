//! Delivers waiting events and timers. One task looks for spaces that have any; one worker for each such space delivers them.
//!
//! All that must survive is in the store; a task here knows only the deliveries under way, and heads of groups in back-off ([`heads`]). The next worker finds again all that this
//! one leaves. A look is bounded in number and in bytes, and the looks of a tenant stand in its own line ([`pace`]).

mod heads;
mod pace;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::{
    sync::Notify,
    task::{self, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{heads::RestingHeads, pace::TenantLooks};
use super::{
    Deliver, DeliveryError, MAX_ATTEMPTS, backoff, parked,
    record::{
        Delivery, MAX_CHAIN, decode, due_key, encode, group_of, id_of, next_attempt_of, parse_due_key,
        subscriber_prefix, timer_key,
    },
    subscriptions::Subscriptions,
};
use crate::{
    limits::now_ms,
    names::{ComponentName, TenantId},
    store::{Bounds, Entry, KeyRange, Scan, Section, Snapshot, Space, Store, StoreError, after_key, after_prefix},
    telemetry::known::may_log,
};

/// Deliveries of one space at the same time.
const MAX_UNDER_WAY: usize = 16;
/// Heads of groups that one look examines; the next look goes on behind them.
const MAX_EXAMINED: usize = 256;
/// Bytes of heads that one look reads; beyond them it goes on in the next look.
const MAX_LOOK_BYTES: usize = 1 << 20;
/// After so many steps a look lets others run.
const STEPS_AT_ONCE: usize = 16;
/// How soon to go on where a look has ended before it saw everything.
const NEXT_LOOK: Duration = Duration::from_millis(10);
/// How soon to look again for deliveries that wait for their handler to be loaded, or for room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How soon to try again when the host had no room, or the store failed.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// The looking task: starts a worker for each space that has something to deliver.
pub(super) async fn run(
    store: Arc<dyn Store>,
    deliver: Arc<dyn Deliver>,
    subscriptions: Arc<Subscriptions>,
    pending: Vec<Space>,
    (closing, stop): (CancellationToken, CancellationToken),
) {
    let mut workers: BTreeMap<Space, Arc<Notify>> = BTreeMap::new();
    let mut running = JoinSet::new();
    let mut names: HashMap<task::Id, Space> = HashMap::new();
    let mut looks: HashMap<TenantId, TenantLooks> = HashMap::new();
    let mut spaces: BTreeSet<Space> = pending.into_iter().collect();
    loop {
        for space in std::mem::take(&mut spaces) {
            let look = workers.entry(space.clone()).or_insert_with(|| {
                let look = Arc::new(Notify::new());
                let (store, deliver) = (Arc::clone(&store), Arc::clone(&deliver));
                let tenant = space.tenant.clone();
                let looks = looks
                    .entry(tenant.clone())
                    .or_insert_with(|| TenantLooks::new(tenant, Arc::clone(&deliver)))
                    .clone();
                let worker = Worker::new(space.clone(), store, deliver, (Arc::clone(&look), looks), closing.clone());
                names.insert(running.spawn(worker.run()).id(), space);
                look
            });
            look.notify_one();
        }
        tokio::select! {
            () = closing.cancelled() => break,
            touched = store.touched().next() => spaces = touched,
            () = subscriptions.changed() => workers.values().for_each(|look| look.notify_one()),
            Some(ended) = running.join_next_with_id() => {
                let (id, broke) = ended.map_or_else(|error| (error.id(), true), |(id, ())| (id, false));
                if let Some(space) = names.remove(&id)
                    && let Some(look) = workers.remove(&space)
                    // The worker may have received a notice to look in its last moment.
                    && (broke || look.notified().now_or_never().is_some())
                {
                    spaces.insert(space);
                }
                looks.retain(|_, looks| !looks.is_unused());
            }
        }
    }
    // Handlers that run may hand over what they have.
    tokio::select! {
        biased;
        () = stop.cancelled() => running.shutdown().await,
        () = async { while running.join_next().await.is_some() {} } => {}
    }
}

/// Works off one space, and ends when nothing is left in it, or after the deliveries under way if the host stops.
struct Worker {
    space: Space,
    store: Arc<dyn Store>,
    deliver: Arc<dyn Deliver>,
    look: Arc<Notify>,
    looks: TenantLooks,
    closing: CancellationToken,
    /// Deliveries under way: groups of events and timers, by the key of the first of them.
    under_way: BTreeSet<Bytes>,
    resting: RestingHeads,
    /// Where the next look begins.
    next_group: Bytes,
}

/// Result of a look.
#[derive(Default)]
struct DueDeliveries {
    ready: Vec<(Bytes, Job)>,
    /// Time until there may be more to do; none if nothing is left.
    next: Option<Duration>,
    /// Bytes of the heads that it has read.
    bytes: usize,
}

impl DueDeliveries {
    fn look_in(&mut self, time: Duration) {
        self.next = Some(self.next.map_or(time, |next| next.min(time)));
    }
}

/// One delivery on its way.
struct Job {
    /// Where it is stored.
    key: Bytes,
    delivery: Delivery,
    to: ComponentName,
}

impl Worker {
    fn new(
        space: Space,
        store: Arc<dyn Store>,
        deliver: Arc<dyn Deliver>,
        (look, looks): (Arc<Notify>, TenantLooks),
        closing: CancellationToken,
    ) -> Self {
        let next_group = Section::Deliveries.key(b"");
        let (under_way, resting) = Default::default();
        Self { space, store, deliver, look, looks, closing, under_way, resting, next_group }
    }

    async fn run(mut self) {
        let (mut jobs, closing) = (JoinSet::new(), self.closing.clone());
        loop {
            if closing.is_cancelled() {
                while jobs.join_next().await.is_some() {}
                return;
            }
            let looks = self.looks.clone();
            let found = tokio::select! {
                found = looks.look(self.find()) => found,
                () = closing.cancelled() => continue,
            };
            let found = match found {
                Ok(found) => found,
                // The tenant is gone, and its deliveries with it.
                Err(error) if error.is_removed() => return,
                Err(error) => {
                    tracing::error!(space = %self.space, error = crate::error::chain(&error), "cannot look for deliveries");
                    DueDeliveries { next: Some(LOOK_AGAIN), ..DueDeliveries::default() }
                }
            };
            for (lock, job) in found.ready {
                self.under_way.insert(lock.clone());
                let (space, store, deliver) = (self.space.clone(), Arc::clone(&self.store), Arc::clone(&self.deliver));
                jobs.spawn(async move {
                    let rests = job.run(&space, &*store, &*deliver).await;
                    (lock, rests)
                });
            }
            let nothing_left = self.under_way.is_empty() && found.next.is_none();
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                () = self.look.notified() => {}
                Some(done) = jobs.join_next() => match done {
                    Ok((lock, rests)) => {
                        self.under_way.remove(&lock);
                        if let Some((head, next_ms)) = rests {
                            self.resting.note(&head, next_ms);
                        }
                    }
                    // A job that panicked does not give its lock back: forget all locks, the store knows the deliveries.
                    Err(_) => self.under_way.clear(),
                },
                () = tokio::time::sleep(found.next.unwrap_or(LOOK_AGAIN)), if !nothing_left => {}
                () = std::future::ready(()), if nothing_left => return,
            }
        }
    }

    /// Looks for deliveries that are ready now, and for the time of the next ones.
    async fn find(&mut self) -> Result<DueDeliveries, StoreError> {
        let snapshot = self.store.snapshot(&self.space).await?;
        let mut found = DueDeliveries::default();
        self.find_timers(&*snapshot, &mut found).await?;
        self.find_events(&*snapshot, &mut found).await?;
        Ok(found)
    }

    fn is_full(&self, found: &DueDeliveries) -> bool {
        self.under_way.len().saturating_add(found.ready.len()) >= MAX_UNDER_WAY
    }

    async fn find_timers(&self, snapshot: &dyn Snapshot, found: &mut DueDeliveries) -> Result<(), StoreError> {
        let mut range = Section::Due.prefix(b"");
        for _ in 0..MAX_EXAMINED {
            let Some(entry) = first(snapshot, &range).await? else { return Ok(()) };
            let Some((due_ms, key)) = parse_due_key(&entry.key) else { return Ok(()) };
            let left = due_ms.saturating_sub(now_ms());
            if left > 0 {
                found.look_in(Duration::from_millis(left));
                return Ok(());
            }
            if !self.deliver.has_handler(&self.space.tenant, &self.space.component) {
                found.look_in(LOOK_AGAIN);
                return Ok(());
            }
            let timer = timer_key(key);
            if self.is_full(found) {
                return Ok(());
            }
            if !self.under_way.contains(&timer)
                && let Some(stored) = snapshot.get(&timer).await?
            {
                let delivery = decode(&stored.value)?;
                let to = self.space.component.clone();
                found.ready.push((timer.clone(), Job { key: timer, delivery, to }));
            }
            range.start = after_key(&entry.key);
        }
        found.look_in(NEXT_LOOK);
        Ok(())
    }

    /// The head of each group is the only event that may be delivered. The search goes round the groups, so that none waits for others without end.
    async fn find_events(&mut self, snapshot: &dyn Snapshot, found: &mut DueDeliveries) -> Result<(), StoreError> {
        let now = now_ms();
        if let Some(next_ms) = self.resting.wake(now) {
            found.look_in(Duration::from_millis(next_ms.saturating_sub(now)));
        }
        let all = Section::Deliveries.prefix(b"");
        let began = self.next_group.clone();
        let mut range = KeyRange { start: began.clone(), end: all.end.clone() };
        let mut wrapped = began == all.start;
        // Those that rest cost little, and count for themselves: a look that comes around finds nothing more to do soon.
        for step in 1..=MAX_EXAMINED.saturating_add(self.resting.len()) {
            if self.is_full(found) {
                return Ok(());
            }
            if found.bytes >= MAX_LOOK_BYTES {
                break;
            }
            if step % STEPS_AT_ONCE == 0 {
                task::yield_now().await;
            }
            let resting = self.resting.first_in(&range);
            let end = resting.as_ref().map_or_else(|| range.end.clone(), |(head, _)| head.clone());
            let unknown = first(snapshot, &KeyRange { start: range.start.clone(), end }).await?;
            range.start = match (unknown, resting) {
                (Some(entry), _) => self.examine(entry, found)?,
                (None, Some((_, behind))) => behind,
                (None, None) if wrapped => {
                    self.next_group = all.start;
                    return Ok(());
                }
                (None, None) => {
                    wrapped = true;
                    range = KeyRange { start: all.start.clone(), end: began.clone() };
                    continue;
                }
            };
            self.next_group = range.start.clone();
        }
        found.look_in(NEXT_LOOK);
        Ok(())
    }

    /// Takes up the head of a group if it is ready; returns the key where the search continues.
    fn examine(&mut self, head: Entry, found: &mut DueDeliveries) -> Result<Bytes, StoreError> {
        let Some((group, to)) = group_of(&head.key) else { return Ok(after_key(&head.key)) };
        let after_group = after_prefix(&group);
        found.bytes = found.bytes.saturating_add(head.bytes());
        if self.under_way.contains(&group) {
            return Ok(after_group);
        }
        if !self.deliver.has_handler(&self.space.tenant, &to) {
            found.look_in(LOOK_AGAIN);
            return Ok(after_prefix(&Section::Deliveries.key(&subscriber_prefix(&to))));
        }
        let next_ms = next_attempt_of(&head.value)?;
        let left = next_ms.saturating_sub(now_ms());
        if left > 0 {
            found.look_in(Duration::from_millis(left));
            self.resting.note(&head.key, next_ms);
        } else {
            let delivery = decode(&head.value)?;
            found.ready.push((group, Job { key: head.key, delivery, to }));
        }
        Ok(after_group)
    }
}

async fn first(snapshot: &dyn Snapshot, range: &KeyRange) -> Result<Option<Entry>, StoreError> {
    Ok(snapshot.scan(range, Scan::first(1)).await?.entries.pop())
}

impl Job {
    /// Delivers, and notes the outcome durably. Returns the head of a group that rests then, and the time of its next attempt.
    async fn run(self, space: &Space, store: &dyn Store, deliver: &dyn Deliver) -> Option<(Bytes, u64)> {
        let outcome = if self.delivery.is_of_a_loop() {
            Err(DeliveryError::Failed(format!(
                "a loop of events: {MAX_CHAIN} handlers ran in a chain, and each emitted the next one's event; `mcpp events retry` begins another chain with it"
            )))
        } else {
            deliver.deliver(&space.tenant, &self.to, &self.delivery).await
        };
        let label = match &outcome {
            Ok(()) => "ok",
            Err(DeliveryError::NoHandler) => "no_handler",
            Err(DeliveryError::Busy) => "busy",
            Err(DeliveryError::Failed(_)) => "failed",
        };
        metrics::counter!("mcpp_deliveries_total", "tenant" => space.tenant.to_string(), "component" => self.to.to_string(), "outcome" => label)
            .increment(1);
        let noted = match outcome {
            Ok(()) => self.done(space, store).await.map(|()| None),
            Err(DeliveryError::NoHandler | DeliveryError::Busy) => {
                tokio::time::sleep(TRY_AGAIN).await;
                return None;
            }
            Err(DeliveryError::Failed(reason)) => self.failed(space, store, reason).await,
        };
        match noted {
            Ok(next_ms) => next_ms.filter(|_| !self.is_timer()).map(|next_ms| (self.key, next_ms)),
            Err(error) => {
                // The delivery stays in the store as it was, and the host delivers it again.
                tracing::error!(%space, id = self.delivery.id, error = crate::error::chain(&error), "a delivery could not be noted");
                tokio::time::sleep(TRY_AGAIN).await;
                None
            }
        }
    }

    async fn done(&self, space: &Space, store: &dyn Store) -> Result<(), StoreError> {
        let mut transaction = store.begin(space, Bounds::host()).await?;
        if self.is_current(transaction.get(&self.key).await?)? {
            transaction.delete(&self.key).await?;
            if self.is_timer() {
                transaction.delete(&due_key(self.delivery.next_ms, &self.delivery.key)).await?;
            }
        }
        transaction.commit().await
    }

    /// Notes a failure; returns the time of the next attempt, if there is one.
    async fn failed(&self, space: &Space, store: &dyn Store, reason: String) -> Result<Option<u64>, StoreError> {
        let attempts = self.delivery.attempts.saturating_add(1);
        let next_ms = now_ms().saturating_add(u64::try_from(backoff(attempts).as_millis()).unwrap_or(u64::MAX));
        let next = Delivery { attempts, next_ms, ..self.delivery.clone() };
        let park = attempts >= MAX_ATTEMPTS || self.delivery.is_of_a_loop();
        let mut transaction = store.begin(space, Bounds::host()).await?;
        if self.is_current(transaction.get(&self.key).await?)? {
            if self.is_timer() {
                transaction.delete(&due_key(self.delivery.next_ms, &self.delivery.key)).await?;
            }
            if park {
                transaction.delete(&self.key).await?;
                parked::park(&mut *transaction, &self.key, &self.to, next, reason.clone()).await?;
            } else {
                transaction.set(self.key.clone(), encode(&next)).await?;
                if self.is_timer() {
                    transaction.set(due_key(next_ms, &self.delivery.key), Bytes::new()).await?;
                }
            }
        }
        transaction.commit().await?;
        // The handler's words: they take of what its tenant's guests may write.
        if may_log(Some(&space.tenant), reason.len()) {
            tracing::warn!(%space, id = self.delivery.id, component = %self.to, attempts, parked = park, reason, "a delivery failed");
        }
        Ok((!park).then_some(next_ms))
    }

    fn is_timer(&self) -> bool {
        self.delivery.kind == super::record::Kind::Timer
    }

    /// Whether the stored record is still the one delivered. The component may have set the timer anew meanwhile, or an operator dropped it.
    fn is_current(&self, stored: Option<Entry>) -> Result<bool, StoreError> {
        let Some(stored) = stored else { return Ok(false) };
        Ok(id_of(&stored.value)? == self.delivery.id)
    }
}
