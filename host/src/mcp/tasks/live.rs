//! A task whose call runs: what it says, what it asks, and what stops it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rmcp::model::{InputRequests, InputResponses};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::news::CallNews;
use crate::{
    call::inputs::{AskError, Reply, Round},
    limits::now_ms,
    mcp::{inputs, running::CallStep},
    memory::{NoMemory, Reservation},
    tasks::{EntryRight, InPlace, TaskId},
    tenant::Principal,
};

/// Names of questions that are remembered. Every further question's key has its round in it.
const MAX_NAMES: usize = 64;

/// How long a reply waits for the question of a task that goes on from before a restart.
const FIRST_QUESTION: Duration = Duration::from_secs(2);

/// A task whose call runs.
#[derive(Debug)]
pub(in crate::mcp) struct LiveTask {
    pub(super) id: TaskId,
    /// The caller, and by what right it came in.
    pub(super) owner: (EntryRight, Principal),
    pub(super) cancel: CancellationToken,
    pub(super) in_place: InPlace,
    state: Mutex<TaskState>,
    /// Counts its changes; closed when it has ended.
    changes: watch::Sender<u64>,
    _memory: Reservation,
}

#[derive(Debug, Default)]
struct TaskState {
    news: CallNews,
    open: Option<OpenRound>,
    rounds: u32,
    /// The names that questions had. Each is a key once, and after a restart too if the question is the same.
    names: BTreeSet<String>,
    /// In milliseconds since 1970.
    updated_ms: u64,
    /// It goes on from before a restart, and has not said yet how it is.
    is_new: bool,
}

/// The questions that wait for the client.
#[derive(Debug)]
struct OpenRound {
    round: Round,
    /// The questions' names, each the only one in the task's life.
    keys: Vec<String>,
    requests: InputRequests,
    /// By the place of the question.
    replies: BTreeMap<usize, Reply>,
}

/// What a client sees of a task whose call runs.
#[derive(Debug)]
pub(super) struct TaskView {
    pub(super) news: CallNews,
    /// What it asks now.
    pub(super) requests: Option<InputRequests>,
    pub(super) updated_ms: u64,
}

impl LiveTask {
    pub(super) fn new(
        id: TaskId,
        owner: (EntryRight, Principal),
        cancel: CancellationToken,
        (in_place, news): (InPlace, CallNews),
        memory: Reservation,
    ) -> Self {
        let state = Mutex::new(TaskState { news, updated_ms: now_ms(), ..TaskState::default() });
        Self { id, owner, cancel, in_place, state, changes: watch::Sender::new(0), _memory: memory }
    }

    /// One that goes on from before a restart.
    pub(super) fn revived(
        id: TaskId,
        owner: (EntryRight, Principal),
        cancel: CancellationToken,
        parts: (InPlace, CallNews),
        memory: Reservation,
    ) -> Self {
        let live = Self::new(id, owner, cancel, parts, memory);
        live.state().is_new = true;
        live
    }

    /// Waits until one that goes on from before a restart asks something, for a while.
    pub(super) async fn may_ask(&self) {
        let mut changes = self.watch();
        let asks = async { while self.state().is_new && changes.changed().await.is_ok() {} };
        let _it_may_ask_nothing = tokio::time::timeout(FIRST_QUESTION, asks).await;
        self.state().is_new = false;
    }

    fn state(&self) -> MutexGuard<'_, TaskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut TaskState) -> T) -> T {
        let mut state = self.state();
        let changed = change(&mut state);
        state.updated_ms = now_ms();
        drop(state);
        self.tell();
        changed
    }

    /// Wakes those who look at it.
    pub(super) fn tell(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Tells of each change from now on.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Notes what the call does before its end.
    pub(super) fn step(&self, step: CallStep) {
        match step {
            CallStep::Said(waiting) => self.change(|state| state.news.note(&waiting.event)),
            CallStep::Asks(round) => self.ask(round),
            // The record is told.
            CallStep::Defers(_) => {}
        }
    }

    fn ask(&self, round: Round) {
        if self.in_place == InPlace::Result {
            let _the_guest_may_be_gone = round.replies.send(Err(AskError::NoClient));
            return;
        }
        self.change(|state| {
            state.is_new = false;
            state.rounds = state.rounds.saturating_add(1);
            let turn = state.rounds;
            let mut keys = Vec::with_capacity(round.questions.len());
            for (name, _) in &round.questions {
                let is_first = state.names.len() < MAX_NAMES && state.names.insert(name.clone());
                // No question's own name has this sign.
                keys.push(if is_first { name.clone() } else { format!("{name}#{turn}") });
            }
            let requests: Result<InputRequests, AskError> = keys
                .iter()
                .zip(&round.questions)
                .map(|(key, (_, question))| Ok((key.clone(), inputs::request(question)?)))
                .collect();
            match requests {
                Ok(requests) => state.open = Some(OpenRound { round, keys, requests, replies: BTreeMap::new() }),
                Err(error) => {
                    let _the_guest_may_be_gone = round.replies.send(Err(error));
                }
            }
        });
    }

    /// Takes the replies that are ones to what is asked now. What is none counts as missing, and what nobody asked for is ignored. Fails if there is no memory for one.
    pub(super) fn reply(&self, responses: &InputResponses) -> Result<(), NoMemory> {
        self.change(|state| {
            let Some(open) = &mut state.open else { return Ok(()) };
            for (at, (key, (_, question))) in open.keys.iter().zip(&open.round.questions).enumerate() {
                if !open.replies.contains_key(&at)
                    && let Some(given) = responses.get(key)
                    && let Ok(reply) = inputs::kept_reply(question, given, &mut open.round.memory)?
                {
                    open.replies.insert(at, reply);
                    open.requests.remove(key);
                }
            }
            if open.replies.len() == open.keys.len()
                && let Some(answered) = state.open.take()
            {
                let replies = answered.replies.into_values().collect();
                let _the_guest_may_be_gone = answered.round.replies.send(Ok(replies));
            }
            Ok(())
        })
    }

    pub(super) fn view(&self) -> TaskView {
        let mut state = self.state();
        // A guest that gave up waiting asks nothing any more.
        if state.open.as_ref().is_some_and(|open| open.round.replies.is_closed()) {
            state.open = None;
        }
        let requests = state.open.as_ref().map(|open| open.requests.clone());
        TaskView { news: state.news.clone(), requests, updated_ms: state.updated_ms }
    }
}

/// All of a host whose calls run.
#[derive(Debug, Clone, Default)]
pub(super) struct LiveTasks(Arc<Mutex<std::collections::HashMap<TaskId, Arc<LiveTask>>>>);

impl LiveTasks {
    fn tasks(&self) -> MutexGuard<'_, std::collections::HashMap<TaskId, Arc<LiveTask>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, id: TaskId) -> Option<Arc<LiveTask>> {
        self.tasks().get(&id).cloned()
    }

    pub(super) fn insert(&self, task: &Arc<LiveTask>) {
        self.tasks().insert(task.id, Arc::clone(task));
    }

    /// The live task with the id of this one: this one, unless another was quicker.
    pub(super) fn get_or_insert(&self, task: &Arc<LiveTask>) -> Arc<LiveTask> {
        Arc::clone(self.tasks().entry(task.id).or_insert_with(|| Arc::clone(task)))
    }

    pub(super) fn remove(&self, id: TaskId) {
        self.tasks().remove(&id);
    }

    /// Stops those of principals that came in by such a right and may not come in any more.
    pub(super) fn stop_unless(&self, right: EntryRight, comes_in: impl Fn(&Principal) -> bool) {
        let all: Vec<_> = self.tasks().values().cloned().collect();
        for task in all.into_iter().filter(|task| task.owner.0 == right && !comes_in(&task.owner.1)) {
            task.cancel.cancel();
        }
    }
}
