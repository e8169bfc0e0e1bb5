//! Why a tool did not succeed.

use crate::{
    bindings::mcpp::tool::types,
    output::{Content, Output},
};

/// Why a tool did not succeed, in words for the model or person who called it.
///
/// Every standard error converts into one with `?`; its text is what the caller reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// An argument is wrong in a way that the input schema cannot say.
    InvalidArgument {
        /// JSON pointer (RFC 6901) to the argument, such as `/items/0`; empty for the arguments as a whole.
        path: String,
        /// The error, and what would be right.
        reason: String,
    },
    /// The tool tried and did not succeed.
    Failed(Output),
}

impl Error {
    /// The argument at `path` (a JSON pointer) is wrong.
    pub fn invalid_argument(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidArgument { path: path.into(), reason: reason.into() }
    }

    /// The tool did not succeed; why.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(Output { content: vec![Content::Text(reason.into())], structured: None })
    }
}

/// The error as one text.
impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InvalidArgument { path, reason } => write!(f, "{path}: {reason}"),
            Self::Failed(output) => {
                let text = |block: &_| if let Content::Text(text) = block { Some(text.clone()) } else { None };
                f.write_str(&output.content.iter().filter_map(text).collect::<Vec<_>>().join("; "))
            }
        }
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::failed(text)
    }
}

impl From<Error> for types::ToolError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidArgument { path, reason } => Self::InvalidArgument(types::InvalidArgument { path, reason }),
            Error::Failed(output) => Self::Failed(output.into()),
        }
    }
}
