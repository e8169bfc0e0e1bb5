//! Ends of attempts. A result that does not fit into the store's quota fails its task with a word of it, so that the task does not stay with its worker for ever.

use mcpp_tool::store::{StoreError, Transaction, transact};

use super::{QueueError, batch::each_within, finish, reserve::Part};
use crate::{
    record::{Status, Task, json_bytes},
    rules::{Claim, Outcome},
};

/// The end of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The task.
    pub task: String,
    /// The worker that says it has the task.
    pub worker: Option<String>,
    /// The fencing token that it was given.
    pub token: Option<u64>,
    /// How the attempt ended.
    pub outcome: Outcome,
}

impl Completion {
    /// Ends the attempt.
    pub fn apply(&self, t: &Transaction<'_>, now_ms: u64, chance: f64) -> Result<Task, QueueError> {
        self.end(t, self.outcome.clone(), now_ms, chance)
    }

    fn end(&self, t: &Transaction<'_>, outcome: Outcome, now_ms: u64, chance: f64) -> Result<Task, QueueError> {
        let by = Claim { worker: self.worker.as_deref(), token: self.token };
        finish(t, &self.task, by, outcome, now_ms, chance)
    }

    /// Why its task has failed though the worker said that it succeeded: the result did not fit into the store.
    pub fn unkept<'a>(&self, task: &'a Task) -> Option<&'a str> {
        let is_unkept = matches!(self.outcome, Outcome::Completed(_)) && task.status() == Status::Failed;
        task.error.as_deref().filter(|_| is_unkept)
    }

    fn part(&self) -> Part {
        if self.outcome.result().is_some() { Part::Results } else { Part::All }
    }

    /// The failure in the place of an end whose result does not fit; none for an end without one.
    fn without_result(&self, why: &QueueError) -> Option<Outcome> {
        if !matches!(why, QueueError::Full(_) | QueueError::Store(StoreError::QuotaExceeded)) {
            return None;
        }
        let result = self.outcome.result()?;
        let said = self.outcome.error().filter(|error| !error.is_empty()).map(|error| format!("{error}; "));
        let bytes = json_bytes(result);
        let error = format!("{}the result of {bytes} bytes was not kept: {why}", said.unwrap_or_default());
        Some(match self.outcome {
            Outcome::Failed(..) => Outcome::Failed(None, error),
            _ => Outcome::FailedForGood(None, error),
        })
    }
}

/// Ends attempts, each for itself; the tasks as they are then, in the order of the ends. A task whose result does not fit into the store has failed.
pub fn end_all(ends: &[Completion], now_ms: u64, chance: f64) -> Vec<Result<Task, QueueError>> {
    let outcomes =
        each_within(ends, |end| &end.task, Completion::part, |t, end| end.apply(t, now_ms, chance)).into_iter();
    let end_without = |(end, outcome): (&Completion, Result<Task, QueueError>)| match outcome {
        Err(why) => match end.without_result(&why) {
            Some(failure) => transact(|t| end.end(t, failure.clone(), now_ms, chance)),
            None => Err(why),
        },
        ended => ended,
    };
    ends.iter().zip(outcomes).map(end_without).collect()
}
