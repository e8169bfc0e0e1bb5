//! From a source of bytes to a live revision, or to a problem that says why not. Compiling blocks a thread of its own, never a door or a guest.
//!
//! A load ends: reading, compiling, listing and migrating have bounds, and all of it together has one. It may be cancelled at any time. The loader installs the build only if the
//! tenant is still open and the grant still is the one under which the build was admitted.

mod bytes;
mod outcome;
mod pinned;
mod revision;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ::bytes::Bytes;
use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use self::bytes::SeenFile;
use super::{
    accept::{Accepted, Face},
    folders::{FileStamp, ToolsFolders},
    migration::{self, MigrationLimits},
    source::{BuiltIns, Source},
};
use crate::{
    capability::{self, STORE, files::OwnFolders},
    control::admission::Share,
    engine::{compile::Builds, features::Code},
    grants::{ComponentGrant, Grants},
    guest::component::{self, Origin},
    limits::Limits,
    names::{ComponentName, TenantId},
    registry::{
        Registry,
        catalog::{LoadTimes, Revision},
        error::InstallError,
    },
    reload::error::LoadError,
    store::Space,
};

/// How long a load may take besides a migration: reading, compiling, listing its tools, and waiting for its turn to compile.
const MAX_LOAD: Duration = Duration::from_secs(900);

/// Differences that the problem of a build that waits names; `mcpp accept` shows all.
const MAX_DIFFERENCES: usize = 10;

/// Why something is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// Its file changed, or may have.
    Event,
    /// An operator, or the start of the host, asks for it.
    Asked,
}

/// The outcome of an attempt to load.
#[derive(Debug)]
pub(super) enum Attempt {
    Done(LoadOutcome),
    /// The file looks as it did, or is gone and was never loaded: nothing was read.
    Known,
    /// The file may still be being written; what is wrong with it, and what it looked like.
    Partial(LoadError, Option<FileStamp>),
    /// The tenant was closed, or its grants were changed.
    Cancelled,
}

/// The outcome of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadOutcome {
    /// The build is live; how long that took, step by step.
    Loaded(LoadTimes),
    /// It already was.
    Unchanged,
    /// The file is gone, and the component with it.
    Removed,
    /// It is not live; why.
    Failed(String),
}

/// The components to load, and the catalog for them.
#[derive(Debug)]
pub struct LoaderConfig {
    /// The catalog's owner.
    pub tenant: TenantId,
    /// Folders of components.
    pub folders: ToolsFolders,
    /// Components built into this program.
    pub built_in: Arc<BuiltIns>,
    /// The folder of grants.
    pub grants: PathBuf,
    /// The file of the pinned components that the operator has accepted.
    pub accepted: PathBuf,
    /// Whether what is new, asks for more or shows clients something else waits until it is accepted.
    pub pinned: bool,
    /// The host's own folders, which no grant gives to a component.
    pub own_folders: OwnFolders,
    /// The limits of a call unless a grant says otherwise.
    pub limits: Limits,
    /// Whether what is new in a folder first runs with the code of the fast compiler, until [`Loader::optimize`] is called and it is looked at again.
    pub baseline_first: bool,
    /// How long a migration of data may take.
    pub migration: MigrationLimits,
}

/// Loads components for one tenant.
#[derive(Debug)]
pub struct Loader {
    config: LoaderConfig,
    registry: Registry,
    builds: Arc<Builds>,
    grants: ArcSwap<Grants>,
    /// Held while they are read, so that of two readers the later one's stay.
    reading_grants: Mutex<()>,
    accepted: Accepted,
    /// Fires when the tenant is closed: nothing is installed any more.
    closing: CancellationToken,
    /// The stamps of files that were loaded or refused, and the grant of each: the same again is no news.
    seen: Mutex<BTreeMap<PathBuf, SeenFile>>,
}

impl Loader {
    /// A loader that has not loaded anything yet, nor read the grants. It loads nothing any more once `closing` has fired.
    pub fn new(config: LoaderConfig, registry: Registry, builds: Arc<Builds>, closing: CancellationToken) -> Self {
        let accepted = Accepted::new(config.accepted.clone());
        Self {
            config,
            registry,
            builds,
            grants: ArcSwap::default(),
            reading_grants: Mutex::default(),
            accepted,
            closing,
            seen: Mutex::default(),
        }
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn folders(&self) -> &ToolsFolders {
        &self.config.folders
    }

    /// The accepted builds of pinned components, and those that wait.
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
        let _one_at_a_time = self.reading_grants.lock().unwrap_or_else(PoisonError::into_inner);
        let grants = match Grants::load(&self.config.grants) {
            Ok(grants) => grants,
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::error!(%tenant, error, "the grants are not changed");
                return BTreeMap::from([("grants".to_owned(), error)]);
            }
        };
        let errors = grants.errors().map(|(component, error)| {
            let error = crate::error::chain(error);
            tracing::error!(%tenant, component, error, "the component's grant is not changed");
            (component.to_owned(), error)
        });
        let errors = errors.collect();
        self.grants.store(Arc::new(grants.or_as_before(&self.grants.load())));
        errors
    }

    /// Takes away at once what serves with more than is granted now; it may be loaded again with what is left.
    pub fn drop_revoked(&self) {
        let tenant = &self.config.tenant;
        for live in self.registry.catalog(tenant).components() {
            let component = live.name.as_str();
            let Ok(granted) = self.grant(component) else { continue };
            if live.grant.has_lost(&granted) {
                tracing::info!(%tenant, component, "something was revoked; the component is taken away until it is loaded with what is left");
                self.take_away(component);
            }
        }
        for pinned in self.registry.catalog(tenant).pinned() {
            let component = pinned.name.as_str();
            if self.grant(component).is_ok_and(|granted| pinned.grant.has_lost(&granted)) {
                self.take_away(component);
            }
        }
    }

    /// Takes a component away with all of its builds.
    fn take_away(&self, component: &str) {
        if let Err(stopping) = self.registry.revoke(&self.config.tenant, component) {
            tracing::warn!(component, %stopping, "could not be taken away");
        }
    }

    /// Everything there is to load, and what was loaded and may be gone. Of two components with one name the earlier one has it: built-in ones come first, then folder by
    /// folder. Blocks.
    pub(super) fn sources(&self) -> Vec<Source> {
        let mut sources: Vec<Source> = self.config.built_in.list.iter().copied().map(Source::BuiltIn).collect();
        let mut known: BTreeSet<PathBuf> = {
            let catalog = self.registry.catalog(&self.config.tenant);
            let loaded = catalog.components().map(|revision| &revision.origin);
            let known = loaded.chain(catalog.problems().map(|problem| &problem.origin));
            known.filter_map(|origin| origin.file()).filter(|path| is_component_file(path)).cloned().collect()
        };
        for folder in self.config.folders.paths() {
            let listed = self.config.folders.list(folder).inspect_err(
                |error| tracing::warn!(folder = %folder.display(), %error, "cannot look into a tools folder"),
            );
            let mut files: BTreeSet<PathBuf> = listed.unwrap_or_default().files.into_iter().collect();
            known.retain(|path| {
                let is_here = path.parent() == Some(folder);
                if is_here {
                    files.insert(path.clone());
                }
                !is_here
            });
            sources.extend(files.into_iter().map(Source::File));
        }
        sources.extend(known.into_iter().map(Source::File));
        sources
    }

    /// Loads one component and makes it live; notes a problem if that fails. Ends at once when `cancel` fires.
    pub(super) async fn load(&self, source: &Source, cause: Cause, cancel: &CancellationToken) -> Attempt {
        let started = Instant::now();
        let most = MAX_LOAD.saturating_add(self.config.migration.time);
        let attempt = tokio::select! {
            biased;
            () = cancel.cancelled() => return Attempt::Cancelled,
            attempt = tokio::time::timeout(most, self.attempt(source, cause)) => {
                attempt.unwrap_or(Err(LoadError::TooLong { seconds: most.as_secs() }))
            }
        };
        match attempt {
            Ok(None) => Attempt::Known,
            Ok(Some(outcome)) => Attempt::Done(self.note(source, outcome, started)),
            Err(LoadError::Cancelled) => Attempt::Cancelled,
            Err(error) if error.may_be_partial() && matches!(source, Source::File(_)) => {
                let stamp = self.stamp(source).await;
                Attempt::Partial(error, stamp)
            }
            Err(error) => Attempt::Done(self.fail(source, &error, started)),
        }
    }

    /// None if nothing had to be read.
    async fn attempt(&self, source: &Source, cause: Cause) -> Result<Option<LoadOutcome>, LoadError> {
        let started = Instant::now();
        let component = source.component();
        let grant = self.grant(&component);
        if let (Source::File(path), Ok(grant)) = (source, &grant)
            && self.is_known(path, grant, cause, self.stamp(source).await)
        {
            return Ok(None);
        }
        let Some((wasm, _room, stamp)) = self.read(source).await? else {
            let removed = self.remove(source).await?;
            return Ok((removed != LoadOutcome::Unchanged).then_some(removed));
        };
        let loaded = self.load_bytes(source, wasm, started).await;
        let told_by_the_file = loaded.as_ref().err().is_none_or(LoadError::is_of_the_file);
        if let (Source::File(path), Some(stamp), Ok(grant)) = (source, stamp.filter(FileStamp::is_old), grant)
            && told_by_the_file
        {
            self.note_seen(path, Some(SeenFile { stamp, grant, served: loaded.is_ok() }));
        }
        loaded.map(Some)
    }

    async fn load_bytes(&self, source: &Source, wasm: Bytes, started: Instant) -> Result<LoadOutcome, LoadError> {
        let tenant = &self.config.tenant;
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
            // Another file's failed attempt at the name is no reason to load this one again, which would hide it for a moment.
            && !catalog.problems().any(|problem| problem.component == name.as_str() && problem.origin == origin)
        {
            return Ok(LoadOutcome::Unchanged);
        }
        self.config.own_folders.check(&grant.files).map_err(InstallError::Files)?;
        let (engine, fuel, bytes) = (self.registry.engine(), grant.fuel(&self.config.limits), wasm.clone());
        let share = self.registry.share(tenant).ok_or(LoadError::Stopping)?;
        let compiled = match source {
            Source::BuiltIn(built_in) => self.config.built_in.compiled(engine, *built_in, name, fuel).await?,
            Source::File(_) => {
                catalog.check_room(name.as_str(), share.limits.components)?;
                let code = if self.config.baseline_first { Code::Baseline } else { Code::Optimized };
                component::compile(engine, &self.builds, self.source(name, wasm, &grant, code, &share)).await?
            }
        };
        let compiled_at = Instant::now();
        let imports: BTreeSet<String> = compiled.imports().into_iter().collect();
        let (mut revision, cached, listed_at) = self.check(compiled, origin, &grant, &share).await?;
        if let Source::BuiltIn(built_in) = source {
            revision.shipped = Some(built_in.wasm);
        }
        if imports.iter().filter_map(|import| capability::of_import(import)).any(|has| has.needs(STORE)) {
            self.witness(revision.name.clone()).used(STORE.to_owned());
        }
        if let Source::File(path) = source
            && (self.config.pinned || self.config.folders.is_fetched(path))
        {
            if let Some(primitives) = &revision.primitives {
                primitives.fix_lists();
            }
            let difference = self.accepted.check(revision.name.as_str(), Face::of(&revision, imports))?;
            if !difference.is_empty() {
                let more = difference.len().saturating_sub(MAX_DIFFERENCES);
                let mut difference: Vec<String> = difference.into_iter().take(MAX_DIFFERENCES).collect();
                difference.extend((more > 0).then(|| format!("and {more} more")));
                return Err(LoadError::NotAccepted { difference, tenant: tenant.clone(), component: revision.name });
            }
        }
        let build = revision.build();
        self.load_pinned(&build.component).await;
        migration::bring_up(self, tenant, revision, self.config.migration).await?;
        if let Source::File(_) = source {
            self.keep_bytes(build, bytes).await;
        }
        let (compile, list) = (compiled_at.duration_since(started), listed_at.duration_since(compiled_at));
        Ok(LoadOutcome::Loaded(LoadTimes { compile, cached, list, swap: listed_at.elapsed() }))
    }

    /// Makes a revision live, if its tenant is still open and its grant in force.
    pub(super) fn install(&self, revision: Revision) -> Result<(), LoadError> {
        self.registry.install_if(&self.config.tenant, revision, |revision| self.may_serve(revision))
    }

    /// Whether a revision may be made live. Asked while the catalog is locked: a grant that is revoked is either seen here, or the revision is seen by who revokes.
    fn may_serve(&self, revision: &Revision) -> Result<(), LoadError> {
        if self.closing.is_cancelled() || self.grant(revision.name.as_str())? != revision.grant {
            return Err(LoadError::Cancelled);
        }
        Ok(())
    }

    /// Makes the optimized code of a component that runs without it; how long that took. It is used from the next look on.
    pub async fn optimize(&self, live: &Revision) -> Result<Option<Duration>, LoadError> {
        let (Code::Baseline, Origin::File(path)) = (live.code, &live.origin) else { return Ok(None) };
        let started = Instant::now();
        let Some((wasm, _room, _)) = self.read(&Source::File(path.clone())).await? else { return Ok(None) };
        let share = self.registry.share(&self.config.tenant).ok_or(LoadError::Stopping)?;
        let source = self.source(live.name.clone(), wasm, &live.grant, Code::Optimized, &share);
        component::compile(self.registry.engine(), &self.builds, source).await?;
        Ok(Some(started.elapsed()))
    }

    fn is_optimized(&self, wasm: &[u8], grant: &ComponentGrant) -> bool {
        let fuel = grant.fuel(&self.config.limits);
        component::is_optimized(self.registry.engine(), &self.builds, wasm, fuel)
    }

    /// A file to compile for the tenant.
    fn source(
        &self,
        name: ComponentName,
        wasm: Bytes,
        grant: &ComponentGrant,
        code: Code,
        share: &Share,
    ) -> component::ComponentSource {
        let limits = self.config.limits.patched(&grant.limits);
        let tools = grant.tools.values().map(|own| limits.patched(&own.limits).memory_bytes);
        component::ComponentSource {
            name,
            wasm,
            fuel: grant.fuel(&self.config.limits),
            code,
            memory_bytes: tools.fold(limits.memory_bytes, u64::max),
            account: Some(Arc::clone(&share.memory)),
        }
    }

    /// The grant of a component: as the operator wrote it, or, for a built-in one that the operator's grants do not name, as it is shipped.
    pub(super) fn grant(&self, component: &str) -> Result<ComponentGrant, LoadError> {
        let grants = self.grants.load();
        let shipped = self.config.built_in.list.iter().find(|built_in| built_in.name == component);
        match (grants.of(component), shipped) {
            (Some(granted), _) => granted.map_err(LoadError::Grant),
            (None, Some(built_in)) => Ok(built_in.shipped_grant()),
            (None, None) => Ok(ComponentGrant::default()),
        }
    }

    async fn remove(&self, source: &Source) -> Result<LoadOutcome, LoadError> {
        let component = source.component();
        let catalog = self.registry.catalog(&self.config.tenant);
        let origin = source.origin();
        let ours = catalog.component(&component).is_some_and(|revision| revision.origin == origin)
            || catalog.problems().any(|problem| problem.component == component && problem.origin == origin);
        if let Origin::File(path) = &origin {
            self.note_seen(path, None);
        }
        if !ours || self.closing.is_cancelled() {
            return Ok(LoadOutcome::Unchanged);
        }
        self.registry.remove(&self.config.tenant, &component)?;
        if let Ok(component) = ComponentName::new(&component) {
            self.forget_bytes(component.clone()).await;
            let space = Space { tenant: self.config.tenant.clone(), component };
            self.registry.subscriptions().set(&**self.registry.store(), &space, BTreeSet::new()).await?;
        }
        Ok(LoadOutcome::Removed)
    }
}

/// Whether a path is one that we load: `NAME.wasm`, not hidden (editors and installers write hidden files first).
pub fn is_component_file(path: &Path) -> bool {
    let visible = path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    visible && path.extension().is_some_and(|extension| extension == "wasm")
}
