//! The peers' records in memory: the mesh's door never reads the file, and never waits for it.
//!
//! One thread looks at the file five times a second and swaps the index when it has changed; a change that this host makes itself is in force when it is made. If the file cannot be
//! read, or was not looked at for long, no peer has any right.

pub mod dealings;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    Membership, PeerGrant,
    file::{PeerFile, PeerTable, PeersError, Revoked},
    invitation::{Invitation, NewInvitation, TicketRefusal},
    ticket::TicketSecret,
};
use crate::{
    files::watch::{FileWatch, watch as watch_file},
    mesh::PeerId,
    names::{TenantId, ToolName, ToolPattern},
    tenant::{Incarnation, Principal},
};

/// Failed attempts to redeem a ticket that one peer may make in [`ATTEMPTS_TIME`].
pub const MAX_ATTEMPTS: u32 = 5;
/// The time after which a peer's failed attempts are forgotten.
const ATTEMPTS_TIME: Duration = Duration::from_secs(60);
/// Peers whose failed attempts are remembered: beyond that nobody new may try until some are forgotten.
const MAX_ATTEMPTERS: usize = 4_096;

/// The ticket that a peer shows: its invitation, the secret, and the tools that it is for.
pub type TicketClaim = (String, TicketSecret, Vec<ToolPattern>);

/// Why a peer may do nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Outsider {
    /// It has no grant.
    #[error("this peer has no grant here; the operator makes an invitation with `mcpp invite`")]
    NoGrant,
    /// Its grant has ended.
    #[error("the grant of this peer has expired")]
    Expired,
    /// The records cannot be read now.
    #[error("grants of peers cannot be checked now")]
    Unreadable,
}

/// The records that the host knows now.
#[derive(Debug)]
pub struct KnownPeers {
    file: PeerFile,
    known: ArcSwap<Result<PeerIndex, ()>>,
    /// A stale index gives nobody a right: a grant may have been revoked since.
    looked: FileWatch,
    changed: watch::Sender<u64>,
    attempts: Mutex<HashMap<PeerId, (u32, Instant)>>,
}

#[derive(Debug, Default)]
struct PeerIndex {
    grants: HashMap<PeerId, Arc<PeerGrant>>,
    memberships: HashMap<PeerId, Vec<Arc<Membership>>>,
}

impl PeerIndex {
    fn new(table: PeerTable) -> Self {
        let mut index = Self::default();
        for grant in table.grants {
            index.grants.insert(grant.peer.clone(), Arc::new(grant));
        }
        for membership in table.memberships {
            index.memberships.entry(membership.peer.clone()).or_default().push(Arc::new(membership));
        }
        index
    }
}

impl KnownPeers {
    /// Knows the records in `file`, as they are now.
    pub fn new(file: PeerFile) -> Self {
        let peers = Self {
            looked: FileWatch::new(file.path().to_owned()),
            file,
            known: ArcSwap::from_pointee(Err(())),
            changed: watch::Sender::new(0),
            attempts: Mutex::default(),
        };
        peers.look();
        peers
    }

    /// As [`KnownPeers::new`], and sees when they change, for as long as somebody has it.
    pub fn watching(file: PeerFile) -> std::io::Result<Arc<Self>> {
        let peers = Arc::new(Self::new(file));
        watch_file("peers", &peers, Self::look)?;
        Ok(peers)
    }

    /// What the peer may do here.
    pub fn grant(&self, peer: &PeerId) -> Result<Arc<PeerGrant>, Outsider> {
        let known = self.known.load();
        let Ok(known) = known.as_ref() else { return Err(Outsider::Unreadable) };
        if self.looked.is_stale() {
            return Err(Outsider::Unreadable);
        }
        let grant = known.grants.get(peer).ok_or(Outsider::NoGrant)?;
        if grant.is_expired(SystemTime::now()) { Err(Outsider::Expired) } else { Ok(Arc::clone(grant)) }
    }

    /// Whether a peer that came in as this caller still has a grant of the tenant.
    pub fn still_knows(&self, caller: &Principal) -> bool {
        let known = self.known.load();
        let Ok(known) = known.as_ref() else { return false };
        let now = SystemTime::now();
        !self.looked.is_stale()
            && known.grants.values().filter(|grant| !grant.is_expired(now)).any(|grant| {
                let now = grant.principal();
                now.subject == caller.subject && now.tenant == caller.tenant && now.incarnation == caller.incarnation
            })
    }

    /// Whether a tenant of this host may call a tool of a peer, as far as this host knows. The peer decides.
    pub fn may_call(&self, caller: &Principal, peer: &PeerId, tool: &ToolName) -> bool {
        let known = self.known.load();
        let Ok(known) = known.as_ref() else { return false };
        let now = SystemTime::now();
        !self.looked.is_stale()
            && known.memberships.get(peer).into_iter().flatten().any(|membership| {
                membership.tenant == caller.tenant
                    && membership.incarnation == caller.incarnation
                    && !membership.is_expired(now)
                    && membership.tools.iter().any(|pattern| pattern.matches(tool))
            })
    }

    /// The tenant's membership at a peer, if it has one that has not ended.
    pub fn membership(&self, tenant: &TenantId, incarnation: &Incarnation, peer: &PeerId) -> Option<Arc<Membership>> {
        let known = self.known.load();
        let all = known.as_ref().as_ref().ok()?.memberships.get(peer)?;
        let now = SystemTime::now();
        let is_good = |member: &&Arc<Membership>| {
            member.tenant == *tenant && member.incarnation == *incarnation && !member.is_expired(now)
        };
        all.iter().find(is_good).filter(|_| !self.looked.is_stale()).cloned()
    }

    /// Tells when the records have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// All records, from the file.
    pub fn table(&self) -> Result<PeerTable, PeersError> {
        self.file.read()
    }

    /// Makes an invitation.
    pub fn invite(&self, new: NewInvitation) -> Result<(Invitation, TicketSecret), PeersError> {
        self.file.invite(new)
    }

    /// Redeems the ticket that `read` gives for `peer`, unless the peer has failed too often. What cannot be read is a failure too.
    pub fn redeem(
        &self,
        peer: &PeerId,
        read: impl FnOnce() -> Result<TicketClaim, TicketRefusal>,
    ) -> Result<PeerGrant, TicketRefusal> {
        self.check_attempts(peer)?;
        let claimed = read();
        let redeemed = claimed.and_then(|(id, secret, tools)| self.file.redeem(peer, &id, &secret, &tools));
        match &redeemed {
            Ok(_) => {
                self.attempts().remove(peer);
                self.look();
            }
            Err(TicketRefusal::Unavailable) => {}
            Err(_) => {
                let mut attempts = self.attempts();
                let (failed, _) = attempts.entry(peer.clone()).or_insert((0, Instant::now()));
                *failed = failed.saturating_add(1);
            }
        }
        redeemed
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<PeerId, (u32, Instant)>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_attempts(&self, peer: &PeerId) -> Result<(), TicketRefusal> {
        let mut attempts = self.attempts();
        if attempts.get(peer).is_some_and(|(_, since)| since.elapsed() >= ATTEMPTS_TIME) {
            attempts.remove(peer);
        }
        if attempts.len() >= MAX_ATTEMPTERS {
            attempts.retain(|_, (_, since)| since.elapsed() < ATTEMPTS_TIME);
        }
        match attempts.get(peer) {
            Some((failed, _)) if *failed >= MAX_ATTEMPTS => Err(TicketRefusal::TooManyAttempts),
            None if attempts.len() >= MAX_ATTEMPTERS => Err(TicketRefusal::TooManyAttempts),
            _ => Ok(()),
        }
    }

    /// Keeps a membership.
    pub fn join(&self, membership: Membership) -> Result<(), PeersError> {
        self.file.join(membership)?;
        self.look();
        Ok(())
    }

    /// Takes away what a peer may do, or an invitation and the grants that came of it.
    pub fn revoke(&self, name: &str) -> Result<Revoked, PeersError> {
        let revoked = self.file.revoke(name)?;
        self.look();
        Ok(revoked)
    }

    /// All peers with a grant or a membership, each with whether this host calls it.
    pub fn bonds(&self) -> Vec<(PeerId, bool)> {
        let known = self.known.load();
        let Ok(known) = known.as_ref() else { return Vec::new() };
        let called = known.memberships.keys().map(|peer| (peer.clone(), true));
        let others = known.grants.keys().filter(|peer| !known.memberships.contains_key(peer));
        called.chain(others.map(|peer| (peer.clone(), false))).collect()
    }

    /// Where a host that this one calls is reached, as its tickets said.
    pub fn addresses(&self, peer: &PeerId) -> Vec<String> {
        let known = self.known.load();
        let memberships = known.as_ref().as_ref().ok().and_then(|known| known.memberships.get(peer));
        memberships.into_iter().flatten().flat_map(|membership| membership.addresses.clone()).collect()
    }

    /// Reads the file again if it has changed.
    fn look(&self) {
        self.looked.look(|| {
            let read = self.file.read().map(PeerIndex::new).map_err(|error| {
                tracing::error!(
                    error = crate::error::chain(&error),
                    "the host refuses every peer: it cannot read the peers' records"
                );
            });
            self.known.store(Arc::new(read));
            self.changed.send_modify(|generation| *generation = generation.wrapping_add(1));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::home::Homes;

    fn peer(end: &str) -> PeerId {
        format!("12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2{end}").parse().expect("a peer")
    }

    fn invite(peers: &KnownPeers) -> (Invitation, TicketSecret) {
        let new = NewInvitation {
            tenant: TenantId::local(),
            tools: vec!["text_*".parse().expect("a pattern")],
            components: Vec::new(),
            calls_per_minute: None,
            only: None,
            good_for: Duration::from_secs(60),
            grant_for: None,
            uses: 9,
        };
        peers.invite(new).expect("made")
    }

    #[test]
    fn a_peer_is_nobody_until_it_has_a_grant_and_again_when_that_is_revoked() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = PeerFile::new(&Homes::new(folder.path().to_owned()));
        let peers = KnownPeers::new(file.clone());
        assert_eq!(peers.grant(&peer("Xo")).expect_err("nobody"), Outsider::NoGrant);
        let (invitation, secret) = invite(&peers);
        let mut changes = peers.changes();
        changes.mark_unchanged();
        peers.redeem(&peer("Xo"), || Ok((invitation.id, secret, invitation.tools))).expect("redeemed");
        assert!(changes.has_changed().expect("watched"));
        let principal = peers.grant(&peer("Xo")).expect("granted").principal();
        assert_eq!(&*principal.subject, "peer:12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo");
        assert!(principal.may_use(&ToolName::new("text_a").expect("legal")));
        assert!(!principal.may_use(&ToolName::new("other").expect("legal")));
        assert_eq!(peers.grant(&peer("Yo")).expect_err("another"), Outsider::NoGrant);
        // By another process, as the operator's command does.
        file.revoke(peer("Xo").as_str()).expect("revoked");
        peers.look();
        assert_eq!(peers.grant(&peer("Xo")).expect_err("revoked"), Outsider::NoGrant);
        std::fs::write(file.path(), "no").expect("written");
        peers.look();
        assert_eq!(peers.grant(&peer("Xo")).expect_err("unreadable"), Outsider::Unreadable);
        let old = KnownPeers::new(file);
        let old = KnownPeers { looked: old.looked.aged(), ..old };
        assert_eq!(old.grant(&peer("Xo")).expect_err("stale"), Outsider::Unreadable);
    }

    #[test]
    fn a_peer_that_fails_too_often_may_not_try_and_another_still_may() {
        let folder = tempfile::tempdir().expect("a folder");
        let peers = KnownPeers::new(PeerFile::new(&Homes::new(folder.path().to_owned())));
        let (invitation, secret) = invite(&peers);
        let claim = |secret: &str| (invitation.id.clone(), TicketSecret(secret.into()), invitation.tools.clone());
        for number in 0..MAX_ATTEMPTS {
            // What cannot be read is an attempt too.
            let read = || if number % 2 == 0 { Ok(claim("wrong")) } else { Err(TicketRefusal::Unknown) };
            assert_eq!(peers.redeem(&peer("Xo"), read), Err(TicketRefusal::Unknown));
        }
        let unread = || unreachable!("it is refused before it is read");
        assert_eq!(peers.redeem(&peer("Xo"), unread), Err(TicketRefusal::TooManyAttempts));
        assert!(peers.redeem(&peer("Yo"), || Ok(claim(&secret.0))).is_ok());
    }
}
