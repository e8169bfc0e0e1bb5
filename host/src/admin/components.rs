//! The operator's commands about components of peers: what they offer, and one that is fetched.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::{Of, Operated, answer};
use crate::{
    components::fetch::{FetchError, FetchOrder, Fetched},
    mesh::PeerId,
    names::TenantId,
    reload::{Report, Stopping},
    tenant::Incarnation,
};

/// Peers whose offers are wanted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffersOrder {
    /// The peers.
    pub peers: Vec<PeerId>,
}

/// A build that has come, and what the tenant's loader says to it.
#[derive(Debug, Serialize, Deserialize)]
pub struct FetchDone {
    /// The build.
    pub fetched: Fetched,
    /// The tenant's components as they are now.
    pub report: Report,
}

/// Why a command about components failed.
#[derive(Debug, thiserror::Error)]
enum ComponentCommandError {
    #[error("this host is part of no mesh: `mesh.enabled` is off, or MCP_DISABLE_P2P is set")]
    NoMesh,
    #[error("there is no tenant `{0}`")]
    NoTenant(TenantId),
    #[error("the tenant has a component `{0}` that was not fetched; give another name with --as")]
    Taken(String),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

impl Operated {
    fn incarnation(&self, tenant: &TenantId) -> Result<Incarnation, ComponentCommandError> {
        self.mesh.mesh.get().ok_or(ComponentCommandError::NoMesh)?;
        let incarnation = self.endpoint.registry().incarnation(tenant);
        incarnation.ok_or_else(|| ComponentCommandError::NoTenant(tenant.clone()))
    }

    /// Whether a name is that of a component that came in another way.
    fn is_taken(&self, tenant: &TenantId, name: &str) -> bool {
        let fetched = self.tenants.homes().of(tenant).fetched();
        let fetched = std::path::absolute(&fetched).unwrap_or(fetched);
        let catalog = self.endpoint.registry().catalog(tenant);
        let live = catalog.component(name).map(|revision| &revision.origin);
        let waits = catalog.problems().find(|problem| problem.component == name).map(|problem| &problem.origin);
        live.into_iter().chain(waits).any(|origin| origin.file().is_none_or(|file| file.parent() != Some(&*fetched)))
    }
}

pub(super) async fn offers(
    State(shared): State<Arc<Operated>>,
    Query(Of { tenant }): Query<Of>,
    Json(OffersOrder { peers }): Json<OffersOrder>,
) -> Response {
    let offering = async {
        let incarnation = shared.incarnation(&tenant)?;
        Ok::<_, ComponentCommandError>(shared.fetcher.offers(&tenant, &incarnation, &peers).await?)
    };
    answer(offering.await)
}

pub(super) async fn fetch(
    State(shared): State<Arc<Operated>>,
    Query(Of { tenant }): Query<Of>,
    Json(order): Json<FetchOrder>,
) -> Response {
    let fetching = async {
        let incarnation = shared.incarnation(&tenant)?;
        let may_have = |name: &str| match shared.is_taken(&tenant, name) {
            true => Err(ComponentCommandError::Taken(name.to_owned())),
            false => Ok(()),
        };
        let fetched = shared.fetcher.fetch(&tenant, &incarnation, order, may_have).await?;
        let report = shared.tenants.reloader().reload(&tenant).await?;
        Ok::<_, ComponentCommandError>(FetchDone { fetched, report: report.unwrap_or_default() })
    };
    answer(fetching.await)
}
