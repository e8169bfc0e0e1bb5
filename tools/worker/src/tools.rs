//! The tools: what this worker serves, and what becomes of it.
#![allow(missing_docs, reason = "a tool's doc comment is its description, and its parameters have their own")]

use std::collections::BTreeMap;

use mcpp_tool::{
    Envelope, Failure,
    caller::caller,
    environment::{now_ms, rfc3339},
    mesh, rights,
    store::{snapshot, transact},
    tool,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    beat::all,
    claimer::give_back,
    held::{self, HELD, Held, Stage},
    service::{self, SERVICES, Service, TALLIES, Tally, WorkerError, find, services},
};

/// A service, as it is shown.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Shown {
    /// Its name.
    service: String,
    /// The peer whose queue it serves; null for this host's own.
    peer_id: Option<String>,
    /// `serving`, `draining` (it has tasks and claims no more), or `drained`.
    status: &'static str,
    /// The tools that its tasks may call.
    tools: Vec<String>,
    /// The tool for each type of task.
    types: BTreeMap<String, String>,
    /// Whether it serves tasks that name their tool.
    tool_calls: bool,
    /// Whether it serves tasks that run containers.
    docker: bool,
    /// Tasks that it may have at once.
    concurrency: u32,
    /// Longest time of a call, in seconds.
    timeout_s: u64,
    /// The caller that set it up; tasks run within that caller's rights too.
    set_up_by: String,
    /// When, as RFC 3339.
    since: String,
    /// The tasks that it has.
    tasks: Vec<ShownTask>,
    /// Tasks that it claimed.
    claimed: u64,
    completed: u64,
    failed: u64,
    /// Tasks that it gave back.
    released: u64,
    /// Tasks whose end was of no use any more: cancelled, or another worker's.
    lost: u64,
    /// The last thing that went wrong.
    last_error: Option<String>,
}

/// A task of a service.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ShownTask {
    task_id: String,
    task_type: String,
    /// `claimed`, `running`, `ended` (its queue does not know yet), or `lost`.
    stage: &'static str,
    /// The claim's number at the queue; it rises with every claim of the task.
    fencing_token: Option<u64>,
    /// When it was claimed, as RFC 3339.
    since: String,
}

impl From<Held> for ShownTask {
    fn from(held: Held) -> Self {
        Self {
            task_id: held.task_id().to_owned(),
            task_type: held.task.get("task_type").and_then(|name| name.as_str()).unwrap_or_default().to_owned(),
            stage: match held.stage {
                Stage::Claimed => "claimed",
                Stage::Running { .. } => "running",
                Stage::Ended { .. } => "ended",
                Stage::Lost => "lost",
            },
            fencing_token: held.task.get("fencing_token").and_then(serde_json::Value::as_u64),
            since: rfc3339(held.since_ms),
        }
    }
}

fn show(name: String, service: Service, tally: Tally, tasks: Vec<ShownTask>) -> Shown {
    Shown {
        status: match (service.is_draining, tasks.is_empty()) {
            (false, _) => "serving",
            (true, false) => "draining",
            (true, true) => "drained",
        },
        service: name,
        peer_id: service.peer,
        tools: service.tools,
        types: service.types,
        tool_calls: service.tool_calls,
        docker: service.docker,
        concurrency: service.concurrency,
        timeout_s: service.timeout_s,
        set_up_by: service.by,
        since: rfc3339(service.since_ms),
        tasks,
        claimed: tally.claimed,
        completed: tally.completed,
        failed: tally.failed,
        released: tally.released,
        lost: tally.lost,
        last_error: tally.last_error,
    }
}

fn shown(name: &str) -> Result<Shown, WorkerError> {
    let tasks = all()?.into_iter().filter(|(_, held)| held.service == name).map(|(_, held)| held.into()).collect();
    let t = snapshot()?;
    Ok(show(name.to_owned(), find(&t, name)?, TALLIES.get(&t, name)?.unwrap_or_default(), tasks))
}

fn answer<T>(name: &str, result: Result<T, WorkerError>) -> Envelope<T> {
    result.map_err(|error| Failure::new(error).with("service", name)).into()
}

/// Has this worker serve a queue: it claims tasks there and runs each as a call of a tool, until `worker_drain`. Called again, it changes the service.
///
/// A task calls what its submitter, you and `tools` allow, and nothing else.
#[tool(idempotent)]
#[allow(clippy::too_many_arguments, reason = "a service has these")]
pub fn worker_serve(
    /// The service's name: letters, digits, `.`, `_` or `-`.
    service: String,
    /// The tools that tasks may call: names, and prefixes that end in `*`.
    tools: Vec<String>,
    /// The peer whose queue is served; this host's own if empty, or if it is this host's id.
    #[arg(default)]
    peer_id: String,
    /// The tool for each further type of task; the payload is its arguments.
    #[arg(default)]
    types: BTreeMap<String, String>,
    /// Whether tasks of the type `tool.call` are served, which name their tool and arguments.
    #[arg(default = true)]
    tool_calls: bool,
    /// Whether tasks of the types `docker.execute` and `docker.github` are served, which run containers on this host; `tools` names `docker_execute` or `docker_github` then.
    #[arg(default)]
    docker: bool,
    /// Tasks at once, 1 to 10; all services together have 10.
    #[arg(default = 2)]
    concurrency: u32,
    /// Longest time of a call, in seconds, 1 to 3,500.
    #[arg(default = 300)]
    timeout_s: u64,
) -> Envelope<Shown> {
    let now = now_ms();
    let new = Service {
        peer: Some(peer_id.trim().to_owned()).filter(|peer| !peer.is_empty() && !is_this_host(peer)),
        tools,
        types,
        tool_calls,
        docker,
        concurrency,
        timeout_s,
        rights: rights::of_caller(),
        by: caller().subject,
        is_draining: false,
        since_ms: now,
    };
    let done = transact(|t| service::serve(t, &service, &new, now));
    answer(&service, done.and_then(|()| shown(&service)))
}

fn is_this_host(peer: &str) -> bool {
    mesh::identify().is_ok_and(|host| host.id == peer)
}

/// Has a service claim no more tasks. It ends the ones that it has, or gives them back to the queue, so that another worker runs them.
#[tool(idempotent)]
pub fn worker_drain(
    /// The service; all of them if empty.
    #[arg(default)]
    service: String,
    /// Whether it gives back what it has, running tasks too. What their calls still do is of no use then.
    #[arg(default)]
    hand_over: bool,
) -> Envelope<Drained> {
    answer(&service, drain(&service, hand_over))
}

/// What a service that leaves still has.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Drained {
    /// Services that claim no more.
    services: Vec<String>,
    /// Tasks that they gave back.
    handed_over: u64,
    /// Tasks that they still run.
    running: u64,
}

fn drain(only: &str, hand_over: bool) -> Result<Drained, WorkerError> {
    let is_meant = |name: &str| only.is_empty() || only == name;
    let names = transact(|t| {
        let mut names = Vec::new();
        for (name, mut service) in services(t)?.into_iter().filter(|(name, _)| is_meant(name)) {
            service.is_draining = true;
            SERVICES.set(t, &name, &service)?;
            names.push(name);
        }
        match names.is_empty() && !only.is_empty() {
            true => find(t, only).map(|_| names),
            false => Ok(names),
        }
    })?;
    let (mut handed_over, mut running) = (0, 0);
    for (id, held) in all()?.into_iter().filter(|(_, held)| is_meant(&held.service)) {
        let is_open = matches!(held.stage, Stage::Claimed | Stage::Running { .. });
        if !hand_over || !is_open {
            running += u64::from(is_open);
            continue;
        }
        // First it is lost here, so that this worker tells of no end after the queue has it back.
        let service = transact(|t| {
            let mut is_taken = false;
            HELD.change(t, &id, |held| {
                is_taken = matches!(held.stage, Stage::Claimed | Stage::Running { .. });
                if is_taken {
                    held.stage = Stage::Lost;
                }
            })?;
            Ok::<_, WorkerError>(SERVICES.get(t, &held.service)?.filter(|_| is_taken))
        })?;
        if let Some(service) = service {
            give_back(&held.service, &service, &held, "the worker leaves")?;
            handed_over += 1;
        }
    }
    Ok(Drained { services: names, handed_over, running })
}

/// Removes a service that has no tasks any more.
#[tool(idempotent, destructive)]
pub fn worker_remove(
    /// The service.
    service: String,
) -> Envelope<Removed> {
    let removed = transact(|t| {
        find(t, &service)?;
        match held::count(t, &service)? {
            0 => {
                SERVICES.remove(t, &service)?;
                TALLIES.remove(t, &service)?;
                t.cancel_wake(&format!("c:{service}"))?;
                Ok(Removed { service: service.clone() })
            }
            tasks => Err(WorkerError::Busy(service.clone(), tasks)),
        }
    });
    answer(&service, removed)
}

/// A service that is gone.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Removed {
    service: String,
}

/// The services of this worker.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Listed {
    services: Vec<Shown>,
}

/// Shows what this worker serves, what it has, and what became of it.
#[tool(read_only)]
pub fn worker_services() -> Envelope<Listed> {
    let listed = (|| {
        let names: Vec<String> = services(&snapshot()?)?.into_iter().map(|(name, _)| name).collect();
        let services = names.iter().map(|name| shown(name)).collect::<Result<_, _>>()?;
        Ok(Listed { services })
    })();
    answer("", listed)
}
