//! What the file says of one task.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{limits::now_ms, names::ToolName};

/// Longest reason of a failure that is kept, in bytes.
pub const MAX_REASON_BYTES: usize = 8 << 10;
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 32;

/// The id of a task: 128 random bits, which nobody can guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskId(u128);

impl TaskId {
    /// A new one; none if the system gives no random bytes.
    pub fn random() -> Option<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        Some(Self(u128::from_be_bytes(bytes)))
    }

    /// Reads one as it is written, and in no other way.
    pub fn read(text: &str) -> Option<Self> {
        let is_written_so = |c: u8| c.is_ascii_digit() || matches!(c, b'a'..=b'f');
        let is_id = text.len() == ID_DIGITS && text.bytes().all(is_written_so);
        is_id.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
    }

    pub(super) fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id at the end of a key.
    pub(super) fn from_key(key: &[u8]) -> Option<Self> {
        key.last_chunk().map(|bytes| Self(u128::from_be_bytes(*bytes)))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskEnd {
    /// It has a result.
    Completed {
        /// Its size.
        bytes: u64,
    },
    /// It has none; the reason in the owner's words.
    Failed(String),
    /// Its client did not want it any more.
    Cancelled,
    /// The host stopped while it ran.
    Interrupted,
    /// It had a result, which could not be kept; why.
    Lost(String),
}

impl TaskEnd {
    /// Its name in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Completed { .. } => "completed",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Lost(_) => "lost",
        }
    }
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The hash of the caller, the only one who may see it.
    pub owner: [u8; 32],
    /// The tool that was called.
    pub tool: ToolName,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it last changed.
    pub updated_ms: u64,
    /// For how long it is kept, from when it was made.
    pub ttl_ms: u64,
    /// For how long a client waits for it at a time.
    pub wait_ms: u64,
    /// Its end, if it has one.
    pub end: Option<TaskEnd>,
}

impl TaskRecord {
    /// A task that begins now.
    pub fn new(owner: [u8; 32], tool: ToolName, ttl_ms: u64, wait_ms: u64) -> Self {
        let now = now_ms();
        Self { owner, tool, created_ms: now, updated_ms: now, ttl_ms, wait_ms, end: None }
    }

    /// When the host may forget it, in milliseconds since 1970.
    pub fn expires_ms(&self) -> u64 {
        self.created_ms.saturating_add(self.ttl_ms)
    }

    /// Notes its end, from which on it is kept for so long at least.
    pub(super) fn finish(&mut self, end: TaskEnd, keep_ms: u64) {
        self.updated_ms = now_ms();
        self.ttl_ms = self.ttl_ms.max(self.updated_ms.saturating_sub(self.created_ms).saturating_add(keep_ms));
        self.end = Some(end);
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn write(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_in_no_other_way() {
        let id = TaskId(0xab);
        assert_eq!(TaskId::read(&id.to_string()), Some(id));
        for wrong in ["", "ab", &"A".repeat(32), &"+".repeat(32), &"0".repeat(33), &format!("{:>32}", "ab")] {
            assert_eq!(TaskId::read(wrong), None, "{wrong:?}");
        }
    }
}
