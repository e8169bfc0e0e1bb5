//! The tasks: their records, and each change of state. Every task that a caller was told of is in the table until it has ended.

use mcpp_tool::store::{Counter, Counts, Index, StoreError, Table, Transaction, View};
use scheduling::{hash::Hash, placement::step_hash, tags::WorkflowTag};
use serde::{Deserialize, Serialize};

/// Tasks that have not ended. A further one is refused.
pub const MAX_TASKS: i64 = 10_000;
/// Those of them that one peer has sent here, so that a peer does not take all room.
pub const MAX_OF_PEER: i64 = 2_000;
/// Ended tasks that are remembered, so that a peer that sends one again is told so.
const MAX_ENDED: i64 = 5_000;
/// Longest id or name, in bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// Tags of a task that are read, and the longest, in bytes.
pub const MAX_TAGS: usize = 64;

/// Why the scheduler did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchedulerError {
    /// An argument is not of its form; which, and what would be right.
    #[error("{0}")]
    Invalid(String),
    /// There is no room for another task.
    #[error("the scheduler has {0} tasks that have not ended; complete some")]
    Full(i64),
    /// The store did not do it.
    #[error("P2P scheduler not available: {0}")]
    Store(#[from] StoreError),
}

/// Where a task is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum State {
    /// It waits here.
    Pending,
    /// It is being sent to its owner, which may have it or not.
    Sending {
        /// The owner.
        to: String,
        /// Since when, in milliseconds since 1970-01-01 UTC.
        since_ms: u64,
    },
    /// Its owner has it.
    Sent {
        /// The owner.
        to: String,
    },
    /// A caller here works on it.
    Assigned,
    /// It has ended.
    Completed {
        /// When, in milliseconds since 1970-01-01 UTC.
        at_ms: u64,
        /// Whether its origin must still be told.
        untold: bool,
    },
}

impl State {
    const fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sending { .. } | Self::Sent { .. } => "away",
            Self::Assigned => "assigned",
            Self::Completed { .. } => "completed",
        }
    }
}

/// A task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// Its workflow.
    pub workflow_id: String,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Vec<WorkflowTag>,
    /// 1 to 10; 10 is the most important.
    pub priority: u8,
    /// When it was submitted here, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// The peer that sent it.
    pub origin: Option<String>,
    /// The peer that it was sent to, also if it has come back.
    pub sent_to: Option<String>,
    /// Whether it runs here whoever its owner is: a peer sent it, or its owner does not take it.
    pub stays: bool,
    /// Where it is.
    pub state: State,
}

impl Task {
    /// The hash by which its owner is found.
    pub fn hash(&self, id: &str) -> Hash {
        step_hash(id, &self.workflow_id)
    }

    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Completed { .. })
    }
}

/// The tasks that wait here: the most important first, then the oldest.
pub const READY: Index<(), (u8, u64, String)> = Index::new("ready");
/// The tasks that are at a peer, or on their way there.
pub const AWAY: Index<String, String> = Index::new("away");
/// Ended tasks by the time of their end.
const ENDED: Index<(), (u64, String)> = Index::new("ended");
/// Those whose origin must be told: when they ended, their ids, and the origins.
pub const UNTOLD: Index<(), (u64, String, String)> = Index::new("untold");
/// The tasks that are on their way to a peer, by when they were sent.
pub const SENDING: Index<(), (u64, String)> = Index::new("sending");
/// Tasks by the word of their state.
const BY_STATE: Counts<String> = Counts::new("by-state");
/// Tasks that have not ended, by the peer that sent them.
const OF_PEER: Counts<String> = Counts::new("of-peer");
/// Tasks that have ended, ever.
const COMPLETED: Counter = Counter::new("completed");

/// Tasks by id.
pub const TASKS: Table<String, Task> = Table::new("tasks", |id, task, places| {
    places.count(&BY_STATE, task.state.word());
    match &task.state {
        State::Pending => places.index(&READY, &(), &(10_u8.saturating_sub(task.priority), task.created_ms, id)),
        State::Sending { to, since_ms } => {
            places.index(&AWAY, to, id);
            places.index(&SENDING, &(), &(*since_ms, id));
        }
        State::Sent { to } => places.index(&AWAY, to, id),
        State::Assigned => {}
        State::Completed { at_ms, untold } => {
            places.index(&ENDED, &(), &(*at_ms, id));
            if let (Some(origin), true) = (&task.origin, untold) {
                places.index(&UNTOLD, &(), &(*at_ms, id, origin));
            }
        }
    }
    if let (Some(origin), true) = (&task.origin, task.is_open()) {
        places.count(&OF_PEER, origin);
    }
});

/// How many tasks there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// That wait here.
    pub pending: i64,
    /// That are at peers.
    pub away: i64,
    /// That callers here work on.
    pub assigned: i64,
    /// That have ended, ever.
    pub completed: i64,
}

impl Tally {
    /// Those that have not ended.
    pub fn open(&self) -> i64 {
        self.pending.saturating_add(self.away).saturating_add(self.assigned)
    }
}

/// Counts the tasks.
///
/// # Errors
/// See [`StoreError`].
pub fn tally(t: &View<'_>) -> Result<Tally, StoreError> {
    let of = |word: &str| BY_STATE.get(t, word);
    Ok(Tally { pending: of("pending")?, away: of("away")?, assigned: of("assigned")?, completed: COMPLETED.get(t)? })
}

/// Takes a task in; whether it did. It does not if a task of this id has not ended. A task that its origin sends again counts as taken, also if it has ended.
///
/// # Errors
/// See [`SchedulerError`].
pub fn submit(t: &Transaction<'_>, id: &str, task: &Task) -> Result<bool, SchedulerError> {
    if let Some(known) = TASKS.get(t, id)? {
        let is_again = task.origin.is_some() && known.origin == task.origin && known.workflow_id == task.workflow_id;
        if is_again || known.is_open() {
            return Ok(is_again);
        }
    }
    let open = tally(t)?.open();
    if open >= MAX_TASKS {
        return Err(SchedulerError::Full(open));
    }
    if let Some(origin) = &task.origin {
        let sent = OF_PEER.get(t, origin)?;
        if sent >= MAX_OF_PEER {
            return Err(SchedulerError::Full(sent));
        }
    }
    TASKS.put(t, &id.to_owned(), task)?;
    Ok(true)
}

/// Ends a task; whether it was one that runs. `by` is the peer that says so, if a peer does: it may end only what was sent to it.
///
/// # Errors
/// See [`StoreError`].
pub fn complete(t: &Transaction<'_>, id: &str, by: Option<&str>, now_ms: u64) -> Result<bool, StoreError> {
    let Some(task) = TASKS.get(t, id)? else { return Ok(false) };
    let may = match by {
        Some(peer) => task.is_open() && task.sent_to.as_deref() == Some(peer),
        None => task.state == State::Assigned,
    };
    if may {
        let untold = task.origin.is_some();
        TASKS.change(t, &id.to_owned(), |task| task.state = State::Completed { at_ms: now_ms, untold })?;
        COMPLETED.add(t, 1)?;
        forget_ended(t)?;
    }
    Ok(may)
}

/// Forgets the oldest ended tasks beyond the bound, a few at a time.
fn forget_ended(t: &Transaction<'_>) -> Result<(), StoreError> {
    const A_FEW: usize = 4;
    if BY_STATE.get(t, "completed")? <= MAX_ENDED {
        return Ok(());
    }
    for ended in ENDED.of(&()).most(A_FEW).collect::<Vec<_>>(t)? {
        TASKS.remove(t, &ended.1)?;
    }
    Ok(())
}
