//! The queue's record of a task, and its form on the wire.

mod bytes;
mod parting;
mod payload;
mod reach;
mod unique;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::{
    bytes::json_bytes,
    parting::{Parting, PartingWord},
    payload::Payload,
    reach::Reach,
    unique::{OnConflict, Unique},
};

/// Lines of log that are kept of one task; older ones are dropped.
pub const MAX_LOG_LINES: usize = 200;
/// Largest record of a task that a client's word can make, in bytes of JSON. The store takes 1 MiB; the rest is for what the queue itself adds.
pub const MAX_RECORD_BYTES: usize = (1 << 20) - (32 << 10);
/// Attempts, if nothing else is said.
pub const DEFAULT_ATTEMPTS: u32 = 3;

/// One task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its id: given by its submitter, or 32 hexadecimal digits.
    pub id: String,
    /// The submitter's request.
    pub spec: Spec,
    /// Its dependencies that are not completed yet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub waiting_for: Vec<String>,
    /// Where it stands.
    pub state: State,
    /// When it was submitted, in milliseconds since 1970-01-01 UTC, as all times here.
    pub created_ms: u64,
    /// Since when it stands in line, where that is not since its submission.
    #[serde(default, skip_serializing_if = "is_default")]
    pub line_ms: Option<u64>,
    /// The turn of its key that it has got, in microseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub turn_us: Option<u64>,
    /// When it last changed.
    pub updated_ms: u64,
    /// When it last became ready, for measuring how long it waits.
    pub ready_ms: u64,
    /// When its last attempt began.
    #[serde(default, skip_serializing_if = "is_default")]
    pub started_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "is_default")]
    pub finished_ms: Option<u64>,
    /// Attempts that were begun.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attempt: u32,
    /// Rises with every claim; an older one's holder may not change the task any more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fencing_token: u64,
    /// The task's result.
    #[serde(default, skip_serializing_if = "is_default")]
    pub result: Option<Value>,
    /// The last error.
    #[serde(default, skip_serializing_if = "is_default")]
    pub error: Option<String>,
    /// It failed for good, after all its attempts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dead_letter: bool,
    /// The last lines of its log.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logs: Vec<LogLine>,
    /// How far it is, in its worker's words.
    #[serde(default, skip_serializing_if = "is_default")]
    pub progress: Option<Value>,
    /// How often it was retried as a new task.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retries: u32,
    /// How its last holder parted from it; none while it runs, and where it was taken back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub parting: Option<Parting>,
}

/// The request for a task: given when it is submitted, and kept with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The type, by which workers choose.
    pub task_type: String,
    /// The model it is for; may be empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub model_name: String,
    /// The work to do; an object.
    pub payload: Payload,
    /// Higher is sooner.
    pub priority: f64,
    /// For finding it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
    /// The tasks that must be completed before it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dependencies: Vec<String>,
    /// Only a claimer of this session may have it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub session: Option<String>,
    /// Only this worker may have it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sticky_worker: Option<String>,
    /// The key whose tasks take turns with those of other keys, and of which only so many run at once.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency_key: Option<String>,
    /// The key of whose tasks only so many begin in a time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_key: Option<String>,
    /// The key of which there is one task in a time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unique: Option<Unique>,
    /// How waiting raises the priority.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aging: Option<Aging>,
    /// The key that makes a second submission the same one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub idempotency_key: Option<String>,
    /// How many attempts there may be; 0 for no limit.
    pub max_attempts: u32,
    /// The wait after the first failed attempt, in milliseconds; each further one is longer by `backoff_factor`.
    pub backoff_ms: u64,
    /// By how much each further wait is longer.
    pub backoff_factor: f64,
    /// How long one attempt may take, in milliseconds; none for no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeout_ms: Option<u64>,
    /// The submitter's own notes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metadata: Option<Value>,
    /// The tools that its submitter may use, which bounds a worker that runs it as a call.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reach: Reach,
    /// The peer that submitted it; none for a caller of this host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub peer: Option<String>,
    /// Whether its end is an event on the topic `ended` too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub notify: bool,
}

/// How waiting raises the priority of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Aging {
    /// Since when it does, in milliseconds since 1970-01-01 UTC: it makes no difference to a task that came then.
    pub since_ms: u64,
    /// After how long a task counts as one priority higher, in milliseconds.
    pub step_ms: u64,
}

/// The line in which a task waits for its turn: those of one key.
pub type Line<'a> = (bool, &'a str);

/// Whether a field need not be stored.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Spec {
    /// The line in which the task waits for its turn, if it has a key: by its concurrency key (true), else by its rate key.
    pub fn line(&self) -> Option<Line<'_>> {
        let concurrency = self.concurrency_key.as_deref().map(|key| (true, key));
        concurrency.or_else(|| self.rate_key.as_deref().map(|key| (false, key)))
    }

    /// A type and a payload, and defaults for everything else.
    pub fn new(task_type: &str, payload: &Value) -> Self {
        Self {
            task_type: task_type.to_owned(),
            model_name: String::new(),
            payload: Payload::of(payload),
            priority: 5.0,
            tags: Vec::new(),
            dependencies: Vec::new(),
            session: None,
            sticky_worker: None,
            concurrency_key: None,
            rate_key: None,
            unique: None,
            aging: None,
            idempotency_key: None,
            max_attempts: DEFAULT_ATTEMPTS,
            backoff_ms: 1_000,
            backoff_factor: 2.0,
            timeout_ms: None,
            metadata: None,
            reach: Reach::Unknown,
            peer: None,
            notify: false,
        }
    }
}

/// Where a task stands, with what belongs to that alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for its dependencies.
    Blocked,
    /// It waits for its time.
    Delayed {
        /// When it becomes ready.
        until_ms: u64,
    },
    /// It waits for its key's turn.
    Held,
    /// It can be claimed.
    Ready,
    /// A worker has it.
    Running(Lease),
    /// It is done.
    Completed,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// A worker's exclusive right to a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The worker that has it.
    pub worker: String,
    /// When it ends, unless it is renewed.
    pub until_ms: u64,
    /// When the attempt is over however often the lease is renewed; none for no limit.
    pub deadline_ms: Option<u64>,
    /// When the worker last gave a sign of life.
    pub heartbeat_ms: u64,
    /// How long it lasts from each sign of life, where its worker asked for less than the usual time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lasts_ms: Option<u64>,
}

/// One line of a task's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// When, as a unix time in seconds.
    pub ts: f64,
    /// `stdout`, `stderr`, or a name of the worker's.
    pub stream: String,
    /// The line.
    pub message: String,
}

/// A task's status as the wire knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits: for a worker, its time, or its dependencies.
    Queued,
    /// A worker has it.
    Running,
    /// It is done.
    Completed,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens to the task by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The status of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl Task {
    /// Its status as the wire knows it.
    pub fn status(&self) -> Status {
        match self.state {
            State::Blocked | State::Delayed { .. } | State::Held | State::Ready => Status::Queued,
            State::Running(_) => Status::Running,
            State::Completed => Status::Completed,
            State::Failed => Status::Failed,
            State::Cancelled => Status::Cancelled,
        }
    }

    /// Since when it stands in line among those of its rank and key, in microseconds.
    pub fn line_us(&self) -> u64 {
        self.line_ms.unwrap_or(self.created_ms).saturating_mul(1_000)
    }

    /// The priority by which it stands in line. All tasks age alike, so what a later one has less is the same at any time.
    pub fn line_priority(&self) -> f64 {
        let Some(Aging { since_ms, step_ms }) = self.spec.aging else { return self.spec.priority };
        let later_ms = (self.line_us() / 1_000) as f64 - since_ms as f64;
        self.spec.priority - later_ms / step_ms.max(1) as f64
    }

    /// The lease of the worker that has it.
    pub fn lease(&self) -> Option<&Lease> {
        if let State::Running(lease) = &self.state { Some(lease) } else { None }
    }

    /// The worker that has it.
    pub fn worker(&self) -> Option<&str> {
        self.lease().map(|lease| &*lease.worker)
    }

    /// Bytes of its record.
    pub fn bytes(&self) -> usize {
        json_bytes(self)
    }

    /// Drops log, progress and result, as far as needed, from a record that an earlier version let grow to where nothing can be added: a task that cannot change
    /// would be stuck.
    pub fn fit(&mut self) {
        /// The bytes that the store takes, less the bytes that a change adds.
        const MOST: usize = (1 << 20) - 1_024;
        let drops: [fn(&mut Self); 3] =
            [|task| task.logs.clear(), |task| task.progress = None, |task| task.result = None];
        for drop in drops {
            if self.bytes() <= MOST {
                return;
            }
            drop(self);
        }
    }

    /// The record of the MCP++ task-queue protocol. Times are unix times in seconds.
    pub fn wire(&self) -> Value {
        let lease = self.lease();
        let next_attempt_at = if let State::Delayed { until_ms } = self.state { seconds(until_ms) } else { 0.0 };
        json!({
            "task_id": self.id,
            "task_type": self.spec.task_type,
            "model_name": self.spec.model_name,
            "payload": self.spec.payload,
            "status": self.status().as_str(),
            "assigned_worker": lease.map(|lease| &lease.worker),
            "created_at": seconds(self.created_ms),
            "updated_at": seconds(self.updated_ms),
            "result": self.wire_result(),
            "error": self.error,
            "priority": self.spec.priority,
            "attempt": self.attempt,
            "max_attempts": self.spec.max_attempts,
            "next_attempt_at": next_attempt_at,
            "lease_until": lease.map(|lease| seconds(lease.until_ms)),
            "heartbeat_at": lease.map(|lease| seconds(lease.heartbeat_ms)),
            "idempotency_key": self.spec.idempotency_key,
        })
    }

    /// The short record that answers a claim, with the fencing token that its holder may show later.
    pub fn wire_claimed(&self) -> Value {
        json!({
            "task_id": self.id,
            "task_type": self.spec.task_type,
            "model_name": self.spec.model_name,
            "payload": self.spec.payload,
            "created_at": seconds(self.created_ms),
            "status": self.status().as_str(),
            "assigned_worker": self.worker(),
            "fencing_token": self.fencing_token,
            "reach": self.spec.reach,
        })
    }

    /// The result with progress and log in it, as the protocol has them.
    fn wire_result(&self) -> Option<Value> {
        if self.result.is_none() && self.progress.is_none() && self.logs.is_empty() {
            return None;
        }
        let mut result = match &self.result {
            Some(Value::Object(result)) => result.clone(),
            Some(other) => serde_json::Map::from_iter([("value".to_owned(), other.clone())]),
            None => serde_json::Map::new(),
        };
        if let Some(progress) = &self.progress {
            result.entry("progress").or_insert_with(|| progress.clone());
        }
        if !self.logs.is_empty() {
            result.entry("logs").or_insert_with(|| json!(self.logs));
        }
        Some(Value::Object(result))
    }
}

/// A unix time in seconds.
pub fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its id.
    pub id: String,
    /// The types of task that it can do.
    pub capabilities: Vec<String>,
    /// How many tasks it may have at once.
    pub max_concurrent_tasks: u32,
    /// The worker's resources, in its own words.
    pub resource_limits: Option<Value>,
    /// Its own notes.
    pub metadata: Option<Value>,
    /// When it was registered.
    pub registered_ms: u64,
    /// When it last claimed, renewed or finished something.
    pub seen_ms: u64,
    /// It is leaving: it gets no more tasks, and what it still has then is taken back.
    #[serde(default)]
    pub leaves_ms: Option<u64>,
}
