//! Lists of tasks as the protocol has them.

use mcpp_tool::store::snapshot;
use serde_json::json;

use super::{Reply, fields::Request};
use crate::{
    engine::{Filter, QueueError},
    listing::{self, Query},
    record::{Status, Task},
};

/// Tasks, oldest first. Ours beyond the protocol: where there are more, `has_more` says so, and `next_cursor` given as `cursor` goes on.
pub(super) fn list(request: &Request<'_>) -> Reply {
    let limit = request.number(&["limit"])?.unwrap_or(50.0).clamp(1.0, 1_000.0) as usize;
    let types = request.texts(&["task_types"])?;
    let statuses = match request.word("status")? {
        None => Status::ALL.to_vec(),
        Some(name) => {
            let unknown = || {
                QueueError::Invalid(format!("`status` is no status: {:?}", name.chars().take(40).collect::<String>()))
            };
            vec![Status::parse(name).ok_or_else(unknown)?]
        }
    };
    let after = request.text(&["cursor"])?.map(listing::parse_cursor).transpose()?;
    let filter = Filter { statuses, task_types: types, ..Filter::default() };
    let list = listing::list(&snapshot()?, &Query { filter, after, offset: 0, limit }, Task::wire)?;
    Ok(json!({ "tasks": list.tasks, "has_more": list.next.is_some(), "next_cursor": list.next }))
}
