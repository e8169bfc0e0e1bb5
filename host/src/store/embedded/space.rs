//! One space: the turns of its transactions, and its writes that the database does not have yet.
//!
//! Transactions of a space run one after another. A transaction holds the turn for a bounded time. The next one takes the turn away when that time is over,
//! so a guest that keeps a transaction open delays others only briefly.
//! The contents of a transaction end with its turn. At most one transaction of a space has writes in memory.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    base::{Base, Overlay, Pending},
    wal::Written,
    work::TransactionWork,
};
use crate::{
    names::ComponentName,
    store::{Bounds, StoreError},
};

/// Shortest interval between two looks of a waiting transaction at the holder's clock.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The state of one space of an open file.
#[derive(Debug)]
pub(super) struct SpaceState {
    pub(super) component: ComponentName,
    pub(super) view: Mutex<View>,
    turn: Arc<Semaphore>,
    holder: Mutex<Weak<SpaceTurn>>,
}

/// Changes that the next transaction sees over the entries in the database.
#[derive(Debug)]
pub(super) struct View {
    /// What the next transaction sees: all that is committed.
    pub(super) staged: Overlaid,
    /// What readers see: all that is durable.
    pub(super) durable: Overlaid,
}

/// A space with writes over those in the database.
#[derive(Debug, Clone, Default)]
pub(super) struct Overlaid {
    /// Writes that the database does not have.
    pub(super) entries: Overlay,
    /// Bytes of keys and values, with those in the database.
    pub(super) used_bytes: u64,
    /// The version of the last transaction.
    pub(super) version: u64,
}

impl Overlaid {
    /// Adds what the next transaction wrote.
    pub(super) fn add(&mut self, written: &Written) {
        for (key, value) in &written.writes {
            self.entries.insert(key.clone(), Pending { version: written.version, value: value.clone() });
        }
        (self.used_bytes, self.version) = (written.used_bytes, written.version);
    }
}

/// A space at one moment, as far as it is durable.
#[derive(Debug)]
pub(super) struct Durable {
    pub(super) base: Arc<Base>,
    /// Writes that only the log has.
    pub(super) logged: Overlay,
    /// Bytes of keys and values; none where the database alone has them.
    used_bytes: Option<u64>,
}

impl Durable {
    /// A space of which the log has these writes; of which it has nothing, without them.
    pub(super) fn new(base: Arc<Base>, overlaid: Option<&Overlaid>) -> Self {
        let logged = overlaid.map_or_else(Overlay::new, |overlaid| overlaid.entries.clone());
        Self { base, logged, used_bytes: overlaid.map(|overlaid| overlaid.used_bytes) }
    }

    /// Bytes of keys and values in the space of this component.
    pub(super) fn used_bytes(&self, component: &ComponentName) -> Result<u64, StoreError> {
        self.used_bytes.map_or_else(|| self.base.used_bytes_of(component), Ok)
    }
}

/// Writes that one look lets go of, so that nobody waits long for the view.
const LET_GO: usize = 256;

impl SpaceState {
    pub(super) fn new(component: ComponentName, used_bytes: u64, version: u64) -> Self {
        let overlaid = Overlaid { entries: Overlay::new(), used_bytes, version };
        Self {
            component,
            view: Mutex::new(View { staged: overlaid.clone(), durable: overlaid }),
            turn: Arc::new(Semaphore::new(1)),
            holder: Mutex::default(),
        }
    }

    /// Locks the view briefly.
    pub(super) fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of writes that the database has now, but for those that were written again.
    pub(super) fn forget(&self, done: &Overlaid) {
        let mut view = self.view();
        let View { staged, durable } = &mut *view;
        let take =
            |overlaid: &mut Overlaid| (overlaid.version == done.version).then(|| std::mem::take(&mut overlaid.entries));
        let whole = [staged, durable].map(take);
        drop(view);
        if whole.iter().all(Option::is_some) {
            return;
        }
        let mut entries = done.entries.iter();
        loop {
            let mut view = self.view();
            for _ in 0..LET_GO {
                let Some((key, pending)) = entries.next() else { return };
                let View { staged, durable } = &mut *view;
                for Overlaid { entries, .. } in [staged, durable] {
                    if entries.get(key).is_some_and(|now| now.version == pending.version) {
                        entries.remove(key);
                    }
                }
            }
        }
    }

    /// Waits for the turn: first come, first served.
    pub(super) async fn take_turn(&self, bounds: Bounds) -> Result<Arc<SpaceTurn>, StoreError> {
        let acquired = Arc::clone(&self.turn).acquire_owned();
        tokio::pin!(acquired);
        let permit = loop {
            tokio::select! {
                biased;
                permit = &mut acquired => break permit,
                () = tokio::time::sleep(self.holder_has_left()) => self.hurry_holder(),
            }
        };
        // The semaphore is never closed.
        let permit = permit.map_err(|_| StoreError::Conflict)?;
        let turn = Arc::new(SpaceTurn {
            began: (bounds.clock.own_time(), Instant::now()),
            bounds,
            held: Mutex::new(HeldTurn { work: None, permit: Some(permit) }),
            over: AtomicBool::new(false),
        });
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&turn);
        Ok(turn)
    }

    fn holder(&self) -> Option<Arc<SpaceTurn>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn holder_has_left(&self) -> Duration {
        self.holder().map_or(LOOK_AGAIN, |turn| turn.left()).max(LOOK_AGAIN)
    }

    /// Ends the turn that is held for too long, if one is.
    pub(super) fn hurry_holder(&self) {
        if let Some(turn) = self.holder()
            && turn.left().is_zero()
        {
            turn.end();
        }
    }
}

/// The right to run a transaction, until its owner gives it back or another takes it away.
#[derive(Debug)]
pub(super) struct SpaceTurn {
    bounds: Bounds,
    /// Start of the turn, by the owner's clock and on the wall.
    began: (Duration, Instant),
    held: Mutex<HeldTurn>,
    over: AtomicBool,
}

/// All that ends with a turn, in the order in which it ends: the next transaction begins afterwards.
#[derive(Debug, Default)]
struct HeldTurn {
    /// None before the transaction begins, and while an operation has it.
    work: Option<Box<TransactionWork>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl SpaceTurn {
    /// Fails when the time is over or another transaction took the turn away.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if !self.over.load(Ordering::Acquire) && !self.left().is_zero() {
            return Ok(());
        }
        self.end();
        Err(StoreError::TooLong)
    }

    /// The quota under which the transaction runs.
    pub(super) fn quota_bytes(&self) -> u64 {
        self.bounds.quota_bytes
    }

    /// Takes the contents out for an operation. Fails when the turn is over.
    pub(super) fn take(&self) -> Result<Box<TransactionWork>, StoreError> {
        self.lock_held().work.take().ok_or(StoreError::TooLong)
    }

    /// Puts the contents back, or drops them if the turn has ended meanwhile.
    pub(super) fn put(&self, work: Box<TransactionWork>) {
        let mut held = self.lock_held();
        if held.permit.is_some() {
            held.work = Some(work);
        }
    }

    /// Drops the contents, then gives the turn to the next.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
        let ended = std::mem::take(&mut *self.lock_held());
        drop(ended);
    }

    /// Stops others from taking the turn away while `commit` stages the transaction, then gives it to the next. Fails if the time is over.
    pub(super) fn finish<T>(&self, commit: impl FnOnce() -> T) -> Result<T, StoreError> {
        let mut held = self.lock_held();
        if held.permit.is_none() || self.left().is_zero() {
            drop(held);
            self.end();
            return Err(StoreError::TooLong);
        }
        let result = commit();
        self.over.store(true, Ordering::Release);
        drop(held.permit.take());
        Ok(result)
    }

    fn lock_held(&self) -> std::sync::MutexGuard<'_, HeldTurn> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> Duration {
        let own = self.bounds.clock.own_time().saturating_sub(self.began.0);
        self.bounds.own.saturating_sub(own).min(self.bounds.wall.saturating_sub(self.began.1.elapsed()))
    }
}
