//! The host's part in a mesh, for as long as it has its data directory: two hosts with one identity would take each other's streams.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::directory::DirectoryLock;
use crate::{
    auth::known::KnownTokens,
    components::{self, door::ComponentDoor},
    config::MeshDoorConfig,
    mcp::{
        Endpoint,
        mesh::{MeshDoor, guests::MeshOfGuests, remote::Remotes},
    },
    mesh::{Bond, Identity, Incoming, Mesh, MeshConfig, NetworkConfig, PeerId, dial::LateMesh, meters},
    peers::known::KnownPeers,
};

/// Time for the streams of peers to end when the host stops.
const LAST_STREAMS: Duration = Duration::from_secs(2);
/// How often a host that waits for its data directory looks whether it has it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The mesh of this host, which others can hold before there is one.
#[derive(Debug, Clone)]
pub(super) struct Network {
    config: NetworkConfig,
    folder: PathBuf,
    protocols: Vec<&'static str>,
    mesh: LateMesh,
}

/// The parts of the host in which the streams of peers end.
#[derive(Debug)]
pub(super) struct MeshParts {
    pub(super) door: MeshDoorConfig,
    pub(super) endpoint: Endpoint,
    pub(super) peers: Arc<KnownPeers>,
    pub(super) tokens: Arc<KnownTokens>,
    pub(super) guests: Arc<MeshOfGuests>,
    pub(super) closing: CancellationToken,
}

impl Network {
    pub(super) fn new(config: NetworkConfig, door: &MeshDoorConfig, data: &Path) -> Self {
        meters::describe();
        let mut protocols = MeshDoor::protocols(door);
        protocols.push(components::PROTOCOL);
        Self { config, folder: data.join("mesh"), protocols, mesh: LateMesh::default() }
    }

    /// The mesh, for those who hold it before there is one.
    pub(super) fn late(&self) -> LateMesh {
        self.mesh.clone()
    }

    /// The mesh for the guests of an endpoint's registry.
    pub(super) fn for_guests(
        &self,
        endpoint: &Endpoint,
        peers: &Arc<KnownPeers>,
        remotes: &Remotes,
    ) -> Arc<MeshOfGuests> {
        let NetworkConfig { peers: kept, bootstrap, rendezvous, relays, .. } = &self.config;
        let named = [kept, bootstrap, rendezvous, relays].into_iter().flatten();
        let named = named.filter_map(|address| PeerId::of_address(address).ok()).collect();
        let registry = endpoint.registry().clone();
        MeshOfGuests::new(self.late(), Arc::clone(peers), remotes.clone(), registry, named)
    }

    /// The mesh, if this host is part of one.
    pub(super) fn mesh(&self) -> Option<&Mesh> {
        self.mesh.get()
    }

    /// Joins the mesh, unless it is off or another host has the data directory.
    pub(super) async fn join(&self, lock: &DirectoryLock, peers: &KnownPeers) -> anyhow::Result<Option<Incoming>> {
        if !self.config.enabled || !lock.is_held() {
            return Ok(None);
        }
        let identity = Identity::open(&self.folder)?;
        let config = MeshConfig { network: self.config.clone(), identity, folder: Some(self.folder.clone()) };
        let (mesh, incoming) = Mesh::start(config, self.protocols.clone()).await?;
        // Before anybody can call: the first call finds the addresses.
        know_bonds(&mesh, peers);
        self.mesh.set(mesh);
        Ok(Some(incoming))
    }

    /// Takes the streams of peers until the host stops, and leaves the mesh then.
    pub(super) async fn serve(
        self,
        joined: Option<Incoming>,
        lock: Arc<DirectoryLock>,
        parts: MeshParts,
        stop: CancellationToken,
    ) {
        let mut incoming = joined;
        while incoming.is_none() && self.config.enabled {
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = stop.cancelled() => return,
            }
            incoming = self.join(&lock, &parts.peers).await.unwrap_or_else(|error| {
                tracing::error!(error = format!("{error:#}"), "this host is part of no mesh");
                None
            });
        }
        if let (Some(mut incoming), Some(mesh)) = (incoming, self.mesh()) {
            let MeshParts { door, endpoint, peers, tokens, guests, closing } = parts;
            let known = Arc::clone(&peers);
            let offers = ComponentDoor::new(endpoint.registry().clone(), Arc::clone(&peers), closing.clone());
            let door = MeshDoor::new(mesh.id().clone(), door, endpoint, peers, tokens, closing, stop.clone());
            let door = match door {
                Ok(door) => door,
                Err(error) => return tracing::error!(%error, "the mesh's door has no threads"),
            };
            let take = async {
                while let Some(stream) = incoming.next().await {
                    match stream.protocol {
                        components::PROTOCOL => offers.accept(stream.peer, stream.stream),
                        protocol => door.accept(stream.peer, protocol, stream.stream),
                    }
                }
            };
            tokio::select! {
                () = take => {}
                () = keep_bonds(mesh, &known) => {}
                () = guests.tend(mesh) => {}
                () = stop.cancelled() => {}
            }
            stop.cancelled().await;
            door.ended(LAST_STREAMS).await;
        }
        stop.cancelled().await;
        if let Some(mesh) = self.mesh() {
            mesh.leave().await;
        }
    }
}

/// Keeps the network in line with the peers' records: a peer with a grant is known, one whose tools are called is kept connected, and one that lost both is disconnected.
async fn keep_bonds(mesh: &Mesh, peers: &KnownPeers) {
    let mut changes = peers.changes();
    let mut before: BTreeSet<PeerId> = BTreeSet::new();
    loop {
        changes.mark_unchanged();
        let now = know_bonds(mesh, peers);
        for peer in before.difference(&now) {
            mesh.forget(peer);
            mesh.disconnect(peer).await;
        }
        before = now;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the network of the peers with records, and where they are reached; which they are.
fn know_bonds(mesh: &Mesh, peers: &KnownPeers) -> BTreeSet<PeerId> {
    let bonds = peers.bonds();
    for (peer, is_called) in &bonds {
        // The address book is written later than the record, and may be lost.
        if let Err(error) = mesh.remember(peer, &peers.addresses(peer)) {
            tracing::warn!(%peer, %error, "the addresses of a peer's ticket cannot be used");
        }
        let bond = if *is_called { Bond::Kept } else { Bond::Known };
        if let Err(full) = mesh.know(peer, bond) {
            tracing::warn!(%peer, %full, "the connection to a peer is not kept");
        }
    }
    bonds.into_iter().map(|(peer, _)| peer).collect()
}
