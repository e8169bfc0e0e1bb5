//! The tools. Each answers as `contracts` has it: the `task_*`, `queue_*` and `worker_*` tools with `success`, the `p2p_*` ones with `ok`; none raises.
#![allow(missing_docs, reason = "a tool's doc comment is its description, and its parameters have their own")]

pub mod batch;
pub mod bulk;
pub mod docker;
pub mod interchange;
pub mod p2p;
pub mod queue;
pub mod tasks;
pub mod workers;

use mcpp_tool::{
    Envelope, Failure, Output,
    store::{Snapshot, Transaction, snapshot, transact},
};
use serde_json::{Map, Value, json};

use crate::engine::QueueError;

/// An answer as it is.
pub(crate) fn answer(value: Value) -> Output {
    Output { content: Vec::new(), structured: Some(value) }
}

/// Runs one transaction.
pub(crate) fn run<T>(work: impl FnMut(&Transaction<'static>) -> Result<T, QueueError>) -> Result<T, QueueError> {
    transact(work)
}

/// `{success: true, …}`, or `{success: false, error, …}` with what was asked for.
pub(crate) fn settle(result: Result<Value, QueueError>, asked: (&str, &str)) -> Output {
    answer(match result {
        Ok(Value::Object(fields)) => {
            let mut reply = Map::from_iter([("success".to_owned(), json!(true))]);
            reply.extend(fields);
            Value::Object(reply)
        }
        Ok(other) => json!({ "success": true, "result": other }),
        Err(error) => {
            let mut reply = json!({ "success": false, "error": error.to_string() });
            if let (Some(reply), (name, value)) = (reply.as_object_mut(), asked)
                && !name.is_empty()
            {
                reply.insert(name.to_owned(), json!(value));
            }
            reply
        }
    })
}

/// The same for a result that has a type.
pub(crate) fn seal<T>(result: Result<T, QueueError>) -> Envelope<T> {
    result.map_err(Failure::new).into()
}

/// Runs work that only reads, on a snapshot.
pub(crate) fn read<T>(work: impl FnOnce(&Snapshot) -> Result<T, QueueError>) -> Result<T, QueueError> {
    work(&snapshot()?)
}

#[cfg(test)]
mod tests;
