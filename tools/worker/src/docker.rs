//! Tasks that run containers: what their payload says, and a container from its start to its end. [`tools`] has them as tools, [`task`] as tasks of a queue.
//!
//! The host holds each order to the operator's settings and the grant. Nothing here decides what may run.

pub mod order;
pub mod task;
pub mod tools;

use std::time::{Duration, Instant};

use mcpp_tool::container::{ContainerError, Ending, Event, Order, Origin, Outcome, Phase, run};
use schemars::JsonSchema;
use serde::Serialize;

/// The types of tasks, each with the tool that a caller must be allowed to use for it.
pub const TYPES: [(&str, &str); 2] = [("docker.execute", "docker_execute"), ("docker.github", "docker_github")];

/// The most of one stream that a result has, in bytes: its end.
const MAX_KEPT_BYTES: usize = 64 << 10;
/// How long a container is waited for before its watcher is asked again.
const BEAT: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_millis(500) };
/// The time between two reports.
const REPORT: Duration = Duration::from_secs(1);

/// The tool of a type, by any of its names: a queue gives a task under the name with which it was submitted.
pub fn tool_of(task_type: &str) -> Option<&'static str> {
    let name = match task_type {
        "docker.run" | "docker.hub" | "docker.execute_docker_container" => "docker.execute",
        "docker.github_repo" | "docker.build_and_execute_github_repo" => "docker.github",
        other => other,
    };
    TYPES.iter().find(|(known, _)| *known == name).map(|(_, tool)| *tool)
}

/// Whether a tool is one of these.
pub fn is_docker(tool: &str) -> bool {
    TYPES.iter().any(|(_, known)| *known == tool)
}

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Ran {
    /// Whether its program ended with 0.
    pub success: bool,
    /// The code with which its program ended; null if it did not end by itself.
    pub exit_code: Option<i64>,
    /// The end of its standard output, at most 64 KiB.
    pub stdout: String,
    /// The end of its standard error, at most 64 KiB.
    pub stderr: String,
    /// How long it ran, in seconds.
    pub execution_time: f64,
    /// Why it was no success; null if it was one.
    pub error_message: Option<String>,
    /// Whether it wrote more than is here.
    pub truncated: bool,
}

/// A line that a container wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `stdout`, `stderr` or `build`.
    pub stream: &'static str,
    /// The line, without its end.
    pub text: String,
}

/// How far a container is.
#[derive(Debug)]
pub struct Progress<'a> {
    /// `starting`, `pulling`, `building` or `running`.
    pub phase: &'static str,
    /// The lines since the last report.
    pub lines: &'a [Line],
}

/// Runs a container. `watch` hears every second how far it is, and says whether it goes on.
///
/// # Errors
/// If it did not run, or nobody knows how it ended.
pub fn perform(order: &Order, mut watch: impl FnMut(&Progress<'_>) -> bool) -> Result<Ran, ContainerError> {
    let mut container = run(order)?;
    let (mut phase, mut kept, mut lines) = ("starting", [Tail::default(), Tail::default()], Lines::default());
    let mut told: Option<Instant> = None;
    let ending = loop {
        let is_due = match container.next(BEAT)? {
            Some(Event::Ended(ending)) => break ending,
            Some(Event::Phase(next)) => {
                phase = match next {
                    Phase::Pulling => "pulling",
                    Phase::Building => "building",
                    Phase::Running => "running",
                };
                true
            }
            Some(Event::Output(origin, bytes)) => {
                let [stdout, stderr] = &mut kept;
                match origin {
                    Origin::Stdout => stdout.add(&bytes),
                    Origin::Stderr => stderr.add(&bytes),
                    Origin::Build => {}
                }
                lines.add(origin, &bytes);
                false
            }
            None => false,
        };
        if is_due || told.is_none_or(|told| told.elapsed() >= REPORT) {
            told = Some(Instant::now());
            if !watch(&Progress { phase, lines: &lines.take() }) {
                container.kill();
            }
        }
    };
    lines.end();
    watch(&Progress { phase: "ended", lines: &lines.take() });
    let [stdout, stderr] = kept;
    Ok(ran(order, ending, stdout, stderr))
}

fn ran(order: &Order, Ending { outcome, exit_code, run }: Ending, stdout: Tail, stderr: Tail) -> Ran {
    let error_message = match outcome {
        Outcome::Exited if exit_code == Some(0) => None,
        Outcome::Exited => Some(format!("the program ended with {}", exit_code.unwrap_or(-1))),
        Outcome::OutOfMemory => Some("the container used more memory than it may".to_owned()),
        Outcome::TimedOut => Some(format!("the container ran longer than {} s", order.timeout.as_secs_f64())),
        Outcome::TooMuchOutput => Some("the container wrote more than this host allows".to_owned()),
        Outcome::TooMuchDisk => Some("the container's files have more bytes than this host allows".to_owned()),
        Outcome::Killed => Some("the container was killed".to_owned()),
    };
    Ran {
        success: error_message.is_none(),
        exit_code,
        truncated: stdout.is_cut || stderr.is_cut || outcome == Outcome::TooMuchOutput,
        stdout: stdout.text(),
        stderr: stderr.text(),
        execution_time: run.as_secs_f64(),
        error_message,
    }
}

impl Ran {
    /// The same with less of its output, so that it has at most so many bytes of JSON: control characters take six each.
    pub fn within(mut self, most: usize) -> Self {
        let bytes = |ran: &Self| serde_json::to_string(ran).map_or(usize::MAX, |text| text.len());
        while bytes(&self) > most && !(self.stdout.is_empty() && self.stderr.is_empty()) {
            for text in [&mut self.stdout, &mut self.stderr] {
                let from = text.ceil_char_boundary(text.len().div_ceil(2));
                text.drain(..from);
            }
            self.truncated = true;
        }
        self
    }
}

/// The end of a stream.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Tail {
    fn add(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        // Only now and then, so that not every byte moves all of it.
        if self.bytes.len() > 2 * MAX_KEPT_BYTES {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let surplus = self.bytes.len().saturating_sub(MAX_KEPT_BYTES);
        self.is_cut |= surplus > 0;
        self.bytes.drain(..surplus);
    }

    fn text(mut self) -> String {
        self.cut();
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Lines that nobody heard yet: the last ones, each cut off.
#[derive(Debug, Default)]
struct Lines {
    whole: Vec<Line>,
    /// What each stream has begun.
    begun: [Vec<u8>; 3],
}

impl Lines {
    const MAX: usize = 100;
    const MAX_BYTES: usize = 500;
    const STREAMS: [&'static str; 3] = ["stdout", "stderr", "build"];

    fn add(&mut self, origin: Origin, bytes: &[u8]) {
        let at = match origin {
            Origin::Stdout => 0,
            Origin::Stderr => 1,
            Origin::Build => 2,
        };
        let Some(begun) = self.begun.get_mut(at) else { return };
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let room = Self::MAX_BYTES.saturating_sub(begun.len());
            begun.extend_from_slice(part.get(..room).unwrap_or(part));
            if parts.peek().is_some() {
                let line = std::mem::take(begun);
                Self::push(&mut self.whole, at, &line);
            }
        }
    }

    fn push(whole: &mut Vec<Line>, at: usize, line: &[u8]) {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        if text.is_empty() {
            return;
        }
        if whole.len() >= Self::MAX {
            whole.remove(0);
        }
        whole.push(Line { stream: Self::STREAMS.get(at).copied().unwrap_or("stdout"), text });
    }

    /// What is begun is a line too.
    fn end(&mut self) {
        for (at, begun) in self.begun.iter_mut().enumerate() {
            let line = std::mem::take(begun);
            Self::push(&mut self.whole, at, &line);
        }
    }

    fn take(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.whole)
    }
}

#[cfg(test)]
mod tests;
