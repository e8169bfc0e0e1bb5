//! Memory that the host spends for others: counted in bytes for each tenant and for the whole host, by what it is for, and refused by name where either has no more.
//!
//! Whatever waits for somebody (a body that is being read, a result that is being written, a guest's linear memory, compiled code) holds a [`Reservation`] of its
//! [`Account`] and gives it back when it is dropped. Clients without a token have an account of their own. Of each pool the last quarter is kept for accounts that have
//! almost nothing, so that none can take all of it.

mod boxed;
mod json;
mod machine;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

pub use self::{
    boxed::boxed,
    json::{json_bytes, json_text},
    machine::memory_bytes,
};

/// A use of memory. Each use has a pool of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryUse {
    /// Guests' linear memories, tables and heaps, also of instances that are kept.
    Guests,
    /// Compiled code and the images of memories, of components that are live.
    Code,
    /// Messages on their way: bodies, arguments, results, events, records of sessions, answers.
    Messages,
}

impl MemoryUse {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Guests, Self::Code, Self::Messages];

    /// The name by which its bounds are configured and measured.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guests => "guest_bytes",
            Self::Code => "code_bytes",
            Self::Messages => "message_bytes",
        }
    }
}

impl fmt::Display for MemoryUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much memory there is for each use, in bytes. 0 stands for a share of the memory that the machine or the control group gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Guests' memories; 0 for three eighths.
    pub guest_bytes: u64,
    /// Compiled code and memory images of live components; 0 for an eighth.
    pub code_bytes: u64,
    /// Messages on their way; 0 for an eighth.
    pub message_bytes: u64,
}

impl MemoryConfig {
    /// The bound of each pool on a host that has `machine` bytes.
    fn bounds(&self, machine: u64) -> [u64; 3] {
        let or = |set: u64, eighths: u64| if set == 0 { machine / 8 * eighths } else { set };
        [or(self.guest_bytes, 3), or(self.code_bytes, 1), or(self.message_bytes, 1)]
    }
}

/// The most that one account may have of each pool; none for half of the host's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccountLimits {
    /// Guests' memories.
    pub guest_bytes: Option<u64>,
    /// Compiled code and memory images.
    pub code_bytes: Option<u64>,
    /// Messages on their way.
    pub message_bytes: Option<u64>,
}

/// The pools of one host.
#[derive(Debug)]
pub struct HostMemory {
    pools: [MemoryPool; 3],
}

#[derive(Debug)]
struct MemoryPool {
    bound: u64,
    used: AtomicU64,
}

/// Why a reservation was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoMemory {
    /// The account has all that it may have.
    #[error("{of} of this tenant are used up: it may have {bound}")]
    Account {
        /// Of which pool.
        of: MemoryUse,
        /// How many bytes the account may have.
        bound: u64,
    },
    /// The host has no more for this account.
    #[error("{of} of the host are used up: it has {bound}")]
    Host {
        /// Of which pool.
        of: MemoryUse,
        /// How many bytes the host has.
        bound: u64,
    },
}

impl HostMemory {
    /// Pools as configured, of the memory that this process may have.
    pub fn new(config: &MemoryConfig) -> Arc<Self> {
        Self::of_machine(config, memory_bytes())
    }

    fn of_machine(config: &MemoryConfig, machine: u64) -> Arc<Self> {
        let pools = config.bounds(machine).map(|bound| MemoryPool { bound, used: AtomicU64::new(0) });
        Arc::new(Self { pools })
    }

    /// How many bytes there are for a use, in all.
    pub fn bound(&self, of: MemoryUse) -> u64 {
        self.pool(of).bound
    }

    /// How many of them are used.
    pub fn used(&self, of: MemoryUse) -> u64 {
        self.pool(of).used.load(Ordering::Relaxed)
    }

    fn pool(&self, of: MemoryUse) -> &MemoryPool {
        let [guests, code, messages] = &self.pools;
        match of {
            MemoryUse::Guests => guests,
            MemoryUse::Code => code,
            MemoryUse::Messages => messages,
        }
    }

    /// A new account.
    pub fn account(self: &Arc<Self>, limits: AccountLimits) -> Arc<Account> {
        let account = Account { host: Arc::clone(self), used: Default::default(), limits: Default::default() };
        account.set_limits(limits);
        Arc::new(account)
    }
}

/// The part of the host's memory that one tenant has, or that all unauthenticated clients have.
#[derive(Debug)]
pub struct Account {
    host: Arc<HostMemory>,
    used: [AtomicU64; 3],
    limits: [AtomicU64; 3],
}

impl Account {
    /// Changes the most that the account may have. The account keeps the memory that it has already.
    pub fn set_limits(&self, limits: AccountLimits) {
        let each = [limits.guest_bytes, limits.code_bytes, limits.message_bytes];
        for ((limit, set), of) in self.limits.iter().zip(each).zip(MemoryUse::ALL) {
            limit.store(set.unwrap_or(self.host.bound(of) / 2), Ordering::Relaxed);
        }
    }

    /// The pools that it shares with others.
    pub fn host(&self) -> &Arc<HostMemory> {
        &self.host
    }

    /// The most that it may have.
    pub fn limit(&self, of: MemoryUse) -> u64 {
        counter(&self.limits, of).load(Ordering::Relaxed)
    }

    /// The bytes that the account has.
    pub fn used(&self, of: MemoryUse) -> u64 {
        counter(&self.used, of).load(Ordering::Relaxed)
    }

    /// Takes `bytes`, until the reservation is dropped.
    pub fn reserve(self: &Arc<Self>, of: MemoryUse, bytes: u64) -> Result<Reservation, NoMemory> {
        self.take(of, bytes)?;
        Ok(Reservation { account: Arc::clone(self), of, bytes })
    }

    /// As [`Account::reserve`], for what waits as long as a person likes: the account keeps half of what it may have for the rest.
    pub fn reserve_for_long(self: &Arc<Self>, of: MemoryUse, bytes: u64) -> Result<Reservation, NoMemory> {
        let half = self.limit(of) / 2;
        match self.used(of).checked_add(bytes).filter(|sum| *sum <= half) {
            Some(_) => self.reserve(of, bytes),
            None => Err(NoMemory::Account { of, bound: half }),
        }
    }

    fn take(&self, of: MemoryUse, bytes: u64) -> Result<(), NoMemory> {
        let limit = self.limit(of);
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let before = counter(&self.used, of)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map_err(|_| NoMemory::Account { of, bound: limit })?;
        let pool = self.host.pool(of);
        // An account with almost nothing may take of the last quarter too.
        let few = before.saturating_add(bytes) <= pool.bound / 16;
        let bound = if few { pool.bound } else { pool.bound - pool.bound / 4 };
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= bound);
        if pool.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            counter(&self.used, of).fetch_sub(bytes, Ordering::Relaxed);
            return Err(NoMemory::Host { of, bound: pool.bound });
        }
        Ok(())
    }

    fn give_back(&self, of: MemoryUse, bytes: u64) {
        counter(&self.used, of).fetch_sub(bytes, Ordering::Relaxed);
        self.host.pool(of).used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn counter(counters: &[AtomicU64; 3], of: MemoryUse) -> &AtomicU64 {
    let [guests, code, messages] = counters;
    match of {
        MemoryUse::Guests => guests,
        MemoryUse::Code => code,
        MemoryUse::Messages => messages,
    }
}

/// Bytes that are taken of an account; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    account: Arc<Account>,
    of: MemoryUse,
    bytes: u64,
}

impl Reservation {
    /// How many bytes it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `more` bytes, or leaves it as it is.
    pub fn grow(&mut self, more: u64) -> Result<(), NoMemory> {
        self.account.take(self.of, more)?;
        self.bytes = self.bytes.saturating_add(more);
        Ok(())
    }

    /// As [`Reservation::grow`], for what waits as long as a person likes: see [`Account::reserve_for_long`].
    pub fn grow_for_long(&mut self, more: u64) -> Result<(), NoMemory> {
        let grown = self.account.reserve_for_long(self.of, more)?;
        self.bytes = self.bytes.saturating_add(grown.hand_over());
        Ok(())
    }

    /// Its bytes, for another one to give back.
    fn hand_over(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// Gives back what is beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let less = self.bytes.saturating_sub(bytes);
        self.account.give_back(self.of, less);
        self.bytes = self.bytes.saturating_sub(less);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.give_back(self.of, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(bytes: u64) -> Arc<HostMemory> {
        let config = MemoryConfig { guest_bytes: bytes, code_bytes: bytes, message_bytes: bytes };
        HostMemory::of_machine(&config, 0)
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let host = host(1_600);
        let account = host.account(AccountLimits::default());
        let mut held = account.reserve(MemoryUse::Messages, 10).expect("room");
        held.grow(20).expect("room");
        held.shrink_to(25);
        assert_eq!((host.used(MemoryUse::Messages), account.used(MemoryUse::Messages)), (25, 25));
        assert_eq!(host.used(MemoryUse::Guests), 0, "each use has its own pool");
        drop(held);
        assert_eq!((host.used(MemoryUse::Messages), account.used(MemoryUse::Messages)), (0, 0));
    }

    #[test]
    fn what_waits_for_a_person_leaves_half_of_an_account() {
        let account = host(1_000).account(AccountLimits { message_bytes: Some(100), ..AccountLimits::default() });
        let first = account.reserve_for_long(MemoryUse::Messages, 40).expect("less than half");
        assert!(account.reserve_for_long(MemoryUse::Messages, 11).is_err(), "more than half");
        let rest = account.reserve(MemoryUse::Messages, 50).expect("what does not wait has room");
        assert!(account.reserve_for_long(MemoryUse::Messages, 1).is_err(), "the rest counts too");
        drop((first, rest));
        assert!(account.reserve_for_long(MemoryUse::Messages, 50).is_ok());
    }

    #[test]
    fn an_account_and_the_host_have_bounds() {
        let host = host(1_600);
        let own = AccountLimits { message_bytes: Some(100), ..AccountLimits::default() };
        let account = host.account(own);
        let mut held = account.reserve(MemoryUse::Messages, 100).expect("to the byte");
        assert_eq!(held.grow(1), Err(NoMemory::Account { of: MemoryUse::Messages, bound: 100 }));
        assert_eq!(held.bytes(), 100, "a refusal changes nothing");
        assert!(account.reserve(MemoryUse::Messages, u64::MAX).is_err(), "sums do not wrap");

        let greedy = [host.account(AccountLimits::default()), host.account(AccountLimits::default())];
        let _half = greedy[0].reserve(MemoryUse::Messages, 800).expect("half of the host's");
        let refused = greedy[1].reserve(MemoryUse::Messages, 500).expect_err("into the last quarter");
        assert_eq!(refused, NoMemory::Host { of: MemoryUse::Messages, bound: 1_600 });
        assert_eq!(greedy[1].used(MemoryUse::Messages), 0, "a refusal by the host changes nothing");
        let _up_to_it = greedy[1].reserve(MemoryUse::Messages, 300).expect("up to the last quarter");
        let small = host.account(AccountLimits::default());
        let _few = small.reserve(MemoryUse::Messages, 100).expect("who has almost nothing finds room");
        assert!(small.reserve(MemoryUse::Messages, 1).is_err());
    }

    #[test]
    fn bounds_follow_the_machine_unless_they_are_set() {
        let config = MemoryConfig { code_bytes: 7, ..MemoryConfig::default() };
        let host = HostMemory::of_machine(&config, 2 << 30);
        assert_eq!(MemoryUse::ALL.map(|of| host.bound(of)), [768 << 20, 7, 256 << 20]);
    }
}
