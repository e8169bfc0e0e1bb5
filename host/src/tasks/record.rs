//! What the file says of one task.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{limits::now_ms, names::ToolName};

/// Longest reason of a failure that is kept, in bytes.
pub const MAX_REASON_BYTES: usize = 8 << 10;
/// Longest time for which a task goes on whose call has put off its answer, in milliseconds: 31 days.
pub const MAX_WORK_MS: u64 = 31 * 86_400_000;
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
    /// What goes on for it after the call, if the call has put off its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<TaskWork>,
}

/// What a task needs to go on after a restart of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskWork {
    /// By what its component knows the answer.
    pub handle: String,
    /// By what right the caller came in.
    pub right: EntryRight,
    /// What the client got in the place of the answer.
    pub in_place: InPlace,
    /// Whether its user fills in forms.
    pub has_user: bool,
    /// For how long the result is kept, in milliseconds.
    pub keep_ms: u64,
}

/// By what right a caller came in. The door that checks such rights stops the tasks of callers that have lost theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryRight {
    /// A token, or none where the door asks for none.
    Token,
    /// The grant of a peer.
    PeerGrant,
    /// That of whoever started the host, which nobody takes away.
    Owner,
}

/// What a client that gets no answer yet gets in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InPlace {
    /// MCP's own handle of a task.
    Handle,
    /// A result that says how to wait for the answer.
    Result,
}

impl TaskRecord {
    /// A task that begins now.
    pub fn new(owner: [u8; 32], tool: ToolName, ttl_ms: u64, wait_ms: u64) -> Self {
        let now = now_ms();
        Self { owner, tool, created_ms: now, updated_ms: now, ttl_ms, wait_ms, end: None, work: None }
    }

    /// Notes that its call has put off its answer: the task may go on for as long as such work may.
    pub fn defer(&mut self, work: TaskWork) {
        self.updated_ms = now_ms();
        self.ttl_ms = MAX_WORK_MS.saturating_add(work.keep_ms);
        self.work = Some(work);
    }

    /// When the host may forget it, in milliseconds since 1970.
    pub fn expires_ms(&self) -> u64 {
        self.created_ms.saturating_add(self.ttl_ms)
    }

    /// Notes its end, from which on it is kept for so long at least.
    pub(super) fn finish(&mut self, end: TaskEnd, keep_ms: u64) {
        self.updated_ms = now_ms();
        let kept = self.updated_ms.saturating_sub(self.created_ms).saturating_add(keep_ms);
        // How long such work takes was not known before.
        self.ttl_ms = if self.work.is_some() { kept } else { self.ttl_ms.max(kept) };
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
    fn records_of_before_and_after_work_was_kept_are_read() {
        let before = r#"{"owner":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,7],"tool":"t","created_ms":1,"updated_ms":2,"ttl_ms":3,"wait_ms":4,"end":{"completed":{"bytes":5}}}"#;
        let mut record = TaskRecord::read(before.as_bytes()).expect("of a host before");
        assert_eq!(record.write(), before, "it is written as before");
        record.defer(TaskWork {
            handle: "h".into(),
            right: EntryRight::PeerGrant,
            in_place: InPlace::Result,
            has_user: true,
            keep_ms: 6,
        });
        let after = String::from_utf8(record.write().to_vec()).expect("text");
        let work = r#""work":{"handle":"h","right":"peer_grant","in_place":"result","has_user":true,"keep_ms":6}"#;
        assert!(after.contains(work), "{after}");
        assert_eq!(TaskRecord::read(after.as_bytes()), Some(record));
    }

    #[test]
    fn an_id_is_read_as_it_is_written_and_in_no_other_way() {
        let id = TaskId(0xab);
        assert_eq!(TaskId::read(&id.to_string()), Some(id));
        for wrong in ["", "ab", &"A".repeat(32), &"+".repeat(32), &"0".repeat(33), &format!("{:>32}", "ab")] {
            assert_eq!(TaskId::read(wrong), None, "{wrong:?}");
        }
    }
}
