//! A timer that survives its own handler.

use super::{Map, StoreError, Transaction, transact};

/// When each alarm rings, by its name, in milliseconds since 1970-01-01 UTC.
const ALARMS: Map<String, u64> = Map::new("mcpp.alarms");
/// An alarm that is overdue by more than this has been given up by the host: longer than all the host's retries of a delivery together, in milliseconds.
const OVERDUE_MS: u64 = 30_000;
/// When an alarm rings again whose handler does not come to its end, in milliseconds.
const SAFETY_MS: u64 = 60_000;

/// A timer "at the latest by": it rings no later than the earliest time that it was set for, and is set again after any failure.
///
/// [`ring`](Self::ring) sets it anew before the handler works, so the host never gives it up while the store can be written. Should the host have parked it all the same, the
/// next [`by`](Self::by) or [`revive`](Self::revive) finds it overdue and sets it.
///
/// ```
/// use mcpp_tool::{Error, events::Wake, environment::now_ms, store::{Alarm, Index, StoreError, Transaction, View, transact}};
///
/// const DUE: Index<(), (u64, String)> = Index::new("due");
/// const REMINDER: Alarm = Alarm::new("reminder");
///
/// fn remind(t: &Transaction, text: &str, at_ms: u64) -> Result<(), StoreError> {
///     DUE.insert(t, &(), &(at_ms, text))?;
///     REMINDER.by(t, at_ms, now_ms())
/// }
///
/// fn on_wake(wake: Wake) -> Result<(), Error> {
///     let now_ms = wake.due_ms;
///     let work = || transact(|t| {
///         for due in DUE.of(&()).below(&(now_ms + 1,)).walk(t) {
///             let due = due?;
///             mcpp_tool::log::info(&due.1);
///             DUE.remove(t, &(), &due)?;
///         }
///         Ok::<_, Error>(())
///     });
///     REMINDER.ring(now_ms, work, |t| Ok(DUE.of(&()).first(t)?.map(|(at, _)| at)))
/// }
/// # transact(|t| remind(t, "tea", 5)).expect("set");
/// # let wake = Wake { id: "1".into(), key: "reminder".into(), payload: vec![], due_ms: 5, cause: String::new(), attempt: 1 };
/// # on_wake(wake).expect("it rings");
/// # assert!(mcpp_tool::store::memory::timers().is_empty());
/// ```
#[derive(Debug)]
pub struct Alarm {
    name: &'static str,
}

impl Alarm {
    /// The alarm of this name, which is the key of its timer.
    pub const fn new(name: &'static str) -> Self {
        Self { name }
    }

    /// The key of its timer, as a handler of several sees it.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The store's own key of its entry, for [`View::read_ahead`](super::View::read_ahead).
    pub fn key(&self) -> Vec<u8> {
        ALARMS.key(self.name)
    }

    /// Rings at `at_ms` at the latest, in milliseconds since 1970-01-01 UTC. `now_ms` tells whether the alarm has been lost.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn by(&self, t: &Transaction<'_>, at_ms: u64, now_ms: u64) -> Result<(), StoreError> {
        match self.set_for(t)? {
            Some(set) if is_lost(set, now_ms) => self.set(t, at_ms.min(now_ms)),
            Some(set) if set <= at_ms => Ok(()),
            _ => self.set(t, at_ms),
        }
    }

    /// Sets the alarm again if it has been lost; otherwise nothing happens. For whatever happens often.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn revive(&self, t: &Transaction<'_>, now_ms: u64) -> Result<(), StoreError> {
        match self.set_for(t)? {
            Some(set) if is_lost(set, now_ms) => self.set(t, now_ms),
            _ => Ok(()),
        }
    }

    /// Handles the alarm's timer: sets it anew for a minute later, does `work`, and sets it for `next`, or not at all if that is none. `next` is also asked after a
    /// failure of `work`, whose error is given then.
    ///
    /// # Errors
    /// Those of `work` and `next`, and those of the store as such ones.
    pub fn ring<E: From<StoreError>>(
        &self,
        now_ms: u64,
        work: impl FnOnce() -> Result<(), E>,
        mut next: impl FnMut(&Transaction<'_>) -> Result<Option<u64>, E>,
    ) -> Result<(), E> {
        transact(|t| self.set(t, now_ms.saturating_add(SAFETY_MS)).map_err(E::from))?;
        let worked = work();
        let rested = transact(|t| match next(t)? {
            Some(at_ms) => Ok(self.set(t, at_ms)?),
            None => Ok(self.cancel(t)?),
        });
        worked.and(rested)
    }

    /// When it is set for; read once in a transaction, however often it is asked.
    fn set_for(&self, t: &Transaction<'_>) -> Result<Option<u64>, StoreError> {
        let known = t.alarms().borrow().get(self.name).copied();
        match known {
            Some(at_ms) => Ok(at_ms),
            None => {
                let at_ms = ALARMS.get(t, self.name)?;
                t.alarms().borrow_mut().insert(self.name, at_ms);
                Ok(at_ms)
            }
        }
    }

    fn set(&self, t: &Transaction<'_>, at_ms: u64) -> Result<(), StoreError> {
        t.alarms().borrow_mut().insert(self.name, Some(at_ms));
        ALARMS.set(t, self.name, &at_ms)?;
        t.wake_at(self.name, at_ms, b"")
    }

    fn cancel(&self, t: &Transaction<'_>) -> Result<(), StoreError> {
        t.alarms().borrow_mut().insert(self.name, None);
        ALARMS.remove(t, self.name)?;
        t.cancel_wake(self.name).map(drop)
    }
}

fn is_lost(set_ms: u64, now_ms: u64) -> bool {
    set_ms.saturating_add(OVERDUE_MS) < now_ms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory;

    const ALARM: Alarm = Alarm::new("alarm");
    const NOW: u64 = 1_000_000;

    fn by(at_ms: u64, now_ms: u64) {
        transact(|t| ALARM.by(t, at_ms, now_ms)).expect("set");
    }

    fn set_for() -> Option<u64> {
        memory::timers().get("alarm").map(|timer| timer.at_ms)
    }

    #[test]
    fn an_alarm_rings_at_the_earliest_time_and_then_at_the_next() {
        memory::clear();
        by(NOW + 9, NOW);
        by(NOW + 5, NOW);
        by(NOW + 7, NOW);
        assert_eq!(set_for(), Some(NOW + 5));
        memory::take_timer("alarm");
        let work = || {
            assert_eq!(set_for(), Some(NOW + 5 + SAFETY_MS), "set before anything can fail");
            Ok::<_, StoreError>(())
        };
        ALARM.ring(NOW + 5, work, |_| Ok(Some(NOW + 7))).expect("it rings");
        assert_eq!(set_for(), Some(NOW + 7));
        ALARM.ring(NOW + 7, || Ok::<_, StoreError>(()), |_| Ok(None)).expect("it rings");
        assert_eq!(set_for(), None);
        by(NOW + 50, NOW);
        assert_eq!(set_for(), Some(NOW + 50), "what was set before does not count any more");
    }

    #[test]
    fn an_alarm_is_set_again_after_a_failure_and_after_the_host_gave_it_up() {
        memory::clear();
        by(NOW, NOW);
        let failed = ALARM.ring(NOW, || Err(StoreError::Unreadable), |_| Ok(Some(NOW + 1)));
        assert_eq!((failed, set_for()), (Err(StoreError::Unreadable), Some(NOW + 1)));
        let failed = ALARM.ring(NOW + 1, || Ok(()), |_| Err(StoreError::Unreadable));
        assert_eq!((failed, set_for()), (Err(StoreError::Unreadable), Some(NOW + 1 + SAFETY_MS)));
        memory::take_timer("alarm");
        let late = NOW + 1 + SAFETY_MS + OVERDUE_MS;
        transact(|t| ALARM.revive(t, late)).expect("nothing yet");
        assert_eq!(set_for(), None);
        transact(|t| ALARM.revive(t, late + 1)).expect("set");
        assert_eq!(set_for(), Some(late + 1));
        memory::take_timer("alarm");
        by(late + 999_999, late + 100_000);
        assert_eq!(set_for(), Some(late + 100_000), "it rings now, to find out what it missed");
    }
}
