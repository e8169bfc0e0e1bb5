//! The composition root: builds a host from its configuration, runs it, and stops it in order.
//!
//! Its doors open before any component is loaded: `/live`, the operator and clients get answers whatever hangs.

mod directory;
mod doors;
mod listen;
mod network;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use self::{
    directory::{DirectoryLock, LockedDisk},
    doors::DoorTasks,
    listen::listen,
    network::{MeshParts, Network},
};

use crate::{
    admin::{self, AdminDoor, peers::OperatedMesh},
    auth::{Authenticator, known::KnownTokens, tokens::TokenFile},
    capability::{container::ContainerEngine, files::OwnFolders, http::Outbound},
    components::fetch::Fetcher,
    config::Config,
    control::admission::Admission,
    engine::{
        Engine,
        cache::Cache,
        compile::{Builds, Compiler},
    },
    events::{self, subscriptions::Subscriptions},
    files::private_folder,
    guest::kept::Keeper,
    mcp::{Endpoint, http::HttpDoor, mesh::remote::Remotes, stdio},
    memory::HostMemory,
    mesh::Mesh,
    mounts::Mounts,
    names::TenantId,
    peers::{file::PeerFile, known::KnownPeers},
    registry::Registry,
    reload::{Progress, Reloader, Report, migration::MigrationLimits, shipped, source::BuiltIns},
    store::{
        Store,
        embedded::{EmbeddedStore, disk::FileSystem},
    },
    telemetry,
    tenant::{Principal, home::Homes},
    tenants::{Tenants, TenantsConfig},
};

/// How long a host that has what its own user needs says that it still loads: a tenant that loads for longer does not keep it from being ready.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a host that stops waits for the answers of calls that have ended.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// How long a host that stops waits for the engine to remove its containers.
const CONTAINER_PATIENCE: Duration = Duration::from_secs(10);
/// How often a host that waits for its data directory asks for it, and looks at its files meanwhile, as nobody can tell it to.
const HOLD_AGAIN: Duration = Duration::from_secs(1);

/// A host that listens. Its tools are loaded behind its doors.
#[derive(Debug)]
pub struct Host {
    config: Config,
    endpoint: Endpoint,
    lock: Arc<DirectoryLock>,
    store: Arc<dyn Store>,
    tenants: Arc<Tenants>,
    http: Arc<HttpDoor>,
    address: SocketAddr,
    socket: PathBuf,
    network: Network,
    closing: CancellationToken,
    stop: CancellationToken,
    doors: DoorTasks,
    loaded: watch::Receiver<Option<Report>>,
}

impl Host {
    /// Opens the doors, and begins to load the tools. `progress` is told of each component that is loaded.
    pub async fn start(config: Config, progress: Progress) -> anyhow::Result<Self> {
        let started = Instant::now();
        config.check()?;
        config.check_files()?;
        telemetry::start_metrics();
        let data_dir = config.data_dir()?;
        private_folder(&data_dir).with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
        let homes = Homes::new(data_dir.clone());
        // On a volume of another owner's the rights are that owner's matter; the files in it are private all the same.
        if let Err(error) = homes.make_private() {
            tracing::warn!(data = %data_dir.display(), %error, "others than this user may look into the data directory");
        }
        let lock = DirectoryLock::open(&data_dir)
            .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
        // The port first: a second host on one port should fail before it does any work.
        let listener = if config.server.http { Some(listen(config.server.listen)?) } else { None };
        let address = listener.as_ref().map_or(Ok(config.server.listen), TcpListener::local_addr)?;
        let network = Network::new(config.mesh.clone(), &config.mesh_door, &data_dir);
        let peers = KnownPeers::watching(PeerFile::new(&homes))?;
        let joined = network.join(&lock, &peers).await?;

        let disk = LockedDisk { lock: Arc::clone(&lock), disk: FileSystem };
        let store = EmbeddedStore::new(data_dir.join("store"), config.store.clone(), Arc::new(disk))
            .with_context(|| format!("cannot make the store's directory in {}", data_dir.display()))?;
        let store: Arc<dyn Store> = Arc::new(store);
        let subscriptions = Arc::new(Subscriptions::default());
        let outbound = Outbound::new(&config.outbound, &homes, |name| std::env::var(name).ok())?;
        let registry = Registry::new(
            Engine::new(&config.engine)?,
            Admission::new(&config.engine),
            Arc::clone(&store),
            Arc::clone(&subscriptions),
            Arc::new(outbound),
            Keeper::new(config.engine.max_kept),
            HostMemory::new(&config.memory),
        );
        let containers = ContainerEngine::open(&config.containers, &data_dir);
        if let Some(engine) = containers.context("cannot keep this host's name for the container engine")? {
            registry.set_containers(engine);
        }
        registry.open_hooks(&config.server.hooks, &data_dir).context("cannot keep the key of hooks")?;
        let patience = Duration::from_millis(config.tools.reload_wait_ms);
        let tenants_config = tenants_config(&config, &homes)?;
        let tenants = Tenants::new(tenants_config, registry.clone(), Reloader::new(patience)?, Arc::clone(&store));
        let tenants = Arc::new(tenants);

        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        let delivering = events::start(
            Arc::clone(&store),
            Arc::new(registry.clone()),
            subscriptions,
            &[],
            (closing.clone(), stop.clone()),
        )
        .await;
        let endpoint = Endpoint::new(registry, config.server.name.clone(), config.server.page_size);
        let tokens = KnownTokens::watching(TokenFile::new(homes.tokens()))?;
        let dial = Arc::new(network.late());
        let remotes = Remotes::new(dial, config.mesh_door.clone(), Arc::clone(&peers), endpoint.registry().clone());
        let fetcher = Fetcher::new(Arc::new(network.late()), Arc::clone(&peers), homes.clone());
        let guests = network.for_guests(&endpoint, &peers, &remotes);
        let (registry, known) = (endpoint.registry().clone(), Arc::clone(&peers));
        let mounts = Mounts::new(registry, remotes.clone(), known, homes.clone(), config.limits());
        let http = Arc::new(HttpDoor::new(
            config.server.clone(),
            config.sessions.clone(),
            endpoint.clone(),
            Authenticator::new(Arc::clone(&tokens)),
            address,
            stop.clone(),
        ));
        let socket = data_dir.join(admin::SOCKET);
        let admin = AdminDoor::new(admin::Operated {
            config: config.clone(),
            address,
            endpoint: endpoint.clone(),
            tenants: Arc::clone(&tenants),
            http: Arc::clone(&http),
            store: Arc::clone(&store),
            mesh: OperatedMesh { mesh: network.late(), peers: Arc::clone(&peers), remotes },
            mounts: mounts.clone(),
            fetcher,
        });
        let mut doors = DoorTasks::default();
        let (mesh, held, stopped) = (network.clone(), Arc::clone(&lock), stop.clone());
        let parts = MeshParts {
            door: config.mesh_door.clone(),
            endpoint: endpoint.clone(),
            peers,
            tokens,
            guests,
            closing: closing.clone(),
        };
        doors.open("mesh", async move { mesh.serve(joined, held, parts, stopped).await }, stop.clone());
        let (named, stopped) = (config.mesh.mounts.clone(), stop.clone());
        doors.open("mounts", async move { mounts.serve(named, stopped).await }, stop.clone());
        doors.open("events", async move { drop(delivering.await) }, closing.clone());
        if let Some(listener) = listener {
            let (http, closed) = (Arc::clone(&http), closing.clone());
            doors.open("http", async move { http.serve(listener, closed).await }, closing.clone());
        }
        let hold = Box::pin(hold(Arc::clone(&lock), Arc::clone(&tenants), endpoint.registry().clone(), stop.clone()));
        let (operator, stopped) = (socket.clone(), stop.clone());
        let serve_operator = async move {
            if hold.await {
                admin.serve(operator, stopped.clone()).await;
            }
            // Without its socket a host still serves.
            stopped.cancelled().await;
        };
        doors.open("operator", serve_operator, stop.clone());
        let (loaded, told) = watch::channel(None);
        let url = config.server.url(address);
        let opening = Box::pin(open_tenants(Arc::clone(&tenants), endpoint.registry().clone(), progress, loaded));
        let data = data_dir.display().to_string();
        let local = endpoint.registry().clone();
        let stopped = stop.clone();
        doors.open(
            "loading",
            async move {
                tokio::select! {
                    problems = opening => tracing::info!(
                        url,
                        tools = local.catalog(&TenantId::local()).tools().len(),
                        problems,
                        data,
                        started_in_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                        "serving"
                    ),
                    () = stopped.cancelled() => return,
                }
                stopped.cancelled().await;
            },
            stop.clone(),
        );
        Ok(Self {
            config,
            endpoint,
            lock,
            store,
            tenants,
            http,
            address,
            socket,
            network,
            closing,
            stop,
            doors,
            loaded: told,
        })
    }

    /// Waits until the host has looked at the tools of all tenants. Gives the report on the tools of the host's own user.
    pub async fn loaded(&self) -> Report {
        let mut loaded = self.loaded.clone();
        let report = loaded.wait_for(Option::is_some).await;
        report.ok().and_then(|report| report.clone()).unwrap_or_default()
    }

    /// Resolves when one of its doors broke.
    pub async fn broken(&self) {
        self.doors.broken().await;
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

    /// What its doors end in.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its tools.
    pub fn registry(&self) -> &Registry {
        self.endpoint.registry()
    }

    /// Its mesh, if it is part of one.
    pub fn mesh(&self) -> Option<&Mesh> {
        self.network.mesh()
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
        self.tenants.stop();
        self.closing.cancel();
        if self.registry().drain(self.config.server.drain()).await {
            // A call that has ended still has to be answered.
            self.http.answered(ANSWER_PATIENCE).await;
        } else {
            tracing::warn!(
                calls = self.registry().calls(),
                "calls still ran when the host's patience was over; they are stopped"
            );
        }
        self.stop.cancel();
        if let Some(engine) = self.registry().containers()
            && !engine.drain(CONTAINER_PATIENCE).await
        {
            tracing::warn!(
                "the container engine did not remove all containers; they are removed when this host needs it again"
            );
        }
        self.doors.ended().await;
        self.store.close().await;
        self.lock.release();
        tracing::info!("stopped");
    }
}

/// The settings that all tenants share.
fn tenants_config(config: &Config, homes: &Homes) -> anyhow::Result<TenantsConfig> {
    let compiler = Compiler::new(&config.compile);
    let cache = Cache::open(&homes.compiled_built_in(), compiler.cache_bytes())
        .inspect_err(|error| tracing::warn!(error = crate::error::chain(error), "compiled components are not cached"))
        .ok();
    let built_in = if config.tools.builtin { shipped::COMPONENTS } else { &[] };
    let grants = config.grants()?;
    let own_folders = OwnFolders {
        data: homes.data().to_owned(),
        others: config.tools.folders.iter().chain([&grants]).cloned().collect(),
    };
    Ok(TenantsConfig {
        homes: homes.clone(),
        folders: config.tools.folders.clone(),
        grants,
        own_folders,
        pinned: config.tools.pinned,
        baseline_first: config.tools.baseline_first,
        built_in: Arc::new(BuiltIns::new(built_in, Builds::of_host(compiler.clone(), cache))),
        compiler,
        limits: config.limits(),
        tenant_limits: config.tenant_limits(),
        migration: MigrationLimits {
            steps: config.tools.migration_steps,
            time: Duration::from_millis(config.tools.migration_ms),
        },
        patience: Duration::from_millis(config.tools.reload_wait_ms),
    })
}

/// Opens all tenants, each beside the others, and tells when their tools were looked at. How many problems the host's own user has.
async fn open_tenants(
    tenants: Arc<Tenants>,
    registry: Registry,
    progress: Progress,
    loaded: watch::Sender<Option<Report>>,
) -> usize {
    // Beside the loads, which come one after another, so that all processors compile.
    tokio::spawn(tenants.compile_built_ins());
    let opening = match tenants.bring_in_line(progress) {
        Ok((_, opening)) => opening,
        Err(error) => {
            tracing::error!(
                error = crate::error::chain(&error),
                "the tenants are not known; `mcpp reload` looks again"
            );
            Vec::new()
        }
    };
    let (mut local, mut others) = (None, Vec::new());
    for (tenant, opened) in opening {
        if tenant == TenantId::local() { local = Some(opened) } else { others.push(opened) }
    }
    let report = match local {
        Some(local) => local.await.unwrap_or_default(),
        None => Report::default(),
    };
    let problems = report.failed.len();
    let all = futures::future::join_all(others);
    let mut all = std::pin::pin!(all);
    let _or_not = tokio::time::timeout(READY_PATIENCE, &mut all).await;
    registry.set_ready();
    loaded.send_replace(Some(report));
    problems
}

/// Waits until this host has its data directory, and meanwhile tells clients that it has not and looks at its files, as no operator's command reaches it. Whether it has it: not if
/// the host stops.
async fn hold(lock: Arc<DirectoryLock>, tenants: Arc<Tenants>, registry: Registry, stop: CancellationToken) -> bool {
    if lock.is_held() {
        return true;
    }
    let notice = lock.notice();
    tracing::warn!("{notice}");
    registry.set_notice(Some(notice));
    loop {
        tokio::select! {
            () = tokio::time::sleep(HOLD_AGAIN) => {}
            () = stop.cancelled() => return false,
        }
        let held = lock.try_hold();
        let done = match held {
            Ok(true) => {
                registry.set_notice(None);
                tracing::info!("this host has its data directory now");
                tenants.recover().await
            }
            Ok(false) => {
                registry.set_notice(Some(lock.notice()));
                tenants.reload_all().await
            }
            Err(error) => {
                tracing::warn!(%error, "cannot ask for the data directory");
                continue;
            }
        };
        if let Err(error) = done {
            tracing::warn!(error = crate::error::chain(&error), "not reloaded");
        }
        if lock.is_held() {
            return true;
        }
    }
}
