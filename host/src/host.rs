//! The composition root: builds a host from its configuration, runs it, and stops it in order.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, AdminDoor},
    capability::http::Outbound,
    config::Config,
    events::{self, subscriptions::Subscriptions},
    mcp::{Endpoint, http::HttpDoor, stdio},
    registry::Registry,
    reload::{
        Reloader, Report,
        loader::{BuiltIn, Loader, LoaderConfig},
    },
    store::{
        Store,
        embedded::{EmbeddedStore, disk::FileSystem},
    },
    telemetry,
    tenant::{Principal, TenantId},
    wasm::{Engine, admission::Admission, cache::Cache},
};

include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

/// A host with its tools loaded, listening.
#[derive(Debug)]
pub struct Host {
    config: Config,
    endpoint: Endpoint,
    store: EmbeddedStore,
    reloader: Reloader,
    http: Arc<HttpDoor>,
    address: SocketAddr,
    socket: PathBuf,
    closing: CancellationToken,
    stop: CancellationToken,
    serving: Vec<tokio::task::JoinHandle<()>>,
}

impl Host {
    /// Loads the tools and opens the doors. `progress` is told how many components are loaded, of how many.
    pub async fn start(config: Config, progress: impl Fn(usize, usize)) -> anyhow::Result<(Self, Report)> {
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
        let cache = Cache::open(&data_dir.join("compiled").join(TenantId::local().as_str()), engine.wasmtime())
            .inspect_err(|error| tracing::warn!(error = telemetry::chain(error), "compiled components are not cached"))
            .ok();
        let store = EmbeddedStore::new(data_dir.join("store"), config.store.clone(), Arc::new(FileSystem))
            .with_context(|| format!("cannot make the store's directory in {}", data_dir.display()))?;
        let tenants = store.tenants()?;
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let subscriptions = Arc::new(Subscriptions::load(&*shared, &tenants).await);
        let admission = Admission::new(&config.engine);
        let outbound = Outbound::new(&config.outbound, &data_dir, |name| std::env::var(name).ok())?;
        let registry = Registry::new(
            engine,
            admission,
            Arc::clone(&shared),
            Arc::clone(&subscriptions),
            Arc::new(outbound),
            [TenantId::local()],
        );
        let loader = LoaderConfig {
            tenant: TenantId::local(),
            folders: config.tools.folders.clone(),
            built_in: if config.tools.builtin { BUILT_IN } else { &[] },
            grants_file: config.grants_file()?,
            limits: config.limits(),
        };
        let loader = Arc::new(Loader::new(loader, registry.clone(), cache));
        loader.reload_grants().map_err(anyhow::Error::msg)?;
        let (reloader, report) = Reloader::start(loader, progress).await?;

        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        let delivering =
            events::start(shared, Arc::new(registry.clone()), subscriptions, &tenants, closing.clone()).await;
        let endpoint = Endpoint::new(registry, config.server.name.clone(), config.server.page_size);
        let http =
            HttpDoor::new(config.server.clone(), config.sessions.clone(), endpoint.clone(), address, stop.clone());
        let http = Arc::new(http);
        let socket = data_dir.join(admin::SOCKET);
        let admin = AdminDoor::new(admin::Shared {
            config: config.clone(),
            address,
            endpoint: endpoint.clone(),
            reloader: reloader.clone(),
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
        Ok((Self { config, endpoint, store, reloader, http, address, socket, closing, stop, serving }, report))
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

    /// Looks at the tools again when asked.
    pub fn reloader(&self) -> &Reloader {
        &self.reloader
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
