//! A call that runs, with its events meanwhile, whoever waits for it. The guest never waits for the client: the host forwards the guest's events beside the call, and drops the
//! events that the client does not take.

mod asked;
mod later;

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Fuse, FusedFuture as _},
};
use rmcp::{
    RoleServer,
    model::{
        LoggingMessageNotification, LoggingMessageNotificationParam, ProgressNotification, ProgressNotificationParam,
        ProgressToken, ServerNotification,
    },
    service::Peer,
};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(super) use self::{asked::GuestQuestions, later::DeferredHandle};
use super::{
    convert, inputs,
    parked::RequestOutcome,
    tasks::{CallNews, plan::TaskPlan},
};
use crate::{
    call::{
        CallError, CallEvent, LogLevel, Receipt, ToolResult, WaitingEvent, event_dropped,
        inputs::{ClientLine, Round},
    },
    memory::Reservation,
};

/// After its call has ended a client has this long to take the events that wait; then it gets the answer without them.
const EVENTS_AFTER_CALL: Duration = Duration::from_secs(5);

/// The memory of an event's text. It goes with the notification through the engine's queues and caches, and is given back with the last copy.
#[derive(Debug, Clone)]
struct HeldText(#[expect(dead_code, reason = "kept for its drop")] Arc<Reservation>);

/// How a call ended, and what it cost.
pub(super) type CallOutcome = (Result<ToolResult, CallError>, Receipt);

/// A call that runs.
pub(super) type RunningCall = RunningRequest<CallOutcome>;

/// A request that runs in a guest, whatever it ends with.
pub(super) struct RunningRequest<O> {
    outcome: BoxFuture<'static, O>,
    events: CallEvents,
    cancel: CancellationToken,
    pub(super) asked: GuestQuestions,
    /// Whether the client asked what it cost.
    pub(super) wants_receipt: bool,
    /// What it hears while the call runs.
    hears: HeardEvents,
    /// What the call has said so far, if it may become a task.
    pub(super) news: CallNews,
    /// When it becomes a task.
    pub(super) plan: Option<TaskPlan>,
    /// By what its component knows its answer, if that comes later.
    pub(super) defers: DeferredHandle,
}

/// Events that the client of a call hears while it runs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeardEvents {
    /// The least level of log records.
    pub(super) log_level: Option<LogLevel>,
    /// Whether it hears of progress.
    pub(super) progress: bool,
}

impl HeardEvents {
    fn has(self, event: &CallEvent) -> bool {
        match event {
            CallEvent::Log { level, .. } => self.log_level.is_some_and(|least| *level >= least),
            CallEvent::Progress { .. } => self.progress,
        }
    }
}

/// What a call does before its end.
pub(super) enum CallStep {
    Said(WaitingEvent),
    Asks(Round),
    /// Its answer comes later; by what its component knows it.
    Defers(String),
}

/// How a guest's questions reach its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WayToAsk {
    /// As requests beside the call.
    ByRequest,
    /// In the answer to the call, which the client then repeats.
    InTheAnswer,
}

/// How far a call came.
pub(super) enum CallTurn<O = CallOutcome> {
    Ended(O),
    /// Its client has to reply first.
    Asks(Box<RunningRequest<O>>, Round),
    /// Its client waits no longer.
    GoesOn(Box<RunningRequest<O>>),
}

/// Why a client that waits for a call has something to do.
enum WaitOver<O> {
    Ended(O),
    Asks(Round),
    TooLong,
}

/// The events of a call before it ends.
#[derive(Debug, Default)]
pub(super) struct CallEvents {
    first: Option<WaitingEvent>,
    rest: Option<mpsc::Receiver<WaitingEvent>>,
}

impl CallEvents {
    /// Those that come through `rest`.
    pub(super) fn new(rest: mpsc::Receiver<WaitingEvent>) -> Self {
        Self { first: None, rest: Some(rest) }
    }

    async fn next(&mut self) -> Option<WaitingEvent> {
        match (self.first.take(), &mut self.rest) {
            (Some(first), _) => Some(first),
            (None, Some(rest)) => rest.recv().await,
            (None, None) => None,
        }
    }

    /// Whether there is one now.
    fn has_next(&mut self) -> bool {
        if self.first.is_none() {
            self.first = self.rest.as_mut().and_then(|rest| rest.try_recv().ok());
        }
        self.first.is_some()
    }
}

impl<O> std::fmt::Debug for RunningRequest<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningRequest").field("events", &self.events).finish_non_exhaustive()
    }
}

impl<O: RequestOutcome> RunningRequest<O> {
    /// A request that `cancel` stops.
    pub(super) fn new(
        outcome: BoxFuture<'static, O>,
        events: CallEvents,
        cancel: CancellationToken,
        asked: GuestQuestions,
        wants_receipt: bool,
        (hears, plan): (HeardEvents, Option<TaskPlan>),
    ) -> Self {
        Self {
            outcome,
            events,
            cancel,
            asked,
            wants_receipt,
            hears,
            news: CallNews::default(),
            plan,
            defers: DeferredHandle::default(),
        }
    }

    /// A request that `cancel` stops, and which says nothing beside its answer.
    pub(super) fn unheard(outcome: BoxFuture<'static, O>, cancel: CancellationToken, asked: GuestQuestions) -> Self {
        Self::new(outcome, CallEvents::default(), cancel, asked, false, (HeardEvents::default(), None))
    }

    /// The next thing that the call does; at last how it ended.
    pub(super) async fn step(&mut self) -> Result<CallStep, O> {
        let Self { outcome, events, asked, defers, .. } = self;
        tokio::select! {
            biased;
            Some(said) = events.next() => Ok(CallStep::Said(said)),
            round = asked.next() => Ok(CallStep::Asks(round)),
            handle = defers.next() => Ok(CallStep::Defers(handle)),
            ended = outcome => Err(ended),
        }
    }

    /// The guest's line to the client.
    pub(super) fn client(&self) -> &ClientLine {
        &self.asked.client
    }

    /// The round of questions for which [`RunningCall::end_in_silence`] ended.
    pub(super) fn take_round(&mut self) -> Option<Round> {
        self.asked.first.take()
    }

    /// Lets the call run in a task of its own, whoever waits for it, and tells when it has ended.
    pub(super) fn drive(&mut self, on_end: impl FnOnce() + Send + 'static) {
        if std::mem::replace(&mut self.asked.is_driven, true) {
            return;
        }
        let (told, told_of) = oneshot::channel();
        let outcome = std::mem::replace(&mut self.outcome, Box::pin(std::future::pending()));
        tokio::spawn(async move {
            let outcome = outcome.await;
            on_end();
            let _nobody_may_wait_for_it = told.send(outcome);
        });
        self.outcome = Box::pin(async move { told_of.await.unwrap_or_else(|_| O::cancelled()) });
    }

    /// What a task has of it: the token that stops it, and what it has said so far.
    pub(super) fn task_parts(&self) -> (CancellationToken, CallNews) {
        (self.cancel.clone(), self.news.clone())
    }

    /// The token that stops the call.
    pub(super) fn cancel_token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits until the call ends without having said anything, says something, or `patience` is over. `None` unless it has ended; then it is to be waited for in another way.
    pub(super) async fn end_in_silence(&mut self, patience: Option<Duration>) -> Option<O> {
        let Self { outcome, events, asked, .. } = self;
        let patience = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        let speaks = async {
            events.first = events.next().await;
            if events.first.is_none() {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            biased;
            ended = &mut *outcome => ended,
            () = speaks => return None,
            round = asked.next() => {
                asked.first = Some(round);
                return None;
            }
            () = patience => return None,
        };
        if !self.events.has_next() {
            return Some(ended);
        }
        self.outcome = Box::pin(std::future::ready(ended));
        None
    }

    /// Runs it to its end without a listener.
    pub(super) async fn run_unheard(self) {
        drop(self.outcome.await);
    }

    /// Runs the call to its end, until its client has to reply, or until it waits no longer, and forwards its events meanwhile. Events before that go before the answer, as long as the client takes them.
    /// The call is stopped when `ct` fires, and when nobody waits for it any more.
    pub(super) async fn forward(
        mut self,
        peer: &Peer<RoleServer>,
        token: Option<&ProgressToken>,
        ct: &CancellationToken,
        (way, until): (WayToAsk, Option<Instant>),
    ) -> CallTurn<O> {
        let cancel = self.cancel.clone();
        let stop_guest = cancel.clone().drop_guard();
        let turn = {
            let mut attending = std::pin::pin!(self.attend(peer, token, way, until));
            let attended = tokio::select! {
                biased;
                attended = &mut attending => attended,
                () = ct.cancelled() => {
                    cancel.cancel();
                    attending.await
                }
            };
            match attended {
                WaitOver::Ended(outcome) => return CallTurn::Ended(outcome),
                WaitOver::Asks(round) => Some(round),
                WaitOver::TooLong => None,
            }
        };
        drop(stop_guest.disarm());
        match turn {
            Some(round) => CallTurn::Asks(Box::new(self), round),
            None => CallTurn::GoesOn(Box::new(self)),
        }
    }

    /// The outcome, or the questions that come before it.
    async fn attend(
        &mut self,
        peer: &Peer<RoleServer>,
        token: Option<&ProgressToken>,
        way: WayToAsk,
        until: Option<Instant>,
    ) -> WaitOver<O> {
        let Self { outcome, events, asked, hears, news, plan, .. } = self;
        let over = CancellationToken::new();
        let mut forwarding =
            std::pin::pin!(forward_all((events, *hears, plan.is_some().then_some(news)), &over, peer, token).fuse());
        let mut too_long = std::pin::pin!(async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        });
        let mut asking = std::pin::pin!(Fuse::terminated());
        let result = loop {
            tokio::select! {
                biased;
                () = &mut forwarding, if !forwarding.is_terminated() => {}
                () = &mut asking, if !asking.is_terminated() => {}
                result = &mut *outcome => break WaitOver::Ended(result),
                // Its client is asked for as long as it thinks.
                () = &mut too_long, if asking.is_terminated() => return WaitOver::TooLong,
                round = asked.next() => match way {
                    WayToAsk::ByRequest => asking.set(inputs::ask(peer, round).fuse()),
                    WayToAsk::InTheAnswer => break WaitOver::Asks(round),
                },
            }
        };
        over.cancel();
        if !forwarding.is_terminated() && tokio::time::timeout(EVENTS_AFTER_CALL, forwarding).await.is_err() {
            event_dropped("slow");
        }
        result
    }
}

/// Forwards events until the call is `over` and none waits any more.
async fn forward_all(
    (events, hears, mut news): (&mut CallEvents, HeardEvents, Option<&mut CallNews>),
    over: &CancellationToken,
    peer: &Peer<RoleServer>,
    token: Option<&ProgressToken>,
) {
    loop {
        let waiting = tokio::select! {
            biased;
            waiting = events.next() => waiting,
            () = over.cancelled() => None,
        };
        let Some(WaitingEvent { event, memory }) = waiting else { return };
        if let Some(news) = &mut news {
            news.note(&event);
        }
        if !hears.has(&event) {
            continue;
        }
        let Some(notification) = notification(event, memory, token) else { continue };
        if peer.send_notification(notification).await.is_err() {
            event_dropped("gone");
        }
    }
}

fn notification(event: CallEvent, memory: Reservation, token: Option<&ProgressToken>) -> Option<ServerNotification> {
    let held = HeldText(Arc::new(memory));
    Some(match event {
        CallEvent::Log { level, component, message } => {
            let mut params = LoggingMessageNotificationParam::new(convert::level(level), Value::String(message));
            params.logger = Some(component);
            let mut notification = LoggingMessageNotification::new(params);
            notification.extensions.insert(held);
            ServerNotification::LoggingMessageNotification(notification)
        }
        CallEvent::Progress { done, total, message } => {
            let mut params = ProgressNotificationParam::new(token?.clone(), done);
            params.total = total;
            params.message = message;
            let mut notification = ProgressNotification::new(params);
            notification.extensions.insert(held);
            ServerNotification::ProgressNotification(notification)
        }
    })
}
