//! Opening a stream to a peer, whatever carries it: the network of this host, or a pipe in a test.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::BoxFuture;

use super::{Mesh, PeerId, PeerStream, Unreachable};

/// The way to peers.
pub trait Dial: fmt::Debug + Send + Sync {
    /// Opens a stream of `protocol`, within a time.
    fn dial<'a>(
        &'a self,
        peer: &'a PeerId,
        protocol: &'static str,
        within: Duration,
    ) -> BoxFuture<'a, Result<PeerStream, Unreachable>>;
}

/// The mesh of a host, which others can hold before there is one. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct LateMesh(Arc<OnceLock<Mesh>>);

impl LateMesh {
    /// The mesh, if this host is part of one.
    pub fn get(&self) -> Option<&Mesh> {
        self.0.get()
    }

    /// Notes the mesh; the first stays.
    pub fn set(&self, mesh: Mesh) {
        let _only_once = self.0.set(mesh);
    }
}

impl Dial for LateMesh {
    fn dial<'a>(
        &'a self,
        peer: &'a PeerId,
        protocol: &'static str,
        within: Duration,
    ) -> BoxFuture<'a, Result<PeerStream, Unreachable>> {
        Box::pin(async move { self.get().ok_or(Unreachable::Stopped)?.open(peer, protocol, within).await })
    }
}
