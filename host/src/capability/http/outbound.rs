//! What all components' requests share: the resolver, the roots, the places for connections, the tenants' secrets.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{
    resolver::{Resolve, Resolver},
    tls::Tls,
};
use crate::{
    secrets::{KeySource, Secrets},
    tenant::{TenantId, home::Homes},
};

/// Connections to upstreams at once, of the whole host; more wait. The doors need descriptors too.
const MAX_CONNECTIONS: usize = 512;

/// Requests of components.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboundConfig {
    /// Certificates of private authorities to trust besides this machine's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// How names are looked up; only an embedder can set it.
    #[serde(skip)]
    pub resolver: Resolver,
}

/// Why no requests can be made.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The file of certificates does not work.
    #[error("outbound.ca_file {path} cannot be used: {reason}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// The host's way out, shared by all calls.
#[derive(Debug)]
pub struct Outbound {
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) tls: Tls,
    pub(super) places: Arc<Semaphore>,
    homes: Homes,
    key: KeySource,
    secrets: Mutex<BTreeMap<TenantId, Arc<Secrets>>>,
}

impl Outbound {
    /// A way out for the host with these tenants; `variable` is its environment.
    pub fn new(
        config: &OutboundConfig,
        homes: &Homes,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, OutboundError> {
        Ok(Self {
            resolver: config.resolver.get(),
            tls: Tls::new(config.ca_file.as_deref())?,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            homes: homes.clone(),
            key: KeySource::new(homes.data(), variable),
            secrets: Mutex::default(),
        })
    }

    /// A tenant's secrets. Kept for each tenant that this host knows.
    pub fn secrets(&self, tenant: &TenantId) -> Arc<Secrets> {
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let secrets = known
            .entry(tenant.clone())
            .or_insert_with(|| Arc::new(Secrets::new(&self.homes.of(tenant), self.key.clone())));
        Arc::clone(secrets)
    }
}
