//! The end of a claim, as it is kept for a holder that does not hear the answer.

use serde::{Deserialize, Serialize};

/// The end of a claim by its holder's own word. A holder that did not hear the answer says it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parting {
    /// The worker that had the task.
    pub worker: String,
    /// Its word.
    pub word: PartingWord,
}

/// The word by which a holder parts from its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartingWord {
    /// It is done.
    Completed,
    /// It failed, and may be tried again.
    Failed,
    /// It failed for good.
    FailedForGood,
    /// It is cancelled.
    Cancelled,
    /// It was given back.
    Released,
}
