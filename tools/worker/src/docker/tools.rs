//! Containers as tools.
#![allow(missing_docs, reason = "a tool's doc comment is its description, and its parameters have their own")]

use mcpp_tool::{
    caller,
    container::{ContainerError, Order},
    progress, tool,
};

use super::{
    Progress, Ran,
    order::{ExecuteFields, GithubFields},
};

/// Most bytes of lines that a client is told as progress: the host bounds what a call may say.
const MAX_TOLD_BYTES: usize = 64 << 10;
/// The longest message of a report, in bytes.
const MAX_MESSAGE_BYTES: usize = 300;

/// Runs a container of an image on this host, without a network, and gives what it wrote. Its lines are reported as progress.
#[tool]
pub fn docker_execute(args: ExecuteFields) -> Ran {
    let with_lines = args.run.stream_output;
    answer(args.order(caller::remaining()), with_lines)
}

/// Builds an image of a repository with the container engine of this host, runs it, and gives what it wrote. The image is removed afterwards.
#[tool]
pub fn docker_github(args: GithubFields) -> Ran {
    let with_lines = args.run.stream_output;
    answer(args.order(caller::remaining()), with_lines)
}

fn answer(order: Result<Order, String>, with_lines: bool) -> Ran {
    let (mut done, mut told) = (0.0, 0);
    let ran = order.map_err(ContainerError::Invalid).and_then(|order| {
        super::perform(&order, |progress| {
            done += 1.0;
            let message = message(progress, with_lines);
            told += message.len();
            if told <= MAX_TOLD_BYTES {
                progress::report(done, None, Some(&message));
            }
            !caller::cancelled()
        })
    });
    ran.unwrap_or_else(|error| Ran {
        success: false,
        exit_code: None,
        stdout: String::new(),
        stderr: String::new(),
        execution_time: 0.0,
        error_message: Some(error.to_string()),
        truncated: false,
    })
}

fn message(progress: &Progress<'_>, with_lines: bool) -> String {
    let last = progress.lines.last().filter(|_| with_lines);
    let mut message = match last {
        Some(line) => format!("{}: {}", line.stream, line.text),
        None => progress.phase.to_owned(),
    };
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    message
}
