//! Guests that stay after a call: because a client holds handles of their resources, or because the operator lets a tool's instances be used again (`reuse`).
//!
//! A guest with resources belongs to one principal (in the legacy era: to one session of it) and to one build of a component. All of the principal's handles
//! of that build live in it, and its calls run one after the other. A guest for reuse belongs to one tool of one build. A call that ends without an answer
//! ends its guest too. The host bounds the number of guests, for itself and for each tenant, and their idle time.
//! It notices by itself when a session or build is over.

mod guests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::sync::OwnedMutexGuard;

use self::guests::{Guests, Owner, Purpose, Seat, Spare};
use super::Guest;
use crate::{
    call::{CallError, Session},
    capability::state::MakeRoom,
    control::{Control, admission::RETRY_AFTER},
    limits::Reuse,
    names::TenantId,
    tenant::Principal,
};

/// Idle time for which a guest with resources stays, outside of sessions.
const IDLE: Duration = Duration::from_secs(600);
/// Time after which a guest for reuse makes room for one of another tool that is called now.
const RESTING: Duration = Duration::from_secs(1);
/// Interval between two sweeps for guests that are over.
const SWEEP: Duration = Duration::from_secs(1);

/// Guests that stay.
#[derive(Debug, Clone)]
pub struct Keeper(Arc<KeptState>);

#[derive(Debug)]
struct KeptState {
    most: usize,
    guests: Mutex<Guests>,
}

impl MakeRoom for Keeper {
    /// The guest is one of the tenant's, or, where the host has no memory left, one for reuse of another tenant.
    fn make_memory(&self, tenant: &TenantId, of_host: bool) -> bool {
        let evicted = self.guests().evict_for_memory(tenant, of_host);
        // Drops the memory without the lock.
        evicted.is_some()
    }
}

/// Guests that stay, as one call sees them.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// All guests that stay.
    pub keeper: Keeper,
    /// The called build; over when nothing refers to it.
    pub build: Weak<()>,
    /// Most guests that the tenant may keep.
    pub most: u64,
    /// Reuse of the tool's instances, if the operator allows it.
    pub reuse: Option<Reuse>,
}

impl Keeper {
    /// Keeps at most `most` guests.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(KeptState { most, guests: Mutex::default() }))
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.0.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers of guests that stay, by tenant.
    pub fn count(&self) -> BTreeMap<TenantId, usize> {
        self.guests().count()
    }

    /// Starts the sweep of guests that are over, which runs while any guest is kept.
    fn sweep(&self, guests: &mut Guests) {
        if std::mem::replace(&mut guests.swept, true) {
            return;
        }
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(shared) = weak.upgrade() else { return };
                let mut guests = shared.guests.lock().unwrap_or_else(PoisonError::into_inner);
                let over = guests.take_over();
                if guests.seats.is_empty() && guests.spare.is_empty() {
                    guests.swept = false;
                    return;
                }
                drop(guests);
                // Drops the memory without the lock.
                drop(over);
            }
        });
    }
}

/// A guest that serves one call, or the place for a new guest.
#[derive(Debug)]
pub(super) enum Loan {
    /// A guest with resources.
    Seat(SeatLoan),
    /// A guest for reuse, with its birth and its calls so far.
    Spare(SpareLoan),
    /// A guest that ends with its call.
    None,
}

#[derive(Debug)]
pub(super) struct SeatLoan {
    keeper: Keeper,
    owner: Owner,
    guest: Option<OwnedMutexGuard<Option<Guest>>>,
}

#[derive(Debug)]
pub(super) struct SpareLoan {
    keeping: Keeping,
    purpose: Purpose,
    reuse: Reuse,
    guest: Option<Guest>,
    born: Instant,
    calls: u32,
}

impl Keeping {
    fn address(life: &Weak<()>) -> usize {
        life.as_ptr().addr()
    }

    /// Takes the seat of the principal's resources; none if it does not exist and the call requires it. A nested call is impatient:
    /// the seat's holder may wait for it.
    pub(super) async fn seat(
        &self,
        principal: &Principal,
        session: Option<&Session>,
        must_exist: bool,
        patient: bool,
        control: &Control,
    ) -> wasmtime::Result<Option<Loan>> {
        let session = session.map(|session| Arc::downgrade(session.life()));
        let owner = Owner {
            tenant: principal.tenant.clone(),
            subject: Arc::clone(&principal.subject),
            session: session.as_ref().map(Self::address),
            build: Self::address(&self.build),
        };
        let guest = {
            let mut guests = self.keeper.guests();
            let known = guests.seats.get_mut(&owner).filter(|seat| !seat.is_over());
            match known {
                Some(seat) => {
                    seat.used = Instant::now();
                    Arc::clone(&seat.guest)
                }
                None if must_exist => return Ok(None),
                None => {
                    let of_tenant = usize::try_from(self.most).unwrap_or(usize::MAX);
                    let room = guests.make_room(&owner.tenant, of_tenant, self.keeper.0.most);
                    let seat = Seat { build: self.build.clone(), session, used: Instant::now(), guest: Arc::default() };
                    let guest = Arc::clone(&seat.guest);
                    let evicted = room.map_err(|busy| control.stop(busy))?;
                    let replaced = guests.seats.insert(owner.clone(), seat);
                    self.keeper.sweep(&mut guests);
                    drop(guests);
                    drop((evicted, replaced));
                    guest
                }
            }
        };
        let mut loan = SeatLoan { keeper: self.keeper.clone(), owner, guest: None };
        loan.guest = Some(match Arc::clone(&guest).try_lock_owned() {
            Ok(guest) => guest,
            Err(_) if patient => control.wait_for_instance(guest.lock_owned()).await?,
            Err(_) => {
                let what = "calls use these resources";
                return Err(control.stop(CallError::Busy { what, limit: 1, retry_after: RETRY_AFTER }));
            }
        });
        if must_exist && loan.guest.as_ref().is_none_or(|guest| guest.is_none()) {
            return Ok(None);
        }
        Ok(Some(Loan::Seat(loan)))
    }

    /// A guest of the tool that was used before, or the place for a new one.
    pub(super) fn spare(&self, tenant: &TenantId, tool: &Arc<str>, reuse: Reuse) -> Loan {
        let purpose = Purpose { tenant: tenant.clone(), build: Self::address(&self.build), tool: Arc::clone(tool) };
        // The most recently used: its memory is warm, and the others can go.
        let spare = self.keeper.guests().spare.get_mut(&purpose).and_then(Vec::pop).filter(|spare| !spare.is_over());
        let (guest, born, calls) = match spare {
            Some(spare) => (Some(spare.guest), spare.born, spare.calls),
            None => (None, Instant::now(), 0),
        };
        Loan::Spare(SpareLoan { keeping: self.clone(), purpose, reuse, guest, born, calls })
    }
}

impl Loan {
    /// Takes the guest, if one exists. The loan is empty afterwards, until `give_back`.
    pub(super) fn take(&mut self) -> Option<Guest> {
        match self {
            Self::Seat(seat) => seat.guest.as_mut()?.take(),
            Self::Spare(spare) => spare.guest.take(),
            Self::None => None,
        }
    }

    /// Gives a guest back that has answered.
    pub(super) fn give_back(self, mut guest: Guest) {
        match self {
            Self::Seat(mut seat) => {
                if guest.has_given_out()
                    && guest.rest()
                    && let Some(place) = &mut seat.guest
                {
                    **place = Some(guest);
                }
            }
            Self::Spare(spare) => {
                if guest.rest() {
                    spare.give_back(guest);
                }
            }
            Self::None => {}
        }
    }
}

impl SpareLoan {
    fn give_back(self, guest: Guest) {
        let Self { keeping, purpose, reuse, born, calls, .. } = self;
        let build = keeping.build.clone();
        let spare = Spare { guest, build, reuse, born, used: Instant::now(), calls: calls.saturating_add(1) };
        if spare.is_over() {
            return;
        }
        let mut guests = keeping.keeper.guests();
        let counts = guests.count();
        let own = counts.get(&purpose.tenant).copied().unwrap_or_default();
        let is_full = own >= usize::try_from(keeping.most).unwrap_or(usize::MAX)
            || counts.values().sum::<usize>() >= keeping.keeper.0.most;
        // This guest is worth the eviction of one for reuse that rests for long, and of no other.
        let evicted = if is_full { guests.evict_resting(Some(&purpose.tenant), RESTING) } else { None };
        if is_full && evicted.is_none() {
            drop(guests);
            drop(spare);
            return;
        }
        guests.spare.entry(purpose).or_default().push(spare);
        keeping.keeper.sweep(&mut guests);
        drop(guests);
        drop(evicted);
    }
}

impl Drop for SeatLoan {
    fn drop(&mut self) {
        drop(self.guest.take());
        let mut guests = self.keeper.guests();
        let Some(seat) = guests.seats.get_mut(&self.owner) else { return };
        seat.used = Instant::now();
        // No other call waits for the seat, and no guest is in it.
        if seat.is_idle() && seat.guest.try_lock().is_ok_and(|guest| guest.is_none()) {
            guests.seats.remove(&self.owner);
        }
    }
}
