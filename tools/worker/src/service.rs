//! The services of this worker: each serves one queue, with a list of tools, for the caller that set it up.

use std::collections::BTreeMap;

use mcpp_tool::{
    rights::Rights,
    store::{Map, StoreError, Transaction, View},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{beat, bound, docker, held};

/// Most services of a tenant.
pub const MAX_SERVICES: usize = 4;
/// Most tasks of all services of a tenant at once: each has a handler, as each service has and the beat, and the host runs 16 handlers of a component at once.
pub const MAX_TASKS: u32 = 10;
/// Longest name of a service, in bytes.
const MAX_NAME_BYTES: usize = 40;
/// Most entries of a service's list of tools, and of its types.
const MAX_ENTRIES: usize = 60;
/// Longest name of a tool or type, in bytes.
const MAX_ENTRY_BYTES: usize = 200;
/// Longest time of a call, in seconds: what a handler may take, less what it needs to report.
pub const MAX_TIMEOUT_S: u64 = 3_500;

/// The type of a task that names its tool itself.
pub const TOOL_CALL: &str = "tool.call";
/// The tool of a queue.
pub const QUEUE: &str = "task_queue.rpc";

/// Why the worker did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// An argument is not of its form; which, and what would be right.
    #[error("{0}")]
    Invalid(String),
    /// There is no such service.
    #[error("service {0:?} not found")]
    NoService(String),
    /// The service still has tasks.
    #[error("service {0:?} has {1} tasks; drain it first, or hand them over")]
    Busy(String, u64),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The peer whose queue it serves; none for this host's own.
    pub peer: Option<String>,
    /// The tools that its tasks may call: names, and prefixes that end in `*`.
    pub tools: Vec<String>,
    /// The tool for each further type of task; a task's payload is its arguments.
    pub types: BTreeMap<String, String>,
    /// Whether it serves tasks that name their tool.
    pub tool_calls: bool,
    /// Whether it serves tasks that run containers.
    #[serde(default)]
    pub docker: bool,
    /// Tasks that it has at once.
    pub concurrency: u32,
    /// Longest time of a call, in seconds.
    pub timeout_s: u64,
    /// What the caller that set it up may use.
    pub rights: Rights,
    /// That caller.
    pub by: String,
    /// Whether it claims no more.
    pub is_draining: bool,
    /// When it was set up, in milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
}

/// What became of a service's tasks, since it was set up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Claimed.
    pub claimed: u64,
    /// Completed.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
    /// Given back.
    pub released: u64,
    /// Ended after the queue had given them to another worker or cancelled them, or the queue could not be told for ten minutes.
    pub lost: u64,
    /// Claims in a row without an answer.
    pub failures: u32,
    /// When its claimer last looked, in milliseconds since 1970-01-01 UTC.
    pub looked_ms: u64,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// The services by name.
pub const SERVICES: Map<String, Service> = Map::new("worker-services");
/// What became of their tasks.
pub const TALLIES: Map<String, Tally> = Map::new("worker-tallies");

impl Service {
    /// What a task of this service calls, and within what rights; or why it may not.
    pub fn call(&self, task: &Value) -> Result<(String, Value, Rights), String> {
        let text = |name: &str| task.get(name).and_then(Value::as_str).unwrap_or_default();
        let payload = task.get("payload").cloned().unwrap_or_default();
        let (tool, arguments) = match self.types.get(text("task_type")) {
            Some(tool) => (tool.clone(), payload),
            None if self.tool_calls && is_tool_call(text("task_type")) => {
                let tool = ["tool", "tool_name", "name"].iter().find_map(|name| payload.get(*name)?.as_str());
                let tool = tool.ok_or("the payload has no `tool`")?.to_owned();
                let arguments = ["args", "arguments", "params"].iter().find_map(|name| payload.get(*name)).cloned();
                (tool, arguments.filter(|arguments| !arguments.is_null()).unwrap_or_else(|| serde_json::json!({})))
            }
            None if self.docker && docker::tool_of(text("task_type")).is_some() => {
                (docker::tool_of(text("task_type")).unwrap_or_default().to_owned(), payload)
            }
            None => return Err(format!("this worker does not serve the type {:?}", text("task_type"))),
        };
        if !arguments.is_object() {
            return Err("the arguments are no object".to_owned());
        }
        let submitter = match (bound::of_submitter(task), &self.peer) {
            (Some(rights), _) => rights,
            // A queue of another program says nothing of its submitters: they have what the service lets that peer have.
            (None, Some(_)) if task.get("reach").is_none() => Rights(None),
            (None, _) => return Err("it is not known what its submitter may use: submit it again".to_owned()),
        };
        let own = bound::common(&self.rights, &Rights(Some(self.tools.clone())));
        let rights = bound::common(&own, &submitter);
        if !rights.allow(&tool) {
            return Err(match submitter.allow(&tool) {
                true => format!("this service may not call {tool:?}"),
                false => format!("the submitter of the task may not call {tool:?}"),
            });
        }
        Ok((tool, arguments, rights))
    }

    /// The types that it claims.
    pub fn claims(&self) -> Vec<&str> {
        let docker = docker::TYPES.iter().map(|(task_type, _)| *task_type).filter(|_| self.docker);
        self.types.keys().map(String::as_str).chain(self.tool_calls.then_some(TOOL_CALL)).chain(docker).collect()
    }

    /// Checks it, with its name.
    pub fn check(&self, name: &str) -> Result<(), WorkerError> {
        let refuse = |reason: String| Err(WorkerError::Invalid(reason));
        let is_name = |text: &str, most: usize| (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
        if !is_name(name, MAX_NAME_BYTES) || !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            return refuse(format!("service must have 1 to {MAX_NAME_BYTES} letters, digits, `.`, `_` or `-`"));
        }
        if let Some(peer) = self.peer.as_deref().filter(|peer| !is_peer(peer)) {
            let shown: String = peer.chars().take(40).collect();
            return refuse(format!(
                "peer_id {shown:?} is no id of a peer: it is base58 of 40 to 128 characters, such as 12D3KooW…"
            ));
        }
        if self.tools.is_empty() || self.tools.len() > MAX_ENTRIES || self.types.len() > MAX_ENTRIES {
            return refuse(format!("tools must have 1 to {MAX_ENTRIES} entries, and types at most {MAX_ENTRIES}"));
        }
        let is_pattern =
            |text: &String| is_name(text, MAX_ENTRY_BYTES) && !text.strip_suffix('*').unwrap_or(text).contains('*');
        if let Some(wrong) = self.tools.iter().find(|tool| !is_pattern(tool)) {
            return refuse(format!("{wrong:?} is no name of a tool, nor a prefix that ends in `*`"));
        }
        let own = bound::common(&self.rights, &Rights(Some(self.tools.clone())));
        for (task_type, tool) in &self.types {
            if !is_name(task_type, MAX_ENTRY_BYTES) || is_tool_call(task_type) || docker::tool_of(task_type).is_some() {
                return refuse(format!("{task_type:?} is no type that can be given a tool"));
            }
            if !own.allow(tool) {
                return refuse(format!(
                    "the tool {tool:?} of {task_type:?} is not one of `tools`, or not one that you may use"
                ));
            }
        }
        if self.docker && !docker::TYPES.iter().any(|(_, tool)| own.allow(tool)) {
            return refuse("tasks of containers run as the tools `docker_execute` and `docker_github`; `tools` has neither, or you may use neither".to_owned());
        }
        if self.claims().is_empty() {
            return refuse("it serves nothing: name types, or let tool_calls be true".to_owned());
        }
        if !(1..=MAX_TASKS).contains(&self.concurrency) || !(1..=MAX_TIMEOUT_S).contains(&self.timeout_s) {
            return refuse(format!("concurrency must be 1 to {MAX_TASKS}, and timeout_s 1 to {MAX_TIMEOUT_S}"));
        }
        if !self.rights.allow(QUEUE) {
            return refuse(format!("a service claims by `{QUEUE}`, which you may not use"));
        }
        Ok(())
    }
}

/// Whether a text has the form of a peer's id: base58 of at least a hash.
fn is_peer(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() && !matches!(byte, b'0' | b'O' | b'I' | b'l');
    (40..=128).contains(&text.len()) && text.bytes().all(is_digit)
}

/// Whether a type is that of a task that names its tool, by any of its names.
fn is_tool_call(task_type: &str) -> bool {
    matches!(task_type, TOOL_CALL | "tool" | "tool_call" | "tool-call")
}

/// Sets a service up, or changes it; its claimer begins.
pub fn serve(t: &Transaction<'_>, name: &str, service: &Service, now_ms: u64) -> Result<(), WorkerError> {
    service.check(name)?;
    let mut others = services(t)?;
    others.retain(|(other, _)| other != name);
    let taken: u32 = others.iter().map(|(_, other)| other.concurrency).sum();
    if others.len() >= MAX_SERVICES || taken.saturating_add(service.concurrency) > MAX_TASKS {
        return Err(WorkerError::Invalid(format!(
            "there may be {MAX_SERVICES} services, with {MAX_TASKS} tasks at once together; {} have {taken}",
            others.len()
        )));
    }
    let known = SERVICES.get(t, name)?;
    if known.is_some_and(|known| known.peer != service.peer) && held::count(t, name)? > 0 {
        return Err(WorkerError::Busy(name.to_owned(), held::count(t, name)?));
    }
    SERVICES.set(t, &name.to_owned(), service)?;
    // What went wrong before went wrong with the service that it was.
    note(t, name, |tally| (tally.failures, tally.last_error) = (0, None))?;
    t.wake_at(&format!("c:{name}"), now_ms, b"")?;
    Ok(beat::BEAT.by(t, now_ms.saturating_add(beat::BEAT_MS), now_ms)?)
}

/// All services.
pub fn services(t: &View<'_>) -> Result<Vec<(String, Service)>, StoreError> {
    SERVICES.all().walk(t).collect()
}

/// The service of this name.
pub fn find(t: &View<'_>, name: &str) -> Result<Service, WorkerError> {
    SERVICES.get(t, name)?.ok_or_else(|| WorkerError::NoService(name.chars().take(MAX_NAME_BYTES).collect()))
}

/// Notes what became of tasks.
pub fn note(t: &Transaction<'_>, name: &str, change: impl FnOnce(&mut Tally)) -> Result<(), StoreError> {
    let mut tally = TALLIES.get(t, name)?.unwrap_or_default();
    change(&mut tally);
    tally.last_error = tally.last_error.map(|error| error.chars().take(500).collect());
    TALLIES.set(t, &name.to_owned(), &tally)
}
