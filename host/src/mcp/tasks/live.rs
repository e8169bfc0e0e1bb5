//! A task whose call runs: what it says, what it asks, and what stops it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rmcp::model::{InputRequests, InputResponses};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::news::CallNews;
use crate::{
    call::inputs::{AskError, Reply, Round},
    limits::now_ms,
    mcp::{inputs, running::CallStep},
    memory::Reservation,
    tasks::{EntryRight, InPlace, TaskId},
    tenant::Principal,
};

/// A task whose call runs.
#[derive(Debug)]
pub(in crate::mcp) struct LiveTask {
    pub(super) id: TaskId,
    /// The caller, and by what right it came in.
    owner: (EntryRight, Principal),
    pub(super) cancel: CancellationToken,
    in_place: InPlace,
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
    /// In milliseconds since 1970.
    updated_ms: u64,
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
            state.rounds = state.rounds.saturating_add(1);
            let turn = state.rounds;
            // No question's own name has this sign.
            let key = |name: &String| if turn == 1 { name.clone() } else { format!("{name}#{turn}") };
            let keys: Vec<String> = round.questions.iter().map(|(name, _)| key(name)).collect();
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

    /// Takes the replies that are ones to what is asked now. What is none counts as missing, and what nobody asked for is ignored.
    pub(super) fn reply(&self, responses: &InputResponses) {
        self.change(|state| {
            let Some(open) = &mut state.open else { return };
            for (at, (key, (_, question))) in open.keys.iter().zip(&open.round.questions).enumerate() {
                if !open.replies.contains_key(&at)
                    && let Some(given) = responses.get(key)
                    && let Ok(reply) = inputs::reply(question, given.clone())
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
        });
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
