//! A call's log records and progress, on their way to its client. The guest never waits for the client: events are forwarded beside it, and one that the client does not take is dropped.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::FusedFuture as _};
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

use crate::{
    call::{CallEvent, WaitingEvent, event_dropped},
    mcp::convert,
    memory::Reservation,
};

/// After its call has ended a client has this long to take the events that wait; then it gets the answer without them.
const EVENTS_AFTER_CALL: Duration = Duration::from_secs(5);

/// The memory of an event's text. It goes with the notification through the engine's queues and caches, and is given back with the last copy.
#[derive(Debug, Clone)]
struct Held(#[expect(dead_code, reason = "kept for its drop")] Arc<Reservation>);

/// Runs `call` to its end and forwards its `events` meanwhile. What the call said before it ended goes before the answer, as long as the client takes it.
pub(super) async fn forward_while<T>(
    call: impl Future<Output = T>,
    events: mpsc::Receiver<WaitingEvent>,
    peer: &Peer<RoleServer>,
    token: Option<&ProgressToken>,
) -> T {
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
    mut events: mpsc::Receiver<WaitingEvent>,
    over: &CancellationToken,
    peer: &Peer<RoleServer>,
    token: Option<&ProgressToken>,
) {
    loop {
        let waiting = tokio::select! {
            biased;
            waiting = events.recv() => waiting,
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
    let held = Held(Arc::new(memory));
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
