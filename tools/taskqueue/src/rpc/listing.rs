//! Lists of tasks as the protocol has them.

use mcpp_tool::store::snapshot;
use serde_json::json;

use super::{Reply, fields::Request};
use crate::{
    engine::QueueError,
    listing::{self, Query},
    queue::canonical_type,
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
    let query = Query { statuses, after, offset: 0, limit };
    let is_one_of = |task: &Task| types.iter().any(|name| canonical_type(name) == canonical_type(&task.spec.task_type));
    let matches: Option<&dyn Fn(&Task) -> bool> = if types.is_empty() { None } else { Some(&is_one_of) };
    let list = listing::list(&mut snapshot()?, &query, matches, Task::wire)?;
    Ok(json!({ "tasks": list.tasks, "has_more": list.next.is_some(), "next_cursor": list.next }))
}
