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
        let spare = self.evict_resting(tenant, Duration::ZERO);
        if spare.is_some() {
            return spare;
        }
        let idle = self.seats.iter().filter(|(owner, seat)| owner.tenant == *tenant && seat.is_idle());
        let longest = idle.min_by_key(|(_, seat)| seat.used).map(|(owner, _)| owner.clone())?;
        self.seats.remove(&longest).map(Evicted::Seat)
    }

    /// Takes out the longest idle guest for reuse of `tenant`, if it has rested for so long.
    pub(super) fn evict_resting(&mut self, tenant: &TenantId, rest: Duration) -> Option<Evicted> {
        let spare = self.spare.iter_mut().filter(|(purpose, guests)| purpose.tenant == *tenant && !guests.is_empty());
        let (_, guests) = spare.min_by_key(|(_, guests)| guests.first().map(|guest| guest.used))?;
        let rests = guests.first().is_some_and(|guest| guest.used.elapsed() >= rest);
        rests.then(|| Evicted::Spare(Box::new(guests.remove(0))))
    }

    /// Takes out a guest whose memory another needs: one of `tenant`, or, where the host has none left, the longest idle one for reuse. It never takes
    /// resources that a client of another tenant holds.
    pub(super) fn evict_for_memory(&mut self, tenant: &TenantId, of_host: bool) -> Option<Evicted> {
        let own = self.evict(tenant);
        if own.is_some() || !of_host {
            return own;
        }
        let spare = self.spare.values_mut().filter(|guests| !guests.is_empty());
        let guests = spare.min_by_key(|guests| guests.first().map(|guest| guest.used))?;
        Some(Evicted::Spare(Box::new(guests.remove(0))))
    }

    /// Makes room for one more guest of `tenant`. A tenant that has its share loses a guest; if the host is full, the tenant with most guests does.
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
        let own = counts.get(tenant).copied().unwrap_or_default();
        let greediest = counts.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > own);
        let from = greediest.map_or(tenant, |(tenant, _)| tenant).clone();
        match self.evict(&from) {
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
