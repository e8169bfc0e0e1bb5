//! The operator's commands about mounts: mount, accept, list, unmount.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::{Acceptance, Of, Operated, answer};
use crate::{
    mesh::PeerId,
    mounts::{
        MountError,
        record::{InvalidMountName, MountName},
        rows::MountRow,
    },
    names::{TenantId, ToolPattern},
};

/// A mount to make.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountOrder {
    /// Its name.
    pub name: MountName,
    /// The peers whose tools it has.
    pub peers: Vec<PeerId>,
    /// The tools, by their names there.
    pub tools: Vec<ToolPattern>,
}

/// A mount to take away.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnmountOrder {
    /// Its name.
    pub name: MountName,
}

/// Why a command about mounts failed.
#[derive(Debug, thiserror::Error)]
enum MountCommandError {
    #[error("this host is part of no mesh: `mesh.enabled` is off, or MCP_DISABLE_P2P is set")]
    NoMesh,
    #[error(transparent)]
    Name(#[from] InvalidMountName),
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl Operated {
    /// The mounts of all tenants.
    pub(super) fn all_mounts(&self) -> Vec<(TenantId, MountRow)> {
        let tenants = self.endpoint.registry().tenants().into_iter();
        tenants.flat_map(|tenant| self.mounts.rows(&tenant).into_iter().map(move |row| (tenant.clone(), row))).collect()
    }
}

pub(super) async fn list(State(shared): State<Arc<Operated>>, Query(Of { tenant }): Query<Of>) -> Response {
    answer(Ok::<_, MountCommandError>(shared.mounts.rows(&tenant)))
}

pub(super) async fn waiting(State(shared): State<Arc<Operated>>, Query(Of { tenant }): Query<Of>) -> Response {
    answer(Ok::<_, MountCommandError>(shared.mounts.waiting(&tenant)))
}

pub(super) async fn mount(
    State(shared): State<Arc<Operated>>,
    Query(Of { tenant }): Query<Of>,
    Json(MountOrder { name, peers, tools }): Json<MountOrder>,
) -> Response {
    let mounting = async {
        shared.mesh.mesh.get().ok_or(MountCommandError::NoMesh)?;
        Ok::<_, MountCommandError>(shared.mounts.mount(&tenant, name, peers, tools).await?)
    };
    answer(mounting.await)
}

pub(super) async fn accept(
    State(shared): State<Arc<Operated>>,
    Query(Of { tenant }): Query<Of>,
    Json(Acceptance { component, digest }): Json<Acceptance>,
) -> Response {
    let accepting = async {
        let name: MountName = component.parse()?;
        Ok::<_, MountCommandError>(shared.mounts.accept(&tenant, &name, &digest).await?)
    };
    answer(accepting.await)
}

pub(super) async fn unmount(
    State(shared): State<Arc<Operated>>,
    Query(Of { tenant }): Query<Of>,
    Json(UnmountOrder { name }): Json<UnmountOrder>,
) -> Response {
    answer(shared.mounts.unmount(&tenant, &name).await)
}
