//! Many tasks in one request: over the mesh a request costs more than a task.

use mcpp_tool::{environment::now_ms, store::transact};
use serde_json::{Value, json};

use super::{Failure, Reply, draft, fields::Request};
use crate::engine::{self, Submitter};

/// Most tasks of one request.
const MAX_TASKS: usize = 1_000;

/// Submits tasks, all or none. Each entry of `tasks` has the fields of a `submit`.
pub(super) fn submit(request: &Request<'_>) -> Reply {
    let tasks = request.objects("tasks")?;
    if tasks.is_empty() || tasks.len() > MAX_TASKS {
        let detail = format!("`tasks` must have 1 to {MAX_TASKS} entries");
        return Err(Failure { error: "invalid_message", detail: Some(detail) });
    }
    let now = now_ms();
    let submitter = Submitter::of_caller();
    let drafts = tasks.into_iter().map(|task| draft(&submitter, &Request::of_task(task), now));
    let drafts = drafts.collect::<Result<Vec<_>, _>>()?;
    let submitted = transact(|t| engine::submit_all(t, &drafts, now))?;
    let ids: Vec<Value> = submitted.into_iter().map(|task| json!(task.id)).collect();
    Ok(json!({ "task_ids": ids }))
}
