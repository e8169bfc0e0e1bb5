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
    Envelope, Failure, IsOk,
    store::{Snapshot, Transaction, snapshot, transact},
};
use serde_json::{Map, Value, json};

use crate::engine::QueueError;

/// `{success: true, …}` or `{success: false, error, …}`, with properties that the contract names.
pub type Reply = Envelope<Map<String, Value>>;
/// `{ok: true, …}` or `{ok: false, error, …}`, as the task-queue protocol has it.
pub type PeerReply = Envelope<Map<String, Value>, IsOk>;

/// A reply of the protocol, as it is.
pub(crate) fn answer(reply: Value) -> PeerReply {
    let Value::Object(mut fields) = reply else { return Err(Failure::new("invalid_response")).into() };
    if fields.shift_remove("ok") == Some(json!(true)) {
        return Ok(fields).into();
    }
    let error = fields.shift_remove("error").unwrap_or_default();
    Err(Failure { error: error.as_str().unwrap_or("invalid_response").to_owned(), more: fields }).into()
}

/// Runs one transaction.
pub(crate) fn run<T>(work: impl FnMut(&Transaction<'static>) -> Result<T, QueueError>) -> Result<T, QueueError> {
    transact(work)
}

/// The reply to a request; a failure with what was asked for.
pub(crate) fn settle(result: Result<Value, QueueError>, (name, asked): (&str, &str)) -> Reply {
    let failure = |error| match name {
        "" => Failure::new(error),
        name => Failure::new(error).with(name, asked),
    };
    Reply::of_json(result.map_err(failure))
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
