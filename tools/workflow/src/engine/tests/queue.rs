//! A task queue with no more than these tests need of it. A test does what a worker would.

use std::{cell::RefCell, collections::BTreeMap};

use mcpp_tool::events::Event;
use serde_json::{Map, Value, json};

use super::now_ms;

thread_local! {
    /// The tasks, by id: each as the queue's tools show it.
    static TASKS: RefCell<BTreeMap<String, Value>> = const { RefCell::new(BTreeMap::new()) };
    /// Whether a worker does a task before its submitter has the answer.
    static IS_FAST: RefCell<bool> = const { RefCell::new(false) };
}

pub(super) fn clear() {
    TASKS.take();
    IS_FAST.take();
}

/// From now on a task has ended, and its event has come, before its submitter has the answer.
pub(super) fn be_fast() {
    IS_FAST.set(true);
}

/// What a tool of the queue answers; none for any other tool.
pub(super) fn answer(tool: &str, arguments: &Map<String, Value>) -> Option<Value> {
    let id = arguments.get("task_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let known = task(&id);
    let missing = || json!({ "success": false, "error": format!("task {id:?} not found") });
    Some(match tool {
        "task_submit" => {
            assert_eq!(arguments["notify"], true);
            let new = json!({ "status": "queued", "worker_id": null, "payload": arguments["payload"] });
            TASKS.with_borrow_mut(|tasks| {
                tasks.entry(id.clone()).or_insert(new);
            });
            if IS_FAST.with_borrow(|is_fast| *is_fast) {
                end(&id, "completed", json!({ "result": "fast" }));
                super::super::hear(&event(&id)).expect("heard");
            }
            json!({ "success": true, "task_id": id, "status": "queued" })
        }
        "task_status" => known.unwrap_or_else(missing),
        "task_result" => known.filter(|task| task["status"] != "queued").unwrap_or_else(missing),
        "task_cancel" => {
            assert_eq!(arguments["force"], true);
            end(&id, "cancelled", json!({ "error": arguments["reason"] }));
            json!({ "success": true })
        }
        _ => return None,
    })
}

/// A task; none if there is none.
pub(super) fn task(id: &str) -> Option<Value> {
    TASKS.with_borrow(|tasks| tasks.get(id).cloned())
}

/// The ids of all tasks that are in a status.
pub(super) fn ids(status: &str) -> Vec<String> {
    TASKS.with_borrow(|tasks| {
        tasks.iter().filter(|(_, task)| task["status"] == status).map(|(id, _)| id.clone()).collect()
    })
}

/// Forgets a task.
pub(super) fn forget(id: &str) {
    TASKS.with_borrow_mut(|tasks| drop(tasks.remove(id)));
}

/// A worker ends a task, or takes it.
pub(super) fn end(id: &str, status: &str, fields: Value) {
    TASKS.with_borrow_mut(|tasks| {
        let Some(Value::Object(task)) = tasks.get_mut(id) else { return };
        task.insert("status".into(), status.into());
        task.insert("worker_id".into(), "w7".into());
        task.extend(fields.as_object().expect("fields").clone());
    });
}

/// The event of a task's end.
pub(super) fn event(id: &str) -> Event {
    super::waiting::event("taskqueue/ended", id, b"{}", now_ms())
}
