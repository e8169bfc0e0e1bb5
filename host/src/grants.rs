//! The operator's permissions and budgets: a folder for each tenant, a file in it for each component.
//!
//! A grant says what a component may do beyond the harmless minimum. The host refuses an unknown key and never ignores it: a rule that the host cannot
//! enforce must not look as if it were enforced. Only the operator writes these files; no tool call changes them.

pub mod container;
pub mod edit;
pub mod files;
pub mod http;
pub mod ledger;
pub mod mesh;
pub mod question;
pub mod secrets;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use self::{container::ContainerGrant, files::FolderGrants, http::HttpRules, mesh::MeshGrant, secrets::SecretGrants};
use crate::{
    limits::{Fuel, Limits, LimitsPatch, Reuse, TaskSupport},
    names::{ToolName, ToolPattern, TopicPattern},
};

/// The version of the file format that this host reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// A file larger than this is a mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most entries of each list of tools and topics. The host compares lists entry by entry with each other.
const MAX_ENTRIES: usize = 1_000;

/// One tenant's grants, by component. A file that cannot be read or is not valid is an error of that component alone.
#[derive(Debug, Clone, Default)]
pub struct Grants(BTreeMap<String, Result<ComponentGrant, Arc<GrantsError>>>);

/// Permissions of one component.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentGrant {
    /// The version of the format; only files have one.
    #[serde(default)]
    pub version: u32,
    /// Tools that the host offers, by the component's names for them: names, or prefixes that end in `*`; all by default.
    #[serde(default)]
    pub expose: Option<Vec<ToolPattern>>,
    /// New names of its tools, by the component's names for them.
    #[serde(default)]
    pub rename: BTreeMap<String, ToolName>,
    /// The tools it may call: names, or prefixes that end in `*`.
    #[serde(default)]
    pub call: Vec<ToolPattern>,
    /// The component's own store, with events and timers.
    #[serde(default)]
    pub store: Option<StoreGrant>,
    /// The topics of other components that it may subscribe to: `<component>/<name>`, or `<component>/*`.
    #[serde(default)]
    pub subscribe: Vec<TopicPattern>,
    /// The host's directories that it may see.
    #[serde(default)]
    pub files: FolderGrants,
    /// Settings that the component reads through `wasi:config`.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// The requests that it may make over HTTP.
    #[serde(default)]
    pub http: HttpRules,
    /// The secrets that the host may put into its requests, and where those may go.
    #[serde(default)]
    pub secrets: SecretGrants,
    /// What it may see of the host's peers, and do with them.
    #[serde(default)]
    pub mesh: MeshGrant,
    /// What it may run in containers.
    #[serde(default)]
    pub container: Option<ContainerGrant>,
    /// Budgets that differ from the host's defaults.
    #[serde(default)]
    pub limits: LimitsPatch,
    /// Reuse of its tools' instances: for how many calls and how long; never by default.
    #[serde(default)]
    pub reuse: Option<Reuse>,
    /// When calls of its tools become tasks, if not as the component says.
    #[serde(default)]
    pub task: Option<TaskSupport>,
    /// Exceptions for single tools, by the names that clients see.
    #[serde(default)]
    pub tools: BTreeMap<String, ToolGrant>,
}

impl ComponentGrant {
    /// Whether the host counts its fuel: one of its tools has a limit of fuel.
    pub fn fuel(&self, defaults: &Limits) -> Fuel {
        let limited =
            defaults.patched(&self.limits).fuel.is_some() || self.tools.values().any(|tool| tool.limits.fuel.is_some());
        if limited { Fuel::Counted } else { Fuel::Uncounted }
    }

    /// Whether `now` lacks something that this grant gives. In doubt the answer is yes, so that the host withdraws a component that serves with more than
    /// its grant.
    pub fn has_lost(&self, now: &Self) -> bool {
        let fewer_tools = now.expose.is_some() && now.expose != self.expose;
        fewer_tools
            || self.store.is_some() && now.store.is_none()
            || !self.call.iter().all(|pattern| now.call.contains(pattern))
            || !self.subscribe.iter().all(|pattern| now.subscribe.contains(pattern))
            || !self.config.iter().all(|(key, value)| now.config.get(key) == Some(value))
            || !self.files.are_within(&now.files)
            || !self.http.are_within(&now.http)
            || !self.secrets.are_within(&now.secrets)
            || !self.mesh.is_within(&now.mesh)
            || self.container.as_ref().is_some_and(|had| !now.container.as_ref().is_some_and(|now| had.is_within(now)))
    }
}

/// A component's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreGrant {
    /// Most bytes of keys, values and waiting deliveries.
    pub quota_bytes: u64,
}

impl Default for StoreGrant {
    fn default() -> Self {
        Self { quota_bytes: 256 << 20 }
    }
}

/// Budgets and reuse of one tool of a component.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolGrant {
    /// Budgets that differ from the component's.
    #[serde(default)]
    pub limits: LimitsPatch,
    /// Reuse of the tool's instances.
    #[serde(default)]
    pub reuse: Option<Reuse>,
    /// When calls of the tool become tasks.
    #[serde(default)]
    pub task: Option<TaskSupport>,
}

/// Reason for which the host refused a grant.
#[derive(Debug, thiserror::Error)]
pub enum GrantsError {
    /// The host could not read it.
    #[error("cannot read the grant {path}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is too large.
    #[error("the grant {path} has {bytes} bytes; at most {MAX_FILE_BYTES} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It is not a grant.
    #[error("the grant {path} is not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Place and reason.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// It is of another version.
    #[error("the grant {path} has version {found}; this host reads version {FORMAT_VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl Grants {
    /// Reads a folder of files `NAME.toml`; a folder that does not exist grants nothing.
    pub fn load(folder: &Path) -> Result<Self, GrantsError> {
        let read = |source| GrantsError::Read { path: folder.to_owned(), source };
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(read(error)),
        };
        let mut grants = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(read)?.path();
            if let Some(component) = component_of(&path) {
                grants.insert(component, ComponentGrant::load(&path).map_err(Arc::new));
            }
        }
        Ok(Self(grants))
    }

    /// Permissions of `component`, if a file exists for it.
    pub fn of(&self, component: &str) -> Option<Result<ComponentGrant, Arc<GrantsError>>> {
        self.0.get(component).cloned()
    }

    /// The files that are not valid, by component.
    pub fn errors(&self) -> impl Iterator<Item = (&str, &GrantsError)> {
        self.0.iter().filter_map(|(component, grant)| Some((component.as_str(), &**grant.as_ref().err()?)))
    }

    /// These grants, but with `before`'s grant where the file is not valid now. A slip of the operator's pen takes nothing away.
    #[must_use]
    pub fn or_as_before(mut self, before: &Self) -> Self {
        for (component, grant) in &mut self.0 {
            if let (Err(_), Some(Ok(known))) = (&grant, before.0.get(component)) {
                *grant = Ok(known.clone());
            }
        }
        self
    }
}

/// The component that a file in a folder of grants belongs to. Hidden files are an editor's and do not count.
fn component_of(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    (path.extension()? == "toml" && !stem.starts_with('.')).then(|| stem.to_owned())
}

impl ComponentGrant {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, GrantsError> {
        let read = |source| GrantsError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(GrantsError::TooLarge { path: path.to_owned(), bytes });
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(read)?)
    }

    /// Takes a file's text; `path` is for errors.
    pub fn parse(path: &Path, text: &str) -> Result<Self, GrantsError> {
        let parse = |source| GrantsError::Parse { path: path.to_owned(), source: Box::new(source) };
        // The version comes first: a file of another version has other keys, and saying so is more use than naming the first of them.
        let table: toml::Table = toml::from_str(text).map_err(parse)?;
        if let Some(found) = table.get("version").and_then(toml::Value::as_integer)
            && found != i64::from(FORMAT_VERSION)
        {
            return Err(GrantsError::Version {
                path: path.to_owned(),
                found: u32::try_from(found).unwrap_or(u32::MAX),
            });
        }
        if !table.contains_key("version") {
            return Err(parse(serde::de::Error::missing_field("version")));
        }
        let grant: Self = toml::from_str(text).map_err(parse)?;
        let expose = grant.expose.as_ref().map_or(0, Vec::len);
        let lists = [("expose", expose), ("call", grant.call.len()), ("subscribe", grant.subscribe.len())];
        match lists.into_iter().find(|(_, entries)| *entries > MAX_ENTRIES) {
            Some((list, entries)) => {
                let reason = format!("`{list}` has {entries} entries; at most {MAX_ENTRIES} are read");
                Err(parse(serde::de::Error::custom(reason)))
            }
            None => Ok(grant),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ComponentGrant, String> {
        ComponentGrant::parse(Path::new("grants/a.toml"), text).map_err(|error| {
            let source = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
            format!("{error}{source}")
        })
    }

    #[test]
    fn what_is_written_is_what_is_granted() {
        let grant = parse("version = 1\ncall = ['hash_*', 'echo']\n[limits]\nmemory_bytes = 1048576\n").expect("valid");
        let may = |name: &str| grant.call.iter().any(|pattern| pattern.matches(&ToolName::new(name).expect("legal")));
        assert!(may("hash_text") && may("echo") && !may("echo2") && !may("other"));
    }

    #[test]
    fn a_grant_that_lost_something_is_told_from_one_that_gained() {
        let full = "version = 1\ncall = ['a', 'b']\nstore = {}\nsubscribe = ['x/*']\nconfig = { k = 'v' }\n\
                    files = [{ path = '/srv', at = '/srv', mode = 'read' }]\n\
                    http = [{ url = 'https://a.com' }]\nsecrets = { A = ['https://a.com'] }\nmesh = { see = true }\n\
                    container = { images = ['python:*'] }\n";
        let before = parse(full).expect("valid");
        let more = full
            .replace("'b']", "'b', 'c']")
            .replace("k = 'v'", "k = 'v', l = 'w'")
            .replace("'https://a.com' }", "'https://a.com' }, { url = 'https://b.com' }");
        for (now, lost) in [
            (full.to_owned(), false),
            (more, false),
            (format!("{full}rename = {{ a_b = 'c' }}\n[limits]\nmemory_bytes = 1048576\n"), false),
            (full.replace("'b']", "]"), true),
            (full.replace("store = {}\n", ""), true),
            (full.replace("subscribe = ['x/*']\n", ""), true),
            (full.replace("k = 'v'", "k = 'w'"), true),
            (full.replace("path = '/srv'", "path = '/tmp'"), true),
            (full.replace("url = 'https://a.com'", "url = 'https://b.com'"), true),
            (full.replace("A = [", "B = ["), true),
            (full.replace("see = true", "see = false"), true),
            (full.replace("['python:*']", "['node:*', 'python:*']"), false),
            (full.replace("python", "node"), true),
            (full.replace("container = { images = ['python:*'] }\n", ""), true),
            (format!("expose = ['a']\n{full}"), true),
            ("version = 1".to_owned(), true),
        ] {
            let now = parse(&now).unwrap_or_else(|error| panic!("{error}: {now}"));
            assert_eq!(before.has_lost(&now), lost, "{now:?}");
        }
        assert!(!ComponentGrant::default().has_lost(&before));
    }

    #[test]
    fn the_documented_grants_are_valid() {
        let page = include_str!("../docs/grants.md");
        let (_, from) = page.split_once("```toml\nversion = 1\n").expect("the page shows a grant");
        let (text, _) = from.split_once("```").expect("it ends");
        let grant = parse(&format!("version = 1\n{text}")).expect("valid");
        assert!(grant.expose.is_some_and(|expose| expose.len() == 1) && grant.rename.len() == 1);
        let allowed = |method, path| grant.http.check(method, "https", "api.example.com", None, path).is_ok();
        assert!(allowed("POST", "/v1/reports") && !allowed("PUT", "/v1/reports") && !allowed("GET", "/v2"));
        assert!(grant.secrets.names(&crate::secrets::SecretName::new("API_KEY").expect("a name")));
    }

    #[test]
    fn what_cannot_be_enforced_is_refused() {
        for (text, says) in [
            ("", "missing field `version`"),
            ("version = 2\nnew-key = 1", "has version 2"),
            ("version = 1\nallow = 1", "unknown field `allow`"),
            ("version = 1\n[[http]]\nurl = 'https://a.com/v1*'", "which does not allow `/v10`"),
            ("version = 1\n[secrets]\nA = ['a.com']", "has no scheme"),
            ("version = 1\nnetwork = true", "unknown field `network`"),
            ("version = 1\n[limits]\ncpu = 1", "unknown field `cpu`"),
            ("version = 1\nexpose = 'a_*'", "invalid type: string"),
            ("version = 1\nexpose = ['*_a']", "neither a tool name nor a prefix"),
            ("version = 1\nrename = { a_b = 'a b' }", "is not 1 to 128 characters"),
            ("version = 1\ncall = ['a*b']", "neither a tool name nor a prefix"),
            ("version = ", "not valid"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(says), "{text:?} gave {error:?}, which does not say {says:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_valid_concerns_its_component_alone() {
        let folder = std::env::temp_dir().join(format!("mcpp-grants-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("good.toml"), "version = 1\nstore = {}\n").expect("written");
        std::fs::write(folder.join("bad.toml"), "version = 1\nstore = {}\n").expect("written");
        let before = Grants::load(&folder).expect("read");
        std::fs::write(folder.join("bad.toml"), "version = 1\nstored = {}\n").expect("written");
        std::fs::write(folder.join(".good.toml"), "half").expect("written");
        let after = Grants::load(&folder).expect("read");
        std::fs::remove_dir_all(&folder).expect("removed");
        assert!(
            after.of("bad").is_some_and(|grant| grant.is_err()) && after.of("good").is_some_and(|grant| grant.is_ok())
        );
        assert_eq!(after.errors().map(|(component, _)| component).collect::<Vec<_>>(), ["bad"]);
        let kept = after.or_as_before(&before);
        assert!(kept.of("bad").is_some_and(|grant| grant.is_ok_and(|grant| grant.store.is_some())));
        assert!(kept.of("nobody").is_none() && kept.of("").is_none());
    }
}
