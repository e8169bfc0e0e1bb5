//! `task_export` and `task_import`: all tasks of a queue, as lines of JSON that another queue takes in.

use mcpp_tool::{Envelope, environment::now_ms, tool};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{batch::One, read, seal};
use crate::{
    engine::{self, Filter, QueueError, Traveller},
    listing::{self, List, Query},
    record::Status,
};

/// A part of the exported tasks.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Exported {
    /// The tasks, those submitted first at the front. Times are in milliseconds since 1970-01-01 UTC.
    tasks: Vec<Value>,
    /// How many there are in all; null where that is not known.
    total_count: Option<u64>,
    /// Given as `cursor` it goes on behind them; null at the end.
    next_cursor: Option<String>,
}

/// Exports tasks with everything that the queue knows of them, about 1 MiB at a time: for `task_import`.
#[tool(read_only)]
pub fn task_export(
    /// Only tasks with this status.
    #[arg(default)]
    status_filter: Option<Status>,
    /// Most tasks.
    #[arg(default = 1000)]
    #[schemars(range(min = 1, max = 1000))]
    limit: usize,
    /// The `next_cursor` of the part before.
    #[arg(default)]
    cursor: Option<String>,
) -> Envelope<Exported> {
    let statuses = status_filter.map_or(Status::ALL.to_vec(), |status| vec![status]);
    seal(read(|t| {
        let after = cursor.as_deref().map(listing::parse_cursor).transpose()?;
        let query = Query { filter: Filter { statuses, ..Filter::default() }, after, offset: 0, limit };
        let List { tasks, total, next } = listing::list(t, &query, engine::export)?;
        Ok(Exported { tasks, total_count: total, next_cursor: next })
    }))
}

/// The outcome of an import.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Imported {
    /// Tasks that are new here.
    imported_count: usize,
    /// Tasks that were here already.
    known_count: usize,
    /// Tasks that were refused, in the order of the call.
    failures: Vec<One>,
}

/// Imports tasks as `task_export` gave them, each for itself. One that is here already is passed over, so a repetition does no harm. One that ran is queued again.
#[tool(idempotent)]
pub fn task_import(
    /// The tasks.
    #[schemars(length(min = 1, max = 1000))]
    tasks: Vec<Map<String, Value>>,
) -> Envelope<Imported> {
    let now = now_ms();
    let name = |task: &Map<String, Value>| task.get("task_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let ids: Vec<String> = tasks.iter().map(name).collect();
    let travellers: Vec<Result<Traveller, QueueError>> = tasks.into_iter().map(Traveller::read).collect();
    let outcomes = engine::take_in_each(&travellers, now);
    let mut imported = Imported::default();
    for (id, outcome) in ids.iter().zip(outcomes) {
        match outcome {
            Ok((_, true)) => imported.imported_count = imported.imported_count.saturating_add(1),
            Ok((_, false)) => imported.known_count = imported.known_count.saturating_add(1),
            Err(error) => imported.failures.push(One::of(id, Err(error))),
        }
    }
    seal(Ok(imported))
}
