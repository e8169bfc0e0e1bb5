//! State that all components' requests share: the resolver, the roots, the permits for connections, the tenants' secrets.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::{
    resolver::{Resolve, Resolver},
    tls::Tls,
};
use crate::{
    names::TenantId,
    permits::TenantPermits,
    secrets::{KeySource, Secrets},
    tenant::home::Homes,
    threads::{LOW_NICE, Threads, give_way, processors},
};

/// Requests of components.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboundConfig {
    /// Certificates of private authorities to trust besides this machine's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Connections to upstreams at once, of the whole host; more wait, each in its tenant's line. The doors need descriptors too.
    pub max_connections: usize,
    /// Look-ups of names at once, of the whole host: each may hold a thread for as long as the system's resolver takes.
    pub max_lookups: usize,
    /// How names are looked up; only an embedder can set it.
    #[serde(skip)]
    pub resolver: Resolver,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self { ca_file: None, max_connections: 512, max_lookups: 64, resolver: Resolver::default() }
    }
}

impl OutboundConfig {
    /// Describes the first invalid number, if any.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in [("max_connections", self.max_connections), ("max_lookups", self.max_lookups)] {
            if !(1..=65_536).contains(&value) {
                return Err(format!("outbound.{name} = {value} is not between 1 and 65536"));
            }
        }
        Ok(())
    }
}

/// Reason for which the host cannot make requests.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The host cannot use the file of certificates.
    #[error("outbound.ca_file {path} cannot be used: {reason}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// There are no threads for the connections.
    #[error("connections to upstreams have no threads: {0}")]
    Threads(#[from] io::Error),
}

/// The host's way out, shared by all calls.
#[derive(Debug)]
pub struct Outbound {
    resolver: Arc<dyn Resolve>,
    pub(super) tls: Tls,
    pub(super) connections: TenantPermits,
    lookups: TenantPermits,
    homes: Homes,
    key: KeySource,
    secrets: Mutex<BTreeMap<TenantId, Arc<Secrets>>>,
    /// Where connections are served: an upstream that a tenant has made is in no door's way.
    threads: Threads,
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
            connections: TenantPermits::new(config.max_connections),
            lookups: TenantPermits::new(config.max_lookups),
            homes: homes.clone(),
            key: KeySource::new(homes.data(), variable),
            secrets: Mutex::default(),
            threads: Threads::start("mcpp-outbound", processors(), || give_way(LOW_NICE))?,
        })
    }

    /// Does the work of a connection on the threads for it, until this is dropped.
    pub(super) fn run<F>(&self, work: F) -> AbortOnDropHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        AbortOnDropHandle::new(self.threads.handle().spawn(work))
    }

    /// Whether several tenants share it.
    pub fn set_shared(&self, shared: bool) {
        self.connections.set_shared(shared);
        self.lookups.set_shared(shared);
    }

    /// Connections and look-ups that a tenant has now.
    pub fn taken(&self, tenant: &TenantId) -> (usize, usize) {
        (self.connections.taken(tenant).1, self.lookups.taken(tenant).1)
    }

    /// All addresses of `name`, in the tenant's turn. A resolver cannot be stopped: the look-up goes on, with its permit, also after its call has ended.
    pub(super) async fn resolve(&self, tenant: &TenantId, name: &str) -> io::Result<Vec<IpAddr>> {
        let permit = self.lookups.take(tenant).await;
        let (resolver, name) = (Arc::clone(&self.resolver), name.to_owned());
        let lookup = tokio::spawn(async move {
            let found = resolver.resolve(&name).await;
            drop(permit);
            found
        });
        lookup.await.map_err(io::Error::other)?
    }

    /// Secrets of a tenant. The host keeps them for each tenant that it knows.
    pub fn secrets(&self, tenant: &TenantId) -> Arc<Secrets> {
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let secrets = known
            .entry(tenant.clone())
            .or_insert_with(|| Arc::new(Secrets::new(&self.homes.of(tenant), self.key.clone())));
        Arc::clone(secrets)
    }
}
