//! A task of a queue that runs a container: its progress and its lines go to the queue, which says whether the task is still this worker's.

use std::time::Duration;

use mcpp_tool::{container::ContainerError, environment::now_ms, store::transact};
use serde_json::{Value, json};

use super::{
    Progress, Ran,
    order::{ExecuteFields, GithubFields},
};
use crate::{
    held::{HELD, Stage},
    runner::{Ending, MAX_RESULT_BYTES, Watched, stops},
    source::{SHORT, Unanswered, ask},
};

/// Runs the container of a task, for at most `longest`.
pub fn perform(watched: &Watched<'_>, tool: &str, payload: Value, longest: Duration) -> Ending {
    let read = match tool {
        "docker_github" => serde_json::from_value::<GithubFields>(payload)
            .map(|fields| (fields.repo_url.clone(), fields.run.stream_output, fields.order(longest))),
        _ => serde_json::from_value::<ExecuteFields>(payload)
            .map(|fields| (fields.image.clone(), fields.run.stream_output, fields.order(longest))),
    };
    let (image, with_lines, order) = match read {
        Ok((image, with_lines, Ok(order))) => (image, with_lines, order),
        Ok((_, _, Err(reason))) => return Ending::Failed(reason, false),
        Err(error) => return Ending::Failed(format!("the payload is not one of {tool}: {error}"), false),
    };
    let mut leaves = false;
    let ran = super::perform(&order, |progress| {
        leaves = leaves || stops();
        let lines = if with_lines { lines(progress) } else { Vec::new() };
        let ours = tell(watched, progress.phase, &image, lines);
        ours && !leaves
    });
    match ran {
        _ if leaves => Ending::NotRun("this host stops".to_owned()),
        Ok(ran) => ended(ran.within(MAX_RESULT_BYTES / 2)),
        Err(ContainerError::Busy) => Ending::NotRun("this host has no memory for a container now".to_owned()),
        Err(error) => {
            let again =
                matches!(error, ContainerError::Off | ContainerError::Failed(_) | ContainerError::Unavailable(_));
            Ending::Failed(error.to_string(), again)
        }
    }
}

fn ended(ran: Ran) -> Ending {
    let result = json!(ran);
    match ran.error_message {
        None => Ending::Completed(result),
        Some(error) => Ending::Unsuccessful(result, error),
    }
}

fn lines(progress: &Progress<'_>) -> Vec<Value> {
    progress.lines.iter().map(|line| json!({ "stream": line.stream, "message": line.text })).collect()
}

/// Tells the queue how far the task is; whether it is still this worker's. A queue that does not answer may do so later.
fn tell(watched: &Watched<'_>, phase: &str, image: &str, lines: Vec<Value>) -> bool {
    if watched.is_ours() == Ok(false) {
        return false;
    }
    let heartbeat = now_ms() as f64 / 1_000.0;
    let progress = json!({ "phase": phase, "heartbeat_ts": heartbeat, "image": image });
    let report = watched.held.request("task.report", json!({ "progress": progress, "logs": lines }));
    match ask(watched.service, &report, SHORT) {
        Err(Unanswered::Refused(word)) if word != "unknown_op" => {
            let lost = transact(|t| {
                HELD.change(t, &watched.id.to_owned(), |held| {
                    if matches!(held.stage, Stage::Running { .. }) {
                        held.stage = Stage::Lost;
                    }
                })
            });
            // If it cannot be noted, the beat notes it.
            drop(lost);
            false
        }
        Ok(_) | Err(_) => true,
    }
}
