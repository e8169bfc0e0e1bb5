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
    Seat(#[expect(dead_code, reason = "held to be dropped")] Seat),
    Spare(#[expect(dead_code, reason = "held to be dropped")] Box<Spare>),
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
