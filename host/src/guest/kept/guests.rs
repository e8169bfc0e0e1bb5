//! Kept guests, and the order in which they go where room is short.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::IDLE;
use crate::{call::CallError, control::admission::RETRY_AFTER, guest::Guest, limits::Reuse, names::TenantId};

#[derive(Debug, Default)]
pub(super) struct Guests {
    pub(super) seats: HashMap<Owner, Seat>,
    pub(super) spare: HashMap<Purpose, Vec<Spare>>,
    pub(super) swept: bool,
}

/// Owner of the resources in a guest. Addresses tell builds and sessions apart; the seat's weak references prevent their reuse.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) tenant: TenantId,
    pub(super) subject: Arc<str>,
    pub(super) session: Option<usize>,
    pub(super) build: usize,
}

/// The place of a guest with resources.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) build: Weak<()>,
    pub(super) session: Option<Weak<()>>,
    pub(super) used: Instant,
    pub(super) guest: Arc<tokio::sync::Mutex<Option<Guest>>>,
}

/// Purpose for which the host uses a guest again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Purpose {
    pub(super) tenant: TenantId,
    pub(super) build: usize,
    pub(super) tool: Arc<str>,
}

/// A guest that waits for its next call.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) guest: Guest,
    pub(super) build: Weak<()>,
    pub(super) reuse: Reuse,
    pub(super) born: Instant,
    pub(super) used: Instant,
    pub(super) calls: u32,
}

impl Guests {
    pub(super) fn count(&self) -> BTreeMap<TenantId, usize> {
        let mut counts = BTreeMap::<TenantId, usize>::new();
        let spare = self.spare.iter().map(|(purpose, spare)| (&purpose.tenant, spare.len()));
        for (tenant, more) in self.seats.keys().map(|owner| (&owner.tenant, 1)).chain(spare) {
            let count = counts.entry(tenant.clone()).or_default();
            *count = count.saturating_add(more);
        }
        counts
    }

    /// Takes out guests that no call can use any more, or that have been idle for too long.
    pub(super) fn take_over(&mut self) -> (Vec<Seat>, Vec<Spare>) {
        let seats = self.seats.extract_if(|_, seat| seat.is_over()).map(|(_, seat)| seat).collect();
        let mut spare = Vec::new();
        self.spare.retain(|_, guests| {
            spare.extend(guests.extract_if(.., |guest| guest.is_over()));
            !guests.is_empty()
        });
        (seats, spare)
    }

    /// Takes out the longest idle guest of `tenant`: one for reuse before one with resources.
    fn evict(&mut self, tenant: &TenantId) -> Option<Evicted> {
        self.evict_resting(Some(tenant), Duration::ZERO).or_else(|| self.evict_seat(tenant))
    }

    /// Takes out the longest idle guest with resources of `tenant`.
    fn evict_seat(&mut self, tenant: &TenantId) -> Option<Evicted> {
        let idle = self.seats.iter().filter(|(owner, seat)| owner.tenant == *tenant && seat.is_idle());
        let longest = idle.min_by_key(|(_, seat)| seat.used).map(|(owner, _)| owner.clone())?;
        self.seats.remove(&longest).map(Evicted::Seat)
    }

    /// Takes out the longest idle guest for reuse, of `tenant` or of any, if it has rested for so long.
    pub(super) fn evict_resting(&mut self, tenant: Option<&TenantId>, rest: Duration) -> Option<Evicted> {
        let is_asked_for = |purpose: &Purpose| tenant.is_none_or(|tenant| purpose.tenant == *tenant);
        let spare = self.spare.iter_mut().filter(|(purpose, guests)| is_asked_for(purpose) && !guests.is_empty());
        let (_, guests) = spare.min_by_key(|(_, guests)| guests.first().map(|guest| guest.used))?;
        let rests = guests.first().is_some_and(|guest| guest.used.elapsed() >= rest);
        rests.then(|| Evicted::Spare(Box::new(guests.remove(0))))
    }

    /// Takes out a guest whose memory another needs: one of `tenant` for reuse, or, where the host has none left, the longest idle one for reuse; then one of `tenant` with
    /// resources. It never takes resources that a client of another tenant holds.
    pub(super) fn evict_for_memory(&mut self, tenant: &TenantId, of_host: bool) -> Option<Evicted> {
        let own = self.evict_resting(Some(tenant), Duration::ZERO);
        let any = own.or_else(|| if of_host { self.evict_resting(None, Duration::ZERO) } else { None });
        any.or_else(|| self.evict_seat(tenant))
    }

    /// Makes room for one more guest of `tenant`. A tenant that has its share loses a guest; if the host is full, the longest idle one for reuse goes, and without one a guest of
    /// the tenant with most.
    pub(super) fn make_room(
        &mut self,
        tenant: &TenantId,
        of_tenant: usize,
        of_host: usize,
    ) -> Result<Option<Evicted>, CallError> {
        let busy = |what, limit| Err(CallError::Busy { what, limit, retry_after: RETRY_AFTER });
        let counts = self.count();
        if counts.get(tenant).copied().unwrap_or_default() >= of_tenant {
            return match self.evict(tenant) {
                Some(evicted) => Ok(Some(evicted)),
                None => busy("instances of this tenant are kept", of_tenant),
            };
        }
        if counts.values().sum::<usize>() < of_host {
            return Ok(None);
        }
        let resting = self.evict_resting(None, Duration::ZERO);
        if resting.is_some() {
            return Ok(resting);
        }
        let own = counts.get(tenant).copied().unwrap_or_default();
        let greediest = counts.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > own);
        let from = greediest.map_or(tenant, |(tenant, _)| tenant).clone();
        match self.evict_seat(&from) {
            Some(evicted) => Ok(Some(evicted)),
            None => busy("instances are kept", of_host),
        }
    }
}

/// An evicted guest; the caller drops it without the lock.
#[derive(Debug)]
pub(super) enum Evicted {
    Seat(#[cfg_attr(not(test), expect(dead_code, reason = "held to be dropped"))] Seat),
    Spare(#[cfg_attr(not(test), expect(dead_code, reason = "held to be dropped"))] Box<Spare>),
}

impl Seat {
    pub(super) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.guest) == 1
    }

    pub(super) fn is_over(&self) -> bool {
        let gone = |life: &Weak<()>| life.strong_count() == 0;
        let expired = self.session.is_none() && self.used.elapsed() >= IDLE;
        self.is_idle() && (expired || gone(&self.build) || self.session.as_ref().is_some_and(gone))
    }
}

impl Spare {
    pub(super) fn is_over(&self) -> bool {
        let within = |since: Instant, seconds: u32| since.elapsed() < Duration::from_secs(seconds.into());
        self.build.strong_count() == 0
            || self.calls >= self.reuse.calls
            || !within(self.born, self.reuse.age_s)
            || !within(self.used, self.reuse.idle_s)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use tokio::{sync::Semaphore, time::Instant as Deadline};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        control::{
            Control,
            admission::{Admission, Share},
        },
        engine::EngineConfig,
        guest::new_store,
        limits::{Limits, TenantLimits},
        plain::handles::GivenOut,
    };

    static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("legal")
    }

    async fn guest(engine: &wasmtime::Engine) -> Guest {
        let (admission, cancel) = (Admission::new(&EngineConfig::default()), CancellationToken::new());
        let until = Deadline::now() + Duration::from_secs(60);
        let (share, tool) = (Share::alone(TenantLimits::default()), Arc::new(Semaphore::new(1)));
        let slot = admission.admit(&share, &tool, 1, until, &cancel).await.expect("a place");
        let control = Control::new(Limits::default(), until, cancel, slot);
        Guest { store: new_store(engine, &"text".into(), &control, None), code: None, given_out: GivenOut::default() }
    }

    /// Guests that rest: of the tenants, for these tools, last used so many seconds ago, from the longest ago to the latest.
    async fn resting(spares: &[(&str, &str, &[u64])]) -> Guests {
        let mut guests = Guests::default();
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let engine = wasmtime::Engine::new(&config).expect("an engine");
        for (owner, tool, ages) in spares {
            let purpose = Purpose { tenant: tenant(owner), build: 0, tool: (*tool).into() };
            for age in *ages {
                let used = *NOW - Duration::from_secs(*age);
                let (build, reuse) = (Weak::new(), Reuse { calls: 9, age_s: 9_999, idle_s: 9_999 });
                let spare = Spare { guest: guest(&engine).await, build, reuse, born: used, used, calls: 0 };
                guests.spare.entry(purpose.clone()).or_default().push(spare);
            }
        }
        guests
    }

    fn seat(guests: &mut Guests, of: &str, session: usize, age: u64) {
        let owner = Owner { tenant: tenant(of), subject: "s".into(), session: Some(session), build: 0 };
        let used = *NOW - Duration::from_secs(age);
        guests.seats.insert(owner, Seat { build: Weak::new(), session: None, used, guest: Arc::default() });
    }

    /// How long ago an evicted guest was used, in seconds, and whether it had resources.
    fn age(evicted: Option<Evicted>) -> Option<(u64, bool)> {
        evicted.map(|evicted| match evicted {
            Evicted::Seat(seat) => ((*NOW - seat.used).as_secs(), true),
            Evicted::Spare(spare) => ((*NOW - spare.used).as_secs(), false),
        })
    }

    #[tokio::test]
    async fn where_memory_is_short_the_tenant_that_wants_it_loses_first_and_the_longest_idle_guest_goes() {
        let (me, poor) = (tenant("me"), tenant("poor"));
        let mut guests =
            resting(&[("me", "a", &[30, 10]), ("me", "b", &[20]), ("other", "a", &[90, 5]), ("more", "a", &[70])])
                .await;
        seat(&mut guests, "me", 1, 200);
        seat(&mut guests, "me", 2, 300);
        seat(&mut guests, "other", 1, 400);
        // A tenant at its own bound takes nothing from another, however long another's guests are idle.
        for expected in [30, 20, 10] {
            let is_of_host = expected == 20;
            assert_eq!(age(guests.evict_for_memory(&me, is_of_host)), Some((expected, false)));
        }
        assert_eq!(age(guests.evict_for_memory(&me, false)), Some((300, true)), "then those with resources");
        // Where the host has none left, the guest for reuse that is idle for longest goes, whosever it is.
        assert_eq!(age(guests.evict_for_memory(&me, true)), Some((90, false)));
        assert_eq!(age(guests.evict_for_memory(&poor, true)), Some((70, false)));
        assert_eq!(age(guests.evict_for_memory(&poor, false)), None, "it has none of its own");
        assert_eq!(age(guests.evict_for_memory(&poor, true)), Some((5, false)));
        assert_eq!(age(guests.evict_for_memory(&me, true)), Some((200, true)));
        // Nobody takes what a client of another tenant holds.
        assert_eq!(age(guests.evict_for_memory(&me, true)), None);
        let left: Vec<_> = guests.count().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(left, [(tenant("other"), 1)]);
    }

    #[tokio::test]
    async fn a_guest_that_a_call_uses_stays() {
        let mut guests = Guests::default();
        seat(&mut guests, "me", 1, 9);
        let used = guests.seats.values().next().map(|seat| Arc::clone(&seat.guest));
        assert_eq!(age(guests.evict_for_memory(&tenant("me"), true)), None);
        drop(used);
        assert_eq!(age(guests.evict_for_memory(&tenant("me"), true)), Some((9, true)));
    }

    #[tokio::test]
    async fn a_tenant_at_its_share_loses_before_others_and_the_greediest_before_the_modest() {
        let mut guests = resting(&[("me", "a", &[20, 10]), ("other", "a", &[30])]).await;
        let (me, other, third) = (tenant("me"), tenant("other"), tenant("third"));
        assert_eq!(age(guests.make_room(&me, 2, 99).expect("room")), Some((20, false)), "not the older one of another");
        assert_eq!(age(guests.make_room(&me, 2, 99).expect("room")), None, "it is below its share");
        assert_eq!(age(guests.make_room(&third, 2, 2).expect("room")), Some((30, false)), "the host is full");
        assert_eq!(age(guests.make_room(&third, 2, 1).expect("room")), Some((10, false)));
        for (session, age) in [(1, 60), (2, 50), (3, 70)] {
            seat(&mut guests, "me", session, age);
        }
        seat(&mut guests, "other", 1, 99);
        assert_eq!(age(guests.make_room(&third, 9, 4).expect("room")), Some((70, true)), "of the tenant with most");
        assert_eq!(age(guests.make_room(&other, 9, 3).expect("room")), Some((60, true)));
        let full = guests.make_room(&third, 0, 9);
        assert!(matches!(full, Err(CallError::Busy { .. })), "it has none to lose: {full:?}");
    }
}
