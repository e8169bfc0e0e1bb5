//! A run as it is stored: its head, and a node for each of its steps.

mod handed;
mod inner;
mod keys;
mod tally;

use std::collections::BTreeMap;

use mcpp_tool::{builds::Build, rights::Rights};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::{
    handed::HandedTask,
    inner::Inner,
    keys::{Limited, Line, Turn},
    tally::Tally,
};
use crate::definition::{EventWanted, Form, Step};

/// A node's number within its run, from 0.
pub type Number = u32;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It waits for other runs.
    Blocked,
    /// Its steps run, or wait.
    Running,
    /// Effects are taken back, the last one first.
    Undoing,
    /// An undo has failed for good: an operator decides.
    UndoFailed,
    /// All steps have ended well.
    Completed,
    /// A step has failed, and what could be undone is.
    Failed,
    /// It was cancelled, and what had to be undone is.
    Cancelled,
}

impl Phase {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::UndoFailed => "undo_failed",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing happens any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// A run without its steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub phase: Phase,
    /// Lower is sooner.
    pub priority: f64,
    /// Its tags.
    pub tags: Vec<String>,
    /// What its placeholders `metadata` give.
    pub metadata: Map<String, Value>,
    /// What its submitter may use.
    pub rights: Rights,
    /// Its submitter.
    pub by: String,
    /// Runs that it waits for.
    pub waits_for: Vec<String>,
    /// When it was submitted, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// When its first step was ready.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Since when nothing more begins.
    pub paused_ms: Option<u64>,
    /// Why it was cancelled, if it was.
    pub cancelled: Option<String>,
    /// What made it fail first.
    pub error: Option<String>,
    /// Whether a step of the run itself has failed that may not.
    pub has_failed: bool,
    /// Its nodes by what has become of them.
    pub tally: Tally,
    /// The step that began last.
    pub current: Option<String>,
    /// The node that a handler took last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Number>,
    /// Nodes that have ended, and of which not all dependents know: with how many of them do.
    pub untold: Vec<(Number, u32)>,
    /// Nodes that are to be cancelled.
    pub to_cancel: Vec<Number>,
    /// Fan-outs whose next items did not fit into a transaction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to_fill: Vec<Number>,
    /// Up to which node cancelling of the whole run has come.
    pub cancelling: Option<Number>,
    /// Whether cancelling waits for nothing and takes nothing back.
    pub is_forced: bool,
    /// The node whose effect is being taken back.
    pub undoing: Option<Number>,
    /// How many nodes have ended, so that each has its place in the order.
    pub sequence: u64,
    /// Nodes that are ready and do not begin while the run is paused.
    pub held: Vec<Number>,
    /// The run and the step from which this one was forked, and who did it.
    pub forked: Option<Fork>,
    /// What names of its effects begin with: another run with its id has another one.
    #[serde(default)]
    pub key: String,
    /// The builds of components with which it began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builds: Vec<Build>,
    /// Whether it is a rehearsal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_rehearsal: bool,
    /// Whether a client has removed it, and its last entries go.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_removed: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Where a run is from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fork {
    /// The run.
    pub run: String,
    /// The first step that was done again; none if that is every one that had not completed.
    pub step: Option<String>,
    /// Who forked it.
    pub by: String,
}

impl Run {
    /// A run without steps that nothing has happened to.
    pub fn new(id: String, created_ms: u64) -> Self {
        Self {
            id,
            name: String::new(),
            phase: Phase::Running,
            priority: 1.0,
            tags: Vec::new(),
            metadata: Map::new(),
            rights: Rights::default(),
            by: String::new(),
            waits_for: Vec::new(),
            created_ms,
            started_ms: None,
            ended_ms: None,
            paused_ms: None,
            cancelled: None,
            error: None,
            has_failed: false,
            tally: Tally::default(),
            current: None,
            taken: None,
            untold: Vec::new(),
            to_cancel: Vec::new(),
            to_fill: Vec::new(),
            cancelling: None,
            is_forced: false,
            undoing: None,
            sequence: 0,
            held: Vec::new(),
            forked: None,
            key: String::new(),
            builds: Vec::new(),
            is_rehearsal: false,
            is_removed: false,
        }
    }

    /// The status by the contract's words.
    pub fn status(&self) -> &'static str {
        match self.phase {
            _ if self.cancelled.is_some() => "cancelled",
            Phase::Blocked => "submitted",
            Phase::Running if self.started_ms.is_none() => "submitted",
            Phase::Running | Phase::Undoing => "running",
            Phase::UndoFailed | Phase::Failed => "failed",
            Phase::Completed => "completed",
            Phase::Cancelled => "cancelled",
        }
    }

    /// The URI of one of its resources. What would end the id there, or is not printable ASCII, is percent-encoded.
    pub fn uri(&self, resource: &str) -> String {
        let mut uri = "workflow://".to_owned();
        for byte in self.id.bytes() {
            match byte.is_ascii_graphic() && !b"/?#%{}\"<>\\^`|".contains(&byte) {
                true => uri.push(char::from(byte)),
                false => uri.push_str(&format!("%{byte:02X}")),
            }
        }
        uri.push('/');
        uri.push_str(resource);
        uri
    }

    /// How many of its nodes have ended, in percent of those that there are and of the items of fan-outs that come.
    pub fn progress(&self) -> f64 {
        let ended = f64::from(self.tally.total.saturating_sub(self.tally.open));
        match self.tally.expected() {
            0 => 100.0,
            total => (ended / f64::from(total) * 1_000.0).round() / 10.0,
        }
    }
}

/// What becomes of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for other nodes.
    Pending,
    /// It may begin.
    Ready,
    /// It may begin once the run is no longer paused.
    Held,
    /// It waits for a key.
    InLine(Line),
    /// A handler works on it.
    Running {
        /// The delivery that has it.
        claim: String,
        /// When the delivery is given up, in milliseconds since 1970-01-01 UTC.
        until_ms: u64,
    },
    /// It waits for its next attempt.
    Delayed {
        /// When that is.
        until_ms: u64,
    },
    /// It waits for a time, or for somebody.
    Waiting {
        /// The signal that it waits for; none for a time or a token.
        signal: Option<String>,
        /// The token that it waits for.
        token: Option<String>,
        /// When it goes on, or gives up.
        until_ms: Option<u64>,
        /// What the user of a client that waits for the run is asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        form: Option<Form>,
    },
    /// It waits for an event.
    Listening {
        /// Which.
        event: EventWanted,
        /// Since when: an earlier event does not count. In milliseconds since 1970-01-01 UTC, as all times here.
        since_ms: u64,
        /// When it gives up.
        until_ms: Option<u64>,
    },
    /// A task of the queue does it: see [`Node::task`].
    Handed {
        /// When the attempt is over.
        until_ms: Option<u64>,
        /// When the queue is asked for the task, if no event comes before.
        look_ms: u64,
    },
    /// Nodes within it run.
    Open(Inner),
    /// It has a result.
    Completed,
    /// It has none; see the error.
    Failed,
    /// It was never begun; see the error.
    Skipped,
    /// The run was cancelled first.
    Cancelled,
    /// Its effect is being taken back.
    Undoing {
        /// The delivery that does it, and until when; none while it waits for one.
        claim: Option<(String, u64)>,
    },
    /// Taking its effect back waits for its next attempt.
    UndoDelayed {
        /// When that is.
        until_ms: u64,
    },
    /// Its effect was taken back.
    Undone,
    /// Its effect could not be taken back; see the error.
    UndoFailed,
}

impl State {
    /// Its name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Held => "held",
            Self::Running { .. } | Self::Open(_) => "running",
            Self::Delayed { .. } => "delayed",
            Self::Waiting { .. } | Self::InLine(_) | Self::Listening { .. } | Self::Handed { .. } => "waiting",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
            Self::Undoing { .. } | Self::UndoDelayed { .. } => "undoing",
            Self::Undone => "undone",
            Self::UndoFailed => "undo_failed",
        }
    }

    /// Whether it has ended, whatever is undone afterwards.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Pending | Self::Ready | Self::Held | Self::Running { .. } | Self::Delayed { .. } => false,
            Self::Waiting { .. } | Self::InLine(_) | Self::Listening { .. } | Self::Handed { .. } | Self::Open(_) => {
                false
            }
            Self::Completed | Self::Failed | Self::Skipped | Self::Cancelled => true,
            Self::Undoing { .. } | Self::UndoDelayed { .. } | Self::Undone | Self::UndoFailed => true,
        }
    }
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub number: Number,
    /// Its name, behind those of the nodes in which it stands: `sub/step`, `fan/3`.
    pub path: String,
    /// Its definition.
    pub step: Step,
    /// The node in which it stands.
    pub parent: Option<Number>,
    /// The node whose input is its `input`; none for the run's.
    pub scope: Option<Number>,
    /// How deep it stands within steps that have steps.
    pub depth: u8,
    /// The nodes that its placeholders name.
    pub names: BTreeMap<String, Number>,
    /// The nodes that it waits for.
    pub depends_on: Vec<Number>,
    /// The nodes that wait for it.
    pub dependents: Vec<Number>,
    /// How many of those that it waits for have not ended.
    pub waiting_for: u32,
    /// The rank of its priority, or of the run's: less is sooner.
    pub rank: u64,
    /// Since when it is ready, in milliseconds since 1970-01-01 UTC.
    pub ready_ms: u64,
    /// Its place among the nodes of the run that have ended.
    pub order: u64,
    /// The number of its item in a fan-out.
    pub index: Option<u32>,
    /// What has become of it.
    pub state: State,
    /// Attempts that have begun, of the step or its undo.
    pub attempt: u32,
    /// When its first attempt began, in milliseconds since 1970-01-01 UTC.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Why it failed, was skipped, or could not be undone.
    pub error: Option<String>,
    /// Its turn at its keys, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    /// Whether its result is that of an earlier step.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_cached: bool,
    /// The task that does its step, if a worker of the queue does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<HandedTask>,
    /// Where its last attempt ran: `here` or a peer's id; none for a step without a call, and if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl Node {
    /// Whether those that wait for it may go on: it has a result, or is left out by its condition, or may fail.
    pub fn lets_go_on(&self) -> bool {
        match self.state {
            State::Failed => self.step.may_fail,
            State::Skipped => self.error.is_none(),
            State::Cancelled => false,
            _ => self.state.has_ended(),
        }
    }

    /// Why it failed, was skipped, or could not be undone.
    pub fn reason(&self) -> Option<&str> {
        let left_out = (self.state == State::Skipped).then_some("its condition does not hold");
        self.error.as_deref().or(left_out)
    }

    /// What names its effect, or that of its undo: the same at each attempt.
    pub fn effect(&self, run: &Run) -> String {
        let part = if matches!(self.state, State::Undoing { .. }) { "undo" } else { "do" };
        format!("{}/{part}/{}", run.key, self.path)
    }

    /// Its step's id, or its item's number.
    pub fn own_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}
