//! Events of components, for the steps that wait for them.
//!
//! An event counts for a step if it was emitted no sooner than the step began to wait. As many steps as a transaction has room for have it at once, a timer brings it to the others.
//! A repeated delivery changes nothing.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mcpp_tool::{
    environment::now_ms as clock_ms,
    events::{Event, covers, once, subscribed},
    store::{StoreError, Transaction, View, transact},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{MAX_HOPS, Origin, WorkflowError, job::failed, task, upkeep::change, work::work};
use crate::{
    definition::EventWanted,
    run::{Number, Run},
    scheduler::{self, Outcome},
    store::{CLAIMS, FULL_BYTES, HEARD, LISTENING, stored_run},
};

/// This component's own topic that tells of the ends of runs: its steps have it without a delivery.
const OWN: &str = "workflow/run";
/// Steps that one transaction brings an event to.
const HEARERS: usize = 16;

/// An event as the steps get it that waited for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// `<component>/<name>`.
    pub topic: String,
    /// Its key.
    pub key: String,
    /// Its payload: JSON if it is, else a text if it is UTF-8, else base64.
    pub payload: Value,
    /// Which of the three the payload is: `json`, `text` or `base64`.
    pub encoding: String,
    /// When it was emitted, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// Its id.
    pub id: String,
}

impl Heard {
    fn of(event: &Event) -> Self {
        let (encoding, payload) = match (serde_json::from_slice(&event.payload), std::str::from_utf8(&event.payload)) {
            (Ok(value), _) => ("json", value),
            (Err(_), Ok(text)) => ("text", Value::from(text)),
            (Err(_), Err(_)) => ("base64", Value::from(STANDARD.encode(&event.payload))),
        };
        Self {
            topic: event.topic.clone(),
            key: event.key.clone(),
            payload,
            encoding: encoding.to_owned(),
            time_ms: event.time_ms,
            id: event.id.clone(),
        }
    }

    /// The end of a run, which has no time and no id yet.
    fn of_end(run: &Run) -> Self {
        Self {
            topic: OWN.to_owned(),
            key: run.id.clone(),
            payload: json!({ "workflow_id": run.id, "status": run.status(), "name": run.name }),
            encoding: "json".to_owned(),
            time_ms: 0,
            id: String::new(),
        }
    }

    /// The next step that waits for it.
    fn next_hearer(&self, t: &View<'_>) -> Result<Option<(String, Number)>, StoreError> {
        for (is_any, key) in [(false, &*self.key), (true, "")] {
            // Who waits for the end of a run does so before that: one that has ended is not waited for. So the clock is not asked.
            let is_own_end = self.topic == OWN && !is_any;
            let until = if is_own_end { u64::MAX } else { self.time_ms.saturating_add(1) };
            let waiting = LISTENING.of(&(&*self.topic, is_any, key)).below(&(until,));
            if let Some((_, run, number)) = waiting.first(t)? {
                return Ok(Some((run, number)));
            }
        }
        Ok(None)
    }
}

/// Whether the operator lets this component hear of a topic.
pub fn is_told(topic: &str) -> bool {
    topic == OWN || covers(&subscribed(), topic)
}

/// Why a step cannot wait for an event, if it cannot: nobody would ever tell this component of it.
pub fn refusal(event: &EventWanted) -> Option<String> {
    let topic = &event.topic;
    (!is_told(topic)).then(|| {
        format!(
            "the workflow component is not told of `{topic}`; to grant it, run `mcpp grant workflow 'subscribe = [\"{topic}\"]'`"
        )
    })
}

/// An event of another component has come.
///
/// # Errors
/// Those of the store: the host delivers it again then.
pub fn hear(event: &Event) -> Result<(), WorkflowError> {
    let heard = Heard::of(event);
    let has_task = task::has_ended(&event.topic, &event.key)?;
    // In a transaction, for those run one after another: a step whose wait is being written down is either seen here, or began to wait after the event.
    let (is_awaited, has_node) =
        transact(|t| Ok::<_, WorkflowError>((heard.next_hearer(t)?.is_some(), CLAIMS.get(t, &event.id)?.is_some())))?;
    if is_awaited {
        once(&event.id, event.time_ms, |t| {
            HEARD.set(t, &event.id, &heard)?;
            tell(t, &event.id, clock_ms()).map(drop)
        })?;
    }
    // A timer takes over from here: nobody knows where in a chain of events this one stands. A delivery that comes again, after the host was killed, may have a node.
    if is_awaited || has_task || has_node { work(&event.id, MAX_HOPS) } else { Ok(()) }
}

/// Brings an event to the next steps that waited for it; whether some are left, to whom the timer brings it.
pub(super) fn tell(t: &Transaction<'_>, id: &str, now_ms: u64) -> Result<bool, WorkflowError> {
    let Some(heard) = HEARD.get(t, id)? else { return Ok(false) };
    let value = serde_json::to_value(&heard).map_err(|_| StoreError::Unreadable)?;
    // What begins to wait by that does so behind the event.
    let now_ms = now_ms.max(heard.time_ms.saturating_add(1));
    for _ in 0..HEARERS {
        let Some((run, number)) = heard.next_hearer(t)? else {
            HEARD.remove(t, id)?;
            return Ok(false);
        };
        change(t, &run, Origin::Unknown, now_ms, |run, nodes| {
            Ok(scheduler::hear(run, nodes, number, &value, now_ms)?)
        })?;
        if t.spent().written_bytes >= FULL_BYTES {
            break;
        }
    }
    t.wake_at(&format!("e:{id}"), now_ms, b"")?;
    Ok(true)
}

/// What becomes of a step that is to wait for the end of a run, where that is known already: the run has ended, or is the step's own.
pub(super) fn known_end(t: &View<'_>, own: &str, outcome: &Outcome) -> Result<Option<Outcome>, StoreError> {
    let Outcome::Listens { event: EventWanted { topic, key: Some(id) }, .. } = outcome else { return Ok(None) };
    if topic != OWN {
        return Ok(None);
    }
    if id == own {
        return Ok(Some(failed("a run cannot wait for its own end")));
    }
    let Some(run) = stored_run(t, id)? else { return Ok(None) };
    let Some(ended_ms) = run.ended_ms.filter(|_| run.phase.is_final()) else { return Ok(None) };
    let heard = Heard { time_ms: ended_ms, ..Heard::of_end(&run) };
    let mut value = serde_json::to_value(heard).map_err(|_| StoreError::Unreadable)?;
    // The event itself was delivered long ago.
    if let Value::Object(fields) = &mut value {
        fields.insert("id".to_owned(), Value::Null);
    }
    Ok(Some(Outcome::Completed(value)))
}

/// Emits the event of a run's end, and brings it to the steps that wait for it.
pub(super) fn emit_end(t: &Transaction<'_>, run: &Run, now_ms: u64) -> Result<(), StoreError> {
    let heard = Heard { time_ms: now_ms, ..Heard::of_end(run) };
    let id = t.emit("run", &run.id, heard.payload.to_string().as_bytes())?;
    let heard = Heard { id, ..heard };
    if heard.next_hearer(t)?.is_some() {
        HEARD.set(t, &heard.id, &heard)?;
        t.wake_at(&format!("e:{}", heard.id), now_ms, b"")?;
    }
    Ok(())
}
