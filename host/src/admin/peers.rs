//! The operator's commands about peers: invite, join, list, revoke, and call a peer's tool.

mod call;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json,
    extract::{Query, State},
    response::Response,
};
use serde::{Deserialize, Serialize};

pub(in crate::admin) use self::call::call;
pub use self::call::{PeerCallDone, PeerCallLine, PeerCallOrder};
use super::{Of, Operated, answer};
use crate::{
    mcp::mesh::remote::Remotes,
    mesh::{InvalidAddress, Mesh, PeerId, PeerPath, Unreachable, dial::LateMesh},
    names::{TenantId, ToolPattern},
    peers::{
        Membership,
        file::{PeersError, Revoked},
        invitation::NewInvitation,
        join::{self, Allowed, JOIN_TIME, JoinError},
        known::KnownPeers,
        ticket::{InvalidTicket, JoinTicket},
    },
    tenant::Denied,
};

/// The mesh of a host, as its operator reaches it.
#[derive(Debug, Clone)]
pub struct OperatedMesh {
    /// The network.
    pub mesh: LateMesh,
    /// The peers' records.
    pub peers: Arc<KnownPeers>,
    /// The way to their tools.
    pub remotes: Remotes,
}

/// Why a command about peers failed.
#[derive(Debug, thiserror::Error)]
enum PeerCommandError {
    #[error("this host is part of no mesh: `mesh.enabled` is off, or MCP_DISABLE_P2P is set")]
    NoMesh,
    #[error(transparent)]
    Records(#[from] PeersError),
    #[error(transparent)]
    JoinTicket(#[from] InvalidTicket),
    #[error("the ticket expired at {}", humantime::format_rfc3339_seconds(*.0))]
    Expired(SystemTime),
    #[error("the ticket is this host's own; run `mcpp join` on the other machine")]
    OwnTicket,
    #[error("there is no tenant `{0}`")]
    NoTenant(TenantId),
    #[error("the ticket has an address that cannot be used")]
    Address(#[from] InvalidAddress),
    #[error("the host of the ticket cannot be reached")]
    Unreachable(#[from] Unreachable),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("the ticket cannot be written")]
    Text(#[from] serde_json::Error),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the records are read elsewhere; try again")]
    Gone,
}

/// A ticket that was made.
#[derive(Debug, Serialize, Deserialize)]
pub struct Invited {
    /// The ticket's text.
    pub ticket: String,
    /// The invitation's id.
    pub invitation: String,
    /// When it can be redeemed no more.
    #[serde(with = "humantime_serde")]
    pub expires: SystemTime,
    /// The addresses in it.
    pub addresses: Vec<String>,
}

/// A ticket to redeem.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinOrder {
    /// The ticket's text.
    pub ticket: String,
}

/// A host that was joined.
#[derive(Debug, Serialize, Deserialize)]
pub struct Joined {
    /// The host.
    pub peer: PeerId,
    /// What it allows.
    pub allowed: Allowed,
}

/// Something to revoke.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeOrder {
    /// A peer, or an invitation.
    pub name: String,
}

/// A peer, as `mcpp peers` shows it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct PeerRow {
    /// The path to it: `direct` or `relayed`; none if it is not connected.
    pub path: Option<String>,
    /// The addresses at the other end.
    pub addresses: Vec<String>,
    /// How the connection came: `dialed`, `accepted` or `punched`.
    pub came: Option<String>,
    /// The round trip, in microseconds.
    pub rtt_us: Option<u64>,
    /// A mean of what a call of a tool there takes beyond the tool's own time, in microseconds.
    pub call_us: Option<u64>,
    /// Bytes received and sent.
    pub bytes: Option<[u64; 2]>,
    /// The program at the other end, as it says.
    pub agent: Option<String>,
    /// What it may call here.
    pub may_call_here: Option<RightRow>,
    /// What a tenant here may call there, by tenant.
    pub may_be_called: BTreeMap<TenantId, RightRow>,
    /// Mounts of its tools, as `TENANT/MOUNT`.
    #[serde(default)]
    pub mounted: Vec<String>,
}

/// A right of a peer's, or to a peer's tools.
#[derive(Debug, Serialize, Deserialize)]
pub struct RightRow {
    /// The tenant here.
    pub tenant: TenantId,
    /// The tools.
    pub tools: Vec<ToolPattern>,
    /// The components of which the peer may fetch the builds.
    #[serde(default)]
    pub components: Vec<ToolPattern>,
    /// Requests in a minute.
    pub calls_per_minute: Option<u64>,
    /// When it ends.
    #[serde(default, with = "humantime_serde::option")]
    pub expires: Option<SystemTime>,
    /// Whether it has ended.
    pub expired: bool,
}

/// All that is known of peers.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerList {
    /// This host.
    pub id: PeerId,
    /// Where peers reach it.
    pub addresses: Vec<String>,
    /// The others.
    pub peers: BTreeMap<PeerId, PeerRow>,
    /// Invitations that can still be redeemed: how often, and until when.
    pub invitations: BTreeMap<String, (u32, String)>,
}

impl Operated {
    fn meshed(&self) -> Result<(&OperatedMesh, &Mesh), PeerCommandError> {
        Ok((&self.mesh, self.mesh.mesh.get().ok_or(PeerCommandError::NoMesh)?))
    }
}

pub(super) async fn list(State(shared): State<Arc<Operated>>) -> Response {
    let listed = async {
        let (meshed, mesh) = shared.meshed()?;
        let (meshed, mesh) = (meshed.clone(), mesh.clone());
        let mut list = apart(move || meshed.list(&mesh)).await??;
        for (tenant, mount) in shared.all_mounts() {
            for peer in mount.peers {
                list.peers.entry(peer.peer).or_default().mounted.push(format!("{tenant}/{}", mount.name));
            }
        }
        Ok::<_, PeerCommandError>(list)
    };
    answer(listed.await)
}

pub(super) async fn invite(State(shared): State<Arc<Operated>>, Json(new): Json<NewInvitation>) -> Response {
    let inviting = async {
        let (meshed, mesh) = shared.meshed()?;
        if shared.endpoint.registry().incarnation(&new.tenant).is_none() {
            return Err(PeerCommandError::NoTenant(new.tenant));
        }
        let (meshed, mesh) = (meshed.clone(), mesh.clone());
        apart(move || meshed.invite(&mesh, new)).await?
    };
    answer(inviting.await)
}

pub(super) async fn join(
    State(shared): State<Arc<Operated>>,
    Query(Of { tenant }): Query<Of>,
    Json(JoinOrder { ticket }): Json<JoinOrder>,
) -> Response {
    let joining = async {
        if shared.endpoint.registry().incarnation(&tenant).is_none() {
            return Err(PeerCommandError::NoTenant(tenant));
        }
        let (meshed, mesh) = shared.meshed()?;
        meshed.join(mesh, tenant, &ticket).await
    };
    answer(joining.await)
}

pub(super) async fn revoke(State(shared): State<Arc<Operated>>, Json(order): Json<RevokeOrder>) -> Response {
    // Also without a mesh: what is revoked stays so.
    let revoking = async { shared.mesh.revoke(order.name).await };
    answer(revoking.await)
}

/// Reads and writes files, not on a thread of the doors.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PeerCommandError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PeerCommandError::Gone)
}

impl OperatedMesh {
    fn invite(&self, mesh: &Mesh, new: NewInvitation) -> Result<Invited, PeerCommandError> {
        let (invitation, secret) = self.peers.invite(new)?;
        let (peer, addresses) = (mesh.id().clone(), mesh.addresses());
        let expires = invitation.expires;
        let ticket = JoinTicket::new(peer, addresses, invitation.id.clone(), secret, invitation.tools, expires);
        let addresses = ticket.addresses.clone();
        Ok(Invited { ticket: ticket.text()?, invitation: invitation.id, expires, addresses })
    }

    async fn join(&self, mesh: &Mesh, tenant: TenantId, ticket: &str) -> Result<Joined, PeerCommandError> {
        let ticket = JoinTicket::parse(ticket)?;
        if ticket.peer == *mesh.id() {
            return Err(PeerCommandError::OwnTicket);
        }
        if ticket.expires <= SystemTime::now() {
            return Err(PeerCommandError::Expired(ticket.expires));
        }
        mesh.remember(&ticket.peer, &ticket.addresses)?;
        let stream = mesh.open(&ticket.peer, join::PROTOCOL, JOIN_TIME).await?;
        let allowed = join::ask(&ticket, stream).await?;
        let membership = Membership {
            peer: ticket.peer.clone(),
            tenant,
            incarnation: crate::tenant::Incarnation::default(),
            tools: allowed.tools.clone(),
            calls_per_minute: allowed.calls_per_minute,
            since: SystemTime::now(),
            expires: allowed.expires,
            addresses: ticket.addresses,
        };
        let peers = Arc::clone(&self.peers);
        apart(move || peers.join(membership)).await??;
        Ok(Joined { peer: ticket.peer, allowed })
    }

    async fn revoke(&self, name: String) -> Result<Revoked, PeerCommandError> {
        let (peers, revoking) = (Arc::clone(&self.peers), name.clone());
        let revoked = apart(move || peers.revoke(&revoking)).await??;
        if let Ok(peer) = name.parse::<PeerId>() {
            self.remotes.hang_up(&peer).await;
            if let Some(mesh) = self.mesh.get() {
                mesh.forget(&peer);
                mesh.disconnect(&peer).await;
            }
        }
        Ok(revoked)
    }

    fn list(&self, mesh: &Mesh) -> Result<PeerList, PeerCommandError> {
        let table = self.peers.table()?;
        let now = SystemTime::now();
        let mut peers: BTreeMap<PeerId, PeerRow> = BTreeMap::new();
        for connected in mesh.peers() {
            let row = peers.entry(connected.peer).or_default();
            row.path = Some(PeerPath::as_str(connected.path).to_owned());
            row.came = serde_json::to_value(connected.came)?.as_str().map(str::to_owned);
            row.addresses = connected.addresses;
            row.rtt_us = connected.rtt.map(micros);
            row.bytes = Some([connected.received_bytes, connected.sent_bytes]);
            row.agent = connected.agent;
        }
        for grant in table.grants {
            let expired = grant.is_expired(now);
            let right = RightRow {
                tenant: grant.tenant,
                tools: grant.tools,
                components: grant.components,
                calls_per_minute: grant.calls_per_minute,
                expires: grant.expires,
                expired,
            };
            peers.entry(grant.peer).or_default().may_call_here = Some(right);
        }
        for membership in table.memberships {
            let expired = membership.is_expired(now);
            let right = RightRow {
                tenant: membership.tenant.clone(),
                tools: membership.tools,
                components: Vec::new(),
                calls_per_minute: membership.calls_per_minute,
                expires: membership.expires,
                expired,
            };
            peers.entry(membership.peer).or_default().may_be_called.insert(membership.tenant, right);
        }
        for (peer, row) in &mut peers {
            row.call_us = self.remotes.health(peer).latency.map(micros);
        }
        let open = table.invitations.into_iter().filter(|open| open.uses_left > 0 && open.expires > now);
        let shown = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
        Ok(PeerList {
            id: mesh.id().clone(),
            addresses: mesh.addresses(),
            peers,
            invitations: open.map(|open| (open.id, (open.uses_left, shown(open.expires)))).collect(),
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
