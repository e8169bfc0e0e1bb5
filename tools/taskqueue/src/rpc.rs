//! The task-queue protocol of the MCP++ programs: one request object in, one reply object out, over whatever carries it. Every reply has `ok` and `peer_id`.
//!
//! Ours beyond theirs: `task.heartbeat` renews a lease, `task.report` notes progress and log lines, `configure` sets what elsewhere is an environment variable; completion is checked against
//! `worker_id` and `fencing_token` where they are given.

mod cache;
mod status;

use std::time::{Duration, Instant};

use mcpp_tool::store::{transact, wait};
use scheduling::clock::VectorClock;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    engine::{self, ClaimRequest, QueueError, Submission},
    environment::{chance, new_id, now_ms},
    queue::{LISTED, TASKS, canonical_type, set_settings, settings},
    record::{DEFAULT_ATTEMPTS, LogLine, Spec, Status, Task, seconds},
    rules::{Claim, Outcome},
};

/// This service, until there is a mesh that gives it an identity.
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
            QueueError::OtherWork(_) => "idempotency_conflict",
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
        Some(request) => dispatch(&Request(request)),
        None => Err(Failure::of("invalid_message")),
    };
    let mut answer = Map::from_iter([("ok".to_owned(), json!(reply.is_ok())), ("peer_id".to_owned(), json!(PEER_ID))]);
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

/// The fields of a request, most under several names.
struct Request<'a>(&'a Map<String, Value>);

impl<'a> Request<'a> {
    fn get(&self, names: &[&str]) -> Option<&'a Value> {
        names.iter().find_map(|name| self.0.get(*name)).filter(|value| !value.is_null())
    }

    /// A text that is not empty.
    fn text(&self, names: &[&str]) -> Option<&'a str> {
        self.get(names).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty())
    }

    fn needs(&self, names: &[&str], missing: &'static str) -> Result<&'a str, Failure> {
        self.text(names).ok_or(Failure::of(missing))
    }

    fn number(&self, names: &[&str]) -> Option<f64> {
        self.get(names).and_then(Value::as_f64)
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.get(&[name]).and_then(Value::as_bool)
    }

    /// A list of texts, or one text with commas.
    fn texts(&self, names: &[&str]) -> Vec<String> {
        let trimmed = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        match self.get(names) {
            Some(Value::Array(texts)) => texts.iter().filter_map(|text| trimmed(text.as_str()?)).collect(),
            Some(Value::String(texts)) => texts.split(',').filter_map(trimmed).collect(),
            _ => Vec::new(),
        }
    }

    fn claim(&self) -> Claim<'a> {
        Claim {
            worker: self.text(&["worker_id", "assigned_worker"]),
            token: self.get(&["fencing_token"]).and_then(Value::as_u64),
        }
    }

    fn clock(&self) -> Result<Option<VectorClock>, Failure> {
        let Some(clock) = self.get(&["clock"]) else { return Ok(None) };
        let parsed = VectorClock::deserialize(clock);
        parsed.map(Some).map_err(|error| Failure { error: "invalid_message", detail: Some(error.to_string()) })
    }
}

fn dispatch(request: &Request<'_>) -> Reply {
    match request.text(&["op"]).unwrap_or_default() {
        "submit" => submit(request),
        "claim" | "claim_next" => Ok(json!({ "task": claim(request)?.map(|task| task.wire_claimed()) })),
        "claim_many" | "claim_batch" => claim_many(request),
        "complete" | "task.complete" | "complete_task" => complete(request),
        "release" | "task.release" | "release_task" => release(request),
        "cancel" | "task.cancel" => cancel(request),
        "task.heartbeat" => renew(request),
        "task.report" => report(request),
        "peer.heartbeat" | "heartbeat" | "peer" => heartbeat(request),
        "list" | "tasks.list" | "queue.list" => list(request),
        "get" => Ok(json!({ "task": find(request.text(&["task_id"]).unwrap_or_default())?.map(|task| task.wire()) })),
        "wait" => wait_for(request),
        "status" | "capabilities" | "describe" => status::status(request.flag("detail").unwrap_or(false)),
        "tool" | "call_tool" | "tool.call" => call_tool(request),
        "cache.get" | "cache_get" | "cache" => cache::get(request),
        "cache.has" | "cache_has" => cache::has(request),
        "cache.set" | "cache_set" => cache::set(request),
        "cache.delete" | "cache_del" | "cache_delete" => cache::delete(request),
        "configure" => configure(request),
        _ => Err(Failure::of("unknown_op")),
    }
}

fn submit(request: &Request<'_>) -> Reply {
    let payload = match request.get(&["payload"]) {
        Some(Value::Object(payload)) => payload.clone(),
        Some(other) => Map::from_iter([("payload".to_owned(), other.clone())]),
        None => Map::new(),
    };
    let submission = submission(request, payload);
    let (now, id) = (now_ms(), new_id());
    let task = transact(|t| engine::submit(t, &submission, &id, now))?;
    Ok(json!({ "task_id": task.id }))
}

/// What the queue reads in a payload.
fn submission(request: &Request<'_>, payload: Map<String, Value>) -> Submission {
    let inside = Request(&payload);
    let text = |names: &[&str]| inside.text(names).map(str::to_owned);
    let priority = inside.number(&["priority"]).map_or(5.0, |priority| priority.clamp(1.0, 10.0));
    let attempts = inside.get(&["max_attempts"]).and_then(Value::as_u64);
    let not_before = inside.number(&["next_attempt_at"]).filter(|at| *at > 0.0).unwrap_or_default();
    let spec = Spec {
        model_name: request.text(&["model_name"]).unwrap_or_default().to_owned(),
        priority,
        session: text(&["session_id", "session", "p2p_session"]),
        sticky_worker: text(&["sticky_worker_id", "sticky_worker"]),
        idempotency_key: text(&["idempotency_key"]),
        max_attempts: attempts.map_or(DEFAULT_ATTEMPTS, |attempts| u32::try_from(attempts).unwrap_or(u32::MAX)),
        ..Spec::new(request.text(&["task_type"]).unwrap_or("text-generation"), Value::Object(payload.clone()))
    };
    Submission { id: text(&["task_id"]), not_before_ms: (not_before * 1_000.0) as u64, spec }
}

fn claim(request: &Request<'_>) -> Result<Option<Task>, Failure> {
    let worker = request.needs(&["worker_id"], "missing_worker_id")?;
    let theirs = request.clock()?;
    let claim = ClaimRequest {
        worker,
        types: request.texts(&["supported_task_types", "task_types"]),
        session: request.text(&["session_id", "session", "p2p_session"]),
        peer: request.text(&["peer", "peer_id"]),
    };
    let (now, chance) = (now_ms(), chance());
    Ok(transact(|t| {
        // Who tells of itself is a peer; who only claims is none, and costs nothing.
        if theirs.is_some() || claim.peer.is_some() {
            engine::heartbeat(t, claim.peer.unwrap_or(worker), theirs.as_ref(), now)?;
        }
        engine::claim(t, &claim, now, chance)
    })?)
}

fn claim_many(request: &Request<'_>) -> Reply {
    const MOST: f64 = 128.0;
    let most = request.number(&["max_tasks", "limit"]).unwrap_or(1.0).clamp(1.0, MOST) as usize;
    let same_type = request.flag("same_task_type").unwrap_or(true);
    let mut fields = request.0.clone();
    let mut tasks: Vec<Value> = Vec::new();
    while tasks.len() < most {
        let Some(task) = claim(&Request(&fields))? else { break };
        if same_type && tasks.is_empty() {
            fields.insert("supported_task_types".into(), json!([task.spec.task_type]));
        }
        tasks.push(task.wire_claimed());
    }
    Ok(json!({ "tasks": tasks }))
}

fn complete(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    let result = request.get(&["result"]).cloned();
    let error = request.text(&["error"]).unwrap_or_default().to_owned();
    let outcome = match request.text(&["status"]).unwrap_or("completed") {
        "completed" => Outcome::Completed(result),
        "cancelled" => Outcome::Cancelled(error),
        // As the protocol has it: who says that a task failed has used its attempts; an unknown status is a failure.
        _ => Outcome::FailedForGood(result, error),
    };
    let (now, chance, by) = (now_ms(), chance(), request.claim());
    let finished = transact(|t| engine::finish(t, id, by, outcome.clone(), now, chance));
    match finished {
        Ok(task) => Ok(json!({ "task_id": task.id })),
        Err(error) => Err(error.into()),
    }
}

fn release(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    request.needs(&["worker_id", "assigned_worker"], "missing_worker_id")?;
    let (now, by, reason) = (now_ms(), request.claim(), request.text(&["reason"]).unwrap_or_default());
    let task = transact(|t| engine::release(t, id, by, reason, now))?;
    Ok(json!({ "task_id": task.id }))
}

/// Only what waits is cancelled; a task that cannot be is no error.
fn cancel(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    let (now, reason) = (now_ms(), request.text(&["reason"]).unwrap_or_default());
    match transact(|t| engine::cancel(t, id, reason, false, now)) {
        Ok(_) => Ok(json!({ "task_id": id, "cancelled": true })),
        Err(QueueError::NoTask(_) | QueueError::Refused(_)) => Ok(json!({ "task_id": id, "cancelled": false })),
        Err(error) => Err(error.into()),
    }
}

fn renew(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    request.needs(&["worker_id"], "missing_worker_id")?;
    let (now, by) = (now_ms(), request.claim());
    let until = transact(|t| engine::renew(t, id, by, now))?;
    Ok(json!({ "task_id": id, "lease_until": seconds(until) }))
}

fn report(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?;
    let (now, by) = (now_ms(), request.claim());
    let line = |line: &Value| LogLine {
        ts: line.get("ts").and_then(Value::as_f64).unwrap_or_else(|| seconds(now)),
        stream: line.get("stream").and_then(Value::as_str).unwrap_or("stdout").to_owned(),
        message: line.get("message").and_then(Value::as_str).unwrap_or_default().to_owned(),
    };
    let lines: Vec<LogLine> =
        request.get(&["logs"]).and_then(Value::as_array).into_iter().flatten().map(line).collect();
    let progress = request.get(&["progress"]).cloned();
    transact(|t| engine::report(t, id, by, progress.clone(), lines.clone(), now))?;
    Ok(json!({ "task_id": id }))
}

fn heartbeat(request: &Request<'_>) -> Reply {
    let peer = request.needs(&["peer", "peer_id"], "missing_peer_id")?;
    let (now, theirs) = (now_ms(), request.clock()?);
    let (clock, peers) = transact(|t| {
        engine::heartbeat(t, peer, theirs.as_ref(), now)?;
        Ok::<_, QueueError>((engine::clock(t)?, engine::peers(t)?))
    })?;
    let known: Vec<Value> =
        peers.into_iter().map(|(peer, seen)| json!({ "peer_id": peer, "last_seen": seconds(seen) })).collect();
    Ok(json!({ "peer": peer, "scheduler": { "clock": clock, "known_peers": known } }))
}

fn list(request: &Request<'_>) -> Reply {
    let limit = request.number(&["limit"]).unwrap_or(50.0).clamp(1.0, 1_000.0) as usize;
    let types = request.texts(&["task_types"]);
    let statuses = match request.text(&["status"]) {
        None => Status::ALL.to_vec(),
        Some(name) => Status::parse(name).into_iter().collect(),
    };
    let mut t = mcpp_tool::store::snapshot()?;
    let mut oldest: Vec<(u64, String, Task)> = Vec::new();
    for status in statuses {
        let (mut found, mut after) = (0, None);
        while found < limit {
            let page = LISTED.of(&mut t, &status.as_str().to_owned(), after.as_ref(), 1_000)?;
            let Some(last) = page.last().cloned() else { break };
            for (created, id) in page {
                let task = TASKS.get(&mut t, &id)?.filter(|task| {
                    types.is_empty()
                        || types.iter().any(|name| canonical_type(name) == canonical_type(&task.spec.task_type))
                });
                if let Some(task) = task.filter(|_| found < limit) {
                    found += 1;
                    oldest.push((created, id, task));
                }
            }
            after = Some(last);
        }
    }
    oldest.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let tasks: Vec<Value> = oldest.iter().take(limit).map(|(_, _, task)| task.wire()).collect();
    Ok(json!({ "tasks": tasks }))
}

fn find(id: &str) -> Result<Option<Task>, Failure> {
    if engine::check_id(id).is_err() {
        return Ok(None);
    }
    Ok(TASKS.get(&mut mcpp_tool::store::snapshot()?, &id.to_owned())?)
}

/// Waits until a task has ended, and gives it as it is then, or when the time is over.
fn wait_for(request: &Request<'_>) -> Reply {
    let id = request.needs(&["task_id"], "missing_task_id")?.to_owned();
    let patience = Duration::from_secs_f64(request.number(&["timeout_s"]).unwrap_or(60.0).clamp(0.0, MAX_WAIT_S));
    let begun = Instant::now();
    loop {
        // The snapshot is closed before waiting.
        let (task, version) = TASKS.get_versioned(&mut mcpp_tool::store::snapshot()?, &id)?;
        let left = patience.saturating_sub(begun.elapsed());
        let ended = task.as_ref().is_none_or(|task| task.status().is_final());
        if ended || left.is_zero() || wait(&TASKS.key(&id), version, left)? == version {
            return Ok(json!({ "task": task.map(|task| task.wire()) }));
        }
    }
}

fn call_tool(request: &Request<'_>) -> Reply {
    let tool = request.needs(&["tool", "tool_name", "name"], "missing_tool_name")?;
    if !settings(&mut mcpp_tool::store::snapshot()?)?.tools_enabled {
        return Err(Failure::of("tools_disabled"));
    }
    let arguments = request.get(&["args", "arguments", "params"]).cloned().unwrap_or_else(|| json!({}));
    match mcpp_tool::call(tool, &arguments) {
        Ok(output) => Ok(json!({ "tool": tool, "result": result_of(&output) })),
        Err(mcpp_tool::call::CallError::NotFound) => Err(Failure::of("tool_not_found")),
        Err(mcpp_tool::call::CallError::Failed(output)) => {
            Ok(json!({ "tool": tool, "result": { "ok": false, "error": result_of(&output) } }))
        }
        Err(error) => Err(Failure { error: "internal_error", detail: Some(error.to_string()) }),
    }
}

/// What a tool answered, as one value.
fn result_of(output: &mcpp_tool::Output) -> Value {
    let text = |block: &mcpp_tool::Content| match block {
        mcpp_tool::Content::Text(text) => Some(text.clone()),
        _ => None,
    };
    output
        .structured
        .clone()
        .unwrap_or_else(|| json!(output.content.iter().filter_map(text).collect::<Vec<_>>().join("\n")))
}

/// Sets what is named; what is set then.
fn configure(request: &Request<'_>) -> Reply {
    let ms = |name: &str| request.number(&[name]).map(|seconds| (seconds.max(0.0) * 1_000.0) as u64);
    let settings = transact(|t| {
        let mut settings = settings(t)?;
        settings.deterministic = request.flag("deterministic").unwrap_or(settings.deterministic);
        settings.tools_enabled = request.flag("tools").unwrap_or(settings.tools_enabled);
        settings.cache_enabled = request.flag("cache").unwrap_or(settings.cache_enabled);
        settings.keep_ms = ms("keep_s").unwrap_or(settings.keep_ms);
        settings.keep_tasks = request.get(&["keep_tasks"]).and_then(Value::as_u64).unwrap_or(settings.keep_tasks);
        set_settings(t, &settings)?;
        Ok::<_, QueueError>(settings)
    })?;
    Ok(json!({
        "deterministic": settings.deterministic,
        "tools": settings.tools_enabled,
        "cache": settings.cache_enabled,
        "keep_s": seconds(settings.keep_ms),
        "keep_tasks": settings.keep_tasks,
    }))
}
