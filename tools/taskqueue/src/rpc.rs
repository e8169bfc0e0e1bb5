//! The task-queue protocol of the MCP++ programs: one request object in, one reply object out, over whatever carries it. Every reply has `ok` and `peer_id`.
//!
//! Ours beyond theirs: `submit_many` submits many tasks, `task.heartbeat` renews a lease, `task.report` notes progress and log lines, `configure` sets what elsewhere is an environment variable; completion is checked against
//! `worker_id` and `fencing_token` where they are given.

mod batch;
mod cache;
mod fields;
mod listing;
mod settings;
mod status;
mod tools;

use std::time::{Duration, Instant};

use mcpp_tool::{
    environment::{chance, id as new_id, now_ms},
    store::{snapshot, transact, wait},
};
use serde_json::{Map, Value, json};

use self::fields::Request;
use crate::{
    engine::{self, ClaimRequest, Completion, Draft, Part, QueueError, Submission, Submitter},
    queue::{self, IDS, TASKS},
    record::{DEFAULT_ATTEMPTS, LogLine, Spec, Task, seconds},
    rules::Outcome,
};

/// This service, where there is no mesh that gives it an identity.
pub const PEER_ID: &str = "local";
/// Longest wait of one `wait`, in seconds.
const MAX_WAIT_S: f64 = 86_400.0;

/// Why a request was not carried out: a word of the protocol, and more where it is not enough.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    error: &'static str,
    detail: Option<String>,
}

impl Failure {
    const fn of(error: &'static str) -> Self {
        Self { error, detail: None }
    }
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        let name = match &error {
            QueueError::NoTask(_) => "task_missing",
            QueueError::NoWorker(_) => "worker_missing",
            QueueError::OtherWork(_) | QueueError::NotUnique(_) => "idempotency_conflict",
            QueueError::Share(_) => "quota_exceeded",
            // A worker that is told this asks again later.
            QueueError::Full(shortage) if shortage.part > Part::Work => "busy",
            QueueError::Full(_) => "quota_exceeded",
            QueueError::Invalid(_) => "invalid_message",
            QueueError::Refused(_) => "refused",
            QueueError::Store(_) => "internal_error",
        };
        Self { error: name, detail: Some(error.to_string()) }
    }
}

impl From<mcpp_tool::store::StoreError> for Failure {
    fn from(error: mcpp_tool::store::StoreError) -> Self {
        QueueError::from(error).into()
    }
}

type Reply = Result<Value, Failure>;

/// Answers a request.
pub fn handle(request: &Value) -> Value {
    let reply = match request.as_object() {
        Some(request) => dispatch(&Request::new(request)),
        None => Err(Failure::of("invalid_message")),
    };
    let mut answer = Map::from_iter([
        ("ok".to_owned(), json!(reply.is_ok())),
        ("peer_id".to_owned(), json!(crate::remote::own_name())),
    ]);
    match reply {
        Ok(Value::Object(fields)) => answer.extend(fields),
        Ok(_) => {}
        Err(failure) => {
            answer.insert("error".into(), json!(failure.error));
            if let Some(detail) = failure.detail {
                answer.insert("detail".into(), json!(detail));
            }
        }
    }
    Value::Object(answer)
}

fn dispatch(request: &Request<'_>) -> Reply {
    // A word that is no text is no operation either.
    match request.word("op").ok().flatten().unwrap_or_default() {
        "submit" => submit(request),
        "submit_many" => batch::submit(request),
        "claim" | "claim_next" => {
            Ok(json!({ "task": claim(request, 1, false)?.pop().map(|task| task.wire_claimed()) }))
        }
        "claim_many" | "claim_batch" => claim_many(request),
        "complete" | "task.complete" | "complete_task" => complete(request),
        "release" | "task.release" | "release_task" => release(request),
        "cancel" | "task.cancel" => cancel(request),
        "task.heartbeat" => renew(request),
        "task.report" => report(request),
        "peer.heartbeat" | "heartbeat" | "peer" => heartbeat(request),
        "list" | "tasks.list" | "queue.list" => listing::list(request),
        "get" => Ok(json!({ "task": find(request.text(&["task_id"])?.unwrap_or_default())?.map(|task| task.wire()) })),
        "wait" => wait_for(request),
        "status" | "capabilities" | "describe" => status::status(request.flag("detail")?.unwrap_or(false)),
        "tool" | "call_tool" | "tool.call" => tools::call(request),
        "cache.get" | "cache_get" | "cache" => cache::get(request),
        "cache.has" | "cache_has" => cache::has(request),
        "cache.set" | "cache_set" => cache::set(request),
        "cache.delete" | "cache_del" | "cache_delete" => cache::delete(request),
        "configure" => settings::configure(request),
        _ => Err(Failure::of("unknown_op")),
    }
}

fn submit(request: &Request<'_>) -> Reply {
    let now = now_ms();
    let draft = draft(&Submitter::of_caller(), request, now)?;
    let task = transact(|t| engine::submit(t, &draft, now))?;
    Ok(json!({ "task_id": task.id }))
}

/// The task that a request, or an entry of one, submits.
fn draft(submitter: &Submitter, request: &Request<'_>, now_ms: u64) -> Result<Draft, Failure> {
    let payload = match request.any("payload") {
        Some(payload @ Value::Object(_)) => payload.clone(),
        Some(other) => json!({ "payload": other }),
        None => json!({}),
    };
    Ok(Draft::of(submitter, submission(request, &payload)?, &new_id(), now_ms))
}

/// The submission that the queue reads in a payload.
fn submission(request: &Request<'_>, payload: &Value) -> Result<Submission, Failure> {
    let nothing = Map::new();
    let inside = Request::of_payload(payload.as_object().unwrap_or(&nothing));
    let text = |names: &[&str]| Ok::<_, Failure>(inside.text(names)?.map(str::to_owned));
    let attempts = inside.whole(&["max_attempts"])?;
    let spec = Spec {
        model_name: request.text(&["model_name"])?.unwrap_or_default().to_owned(),
        priority: inside.number(&["priority"])?.map_or(5.0, |priority| priority.clamp(1.0, 10.0)),
        session: text(&["session_id", "session", "p2p_session"])?,
        sticky_worker: text(&["sticky_worker_id", "sticky_worker"])?,
        idempotency_key: text(&["idempotency_key"])?,
        max_attempts: attempts.map_or(DEFAULT_ATTEMPTS, |attempts| u32::try_from(attempts).unwrap_or(u32::MAX)),
        ..Spec::new(request.text(&["task_type"])?.unwrap_or("text-generation"), payload)
    };
    let not_before_ms = inside.time_ms("next_attempt_at")?.unwrap_or_default();
    Ok(Submission { id: text(&["task_id"])?, not_before_ms, spec })
}

/// Claims at most so many tasks, for as long as the claimer waits.
fn claim(request: &Request<'_>, most: usize, same_type: bool) -> Result<Vec<Task>, Failure> {
    let worker = request.needs(&["worker_id"], "missing_worker_id")?;
    let theirs = request.clock()?;
    let claim = ClaimRequest {
        worker,
        types: request.texts(&["supported_task_types", "task_types"])?,
        session: request.text(&["session_id", "session", "p2p_session"])?,
        peer: request.text(&["peer", "peer_id"])?,
        same_type,
        lease_ms: request.number(&["lease_s"])?.map(|seconds| (seconds.clamp(1.0, 300.0) * 1_000.0) as u64),
    };
    let patience = request.number(&["wait_s"])?.unwrap_or_default().clamp(0.0, MAX_WAIT_S);
    // A worker that tells of itself is a peer; a worker that only claims is none, and costs nothing.
    if theirs.is_some() || claim.peer.is_some() {
        transact(|t| {
            claim.check()?;
            match engine::heartbeat(t, claim.peer.unwrap_or(worker), theirs.as_ref(), now_ms()) {
                // A claimer that the queue does not remember claims all the same.
                Ok(_) | Err(QueueError::Share(_)) => Ok(()),
                Err(error) => Err(error),
            }
        })?;
    }
    Ok(engine::claim_or_wait(&claim, most, Duration::from_secs_f64(patience))?)
}

fn claim_many(request: &Request<'_>) -> Reply {
    let most = request.number(&["max_tasks", "limit"])?.unwrap_or(1.0).clamp(1.0, engine::MAX_CLAIMED as f64);
    let same_type = request.flag("same_task_type")?.unwrap_or(true);
    let tasks: Vec<Value> = claim(request, most as usize, same_type)?.iter().map(Task::wire_claimed).collect();
    Ok(json!({ "tasks": tasks }))
}

fn complete(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    let result = request.any("result").cloned();
    let error = request.text(&["error"])?.unwrap_or_default().to_owned();
    let outcome = match request.word("status")?.unwrap_or("completed") {
        "completed" => Outcome::Completed(result),
        "cancelled" => Outcome::Cancelled(error),
        "failed" if request.flag("retry")? == Some(true) => Outcome::Failed(result, error),
        // As the protocol has it: who says that a task failed has used its attempts; an unknown status is a failure.
        _ => Outcome::FailedForGood(result, error),
    };
    let by = request.claim()?;
    let (task, worker) = (id.to_owned(), by.worker.map(str::to_owned));
    let end = Completion { task, worker, token: by.token, outcome };
    let ended = engine::end_all(std::slice::from_ref(&end), now_ms(), chance()).pop();
    let task = ended.unwrap_or_else(|| Err(QueueError::NoTask(id.to_owned())))?;
    Ok(match end.unkept(&task) {
        // Ours beyond the protocol.
        Some(why) => json!({ "task_id": task.id, "status": task.status().as_str(), "detail": why }),
        None => json!({ "task_id": task.id }),
    })
}

fn release(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    request.needs(&["worker_id", "assigned_worker"], "missing_worker_id")?;
    let (now, by, reason) = (now_ms(), request.claim()?, request.text(&["reason"])?.unwrap_or_default());
    let task = transact(|t| engine::release(t, id, by, reason, now))?;
    Ok(json!({ "task_id": task.id }))
}

/// Only what waits is cancelled; a task that cannot be is no error.
fn cancel(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    let (now, reason) = (now_ms(), request.text(&["reason"])?.unwrap_or_default());
    match transact(|t| engine::cancel(t, id, reason, false, now)) {
        Ok(_) => Ok(json!({ "task_id": id, "cancelled": true })),
        Err(QueueError::NoTask(_) | QueueError::Refused(_)) => Ok(json!({ "task_id": id, "cancelled": false })),
        Err(error) => Err(error.into()),
    }
}

fn renew(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    request.needs(&["worker_id"], "missing_worker_id")?;
    let (now, by) = (now_ms(), request.claim()?);
    let until = transact(|t| engine::renew(t, id, by, now))?;
    Ok(json!({ "task_id": id, "lease_until": seconds(until) }))
}

fn report(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    let (now, by) = (now_ms(), request.claim()?);
    let line = |line: &Map<String, Value>| {
        let line = Request::of_line(line);
        Ok::<_, Failure>(LogLine {
            ts: line.number(&["ts"])?.unwrap_or_else(|| seconds(now)),
            stream: line.text(&["stream"])?.unwrap_or("stdout").to_owned(),
            message: line.text(&["message"])?.unwrap_or_default().to_owned(),
        })
    };
    let lines = request.objects("logs")?.into_iter().map(line).collect::<Result<Vec<LogLine>, Failure>>()?;
    let progress = request.any("progress").cloned();
    transact(|t| engine::report(t, id, by, progress.clone(), lines.clone(), now))?;
    Ok(json!({ "task_id": id }))
}

fn heartbeat(request: &Request<'_>) -> Reply {
    let peer = request.needs(&["peer", "peer_id"], "missing_peer_id")?;
    let (now, theirs) = (now_ms(), request.clock()?);
    let (clock, (peers, _), not_merged) = transact(|t| {
        let not_merged = engine::heartbeat(t, peer, theirs.as_ref(), now)?;
        Ok::<_, QueueError>((engine::clock(t)?, engine::peers(t)?, not_merged))
    })?;
    let known: Vec<Value> =
        peers.into_iter().map(|(peer, seen)| json!({ "peer_id": peer, "last_seen": seconds(seen) })).collect();
    let mut reply = json!({ "peer": peer, "scheduler": { "clock": clock, "known_peers": known } });
    if let (Some(reason), Some(fields)) = (not_merged, reply.as_object_mut()) {
        fields.insert("clock_refused".into(), json!(reason));
    }
    Ok(reply)
}

fn find(id: &str) -> Result<Option<Task>, Failure> {
    if !engine::is_id(id) {
        return Ok(None);
    }
    Ok(queue::find(&snapshot()?, id)?)
}

/// Waits until a task has ended, and gives it as it is then, or when the time is over.
fn wait_for(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    let patience = Duration::from_secs_f64(request.number(&["timeout_s"])?.unwrap_or(60.0).clamp(0.0, MAX_WAIT_S));
    let known = if engine::is_id(id) { IDS.get(&snapshot()?, id)? } else { None };
    let Some(created_ms) = known else { return Ok(json!({ "task": null })) };
    let key = (created_ms, id);
    let begun = Instant::now();
    loop {
        // The snapshot is closed before waiting.
        let (task, version) = TASKS.get_versioned(&snapshot()?, &key)?;
        let left = patience.saturating_sub(begun.elapsed());
        let ended = task.as_ref().is_none_or(|task| task.status().is_final());
        if ended || left.is_zero() || wait(&TASKS.key(&key), version, left)? == version {
            return Ok(json!({ "task": task.map(|task| task.wire()) }));
        }
    }
}

#[cfg(test)]
mod tests;
