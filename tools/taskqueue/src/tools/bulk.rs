//! `task_bulk`: changes of all tasks that match.

use mcpp_tool::environment::rfc3339;
use serde_json::{Value, json};

use crate::engine::Bulk;

/// How far a change of many tasks is.
pub(crate) fn progress(bulk: &Bulk) -> Value {
    json!({
        "bulk_id": bulk.number,
        "action": bulk.action,
        "filter": bulk.filter,
        "asked_at": rfc3339(bulk.asked_ms),
        "changed_count": bulk.changed,
        "ended_at": bulk.ended_ms.map(rfc3339),
    })
}
