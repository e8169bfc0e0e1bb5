//! `workflow_bulk`: the same for all runs that a filter has.

use std::cell::Cell;

use mcpp_tool::{
    environment::now_ms,
    store::{Transaction, View},
    tool,
};
use serde_json::{Value, json};

use super::{
    Reply,
    listing::{Between, Status, matching_span, to_cursor},
    origin, read, run, settle,
    submission::retry_run,
};
use crate::{
    engine::{self, WorkflowError},
    store::RUNS,
};

/// Most runs that one call changes.
const MAX_CHANGED: usize = 100;
/// Bytes of the store behind which a call changes no further run: a quarter of what a call may read. One run more may take a few MiB.
const MAX_BYTES: u64 = 16 << 20;
/// Most runs that one call looks at.
const MAX_WALKED: usize = 2_000;

/// What is done with each run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    /// As `workflow_cancel`.
    Cancel,
    /// As `workflow_pause`.
    Pause,
    /// As `workflow_resume`.
    Resume,
    /// As `workflow_retry`.
    Retry,
    /// As `workflow_delete`.
    Delete,
}

/// Cancels, pauses, resumes, retries or removes all runs with a status and tags, 100 or about 16 MiB at a time, those submitted last first. A run for which that cannot be done is listed with the reason.
#[tool(destructive)]
#[allow(clippy::too_many_arguments, reason = "all of them are needed")]
pub fn workflow_bulk(
    /// What is done.
    action: BulkAction,
    /// Only runs with this status.
    status_filter: Status,
    /// Only runs that have all these tags.
    #[arg(default)]
    tag_filter: Vec<String>,
    /// Only runs submitted at this time or later, as RFC 3339.
    #[arg(default)]
    created_after: Option<String>,
    /// Only runs submitted before this time, as RFC 3339.
    #[arg(default)]
    created_before: Option<String>,
    /// Why, for `cancel`.
    #[arg(default)]
    reason: Option<String>,
    /// As with `workflow_cancel`.
    #[arg(default)]
    force: bool,
    /// Says only which runs would be changed.
    #[arg(default)]
    dry_run: bool,
    /// Goes on behind another call: its `next_cursor`.
    #[arg(default)]
    cursor: Option<String>,
) -> Reply {
    let changed = (|| {
        let between = Between::parse(created_after.as_deref(), created_before.as_deref())?;
        let (places, mut next) =
            read(|t| matching(t, status_filter.as_str(), &tag_filter, between, cursor.as_deref()))?;
        let (mut done, mut refused, bytes) = (Vec::new(), Vec::new(), Cell::new(0));
        for place in places {
            let id = place.1.clone();
            let outcome = if dry_run { Ok(()) } else { change(action, &id, (reason.as_deref(), force), &bytes) };
            match outcome {
                Ok(()) => done.push(id),
                Err(error @ WorkflowError::Store(_)) => return Err(error),
                Err(error) => refused.push(json!({ "workflow_id": id, "error": error.to_string() })),
            }
            if bytes.get() >= MAX_BYTES {
                next = Some(to_cursor(place));
                break;
            }
        }
        Ok(json!({ "changed": done, "refused": refused, "dry_run": dry_run, "next_cursor": next }))
    })();
    settle(changed, "")
}

/// Changes one run. What that reads and writes in the store is added to `bytes`.
fn change(
    action: BulkAction,
    id: &str,
    (reason, force): (Option<&str>, bool),
    bytes: &Cell<u64>,
) -> Result<(), WorkflowError> {
    let counted = |t: &Transaction<'_>| bytes.set(bytes.get().saturating_add(t.spent().bytes));
    match action {
        BulkAction::Cancel => {
            let why = reason.filter(|reason| !reason.is_empty()).unwrap_or("cancelled");
            run(|t| engine::cancel(t, id, (why, force), origin(), now_ms()).map(|_| counted(t)))
        }
        BulkAction::Pause => run(|t| engine::pause(t, id, now_ms()).map(|_| counted(t))),
        BulkAction::Resume => run(|t| engine::resume(t, id, origin(), now_ms()).map(|_| counted(t))),
        BulkAction::Delete => run(|t| engine::delete(t, id, now_ms()).map(|_| counted(t))),
        BulkAction::Retry => retry_run(id).map(|_: Value| ()),
    }
}

/// Where a run stands in a list: when it was submitted, and its id.
type Listed = (u64, String);

/// The places of the next runs that the filter has, and where to go on.
fn matching(
    t: &View<'_>,
    status: &str,
    tags: &[String],
    between: Between,
    cursor: Option<&str>,
) -> Result<(Vec<Listed>, Option<String>), WorkflowError> {
    let span = matching_span((status, tags, between), cursor)?;
    let (mut places, mut last) = (Vec::new(), None);
    for (walked, place) in span.walk(t).enumerate() {
        let place = place?;
        if places.len() == MAX_CHANGED || walked == MAX_WALKED {
            return Ok((places, last.map(to_cursor)));
        }
        let is_meant = match tags.len() {
            0 | 1 => true,
            _ => RUNS.get(t, &place.1)?.is_some_and(|run| tags.iter().all(|tag| run.tags.contains(tag))),
        };
        if is_meant {
            places.push(place.clone());
        }
        last = Some(place);
    }
    Ok((places, None))
}
