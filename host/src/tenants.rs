//! The tenants of a running host: opened, suspended, changed and removed while it serves, as their files say.

pub mod removal;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    capability::files::OwnFolders,
    registry::Registry,
    reload::{
        Progress, Reloader, Report, Stopping,
        accept::{AcceptError, Waiting},
        loader::{BuiltIns, Loader, LoaderConfig},
        watch::WatchError,
    },
    store::{StoreError, embedded::EmbeddedStore},
    telemetry,
    tenant::{
        TenantId,
        home::{Home, HomeError, Homes},
        tokens::TokensError,
    },
    wasm::{
        cache::Cache,
        limits::{Limits, TenantLimits},
    },
};

/// How long calls of a tenant that is removed may go on.
const DRAIN: Duration = Duration::from_secs(5);

/// What all tenants have in common.
#[derive(Debug)]
pub struct TenantsConfig {
    /// Where their files are.
    pub homes: Homes,
    /// The tools folders of `local`.
    pub folders: Vec<PathBuf>,
    /// Where the grants of `local` are.
    pub grants: PathBuf,
    /// What no grant gives to a component.
    pub own_folders: OwnFolders,
    /// Whether the tools folders of `local` are pinned.
    pub pinned: bool,
    /// Whether what is new in a folder first runs with the code of a fast compiler.
    pub baseline_first: bool,
    /// Components that every tenant has.
    pub built_in: Arc<BuiltIns>,
    /// What a call may use unless a grant says otherwise.
    pub limits: Limits,
    /// What a tenant may use unless its settings say otherwise.
    pub tenant_limits: TenantLimits,
}

/// The tenants of a running host.
#[derive(Debug)]
pub struct Tenants {
    config: TenantsConfig,
    registry: Registry,
    reloader: Reloader,
    /// One change at a time.
    changing: Mutex<()>,
}

/// Why a tenant is not open.
#[derive(Debug, thiserror::Error)]
pub enum TenantsError {
    /// Its files are not usable.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Its tools cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The host is stopping.
    #[error(transparent)]
    Stopping(#[from] Stopping),
    /// Its data cannot be copied or removed.
    #[error("the tenant's data")]
    Store(#[from] StoreError),
    /// What was accepted is not known, or something is not accepted.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// Its tokens cannot be revoked.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// What it had cannot be copied or removed.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// What a refresh did, by tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// Tenants that were opened, with what their tools came to.
    pub opened: Vec<(TenantId, Report)>,
    /// Tenants that were closed: suspended or gone.
    pub closed: Vec<TenantId>,
    /// Tenants that could not be opened, and why.
    pub failed: Vec<(TenantId, String)>,
}

impl Tenants {
    /// No tenant is open yet.
    pub fn new(config: TenantsConfig, registry: Registry, reloader: Reloader) -> Self {
        Self { config, registry, reloader, changing: Mutex::new(()) }
    }

    /// Where their files are.
    pub fn homes(&self) -> &Homes {
        &self.config.homes
    }

    /// The task that watches their tools.
    pub fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    /// Opens the tenants that there are, all at once. One that cannot be opened does not keep the others from it.
    pub async fn refresh(&self, progress: Progress) -> Result<Refreshed, HomeError> {
        let _one_at_a_time = self.changing.lock().await;
        let open = self.registry.tenants();
        let (mut done, mut wanted) = (Refreshed::default(), Vec::new());
        for home in self.config.homes.list()? {
            match home.settings() {
                Ok(settings) if settings.suspended => {}
                Ok(settings) => {
                    self.registry.open(&home.tenant, self.config.tenant_limits.patched(&settings.limits));
                    wanted.push(home);
                }
                // What it may use is not known: it stays as it is, or closed.
                Err(error) => {
                    let error = telemetry::chain(&error);
                    tracing::error!(tenant = %home.tenant, error, "the tenant's settings are not in force");
                    if open.contains(&home.tenant) {
                        wanted.push(home.clone());
                    }
                    done.failed.push((home.tenant, error));
                }
            }
        }
        for tenant in open.iter().filter(|tenant| wanted.iter().all(|home| home.tenant != **tenant)) {
            self.close(tenant).await;
            done.closed.push(tenant.clone());
        }
        let opening = wanted.into_iter().filter(|home| !open.contains(&home.tenant)).map(|home| async {
            let opened = self.load(&home, Arc::clone(&progress)).await;
            (home.tenant, opened)
        });
        for (tenant, opened) in futures::future::join_all(opening).await {
            match opened {
                Ok(report) => done.opened.push((tenant, report)),
                Err(error) => {
                    let error = telemetry::chain(&error);
                    tracing::error!(%tenant, error, "the tenant is not open");
                    self.registry.close(&tenant);
                    done.failed.push((tenant, error));
                }
            }
        }
        Ok(done)
    }

    /// Looks at the tenants' files again, and at every open tenant's tools and grants; what that did, by tenant.
    pub async fn reload_all(&self) -> Result<BTreeMap<TenantId, Report>, TenantsError> {
        let refreshed = self.refresh(Arc::new(|| {})).await?;
        let mut reports: BTreeMap<TenantId, Report> = refreshed.opened.into_iter().collect();
        let others: Vec<TenantId> =
            self.registry.tenants().into_iter().filter(|tenant| !reports.contains_key(tenant)).collect();
        let reloads = others.iter().map(|tenant| self.reloader.reload(tenant));
        for (tenant, report) in others.iter().zip(futures::future::join_all(reloads).await) {
            reports.extend(report?.map(|report| (tenant.clone(), report)));
        }
        for (tenant, error) in refreshed.failed {
            reports.entry(tenant).or_default().failed.insert("tenant".into(), error);
        }
        Ok(reports)
    }

    async fn load(&self, home: &Home, progress: Progress) -> Result<Report, TenantsError> {
        let local = home.tenant == TenantId::local();
        let config = LoaderConfig {
            tenant: home.tenant.clone(),
            folders: if local { self.config.folders.clone() } else { vec![home.tools()] },
            built_in: Arc::clone(&self.config.built_in),
            grants: if local { self.config.grants.clone() } else { home.grants() },
            accepted: home.accepted(),
            pinned: if local { self.config.pinned } else { home.settings()?.pinned },
            own_folders: self.config.own_folders.clone(),
            limits: self.config.limits,
            baseline_first: self.config.baseline_first,
        };
        let cache = Cache::open(&self.config.homes.compiled(&home.tenant));
        let cache = cache
            .inspect_err(|error| tracing::warn!(error = telemetry::chain(error), "compiled components are not cached"));
        let loader = Arc::new(Loader::new(config, self.registry.clone(), cache.ok()));
        Ok(self.reloader.open(loader, progress).await?)
    }

    /// The builds of a tenant that wait to be accepted; none if the tenant is not open.
    pub async fn waiting(&self, tenant: &TenantId) -> Result<Vec<Waiting>, TenantsError> {
        match self.reloader.loader(tenant).await? {
            Some(loader) => Ok(loader.accepted().waiting()?),
            None => Ok(Vec::new()),
        }
    }

    /// Accepts a build that waits, and loads it.
    pub async fn accept(&self, tenant: &TenantId, component: &str, digest: &str) -> Result<Report, TenantsError> {
        let Some(loader) = self.reloader.loader(tenant).await? else {
            return Err(HomeError::Unknown(tenant.clone()).into());
        };
        loader.accepted().accept(component, digest)?;
        Ok(self.reloader.reload(tenant).await?.unwrap_or_default())
    }

    /// Takes a tenant out of the host for good: its tools, tokens, settings, secrets and data. With `export`, what it had (but no secret) is first copied
    /// to a folder that is made for it. How many entries of its data were copied.
    pub async fn remove(
        &self,
        tenant: &TenantId,
        export: Option<&Path>,
        store: &EmbeddedStore,
    ) -> Result<u64, TenantsError> {
        let _one_at_a_time = self.changing.lock().await;
        self.config.homes.find(tenant)?;
        if *tenant == TenantId::local() {
            return Err(HomeError::Local("removed").into());
        }
        self.close(tenant).await;
        self.registry.drain_tenant(tenant, DRAIN).await;
        self.registry.ledger().forget(tenant);
        removal::remove(&self.config.homes, tenant, export, store).await
    }

    /// Takes a tenant's tools away. Calls that run end by themselves.
    async fn close(&self, tenant: &TenantId) {
        self.registry.close(tenant);
        if let Err(stopping) = self.reloader.close(tenant).await {
            tracing::debug!(%stopping, "not watched any more anyway");
        }
        tracing::info!(%tenant, "closed");
    }
}
