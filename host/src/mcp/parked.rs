//! Parked calls of the modern era: a call, or a request for a prompt or a resource, whose guest asked its client something, and which waits for the client's next request.
//!
//! The guest's instance waits where it is, in a task of its own, so that its end, its cancellation and its bounds work as ever. Its number is bounded with all waiting
//! instances of its tenant and of the host, its memory is on the tenant's account, and its time by `input_ms`. A parked call goes on once, for its own caller, and for the very request that it
//! was asked for.

mod state;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use rmcp::model::{ErrorData, GetPromptResult, InputRequests, InputRequiredResult, InputResponses, ReadResourceResult};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::state::{NotOurs, ParkedId, StateKey};
use super::{
    convert,
    handler::Endpoint,
    inputs,
    running::{CallOutcome, GuestQuestions, RunningCall, RunningRequest},
    tasks::TaskCaller,
};
use crate::{
    call::{
        CallError, Receipt,
        inputs::{AskError, Reply, Round},
    },
    engine::Engine,
    limits::{millis, now_ms},
    memory::{MemoryUse, NoMemory, Reservation},
    tasks::EntryRight,
    tenant::Principal,
};

/// Memory of a parked call beside its guest and its questions: its task, its records and its channels.
const PARKED_BYTES: u64 = 4 << 10;

/// Calls that wait for their clients. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct ParkedCalls(Arc<ParkedState>);

#[derive(Debug, Default)]
struct ParkedState {
    key: OnceLock<Option<StateKey>>,
    calls: Mutex<HashMap<u128, ParkedRound>>,
}

/// One call, and the round of questions that it waits for.
struct ParkedRound {
    id: ParkedId,
    /// The caller, and by what right it came in.
    owner: (EntryRight, Principal),
    running: ParkedRequest,
    questions: Round,
    /// Replies that have come so far.
    replies: BTreeMap<String, Reply>,
    _memory: Reservation,
}

impl std::fmt::Debug for ParkedRound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParkedRound")
            .field("round", &self.id.round)
            .field("until", &self.id.until)
            .finish_non_exhaustive()
    }
}

/// How a request ends whose guest may ask the client.
pub(super) trait RequestOutcome: Send + Sized + 'static {
    /// The outcome of one that nobody runs any more.
    fn cancelled() -> Self;

    /// A request that ends so, to be parked.
    fn park(running: RunningRequest<Self>) -> ParkedRequest;

    /// One that was parked, if it ends so.
    fn unpark(parked: ParkedRequest) -> Option<RunningRequest<Self>>;
}

/// A request that waits, by what it ends with.
pub(super) enum ParkedRequest {
    Call(RunningCall),
    Prompt(RunningRequest<Result<GetPromptResult, CallError>>),
    Resource(RunningRequest<Result<ReadResourceResult, CallError>>),
}

impl ParkedRequest {
    fn asked(&mut self) -> &mut GuestQuestions {
        match self {
            Self::Call(running) => &mut running.asked,
            Self::Prompt(running) => &mut running.asked,
            Self::Resource(running) => &mut running.asked,
        }
    }

    /// The token that stops it.
    fn cancel_token(&self) -> &CancellationToken {
        match self {
            Self::Call(running) => running.cancel_token(),
            Self::Prompt(running) => running.cancel_token(),
            Self::Resource(running) => running.cancel_token(),
        }
    }
}

macro_rules! outcome {
    ($outcome:ty, $kind:ident, $cancelled:expr) => {
        impl RequestOutcome for $outcome {
            fn cancelled() -> Self {
                $cancelled
            }

            fn park(running: RunningRequest<Self>) -> ParkedRequest {
                ParkedRequest::$kind(running)
            }

            fn unpark(parked: ParkedRequest) -> Option<RunningRequest<Self>> {
                match parked {
                    ParkedRequest::$kind(running) => Some(running),
                    _ => None,
                }
            }
        }
    };
}
outcome!(CallOutcome, Call, (Err(CallError::Cancelled), Receipt::default()));
outcome!(Result<GetPromptResult, CallError>, Prompt, Err(CallError::Cancelled));
outcome!(Result<ReadResourceResult, CallError>, Resource, Err(CallError::Cancelled));

/// What a retry is for.
pub(super) enum Resumed<O> {
    /// The guest has its replies and runs.
    Goes(Box<RunningRequest<O>>),
    /// Some replies are missing.
    AsksAgain(InputRequiredResult),
}

/// Why a retry resumes nothing. Each has a name in the error's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CannotResume {
    /// Changed, made up, or of another caller: a thief learns no more than that.
    #[error("the requestState is not one that this host gave to you; start over without it")]
    Invalid,
    #[error("the requestState belongs to a request with other parameters; repeat the request as it was")]
    OtherRequest,
    #[error("the requestState was used already; it is good for one retry")]
    Used,
    #[error("the requestState has expired: the call was given up; start over without it")]
    Expired,
    #[error("the requestState is of another host, or of this one before it restarted; start over without it")]
    Gone,
    #[error("this tenant has no memory for these replies now; send them again later")]
    Busy,
}

impl CannotResume {
    fn name(self) -> &'static str {
        match self {
            Self::Invalid => "request_state_invalid",
            Self::OtherRequest => "request_state_other_request",
            Self::Used => "request_state_used",
            Self::Expired => "request_state_expired",
            Self::Gone => "request_state_gone",
            Self::Busy => "busy",
        }
    }
}

impl From<CannotResume> for ErrorData {
    fn from(error: CannotResume) -> Self {
        metrics::counter!("mcpp_parked_refused_total", "reason" => error.name()).increment(1);
        match error {
            CannotResume::Busy => convert::busy(error.to_string()),
            _ => Self::invalid_params(error.to_string(), Some(json!({ "error": error.name() }))),
        }
    }
}

impl Endpoint {
    /// Parks a call with its questions: see [`ParkedCalls::park`].
    pub(super) fn park<O: RequestOutcome>(
        &self,
        caller: TaskCaller<'_>,
        running: RunningRequest<O>,
        questions: Round,
    ) -> Result<InputRequiredResult, Box<RunningRequest<O>>> {
        let share = self.registry().share(&caller.principal.tenant);
        match share.map(|share| share.memory.reserve(MemoryUse::Messages, PARKED_BYTES)) {
            Some(Ok(memory)) => self.parked().park(caller, running, questions, memory),
            _ => {
                let _the_guest_may_be_gone = questions.replies.send(Err(AskError::Busy));
                Err(Box::new(running))
            }
        }
    }
}

impl ParkedCalls {
    fn calls(&self) -> MutexGuard<'_, HashMap<u128, ParkedRound>> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self) -> Option<&StateKey> {
        self.0.key.get_or_init(StateKey::random).as_ref()
    }

    /// Stops the calls of those that came in by such a right and may not come in any more.
    pub(super) fn stop_unless(&self, right: EntryRight, comes_in: impl Fn(&Principal) -> bool) {
        let owned: Vec<(u128, Principal)> = {
            let calls = self.calls();
            let of_right = calls.iter().filter(|(_, waiting)| waiting.owner.0 == right);
            of_right.map(|(call, waiting)| (*call, waiting.owner.1.clone())).collect()
        };
        for (call, _) in owned.iter().filter(|(_, owner)| !comes_in(owner)) {
            let stopped = self.calls().remove(call);
            if let Some(stopped) = stopped {
                stopped.running.cancel_token().cancel();
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.calls().len()
    }

    /// Parks a call with its questions; what the client is to be told. The questions come back answered with an error where that cannot be: the guest then goes on in the call
    /// that is returned.
    pub(super) fn park<O: RequestOutcome>(
        &self,
        caller: TaskCaller<'_>,
        mut running: RunningRequest<O>,
        questions: Round,
        memory: Reservation,
    ) -> Result<InputRequiredResult, Box<RunningRequest<O>>> {
        let requests: Result<InputRequests, AskError> =
            questions.questions.iter().map(|(name, question)| Ok((name.clone(), inputs::request(question)?))).collect();
        let refuse = |questions: Round, running: RunningRequest<O>, error| {
            let _the_guest_may_be_gone = questions.replies.send(Err(error));
            Err(Box::new(running))
        };
        let (requests, Some(binding)) = (requests, running.asked.binding().map(RequestBinding::of_request)) else {
            return refuse(questions, running, AskError::NoClient);
        };
        let requests = match requests {
            Ok(requests) => requests,
            Err(error) => return refuse(questions, running, error),
        };
        let until = now_ms().saturating_add(millis(questions.until.saturating_duration_since(Instant::now())));
        let id = ParkedId { call: running.asked.call_id(), round: running.asked.next_round(), until, binding };
        let Some(state) = self.key().and_then(|key| key.seal(&id)) else {
            return refuse(questions, running, AskError::Busy);
        };
        let (parked, call) = (self.clone(), id.call);
        running.drive(move || drop(parked.calls().remove(&call)));
        let running = O::park(running);
        let owner = (caller.right, caller.principal.clone());
        let waiting = ParkedRound { id, owner, running, questions, replies: BTreeMap::new(), _memory: memory };
        let mut calls = self.calls();
        // A guest that gave up waiting keeps no record here.
        calls.retain(|_, waiting| !waiting.questions.replies.is_closed());
        calls.insert(call, waiting);
        Ok(InputRequiredResult::new(Some(requests), Some(state)))
    }

    /// Lets a parked call go on with the replies of its client, or asks for those that are missing.
    pub(super) async fn resume<O: RequestOutcome>(
        &self,
        engine: &Engine,
        state: &str,
        binding: &RequestBinding,
        responses: InputResponses,
    ) -> Result<Resumed<O>, CannotResume> {
        let key = self.key().ok_or(CannotResume::Gone)?;
        let id = key.open(state).map_err(|error| match error {
            NotOurs::Broken => CannotResume::Invalid,
            NotOurs::OtherProcess => CannotResume::Gone,
        })?;
        let waiting = self.take(&id, binding)?;
        if waiting.questions.replies.is_closed() {
            return Err(CannotResume::Expired);
        }
        // The replies may be long, and their check too. A client that does not wait for it stops its call.
        let stops = waiting.running.cancel_token().clone().drop_guard();
        let read = engine.spawn_blocking(move || waiting.with(&responses)).await;
        let _goes_on = stops.disarm();
        let (waiting, kept) = read.map_err(|_| CannotResume::Gone)?;
        if kept.is_err() {
            // The same state is good for the next try.
            self.calls().insert(waiting.id.call, waiting);
            return Err(CannotResume::Busy);
        }
        if !waiting.is_complete() {
            return self.ask_again(key, waiting).map(Resumed::AsksAgain);
        }
        // The method is in the binding: it is of this kind.
        let running = O::unpark(waiting.go_on()).ok_or(CannotResume::Invalid)?;
        Ok(Resumed::Goes(Box::new(running)))
    }

    /// The call that waits for a retry of this request.
    fn take(&self, id: &ParkedId, binding: &RequestBinding) -> Result<ParkedRound, CannotResume> {
        let mut calls = self.calls();
        // A state in the wrong hands changes nothing for its owner.
        if id.binding != binding.of_request() {
            let is_callers = calls
                .get_mut(&id.call)
                .is_some_and(|waiting| waiting.running.asked().binding().is_some_and(|own| own.has_caller_of(binding)));
            return Err(if is_callers { CannotResume::OtherRequest } else { CannotResume::Invalid });
        }
        let gone = if id.until <= now_ms() { CannotResume::Expired } else { CannotResume::Used };
        if calls.get(&id.call).is_none_or(|waiting| waiting.id != *id) {
            return Err(gone);
        }
        calls.remove(&id.call).ok_or(gone)
    }

    /// Asks for the replies that are missing. The call waits no longer than it would have.
    fn ask_again(&self, key: &StateKey, mut waiting: ParkedRound) -> Result<InputRequiredResult, CannotResume> {
        waiting.id.round = waiting.running.asked().next_round();
        let state = key.seal(&waiting.id).ok_or(CannotResume::Gone)?;
        let missing = waiting.questions.questions.iter().filter(|(name, _)| !waiting.replies.contains_key(name));
        let requests = missing.filter_map(|(name, question)| Some((name.clone(), inputs::request(question).ok()?)));
        let answer = InputRequiredResult::new(Some(requests.collect()), Some(state));
        self.calls().insert(waiting.id.call, waiting);
        Ok(answer)
    }
}

impl ParkedRound {
    /// With the replies that are ones, and whether there is memory for them all. What is none counts as missing, and what nobody asked for is ignored.
    fn with(mut self, responses: &InputResponses) -> (Self, Result<(), NoMemory>) {
        let Round { questions, memory, .. } = &mut self.questions;
        for (name, question) in questions {
            let Some(given) = responses.get(name).filter(|_| !self.replies.contains_key(name)) else { continue };
            match inputs::kept_reply(question, given, memory) {
                Ok(Ok(reply)) => drop(self.replies.insert(name.clone(), reply)),
                Ok(Err(_)) => {}
                Err(full) => return (self, Err(full)),
            }
        }
        (self, Ok(()))
    }

    fn is_complete(&self) -> bool {
        self.replies.len() == self.questions.questions.len()
    }

    fn go_on(mut self) -> ParkedRequest {
        let in_order = self.questions.questions.iter().filter_map(|(name, _)| self.replies.remove(name)).collect();
        let _the_guest_may_be_gone = self.questions.replies.send(Ok(in_order));
        self.running
    }
}

/// Who makes a request, and which one.
#[derive(Debug, Clone)]
pub(super) struct RequestBinding {
    /// The hash of the caller.
    caller: [u8; 32],
    /// The hash of the method and its parameters.
    request: [u8; 32],
}

impl RequestBinding {
    /// A request by a principal: its method, what it names, and its arguments.
    pub(super) fn new(principal: &Principal, method: &str, name: &str, arguments: &Value) -> Self {
        let mut request = blake3::Hasher::new();
        request.update(method.as_bytes()).update(b"\0").update(name.as_bytes()).update(b"\0");
        digest(&mut request, arguments);
        Self { caller: caller(principal), request: *request.finalize().as_bytes() }
    }

    /// Of both.
    pub(super) fn of_request(&self) -> [u8; 32] {
        *blake3::Hasher::new().update(&self.caller).update(&self.request).finalize().as_bytes()
    }

    /// Whether both are of one caller.
    pub(super) fn has_caller_of(&self, other: &Self) -> bool {
        self.caller == other.caller
    }
}

/// The hash of a principal: the tenant, which of those that had the name, and the subject.
pub(super) fn caller(principal: &Principal) -> [u8; 32] {
    let incarnation: Option<String> = principal.incarnation.clone().into();
    let parts = json!([principal.tenant.to_string(), incarnation, &*principal.subject]);
    *blake3::hash(parts.to_string().as_bytes()).as_bytes()
}

/// Hashes JSON, whatever the order of its members.
fn digest(hasher: &mut blake3::Hasher, json: &Value) {
    match json {
        Value::Object(members) => {
            let sorted: BTreeMap<_, _> = members.iter().collect();
            hasher.update(b"{").update(&sorted.len().to_be_bytes());
            for (name, member) in sorted {
                hasher.update(&name.len().to_be_bytes()).update(name.as_bytes());
                digest(hasher, member);
            }
        }
        Value::Array(items) => {
            hasher.update(b"[").update(&items.len().to_be_bytes());
            items.iter().for_each(|item| digest(hasher, item));
        }
        plain => {
            let text = plain.to_string();
            hasher.update(&text.len().to_be_bytes()).update(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
