//! Invitations: how a peer comes to a grant. Counted, expiring, revocable; of its secret only a keyed hash is kept.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{PeerGrant, ticket::TicketSecret};
use crate::{
    mesh::PeerId,
    names::{TenantId, ToolPattern},
    tenant::Incarnation,
};

/// Tools that one invitation names; and components.
pub const MAX_PATTERNS: usize = 64;

/// An invitation, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// Its name; no secret.
    pub id: String,
    /// The tenant to which it invites.
    pub tenant: TenantId,
    /// Which of the tenants that ever had that name.
    #[serde(default, skip_serializing_if = "Incarnation::is_none")]
    pub incarnation: Incarnation,
    /// The tools that its grants allow.
    pub tools: Vec<ToolPattern>,
    /// The components of which its grants let fetch the builds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<ToolPattern>,
    /// Requests in a minute that each grant allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_minute: Option<u64>,
    /// The only peer that may redeem it, if it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<PeerId>,
    /// When it was made.
    #[serde(with = "humantime_serde")]
    pub created: SystemTime,
    /// When it can be redeemed no more.
    #[serde(with = "humantime_serde")]
    pub expires: SystemTime,
    /// How long a grant lasts that comes of it; for ever if there is none.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub grant_for: Option<Duration>,
    /// How often it can still be redeemed.
    pub uses_left: u32,
    /// Keyed hash of its secret, hexadecimal. The key is in a file of its own.
    pub(super) hash: String,
}

/// A request for an invitation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInvitation {
    /// The tenant to which it invites.
    pub tenant: TenantId,
    /// The tools that it allows.
    pub tools: Vec<ToolPattern>,
    /// The components of which it lets fetch the builds.
    #[serde(default)]
    pub components: Vec<ToolPattern>,
    /// Requests in a minute.
    pub calls_per_minute: Option<u64>,
    /// The only peer that may redeem it.
    pub only: Option<PeerId>,
    /// How long it can be redeemed.
    #[serde(with = "humantime_serde")]
    pub good_for: Duration,
    /// How long a grant lasts.
    #[serde(default, with = "humantime_serde::option")]
    pub grant_for: Option<Duration>,
    /// How often it can be redeemed.
    pub uses: u32,
}

/// Why a ticket opens nothing. Each has a name that the other host is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketRefusal {
    /// No such invitation, or it was revoked; or the secret is not its secret.
    #[error("the ticket is not valid: it was revoked, or never made here")]
    Unknown,
    /// It has ended.
    #[error("the ticket has expired")]
    Expired,
    /// It was redeemed as often as it may be.
    #[error("the ticket is used up; if you did not use it, tell the operator who gave it to you")]
    UsedUp,
    /// It is for another peer.
    #[error("the ticket is for another peer")]
    OtherPeer,
    /// Its text allows other tools than the invitation.
    #[error("the ticket was changed: it names other tools than the invitation")]
    OtherTools,
    /// The peer calls for another tenant already.
    #[error("this peer has a grant of another tenant; revoke that first")]
    OtherTenant,
    /// The peer has tried too often.
    #[error("too many attempts; try again in a minute")]
    TooManyAttempts,
    /// The tenant is not there any more.
    #[error("the tenant that invited is gone")]
    NoTenant,
    /// The host has as many grants as it keeps.
    #[error("the host has no room for another grant")]
    Full,
    /// The host cannot keep the grant now.
    #[error("the host cannot keep a grant now; try again")]
    Unavailable,
}

/// The records that a redemption reads and changes.
#[derive(Debug)]
pub(super) struct Redeemed<'a> {
    pub(super) invitations: &'a mut Vec<Invitation>,
    pub(super) grants: &'a mut Vec<PeerGrant>,
}

impl Redeemed<'_> {
    /// Redeems `secret` of the invitation `id` for `peer`, which reads `tools` in its ticket. A peer that has the grant already gets it again, for no further use: its first answer may
    /// have been lost.
    pub(super) fn redeem(
        self,
        key: &[u8; blake3::KEY_LEN],
        peer: &PeerId,
        id: &str,
        secret: &TicketSecret,
        tools: &[ToolPattern],
        now: SystemTime,
    ) -> Result<PeerGrant, TicketRefusal> {
        let found = self.invitations.iter_mut().find(|invitation| invitation.id == id);
        let found = found.ok_or(TicketRefusal::Unknown)?;
        let kept = blake3::Hash::from_hex(&found.hash).map_err(|_| TicketRefusal::Unknown)?;
        // `blake3::Hash` compares in constant time.
        if blake3::keyed_hash(key, secret.0.as_bytes()) != kept {
            return Err(TicketRefusal::Unknown);
        }
        if found.only.as_ref().is_some_and(|only| only != peer) {
            return Err(TicketRefusal::OtherPeer);
        }
        if found.tools != tools {
            return Err(TicketRefusal::OtherTools);
        }
        let present = |grant: &&PeerGrant| grant.peer == *peer && !grant.is_expired(now);
        if let Some(grant) = self.grants.iter().find(present) {
            if grant.tenant != found.tenant || grant.incarnation != found.incarnation {
                return Err(TicketRefusal::OtherTenant);
            }
            if grant.invitation == id {
                return Ok(grant.clone());
            }
        }
        if found.expires <= now {
            return Err(TicketRefusal::Expired);
        }
        found.uses_left = found.uses_left.checked_sub(1).ok_or(TicketRefusal::UsedUp)?;
        let grant = PeerGrant {
            peer: peer.clone(),
            tenant: found.tenant.clone(),
            incarnation: found.incarnation.clone(),
            tools: found.tools.clone(),
            components: found.components.clone(),
            calls_per_minute: found.calls_per_minute,
            since: now,
            expires: found.grant_for.and_then(|time| now.checked_add(time)),
            invitation: id.to_owned(),
        };
        // One peer has one grant: the newest.
        self.grants.retain(|grant| grant.peer != *peer);
        self.grants.push(grant.clone());
        Ok(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn peer(end: &str) -> PeerId {
        format!("12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2{end}").parse().expect("a peer")
    }

    fn tools() -> Vec<ToolPattern> {
        vec!["text_*".parse().expect("a pattern")]
    }

    struct Records(Vec<Invitation>, Vec<PeerGrant>);

    impl Records {
        fn new(uses_left: u32, only: Option<PeerId>) -> Self {
            let now = SystemTime::UNIX_EPOCH;
            let invitation = Invitation {
                id: "inv".into(),
                tenant: TenantId::local(),
                incarnation: Incarnation::default(),
                tools: tools(),
                components: Vec::new(),
                calls_per_minute: None,
                only,
                created: now,
                expires: now + Duration::from_secs(60),
                grant_for: Some(Duration::from_secs(600)),
                uses_left,
                hash: blake3::keyed_hash(&KEY, b"secret").to_hex().to_string(),
            };
            Self(vec![invitation], Vec::new())
        }

        fn redeem(&mut self, who: &str, secret: &str, at_s: u64) -> Result<PeerGrant, TicketRefusal> {
            self.redeem_with("inv", who, secret, &tools(), at_s)
        }

        fn redeem_with(
            &mut self,
            id: &str,
            who: &str,
            secret: &str,
            tools: &[ToolPattern],
            at_s: u64,
        ) -> Result<PeerGrant, TicketRefusal> {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(at_s);
            let records = Redeemed { invitations: &mut self.0, grants: &mut self.1 };
            records.redeem(&KEY, &peer(who), id, &TicketSecret(secret.into()), tools, now)
        }
    }

    #[test]
    fn a_ticket_opens_once_and_every_other_attempt_is_refused_by_name() {
        let mut records = Records::new(1, None);
        let other: Vec<ToolPattern> = vec!["*".parse().expect("a pattern")];
        assert_eq!(records.redeem("Xo", "wrong", 1), Err(TicketRefusal::Unknown));
        assert_eq!(records.redeem_with("none", "Xo", "secret", &tools(), 1), Err(TicketRefusal::Unknown));
        assert_eq!(records.redeem_with("inv", "Xo", "secret", &other, 1), Err(TicketRefusal::OtherTools));
        assert_eq!(records.redeem("Xo", "secret", 60), Err(TicketRefusal::Expired));
        let grant = records.redeem("Xo", "secret", 59).expect("the first use");
        assert_eq!(grant.expires, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(659)));
        assert_eq!(records.redeem("Xo", "secret", 61), Ok(grant), "its answer may have been lost");
        assert_eq!(records.redeem("Yo", "secret", 59), Err(TicketRefusal::UsedUp), "stolen");
        records.1.clear();
        assert_eq!(records.redeem("Xo", "secret", 59), Err(TicketRefusal::UsedUp), "revoked, and replayed");
        assert!(records.1.is_empty());
    }

    #[test]
    fn a_ticket_for_one_peer_opens_for_no_other_and_no_peer_has_two_tenants() {
        let mut records = Records::new(2, Some(peer("Xo")));
        assert_eq!(records.redeem("Yo", "secret", 1), Err(TicketRefusal::OtherPeer));
        assert!(records.redeem("Xo", "secret", 1).is_ok());
        let second =
            Invitation { id: "two".into(), tenant: TenantId::new("team").expect("legal"), ..records.0[0].clone() };
        records.0.push(second);
        assert_eq!(records.redeem_with("two", "Xo", "secret", &tools(), 2), Err(TicketRefusal::OtherTenant));
        assert_eq!(records.0[1].uses_left, 1, "a refusal uses nothing");
    }
}
