//! Reasons for which a request of the client has no answer.

use std::time::Duration;

use rmcp::model::{ErrorCode, ErrorData};
use serde_json::Value;

use crate::mcp::convert::BUSY;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is none.
    #[error("{url:?} is not an http or https URL")]
    Url {
        /// As given.
        url: String,
    },
    /// The server cannot be reached.
    #[error("cannot reach {url}: {reason}; is a host running there? (`mcpp serve`)")]
    Connect {
        /// The endpoint.
        url: String,
        /// The error.
        reason: String,
    },
    /// The server admits no client that shows this token, or none.
    #[error("the host refuses: it needs a token (--token, MCPP_TOKEN), or this one is unknown, expired or revoked")]
    NoAdmission,
    /// The server has nothing at this path.
    #[error("there is no MCP endpoint at {url} (404); a host has it at /mcp, or where `server.mount_path` says")]
    NoEndpoint {
        /// As given.
        url: String,
    },
    /// The server does not answer as one of MCP.
    #[error("{url} does not answer as an MCP server: {reason}")]
    NotMcp {
        /// As given.
        url: String,
        /// Its answer.
        reason: String,
    },
    /// The server does not know the method, because it has no such things.
    #[error("this server has no {0}")]
    HasNone(&'static str),
    /// The server refuses.
    #[error("the server refuses ({code}): {message}")]
    Refused {
        /// JSON-RPC code.
        code: i32,
        /// In words.
        message: String,
        /// Whether the server says that the request has not run and may be repeated. The code alone does not: servers use it for any error of their own.
        repeat: Repeat,
    },
    /// The server took too long.
    #[error("no answer within {} ms; allow more with --timeout", .0.as_millis())]
    Timeout(Duration),
    /// The call was cancelled.
    #[error("the call was cancelled")]
    Cancelled,
    /// The conversation broke.
    #[error("the conversation broke off: {0}")]
    Broken(String),
}

impl ClientError {
    /// A method that the server does not know means that it has none of these.
    pub(super) fn or_none(self, things: &'static str) -> Self {
        match self {
            Self::Refused { code, .. } if code == ErrorCode::METHOD_NOT_FOUND.0 => Self::HasNone(things),
            error => error,
        }
    }
}

/// Whether a refused request may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It has not run.
    HasNotRun,
    /// It may have run.
    No,
}

impl From<ErrorData> for ClientError {
    fn from(error: ErrorData) -> Self {
        let says = |key: &str| error.data.as_ref().and_then(|data| data.get(key));
        let kind = says("error").and_then(Value::as_str);
        let has_not_run = error.code == BUSY
            && matches!(kind, Some("busy" | "too_many"))
            && says("retryAfterMs").is_some_and(Value::is_u64);
        let repeat = if has_not_run { Repeat::HasNotRun } else { Repeat::No };
        Self::Refused { code: error.code.0, message: error.message.into_owned(), repeat }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_server_says_has_not_run_is_repeated() {
        for (code, data, repeat) in [
            (-32000, json!({ "error": "busy", "retryAfterMs": 1000 }), Repeat::HasNotRun),
            (-32000, json!({ "error": "too_many", "retryAfterMs": 5 }), Repeat::HasNotRun),
            (-32000, json!({ "error": "interrupted" }), Repeat::No),
            (-32000, json!({ "error": "interrupted", "retryAfterMs": 1000 }), Repeat::No),
            (-32000, json!({ "error": "busy" }), Repeat::No),
            (-32000, json!(null), Repeat::No),
            (-32603, json!({ "error": "busy", "retryAfterMs": 1000 }), Repeat::No),
        ] {
            let error = ErrorData::new(ErrorCode(code), "no", Some(data.clone()));
            let ClientError::Refused { repeat: found, .. } = error.into() else { panic!("a refusal") };
            assert_eq!(found, repeat, "{code} {data}");
        }
    }
}
