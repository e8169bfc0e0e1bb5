//! Grants, invitations and memberships in their file, changed by one at a time.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    Membership, PeerGrant,
    invitation::{Invitation, MAX_PATTERNS, NewInvitation, Redeemed, TicketRefusal},
    ticket::TicketSecret,
};
use crate::{
    files::{lock, private, write_durably},
    mesh::PeerId,
    names::{TenantId, ToolPattern},
    tenant::{Incarnation, home::Homes},
};

/// The version of the file that this host reads and writes.
const FORMAT_VERSION: u32 = 1;
/// A larger file is refused: it is parsed as a whole whenever it has changed.
pub const MAX_FILE_BYTES: u64 = 8 << 20;
/// Grants, invitations and memberships of one host, each.
pub const MAX_RECORDS: usize = 5_000;
/// An invitation that ended so long ago is forgotten when another is made.
const KEPT_AFTER_END: Duration = Duration::from_secs(7 * 24 * 3_600);
const SECRET_BYTES: usize = 32;

/// Why the peers' records are not usable.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The file could not be read or written.
    #[error("cannot use the peers' records {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not valid.
    #[error("the peers' records {path} are not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The file has another version.
    #[error("the peers' records {path} have version {found}; this host reads version {FORMAT_VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// There is nothing of this name.
    #[error("there is no grant, membership or invitation {0:?}; `mcpp peers` shows those there are")]
    Unknown(String),
    /// There are as many records as there may be.
    #[error("there are {MAX_RECORDS} records, or {MAX_FILE_BYTES} bytes of them; revoke some with `mcpp peer revoke`")]
    TooMany,
    /// The request is not legal.
    #[error("{0}")]
    Invalid(&'static str),
}

/// All records.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerTable {
    version: u32,
    /// Peers that may call here.
    #[serde(default)]
    pub grants: Vec<PeerGrant>,
    /// Invitations.
    #[serde(default)]
    pub invitations: Vec<Invitation>,
    /// Hosts that this one may call.
    #[serde(default)]
    pub memberships: Vec<Membership>,
}

/// The records that a revocation took away.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Grants.
    pub grants: usize,
    /// Memberships.
    pub memberships: usize,
    /// Invitations.
    pub invitations: usize,
}

/// The records in their file.
#[derive(Debug, Clone)]
pub struct PeerFile(PathBuf);

impl PeerFile {
    /// The records of a host.
    pub fn new(homes: &Homes) -> Self {
        Self(homes.data().join("peers.toml"))
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn failed(&self) -> impl Fn(io::Error) -> PeersError + use<> {
        let path = self.0.clone();
        move |source| PeersError::Io { path: path.clone(), source }
    }

    /// All records; none if there never was one.
    pub fn read(&self) -> Result<PeerTable, PeersError> {
        let file = match std::fs::File::open(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(PeerTable::default()),
            opened => opened.map_err(self.failed())?,
        };
        let mut text = String::new();
        file.take(MAX_FILE_BYTES.saturating_add(1)).read_to_string(&mut text).map_err(self.failed())?;
        if !fits(&text) {
            return Err(PeersError::TooMany);
        }
        let table: PeerTable = toml::from_str(&text)
            .map_err(|source| PeersError::Parse { path: self.0.clone(), source: Box::new(source) })?;
        if table.version != FORMAT_VERSION {
            return Err(PeersError::Version { path: self.0.clone(), found: table.version });
        }
        check_room(&table)?;
        Ok(table)
    }

    /// Changes the records; nothing if `change` fails. One changes them at a time.
    fn change<T, E: From<PeersError>>(&self, change: impl FnOnce(&mut PeerTable) -> Result<T, E>) -> Result<T, E> {
        let _one_at_a_time = lock(&self.0).map_err(self.failed())?;
        let before = self.read()?;
        let mut table = before.clone();
        let done = change(&mut table)?;
        if table != before {
            table.version = FORMAT_VERSION;
            check_room(&table)?;
            let text = toml::to_string(&table).map_err(|error| self.failed()(io::Error::other(error)))?;
            if !fits(&text) {
                return Err(PeersError::TooMany.into());
            }
            write_durably(&self.0, text.as_bytes()).map_err(self.failed())?;
        }
        Ok(done)
    }

    /// The key under which secrets are hashed: made once, in a file of its own.
    fn key(&self) -> Result<[u8; blake3::KEY_LEN], PeersError> {
        let path = self.0.with_extension("key");
        let failed = |source| PeersError::Io { path: path.clone(), source };
        let mut key = [0; blake3::KEY_LEN];
        match std::fs::File::open(&path) {
            Ok(mut file) => {
                file.read_exact(&mut key).map_err(failed)?;
                return Ok(key);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        getrandom::fill(&mut key).map_err(|error| failed(io::Error::other(error)))?;
        drop(private(&path).map_err(failed)?);
        write_durably(&path, &key).map_err(failed)?;
        Ok(key)
    }

    /// Makes an invitation. Gives its record, and its secret, which the host never shows again.
    pub fn invite(&self, new: NewInvitation) -> Result<(Invitation, TicketSecret), PeersError> {
        check_invitation(&new)?;
        let now = SystemTime::now();
        let expires = now.checked_add(new.good_for).ok_or(PeersError::Invalid("the invitation lasts too long"))?;
        if new.grant_for.is_some_and(|time| now.checked_add(time).is_none()) {
            return Err(PeersError::Invalid("the grant lasts too long"));
        }
        let incarnation = incarnation(&self.0, &new.tenant);
        let id = random::<9>().map_err(self.failed())?.replace(['-', '_'], "0");
        let secret = random::<SECRET_BYTES>().map_err(self.failed())?;
        self.change(|table| {
            let key = self.key()?;
            table.invitations.retain(|old| old.expires.checked_add(KEPT_AFTER_END).is_none_or(|end| end > now));
            let invitation = Invitation {
                id,
                tenant: new.tenant,
                incarnation,
                tools: new.tools,
                components: new.components,
                calls_per_minute: new.calls_per_minute,
                only: new.only,
                created: now,
                expires,
                grant_for: new.grant_for,
                uses_left: new.uses,
                hash: blake3::keyed_hash(&key, secret.as_bytes()).to_hex().to_string(),
            };
            table.invitations.push(invitation.clone());
            Ok((invitation, TicketSecret(secret)))
        })
    }

    /// Redeems a ticket's secret for `peer`.
    pub fn redeem(
        &self,
        peer: &PeerId,
        id: &str,
        secret: &TicketSecret,
        tools: &[ToolPattern],
    ) -> Result<PeerGrant, TicketRefusal> {
        let redeemed = self.change(|table| -> Result<_, RedeemError> {
            let key = self.key()?;
            let PeerTable { invitations, grants, .. } = table;
            let now = SystemTime::now();
            grants.retain(|grant| !grant.is_expired(now));
            if grants.len() >= MAX_RECORDS {
                return Err(TicketRefusal::Full.into());
            }
            Ok(Redeemed { invitations, grants }.redeem(&key, peer, id, secret, tools, now)?)
        });
        redeemed.map_err(|error| match error {
            RedeemError::Refused(refusal) => refusal,
            RedeemError::Unusable(error) => {
                tracing::error!(error = crate::error::chain(&error), "a ticket was not redeemed");
                TicketRefusal::Unavailable
            }
        })
    }

    /// Keeps a membership, in the place of the one before with the same host and tenant.
    pub fn join(&self, mut membership: Membership) -> Result<(), PeersError> {
        membership.incarnation = incarnation(&self.0, &membership.tenant);
        self.change(|table| {
            table.memberships.retain(|old| old.peer != membership.peer || old.tenant != membership.tenant);
            table.memberships.push(membership);
            Ok(())
        })
    }

    /// Takes away what a peer may do, or an invitation and all grants that came of it; with `membership`, also what this host may do there.
    pub fn revoke(&self, name: &str) -> Result<Revoked, PeersError> {
        self.change(|table| {
            let before = [table.grants.len(), table.memberships.len(), table.invitations.len()];
            table.grants.retain(|grant| grant.peer.as_str() != name && grant.invitation != name);
            table.memberships.retain(|membership| membership.peer.as_str() != name);
            table.invitations.retain(|invitation| invitation.id != name);
            let [grants, memberships, invitations] = before;
            let revoked = Revoked {
                grants: grants.saturating_sub(table.grants.len()),
                memberships: memberships.saturating_sub(table.memberships.len()),
                invitations: invitations.saturating_sub(table.invitations.len()),
            };
            if revoked == Revoked::default() { Err(PeersError::Unknown(name.to_owned())) } else { Ok(revoked) }
        })
    }

    /// Takes away everything of a tenant.
    pub fn revoke_tenant(&self, tenant: &TenantId) -> Result<(), PeersError> {
        self.change(|table| {
            table.grants.retain(|grant| grant.tenant != *tenant);
            table.memberships.retain(|membership| membership.tenant != *tenant);
            table.invitations.retain(|invitation| invitation.tenant != *tenant);
            Ok(())
        })
    }
}

#[derive(Debug, thiserror::Error)]
enum RedeemError {
    #[error(transparent)]
    Refused(#[from] TicketRefusal),
    #[error(transparent)]
    Unusable(#[from] PeersError),
}

fn check_invitation(new: &NewInvitation) -> Result<(), PeersError> {
    if new.tools.is_empty() && new.components.is_empty() || new.tools.len().max(new.components.len()) > MAX_PATTERNS {
        return Err(PeersError::Invalid("an invitation names 1 to 64 tools or prefixes; `*` is all of the tenant's"));
    }
    if new.uses == 0 {
        return Err(PeersError::Invalid("an invitation can be used at least once"));
    }
    if new.good_for.is_zero() || new.grant_for.is_some_and(|time| time.is_zero()) {
        return Err(PeersError::Invalid("an invitation and its grants last longer than no time"));
    }
    if new.calls_per_minute == Some(0) {
        return Err(PeersError::Invalid("a peer that may not call needs no invitation"));
    }
    Ok(())
}

fn check_room(table: &PeerTable) -> Result<(), PeersError> {
    let most = table.grants.len().max(table.invitations.len()).max(table.memberships.len());
    if most > MAX_RECORDS { Err(PeersError::TooMany) } else { Ok(()) }
}

fn fits(text: &str) -> bool {
    u64::try_from(text.len()).is_ok_and(|bytes| bytes <= MAX_FILE_BYTES)
}

/// Which tenant of that name there is now. The file lies in the data directory, where tenants' settings are.
fn incarnation(file: &Path, tenant: &TenantId) -> Incarnation {
    let homes = Homes::new(file.parent().map(Path::to_owned).unwrap_or_default());
    homes.find(tenant).and_then(|home| home.settings()).map(|settings| settings.incarnation).unwrap_or_default()
}

/// Random bytes as text.
fn random<const N: usize>() -> io::Result<String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> NewInvitation {
        NewInvitation {
            tenant: TenantId::local(),
            tools: vec!["text_*".parse().expect("a pattern")],
            components: Vec::new(),
            calls_per_minute: None,
            only: None,
            good_for: Duration::from_secs(60),
            grant_for: None,
            uses: 1,
        }
    }

    fn peer() -> PeerId {
        "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo".parse().expect("a peer")
    }

    #[test]
    fn an_invitation_is_redeemed_once_revoked_at_once_and_its_secret_is_nowhere_to_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = PeerFile::new(&Homes::new(folder.path().to_owned()));
        let (invitation, secret) = file.invite(new()).expect("made");
        let text = std::fs::read_to_string(file.path()).expect("text");
        assert!(!text.contains(&secret.0) && text.contains(&invitation.hash));
        assert_ne!(invitation.hash, blake3::hash(secret.0.as_bytes()).to_hex().to_string(), "it is keyed");
        for private in ["peers.toml", "peers.key"] {
            let meta = std::fs::metadata(folder.path().join(private)).expect("there");
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o600, "{private}");
        }
        let redeem = || file.redeem(&peer(), &invitation.id, &secret, &invitation.tools);
        let grant = redeem().expect("redeemed");
        assert_eq!(file.read().expect("read").grants, [grant]);
        assert_eq!(file.revoke(peer().as_str()).expect("revoked").grants, 1);
        assert_eq!(redeem(), Err(TicketRefusal::UsedUp));
        assert_eq!(file.revoke(&invitation.id).expect("revoked").invitations, 1);
        assert_eq!(redeem(), Err(TicketRefusal::Unknown));
        assert!(matches!(file.revoke("nothing"), Err(PeersError::Unknown(_))));
    }

    #[test]
    fn illegal_invitations_and_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = PeerFile::new(&Homes::new(folder.path().to_owned()));
        for illegal in [
            NewInvitation { tools: Vec::new(), ..new() },
            NewInvitation { tools: vec!["t".parse().expect("a pattern"); MAX_PATTERNS + 1], ..new() },
            NewInvitation { uses: 0, ..new() },
            NewInvitation { good_for: Duration::ZERO, ..new() },
            NewInvitation { good_for: Duration::MAX, ..new() },
            NewInvitation { calls_per_minute: Some(0), ..new() },
        ] {
            assert!(matches!(file.invite(illegal), Err(PeersError::Invalid(_))));
        }
        std::fs::write(file.path(), "version = 9\n").expect("written");
        assert!(matches!(file.read(), Err(PeersError::Version { found: 9, .. })));
        std::fs::write(file.path(), vec![b'#'; 1 + usize::try_from(MAX_FILE_BYTES).expect("fits")]).expect("written");
        assert!(matches!(file.read(), Err(PeersError::TooMany)));
    }
}
