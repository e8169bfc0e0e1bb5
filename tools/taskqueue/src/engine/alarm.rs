//! The queue's one timer. It is set for the earliest time at which something is due, and it survives what its handler comes to.
//!
//! The handler sets the timer anew before it does anything else, so the host never gives it up while the store can be written. Where the host has given it up all the same,
//! whatever happens next in the queue finds it overdue and sets it.

use mcpp_tool::store::{Map, StoreError, Write};

/// The key of the queue's timer.
pub(crate) const TIMER: &str = "upkeep";
/// When the timer is set for, in milliseconds since 1970-01-01 UTC; none if it is not.
const WAKE: Map<(), u64> = Map::new("wake");
/// A timer that is overdue by more than this is taken for lost: longer than the host's retries of one that fails, all together.
const OVERDUE_MS: u64 = 30_000;
/// When the timer wakes again if its handler does not come to its end, in milliseconds.
pub(super) const SAFETY_MS: u64 = 60_000;

/// Sets the timer, if it is not set for an earlier time.
pub(super) fn plan_at(t: &mut (impl Write + ?Sized), at_ms: u64, now_ms: u64) -> Result<(), StoreError> {
    match WAKE.get(t, &())? {
        Some(set) if is_lost(set, now_ms) => set_for(t, at_ms.min(now_ms)),
        Some(set) if set <= at_ms => Ok(()),
        _ => set_for(t, at_ms),
    }
}

/// Sets the timer if it is lost.
pub(super) fn revive(t: &mut (impl Write + ?Sized), now_ms: u64) -> Result<(), StoreError> {
    match WAKE.get(t, &())? {
        Some(set) if is_lost(set, now_ms) => set_for(t, now_ms),
        _ => Ok(()),
    }
}

fn is_lost(set_ms: u64, now_ms: u64) -> bool {
    set_ms.saturating_add(OVERDUE_MS) < now_ms
}

/// Sets the timer for this time.
pub(super) fn set_for(t: &mut (impl Write + ?Sized), at_ms: u64) -> Result<(), StoreError> {
    WAKE.set(t, &(), &at_ms)?;
    t.wake_at(TIMER, at_ms, b"")
}

/// Nothing is due, ever.
pub(super) fn cancel(t: &mut (impl Write + ?Sized)) -> Result<(), StoreError> {
    WAKE.remove(t, &())?;
    t.cancel_wake(TIMER).map(drop)
}
