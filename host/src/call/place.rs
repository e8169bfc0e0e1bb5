//! Where a call ran: on this host, or on a peer that a mount chose for it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::mesh::PeerId;

/// Where a call ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallPlace {
    /// On this host.
    Here,
    /// On a peer.
    Peer(PeerId),
}

/// The place of a call, written by those who run it and read by its caller. All clones are one note.
#[derive(Debug, Clone, Default)]
pub struct PlaceNote(Arc<Mutex<Option<CallPlace>>>);

impl PlaceNote {
    /// Notes that the call begins to run there; with none, that it ran nowhere after all.
    pub fn write(&self, place: Option<CallPlace>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// Where the call ran; none if it ran nowhere.
    pub fn read(&self) -> Option<CallPlace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
