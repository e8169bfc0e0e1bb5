//! The last gate before a dial: addresses that the operator did not give and that no peer's word opens.
//!
//! Several of the library's protocols dial what other peers told them. Names, link-local addresses and this machine are not theirs to tell.

use std::{
    collections::HashSet,
    io,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, Transport, TransportError,
    core::transport::{DialOpts, ListenerId, TransportEvent},
    multiaddr::Protocol,
};

use crate::mesh::address::{self, AddressReach};

/// Addresses that were given by the operator, or by somebody with the operator's authority.
#[derive(Debug, Clone, Default)]
pub(in crate::mesh) struct GivenAddresses(Arc<RwLock<HashSet<Multiaddr>>>);

/// Addresses that are given, besides those in the configuration. The address book is as large.
const MAX_GIVEN: usize = 16_384;

impl GivenAddresses {
    /// Notes that an address was given. With no room left it is dialed as one that was told.
    pub(in crate::mesh) fn add(&self, address: &Multiaddr) {
        let mut given = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if given.len() < MAX_GIVEN {
            // Of a circuit the relay is dialed.
            let dialed = address.iter().take_while(|part| *part != Protocol::P2pCircuit).collect();
            given.insert(address::without_peer(dialed));
        }
    }

    fn has(&self, address: &Multiaddr) -> bool {
        let given = self.0.read().unwrap_or_else(PoisonError::into_inner);
        given.contains(&address::without_peer(address.clone()))
    }
}

/// Which addresses may be dialed though nobody gave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) enum Told {
    /// Those of the Internet and of private networks.
    Networks,
    /// These, and this machine's: the mesh is on it.
    Machine,
}

/// A transport that dials nothing else.
#[derive(Debug)]
pub(super) struct GuardedTransport<T> {
    pub(super) inner: T,
    pub(super) given: GivenAddresses,
    pub(super) told: Told,
}

impl<T> GuardedTransport<T> {
    fn may_dial(&self, address: &Multiaddr) -> bool {
        let told = match address::reach(address) {
            Some(AddressReach::World | AddressReach::Site) => true,
            Some(AddressReach::Machine) => self.told == Told::Machine,
            Some(AddressReach::Link) | None => false,
        };
        told || self.given.has(address)
    }
}

impl<T> Transport for GuardedTransport<T>
where
    T: Transport<Error = io::Error> + Unpin,
{
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<io::Error>> {
        if address::is_relayed(&address) {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        if !self.may_dial(&address) {
            let reason = format!(
                "{address} was told by a peer, and reaches this machine, its link, or a name; only the operator may give such an address"
            );
            return Err(TransportError::Other(io::Error::new(io::ErrorKind::PermissionDenied, reason)));
        }
        self.inner.dial(address, options)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.get_mut().inner).poll(cx)
    }
}
