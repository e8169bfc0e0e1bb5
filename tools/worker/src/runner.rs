//! A task's handler: it runs the task as a call of a tool, and tells the queue how it ended.
//!
//! A delivery that comes again finds the task running: the handler before it broke off. That attempt has failed, so that a task which kills hosts does not go on for ever.

use std::time::Duration;

#[cfg(not(test))]
use mcpp_tool::rights::{self, Limits};
use mcpp_tool::{
    Output,
    call::CallError,
    caller,
    environment::{millis, now_ms},
    rights::{LimitedError, Rights},
    store::{StoreError, snapshot, transact},
};
use serde_json::{Value, json};

use crate::{
    claimer, docker,
    held::{HELD, Held, Stage, drop_task},
    service::{SERVICES, Service, Tally, WorkerError, note},
    source::{SHORT, Unanswered, ask},
};

/// What a handler keeps of its time for telling the queue.
const REPORT: Duration = Duration::from_secs(20);
/// How long behind the end of its time a handler has certainly ended, in milliseconds.
const CERTAINLY_MS: u64 = 10_000;
/// How long a queue is told that does not hear it, in milliseconds.
const TELL_MS: u64 = 600_000;
/// Largest result, in bytes of JSON: a queue has room for it beside the largest payload.
pub const MAX_RESULT_BYTES: usize = 256 << 10;
/// Longest error, in characters.
const MAX_ERROR_CHARS: usize = 2_000;

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// With a result.
    Completed(Value),
    /// Without; why, and whether another attempt may succeed.
    Failed(String, bool),
    /// Its container ran, and did not succeed.
    Unsuccessful(Value, String),
    /// It has not run: there was no room.
    NotRun(String),
}

impl Ending {
    /// Without a word of its handler. It may have had its effect, so it counts as an attempt.
    pub fn broken_off() -> Self {
        Self::Failed("the attempt broke off".to_owned(), true)
    }
}

/// Runs a task.
///
/// # Errors
/// Those of the store: the host calls again then.
pub fn run(id: &str) -> Result<(), WorkerError> {
    let begun = transact(|t| {
        let Some(held) = HELD.get(t, id)? else { return Ok(None) };
        let service = SERVICES.get(t, &held.service)?;
        if let (Some(service), Stage::Claimed) = (&service, &held.stage) {
            let until_ms = now_ms().saturating_add(millis(caller::remaining())).saturating_add(CERTAINLY_MS);
            HELD.change(t, &id.to_owned(), |held| held.stage = Stage::Running { until_ms })?;
            return Ok(Some((held, service.clone(), true)));
        }
        Ok::<_, WorkerError>(service.map(|service| (held, service, false)))
    })?;
    match begun {
        None => transact(|t| Ok::<_, WorkerError>(drop_task(t, id, now_ms())?)),
        Some((held, service, true)) => {
            let now = HELD.get_versioned(&snapshot()?, id)?;
            let ending = match now {
                (Some(now), version) if matches!(now.stage, Stage::Running { .. }) => {
                    let watched = Watched { id, held: &held, service: &service, version };
                    perform(&watched, caller::remaining())
                }
                _ => not_run("it is not this worker's any more"),
            };
            let leaves = stops();
            end(id, &held, &service, ending)?;
            if leaves { claimer::leave(&held.service, &service) } else { Ok(()) }
        }
        Some((held, service, false)) => broke_off(id, &held, &service),
    }
}

/// A handler before this one broke off.
fn broke_off(id: &str, held: &Held, service: &Service) -> Result<(), WorkerError> {
    match &held.stage {
        // The beat tells the queue.
        Stage::Ended { .. } => return Ok(()),
        Stage::Running { .. } => return end(id, held, service, Ending::broken_off()),
        Stage::Claimed | Stage::Lost => {}
    }
    transact(|t| Ok::<_, WorkerError>(drop_task(t, id, now_ms())?))
}

/// A task that runs, and what ends it early.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// Its id among the tasks of this worker.
    pub id: &'a str,
    /// The task.
    pub held: &'a Held,
    /// Its service.
    pub service: &'a Service,
    /// The version of its row: with another one it is not this worker's any more.
    version: u64,
}

impl Watched<'_> {
    /// Whether it is still this worker's.
    ///
    /// # Errors
    /// Those of the store.
    pub fn is_ours(&self) -> Result<bool, StoreError> {
        Ok(HELD.get_versioned(&snapshot()?, self.id)?.1 == self.version)
    }
}

/// Whether this host stops.
pub fn stops() -> bool {
    #[cfg(test)]
    return crate::tests::host_stops();
    #[cfg(not(test))]
    rights::host_stops()
}

fn not_run(reason: &str) -> Ending {
    Ending::NotRun(reason.to_owned())
}

/// Calls the tool of a task, or runs its container.
fn perform(watched: &Watched<'_>, remaining: Duration) -> Ending {
    let service = watched.service;
    let (tool, arguments, rights) = match service.call(&watched.held.task) {
        Ok(call) => call,
        Err(reason) => return Ending::Failed(reason, false),
    };
    let time = Duration::from_secs(service.timeout_s).min(remaining.saturating_sub(REPORT));
    let ending = match docker::is_docker(&tool) {
        true => docker::task::perform(watched, &tool, arguments, time),
        false => called(&tool, call(watched, &rights, &tool, &arguments, time)),
    };
    match ending {
        Ending::Completed(result) if result.to_string().len() > MAX_RESULT_BYTES => {
            let bytes = result.to_string().len();
            Ending::Failed(format!("the result has {bytes} bytes; at most {MAX_RESULT_BYTES} are kept"), false)
        }
        Ending::Failed(error, again) => Ending::Failed(error.chars().take(MAX_ERROR_CHARS).collect(), again),
        other => other,
    }
}

fn called(tool: &str, answer: Result<Output, LimitedError>) -> Ending {
    match answer {
        Ok(output) => Ending::Completed(json!({ "tool": tool, "result": output.into_value() })),
        Err(LimitedError::Changed) => not_run("it is not this worker's any more"),
        Err(LimitedError::HostStops) => not_run("this host stops"),
        Err(LimitedError::Other(error)) => match error {
            CallError::Busy => not_run("this host has no room for the call now"),
            CallError::Failed(output) => match output.into_value() {
                Value::String(text) => Ending::Failed(text, true),
                other => Ending::Failed(other.to_string(), true),
            },
            error @ CallError::Aborted(_) => Ending::Failed(error.to_string(), true),
            error => Ending::Failed(format!("{tool}: {error}"), false),
        },
    }
}

fn call(
    watched: &Watched<'_>,
    rights: &Rights,
    tool: &str,
    arguments: &Value,
    time: Duration,
) -> Result<Output, LimitedError> {
    #[cfg(test)]
    return match crate::tests::provider(rights, tool, arguments, time) {
        _ if watched.is_ours() == Ok(false) => Err(LimitedError::Changed),
        _ if stops() => Err(LimitedError::HostStops),
        answer => answer.map_err(LimitedError::Other),
    };
    #[cfg(not(test))]
    {
        let limits = Limits { entry: Some((HELD.key(watched.id), watched.version)), host_stops: true };
        rights.call_until(&limits, tool, arguments, Some(time))
    }
}

/// Tells the queue how a task ended.
///
/// # Errors
/// Those of the store.
pub fn end(id: &str, held: &Held, service: &Service, ending: Ending) -> Result<(), WorkerError> {
    let report = match ending {
        Ending::Completed(result) => held.request("complete", json!({ "status": "completed", "result": result })),
        Ending::Failed(error, again) => {
            held.request("complete", json!({ "status": "failed", "error": error, "retry": again }))
        }
        Ending::Unsuccessful(result, error) => {
            held.request("complete", json!({ "status": "failed", "error": error, "result": result, "retry": false }))
        }
        Ending::NotRun(reason) => held.request("release", json!({ "reason": reason })),
    };
    // On disk before the queue hears it: after a crash it is told again, with the same fencing token.
    let until_ms = now_ms().saturating_add(TELL_MS);
    let before = transact(|t| {
        let mut before = None;
        HELD.change(t, &id.to_owned(), |held| {
            before = Some(held.stage.clone());
            if matches!(held.stage, Stage::Claimed | Stage::Running { .. }) {
                held.stage = Stage::Ended { report: report.clone(), until_ms };
            }
        })?;
        Ok::<_, WorkerError>(before)
    })?;
    match before {
        Some(Stage::Claimed | Stage::Running { .. }) => {
            let report = Report { request: &report, until_ms, telling: Telling::First };
            tell(id, held, service, &report, now_ms())
        }
        // The beat tells the queue of its first end.
        Some(Stage::Ended { .. }) => Ok(()),
        Some(Stage::Lost) | None => forget(id, &held.service, |tally| tally.lost = tally.lost.saturating_add(1)),
    }
}

/// How a task ended, for its queue.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The request that says it.
    pub request: &'a Value,
    /// Until when it is told, in milliseconds since 1970-01-01 UTC.
    pub until_ms: u64,
    /// Whether the queue may have heard it before.
    pub telling: Telling,
}

/// Whether a queue may have heard a report before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// It has not.
    First,
    /// An answer of it may be lost.
    Again,
}

impl Report<'_> {
    fn is(&self, name: &str, value: &str) -> bool {
        self.request.get(name).and_then(Value::as_str) == Some(value)
    }

    /// Whether a queue that refuses it heard it before. A queue of an earlier build refuses a repetition, because the task is not running any more.
    fn was_heard(&self, held: &Held, service: &Service) -> Result<bool, Unanswered> {
        if self.telling == Telling::First {
            return Ok(false);
        }
        // It has the task back, and more was not to be told.
        if self.is("op", "release") {
            return Ok(true);
        }
        let reply = ask(service, &json!({ "op": "get", "task_id": held.task_id() }), SHORT)?;
        let Some(task) = reply.get("task").filter(|task| task.is_object()) else { return Ok(false) };
        let is_completed = task.get("status").and_then(Value::as_str) == Some("completed");
        Ok(match self.is("status", "completed") {
            // Beside the result the queue keeps the log and the progress.
            true => {
                let result = self.request.get("result").and_then(Value::as_object);
                let kept =
                    |(name, value): (&String, &Value)| task.get("result").and_then(|all| all.get(name)) == Some(value);
                is_completed && result.is_some_and(|result| result.iter().all(kept))
            }
            false => !is_completed && task.get("error") == self.request.get("error"),
        })
    }
}

/// Tells a queue how a task ended, and forgets the task if the queue has answered or the time for it is over.
///
/// # Errors
/// Those of the store.
pub fn tell(id: &str, held: &Held, service: &Service, report: &Report<'_>, now_ms: u64) -> Result<(), WorkerError> {
    let mut answer = ask(service, report.request, SHORT).map(drop);
    if let Err(refused @ Unanswered::Refused(_)) = &answer {
        answer = match report.was_heard(held, service) {
            Ok(true) => Ok(()),
            Err(away @ Unanswered::Away(_)) => Err(away),
            Ok(false) | Err(Unanswered::Refused(_)) => Err(refused.clone()),
        };
    }
    match answer {
        Ok(()) => forget(id, &held.service, |tally| {
            let count = match () {
                () if report.is("op", "release") => &mut tally.released,
                () if report.is("status", "completed") => &mut tally.completed,
                () => &mut tally.failed,
            };
            *count = count.saturating_add(1);
        }),
        Err(Unanswered::Away(reason)) if report.until_ms > now_ms => {
            transact(|t| note(t, &held.service, |tally| tally.last_error = Some(format!("report: {reason}"))))?;
            Ok(())
        }
        Err(error) => forget(id, &held.service, |tally| {
            tally.lost = tally.lost.saturating_add(1);
            tally.last_error = Some(format!("report: {}", error.reason()));
        }),
    }
}

fn forget(id: &str, service: &str, count: impl Fn(&mut Tally)) -> Result<(), WorkerError> {
    transact(|t| {
        drop_task(t, id, now_ms())?;
        match SERVICES.get(t, service)?.is_some() {
            true => Ok::<_, WorkerError>(note(t, service, &count)?),
            false => Ok(()),
        }
    })
}
