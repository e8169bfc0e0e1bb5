//! A call that runs, with its events meanwhile, whoever waits for it. The guest never waits for the client: the host forwards the guest's events beside the call, and drops the
//! events that the client does not take.

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{BoxFuture, FusedFuture as _},
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
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::convert;
use crate::{
    call::{CallError, CallEvent, Receipt, ToolResult, WaitingEvent, event_dropped},
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
pub(super) struct RunningCall {
    outcome: BoxFuture<'static, CallOutcome>,
    events: CallEvents,
    cancel: CancellationToken,
    /// Whether the client asked what it cost.
    pub(super) wants_receipt: bool,
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

impl std::fmt::Debug for RunningCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningCall").field("events", &self.events).finish_non_exhaustive()
    }
}

impl RunningCall {
    /// A call that `cancel` stops.
    pub(super) fn new(
        outcome: BoxFuture<'static, CallOutcome>,
        events: CallEvents,
        cancel: CancellationToken,
        wants_receipt: bool,
    ) -> Self {
        Self { outcome, events, cancel, wants_receipt }
    }

    /// The token that stops the call.
    pub(super) fn cancel_token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits until the call ends without having said anything, says something, or `patience` is over. `None` unless it has ended; then it is to be waited for in another way.
    pub(super) async fn end_in_silence(&mut self, patience: Option<Duration>) -> Option<CallOutcome> {
        let Self { outcome, events, .. } = self;
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

    /// Runs the call to its end and forwards its events meanwhile. Events before the end go before the answer, as long as the client takes them. The call is stopped when `ct`
    /// fires, and when nobody waits for it any more.
    pub(super) async fn forward(
        self,
        peer: &Peer<RoleServer>,
        token: Option<&ProgressToken>,
        ct: &CancellationToken,
    ) -> CallOutcome {
        let _stop_guest = self.cancel.clone().drop_guard();
        let mut forwarding = std::pin::pin!(forward_while(self.outcome, self.events, peer, token));
        tokio::select! {
            biased;
            outcome = &mut forwarding => outcome,
            () = ct.cancelled() => {
                self.cancel.cancel();
                forwarding.await
            }
        }
    }
}

async fn forward_while(
    call: impl Future<Output = CallOutcome>,
    events: CallEvents,
    peer: &Peer<RoleServer>,
    token: Option<&ProgressToken>,
) -> CallOutcome {
    let over = CancellationToken::new();
    let mut forwarding = std::pin::pin!(forward_all(events, &over, peer, token).fuse());
    let mut call = std::pin::pin!(call);
    let result = loop {
        tokio::select! {
            biased;
            () = &mut forwarding, if !forwarding.is_terminated() => {}
            result = &mut call => break result,
        }
    };
    over.cancel();
    if !forwarding.is_terminated() && tokio::time::timeout(EVENTS_AFTER_CALL, forwarding).await.is_err() {
        event_dropped("slow");
    }
    result
}

/// Forwards events until the call is `over` and none waits any more.
async fn forward_all(
    mut events: CallEvents,
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
