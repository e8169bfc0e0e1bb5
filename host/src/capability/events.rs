//! `mcpp:events/outbox`: events and timers, written in an open transaction.

use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use super::store::OpenTransaction;
use crate::{
    capability::{
        bindings::mcpp::events::outbox as wit,
        state::{Running, State},
    },
    control::Control,
    events::{
        outbox::{self, EventOrigin, Message},
        record::{MAX_KEY_BYTES, MAX_PAYLOAD_BYTES},
    },
    names::{ComponentName, Topic},
    store::{Space, StoreError},
};

type OutboxAnswer<T> = wasmtime::Result<Result<T, wit::OutboxError>>;

/// The part of an instance's state that the outbox sees.
pub struct OutboxView<'a> {
    /// The open transaction, by its handle.
    pub table: &'a mut ResourceTable,
    /// Controls of the call.
    pub control: &'a Control,
    /// The call; absent while the host only asks the component for its tools.
    pub running: Option<&'a Running>,
}

impl std::fmt::Debug for OutboxView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboxView").field("running", &self.running).finish_non_exhaustive()
    }
}

impl HasData for OutboxView<'static> {
    type Data<'a> = OutboxView<'a>;
}

/// Links the outbox.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wit::add_to_linker::<State, OutboxView<'static>>(linker, State::outbox)
}

impl From<StoreError> for wit::OutboxError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::QuotaExceeded { .. } => Self::QuotaExceeded,
            StoreError::TransactionTooLarge => Self::TransactionTooLarge,
            StoreError::TooLong => Self::TooLong,
            StoreError::Conflict | StoreError::OutcomeUnknown => Self::Conflict,
            StoreError::Unavailable(reason) => {
                tracing::error!(error = crate::error::chain(&*reason), "a component finds the store unavailable");
                Self::Unavailable
            }
        }
    }
}

/// Context that all events and timers of a call share.
struct Writing {
    space: Space,
    cause: Arc<str>,
    traceparent: String,
    chain: u32,
    subscriptions: Arc<crate::events::subscriptions::Subscriptions>,
}

impl Writing {
    /// The component's own topic of this name.
    fn topic(&self, name: &str) -> Result<Topic, wit::OutboxError> {
        let name = ComponentName::new(name).map_err(|_| wit::OutboxError::InvalidTopic)?;
        Ok(Topic { component: self.space.component.clone(), name })
    }

    fn origin(&self) -> EventOrigin<'_> {
        EventOrigin { space: &self.space, cause: &self.cause, traceparent: self.traceparent.clone(), chain: self.chain }
    }
}

fn message(key: String, payload: Vec<u8>) -> Result<Message, wit::OutboxError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(wit::OutboxError::InvalidKey);
    }
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(wit::OutboxError::PayloadTooLarge);
    }
    Ok(Message { key, payload: payload.into() })
}

impl OutboxView<'_> {
    fn writing(&self) -> Result<Writing, wit::OutboxError> {
        let running = self.running.ok_or(wit::OutboxError::Unavailable)?;
        let access = running.store.as_ref().ok_or(wit::OutboxError::Unavailable)?;
        Ok(Writing {
            space: access.space.clone(),
            cause: running.cause(),
            traceparent: running.trace.traceparent(),
            chain: running.chain,
            subscriptions: Arc::clone(&access.subscriptions),
        })
    }
}

impl wit::Host for OutboxView<'_> {
    async fn emit(
        &mut self,
        transaction: Resource<OpenTransaction>,
        topic: String,
        key: String,
        payload: Vec<u8>,
    ) -> OutboxAnswer<String> {
        self.control.charge_store_op(key.len().saturating_add(payload.len()))?;
        let (writing, message) = match (self.writing(), message(key, payload)) {
            (Ok(writing), Ok(message)) => (writing, message),
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
        };
        let topic = match writing.topic(&topic) {
            Ok(topic) => topic,
            Err(error) => return Ok(Err(error)),
        };
        let (table, control) = (&mut *self.table, self.control);
        let open = table.get_mut(&transaction)?;
        let index = open.next_index();
        let origin = writing.origin();
        let emitted = outbox::emit(&mut *open.transaction, &origin, &writing.subscriptions, index, &topic, message);
        Ok(control.wait_in_place(emitted).await?.map_err(wit::OutboxError::from))
    }

    async fn emit_many(
        &mut self,
        transaction: Resource<OpenTransaction>,
        messages: Vec<wit::Message>,
    ) -> OutboxAnswer<()> {
        let size = |message: &wit::Message| message.key.len().saturating_add(message.payload.len());
        self.control.charge_store_ops(messages.len(), messages.iter().map(size).sum())?;
        let writing = match self.writing() {
            Ok(writing) => writing,
            Err(error) => return Ok(Err(error)),
        };
        let legal = |wit::Message { topic, key, payload }| Ok((writing.topic(&topic)?, message(key, payload)?));
        let messages = match messages.into_iter().map(legal).collect::<Result<Vec<_>, _>>() {
            Ok(messages) => messages,
            Err(error) => return Ok(Err(error)),
        };
        let (table, control) = (&mut *self.table, self.control);
        let open = table.get_mut(&transaction)?;
        let origin = writing.origin();
        for (topic, message) in messages {
            // Where nobody hears of it, there is nothing to write.
            if !writing.subscriptions.has_any(&writing.space.tenant, &topic) {
                continue;
            }
            let index = open.next_index();
            let emitted = outbox::emit(&mut *open.transaction, &origin, &writing.subscriptions, index, &topic, message);
            if let Err(error) = control.wait_in_place(emitted).await? {
                return Ok(Err(error.into()));
            }
        }
        Ok(Ok(()))
    }

    async fn wake_at(
        &mut self,
        transaction: Resource<OpenTransaction>,
        key: String,
        at_ms: u64,
        payload: Vec<u8>,
    ) -> OutboxAnswer<()> {
        self.control.charge_store_op(key.len().saturating_add(payload.len()))?;
        let (writing, message) = match (self.writing(), message(key, payload)) {
            (Ok(writing), Ok(message)) => (writing, message),
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
        };
        let (table, control) = (&mut *self.table, self.control);
        let open = table.get_mut(&transaction)?;
        let index = open.next_index();
        let origin = writing.origin();
        let set = outbox::wake_at(&mut *open.transaction, &origin, index, at_ms, message);
        Ok(control.wait_in_place(set).await?.map_err(wit::OutboxError::from))
    }

    async fn cancel_wake(&mut self, transaction: Resource<OpenTransaction>, key: String) -> OutboxAnswer<bool> {
        self.control.charge_store_op(key.len())?;
        if key.len() > MAX_KEY_BYTES {
            return Ok(Err(wit::OutboxError::InvalidKey));
        }
        let (table, control) = (&mut *self.table, self.control);
        let open = table.get_mut(&transaction)?;
        let cancelled = control.wait_in_place(outbox::cancel_wake(&mut *open.transaction, &key)).await?;
        Ok(cancelled.map_err(wit::OutboxError::from))
    }

    async fn subscribed(&mut self) -> wasmtime::Result<Vec<String>> {
        let Some(access) = self.running.and_then(|running| running.store.as_ref()) else { return Ok(Vec::new()) };
        let topics: Vec<String> = access.subscriptions.by(&access.space).iter().map(ToString::to_string).collect();
        self.control.charge_store_op(topics.iter().map(String::len).sum())?;
        Ok(topics)
    }
}
