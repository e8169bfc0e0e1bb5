//! From a source of bytes to a live revision, or to a problem that says why not. Compiling blocks a thread of its own, never a door or a guest.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;

use tokio::{
    sync::{OnceCell, Semaphore},
    task::JoinSet,
};

use super::{
    Report,
    accept::{Accepted, Face},
    migration,
};
use crate::{
    call::ComponentName,
    capability::{self, Refused, STORE, files::OwnFolders},
    grants::{ComponentGrant, Grants, ledger::Witness},
    registry::{
        Registry,
        catalog::{LoadTimes, Problem, Revision},
    },
    store::Space,
    telemetry,
    tenant::TenantId,
    wasm::{
        Engine,
        cache::Cache,
        component::{self, Compiled, LoadError, MAX_COMPONENT_BYTES, Origin},
        features::{Code, Fuel},
        limits::Limits,
    },
};

/// How often a file that looks cut short is read again before that is believed.
const PARTIAL_RETRIES: u32 = 3;
/// How long to wait before reading it again.
const PARTIAL_WAIT: Duration = Duration::from_millis(150);

/// A component built into this program.
#[derive(Debug, Clone, Copy)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// Its bytes.
    pub wasm: &'static [u8],
    /// What it may do unless the operator's grants name it: a grant without its version.
    pub grant: &'static str,
}

/// Where to load a component from.
#[derive(Debug, Clone)]
pub enum Source {
    /// This program.
    BuiltIn(BuiltIn),
    /// A file, which may be gone.
    File(PathBuf),
}

impl Source {
    /// The component's name, as far as the source tells.
    pub fn component(&self) -> String {
        match self {
            Self::BuiltIn(built_in) => built_in.name.to_owned(),
            Self::File(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        }
    }

    fn origin(&self) -> Origin {
        match self {
            Self::BuiltIn(_) => Origin::BuiltIn,
            Self::File(path) => Origin::File(path.clone()),
        }
    }
}

/// What a load came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The build is live; how long that took, step by step.
    Loaded(LoadTimes),
    /// It already was.
    Unchanged,
    /// The file is gone, and the component with it.
    Removed,
    /// It is not live; why.
    Failed(String),
}

/// The components built into this program, each compiled once for all tenants: what everybody has tells nobody anything.
#[derive(Debug)]
pub struct BuiltIns {
    list: &'static [BuiltIn],
    cache: Option<Arc<Cache>>,
    compiled: BTreeMap<(&'static str, Fuel), OnceCell<Compiled>>,
}

impl BuiltIns {
    /// Nothing is compiled yet.
    pub fn new(list: &'static [BuiltIn], cache: Option<Cache>) -> Self {
        let each = |built_in: &BuiltIn| [Fuel::Uncounted, Fuel::Counted].map(|fuel| (built_in.name, fuel));
        let compiled = list.iter().flat_map(each).map(|key| (key, OnceCell::new())).collect();
        Self { list, cache: cache.map(Arc::new), compiled }
    }

    async fn compiled(
        &self,
        engine: &Engine,
        built_in: BuiltIn,
        name: ComponentName,
        fuel: Fuel,
    ) -> Result<Compiled, LoadError> {
        let wasm = Cow::Borrowed(built_in.wasm);
        let compile = || compile(engine.clone(), self.cache.clone(), name, wasm, fuel, Code::Optimized);
        match self.compiled.get(&(built_in.name, fuel)) {
            Some(cell) => cell.get_or_try_init(compile).await.cloned(),
            None => compile().await,
        }
    }
}

/// What to load, and into which catalog.
#[derive(Debug)]
pub struct LoaderConfig {
    /// The catalog's owner.
    pub tenant: TenantId,
    /// Folders of components.
    pub folders: Vec<PathBuf>,
    /// Components built into this program.
    pub built_in: Arc<BuiltIns>,
    /// The folder of grants.
    pub grants: PathBuf,
    /// What the operator has accepted of pinned components.
    pub accepted: PathBuf,
    /// Whether what is new, asks for more or shows clients something else waits until it is accepted.
    pub pinned: bool,
    /// What no grant gives to a component.
    pub own_folders: OwnFolders,
    /// What a call may use unless a grant says otherwise.
    pub limits: Limits,
    /// Whether what is new in a folder first runs with the code of the fast compiler, until [`Loader::optimize`] is called and it is looked at again.
    pub baseline_first: bool,
}

/// Loads components for one tenant.
#[derive(Debug)]
pub struct Loader {
    config: LoaderConfig,
    registry: Registry,
    cache: Option<Arc<Cache>>,
    grants: ArcSwap<Grants>,
    accepted: Accepted,
}

impl Loader {
    /// A loader that has not loaded anything yet, nor read the grants.
    pub fn new(mut config: LoaderConfig, registry: Registry, cache: Option<Cache>) -> Self {
        // The watch tells of files by absolute paths.
        for folder in &mut config.folders {
            *folder = std::path::absolute(&*folder).unwrap_or_else(|_| folder.clone());
        }
        let accepted = Accepted::new(config.accepted.clone());
        Self { config, registry, cache: cache.map(Arc::new), grants: ArcSwap::default(), accepted }
    }

    /// The folders it loads from.
    pub fn folders(&self) -> &[PathBuf] {
        &self.config.folders
    }

    /// What is accepted of pinned components, and what waits.
    pub fn accepted(&self) -> &Accepted {
        &self.accepted
    }

    /// The tenant for which it loads.
    pub fn tenant(&self) -> &TenantId {
        &self.config.tenant
    }

    /// Reads the grants again. A file that is not valid changes nothing for its component; these, and why.
    pub fn reload_grants(&self) -> BTreeMap<String, String> {
        let tenant = &self.config.tenant;
        let grants = match Grants::load(&self.config.grants) {
            Ok(grants) => grants,
            Err(error) => {
                let error = telemetry::chain(&error);
                tracing::error!(%tenant, error, "the grants are not changed");
                return BTreeMap::from([("grants".to_owned(), error)]);
            }
        };
        let errors = grants.errors().map(|(component, error)| {
            let error = telemetry::chain(error);
            tracing::error!(%tenant, component, error, "the component's grant is not changed");
            (component.to_owned(), error)
        });
        let errors = errors.collect();
        self.grants.store(Arc::new(grants.or_as_before(&self.grants.load())));
        errors
    }

    /// Loads everything there is, and takes away what is not there any more. `room` bounds the loads at the same time; `loaded` is told of each.
    pub async fn load_all(self: Arc<Self>, room: Arc<Semaphore>, loaded: impl Fn() + Clone) -> Report {
        let mut report = Report { failed: self.reload_grants(), ..Report::default() };
        for wave in self.sources() {
            let mut running = JoinSet::new();
            for source in wave {
                let (loader, room) = (Arc::clone(&self), Arc::clone(&room));
                running.spawn(async move {
                    let _room = room.acquire_owned().await;
                    (source.component(), loader.load(source).await)
                });
            }
            while let Some(done) = running.join_next().await {
                loaded();
                match done {
                    Ok((component, outcome)) => report.add(component, outcome),
                    Err(error) => tracing::error!(%error, "a load broke off"),
                }
            }
        }
        report
    }

    /// The component files there are, and those that were loaded and may be gone.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for folder in &self.config.folders {
            match fs::read_dir(folder) {
                Ok(entries) => {
                    files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| is_component_file(path)))
                }
                Err(error) => tracing::warn!(folder = %folder.display(), %error, "cannot look into a tools folder"),
            }
        }
        let catalog = self.registry.catalog(&self.config.tenant);
        let loaded = catalog.components().map(|revision| &revision.origin);
        let known = loaded.chain(catalog.problems().map(|problem| &problem.origin));
        files
            .extend(known.filter_map(|origin| if let Origin::File(path) = origin { Some(path.clone()) } else { None }));
        files.sort();
        files.dedup();
        files
    }

    /// Everything there is to load, in waves: of two components with one name the earlier wave's has it. Built-in ones come first, then folder by folder.
    pub fn sources(&self) -> Vec<Vec<Source>> {
        let mut waves = vec![self.config.built_in.list.iter().copied().map(Source::BuiltIn).collect::<Vec<_>>()];
        let mut files = self.files();
        for folder in &self.config.folders {
            let (here, elsewhere) = files.into_iter().partition(|path| path.parent() == Some(folder));
            waves.push(Vec::into_iter(here).map(Source::File).collect());
            files = elsewhere;
        }
        waves
    }

    /// Loads one component and makes it live; notes a problem if that fails.
    pub async fn load(&self, source: Source) -> Outcome {
        let started = Instant::now();
        let tenant = &self.config.tenant;
        let component = source.component();
        let outcome = match self.try_load(&source).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.note_refusal(&component, &error);
                self.revoke(&component);
                let error = telemetry::chain(&error);
                let problem = Problem {
                    component: component.clone(),
                    origin: source.origin(),
                    error: error.clone(),
                    since: SystemTime::now(),
                };
                if let Err(stopping) = self.registry.report(tenant, problem) {
                    tracing::warn!(%stopping, "a problem could not be noted");
                }
                Outcome::Failed(error)
            }
        };
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let name = match &outcome {
            Outcome::Loaded(times) => {
                if let Some(live) = self.registry.catalog(tenant).component(&component) {
                    let _set_once_for_each = live.times.set(*times);
                }
                let LoadTimes { compile, cached, list, swap } = times;
                let (compile_ms, list_ms, swap_ms) = (millis(*compile), millis(*list), millis(*swap));
                tracing::info!(component, took_ms, compile_ms, cached, list_ms, swap_ms, "loaded");
                "loaded"
            }
            Outcome::Removed => {
                tracing::info!(component, "removed");
                "removed"
            }
            Outcome::Unchanged => return outcome,
            Outcome::Failed(error) => {
                let serving = self.registry.catalog(tenant).component(&component).is_some();
                tracing::error!(component, error, old_build_serves = serving, "not loaded");
                "failed"
            }
        };
        metrics::counter!("mcpp_swaps_total", "tenant" => tenant.to_string(), "outcome" => name).increment(1);
        outcome
    }

    async fn try_load(&self, source: &Source) -> Result<Outcome, LoadError> {
        let mut left = PARTIAL_RETRIES;
        loop {
            let before = stamp(source);
            match self.attempt(source).await {
                Err(error) if error.may_be_partial() && left > 0 && matches!(source, Source::File(_)) => {
                    tokio::time::sleep(PARTIAL_WAIT).await;
                    // A file that goes on changing is being written: wait for it as long as it takes.
                    if stamp(source) == before {
                        left = left.saturating_sub(1);
                    }
                }
                result => return result,
            }
        }
    }

    async fn attempt(&self, source: &Source) -> Result<Outcome, LoadError> {
        let tenant = &self.config.tenant;
        let started = Instant::now();
        let Some(wasm) = read(source).await? else { return self.remove(source).await };
        let name = ComponentName::new(&source.component())?;
        let grant = self.grant(name.as_str())?;
        let origin = source.origin();
        let catalog = self.registry.catalog(tenant);
        if let Some(live) = catalog.component(name.as_str())
            && live.origin == origin
            && live.grant == grant
            && live.powers.files.are_current()
            && live.digest == blake3::hash(&wasm).to_hex().as_str()
            && (live.code == Code::Optimized || !self.is_optimized(&wasm, &grant))
            && !catalog.problems().any(|problem| problem.component == name.as_str())
        {
            return Ok(Outcome::Unchanged);
        }
        self.config.own_folders.check(&grant.files).map_err(LoadError::Files)?;
        let (engine, fuel) = (self.registry.engine(), grant.fuel(&self.config.limits));
        let compiled = match source {
            Source::BuiltIn(built_in) => self.config.built_in.compiled(engine, *built_in, name, fuel).await?,
            Source::File(_) => {
                let code = if self.config.baseline_first { Code::Baseline } else { Code::Optimized };
                compile(engine.clone(), self.cache.clone(), name, wasm, fuel, code).await?
            }
        };
        let compiled_at = Instant::now();
        let imports: BTreeSet<String> = compiled.imports().into_iter().collect();
        let admitted = compiled.admit(&grant)?;
        let share = self.registry.share(tenant).ok_or(LoadError::Stopping)?;
        let loaded = admitted.load(engine, (self.registry.admission(), &share)).await?;
        let listed_at = Instant::now();
        let cached = loaded.cached;
        for note in &loaded.notes {
            tracing::warn!(component = %loaded.name, "{note}");
        }
        let revision = Revision::check(loaded, origin, &grant, &self.config.limits)?;
        if imports.iter().filter_map(|import| capability::of_import(import)).any(|has| has.needs(STORE)) {
            self.witness(revision.name.clone()).used(STORE.to_owned());
        }
        if self.config.pinned && matches!(source, Source::File(_)) {
            let difference = self.accepted.check(revision.name.as_str(), Face::of(&revision, imports))?;
            if !difference.is_empty() {
                return Err(LoadError::NotAccepted { difference, tenant: tenant.clone(), component: revision.name });
            }
        }
        migration::bring_up(&self.registry, tenant, revision).await?;
        let (compile, list) = (compiled_at.duration_since(started), listed_at.duration_since(compiled_at));
        Ok(Outcome::Loaded(LoadTimes { compile, cached, list, swap: listed_at.elapsed() }))
    }

    /// Makes the optimized code of a component that runs without it; how long that took. It is used from the next look on.
    pub async fn optimize(&self, live: &Revision) -> Result<Option<Duration>, LoadError> {
        let (Code::Baseline, Origin::File(path)) = (live.code, &live.origin) else { return Ok(None) };
        let started = Instant::now();
        let Some(wasm) = read(&Source::File(path.clone())).await? else { return Ok(None) };
        let (engine, fuel) = (self.registry.engine().clone(), live.grant.fuel(&self.config.limits));
        compile(engine, self.cache.clone(), live.name.clone(), wasm, fuel, Code::Optimized).await?;
        Ok(Some(started.elapsed()))
    }

    fn is_optimized(&self, wasm: &[u8], grant: &ComponentGrant) -> bool {
        let fuel = grant.fuel(&self.config.limits);
        self.cache.as_ref().is_some_and(|cache| component::is_optimized(self.registry.engine(), cache, wasm, fuel))
    }

    /// What a component may do: as the operator's grants say, or, for a built-in one that they do not name, as it is shipped.
    fn grant(&self, component: &str) -> Result<ComponentGrant, LoadError> {
        let grants = self.grants.load();
        let shipped = self.config.built_in.list.iter().find(|built_in| built_in.name == component);
        match (grants.of(component), shipped) {
            (Some(granted), _) => granted.map_err(LoadError::Grant),
            // What is shipped is parsed by a test; if it were not valid, the component would have nothing and say so.
            (None, Some(built_in)) => Ok(toml::from_str(built_in.grant).unwrap_or_default()),
            (None, None) => Ok(ComponentGrant::default()),
        }
    }

    /// Keeps what would have to be granted, for `mcpp learn`.
    fn note_refusal(&self, component: &str, error: &LoadError) {
        if let (LoadError::Refused(Refused::NotGranted { grant, .. }), Ok(name)) =
            (error, ComponentName::new(component))
        {
            self.witness(name).denied(Some((*grant).to_owned()), error.to_string());
        }
    }

    fn witness(&self, component: ComponentName) -> Witness {
        Witness::new(Arc::clone(self.registry.ledger()), self.config.tenant.clone(), component, "load".into())
    }

    /// Takes a component away whose live build was admitted under a grant that is not in force any more: it must not serve on with what was taken from it.
    fn revoke(&self, component: &str) {
        let tenant = &self.config.tenant;
        let Ok(granted) = self.grant(component) else { return };
        let stale = self.registry.catalog(tenant).component(component).is_some_and(|live| live.grant != granted);
        if stale && let Err(stopping) = self.registry.remove(tenant, component) {
            tracing::warn!(component, %stopping, "could not be taken away");
        }
    }

    async fn remove(&self, source: &Source) -> Result<Outcome, LoadError> {
        let component = source.component();
        let catalog = self.registry.catalog(&self.config.tenant);
        let origin = source.origin();
        let ours = catalog.component(&component).is_some_and(|revision| revision.origin == origin)
            || catalog.problems().any(|problem| problem.component == component && problem.origin == origin);
        if !ours {
            return Ok(Outcome::Unchanged);
        }
        self.registry.remove(&self.config.tenant, &component)?;
        if let Ok(component) = ComponentName::new(&component) {
            let space = Space { tenant: self.config.tenant.clone(), component };
            self.registry.subscriptions().set(&**self.registry.store(), &space, BTreeSet::new()).await?;
        }
        Ok(Outcome::Removed)
    }
}

/// Whether a path is one that we load: `NAME.wasm`, not hidden (editors and installers write hidden files first).
pub fn is_component_file(path: &Path) -> bool {
    let visible = path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    visible && path.extension().is_some_and(|extension| extension == "wasm")
}

/// Compiles on a thread of its own.
async fn compile(
    engine: Engine,
    cache: Option<Arc<Cache>>,
    name: ComponentName,
    wasm: Cow<'static, [u8]>,
    fuel: Fuel,
    code: Code,
) -> Result<Compiled, LoadError> {
    let compile = move || component::compile(&engine, cache.as_deref(), name, &wasm, fuel, code);
    tokio::task::spawn_blocking(compile).await.map_err(|_| LoadError::Stopping)?
}

/// The bytes of a source; none if its file is gone.
async fn read(source: &Source) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
    let path = match source {
        Source::BuiltIn(built_in) => return Ok(Some(Cow::Borrowed(built_in.wasm))),
        Source::File(path) => path.clone(),
    };
    let fail = |source| LoadError::Read { path: path.clone(), source };
    let meta = match tokio::fs::metadata(&path).await {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    if !meta.is_file() {
        return Err(fail(std::io::Error::other("it is not a regular file")));
    }
    if meta.len() > MAX_COMPONENT_BYTES {
        return Err(LoadError::TooLarge(meta.len()));
    }
    match tokio::fs::read(&path).await {
        Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(error)),
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// What changes when a file is written to.
fn stamp(source: &Source) -> Option<(u64, SystemTime)> {
    let Source::File(path) = source else { return None };
    let meta = fs::metadata(path).ok()?;
    Some((meta.len(), meta.modified().ok()?))
}
