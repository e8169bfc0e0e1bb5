//! The tenants of a running host: opened, suspended, changed and removed while it serves, as their files say.

mod look;
pub mod removal;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::tokens::TokensError,
    capability::files::OwnFolders,
    engine::{
        cache::Cache,
        compile::{Builds, Compiler},
    },
    files::private_folder,
    limits::{Limits, TenantLimits},
    names::TenantId,
    peers::file::PeersError,
    registry::{Registry, pins::Pins},
    reload::{
        Progress, Reloader, Report, Stopping,
        accept::{AcceptError, Waiting},
        folders::ToolsFolders,
        loader::{Loader, LoaderConfig},
        migration::MigrationLimits,
        source::BuiltIns,
    },
    store::{Store, StoreError},
    tenant::{
        Incarnation,
        home::{Home, HomeError, Homes, TenantSettings},
    },
};

/// How long calls of a tenant that is removed may go on.
const DRAIN: Duration = Duration::from_secs(5);

/// The settings that all tenants share.
#[derive(Debug)]
pub struct TenantsConfig {
    /// Where the tenants' files are.
    pub homes: Homes,
    /// The tools folders of `local`.
    pub folders: Vec<PathBuf>,
    /// Where the grants of `local` are.
    pub grants: PathBuf,
    /// The host's own folders, which no grant gives to a component.
    pub own_folders: OwnFolders,
    /// Whether the tools folders of `local` are pinned.
    pub pinned: bool,
    /// Whether what is new in a folder first runs with the code of a fast compiler.
    pub baseline_first: bool,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// Components that every tenant has.
    pub built_in: Arc<BuiltIns>,
    /// The limits of a call unless a grant says otherwise.
    pub limits: Limits,
    /// The limits of a tenant unless its settings say otherwise.
    pub tenant_limits: TenantLimits,
    /// How long a migration of data may take.
    pub migration: MigrationLimits,
    /// How long an operator's command waits for what is loaded.
    pub patience: Duration,
}

/// The tenants of a running host.
#[derive(Debug)]
pub struct Tenants {
    config: TenantsConfig,
    registry: Registry,
    reloader: Reloader,
    store: Arc<dyn Store>,
    /// Those that are open, are being opened, or are being removed.
    open: Mutex<BTreeMap<TenantId, OpenTenant>>,
}

/// One that is open.
#[derive(Debug)]
struct OpenTenant {
    /// Fires when it is closed.
    closing: CancellationToken,
    incarnation: Incarnation,
    /// Whether it is being removed.
    removing: bool,
}

/// A tenant that is being opened, and the report that it will give.
pub type OpeningTenant = (TenantId, oneshot::Receiver<Report>);

/// Why a tenant is not open.
#[derive(Debug, thiserror::Error)]
pub enum TenantsError {
    /// Its files are not usable.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Somebody else is removing it.
    #[error("the tenant `{0}` is being removed already")]
    Removing(TenantId),
    /// The host is stopping.
    #[error(transparent)]
    Stopping(#[from] Stopping),
    /// Its data cannot be copied or removed.
    #[error("the tenant's data")]
    Store(#[from] StoreError),
    /// The host cannot read what the operator accepted, or the operator has not accepted a component.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// Its tokens cannot be revoked.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// Its peers' grants cannot be revoked.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// The host cannot copy or remove the tenant's files.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// The outcome of a refresh, by tenant.
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
    pub fn new(config: TenantsConfig, registry: Registry, reloader: Reloader, store: Arc<dyn Store>) -> Self {
        Self { config, registry, reloader, store, open: Mutex::default() }
    }

    /// Compiles the built-in components ahead of the tenants that load them.
    pub fn compile_built_ins(&self) -> impl Future<Output = ()> + use<> {
        Arc::clone(&self.config.built_in).compile_all(self.registry.engine().clone(), self.config.limits)
    }

    /// Where their catalogs are.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where their files are.
    pub fn homes(&self) -> &Homes {
        &self.config.homes
    }

    /// Those that have not looked at everything since they were opened.
    pub fn opening(&self) -> Vec<TenantId> {
        let opening = |(tenant, open): (&TenantId, &OpenTenant)| {
            (!open.removing && !self.registry.is_opened(tenant)).then(|| tenant.clone())
        };
        self.opens().iter().filter_map(opening).collect()
    }

    /// The tasks that watch their tools.
    pub fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    fn opens(&self) -> MutexGuard<'_, BTreeMap<TenantId, OpenTenant>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the host in line with the tenants' files: suspends and closes at once, and opens the others, each beside the others. Waits for the tenants that it opened until
    /// they have loaded their tools, or for a while.
    pub async fn refresh(&self, progress: Progress) -> Result<Refreshed, HomeError> {
        let (mut done, opening) = self.bring_in_line(progress)?;
        let until = Instant::now() + self.config.patience;
        for (tenant, mut opened) in opening {
            let loading = || Report { loading: ["(everything)".to_owned()].into(), ..Report::default() };
            match tokio::time::timeout_at(until, &mut opened).await {
                Ok(Ok(report)) => done.opened.push((tenant, report)),
                // It was closed meanwhile.
                Ok(Err(_)) => done.closed.push(tenant),
                Err(_) => done.opened.push((tenant, loading())),
            }
        }
        Ok(done)
    }

    /// Opens a tenant in the background. Gives the tenant's report; an error if the tenant is closed meanwhile.
    fn begin(
        &self,
        home: Home,
        settings: &TenantSettings,
        closing: CancellationToken,
        progress: Progress,
    ) -> oneshot::Receiver<Report> {
        let (report, opened) = oneshot::channel();
        let local = home.tenant == TenantId::local();
        let fetched = home.fetched();
        let config = LoaderConfig {
            tenant: home.tenant.clone(),
            folders: match local {
                true => ToolsFolders::trusted(self.config.folders.clone()).with_fetched(fetched.clone()),
                false => ToolsFolders::confined(home.tools(), home.path.clone()).with_fetched(fetched.clone()),
            },
            built_in: Arc::clone(&self.config.built_in),
            grants: if local { self.config.grants.clone() } else { home.grants() },
            accepted: home.accepted(),
            pinned: if local { self.config.pinned } else { settings.pinned },
            own_folders: self.config.own_folders.clone(),
            limits: self.config.limits,
            baseline_first: self.config.baseline_first,
            migration: self.config.migration,
        };
        let (registry, reloader, store) = (self.registry.clone(), self.reloader.clone(), self.store.clone());
        let (compiled, compiler) = (self.config.homes.compiled(&home.tenant), self.config.compiler.clone());
        let stopped = closing.clone();
        let open = async move {
            read_data(&*store, &registry, &home.tenant).await;
            // It is watched from the beginning: what comes later waits there to be accepted.
            let made = tokio::task::spawn_blocking(move || private_folder(&fetched)).await;
            if let Ok(Err(error)) = made {
                tracing::warn!(tenant = %home.tenant, %error, "the folder for components of peers cannot be made");
            }
            let pinned = home.pinned();
            let pins = tokio::task::spawn_blocking(move || Pins::open(pinned)).await;
            match pins {
                Ok(Ok(pins)) => registry.set_pins(&home.tenant, Arc::new(pins)),
                Ok(Err(error)) => {
                    tracing::error!(tenant = %home.tenant, %error, "the pinned builds cannot be read; nothing can be pinned");
                }
                Err(error) => tracing::error!(tenant = %home.tenant, %error, "the pinned builds were not read"),
            }
            let cache_bytes = compiler.cache_bytes();
            let cache = tokio::task::spawn_blocking(move || Cache::open(&compiled, cache_bytes)).await;
            let cache = cache.ok().and_then(|cache| {
                cache
                    .inspect_err(|error| {
                        tracing::warn!(error = crate::error::chain(error), "compiled components are not cached");
                    })
                    .ok()
            });
            let builds = Builds::of_tenant(compiler, cache);
            let loader = Arc::new(Loader::new(config, registry, builds, closing));
            if let Ok(done) = reloader.open(loader, progress).await {
                let _asker_may_be_gone = report.send(done);
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = open => {}
            }
        });
        opened
    }

    /// Reads every open tenant's data, and loads again what could not be without it.
    pub async fn recover(&self) -> Result<BTreeMap<TenantId, Report>, TenantsError> {
        let open: Vec<TenantId> = self.opens().keys().cloned().collect();
        for tenant in open {
            read_data(&*self.store, &self.registry, &tenant).await;
        }
        self.reload_all().await
    }

    /// Loads and watches nothing any more.
    pub fn stop(&self) {
        self.opens().values().for_each(|open| open.closing.cancel());
    }

    /// The builds of a tenant that wait to be accepted; none if the tenant is not open.
    pub fn waiting(&self, tenant: &TenantId) -> Result<Vec<Waiting>, TenantsError> {
        match self.reloader.loader(tenant) {
            Some(loader) => Ok(loader.accepted().waiting()?),
            None => Ok(Vec::new()),
        }
    }

    /// Accepts a build that waits, and loads it.
    pub async fn accept(&self, tenant: &TenantId, component: &str, digest: &str) -> Result<Report, TenantsError> {
        let Some(loader) = self.reloader.loader(tenant) else {
            return Err(HomeError::Unknown(tenant.clone()).into());
        };
        loader.accepted().accept(component, digest)?;
        Ok(self.reloader.reload(tenant).await?.unwrap_or_default())
    }

    /// Takes a tenant out of the host for good: its tools, tokens, settings, secrets and data. With `export`, what it had (but no secret) is first copied
    /// to a folder that is made for it. How many entries of its data were copied. Nothing of it runs any more when another of its name can be made.
    pub async fn remove(&self, tenant: &TenantId, export: Option<&Path>) -> Result<u64, TenantsError> {
        self.config.homes.find(tenant)?;
        if *tenant == TenantId::local() {
            return Err(HomeError::Local("removed").into());
        }
        let gone = {
            // While it is removed nobody opens it again.
            let mut opens = self.opens();
            if opens.get(tenant).is_some_and(|open| open.removing) {
                return Err(TenantsError::Removing(tenant.clone()));
            }
            let (closing, incarnation) = (CancellationToken::new(), Incarnation::default());
            let removing = OpenTenant { closing, incarnation, removing: true };
            let gone = self.registry.gone(tenant);
            if let Some(open) = opens.insert(tenant.clone(), removing) {
                self.close(tenant, &open);
            }
            gone
        };
        self.registry.drain_tenant(tenant, DRAIN).await;
        if let Some(gone) = gone {
            self.registry.stop_tenant(tenant, &gone, DRAIN).await;
        }
        self.registry.ledger().forget(tenant);
        self.registry.subscriptions().forget(tenant);
        let removed = removal::remove(&self.config.homes, tenant, export, &*self.store).await;
        self.opens().remove(tenant);
        // One of the same name may have been made in the last moment, or this one is still there.
        let _its_opening_is_reported_there = self.bring_in_line(Arc::new(|| {}))?;
        removed
    }

    /// Takes a tenant's tools away. Calls that run end by themselves, loads at once.
    fn close(&self, tenant: &TenantId, open: &OpenTenant) {
        open.closing.cancel();
        self.registry.close(tenant);
        self.registry.subscriptions().forget(tenant);
        self.reloader.close(tenant);
        tracing::info!(%tenant, "closed");
    }
}

/// Reads a tenant's subscriptions, and its deliveries that wait. A tenant whose data cannot be read is served without.
async fn read_data(store: &dyn Store, registry: &Registry, tenant: &TenantId) {
    let known = store.tenants().await.is_ok_and(|tenants| tenants.contains(tenant));
    if !known {
        return;
    }
    let read = async {
        registry.subscriptions().read(store, tenant).await?;
        for space in store.spaces(tenant).await? {
            store.touched().add(space);
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = read.await {
        tracing::error!(%tenant, error = crate::error::chain(&error), "the tenant's data cannot be read");
    }
}
