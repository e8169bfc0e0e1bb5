//! A component's handler of events and timers: its subscriptions, and the delivery to it.

use std::sync::Arc;

use wasmtime::component::InstancePre;

use super::{
    instance::{Failure, run},
    new_store,
};
use crate::{
    call::CallError,
    capability::{
        bindings::handler::{HandlingPre, exports::mcpp::events::handler as wit},
        state::{Running, State},
    },
    control::Control,
    engine::Engine,
    events::record::{Delivery, Kind},
};

/// The interface by which the host knows a handler, without its version.
pub(super) const INTERFACE: &str = "mcpp:events/handler";

/// A linked component that has a handler.
#[derive(Clone)]
pub struct Handler(HandlingPre<State>);

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").finish_non_exhaustive()
    }
}

impl Handler {
    pub(super) fn new(linked: InstancePre<State>) -> wasmtime::Result<Self> {
        HandlingPre::new(linked).map(Self)
    }

    /// Asks for the topics to which the component subscribes.
    pub(super) async fn subscriptions(
        &self,
        engine: &Engine,
        component: &Arc<str>,
        control: Arc<Control>,
    ) -> Result<Vec<String>, CallError> {
        let mut store = new_store(self.0.engine(), component, &control, None);
        let handler = self.0.clone();
        let guest = async move {
            let instance = handler.instantiate_async(&mut store).await?;
            Ok::<_, Failure>(instance.mcpp_events_handler().call_subscriptions(&mut store).await?)
        };
        run(engine, guest, control).await
    }

    /// Hands over one delivery in a fresh instance; the inner error is the handler's own.
    pub async fn deliver(
        &self,
        engine: &Engine,
        delivery: &Delivery,
        running: Box<Running>,
        control: Arc<Control>,
    ) -> Result<Result<(), String>, CallError> {
        let component = Arc::clone(&running.component);
        let mut store = new_store(self.0.engine(), &component, &control, Some(running));
        let (handler, delivery) = (self.0.clone(), delivery.clone());
        let guest = async move {
            let instance = handler.instantiate_async(&mut store).await?;
            let handler = instance.mcpp_events_handler();
            let attempt = delivery.attempts.saturating_add(1);
            let payload = delivery.payload.to_vec();
            let Delivery { id, kind, key, time_ms, cause, .. } = delivery;
            let answer = match kind {
                Kind::Event { topic } => {
                    let event = wit::Event { id, topic, key, payload, time_ms, cause, attempt };
                    handler.call_on_event(&mut store, &event).await?
                }
                Kind::Timer => {
                    let wake = wit::Wake { id, key, payload, due_ms: time_ms, cause, attempt };
                    handler.call_on_wake(&mut store, &wake).await?
                }
            };
            Ok::<_, Failure>(answer.map_err(|wit::HandlerError::Failed(reason)| reason))
        };
        let answer = run(engine, guest, Arc::clone(&control)).await?;
        Ok(answer.map_err(|reason| control.redactor().text(reason)))
    }
}
