//! The payload of a task that runs a container, as the MCP++ programs write it, and the order that it means.

use std::{collections::BTreeMap, time::Duration};

use mcpp_tool::container::{Order, Repository, Source, Volume};
use schemars::JsonSchema;
use serde::Deserialize;

/// How a container runs.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
pub struct RunFields {
    /// The command: its words, or one text that is split at white space.
    #[serde(default, alias = "cmd")]
    pub command: Option<Words>,
    /// The entry point, likewise.
    #[serde(default)]
    pub entrypoint: Option<Words>,
    /// Variables of the environment.
    #[serde(default, alias = "env")]
    pub environment: Option<BTreeMap<String, String>>,
    /// The path in the container for each directory of the worker's host; with `:ro` behind it the container only reads.
    #[serde(default)]
    pub volumes: Option<BTreeMap<String, String>>,
    /// The graphics processors: a number, `all`, or true for all.
    #[serde(default, alias = "gpu")]
    pub gpus: Option<Gpus>,
    /// The most memory: bytes, or a number with `k`, `m` or `g` behind it. What the operator allows is the default and the most.
    #[serde(default)]
    pub memory_limit: Option<Size>,
    /// The most processors, such as 0.5. What the operator allows is the default and the most.
    #[serde(default)]
    pub cpu_limit: Option<Amount>,
    /// The longest time, in seconds.
    #[serde(default = "five_minutes")]
    pub timeout: f64,
    /// The network: `none`, or one that the operator allows.
    #[serde(default)]
    pub network_mode: Option<String>,
    /// The working directory.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Whether the container may not write to its own files.
    #[serde(default)]
    pub read_only: bool,
    /// Always true: a container never gains privileges here.
    #[serde(default = "yes")]
    pub no_new_privileges: bool,
    /// The user.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether lines of the output are reported while it runs.
    #[serde(default = "yes")]
    pub stream_output: bool,
}

/// A task of the type `docker.execute`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
pub struct ExecuteFields {
    /// The image, such as `python:3.12-slim`.
    pub image: String,
    /// How it runs.
    #[serde(flatten)]
    pub run: RunFields,
}

/// A task of the type `docker.github`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
pub struct GithubFields {
    /// The repository, as an `https:` URL.
    #[serde(alias = "repo")]
    pub repo_url: String,
    /// The branch.
    #[serde(default = "main")]
    pub branch: String,
    /// The Dockerfile in the repository, within `context_path`.
    #[serde(default = "dockerfile", alias = "dockerfile")]
    pub dockerfile_path: String,
    /// The folder in the repository that is built.
    #[serde(default = "everything", alias = "context")]
    pub context_path: String,
    /// Arguments of the build.
    #[serde(default)]
    pub build_args: Option<BTreeMap<String, String>>,
    /// How it runs.
    #[serde(flatten)]
    pub run: RunFields,
}

/// Words of a command line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Words {
    /// One text, split at white space.
    Line(String),
    /// The words themselves.
    Words(Vec<String>),
}

/// Graphics processors.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Gpus {
    /// All, or none.
    All(bool),
    /// So many.
    Number(u8),
    /// In words.
    Text(String),
}

/// A size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Size {
    /// In bytes.
    Bytes(u64),
    /// With a unit.
    Text(String),
}

/// A number, perhaps in a text.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Amount {
    /// As it is.
    Number(f64),
    /// In a text.
    Text(String),
}

fn five_minutes() -> f64 {
    300.0
}

fn yes() -> bool {
    true
}

fn main() -> String {
    "main".to_owned()
}

fn dockerfile() -> String {
    "Dockerfile".to_owned()
}

fn everything() -> String {
    ".".to_owned()
}

impl Words {
    fn words(self) -> Vec<String> {
        match self {
            Self::Line(line) => line.split_whitespace().map(str::to_owned).collect(),
            Self::Words(words) => words,
        }
    }
}

impl Size {
    fn bytes(&self) -> Option<u64> {
        let text = match self {
            Self::Bytes(bytes) => return Some(*bytes),
            Self::Text(text) => text.trim().to_ascii_lowercase(),
        };
        let text = text.strip_suffix("ib").or_else(|| text.strip_suffix('b')).unwrap_or(&text);
        let (number, unit) = match text.strip_suffix(['k', 'm', 'g']) {
            Some(number) if text.ends_with('k') => (number, 1 << 10),
            Some(number) if text.ends_with('m') => (number, 1 << 20),
            Some(number) => (number, 1 << 30),
            None => (text, 1),
        };
        let number: f64 = number.trim().parse().ok()?;
        let bytes = number * f64::from(unit);
        (bytes.is_finite() && (1.0..=9e15).contains(&bytes)).then_some(bytes as u64)
    }
}

impl Amount {
    fn thousandths(&self) -> Option<u32> {
        let number = match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.trim().parse().ok()?,
        };
        let thousandths = (number * 1_000.0).round();
        (1.0..=1e9).contains(&thousandths).then_some(thousandths as u32)
    }
}

impl RunFields {
    /// The order that it means, with an image of `source`, for at most `longest`; or what is wrong.
    fn order(self, source: Source, longest: Duration) -> Result<Order, String> {
        if !self.no_new_privileges {
            return Err("`no_new_privileges` cannot be false here".to_owned());
        }
        let timeout = Duration::try_from_secs_f64(self.timeout).ok().filter(|time| *time >= Duration::from_millis(1));
        let timeout = timeout.ok_or_else(|| format!("`timeout` is {}; it must be positive", self.timeout))?;
        let memory = self.memory_limit.map(|size| size.bytes().ok_or_else(|| format!("`memory_limit` is {size:?}")));
        let cpus = self.cpu_limit.map(|cpus| cpus.thousandths().ok_or_else(|| format!("`cpu_limit` is {cpus:?}")));
        let volumes = self.volumes.into_iter().flatten().map(|(host, container)| {
            let (container, read_only) = match container.strip_suffix(":ro") {
                Some(path) => (path.to_owned(), true),
                None => (container.strip_suffix(":rw").unwrap_or(&container).to_owned(), false),
            };
            Volume { host, container, read_only }
        });
        Ok(Order {
            command: self.command.map(Words::words).unwrap_or_default(),
            entrypoint: self.entrypoint.map(Words::words).unwrap_or_default(),
            environment: self.environment.into_iter().flatten().collect(),
            volumes: volumes.collect(),
            network: self.network_mode.unwrap_or_else(|| "none".to_owned()),
            gpus: self.gpus.and_then(|gpus| match gpus {
                Gpus::All(all) => all.then(|| "all".to_owned()),
                Gpus::Number(number) => (number > 0).then(|| number.to_string()),
                Gpus::Text(text) => (!text.is_empty()).then_some(text),
            }),
            memory_bytes: memory.transpose()?,
            cpu_millis: cpus.transpose()?,
            timeout: timeout.min(longest),
            working_dir: self.working_dir,
            user: self.user,
            read_only: self.read_only,
            ..Order::new(source)
        })
    }
}

impl ExecuteFields {
    /// The order that it means.
    ///
    /// # Errors
    /// What is wrong.
    pub fn order(self, longest: Duration) -> Result<Order, String> {
        self.run.order(Source::Image(self.image), longest)
    }
}

impl GithubFields {
    /// The order that it means.
    ///
    /// # Errors
    /// What is wrong.
    pub fn order(self, longest: Duration) -> Result<Order, String> {
        let from = Repository {
            url: self.repo_url,
            branch: self.branch,
            context: self.context_path,
            dockerfile: self.dockerfile_path,
            build_args: self.build_args.into_iter().flatten().collect(),
        };
        self.run.order(Source::Repository(from), longest)
    }
}
