//! The keys of a step whose placeholders are filled, and the step's turn at them.

use serde::{Deserialize, Serialize};

use super::{Node, State};

/// The kinds of limits that a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limited {
    /// How many steps run at once.
    Concurrency,
    /// How soon one step begins after another.
    Rate,
}

/// The line of steps that wait for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Line {
    /// The limit for which they wait.
    pub of: Limited,
    /// The key.
    pub key: String,
}

impl Line {
    /// Why a step of it does not begin.
    pub fn reason(&self) -> String {
        match self.of {
            Limited::Concurrency => format!("waits for the key {:?}", self.key),
            Limited::Rate => format!("waits for the rate of the key {:?}", self.key),
        }
    }
}

/// How far a step has come with its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The key that bounds how many steps run at once.
    pub concurrency: Option<String>,
    /// The key that bounds how soon steps begin.
    pub rate: Option<String>,
    /// Whether the step counts among those of `concurrency`.
    pub has_slot: bool,
    /// Whether the step is the next one of `rate` to begin.
    pub is_next: bool,
}

impl Node {
    /// The concurrency key among whose steps this one counts: from its turn to the end of its attempt.
    pub fn slot(&self) -> Option<&str> {
        let counts =
            matches!(self.state, State::Ready | State::Running { .. } | State::Handed { .. } | State::InLine(_));
        let turn = self.turn.as_ref().filter(|turn| counts && turn.has_slot)?;
        turn.concurrency.as_deref()
    }

    /// The rate key of which this one begins next.
    pub fn next_of_rate(&self) -> Option<&str> {
        let turn = self.turn.as_ref().filter(|turn| self.state == State::Ready && turn.is_next)?;
        turn.rate.as_deref()
    }
}
