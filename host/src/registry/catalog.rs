//! One tenant's tools at one moment: an immutable value that a swap replaces as a whole.

pub mod mounted;
mod pinned;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::sync::Semaphore;

use self::mounted::MountedTools;
use super::{
    error::InstallError,
    lists::{CatalogLists, ComponentLists, ListsChanged},
    offer::offered,
    primitives::PrimitiveService,
    tool::{Powers, Tool},
};
use crate::{
    call::build::BuildId,
    capability::{files::Folders, http::HttpGrant},
    engine::features::Code,
    grants::ComponentGrant,
    guest::{
        component::{Loaded, LoadedPrimitives, Origin},
        handler::Handler,
        migration::Migration,
    },
    limits::Limits,
    memory::Reservation,
    names::{ComponentName, ToolName, Topic, TopicPattern},
    telemetry::known::Names,
};

/// The most that the compiled schemas of one component's tools take together, in bytes: a thousand tools with some hundred subschemas each.
const MAX_SCHEMAS_BYTES: u64 = 512 << 20;

/// One loaded build of a component.
#[derive(Debug)]
pub struct Revision {
    /// The component's name.
    pub name: ComponentName,
    /// Which build, by its digest.
    pub digest: String,
    /// Its size, in bytes.
    pub bytes: usize,
    /// Which compiler made its code.
    pub code: Code,
    /// Where it is from.
    pub origin: Origin,
    /// The grant under which it was admitted.
    pub grant: ComponentGrant,
    /// When it went live.
    pub since: SystemTime,
    /// Its tools.
    pub tools: Vec<Arc<Tool>>,
    /// How its resources and prompts are asked, if it has any.
    pub primitives: Option<Arc<PrimitiveService>>,
    /// What it listed of them at its load.
    pub lists: Arc<ComponentLists>,
    /// Its handler of events and timers.
    pub handler: Option<RevisionHandler>,
    /// The topics to which the component is subscribed.
    pub topics: BTreeSet<TopicPattern>,
    /// How it migrates its data, and the format that it reads and writes.
    pub migration: Option<(Migration, u32)>,
    /// The powers of everything in the revision.
    pub powers: Arc<Powers>,
    /// The limits of a call, where a tool has no limits of its own.
    pub limits: Limits,
    /// Notes for the component's author.
    pub notes: Vec<String>,
    /// The memory of its code, given back when nothing runs it any more; none for what is shipped with this program.
    pub memory: Option<Arc<Reservation>>,
    /// The memory of its schemas, as that of its code.
    pub schema_memory: Option<Reservation>,
    /// Its bytes, if it is shipped with this program.
    pub shipped: Option<&'static [u8]>,
    /// How long it took to go live; known once it is.
    pub times: OnceLock<LoadTimes>,
}

/// How long the steps of a load took, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadTimes {
    /// Reading the component and compiling it, or taking its code from the compile cache.
    pub compile: Duration,
    /// Whether its code came from the compile cache.
    pub cached: bool,
    /// Checking its imports, linking it and asking it for its tools.
    pub list: Duration,
    /// Checking its tools, migrating its data if that is older, and taking the place of the build before.
    pub swap: Duration,
}

impl Revision {
    /// Checks all that a loaded component says. `charge` is told what the schemas of each tool take, in bytes, when they are made.
    pub fn check<E: From<InstallError>>(
        loaded: Loaded,
        origin: Origin,
        grant: &ComponentGrant,
        defaults: &Limits,
        mut charge: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<Self, E> {
        let powers = Arc::new(Powers {
            component: loaded.name.clone(),
            may_call: grant.call.clone().into(),
            quota_bytes: grant.store.map(|store| store.quota_bytes),
            files: Folders::open(&grant.files).map_err(InstallError::Files)?,
            config: Arc::new(grant.config.clone()),
            http: (!grant.http.is_empty())
                .then(|| Arc::new(HttpGrant { rules: grant.http.clone(), secrets: grant.secrets.clone() })),
            mesh: (!grant.mesh.is_empty()).then(|| Arc::new(grant.mesh.clone())),
            container: grant.container.clone().map(Arc::new),
            gate: Arc::default(),
            life: Arc::default(),
        });
        let tools = offered(&loaded.name, loaded.tools, grant)?
            .into_iter()
            .map(|tool| Tool::check(&powers, tool, grant, defaults).map(Arc::new));
        let mut schema_bytes = 0_u64;
        let tools = tools.map(|tool| {
            let tool = tool?;
            let bytes = tool.schema_bytes();
            schema_bytes = schema_bytes.saturating_add(bytes);
            charge(bytes)?;
            if schema_bytes > MAX_SCHEMAS_BYTES {
                return Err(InstallError::SchemasTooLarge(MAX_SCHEMAS_BYTES).into());
            }
            Ok(tool)
        });
        let tools = tools.collect::<Result<_, E>>()?;
        let limits = defaults.patched(&grant.limits);
        let (primitives, lists) = check_primitives(&powers, limits, loaded.primitives)?;
        charge(u64::try_from(lists.bytes()).unwrap_or(u64::MAX))?;
        let (handler, topics) = loaded.handler.unzip();
        let topics = topics.unwrap_or_default().into_iter().map(|topic| check_topics(&loaded.name, topic, grant));
        let topics = topics.collect::<Result<Vec<_>, InstallError>>()?;
        Ok(Self {
            tools,
            primitives,
            lists,
            topics: topics.into_iter().flatten().collect(),
            handler: handler.map(|handler| RevisionHandler::new(handler, &limits)),
            migration: loaded.migration,
            powers,
            limits,
            name: loaded.name,
            digest: loaded.digest,
            bytes: loaded.bytes,
            code: loaded.code,
            origin,
            grant: grant.clone(),
            since: SystemTime::now(),
            notes: loaded.notes,
            memory: loaded.memory,
            schema_memory: None,
            shipped: None,
            times: OnceLock::new(),
        })
    }
}

impl Revision {
    /// The format of its data.
    pub fn format(&self) -> u32 {
        self.migration.as_ref().map_or(0, |(_, format)| *format)
    }
}

/// A handler with its own places, besides the host's.
#[derive(Debug)]
pub struct RevisionHandler {
    /// The handler.
    pub handler: Handler,
    /// How many instances of it there may be.
    pub places: Arc<Semaphore>,
}

impl RevisionHandler {
    fn new(handler: Handler, limits: &Limits) -> Self {
        let places = usize::try_from(limits.concurrency).unwrap_or(Semaphore::MAX_PERMITS);
        Self { handler, places: Arc::new(Semaphore::new(places)) }
    }
}

/// What a component lists beside tools, and how it is asked.
fn check_primitives(
    powers: &Arc<Powers>,
    limits: Limits,
    mut loaded: LoadedPrimitives,
) -> Result<(Option<Arc<PrimitiveService>>, Arc<ComponentLists>), InstallError> {
    if loaded.resources.is_none() && loaded.prompts.is_none() {
        return Ok((None, Arc::default()));
    }
    let service = Arc::new(PrimitiveService::new(powers, limits, &loaded));
    let resources = loaded.resources.take().map(|(_, lists)| lists);
    let prompts = loaded.prompts.take().map(|(_, prompts)| prompts);
    let lists = ComponentLists::check(&service, resources, prompts)?;
    Ok((Some(service), Arc::new(lists)))
}

/// The topics behind one subscription of a component: its own, or those of others that its grant names. A wildcard without a grant stands for none.
fn check_topics(
    component: &ComponentName,
    text: String,
    grant: &ComponentGrant,
) -> Result<Vec<TopicPattern>, InstallError> {
    let foreign = grant.subscribe.iter().filter(|pattern| pattern.component() != component);
    if text == "*" {
        return Ok(foreign.cloned().collect());
    }
    let illegal = || InstallError::Topic(text.chars().take(160).collect());
    if let Some(of) = text.strip_suffix("/*") {
        let of = ComponentName::new(of).ok().filter(|of| of != component).ok_or_else(illegal)?;
        return Ok(foreign.filter(|pattern| *pattern.component() == of).cloned().collect());
    }
    let topic = Topic::parse(&text, component).ok_or_else(illegal)?;
    if topic.component != *component && !grant.subscribe.iter().any(|pattern| pattern.matches(&topic)) {
        return Err(InstallError::TopicNotGranted { topic: topic.to_string(), component: component.to_string() });
    }
    Ok(vec![topic.into()])
}

/// Why a component's newest build is not live.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The component, by its file's stem.
    pub component: String,
    /// Where the build is.
    pub origin: Origin,
    /// The error, its whole chain in one line.
    pub error: String,
    /// When it was found.
    pub since: SystemTime,
}

/// One tenant's live tools, and the builds that are not.
#[derive(Debug, Default)]
pub struct Catalog {
    components: BTreeMap<String, Arc<Revision>>,
    /// Those of components, and of mounts where no component has the name.
    tools: BTreeMap<ToolName, Arc<Tool>>,
    lists: CatalogLists,
    problems: BTreeMap<String, Problem>,
    mounts: BTreeMap<Arc<str>, Arc<MountedTools>>,
    /// Builds that are not live, for callers that name them.
    pinned: BTreeMap<BuildId, Arc<Revision>>,
}

impl Catalog {
    /// The tool of this name.
    pub fn tool(&self, name: &ToolName) -> Option<Arc<Tool>> {
        self.tools.get(name).cloned()
    }

    /// All tools, by name.
    pub fn tools(&self) -> impl ExactSizeIterator<Item = &Arc<Tool>> {
        self.tools.values()
    }

    /// The tools after `name`, by name; all if there is none.
    pub fn tools_after(&self, name: Option<&ToolName>) -> impl Iterator<Item = &Arc<Tool>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.tools.range((name.map_or(Unbounded, Excluded), Unbounded)).map(|(_, tool)| tool)
    }

    /// The live revision of a component.
    pub fn component(&self, name: &str) -> Option<&Arc<Revision>> {
        self.components.get(name)
    }

    /// All live revisions, by component.
    pub fn components(&self) -> impl ExactSizeIterator<Item = &Arc<Revision>> {
        self.components.values()
    }

    /// Resources, templates and prompts of all components.
    pub fn lists(&self) -> &CatalogLists {
        &self.lists
    }

    /// This catalog with other lists of a component, if that very revision still serves.
    pub(super) fn with_lists(
        &self,
        service: &Arc<PrimitiveService>,
        lists: Arc<ComponentLists>,
    ) -> Result<Self, InstallError> {
        let mut next = self.clone_maps();
        let live = self.components.get(service.component()).and_then(|revision| revision.primitives.as_ref());
        if live.is_some_and(|live| Arc::ptr_eq(live, service)) {
            next.lists = self.lists.with(service.component(), lists)?;
        }
        Ok(next)
    }

    /// The names of the tenant's tools and components.
    pub fn names(&self) -> Names {
        let tools = self.tools.keys().map(|name| name.as_str().to_owned()).collect();
        Names { tools, components: self.components.keys().cloned().collect() }
    }

    /// Why the newest builds of some components are not live.
    pub fn problems(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.problems.values()
    }

    /// This catalog with `revision` in the place of the component's last one.
    pub fn with(&self, revision: Revision) -> Result<Self, InstallError> {
        let name = revision.name.as_str().to_owned();
        if let Some(before) = self.components.get(&name)
            && before.origin != revision.origin
        {
            return Err(InstallError::ComponentTaken { name, owner: describe(&before.origin) });
        }
        let mut next = self.of_components();
        next.remove(&name);
        for tool in &revision.tools {
            if let Some(owner) = next.tools.insert(tool.name.clone(), Arc::clone(tool)) {
                return Err(InstallError::NameTaken {
                    tool: tool.name.to_string(),
                    owner: owner.component.to_string(),
                });
            }
        }
        next.lists = next.lists.with(&name, Arc::clone(&revision.lists))?;
        next.components.insert(name, Arc::new(revision));
        Ok(next.with_mounts())
    }

    /// Refuses one more component from a file where there are `most` already.
    pub fn check_room(&self, component: &str, most: u64) -> Result<(), InstallError> {
        let others = self
            .components
            .iter()
            .filter(|(name, revision)| matches!(revision.origin, Origin::File(_)) && name.as_str() != component);
        if u64::try_from(others.count()).unwrap_or(u64::MAX) >= most {
            return Err(InstallError::TooManyComponents(most));
        }
        Ok(())
    }

    /// This catalog without a component and its problem.
    pub fn without(&self, component: &str) -> Self {
        let mut next = self.of_components();
        next.remove(component);
        next.with_mounts()
    }

    fn remove(&mut self, component: &str) {
        self.problems.remove(component);
        self.lists = self.lists.without(component);
        if let Some(before) = self.components.remove(component) {
            self.pinned.insert(before.build(), before);
            self.tools.retain(|_, tool| &*tool.component != component);
        }
    }

    /// This catalog with a problem noted.
    pub fn with_problem(&self, problem: Problem) -> Self {
        let mut next = self.clone_maps();
        next.problems.insert(problem.component.clone(), problem);
        next
    }

    /// This catalog once more.
    pub(super) fn clone_maps(&self) -> Self {
        Self {
            components: self.components.clone(),
            tools: self.tools.clone(),
            lists: self.lists.clone(),
            problems: self.problems.clone(),
            mounts: self.mounts.clone(),
            pinned: self.pinned.clone(),
        }
    }

    /// What a client that knows `other` would see changed: whether the tools, and which of the other lists.
    pub fn difference(&self, other: &Self) -> (bool, ListsChanged) {
        (!self.lists_the_same(other), self.lists.difference(&other.lists))
    }

    /// Whether a client that knows `other` would see no difference among the tools.
    fn lists_the_same(&self, other: &Self) -> bool {
        self.tools.len() == other.tools.len()
            && self.tools.values().zip(other.tools.values()).all(|(a, b)| Arc::ptr_eq(a, b) || a.lists_the_same(b))
    }
}

/// Where a component is from, for an error.
fn describe(origin: &Origin) -> String {
    match origin {
        Origin::BuiltIn => "this program itself".to_owned(),
        Origin::File(path) => path.display().to_string(),
        Origin::Mount => "another host".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_the_topics_of_others_that_the_grant_names_and_for_none_without_one() {
        let own = ComponentName::new("own").expect("legal");
        let grant = |text: &str| toml::from_str::<ComponentGrant>(text).expect("a grant");
        let granted = grant("subscribe = ['orders/paid', 'orders/sent', 'queue/*', 'own/run']");
        let told = |text: &str, grant: &ComponentGrant| {
            let topics = check_topics(&own, text.to_owned(), grant).map_err(|error| error.to_string())?;
            Ok::<_, String>(topics.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(told("*", &granted).expect("legal"), ["orders/paid", "orders/sent", "queue/*"]);
        assert_eq!(told("orders/*", &granted).expect("legal"), ["orders/paid", "orders/sent"]);
        assert_eq!(told("queue/*", &granted).expect("legal"), ["queue/*"]);
        assert_eq!(told("queue/ended", &granted).expect("granted"), ["queue/ended"]);
        assert_eq!(told("run", &granted).expect("its own"), ["own/run"]);
        for wildcard in ["*", "orders/*", "other/*"] {
            assert!(told(wildcard, &grant("")).expect("legal").is_empty(), "{wildcard}");
        }
        assert!(told("orders/paid", &grant("")).is_err());
        for wrong in ["own/*", "*/*", "*/paid", "/*", "orders/p*"] {
            assert!(told(wrong, &granted).expect_err(wrong).contains("which is not a topic"), "{wrong}");
        }
    }
}
