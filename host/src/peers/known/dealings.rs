//! The peers with which one tenant deals. Nothing here tells a tenant of another's.

use std::{collections::BTreeSet, time::SystemTime};

use super::{KnownPeers, PeerIndex};
use crate::{mesh::PeerId, names::ToolPattern, tenant::Principal};

/// What a tenant and a peer may do with each other. A right that has expired has no tools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dealings {
    /// The tools of the peer that the tenant may call.
    pub there: Vec<ToolPattern>,
    /// The tools of the tenant that the peer may call.
    pub here: Vec<ToolPattern>,
}

impl PeerIndex {
    fn dealings(&self, of: &Principal, peer: &PeerId) -> Option<Dealings> {
        let now = SystemTime::now();
        let memberships = self.memberships.get(peer).into_iter().flatten();
        let there = memberships.filter(|there| there.tenant == of.tenant && there.incarnation == of.incarnation);
        let here = self.grants.get(peer).filter(|here| here.tenant == of.tenant && here.incarnation == of.incarnation);
        let mut dealings = here.is_some().then(Dealings::default);
        if let (Some(here), Some(dealings)) = (here.filter(|here| !here.is_expired(now)), &mut dealings) {
            dealings.here.clone_from(&here.tools);
        }
        for membership in there {
            let dealings = dealings.get_or_insert_default();
            if !membership.is_expired(now) {
                dealings.there.extend(membership.tools.iter().cloned());
            }
        }
        dealings
    }
}

impl KnownPeers {
    /// What a tenant and a peer may do with each other; none if they do not deal, or the records cannot be read now.
    pub fn dealings(&self, of: &Principal, peer: &PeerId) -> Option<Dealings> {
        let known = self.known.load();
        known.as_ref().as_ref().ok().filter(|_| !self.looked.is_stale())?.dealings(of, peer)
    }

    /// The peers with which a tenant deals, by id, from the first after `after`; at most `most`.
    pub fn dealt(&self, of: &Principal, after: Option<&PeerId>, most: usize) -> Vec<(PeerId, Dealings)> {
        let known = self.known.load();
        let Some(known) = known.as_ref().as_ref().ok().filter(|_| !self.looked.is_stale()) else { return Vec::new() };
        let all = known.memberships.keys().chain(known.grants.keys());
        let rest: BTreeSet<&PeerId> = all.filter(|peer| after.is_none_or(|after| *peer > after)).collect();
        let dealt = rest.into_iter().filter_map(|peer| Some((peer.clone(), known.dealings(of, peer)?)));
        dealt.take(most).collect()
    }

    /// Whether a tenant other than this one deals with a peer; yes where that is not known.
    pub fn others_deal(&self, of: &Principal, peer: &PeerId) -> bool {
        let known = self.known.load();
        let Ok(known) = known.as_ref() else { return true };
        let is_other = |tenant: &crate::names::TenantId| *tenant != of.tenant;
        known.grants.get(peer).is_some_and(|grant| is_other(&grant.tenant))
            || known.memberships.get(peer).into_iter().flatten().any(|membership| is_other(&membership.tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::TenantId,
        peers::{Membership, PeerGrant, file::PeerTable},
        tenant::Incarnation,
    };

    fn peer(letter: char) -> PeerId {
        format!("12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2{letter}o").parse().expect("a peer")
    }

    fn tenant(name: &str) -> Principal {
        Principal { tenant: TenantId::new(name).expect("legal"), ..Principal::local_user() }
    }

    fn index() -> PeerIndex {
        let tools = |text: &str| vec![text.parse().expect("a pattern")];
        let since = SystemTime::UNIX_EPOCH;
        let membership = |letter, of: &str, expires| Membership {
            peer: peer(letter),
            tenant: TenantId::new(of).expect("legal"),
            incarnation: Incarnation::default(),
            tools: tools(of),
            calls_per_minute: None,
            addresses: Vec::new(),
            since,
            expires,
        };
        let grant = PeerGrant {
            peer: peer('B'),
            tenant: TenantId::new("one").expect("legal"),
            incarnation: Incarnation::default(),
            tools: tools("here"),
            components: Vec::new(),
            calls_per_minute: None,
            since,
            expires: None,
            invitation: "i".into(),
        };
        let memberships = vec![
            membership('A', "one", None),
            membership('A', "two", None),
            membership('C', "two", None),
            membership('D', "one", Some(since)),
        ];
        let mut table = PeerTable::default();
        (table.grants, table.memberships) = (vec![grant], memberships);
        PeerIndex::new(table)
    }

    #[test]
    fn a_tenant_sees_its_own_dealings_and_no_other_tenants() {
        let index = index();
        let texts = |of: &str, letter| {
            let dealings = index.dealings(&tenant(of), &peer(letter))?;
            let text = |tools: Vec<ToolPattern>| tools.into_iter().map(String::from).collect::<Vec<_>>();
            Some((text(dealings.there), text(dealings.here)))
        };
        let only = |there: &[&str], here: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            Some((owned(there), owned(here)))
        };
        assert_eq!(texts("one", 'A'), only(&["one"], &[]));
        assert_eq!(texts("two", 'A'), only(&["two"], &[]));
        assert_eq!(texts("one", 'B'), only(&[], &["here"]));
        assert_eq!((texts("two", 'B'), texts("one", 'C')), (None, None));
        assert_eq!(texts("one", 'D'), only(&[], &[]), "an expired right has no tools");
        assert_eq!(texts("three", 'A'), None);
        let again = Principal { incarnation: Some("again".to_owned()).into(), ..tenant("one") };
        assert_eq!(index.dealings(&again, &peer('A')), None, "another tenant of the same name");
    }
}
