//! Calls of one tool that its component serves together.
//!
//! A caller's first calls run at once, each alone. While they run, its further calls of the tool stand in line, and the next of them to run takes the others along. Nothing waits
//! for calls to come. Only calls of the same caller come together: a guest sees one caller.
//!
//! A call in line has no place among the running and no guest. Those that a call takes along are served by that call's guest, under its controls. If the guest fails, each runs
//! alone; if only the call that took them along ends, they stand in line again, at its front.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Registry,
    request::{RequestDeadline, Ticket},
    tool::{Tool, ToolTarget},
};
use crate::{
    call::{Budget, Call, CallError, Cost, Request, ToolResult, inputs::ClientLine, place::CallPlace},
    guest::{batch::BatchExport, instance},
    memory::{MemoryUse, Reservation, json_text},
    tenant::Principal,
};

/// Guests that serve one caller's calls of a tool at the same time: while one waits for the disk, the other computes.
const AT_ONCE: usize = 2;
/// Most calls of one batch.
const MOST_CALLS: usize = 32;
/// Most bytes of their arguments, unless one call alone has more.
const MOST_BYTES: usize = 256 << 10;
/// Most calls of a caller in line. Further ones wait for a place as calls of other tools do.
const MOST_IN_LINE: usize = 1_024;

impl Registry {
    /// Runs a call when its turn comes, alone or with others, or has another one run it.
    pub(super) async fn run_in_line(
        &self,
        ticket: &Ticket<Tool>,
        batches: &Arc<Batches>,
        call: Box<Call>,
    ) -> (Result<ToolResult, CallError>, Cost) {
        // Waiting does not make a call last longer.
        let deadline = ticket.deadline(&call.request);
        let memory = &ticket.share().memory;
        let arguments = || {
            let arguments = json_text(&call.arguments);
            let bytes = u64::try_from(arguments.len()).unwrap_or(u64::MAX);
            Some((arguments, memory.reserve(MemoryUse::Messages, bytes).ok()?))
        };
        let (caller, cancel) = (CallerKey::of(&call.request), &call.request.cancel);
        let turn = batches.turn(OwnPlace { caller: &caller, until: deadline.at, cancel }, arguments).await;
        let is_cancelled = cancel.is_cancelled();
        match turn {
            Some(LineTurn::Lead(lead)) => {
                let may_have_run = lead.may_have_run;
                let (result, cost) = if lead.has_others() {
                    Box::pin(self.run_together(ticket, batches, (call, deadline), lead)).await
                } else {
                    let done = self.run_alone(ticket, call, deadline, None).await;
                    drop(lead);
                    done
                };
                (told_of(result, may_have_run), cost)
            }
            Some(LineTurn::Served(outcome, cost)) => (outcome, cost),
            Some(LineTurn::Alone { may_have_run }) => {
                let (result, cost) = self.run_alone(ticket, call, deadline, None).await;
                (told_of(result, may_have_run), cost)
            }
            None if is_cancelled => (Err(CallError::Cancelled), Cost::default()),
            None => {
                (Err(CallError::BudgetExceeded { budget: Budget::Deadline, limit: deadline.limit_ms }), Cost::default())
            }
        }
    }

    /// Runs a call together with those that it takes along.
    async fn run_together(
        &self,
        ticket: &Ticket<Tool>,
        batches: &Batches,
        (call, deadline): (Box<Call>, RequestDeadline),
        mut lead: Lead,
    ) -> (Result<ToolResult, CallError>, Cost) {
        let tool = &ticket.served;
        let ToolTarget::Guest(target) = &tool.target else { return self.run_alone(ticket, call, deadline, None).await };
        let control = match self.admit(ticket, &call.request, deadline).await {
            Ok(control) => control,
            Err(error) => return (Err(error), Cost::default()),
        };
        if tool.service.weight.is_heavy() || control.is_crowded() {
            control.note_slice();
        }
        call.request.place.write(Some(CallPlace::Here));
        let arguments = lead.arguments(json_text(&call.arguments));
        let (calls, together) = (arguments.len(), (target.clone(), batches.export.clone()));
        // One client cannot be asked about the calls of others.
        let request = Request { client: ClientLine::default(), ..call.request.clone() };
        let guest = self.guest_for(ticket, request);
        let (outcomes, lead, mut cost) =
            instance::call_many(&self.0.engine, together, arguments, guest, &control, lead).await;
        let failed = match outcomes {
            Ok(outcomes) => {
                let mut checked = Vec::with_capacity(outcomes.len());
                for outcome in outcomes {
                    checked.push(match outcome {
                        Ok(result) => self.check_result(tool, &control, result, &mut cost).await,
                        Err(error) => Err(error),
                    });
                }
                let cost = share(cost, calls);
                tool.service.weight.note(cost.processor_time);
                let mut checked = checked.into_iter();
                let own = checked.next().unwrap_or(Err(CallError::Cancelled));
                lead.into_iter().for_each(|mut lead| lead.serve(checked.by_ref(), cost));
                return (own, cost);
            }
            Err(error) => error,
        };
        // The others stand in line again when the lead is dropped, where only this call has ended.
        let is_own =
            matches!(failed, CallError::Cancelled | CallError::BudgetExceeded { budget: Budget::Deadline, .. });
        if is_own {
            return (Err(failed), cost);
        }
        // Which of them is at fault, each alone tells.
        lead.into_iter().for_each(|mut lead| lead.part());
        let (result, own) = self.run_alone(ticket, call, deadline, None).await;
        let processor_time = own.processor_time.saturating_add(cost.processor_time);
        (result.map_err(CallError::after_effects), Cost { processor_time, ..own })
    }
}

/// The calls of one tool that are served together.
#[derive(Debug)]
pub(super) struct Batches {
    /// What serves them.
    export: BatchExport,
    /// By caller, as far as it has calls.
    lines: Mutex<HashMap<CallerKey, CallerLine>>,
    next: AtomicU64,
}

/// Whose calls may come together: those of one principal; in the legacy era, of one session of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CallerKey {
    principal: Principal,
    /// The address of the session, which lives as long as a call of it.
    session: Option<usize>,
}

impl CallerKey {
    fn of(request: &Request) -> Self {
        let session = request.session.as_ref().map(|session| Arc::as_ptr(session.life()).addr());
        Self { principal: request.principal.clone(), session }
    }
}

/// A caller's calls.
#[derive(Debug, Default)]
struct CallerLine {
    running: usize,
    waiting: VecDeque<WaitingCall>,
}

/// A call that waits for its turn, or for its outcome.
#[derive(Debug)]
struct WaitingCall {
    number: u64,
    arguments: String,
    until: Instant,
    /// Whether a guest had its arguments.
    may_have_run: bool,
    turn: oneshot::Sender<LineTurn>,
    /// Of the arguments.
    _memory: Reservation,
}

/// What becomes of a call.
#[derive(Debug)]
enum LineTurn {
    /// It runs, and takes others along.
    Lead(Lead),
    /// Another call took it along, and this is its outcome.
    Served(Result<ToolResult, CallError>, Cost),
    /// The line is full, or the guest that served it failed: it runs alone.
    Alone {
        /// Whether a guest had its arguments.
        may_have_run: bool,
    },
}

/// Whose a call in line is, and how long it waits.
struct OwnPlace<'a> {
    /// The caller.
    caller: &'a CallerKey,
    /// When its time is over.
    until: Instant,
    /// Fires when its client gives up.
    cancel: &'a CancellationToken,
}

/// The right of a call to run, and the calls that it takes along. Passes on to the next ones when it is dropped.
#[derive(Debug)]
struct Lead {
    /// None when the right is passed on.
    batches: Option<Arc<Batches>>,
    caller: CallerKey,
    others: Vec<WaitingCall>,
    /// Whether a guest had the arguments of the call that has the right.
    may_have_run: bool,
}

impl Batches {
    pub(super) fn new(export: BatchExport) -> Arc<Self> {
        Arc::new(Self { export, lines: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// Whether a request may come together with others of its caller: nobody must hear of its progress, and nothing hangs on it alone.
    pub(super) fn takes(request: &Request) -> bool {
        let is_of_client = request.depth == 0 && request.chain == 0 && request.hops == 0;
        let (log_level, wants_progress) = request.observer.wants();
        // The records of a session's calls go to that session, whichever of them makes them.
        let hears_alone = wants_progress || (log_level.is_some() && request.session.is_none());
        is_of_client && request.effect.is_none() && !hears_alone
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<CallerKey, CallerLine>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to run, where fewer than [`AT_ONCE`] of the caller's run.
    fn lead(self: &Arc<Self>, lines: &mut HashMap<CallerKey, CallerLine>, caller: &CallerKey) -> Option<Lead> {
        let line = lines.entry(caller.clone()).or_default();
        line.running = line.running.checked_add(1).filter(|running| *running <= AT_ONCE)?;
        let (batches, caller) = (Some(Arc::clone(self)), caller.clone());
        Some(Lead { batches, caller, others: Vec::new(), may_have_run: false })
    }

    /// Waits for a call's turn, or for its outcome by another call; none if its time is over or its client gave up.
    /// `arguments` are JSON, and have their memory; none where none is left.
    async fn turn(
        self: &Arc<Self>,
        OwnPlace { caller, until, cancel }: OwnPlace<'_>,
        arguments: impl FnOnce() -> Option<(String, Reservation)> + Send,
    ) -> Option<LineTurn> {
        if let Some(lead) = self.lead(&mut self.lines(), caller) {
            return Some(LineTurn::Lead(lead));
        }
        let Some((arguments, memory)) = arguments() else { return Some(LineTurn::Alone { may_have_run: false }) };
        let (turn, mut place) = {
            let mut lines = self.lines();
            if let Some(lead) = self.lead(&mut lines, caller) {
                return Some(LineTurn::Lead(lead));
            }
            let line = lines.entry(caller.clone()).or_default();
            if line.waiting.len() >= MOST_IN_LINE {
                return Some(LineTurn::Alone { may_have_run: false });
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let (sender, turn) = oneshot::channel();
            let call = WaitingCall { number, arguments, until, may_have_run: false, turn: sender, _memory: memory };
            line.waiting.push_back(call);
            (turn, Place { batches: self, caller, number: Some(number) })
        };
        tokio::select! {
            biased;
            turn = turn => {
                place.number = None;
                Some(turn.unwrap_or(LineTurn::Alone { may_have_run: true }))
            }
            () = cancel.cancelled() => None,
            () = tokio::time::sleep_until(until) => None,
        }
    }

    /// The next calls of a caller to run: the one with the most time left, and those that it takes along. If there are none, somebody's run is over.
    fn next(&self, caller: &CallerKey) -> Option<(WaitingCall, Vec<WaitingCall>)> {
        let mut lines = self.lines();
        let line = lines.get_mut(caller)?;
        let (mut taken, mut bytes) = (Vec::new(), 0_usize);
        while let Some(next) = line.waiting.front()
            && taken.len() < MOST_CALLS
        {
            bytes = bytes.saturating_add(next.arguments.len());
            if bytes > MOST_BYTES && !taken.is_empty() {
                break;
            }
            // Whoever has gone is not run.
            taken.extend(line.waiting.pop_front().filter(|next| !next.turn.is_closed()));
        }
        let most_time = taken.iter().enumerate().max_by_key(|(_, call)| call.until).map(|(number, _)| number);
        let Some(leads) = most_time else {
            line.running = line.running.saturating_sub(1);
            if line.running == 0 {
                lines.remove(caller);
            }
            return None;
        };
        Some((taken.remove(leads), taken))
    }

    /// Gives the right to run to a caller's next call that is still there.
    fn pass_on(self: Arc<Self>, caller: CallerKey) {
        while let Some((first, others)) = self.next(&caller) {
            let may_have_run = first.may_have_run;
            let lead = Lead { batches: Some(Arc::clone(&self)), caller: caller.clone(), others, may_have_run };
            let Err(LineTurn::Lead(mut unused)) = first.turn.send(LineTurn::Lead(lead)) else { return };
            // It has just gone, and the right is still here.
            unused.batches = None;
            self.put_back(&caller, std::mem::take(&mut unused.others));
        }
    }

    /// Lets calls stand at the front of their line again.
    fn put_back(&self, caller: &CallerKey, calls: Vec<WaitingCall>) {
        let mut lines = self.lines();
        let line = lines.entry(caller.clone()).or_default();
        calls.into_iter().rev().for_each(|call| line.waiting.push_front(call));
    }
}

impl Lead {
    /// Whether it takes others along.
    fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// The arguments of the call that leads, and of those of the others that are still there, for a guest.
    fn arguments(&mut self, own: String) -> Vec<String> {
        self.others.retain(|other| !other.turn.is_closed());
        self.others.iter_mut().for_each(|other| other.may_have_run = true);
        std::iter::once(own).chain(self.others.iter().map(|other| other.arguments.clone())).collect()
    }

    /// Gives each of the others its outcome.
    fn serve(&mut self, outcomes: impl IntoIterator<Item = Result<ToolResult, CallError>>, cost: Cost) {
        for (other, outcome) in self.others.drain(..).zip(outcomes) {
            let _asker_may_be_gone = other.turn.send(LineTurn::Served(outcome, cost));
        }
    }

    /// The guest failed: which of the calls is at fault, each alone tells.
    fn part(&mut self) {
        for other in self.others.drain(..) {
            let _asker_may_be_gone = other.turn.send(LineTurn::Alone { may_have_run: true });
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(batches) = self.batches.take() {
            batches.put_back(&self.caller, std::mem::take(&mut self.others));
            batches.pass_on(self.caller.clone());
        }
    }
}

/// The outcome of a call that a guest may have begun before: no error says that it has not run.
fn told_of(result: Result<ToolResult, CallError>, may_have_run: bool) -> Result<ToolResult, CallError> {
    if may_have_run { result.map_err(CallError::after_effects) } else { result }
}

/// What each of `calls` calls counts of what they cost together.
fn share(cost: Cost, calls: usize) -> Cost {
    let calls = u64::try_from(calls).unwrap_or(u64::MAX).max(1);
    let part = |whole: u64| whole.div_ceil(calls);
    let nanoseconds = u64::try_from(cost.processor_time.as_nanos()).unwrap_or(u64::MAX);
    Cost {
        memory_bytes: cost.memory_bytes,
        host_calls: part(cost.host_calls),
        processor_time: Duration::from_nanos(part(nanoseconds)),
        store_ops: part(cost.store_ops),
        store_bytes: part(cost.store_bytes),
        file_bytes: part(cost.file_bytes),
        http_requests: part(cost.http_requests),
        http_bytes: part(cost.http_bytes),
        fuel: cost.fuel.map(part),
    }
}

/// A call's place in its line, which it leaves when its client goes away.
struct Place<'a> {
    batches: &'a Batches,
    caller: &'a CallerKey,
    number: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number.take() else { return };
        if let Some(line) = self.batches.lines().get_mut(self.caller) {
            line.waiting.retain(|waiting| waiting.number != number);
        }
    }
}
