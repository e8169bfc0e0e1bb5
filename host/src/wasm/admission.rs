//! How many instances there may be, running and waiting, and how long a call queues for one.
//!
//! A call holds a place among the running instances, or, while it waits for something, one among the waiting; never both and never none. So waiting calls
//! cannot starve running ones, a call that waits for a nested one leaves it room to run, and no queue is without a bound.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::EngineConfig;
use crate::call::CallError;

/// When a refused caller should try again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The places of one host.
#[derive(Debug, Clone)]
pub struct Admission {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    queued: Arc<AtomicUsize>,
    max_running: usize,
    max_waiting: usize,
    max_queued: usize,
    queue_time: Duration,
}

impl Admission {
    /// Places as configured.
    pub fn new(config: &EngineConfig) -> Self {
        Self {
            running: Arc::new(Semaphore::new(config.max_running)),
            waiting: Arc::new(Semaphore::new(config.max_waiting)),
            queued: Arc::new(AtomicUsize::new(0)),
            max_running: config.max_running,
            max_waiting: config.max_waiting,
            max_queued: config.max_queued,
            queue_time: Duration::from_millis(config.queue_ms),
        }
    }

    /// Instances that run now.
    pub fn running(&self) -> usize {
        self.max_running.saturating_sub(self.running.available_permits())
    }

    /// Instances that wait now.
    pub fn waiting(&self) -> usize {
        self.max_waiting.saturating_sub(self.waiting.available_permits())
    }

    /// Calls that queue now.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// A place among the running instances, at once or after queueing. `per_tool` limits the instances of one tool and never queues.
    pub async fn admit(
        &self,
        per_tool: &Arc<Semaphore>,
        tool_limit: usize,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<Slot, CallError> {
        let tool =
            Arc::clone(per_tool).try_acquire_owned().map_err(|_| busy("instances of this tool run", tool_limit))?;
        let running = match Arc::clone(&self.running).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.queue(deadline, cancel).await?,
        };
        Ok(Slot { admission: self.clone(), running: Mutex::new(Some(running)), _tool: tool })
    }

    async fn queue(&self, deadline: Instant, cancel: &CancellationToken) -> Result<OwnedSemaphorePermit, CallError> {
        let _place = self.enqueue()?;
        let patience = (Instant::now() + self.queue_time).min(deadline);
        tokio::select! {
            permit = Arc::clone(&self.running).acquire_owned() => permit.map_err(|_| CallError::Cancelled),
            () = tokio::time::sleep_until(patience) => Err(busy("instances run", self.max_running)),
            () = cancel.cancelled() => Err(CallError::Cancelled),
        }
    }

    fn enqueue(&self) -> Result<QueuePlace<'_>, CallError> {
        let place = QueuePlace(&self.queued);
        if self.queued.fetch_add(1, Ordering::Relaxed) >= self.max_queued {
            return Err(busy("calls queue", self.max_queued));
        }
        Ok(place)
    }
}

/// A place in the queue, given back when dropped.
struct QueuePlace<'a>(&'a AtomicUsize);

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn busy(what: &'static str, limit: usize) -> CallError {
    CallError::Busy { what, limit, retry_after: RETRY_AFTER }
}

/// The place of one call; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    admission: Admission,
    running: Mutex<Option<OwnedSemaphorePermit>>,
    _tool: OwnedSemaphorePermit,
}

impl Slot {
    /// Changes from running to waiting; refused where too many wait already.
    pub fn park(&self) -> Result<Parked<'_>, CallError> {
        let waiting = Arc::clone(&self.admission.waiting)
            .try_acquire_owned()
            .map_err(|_| busy("instances wait", self.admission.max_waiting))?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(Parked { slot: self, _waiting: waiting })
    }
}

/// A place among the waiting.
#[derive(Debug)]
pub struct Parked<'a> {
    slot: &'a Slot,
    _waiting: OwnedSemaphorePermit,
}

impl Parked<'_> {
    /// Changes back from waiting to running, when there is room.
    pub async fn resume(self) {
        // The semaphore is never closed; if it were, the call would go on uncounted rather than hang.
        if let Ok(running) = Arc::clone(&self.slot.admission.running).acquire_owned().await {
            *self.slot.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(max_running: usize, max_waiting: usize, max_queued: usize) -> EngineConfig {
        EngineConfig { max_running, max_waiting, max_queued, queue_ms: 50, guest_threads: 1 }
    }

    async fn admit(admission: &Admission, tool: &Arc<Semaphore>) -> Result<Slot, CallError> {
        admission.admit(tool, 9, Instant::now() + Duration::from_secs(5), &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn a_waiting_call_makes_room_and_comes_back() {
        let admission = Admission::new(&config(1, 1, 1));
        let tool = Arc::new(Semaphore::new(9));
        let outer = admit(&admission, &tool).await.expect("room");
        assert!(matches!(admit(&admission, &tool).await, Err(CallError::Busy { what: "instances run", .. })));
        let parked = outer.park().expect("room to wait");
        let inner = admit(&admission, &tool).await.expect("the nested call runs");
        assert!(matches!(inner.park(), Err(CallError::Busy { what: "instances wait", .. })));
        assert_eq!((admission.running(), admission.waiting()), (1, 1));
        drop(inner);
        parked.resume().await;
        assert_eq!((admission.running(), admission.waiting()), (1, 0));
        drop(outer);
        assert_eq!((admission.running(), admission.queued()), (0, 0));
    }

    #[tokio::test]
    async fn the_queue_has_a_bound() {
        let admission = Admission::new(&config(1, 0, 1));
        let tool = Arc::new(Semaphore::new(9));
        let _running = admit(&admission, &tool).await.expect("room");
        let (first, second) = tokio::join!(admit(&admission, &tool), admit(&admission, &tool));
        assert!(matches!(first, Err(CallError::Busy { what: "instances run", .. })), "{first:?}");
        assert!(matches!(second, Err(CallError::Busy { what: "calls queue", .. })), "{second:?}");
        assert_eq!(admission.queued(), 0);
    }

    #[tokio::test]
    async fn one_tool_cannot_take_all_places() {
        let admission = Admission::new(&config(4, 0, 4));
        let tool = Arc::new(Semaphore::new(1));
        let _first = admit(&admission, &tool).await.expect("room");
        assert!(matches!(
            admit(&admission, &tool).await,
            Err(CallError::Busy { what: "instances of this tool run", .. })
        ));
    }
}
