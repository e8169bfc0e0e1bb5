//! The seven tools, as the contract has them (section 1.2): each answer has `tool` and `timestamp`, and a failure is `{error, tool, timestamp}`.
#![allow(missing_docs, reason = "a tool's doc comment is its description, and its parameters have their own")]

use std::collections::BTreeMap;

use mcpp_tool::{caller::caller, environment::now_ms, log, store::transact, tool};
use scheduling::{
    clock::VectorClock,
    placement::step_hash,
    tags::{WorkflowTag, is_p2p_only, should_bypass_github},
};
use schemars::JsonSchema;
use serde::{Deserialize as _, Serialize};
use serde_json::{Map, Value};

use crate::{
    owners, peers,
    rounds::{ROUND, ROUND_MS, SOON_MS},
    tasks::{self, MAX_NAME_BYTES, MAX_TAGS, SchedulerError, State, Task, tally},
};

/// An answer, or why there is none.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Answer<T> {
    /// It was done.
    Done(Done<T>),
    /// It was not.
    Failed(Failed),
}

/// What a tool answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Done<T> {
    #[serde(flatten)]
    pub result: T,
    /// The tool.
    pub tool: &'static str,
    /// When it answered, as a unix time in seconds.
    pub timestamp: f64,
}

/// Why a tool did nothing.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Failed {
    /// Why.
    pub error: String,
    /// The tool.
    pub tool: &'static str,
    /// When it answered, as a unix time in seconds.
    pub timestamp: f64,
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

fn answer<T>(tool: &'static str, result: Result<T, SchedulerError>) -> Answer<T> {
    let timestamp = seconds(now_ms());
    match result {
        Ok(result) => Answer::Done(Done { result, tool, timestamp }),
        Err(error) => Answer::Failed(Failed { error: error.to_string(), tool, timestamp }),
    }
}

/// The peer that calls, if a peer does. The host writes its subject.
fn calling_peer() -> Option<String> {
    caller().subject.strip_prefix("peer:").map(str::to_owned)
}

/// A clock as it is sent.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Clock {
    /// The node whose clock it is.
    pub node_id: String,
    /// The counters by node.
    pub vector: BTreeMap<String, u64>,
    /// The SHA-256 of the counters.
    pub merkle_root: String,
}

impl From<VectorClock> for Clock {
    fn from(clock: VectorClock) -> Self {
        Self {
            node_id: clock.node_id().to_owned(),
            vector: clock.vector().clone(),
            merkle_root: clock.root().to_string(),
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct SchedulerStatus {
    /// This host.
    pub peer_id: String,
    /// Its clock.
    pub merkle_clock: Clock,
    /// Tasks that wait here.
    pub pending_tasks: i64,
    /// Tasks that callers here work on.
    pub assigned_tasks: i64,
    /// Tasks that have ended, ever.
    pub completed_tasks: i64,
    /// Tasks in the queue: those that wait.
    pub queue_size: i64,
    /// Peers that are known.
    pub known_peers: i64,
    /// Tasks that their owners have. Ours beyond the contract.
    pub forwarded_tasks: i64,
}

/// Shows the scheduler: its clock, and how many tasks and peers it has.
#[tool]
pub fn p2p_scheduler_status() -> Answer<SchedulerStatus> {
    let name = peers::mesh_name();
    let result = transact(|t| {
        let clock = peers::clock(t, name.as_deref())?;
        let tally = tally(t)?;
        Ok::<_, SchedulerError>(SchedulerStatus {
            peer_id: clock.node_id().to_owned(),
            merkle_clock: clock.into(),
            pending_tasks: tally.pending,
            assigned_tasks: tally.assigned,
            completed_tasks: tally.completed,
            queue_size: tally.pending,
            known_peers: peers::count(t)?,
            forwarded_tasks: tally.away,
        })
    });
    answer("p2p_scheduler_status", result)
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Submitted {
    /// Whether the task was taken; false if one of this id has not ended.
    pub success: bool,
    pub task_id: String,
    /// The SHA-256 of `task_id:workflow_id`, by which its owner is found.
    pub task_hash: String,
    pub priority: u8,
}

/// Submits a task of a workflow. The peer that owns it runs it: the one whose hashed id is nearest to the hash of clock and task.
#[tool]
pub fn p2p_submit_task(
    /// Its id; 1 to 200 bytes.
    task_id: String,
    /// Its workflow; 1 to 200 bytes.
    workflow_id: String,
    /// Its name; 1 to 200 bytes.
    name: String,
    /// Its tags, such as `p2p-only` or `P2P_ONLY`. Unknown ones are left out.
    tags: Vec<String>,
    /// 1 to 10; 10 is the most important.
    #[arg(default = 5)]
    priority: i64,
) -> Answer<Submitted> {
    let sender = calling_peer();
    answer("p2p_submit_task", submit(task_id, workflow_id, name, &tags, priority, sender))
}

/// Takes a task in, for a caller here or for the peer that sent it.
pub(crate) fn submit(
    task_id: String,
    workflow_id: String,
    name: String,
    tags: &[String],
    priority: i64,
    origin: Option<String>,
) -> Result<Submitted, SchedulerError> {
    for (field, text) in [("task_id", &task_id), ("workflow_id", &workflow_id), ("name", &name)] {
        if !(1..=MAX_NAME_BYTES).contains(&text.len()) || text.chars().any(char::is_control) {
            let rule = format!("{field} must have 1 to {MAX_NAME_BYTES} bytes and no control character");
            return Err(SchedulerError::Invalid(rule));
        }
    }
    let in_range = u8::try_from(priority).ok().filter(|priority| (1..=10).contains(priority));
    let priority = in_range.ok_or_else(|| SchedulerError::Invalid("priority must be 1 to 10".to_owned()))?;
    if tags.len() > MAX_TAGS {
        return Err(SchedulerError::Invalid(format!("at most {MAX_TAGS} tags are read")));
    }
    let now = now_ms();
    let task = Task {
        tags: known_tags(tags),
        priority,
        created_ms: now,
        // The peer that sent it has chosen this host: it goes on to no other.
        stays: origin.is_some(),
        origin,
        sent_to: None,
        state: State::Pending,
        workflow_id,
        name,
    };
    let own = peers::mesh_name();
    let success = transact(|t| {
        let is_new = tasks::submit(t, &task_id, &task)?;
        if is_new {
            peers::tick(t, own.as_deref())?;
            ROUND.by(t, now.saturating_add(SOON_MS), now)?;
        }
        Ok::<_, SchedulerError>(is_new)
    })?;
    let task_hash = step_hash(&task_id, &task.workflow_id).to_string();
    Ok(Submitted { success, task_hash, task_id, priority })
}

/// The known ones of these tags, each once; of the others the log tells.
fn known_tags(texts: &[String]) -> Vec<WorkflowTag> {
    let mut tags = Vec::new();
    for text in texts {
        match WorkflowTag::parse(text) {
            Some(tag) if !tags.contains(&tag) => tags.push(tag),
            Some(_) => {}
            None => {
                let shown: String = text.chars().take(40).collect();
                log::warning(format!("there is no tag {shown:?}; it is left out"));
            }
        }
    }
    tags
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Next {
    /// The task; null if there is none.
    pub task: Option<NextTask>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'static str>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct NextTask {
    pub task_id: String,
    pub workflow_id: String,
    pub name: String,
    pub tags: Vec<&'static str>,
    pub priority: u8,
    pub task_hash: String,
    /// This host.
    pub assigned_peer: String,
}

/// Assigns the next task to this host: the most important one that it owns, or whose owner has been silent for 300 s.
#[tool]
pub fn p2p_get_next_task() -> Answer<Next> {
    let (name, now) = (peers::mesh_name(), now_ms());
    let result = transact(|t| {
        let clock = peers::clock(t, name.as_deref())?;
        let candidates = peers::candidates(t, clock.node_id(), now)?;
        ROUND.revive(t, now)?;
        let next = owners::assign(t, &clock, &candidates, now)?;
        let task = next.map(|(task_id, task)| NextTask {
            task_hash: task.hash(&task_id).to_string(),
            task_id,
            tags: task.tags.iter().map(|tag| tag.value()).collect(),
            workflow_id: task.workflow_id,
            name: task.name,
            priority: task.priority,
            assigned_peer: clock.node_id().to_owned(),
        });
        let message = task.is_none().then_some("No tasks available for this peer");
        Ok::<_, SchedulerError>(Next { task, message })
    });
    answer("p2p_get_next_task", result)
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Ended {
    /// Whether the task was assigned.
    pub success: bool,
    pub task_id: String,
}

/// Marks an assigned task as complete.
#[tool]
pub fn p2p_mark_task_complete(
    /// The task.
    task_id: String,
) -> Answer<Ended> {
    let (name, now, by) = (peers::mesh_name(), now_ms(), calling_peer());
    let result = transact(|t| {
        // An id that is no name is none of a task either, and may be too long for a key.
        let is_name = (1..=MAX_NAME_BYTES).contains(&task_id.len());
        let success = is_name && tasks::complete(t, &task_id, by.as_deref(), now)?;
        if success {
            peers::tick(t, name.as_deref())?;
            ROUND.by(t, now.saturating_add(SOON_MS), now)?;
        }
        Ok::<_, SchedulerError>(Ended { success, task_id: task_id.clone() })
    });
    answer("p2p_mark_task_complete", result)
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct TagsChecked {
    /// Whether such tasks go to the peers instead of to GitHub.
    pub should_bypass_github: bool,
    /// Whether only peers may run them.
    pub is_p2p_only: bool,
    /// The tags that were asked about.
    pub tags: Vec<String>,
}

/// Tells what tags mean for a workflow.
#[tool(read_only)]
pub fn p2p_check_workflow_tags(
    /// The tags, such as `p2p-only` or `P2P_ONLY`.
    tags: Vec<String>,
) -> Answer<TagsChecked> {
    let result = match tags.len() {
        0..=MAX_TAGS => {
            let known = known_tags(&tags);
            let (should_bypass_github, is_p2p_only) = (should_bypass_github(&known), is_p2p_only(&known));
            Ok(TagsChecked { should_bypass_github, is_p2p_only, tags })
        }
        _ => Err(SchedulerError::Invalid(format!("at most {MAX_TAGS} tags are read"))),
    };
    answer("p2p_check_workflow_tags", result)
}

/// Shows this host's clock: a vector clock, which the protocol calls a Merkle clock.
#[tool]
pub fn p2p_get_merkle_clock() -> Answer<Clock> {
    let name = peers::mesh_name();
    let clock = transact(|t| peers::clock(t, name.as_deref()).map_err(SchedulerError::from));
    answer("p2p_get_merkle_clock", clock.map(Clock::from))
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct PeerUpdated {
    pub success: bool,
    pub peer_id: String,
}

/// Takes in a peer's clock, and notes that the peer is alive. Of the clock only the peer's own counter is taken.
///
/// A clock is refused whose root is not the hash of its counters, or that gives this host a greater counter than it has.
#[tool]
pub fn p2p_update_peer_state(
    /// The peer.
    peer_id: String,
    /// Its clock: `node_id`, `vector` and `merkle_root`.
    clock_data: Map<String, Value>,
) -> Answer<PeerUpdated> {
    answer("p2p_update_peer_state", update(peer_id, clock_data, calling_peer().as_deref()))
}

/// Takes in a state that a caller here, or a peer, tells.
pub(crate) fn update(
    peer_id: String,
    clock_data: Map<String, Value>,
    teller: Option<&str>,
) -> Result<PeerUpdated, SchedulerError> {
    if teller.is_some_and(|teller| teller != peer_id) {
        return Err(SchedulerError::Invalid(
            "peer_id must be the peer that calls: a peer speaks for itself alone".into(),
        ));
    }
    let theirs = VectorClock::deserialize(Value::Object(clock_data))
        .map_err(|error| SchedulerError::Invalid(format!("clock_data: {error}")))?;
    let (name, now) = (peers::mesh_name(), now_ms());
    transact(|t| {
        peers::heard(t, name.as_deref(), &peer_id, Some(&theirs), now)?;
        // Not soon: two hosts would answer each other's states for ever.
        ROUND.by(t, now.saturating_add(ROUND_MS), now)?;
        Ok::<_, SchedulerError>(())
    })?;
    Ok(PeerUpdated { success: true, peer_id })
}
