//! A service's claimer: a handler that waits at the queue for as many tasks as the service has room for, and calls for a handler for each.

use std::time::{Duration, Instant};

use mcpp_tool::{
    environment::{id as new_id, now_ms},
    store::{snapshot, transact},
};
use serde_json::{Value, json};

use crate::{
    beat::all,
    held::{self, HELD, Held, Stage},
    runner::stops,
    service::{SERVICES, Service, WorkerError, note},
    source::{self, SHORT, Unanswered, ask},
};

/// How long a lease lasts from each sign of life, in seconds: so long a task waits at most whose host is gone.
pub const LEASE_S: u64 = 30;
/// How long a claim waits at this host's own queue, in seconds.
const WAIT_S: u64 = if cfg!(test) { 0 } else { 20 };
/// How long it waits at a peer's, in seconds: a host that stops waits for the answer.
const PEER_WAIT_S: u64 = if cfg!(test) { 0 } else { 5 };
/// How long a claimer goes on. A timer calls for the next one then.
const AT_WORK: Duration = Duration::from_secs(60);
/// A claim that finds nothing sooner than this was not waited for: the queue cannot wait.
const SOON: Duration = Duration::from_secs(1);
/// The pause of a claimer whose queue cannot wait, in milliseconds.
const PAUSE_MS: u64 = 2_000;
/// The longest pause of a claimer whose queue does not answer, in milliseconds; the first one is a second.
const MAX_PAUSE_MS: u64 = 30_000;

/// What a claimer does next.
enum Next {
    /// It claims again.
    Again,
    /// A timer calls for it after so many milliseconds.
    After(u64),
    /// Somebody else calls for it: a task that ends, or the operator.
    Nothing,
}

/// Claims for a service.
///
/// # Errors
/// Those of the store: the host calls again then.
pub fn claim(name: &str) -> Result<(), WorkerError> {
    let begun = Instant::now();
    let pause_ms = loop {
        if stops() {
            // Timers are not delivered any more: it claims again after the next start.
            if let Some(service) = SERVICES.get(&snapshot()?, name)? {
                leave(name, &service)?;
            }
            break 0;
        }
        match once(name)? {
            Next::Again if begun.elapsed() < AT_WORK && !cfg!(test) => {}
            Next::Again => break 0,
            Next::After(pause_ms) => break pause_ms,
            Next::Nothing => return Ok(()),
        }
    };
    transact(|t| match SERVICES.get(t, name)?.is_some() {
        true => t.wake_at(&format!("c:{name}"), now_ms().saturating_add(pause_ms), b""),
        false => Ok(()),
    })?;
    Ok(())
}

/// How many more tasks a service may have.
fn room(service: &Service, held: u64) -> u64 {
    if service.is_draining { 0 } else { u64::from(service.concurrency).saturating_sub(held) }
}

fn once(name: &str) -> Result<Next, WorkerError> {
    let (service, room) = {
        let t = snapshot()?;
        let Some(service) = SERVICES.get(&t, name)? else { return Ok(Next::Nothing) };
        let room = room(&service, held::count(&t, name)?);
        (service, room)
    };
    if room == 0 {
        return Ok(Next::Nothing);
    }
    let worker = source::worker_name(name)?;
    let begun = Instant::now();
    transact(|t| note(t, name, |tally| tally.looked_ms = now_ms()))?;
    let claimed = ask_for(&service, &worker, room);
    let tasks = match claimed {
        Ok(tasks) => tasks,
        Err(error) => {
            let mut failures = 0;
            transact(|t| {
                note(t, name, |tally| {
                    tally.failures = tally.failures.saturating_add(1);
                    failures = tally.failures;
                    tally.last_error = Some(format!("claim: {}", error.reason()));
                })
            })?;
            return Ok(Next::After(1_000_u64.saturating_mul(1 << failures.min(5)).min(MAX_PAUSE_MS)));
        }
    };
    let is_idle = tasks.is_empty();
    keep(name, &service, &worker, tasks)?;
    Ok(if is_idle && begun.elapsed() < SOON && !cfg!(test) { Next::After(PAUSE_MS) } else { Next::Again })
}

fn ask_for(service: &Service, worker: &str, room: u64) -> Result<Vec<Value>, Unanswered> {
    let wait_s = if service.peer.is_some() { PEER_WAIT_S } else { WAIT_S };
    let request = |op: &str| {
        json!({
            "op": op, "worker_id": worker, "supported_task_types": service.claims(), "max_tasks": room,
            "same_task_type": false, "wait_s": wait_s, "lease_s": LEASE_S,
        })
    };
    let time = Duration::from_secs(wait_s).saturating_add(SHORT);
    let reply = match ask(service, &request("claim_many"), time) {
        // A queue of before knows one at a time.
        Err(Unanswered::Refused(word)) if word == "unknown_op" => ask(service, &request("claim"), time)?,
        other => other?,
    };
    let many = reply.get("tasks").and_then(Value::as_array).cloned().unwrap_or_default();
    let one = reply.get("task").filter(|task| task.is_object()).cloned();
    Ok(many.into_iter().chain(one).filter(|task| task.get("task_id").is_some_and(Value::is_string)).collect())
}

/// Keeps the tasks that there is room for, and gives the others back: meanwhile the service may have been drained, changed or removed.
fn keep(name: &str, service: &Service, worker: &str, tasks: Vec<Value>) -> Result<(), WorkerError> {
    let now = now_ms();
    let tasks: Vec<(String, Held)> = tasks
        .into_iter()
        .map(|task| {
            let held = Held { service: name.into(), task, worker: worker.into(), stage: Stage::Claimed, since_ms: now };
            (new_id(), held)
        })
        .collect();
    // Each in a transaction of its own: a payload may be large.
    for (id, held) in &tasks {
        let is_kept = transact(|t| {
            let same = SERVICES.get(t, name)?.filter(|now| now.peer == service.peer);
            if same.is_none_or(|now| room(&now, held::count(t, name).unwrap_or(u64::MAX)) == 0) {
                return Ok(false);
            }
            held::take(t, id, held, now)?;
            note(t, name, |tally| {
                tally.claimed = tally.claimed.saturating_add(1);
                tally.failures = 0;
            })?;
            Ok::<_, WorkerError>(true)
        });
        match is_kept {
            Ok(true) => {}
            Ok(false) => give_back(name, service, held, "the worker leaves")?,
            // The queue takes it back when its lease ends.
            Err(error) => {
                give_back(name, service, held, "the worker cannot keep it")?;
                return Err(error);
            }
        }
    }
    if tasks.is_empty() {
        transact(|t| note(t, name, |tally| tally.failures = 0))?;
    }
    Ok(())
}

/// Gives back what no handler has: this host stops, and none will come.
///
/// # Errors
/// Those of the store.
pub fn leave(name: &str, service: &Service) -> Result<(), WorkerError> {
    for (id, held) in all()?.into_iter().filter(|(_, held)| held.service == name && held.stage == Stage::Claimed) {
        let is_taken = transact(|t| {
            let is_taken = HELD.get(t, &id)?.is_some_and(|held| held.stage == Stage::Claimed);
            if is_taken {
                held::drop_task(t, &id, now_ms())?;
            }
            Ok::<_, WorkerError>(is_taken)
        })?;
        if is_taken {
            give_back(name, service, &held, "this host stops")?;
        }
    }
    Ok(())
}

/// Gives a task back to its queue. If the queue does not hear it, the lease ends by itself.
///
/// # Errors
/// Those of the store.
pub fn give_back(name: &str, service: &Service, held: &Held, reason: &str) -> Result<(), WorkerError> {
    let told = ask(service, &held.request("release", json!({ "reason": reason })), SHORT);
    transact(|t| {
        if SERVICES.get(t, name)?.is_none() {
            return Ok(());
        }
        note(t, name, |tally| match &told {
            Ok(_) => tally.released = tally.released.saturating_add(1),
            // Nothing is lost: the queue takes it back at the latest when its lease ends.
            Err(Unanswered::Away(reason)) => {
                tally.released = tally.released.saturating_add(1);
                tally.last_error = Some(format!("release: {reason}"));
            }
            Err(Unanswered::Refused(_)) => tally.lost = tally.lost.saturating_add(1),
        })
    })?;
    Ok(())
}
