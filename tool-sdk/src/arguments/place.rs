//! An argument that does not fit, and its place, which grows from the inside out.

use std::fmt;

/// Why an argument is not of its type.
#[derive(Debug)]
pub(super) struct Misfit {
    /// The error.
    pub(super) reason: String,
    /// The steps to it, the last one first, each as a JSON pointer writes it.
    steps: Vec<String>,
}

impl Misfit {
    /// The same, seen from one level further out.
    pub(super) fn under(mut self, step: &str) -> Self {
        self.steps.push(step.replace('~', "~0").replace('/', "~1"));
        self
    }

    /// A JSON pointer to the argument.
    pub(super) fn path(&self) -> String {
        self.steps.iter().rev().map(|step| format!("/{step}")).collect()
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Misfit {}

impl serde::de::Error for Misfit {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self { reason: reason.to_string(), steps: Vec::new() }
    }
}

impl From<serde_json::Error> for Misfit {
    fn from(error: serde_json::Error) -> Self {
        serde::de::Error::custom(error)
    }
}
