//! Peers of the mesh and their rights here: who may call which tools of which tenant, at what rate, until when.
//!
//! A peer's id authenticates it and gives it nothing. A [`PeerGrant`] gives: the operator makes an invitation, a peer redeems its [`ticket::JoinTicket`] ([`join`]), and both hosts keep a
//! record in their [`file`]. [`known`] has the records in memory, where a revocation is in force within a fifth of a second, whatever the peer has open.

pub mod file;
pub mod invitation;
pub mod join;
pub mod known;
pub mod ticket;

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    mesh::PeerId,
    names::{TenantId, ToolPattern},
    tenant::{Incarnation, Principal, SCOPE_TOOLS},
};

/// What a peer may do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerGrant {
    /// The peer.
    pub peer: PeerId,
    /// The tenant whose tools it may call.
    pub tenant: TenantId,
    /// Which of the tenants that ever had that name.
    #[serde(default, skip_serializing_if = "Incarnation::is_none")]
    pub incarnation: Incarnation,
    /// The tools that it may see and call: names, or prefixes that end in `*`.
    pub tools: Vec<ToolPattern>,
    /// The components of which it may fetch the live builds, by the same rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<ToolPattern>,
    /// Its requests in a minute; the tenant's own bound holds besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_minute: Option<u64>,
    /// When it was given.
    #[serde(with = "humantime_serde")]
    pub since: SystemTime,
    /// When it ends.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub expires: Option<SystemTime>,
    /// The invitation by which it came.
    pub invitation: String,
}

impl PeerGrant {
    /// Whether it has ended.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// The caller that the peer is here.
    pub fn principal(&self) -> Principal {
        Principal {
            tenant: self.tenant.clone(),
            incarnation: self.incarnation.clone(),
            subject: format!("peer:{}", self.peer).into(),
            scopes: Arc::new([SCOPE_TOOLS.to_owned()].into()),
            tools: Some(self.tools.clone().into()),
        }
    }
}

/// A host that lets a tenant of this one call its tools, as its invitation said. That host decides; this is what the operator here agreed to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The host.
    pub peer: PeerId,
    /// The tenant here that may call it.
    pub tenant: TenantId,
    /// Which of the tenants that ever had that name.
    #[serde(default, skip_serializing_if = "Incarnation::is_none")]
    pub incarnation: Incarnation,
    /// The tools that it lets this host call.
    pub tools: Vec<ToolPattern>,
    /// Requests in a minute that it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_minute: Option<u64>,
    /// When this host joined.
    #[serde(with = "humantime_serde")]
    pub since: SystemTime,
    /// When it ends.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub expires: Option<SystemTime>,
    /// Where the ticket said that it is reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

impl Membership {
    /// Whether it has ended.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}
