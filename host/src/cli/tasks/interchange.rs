//! `mcpp tasks export` and `mcpp tasks import`: a queue as lines of JSON, one a task.
//!
//! Both go part by part through the tools of the queue. An import that broke off is repeated: the queue passes over the tasks that it has.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use super::{ask, clean, field, print, print_json};
use crate::{cli::remote::tell, mcp::client::Client};

/// Most bytes of a line: the largest record, and what escapes may add to it.
const MAX_LINE_BYTES: u64 = 4 << 20;
/// Bytes of lines with which a call is full: a quarter of what a call may have by default.
const FULL_BYTES: usize = 1 << 20;
/// Tasks of one call.
const MAX_TASKS: usize = 500;

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Only tasks that are queued, running, completed, failed or cancelled
    #[arg(long)]
    status: Option<String>,
    /// The file to make, which must not exist yet; standard output if absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A file that `mcpp tasks export` made, or `-` for standard input
    file: PathBuf,
}

/// The outcome of an import.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    imported_count: u64,
    known_count: u64,
    failed_count: u64,
}

fn bar(length: u64, template: &str) -> anyhow::Result<ProgressBar> {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
    Ok(bar.with_style(ProgressStyle::with_template(template)?))
}

pub(super) async fn export(client: &Client, args: ExportArgs, as_json: bool) -> anyhow::Result<u8> {
    let (target, is_file): (Box<dyn io::Write>, bool) = match &args.out {
        Some(path) => {
            let file = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
            (Box::new(file), true)
        }
        None => (Box::new(io::stdout().lock()), false),
    };
    let exported = write_lines(client, args.status.as_deref(), BufWriter::new(target)).await?;
    match (is_file, as_json) {
        (true, true) => print_json(&json!({ "exported_count": exported }))?,
        (true, false) => print(&format!("{exported} tasks exported"))?,
        // Standard output has the tasks themselves.
        (false, _) => {}
    }
    Ok(0)
}

async fn write_lines(client: &Client, status: Option<&str>, mut target: impl io::Write) -> anyhow::Result<u64> {
    let bar = bar(0, "{bar:40} {pos} of {len} tasks")?;
    let (mut cursor, mut exported) = (Value::Null, 0_u64);
    loop {
        let part = ask(client, "task_export", json!({ "status_filter": status, "cursor": cursor })).await?;
        if cursor.is_null() {
            bar.set_length(part.get("total_count").and_then(Value::as_u64).unwrap_or_default());
        }
        for task in part.get("tasks").and_then(Value::as_array).into_iter().flatten() {
            serde_json::to_writer(&mut target, task)?;
            target.write_all(b"\n")?;
            exported = exported.saturating_add(1);
        }
        target.flush().context("the tasks cannot be written")?;
        bar.set_position(exported);
        cursor = part.get("next_cursor").cloned().unwrap_or_default();
        if cursor.is_null() {
            bar.finish_and_clear();
            return Ok(exported);
        }
    }
}

/// A file of lines, and how many bytes it has; none where that is not known.
fn open(path: &Path) -> anyhow::Result<(Box<dyn BufRead>, u64)> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::new(io::stdin())), 0));
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let length = file.metadata()?.len();
    Ok((Box::new(BufReader::new(file)), length))
}

pub(super) async fn import(client: &Client, args: ImportArgs, as_json: bool) -> anyhow::Result<u8> {
    let (mut lines, length) = open(&args.file)?;
    let bar = bar(length, "{bar:40} {bytes} of {total_bytes} {msg}")?;
    let (mut outcome, mut number) = (Outcome::default(), 0_u64);
    let (mut tasks, mut bytes, mut is_over) = (Vec::new(), 0_usize, false);
    while !is_over {
        match next_line(&mut lines, number.saturating_add(1))? {
            None => is_over = true,
            Some(line) => {
                number = number.saturating_add(1);
                bar.inc(u64::try_from(line.len()).unwrap_or(u64::MAX));
                if !line.trim().is_empty() {
                    let task: Value =
                        serde_json::from_str(&line).with_context(|| format!("line {number} is no JSON"))?;
                    bytes = bytes.saturating_add(line.len());
                    tasks.push(task);
                }
            }
        }
        if tasks.len() >= MAX_TASKS || bytes >= FULL_BYTES || is_over && !tasks.is_empty() {
            give(client, std::mem::take(&mut tasks), &mut outcome)
                .await
                .with_context(|| format!("the import stopped before line {number}; the same command goes on"))?;
            bytes = 0;
            bar.set_message(format!("{} imported", outcome.imported_count));
        }
    }
    bar.finish_and_clear();
    if as_json {
        print_json(&outcome)?;
    } else {
        let Outcome { imported_count, known_count, failed_count } = outcome;
        print(&format!("{imported_count} tasks imported, {known_count} were here, {failed_count} refused"))?;
    }
    Ok(u8::from(outcome.failed_count > 0))
}

/// The next line with its end; none behind the last one.
fn next_line(lines: &mut impl BufRead, number: u64) -> anyhow::Result<Option<String>> {
    let mut line = String::new();
    let read = lines.take(MAX_LINE_BYTES).read_line(&mut line).with_context(|| format!("cannot read line {number}"))?;
    if u64::try_from(read)? >= MAX_LINE_BYTES && !line.ends_with('\n') {
        bail!("line {number} has more than {MAX_LINE_BYTES} bytes");
    }
    Ok((read > 0).then_some(line))
}

/// Gives tasks to the queue, and tells of those that it refuses.
async fn give(client: &Client, tasks: Vec<Value>, outcome: &mut Outcome) -> anyhow::Result<()> {
    let reply = ask(client, "task_import", json!({ "tasks": tasks })).await?;
    let count = |name: &str| reply.get(name).and_then(Value::as_u64).unwrap_or_default();
    outcome.imported_count = outcome.imported_count.saturating_add(count("imported_count"));
    outcome.known_count = outcome.known_count.saturating_add(count("known_count"));
    for failure in reply.get("failures").and_then(Value::as_array).into_iter().flatten() {
        outcome.failed_count = outcome.failed_count.saturating_add(1);
        tell(&format!("{}: {}", clean(&field(failure, "task_id")), field(failure, "error")));
    }
    Ok(())
}
