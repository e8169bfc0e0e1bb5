//! A tenant's way in over HTTP: how many of its requests are read at the same time, and how long a refusal is held back after many of them. A flood of one tenant's waits here,
//! and another's request does not stand behind it.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::threads::processors;

/// How many of a tenant's requests are read at the same time, for each processor, while nobody else uses the host.
const PLACES: usize = 2;
/// Refusals that the host answers at once, each second; and how many more after a pause.
const REFUSALS_PER_SECOND: NonZeroU32 = NonZeroU32::new(100).unwrap();
const REFUSALS_AT_ONCE: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// How long the host holds back any further refusal.
const HELD_BACK: Duration = Duration::from_millis(500);

/// One tenant's door.
#[derive(Debug)]
pub struct Door {
    /// Permits to read a request; a request holds one while the host reads it.
    pub places: Arc<Semaphore>,
    /// Requests that are read at the same time while nobody else uses the host, and while others do.
    alone: usize,
    shared: usize,
    /// Refusals of the tenant's requests.
    pub refusals: Refusals,
    /// The permit to write a large result, or to read a kept one: one at a time.
    pub writers: Semaphore,
    /// The permit to read a part of a large body: one at a time.
    pub readers: Semaphore,
    /// The permit to make a list of all pages in one: one at a time.
    pub lists: Semaphore,
    streams: Arc<AtomicU64>,
}

impl Default for Door {
    fn default() -> Self {
        Self::new(processors())
    }
}

impl Door {
    fn new(processors: usize) -> Self {
        let (alone, shared) = (processors.saturating_mul(PLACES), processors.saturating_sub(1).max(1));
        let places = Arc::new(Semaphore::new(alone.saturating_mul(shared)));
        let [writers, readers, lists] = [1; 3].map(Semaphore::new);
        Self { places, alone, shared, refusals: Refusals::default(), writers, readers, lists, streams: Arc::default() }
    }

    /// One more standing stream, if there are less than `most`.
    pub fn stream(&self, most: u64) -> Option<StreamPermit> {
        let add = |open: u64| open.checked_add(1).filter(|sum| *sum <= most);
        self.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(StreamPermit(Arc::clone(&self.streams)))
    }

    /// Standing streams that are open.
    pub fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    /// Waits for a place. While several tenants use the host, a tenant's requests take as many places as leave one processor to the others.
    pub async fn enter(&self, shared: bool) -> DoorPermit {
        // Of `alone * shared` permits each takes what leaves room for as many.
        let permits = if shared { self.alone } else { self.shared };
        let places = u32::try_from(permits).unwrap_or(u32::MAX);
        let entered = Arc::clone(&self.places).acquire_many_owned(places).await.ok();
        DoorPermit(Arc::new(Mutex::new(entered)))
    }
}

/// Being one of a tenant's standing streams.
#[derive(Debug)]
pub struct StreamPermit(Arc<AtomicU64>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request's place at its tenant's door, until it is known what is to be done.
#[derive(Debug, Clone)]
pub struct DoorPermit(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl DoorPermit {
    /// Makes room for the next one.
    pub fn leave(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Leaves the place at the latest when what this gives is dropped.
    pub fn guard(&self) -> Leave {
        Leave(self.clone())
    }
}

/// Leaves a place when it is dropped.
#[derive(Debug)]
pub struct Leave(DoorPermit);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Refusals of one tenant, or of unauthenticated clients, and calls that the host had to stop. A client that keeps asking for missing or forbidden things, or crashes guests,
/// waits for each answer: such answers take time too.
#[derive(Debug)]
pub struct Refusals(DefaultDirectRateLimiter);

impl Default for Refusals {
    fn default() -> Self {
        Self(RateLimiter::direct(Quota::per_second(REFUSALS_PER_SECOND).allow_burst(REFUSALS_AT_ONCE)))
    }
}

impl Refusals {
    /// Counts a refusal; whether there were many lately.
    fn is_one_of_many(&self) -> bool {
        self.0.check().is_err()
    }

    /// Counts a refusal, and waits before it is answered if there were many.
    pub async fn hold_back(&self) {
        if self.is_one_of_many() {
            metrics::counter!("mcpp_refusals_held_back_total").increment(1);
            tokio::time::sleep(HELD_BACK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_tenant_leaves_a_processor_to_the_others() {
        for processors in [1, 2, 3, 8] {
            let door = Door::new(processors);
            for (shared, most) in [(false, processors * PLACES), (true, (processors - 1).max(1))] {
                let mut inside = Vec::new();
                while let Ok(place) = timeout(SOON, door.enter(shared)).await {
                    inside.push(place);
                    assert!(inside.len() <= most, "{processors}");
                }
                assert_eq!(inside.len(), most, "{processors}");
                for place in &inside {
                    drop(place.guard());
                }
                assert!(timeout(SOON, door.enter(shared)).await.is_ok(), "who has left makes room");
            }
        }
    }

    #[test]
    fn streams_have_a_bound_and_end() {
        let door = Door::new(1);
        let first = door.stream(2);
        let second = door.stream(2);
        assert!(first.is_some() && second.is_some() && door.stream(2).is_none());
        drop(first);
        assert!(door.stream(2).is_some());
        drop(second);
        assert_eq!(door.streams(), 0);
    }

    #[test]
    fn many_refusals_are_held_back_and_few_are_not() {
        let refusals = Refusals::default();
        assert!((0..REFUSALS_AT_ONCE.get()).all(|_| !refusals.is_one_of_many()));
        let held_back = (0..100).filter(|_| refusals.is_one_of_many()).count();
        assert!(held_back > 50, "{held_back}");
    }
}
