//! Whom the host knows among the peers: who may connect, whose connection stays, and to whom it goes back.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
};

use super::PeerId;

/// Peers that a host knows. A grant, a mount or the configuration names each.
pub const MAX_KNOWN_PEERS: usize = 4_096;

/// Who may connect to this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Callers {
    /// Every peer, within the limits for those that the host does not know.
    #[default]
    Everyone,
    /// Only peers that the host knows. What it dials itself is not asked.
    Known,
}

/// What a peer is to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bond {
    /// Its connection stays open.
    Known,
    /// That, and the host goes back to it when the connection is lost.
    Kept,
}

#[derive(Debug, Default)]
struct Bonds {
    callers: Callers,
    known: HashSet<PeerId>,
    kept: HashSet<PeerId>,
}

/// The peers that the host knows; every holder sees the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Roster(Arc<RwLock<Bonds>>);

impl Roster {
    fn read<T>(&self, read: impl FnOnce(&Bonds) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut Bonds) -> T) -> T {
        write(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_callers(&self, callers: Callers) {
        self.write(|bonds| bonds.callers = callers);
    }

    /// Whether a peer that the host did not dial may be connected.
    pub(super) fn admits(&self, peer: &PeerId) -> bool {
        self.read(|bonds| bonds.callers == Callers::Everyone || bonds.known.contains(peer))
    }

    pub(super) fn is_known(&self, peer: &PeerId) -> bool {
        self.read(|bonds| bonds.known.contains(peer))
    }

    /// The peers to go back to.
    pub(super) fn kept(&self) -> Vec<PeerId> {
        self.read(|bonds| bonds.kept.iter().cloned().collect())
    }

    /// Notes a peer. Whether there was room.
    pub(super) fn know(&self, peer: &PeerId, bond: Bond) -> bool {
        self.write(|bonds| {
            let room = bonds.known.len() < MAX_KNOWN_PEERS || bonds.known.contains(peer);
            if room {
                bonds.known.insert(peer.clone());
                match bond {
                    Bond::Known => bonds.kept.remove(peer),
                    Bond::Kept => bonds.kept.insert(peer.clone()),
                };
            }
            room
        })
    }

    pub(super) fn forget(&self, peer: &PeerId) {
        self.write(|bonds| {
            bonds.known.remove(peer);
            bonds.kept.remove(peer);
        });
    }
}
