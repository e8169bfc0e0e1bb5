//! Which connections are open, and whose they are: bounded for strangers, for each tenant and in all.
//!
//! A connection is a stranger's until its first authenticated request. Strangers have a pool of their own, tenants share the rest, and a small reserve beyond both answers
//! `/live`, `/ready` and `/health` whatever else is full. Where room is short an idle connection makes it: of strangers the one from the address that has the most, of a tenant
//! at its bound one of its own, else one of the tenant that has the most.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::wire::WireState;
use crate::{names::TenantId, permits::SharingRule};

/// Connections beyond the bound that are answered in few words and closed.
const RESERVED: usize = 32;

/// The owner of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectionKind {
    /// No client was authenticated on it yet.
    Stranger,
    /// A tenant's.
    Tenant(TenantId),
    /// Beyond the bound.
    Reserve,
}

/// Why a tenant may not have one more connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoConnection {
    #[error("connections of this tenant are used up: it may have {0}")]
    Tenant(u64),
    #[error("connections of the host are used up: it has {0} for tenants")]
    Host(usize),
}

/// All connections of one door.
#[derive(Debug)]
pub(super) struct ConnectionRoom {
    strangers: usize,
    tenants: usize,
    started: Instant,
    open: Mutex<OpenConnections>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next: u64,
    strangers: usize,
    reserved: usize,
    of_tenants: usize,
    by_tenant: HashMap<TenantId, usize>,
    entries: HashMap<u64, ConnectionEntry>,
}

#[derive(Debug)]
struct ConnectionEntry {
    kind: ConnectionKind,
    peer: IpAddr,
    activity: Arc<Activity>,
}

/// The activity on a connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Requests that are being answered.
    busy: AtomicUsize,
    /// Whether a request has come.
    used: AtomicBool,
    /// When the last one ended, in microseconds since the door opened.
    idle_since: AtomicU64,
    /// Its bytes.
    pub(super) wire: Arc<WireState>,
    /// Fires when it has to make room.
    pub(super) leave: CancellationToken,
}

impl Activity {
    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0 && !self.wire.is_blocked()
    }

    /// Notes that a request has come. It may have to wait before it is answered.
    pub(super) fn arrived(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Whether no request ever came.
    pub(super) fn is_unused(&self) -> bool {
        !self.used.load(Ordering::Relaxed)
    }
}

impl ConnectionRoom {
    /// Room for `most` connections: a quarter for strangers, the rest for tenants.
    pub(super) fn new(most: usize) -> Arc<Self> {
        let strangers = (most / 4).max(1);
        let tenants = most.saturating_sub(strangers).max(1);
        Arc::new(Self { strangers, tenants, started: Instant::now(), open: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Takes a new connection in.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> OpenConnection {
        let activity = Arc::new(Activity::default());
        activity.idle_since.store(self.now(), Ordering::Relaxed);
        let mut open = self.open();
        if open.strangers >= self.strangers {
            let idle = open.most_idle_stranger();
            open.let_go(idle, "room");
        }
        let kind = if open.strangers < self.strangers {
            ConnectionKind::Stranger
        } else {
            if open.reserved >= RESERVED {
                let oldest = open.oldest_reserved();
                open.let_go(oldest, "reserve");
            }
            ConnectionKind::Reserve
        };
        let id = open.next;
        open.next = open.next.wrapping_add(1);
        open.count(&kind);
        let is_reserve = kind == ConnectionKind::Reserve;
        open.entries.insert(id, ConnectionEntry { kind, peer, activity: Arc::clone(&activity) });
        OpenConnection { room: Arc::clone(self), id, is_reserve, assigned: Mutex::default(), activity }
    }

    /// Open connections of strangers, of tenants and in the reserve.
    pub(super) fn counts(&self) -> [(&'static str, usize); 3] {
        let open = self.open();
        [("stranger", open.strangers), ("tenant", open.of_tenants), ("reserve", open.reserved)]
    }

    /// Open connections of one tenant.
    pub(super) fn of(&self, tenant: &TenantId) -> usize {
        self.open().by_tenant.get(tenant).copied().unwrap_or_default()
    }
}

impl OpenConnections {
    fn count(&mut self, kind: &ConnectionKind) {
        match kind {
            ConnectionKind::Stranger => self.strangers = self.strangers.saturating_add(1),
            ConnectionKind::Reserve => self.reserved = self.reserved.saturating_add(1),
            ConnectionKind::Tenant(tenant) => {
                self.of_tenants = self.of_tenants.saturating_add(1);
                let own = self.by_tenant.entry(tenant.clone()).or_default();
                *own = own.saturating_add(1);
            }
        }
    }

    fn discount(&mut self, kind: &ConnectionKind) {
        match kind {
            ConnectionKind::Stranger => self.strangers = self.strangers.saturating_sub(1),
            ConnectionKind::Reserve => self.reserved = self.reserved.saturating_sub(1),
            ConnectionKind::Tenant(tenant) => {
                self.of_tenants = self.of_tenants.saturating_sub(1);
                if let Some(own) = self.by_tenant.get_mut(tenant) {
                    *own = own.saturating_sub(1);
                    if *own == 0 {
                        self.by_tenant.remove(tenant);
                    }
                }
            }
        }
    }

    /// Tells a connection to end, and counts it no more: it has nothing to do.
    fn let_go(&mut self, id: Option<u64>, reason: &'static str) {
        if let Some(entry) = id.and_then(|id| self.entries.remove(&id)) {
            metrics::counter!("mcpp_connections_cut_total", "reason" => reason).increment(1);
            self.discount(&entry.kind);
            entry.activity.leave.cancel();
        }
    }

    /// Of the idle strangers from the address that has the most, the one that is idle for longest.
    fn most_idle_stranger(&self) -> Option<u64> {
        let strangers = || self.entries.iter().filter(|(_, entry)| entry.kind == ConnectionKind::Stranger);
        let mut by_peer: HashMap<IpAddr, usize> = HashMap::new();
        for (_, entry) in strangers() {
            let count = by_peer.entry(entry.peer).or_default();
            *count = count.saturating_add(1);
        }
        let idle = strangers().filter(|(_, entry)| entry.activity.is_idle());
        // Of those that became idle in the same moment, the first that came.
        idle.min_by_key(|(id, entry)| {
            let of_peer = by_peer.get(&entry.peer).copied().unwrap_or_default();
            (std::cmp::Reverse(of_peer), entry.activity.idle_since.load(Ordering::Relaxed), **id)
        })
        .map(|(id, _)| *id)
    }

    fn oldest_reserved(&self) -> Option<u64> {
        self.entries.iter().filter(|(_, entry)| entry.kind == ConnectionKind::Reserve).map(|(id, _)| *id).min()
    }

    fn most_idle_of(&self, tenant: &TenantId, not: u64) -> Option<u64> {
        let own = |entry: &ConnectionEntry| matches!(&entry.kind, ConnectionKind::Tenant(of) if of == tenant);
        let idle = self.entries.iter().filter(|(id, entry)| **id != not && own(entry) && entry.activity.is_idle());
        idle.min_by_key(|(id, entry)| (entry.activity.idle_since.load(Ordering::Relaxed), **id)).map(|(id, _)| *id)
    }

    fn greediest(&self) -> Option<TenantId> {
        self.by_tenant.iter().max_by_key(|(_, count)| **count).map(|(tenant, _)| tenant.clone())
    }
}

/// One open connection; over when it is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    room: Arc<ConnectionRoom>,
    id: u64,
    /// Whether it is in the reserve, where it stays.
    pub(super) is_reserve: bool,
    /// The tenant whose it is, for its next requests: most are the same tenant's.
    assigned: Mutex<Option<TenantId>>,
    /// The activity on the connection.
    pub(super) activity: Arc<Activity>,
}

impl OpenConnection {
    /// The connection's owner; none if the host told it to leave.
    pub(super) fn kind(&self) -> Option<ConnectionKind> {
        self.room.open().entries.get(&self.id).map(|entry| entry.kind.clone())
    }

    /// Makes it `tenant`'s, which may have `most`. Where several tenants `share` the host the last quarter is kept for those that have almost none.
    pub(super) fn assign(&self, tenant: &TenantId, most: u64, shared: bool) -> Result<(), NoConnection> {
        let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        if assigned.as_ref() != Some(tenant) {
            self.assign_anew(tenant, most, shared)?;
            *assigned = Some(tenant.clone());
        }
        Ok(())
    }

    fn assign_anew(&self, tenant: &TenantId, most: u64, shared: bool) -> Result<(), NoConnection> {
        let room = &self.room;
        let mut open = room.open();
        let before = open.entries.get(&self.id).map(|entry| entry.kind.clone());
        // One that was told to leave is answered once more.
        let Some(before) = before else { return Ok(()) };
        if open.own(tenant) >= most {
            let idle = open.most_idle_of(tenant, self.id);
            open.let_go(idle, "tenant");
            if open.own(tenant) >= most {
                return Err(NoConnection::Tenant(most));
            }
        }
        if !room.has_room(&open, tenant, shared) {
            // The tenant that has the most makes room, also if it is this one.
            let idle = open.greediest().and_then(|greediest| open.most_idle_of(&greediest, self.id));
            open.let_go(idle, "host");
            if !room.has_room(&open, tenant, shared) {
                return Err(NoConnection::Host(room.tenants));
            }
        }
        let after = ConnectionKind::Tenant(tenant.clone());
        open.discount(&before);
        open.count(&after);
        if let Some(entry) = open.entries.get_mut(&self.id) {
            entry.kind = after;
        }
        Ok(())
    }

    /// Something is answered until what this gives is dropped.
    pub(super) fn begin(&self) -> BusyConnection {
        self.activity.busy.fetch_add(1, Ordering::Relaxed);
        BusyConnection { room: Arc::clone(&self.room), activity: Arc::clone(&self.activity) }
    }
}

impl OpenConnections {
    fn own(&self, tenant: &TenantId) -> u64 {
        self.by_tenant.get(tenant).map_or(0, |own| u64::try_from(*own).unwrap_or(u64::MAX))
    }
}

impl ConnectionRoom {
    fn has_room(&self, open: &OpenConnections, tenant: &TenantId, shared: bool) -> bool {
        let own = open.by_tenant.get(tenant).copied().unwrap_or_default();
        SharingRule { most: self.tenants, shared }.has_room(open.of_tenants, own)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.room.open();
        if let Some(entry) = open.entries.remove(&self.id) {
            open.discount(&entry.kind);
        }
    }
}

/// A request that is being answered; over when it is dropped.
#[derive(Debug)]
pub(super) struct BusyConnection {
    room: Arc<ConnectionRoom>,
    activity: Arc<Activity>,
}

impl Drop for BusyConnection {
    fn drop(&mut self) {
        self.activity.idle_since.store(self.room.now(), Ordering::Relaxed);
        self.activity.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("legal")
    }

    fn left(connection: &OpenConnection) -> bool {
        connection.activity.leave.is_cancelled()
    }

    #[test]
    fn the_stranger_that_is_idle_for_longest_makes_room() {
        let room = ConnectionRoom::new(12);
        let mut open: Vec<_> = (0..3).map(|_| room.enter(HERE)).collect();
        let working = open[0].begin();
        let lone = room.enter(THERE);
        assert_eq!([&open[0], &open[1], &open[2], &lone].map(left), [false, true, false, false]);
        drop(open.remove(1));
        assert_eq!(room.counts()[0], ("stranger", 3), "that one which left is not counted twice");
        drop(working);
        open.push(room.enter(HERE));
        assert!(left(&open[1]), "and not the one that has just ended its work, nor that of another address");
        assert!(!left(&lone) && !left(&open[0]));
        let room = ConnectionRoom::new(12);
        let (lone, first, second) = (room.enter(THERE), room.enter(HERE), room.enter(HERE));
        let _one_more = room.enter(HERE);
        assert!(!left(&lone), "it is idle for longest, and the other address has more");
        assert!(left(&first) || left(&second));
    }

    #[test]
    fn when_all_strangers_work_a_reserve_answers_and_the_oldest_of_it_makes_room() {
        let room = ConnectionRoom::new(4);
        let stranger = room.enter(HERE);
        let _works = stranger.begin();
        let reserve: Vec<_> = (0..RESERVED).map(|_| room.enter(HERE)).collect();
        assert!(
            reserve.iter().all(|connection| connection.kind() == Some(ConnectionKind::Reserve) && !left(connection))
        );
        let one_more = room.enter(HERE);
        assert_eq!(one_more.kind(), Some(ConnectionKind::Reserve));
        assert!(left(&reserve[0]) && !left(&reserve[1]) && !left(&stranger));
        drop((reserve, one_more, stranger));
        assert!(room.counts().iter().all(|(_, count)| *count == 0), "{:?}", room.counts());
        assert!(room.open().entries.is_empty());
    }

    #[test]
    fn a_tenant_has_a_bound_and_its_own_idle_connections_make_room() {
        let room = ConnectionRoom::new(40);
        let own: Vec<_> = (0..2).map(|_| room.enter(HERE)).collect();
        let work: Vec<_> = own.iter().map(OpenConnection::begin).collect();
        assert!(own.iter().all(|connection| connection.assign(&tenant("a"), 2, true).is_ok()));
        assert_eq!(own[0].assign(&tenant("a"), 2, true), Ok(()), "it is counted once");
        let third = room.enter(HERE);
        assert_eq!(third.assign(&tenant("a"), 2, true), Err(NoConnection::Tenant(2)));
        assert_eq!(third.kind(), Some(ConnectionKind::Stranger), "a refusal changes nothing");
        drop(work);
        assert_eq!(third.assign(&tenant("a"), 2, true), Ok(()));
        assert_eq!(own.iter().filter(|connection| left(connection)).count(), 1, "one of them made room");
        assert_eq!(third.assign(&tenant("b"), 2, true), Ok(()), "a proxy's connection is whose request it carries");
        assert_eq!((room.of(&tenant("a")), room.of(&tenant("b"))), (1, 1));
    }

    #[test]
    fn the_last_quarter_is_kept_for_tenants_that_have_almost_none() {
        let room = ConnectionRoom::new(16);
        let mut held = Vec::new();
        for _ in 0..12 {
            let connection = room.enter(HERE);
            let work = connection.begin();
            if connection.assign(&tenant("greedy"), 100, true).is_err() {
                break;
            }
            held.push((connection, work));
        }
        assert_eq!(held.len(), 9, "three quarters of twelve");
        let modest = room.enter(HERE);
        assert_eq!(modest.assign(&tenant("modest"), 100, true), Ok(()));
        let second = room.enter(HERE);
        let refused = second.assign(&tenant("modest"), 100, true);
        assert_eq!(refused, Err(NoConnection::Host(12)), "the reserve is for the first of each");
        held.truncate(7);
        assert_eq!(second.assign(&tenant("modest"), 100, true), Ok(()));
    }
}
