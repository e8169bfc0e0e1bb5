//! The tools that the submitter of a task may use.
//!
//! A worker that runs a task as a call of a tool does so within this bound, so that a submitter gains nothing by the queue. The queue takes it from the caller, never from a request.

use mcpp_tool::rights::{self, Rights};
use serde::{Deserialize, Serialize};

/// Longest list that is kept, in bytes of names: it lies in every record.
const MAX_BYTES: usize = 8 << 10;

/// The tools that a submitter may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// It is not known: an earlier version stored the task, or the list is longer than what is kept. No worker runs it as a call.
    #[default]
    Unknown,
    /// All of the tenant's.
    All,
    /// Names, and prefixes that end in `*`.
    Only(Vec<String>),
}

impl Reach {
    /// Those of the running call's caller.
    pub fn of_caller() -> Self {
        rights::of_caller().into()
    }
}

impl From<Rights> for Reach {
    fn from(Rights(tools): Rights) -> Self {
        match tools {
            None => Self::All,
            Some(tools) if tools.iter().map(String::len).sum::<usize>() > MAX_BYTES => Self::Unknown,
            Some(tools) => Self::Only(tools),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_long_is_unknown_and_never_all() {
        let of = |count: usize| Reach::from(Rights(Some(vec!["x".repeat(64); count])));
        assert_eq!(of(128), Reach::Only(vec!["x".repeat(64); 128]));
        assert_eq!(of(129), Reach::Unknown);
        assert_eq!(Reach::from(Rights(None)), Reach::All);
        assert_eq!(serde_json::from_str::<Reach>("\"all\"").unwrap(), Reach::All);
    }
}
