//! The engine, shared by all calls: its clients, the permits for containers, and what of this host's is there that should not be.
//!
//! Each container and each image that the host makes has the host's label. The host removes them when they end. What a killed host or a broken connection left behind
//! is removed before the next container begins.

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bollard::{
    Docker,
    errors::Error,
    query_parameters::{
        KillContainerOptions, ListContainersOptions, ListImagesOptions, RemoveContainerOptions, RemoveImageOptions,
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    config::ContainersConfig,
    life::{ContainerLife, LifeHandle, LifeSignals},
    plan::ContainerPlan,
    transport::client,
};
use crate::{
    files::write_durably,
    memory::Reservation,
    names::TenantId,
    permits::{TenantPermit, TenantPermits},
};

/// The label by which a host knows what it made.
const LABEL: &str = "mcpp.host";
/// The label of the tenant.
const TENANT_LABEL: &str = "mcpp.tenant";
/// The file of the host's own name in that label.
const NAME_FILE: &str = "containers-name";
/// How long an answer that is ready at once may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer may take to begin that has a bound of its own.
const LONG_PATIENCE: Duration = Duration::from_secs(100_000);
/// Most bytes of a short answer.
const MAX_ANSWER_BYTES: u64 = 4 << 20;
/// Most bytes that an engine says while it fetches or builds an image.
const MAX_STORY_BYTES: u64 = 8 << 20;
/// Bytes on the connection for one byte of output at most: each frame has a head of eight.
const FRAME_FACTOR: u64 = 9;
/// The pauses before each try to remove a container, in milliseconds.
const REMOVAL_PAUSES_MS: [u64; 5] = [0, 100, 500, 2_000, 5_000];

/// Why the engine did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineFailure {
    /// It says that it will not.
    #[error("the engine refuses: {0}")]
    Refused(String),
    /// It did not answer, or not in its words.
    #[error("the engine does not answer: {0}")]
    Away(String),
}

impl From<Error> for EngineFailure {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { message, .. } => Self::Refused(message),
            Error::DockerStreamError { error } => Self::Refused(error),
            Error::RequestTimeoutError => Self::Away("its time was over".to_owned()),
            other => Self::Away(crate::error::chain(&other)),
        }
    }
}

/// Whether the engine says that there is no such thing.
pub(super) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

/// The container engine of this machine. Clones share it.
#[derive(Clone)]
pub struct ContainerEngine(Arc<Shared>);

struct Shared {
    config: ContainersConfig,
    /// For what is answered at once.
    short: Docker,
    /// For what takes its time, and says meanwhile how far it is.
    story: Docker,
    /// For a container's output.
    output: Docker,
    permits: TenantPermits,
    /// What this host is called in its label.
    name: String,
    /// The containers and images that are in use.
    live: Mutex<BTreeSet<String>>,
    /// Whether nothing is left behind of what this host made.
    is_clean: tokio::sync::Mutex<bool>,
    lives: TaskTracker,
}

impl fmt::Debug for ContainerEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerEngine").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl ContainerEngine {
    /// The engine that the settings name, if they name one. Nobody asks it yet.
    ///
    /// # Errors
    /// If the host cannot keep its own name in its data directory.
    pub fn open(config: &ContainersConfig, data: &Path) -> io::Result<Option<Self>> {
        let Some(socket) = &config.socket else { return Ok(None) };
        let connect = |patience, bytes| client(socket, patience, bytes).map_err(io::Error::other);
        let output_bytes = u64::from(config.output_bytes).saturating_mul(FRAME_FACTOR).saturating_add(64 << 10);
        Ok(Some(Self(Arc::new(Shared {
            config: config.clone(),
            short: connect(PATIENCE, MAX_ANSWER_BYTES)?,
            story: connect(LONG_PATIENCE, MAX_STORY_BYTES)?,
            output: connect(PATIENCE, output_bytes)?,
            permits: TenantPermits::new(config.max_containers),
            name: own_name(&data.join(NAME_FILE))?,
            live: Mutex::default(),
            is_clean: tokio::sync::Mutex::new(false),
            lives: TaskTracker::new(),
        }))))
    }

    /// Whether several tenants share it.
    pub fn set_shared(&self, shared: bool) {
        self.0.permits.set_shared(shared);
    }

    /// Waits until no container is left, or until `patience` is over. What is left then is removed when the host starts again.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.0.lives.close();
        tokio::time::timeout(patience, self.0.lives.wait()).await.is_ok()
    }

    /// Containers that there are now.
    pub fn containers(&self) -> usize {
        self.0.lives.len()
    }

    pub(super) fn config(&self) -> &ContainersConfig {
        &self.0.config
    }

    pub(super) fn short(&self) -> &Docker {
        &self.0.short
    }

    pub(super) fn story(&self) -> &Docker {
        &self.0.story
    }

    pub(super) fn output(&self) -> &Docker {
        &self.0.output
    }

    /// A permit for one container, in the tenant's turn.
    pub(super) async fn permit(&self, tenant: &TenantId) -> TenantPermit {
        self.0.permits.take(tenant).await
    }

    /// The labels of what this host makes for somebody.
    pub(super) fn labels(&self, tenant: &TenantId, component: &str) -> HashMap<String, String> {
        HashMap::from([
            (LABEL.to_owned(), self.0.name.clone()),
            (TENANT_LABEL.to_owned(), tenant.to_string()),
            ("mcpp.component".to_owned(), component.to_string()),
        ])
    }

    /// Counts a container that ended, for its tenant.
    pub(super) fn count(&self, labels: &HashMap<String, String>, outcome: &'static str) {
        let tenant = labels.get(TENANT_LABEL).cloned().unwrap_or_default();
        metrics::counter!("mcpp_containers_total", "tenant" => tenant, "outcome" => outcome).increment(1);
    }

    /// Has a container live, until `over` or until its handle is gone.
    pub(super) fn begin(
        &self,
        plan: ContainerPlan,
        labels: HashMap<String, String>,
        kept: (TenantPermit, Reservation),
        over: CancellationToken,
    ) -> io::Result<LifeHandle> {
        let mut bytes = [0; 12];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (signals, handle) = LifeSignals::new(over);
        let life = ContainerLife { engine: self.clone(), plan, labels, name: format!("mcpp-{hex}") };
        self.live().insert(life.name.clone());
        self.0.lives.spawn(async move {
            let _until_it_is_gone = kept;
            life.live(signals).await;
        });
        Ok(handle)
    }

    fn live(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a container, and the image that was built for it. Says so where it stays.
    pub(super) async fn remove(&self, name: &str, has_image: bool) {
        let mut last = None;
        for pause_ms in REMOVAL_PAUSES_MS {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            match self.try_remove(name, has_image).await {
                Ok(()) => return self.forget(name),
                Err(error) => last = Some(error),
            }
        }
        let error = last.map(|error| crate::error::chain(&error)).unwrap_or_default();
        tracing::error!(
            container = name,
            error,
            "a container could not be removed; it is tried again before the next one begins"
        );
        // First unclean, then not in use: the next container removes it before it begins.
        *self.0.is_clean.lock().await = false;
        self.forget(name);
    }

    /// A name is not in use any more.
    pub(super) fn forget(&self, name: &str) {
        self.live().remove(name);
    }

    async fn try_remove(&self, name: &str, has_image: bool) -> Result<(), Error> {
        // Killed first: some engines let a container that they remove end by itself for a while.
        let killed = self.0.short.kill_container(name, None::<KillContainerOptions>);
        if let Err(error) = bounded(killed).await
            && !matches!(error, Error::DockerResponseServerError { .. })
        {
            return Err(error);
        }
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        match bounded(self.0.short.remove_container(name, Some(options))).await {
            Err(error) if !is_missing(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if !has_image {
            return Ok(());
        }
        let options = RemoveImageOptions { force: true, ..RemoveImageOptions::default() };
        match bounded(self.0.short.remove_image(name, Some(options), None)).await {
            Err(error) if !is_missing(&error) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Removes what this host left behind, unless that is done.
    pub(super) async fn clean(&self) -> Result<(), EngineFailure> {
        let mut is_clean = self.0.is_clean.lock().await;
        if *is_clean {
            return Ok(());
        }
        let filters = Some(HashMap::from([("label".to_owned(), vec![format!("{LABEL}={}", self.0.name)])]));
        let options = ListContainersOptions { all: true, filters: filters.clone(), ..ListContainersOptions::default() };
        let left = bounded(self.0.short.list_containers(Some(options))).await?;
        let names = left.into_iter().flat_map(|container| container.names.unwrap_or_default());
        for name in names.map(|name| name.trim_start_matches('/').to_owned()) {
            self.remove_left(&name, false).await?;
        }
        let options = ListImagesOptions { filters, ..ListImagesOptions::default() };
        let left = bounded(self.0.short.list_images(Some(options))).await?;
        for tag in left.into_iter().flat_map(|image| image.repo_tags) {
            // Podman writes a name of this machine's with `localhost/` before it.
            let name = tag.rsplit('/').next().and_then(|tag| tag.split(':').next()).unwrap_or_default();
            self.remove_left(name, true).await?;
        }
        *is_clean = true;
        Ok(())
    }

    /// Removes one of them, if it is by its name one that this host makes and does not use.
    async fn remove_left(&self, name: &str, has_image: bool) -> Result<(), EngineFailure> {
        if !name.starts_with("mcpp-") || self.live().contains(name) {
            return Ok(());
        }
        tracing::warn!(container = name, "removing a container that this host left behind");
        Ok(self.try_remove(name, has_image).await?)
    }
}

/// An answer, all of it in time.
pub(super) async fn bounded<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(Error::RequestTimeoutError))
}

/// What this host calls itself towards the engine: hosts may share one, and each removes only what is its own.
fn own_name(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(name) if name.len() == 32 && name.chars().all(|c| c.is_ascii_hexdigit()) => Ok(name),
        Ok(_) => Err(io::Error::other(format!("{} is not 32 hexadecimal digits; remove it", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            write_durably(path, name.as_bytes())?;
            Ok(name)
        }
        Err(error) => Err(error),
    }
}
