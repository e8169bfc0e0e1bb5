//! Stored records of events and timers, and their keys.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{
    names::ComponentName,
    store::{Section, StoreError, Unavailable},
};

/// Bytes of a payload.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;
/// Bytes of an event's or a timer's key.
pub const MAX_KEY_BYTES: usize = 256;

/// Events in a chain, each emitted by the handler of the one before. The host takes a longer chain for a loop and parks its last event.
/// Workflows of ten steps that notify each other by events are usual.
pub const MAX_CHAIN: u32 = 16;
/// A timer that the handler of an event or timer sets is due no sooner than this, in milliseconds: a component that wakes itself again and again does so ten times a second
/// for each of its keys.
pub const LEAST_WAKE_MS: u64 = 100;

/// One event or timer, as it is stored and delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Unique in the tenant.
    pub id: String,
    /// Event or timer.
    pub kind: Kind,
    /// Ordering key of the event, or name of the timer.
    pub key: String,
    /// Contents of the message.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub payload: Bytes,
    /// When it was emitted, or is due, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// Action that wrote it.
    pub cause: String,
    /// The trace that it continues.
    pub traceparent: String,
    /// Events that led to it, each emitted by the handler of the one before. A timer begins a new chain.
    #[serde(default, skip_serializing_if = "is_first")]
    pub chain: u32,
    /// Attempts that failed.
    pub attempts: u32,
    /// Time of the next attempt, in milliseconds since 1970-01-01 UTC.
    pub next_ms: u64,
}

/// Kind of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An event on a topic, `<component>/<name>`.
    Event {
        /// The topic.
        topic: String,
    },
    /// A timer.
    Timer,
}

impl Delivery {
    /// Whether its chain of events is longer than [`MAX_CHAIN`].
    pub fn is_of_a_loop(&self) -> bool {
        self.chain > MAX_CHAIN
    }

    /// The length of the chain for events that its handler emits.
    pub fn next_in_chain(&self) -> u32 {
        self.chain.saturating_add(1)
    }

    /// Name of this delivery as the cause of its handler's actions.
    pub fn as_cause(&self) -> String {
        match self.kind {
            Kind::Event { .. } => format!("event {}", self.id),
            Kind::Timer => format!("timer {}", self.id),
        }
    }
}

/// The host omits a chain of 0, so that records of clients and timers have the form from before chains were counted.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_first(chain: &u32) -> bool {
    *chain == 0
}

fn to_base64<S: Serializer>(payload: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(payload))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64_STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
}

/// A record as it is stored.
pub fn encode(record: &impl Serialize) -> Bytes {
    // These records have no maps with keys that are not text, so there is nothing that could fail.
    serde_json::to_vec(record).unwrap_or_default().into()
}

/// Decodes a stored record. An unreadable record is damage, and the host never skips it in silence.
pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value)
        .map_err(|source| Unavailable::Corrupt { path: "an event record".into(), source: source.into() }.into())
}

/// The part of a stored delivery that says when its next attempt is.
#[derive(Deserialize)]
struct StoredAttempt {
    next_ms: u64,
}

/// The part of a stored delivery that tells it from others.
#[derive(Deserialize)]
struct StoredId {
    id: String,
}

/// When the next attempt of a stored delivery is. Neither copies nor decodes the payload.
pub fn next_attempt_of(value: &[u8]) -> Result<u64, StoreError> {
    const NAME: &[u8] = b",\"next_ms\":";
    // It is the record's last member. Within a text JSON would escape the quotes of its name.
    let at = value.iter().rposition(|byte| *byte == b',');
    let last = at.and_then(|at| value.get(at..)?.strip_prefix(NAME)?.strip_suffix(b"}"));
    match last.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()) {
        Some(next_ms) => Ok(next_ms),
        None => decode::<StoredAttempt>(value).map(|stored| stored.next_ms),
    }
}

/// The id of a stored delivery, without its payload.
pub fn id_of(value: &[u8]) -> Result<String, StoreError> {
    decode::<StoredId>(value).map(|stored| stored.id)
}

/// `subscriber NUL topic NUL length key`: all events of one subscriber, topic and key, which are delivered one by one.
pub fn group(subscriber: &ComponentName, topic: &str, key: &str) -> Vec<u8> {
    let mut group = subscriber_prefix(subscriber);
    group.extend_from_slice(topic.as_bytes());
    group.push(0);
    group.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
    group.extend_from_slice(key.as_bytes());
    group
}

/// All events of one subscriber.
pub fn subscriber_prefix(subscriber: &ComponentName) -> Vec<u8> {
    let mut prefix = subscriber.as_str().as_bytes().to_vec();
    prefix.push(0);
    prefix
}

/// Length of what follows a group in a delivery's key: sequence and index.
const ORDER_BYTES: usize = 12;

/// The key of an event: its group, then its place in the order of the commits.
pub fn delivery_key(group: &[u8], sequence: u64, index: u32) -> Bytes {
    let mut key = group.to_vec();
    key.extend_from_slice(&sequence.to_be_bytes());
    key.extend_from_slice(&index.to_be_bytes());
    Section::Deliveries.key(&key)
}

/// The group (with its section) and the subscriber of a delivery's key.
pub fn group_of(key: &Bytes) -> Option<(Bytes, ComponentName)> {
    let group = key.slice(..key.len().checked_sub(ORDER_BYTES)?);
    let end = group.iter().position(|byte| *byte == 0)?;
    let subscriber = std::str::from_utf8(group.get(1..end)?).ok()?;
    Some((group.clone(), ComponentName::new(subscriber).ok()?))
}

/// The key of a timer.
pub fn timer_key(key: &str) -> Bytes {
    Section::Timers.key(key.as_bytes())
}

/// The key by which a timer is found when it is due.
pub fn due_key(at_ms: u64, key: &str) -> Bytes {
    let mut due = at_ms.to_be_bytes().to_vec();
    due.extend_from_slice(key.as_bytes());
    Section::Due.key(&due)
}

/// When a timer is due, and its key, from the key by which it was found.
pub fn parse_due_key(key: &[u8]) -> Option<(u64, &str)> {
    let (at_ms, key) = key.get(1..)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*at_ms), std::str::from_utf8(key).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ComponentName {
        ComponentName::new(name).expect("legal")
    }

    #[test]
    fn a_record_from_before_chains_were_counted_is_read() {
        let old = r#"{"id":"a/1-0","kind":{"event":{"topic":"a/t"}},"key":"k","payload":"aGk=","time_ms":1,"cause":"c","traceparent":"t","attempts":2,"next_ms":3}"#;
        let read: Delivery = decode(old.as_bytes()).expect("an old record");
        assert_eq!((read.chain, read.attempts, &*read.payload), (0, 2, &b"hi"[..]));
        assert_eq!(&*encode(&read), old.as_bytes(), "what begins a chain is stored as ever");
        assert_eq!(
            (next_attempt_of(old.as_bytes()).expect("a time"), &*id_of(old.as_bytes()).expect("an id")),
            (3, "a/1-0")
        );
        let last = Delivery { chain: MAX_CHAIN, ..read };
        assert_eq!(decode::<Delivery>(&encode(&last)).expect("a record"), last);
        assert!(!last.is_of_a_loop() && Delivery { chain: last.next_in_chain(), ..last }.is_of_a_loop());
    }

    #[test]
    fn the_next_attempt_is_read_without_the_rest_and_no_text_of_a_guest_passes_for_it() {
        let forged = r#"x","next_ms":7}"#;
        let record = Delivery {
            id: forged.into(),
            kind: Kind::Event { topic: forged.into() },
            key: forged.into(),
            payload: Bytes::from_static(&[0xff; 100]),
            time_ms: 1,
            cause: forged.into(),
            traceparent: forged.into(),
            chain: 3,
            attempts: 2,
            next_ms: 1_234,
        };
        let stored = encode(&record);
        assert_eq!((next_attempt_of(&stored).expect("a time"), &*id_of(&stored).expect("an id")), (1_234, forged));
        // In another order, and not at all.
        assert_eq!(next_attempt_of(br#"{"next_ms": 9, "id": "a"}"#).expect("a time"), 9);
        assert!(next_attempt_of(br#"{"id":"a","key":"next_ms"}"#).is_err() && next_attempt_of(b"no JSON").is_err());
    }

    #[test]
    fn keys_keep_the_order_and_tell_groups_apart() {
        let key = |key: &str, sequence, index| delivery_key(&group(&name("b"), "a/t", key), sequence, index);
        let mut keys = [key("k", 2, 0), key("k", 1, 300), key("kk", 1, 0), key("k", 1, 2), key("k\0", 1, 0)];
        keys.sort();
        assert_eq!(keys, [key("k", 1, 2), key("k", 1, 300), key("k", 2, 0), key("k\0", 1, 0), key("kk", 1, 0)]);
        let (found, subscriber) = group_of(&key("k\0", 1, 0)).expect("a group");
        assert_eq!((&*found, subscriber), (&*Section::Deliveries.key(&group(&name("b"), "a/t", "k\0")), name("b")));
        let due = due_key(77, "lease/ä");
        assert_eq!(parse_due_key(&due), Some((77, "lease/ä")));
    }
}
