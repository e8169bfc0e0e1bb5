//! The composition root: builds a host from its configuration, runs it, and stops it in order.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, AdminDoor},
    capability::{files::OwnFolders, http::Outbound},
    config::Config,
    events::{self, subscriptions::Subscriptions},
    mcp::{Endpoint, http::HttpDoor, stdio},
    memory::HostMemory,
    registry::Registry,
    reload::{
        Progress, Reloader, Report,
        loader::{BuiltIn, BuiltIns},
    },
    store::{
        Store,
        embedded::{EmbeddedStore, disk::FileSystem},
    },
    telemetry,
    tenant::{
        Principal, TenantId,
        home::Homes,
        tokens::{Authenticator, TokenFile},
    },
    tenants::{Tenants, TenantsConfig},
    wasm::{Engine, admission::Admission, cache::Cache, kept::Keeper},
};

include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

/// A host with its tools loaded, listening.
#[derive(Debug)]
pub struct Host {
    config: Config,
    endpoint: Endpoint,
    store: EmbeddedStore,
    tenants: Arc<Tenants>,
    http: Arc<HttpDoor>,
    address: SocketAddr,
    socket: PathBuf,
    closing: CancellationToken,
    stop: CancellationToken,
    serving: Vec<tokio::task::JoinHandle<()>>,
}

impl Host {
    /// Loads the tools and opens the doors. `progress` is told of each component that is loaded.
    pub async fn start(config: Config, progress: Progress) -> anyhow::Result<(Self, Report)> {
        let started = Instant::now();
        config.check()?;
        let _installed = telemetry::metrics();
        let data_dir = config.data_dir()?;
        std::fs::create_dir_all(&data_dir)
            .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
        // The port first: a second host on one port should fail before it does any work.
        let listener = if config.server.http { Some(listen(config.server.listen).await?) } else { None };
        let address = listener.as_ref().map_or(Ok(config.server.listen), TcpListener::local_addr)?;

        let engine = Engine::new(&config.engine)?;
        let homes = Homes::new(data_dir.clone());
        let cache = Cache::open(&data_dir.join("compiled").join("built-in"))
            .inspect_err(|error| tracing::warn!(error = telemetry::chain(error), "compiled components are not cached"))
            .ok();
        let built_in = if config.tools.builtin { BUILT_IN } else { &[] };
        let store = EmbeddedStore::new(data_dir.join("store"), config.store.clone(), Arc::new(FileSystem))
            .with_context(|| format!("cannot make the store's directory in {}", data_dir.display()))?;
        let tenants = store.tenants()?;
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let subscriptions = Arc::new(Subscriptions::load(&*shared, &tenants).await);
        let admission = Admission::new(&config.engine);
        let outbound = Outbound::new(&config.outbound, &homes, |name| std::env::var(name).ok())?;
        let registry = Registry::new(
            engine,
            admission,
            Arc::clone(&shared),
            Arc::clone(&subscriptions),
            Arc::new(outbound),
            Keeper::new(config.engine.max_kept),
            HostMemory::new(&config.memory),
        );
        let grants = config.grants()?;
        let own_folders = OwnFolders {
            data: data_dir.clone(),
            others: config.tools.folders.iter().chain([&grants]).cloned().collect(),
        };
        let tenants_config = TenantsConfig {
            homes: homes.clone(),
            folders: config.tools.folders.clone(),
            grants,
            own_folders,
            pinned: config.tools.pinned,
            baseline_first: config.tools.baseline_first,
            built_in: Arc::new(BuiltIns::new(built_in, cache)),
            limits: config.limits(),
            tenant_limits: config.tenant_limits(),
        };
        let open_tenants = Arc::new(Tenants::new(tenants_config, registry.clone(), Reloader::start()?));
        let mut refreshed = open_tenants.refresh(progress).await?;
        // The host's own user must be there; other tenants may wait until their files are in order.
        let local = TenantId::local();
        if let Some((_, error)) = refreshed.failed.iter().find(|(tenant, _)| *tenant == local) {
            anyhow::bail!("{error}");
        }
        let report = refreshed.opened.iter_mut().find(|(tenant, _)| *tenant == local);
        let report = report.map(|(_, report)| std::mem::take(report)).unwrap_or_default();

        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        let delivering =
            events::start(shared, Arc::new(registry.clone()), subscriptions, &tenants, closing.clone()).await;
        let endpoint = Endpoint::new(registry, config.server.name.clone(), config.server.page_size);
        let authenticator = Authenticator::new(TokenFile::new(homes.tokens()));
        let http = HttpDoor::new(
            config.server.clone(),
            config.sessions.clone(),
            endpoint.clone(),
            authenticator,
            address,
            stop.clone(),
        );
        let http = Arc::new(http);
        let socket = data_dir.join(admin::SOCKET);
        let admin = AdminDoor::new(admin::Shared {
            config: config.clone(),
            address,
            endpoint: endpoint.clone(),
            tenants: Arc::clone(&open_tenants),
            http: Arc::clone(&http),
            store: store.clone(),
        });
        let mut serving = vec![delivering, tokio::spawn(admin.serve(socket.clone(), stop.clone()))];
        if let Some(listener) = listener {
            let (http, closing) = (Arc::clone(&http), closing.clone());
            serving.push(tokio::spawn(async move { http.serve(listener, closing).await }));
        }
        tracing::info!(
            url = config.server.url(address),
            tools = endpoint.registry().catalog(&TenantId::local()).tools().len(),
            problems = report.failed.len(),
            data = %data_dir.display(),
            started_in_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "serving"
        );
        Ok((
            Self { config, endpoint, store, tenants: open_tenants, http, address, socket, closing, stop, serving },
            report,
        ))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its MCP endpoint; `stdio` if its HTTP door is closed.
    pub fn url(&self) -> String {
        self.config.server.url(self.address)
    }

    /// The socket on which its operator commands it.
    pub fn admin_socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Its tools.
    pub fn registry(&self) -> &Registry {
        self.endpoint.registry()
    }

    /// Its tenants.
    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// Looks again at the tools and grants of the host's own user.
    pub async fn reload(&self) -> anyhow::Result<Report> {
        let report = self.tenants.reloader().reload(&TenantId::local()).await?;
        Ok(report.unwrap_or_default())
    }

    /// Serves the client on standard input and output until it leaves.
    pub async fn serve_stdio(&self) -> std::io::Result<()> {
        let limits = stdio::LineLimits {
            max_bytes: self.config.server.max_body_bytes,
            max_depth: self.config.server.max_body_depth,
        };
        stdio::serve(
            &self.endpoint,
            Principal::local_user(),
            limits,
            tokio::io::stdin(),
            tokio::io::stdout(),
            self.stop.clone(),
        )
        .await
    }

    /// Stops in order: takes nothing new, lets running calls end, ends streams and sessions, closes connections.
    pub async fn stop(self) {
        self.http.not_ready();
        self.closing.cancel();
        if !self.registry().drain(self.config.server.drain()).await {
            tracing::warn!(
                calls = self.registry().calls(),
                "calls still ran when the host's patience was over; they are stopped"
            );
        }
        self.stop.cancel();
        for task in self.serving {
            if let Err(error) = task.await {
                tracing::error!(%error, "a door broke");
            }
        }
        self.store.close().await;
        tracing::info!("stopped");
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let advice = || format!("cannot listen on {address}; is another host running? choose another port with --listen");
    TcpListener::bind(address).await.with_context(advice)
}

#[cfg(test)]
mod tests {
    use super::BUILT_IN;
    use crate::grants::ComponentGrant;

    #[test]
    fn what_built_in_components_are_shipped_with_is_valid() {
        for built_in in BUILT_IN {
            let grant = toml::from_str::<ComponentGrant>(built_in.grant);
            assert!(grant.is_ok(), "{}: {:?}", built_in.name, grant.err());
        }
    }
}
