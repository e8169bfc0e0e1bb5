//! Writing events and timers in a transaction.

use bytes::Bytes;

use super::{
    record::{Delivery, Kind, LEAST_WAKE_MS, decode, delivery_key, due_key, encode, group, timer_key},
    subscriptions::Subscriptions,
};
use crate::{
    limits::now_ms,
    names::Topic,
    store::{Space, StoreError, Transaction},
};

/// Writer of an event or timer, and its reason.
#[derive(Debug)]
pub struct EventOrigin<'a> {
    /// The space of the component that writes.
    pub space: &'a Space,
    /// Action of the component, such as `event ID`, in whose course it writes.
    pub cause: &'a str,
    /// Trace of that action.
    pub traceparent: String,
    /// Events that led to the action, each emitted by the handler of the one before; at least 1 where the host began it by itself.
    pub chain: u32,
}

/// Message of an event or a timer.
#[derive(Debug)]
pub struct Message {
    /// Ordering key of the event, or name of the timer.
    pub key: String,
    /// Contents of the message.
    pub payload: Bytes,
}

/// Emits an event to all present subscribers and returns its id. `index` numbers the messages of one transaction.
pub async fn emit(
    transaction: &mut dyn Transaction,
    origin: &EventOrigin<'_>,
    subscriptions: &Subscriptions,
    index: u32,
    topic: &Topic,
    message: Message,
) -> Result<String, StoreError> {
    let topic_name = topic.to_string();
    let sequence = transaction.order(format!("{topic_name}/{}", message.key).as_bytes()).await?;
    let id = id(origin, sequence, index);
    let subscribers = subscriptions.of(&origin.space.tenant, topic);
    if subscribers.is_empty() {
        return Ok(id);
    }
    let kind = Kind::Event { topic: topic_name.clone() };
    let now = now_ms();
    let record = encode(&delivery(origin, id.clone(), kind, &message, now, now));
    for subscriber in subscribers {
        let group = group(&subscriber, &topic_name, &message.key);
        transaction.set(delivery_key(&group, sequence, index), record.clone()).await?;
    }
    Ok(id)
}

/// Sets the timer of a key, in the place of an earlier one.
pub async fn wake_at(
    transaction: &mut dyn Transaction,
    origin: &EventOrigin<'_>,
    index: u32,
    at_ms: u64,
    message: Message,
) -> Result<(), StoreError> {
    cancel_wake(transaction, &message.key).await?;
    // The host limits the rate of a handler's own timers. A client's timer is due at the client's time.
    let soonest = if origin.chain > 0 { now_ms().saturating_add(LEAST_WAKE_MS) } else { 0 };
    let next_ms = at_ms.max(soonest);
    let id = id(origin, transaction.order(timer_key(&message.key).as_ref()).await?, index);
    let record = delivery(origin, id, Kind::Timer, &message, at_ms, next_ms);
    transaction.set(timer_key(&message.key), encode(&record)).await?;
    transaction.set(due_key(next_ms, &message.key), Bytes::new()).await
}

/// Removes the timer of a key; returns whether one existed.
pub async fn cancel_wake(transaction: &mut dyn Transaction, key: &str) -> Result<bool, StoreError> {
    let timer = timer_key(key);
    let Some(entry) = transaction.get(&timer).await? else { return Ok(false) };
    let record: Delivery = decode(&entry.value)?;
    transaction.delete(&due_key(record.next_ms, key)).await?;
    transaction.delete(&timer).await
}

fn id(origin: &EventOrigin<'_>, sequence: u64, index: u32) -> String {
    format!("{}/{sequence}-{index}", origin.space.component)
}

fn delivery(
    origin: &EventOrigin<'_>,
    id: String,
    kind: Kind,
    message: &Message,
    time_ms: u64,
    next_ms: u64,
) -> Delivery {
    // A timer begins a new chain. Otherwise a component that wakes itself now and then could do so only `MAX_CHAIN` times.
    let chain = if kind == Kind::Timer { 0 } else { origin.chain };
    Delivery {
        id,
        kind,
        key: message.key.clone(),
        payload: message.payload.clone(),
        time_ms,
        cause: origin.cause.to_owned(),
        traceparent: origin.traceparent.clone(),
        chain,
        attempts: 0,
        next_ms,
    }
}
